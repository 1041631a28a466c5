"""The words of `jova demo`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from .given_paths import check_name, check_output_folder, kind_of, renamed
from .model_info import INDEX, read_index
from .parser import NOTHING_WRITTEN, Parser
from .shipped import model_folder


WORK = "diffusers_jova.recipes.demo"
DESCRIPTION = """Show what a model does: a clip from a text, one from a text with its first frame, and a contact sheet.

    jova demo --output demo.mp4

writes `demo.mp4` and `demo_from_image.mp4`, enlarged for viewing, and the contact sheet `demo.png`, and checks that
picture and sound last as long as was asked for."""


def parse(argv: Sequence[str] | None = None) -> tuple[Parser, argparse.Namespace]:
    """Read the words, and refuse what is no model."""
    parser = Parser(kept, prog="jova demo", description=DESCRIPTION)
    parser.add_argument("--model", type=model_folder, default="jova-tiny", help="folder of a saved pipeline")
    parser.add_argument("--output", type=Path, default=Path("demo.mp4"), help="the clip from text; others lie beside")
    return parser, parser.parse_checked(argv, check)


def outputs(args: argparse.Namespace) -> list[Path]:
    """Files that the command writes: both clips and their sheet."""
    output: Path = args.output
    return [output, output.with_stem(f"{output.stem}_from_image"), output.with_suffix(".png")]


def kept(args: argparse.Namespace) -> str:
    """What an interrupted run leaves."""
    whole = [str(path) for path in outputs(args) if path.exists()]
    return f"{', '.join(whole)} {'is' if len(whole) == 1 else 'are'} there" if whole else NOTHING_WRITTEN


def check(args: argparse.Namespace) -> None:
    """Refuse what is no model, and a name that is no mp4."""
    if kind_of(args.model / INDEX) != "file":
        raise ValueError(
            f"`--model` must be the folder of a saved JoVAPipeline, got `{args.model}`; leave it out for jova-tiny"
        )
    read_index(args.model)
    if args.output.suffix.lower() != ".mp4":
        raise ValueError(f"`--output` must end in .mp4, got {args.output}; use {renamed(args.output, '.mp4')}")
    check_output_folder("--output", args.output.absolute().parent)
    for path in outputs(args):
        check_name("--output", path)
        if kind_of(path) == "folder":
            raise ValueError(f"`--output` must be a file that can be written, got the folder {path}; choose another")
