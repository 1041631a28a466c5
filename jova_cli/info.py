"""`jova info`: the words and the work, which only reads."""

import argparse
import json
from collections.abc import Sequence

from .clip_info import CLIP_SUFFIXES, read_provenance
from .model_clips import describe_clips
from .model_info import info_table, read_index
from .parser import Parser, one_line
from .shipped import model_folder


WORK = "jova_cli.info"


def parse(argv: Sequence[str] | None = None) -> tuple[Parser, argparse.Namespace]:
    """Read the words, and refuse what is no model."""
    parser = Parser(
        prog="jova info",
        description="Print the parts of a model and the longest clip that it makes, or how a clip was made.",
    )
    parser.add_argument(
        "model", type=model_folder, help="folder of a saved pipeline, or jova-tiny; or a clip that was generated"
    )
    return parser, parser.parse_checked(argv, check)


def check(args: argparse.Namespace) -> None:
    """Refuse a folder that holds no pipeline."""
    if not is_clip(args):
        read_index(args.model)


def is_clip(args: argparse.Namespace) -> bool:
    """Whether the words name a clip in place of a model."""
    return args.model.suffix.lower() in CLIP_SUFFIXES and not args.model.is_dir()


def execute(parser: Parser, args: argparse.Namespace) -> None:
    """Print the table of the model, or the record of the clip."""
    try:
        table = "" if is_clip(args) else f"{info_table(args.model)}\n\n{describe_clips(args.model)}"
        print(table or json.dumps(read_provenance(args.model), indent=2))
    except (ValueError, OSError) as error:
        parser.error(one_line(error))
