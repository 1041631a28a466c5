"""`jova info`: the words and the work, which only reads."""

import argparse
from collections.abc import Sequence

from .model_clips import describe_clips
from .model_info import info_table, read_index
from .parser import Parser, one_line
from .shipped import model_folder


WORK = "jova_cli.info"


def parse(argv: Sequence[str] | None = None) -> tuple[Parser, argparse.Namespace]:
    """Read the words, and refuse what is no model."""
    description = "Print the parts of a model, the clips it makes, and the longest that it can."
    parser = Parser(prog="jova info", description=description)
    parser.add_argument("model", type=model_folder, help="folder of a saved pipeline, or jova-tiny")
    return parser, parser.parse_checked(argv, check)


def check(args: argparse.Namespace) -> None:
    """Refuse a folder that holds no pipeline."""
    read_index(args.model)


def execute(parser: Parser, args: argparse.Namespace) -> None:
    """Print the table."""
    try:
        print(f"{info_table(args.model)}\n\n{describe_clips(args.model)}")
    except (ValueError, OSError) as error:
        parser.error(one_line(error))
