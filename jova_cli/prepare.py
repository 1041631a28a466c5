"""The words of `jova prepare`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from .clip_arguments import add_clip_arguments, check_clip_arguments, check_data_set, count_files
from .number_options import check_count
from .parser import DTYPES, Parser, dtype_name


WORK = "diffusers_jova.training.prepare"
DESCRIPTION = """Prepare a data set: encode video, sound and text of every clip once, into one safetensors record each.

A rerun skips what is done. A broken or unsuitable clip is reported and left out. A record is complete or not there."""


def parse(argv: Sequence[str] | None = None) -> tuple[Parser, argparse.Namespace]:
    """Read the words, and refuse what cannot work."""
    parser = Parser(kept, prog="jova prepare", description=DESCRIPTION)
    add_clip_arguments(parser)
    parser.add_argument("output", type=Path, help="folder for the records; what is done there is not done again")
    parser.add_argument(
        "--dtype", type=dtype_name, choices=DTYPES, default="bfloat16", help="number format of the records"
    )
    parser.add_argument(
        "--keyframes",
        action="store_true",
        help="store single frames as pictures as well, which training on a last frame or on keyframes needs",
    )
    parser.add_argument("--device", help="for the encoders; a GPU of CUDA if there is one, else the CPU")
    parser.add_argument("--num-processes", type=int, default=1, help="processes (or Ray actors) to share the work")
    parser.add_argument("--ray", action="store_true", help="use a Ray cluster, or start a local one")
    return parser, parser.parse_checked(argv, check)


def kept(args: argparse.Namespace) -> str:
    """What an interrupted run leaves."""
    number = count_files(args.output, "*.safetensors")
    return f"the {number} records in `{args.output}` are complete and are kept, the same command makes the others"


def check(args: argparse.Namespace) -> None:
    """Refuse a folder or a number that cannot work before any work is done."""
    check_count("--num-processes", args.num_processes)
    check_clip_arguments(args)
    check_data_set(args, captions_required=args.whisper is None)
