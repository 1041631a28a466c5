"""The words of `jova preview`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from .clip_arguments import add_clip_arguments, check_clip_arguments, check_data_set, count_files
from .number_options import check_count
from .optional_packages import check_installed, of_extra
from .parser import Parser


WORK = "diffusers_jova.training.preview"
DESCRIPTION = """Show what training will see: the clips of a data set with mouth boxes and latent mouth masks.

With `--debug-mouth-mask`, each clip is also shown decoded from its latents, as they are and with the masked ones set
to zero (JoVA, arXiv:2512.13677v1, Appendix A): the mouth, and nothing but the mouth, must go."""


def parse(argv: Sequence[str] | None = None) -> tuple[Parser, argparse.Namespace]:
    """Read the words, and refuse what cannot work."""
    parser = Parser(kept, prog="jova preview", description=DESCRIPTION)
    add_arguments(parser)
    return parser, parser.parse_checked(argv, check)


def add_arguments(parser: Parser) -> None:
    """Add what is shown, and how."""
    add_clip_arguments(parser)
    parser.add_argument("output", type=Path, help="folder for the previews, one mp4 for each clip")
    parser.add_argument("--max-clips", type=int, default=8, help="how many clips to show, shared among the files")
    parser.add_argument("--debug-mouth-mask", action="store_true", help="also decode with the mouth latents zeroed")
    parser.add_argument(
        "--subtitles", action="store_true", help="burn in what is said, and write it as .srt where its times are known"
    )
    parser.add_argument("--device", help="for --debug-mouth-mask; a GPU of CUDA if there is one, else the CPU")


def kept(args: argparse.Namespace) -> str:
    """What an interrupted run leaves."""
    return f"the {count_files(args.output, '*.mp4')} previews in `{args.output}` are whole"


def check(args: argparse.Namespace) -> None:
    """Refuse a folder, clips or a number that cannot work before any work is done."""
    check_words(args)
    if args.subtitles:
        check_installed("--subtitles", "moviepy", of_extra("moviepy"))
    if args.source.is_dir() and args.output.resolve().is_relative_to(args.source.resolve()):
        raise ValueError(
            f"`output` must lie outside of `source`, whose clips the previews would become, got `{args.output}` in "
            f"`{args.source}`; choose a folder beside it"
        )
    check_data_set(args, captions_required=False)


def check_words(args: argparse.Namespace) -> None:
    """The same without the clips, for one that is no set."""
    check_count("--max-clips", args.max_clips)
    check_clip_arguments(args)
