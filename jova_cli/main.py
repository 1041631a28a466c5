"""The command `jova`: find the command, let it read its words, then import what does the work."""

import argparse
import importlib
import sys
from collections.abc import Sequence

from . import __version__
from .optional_packages import check_cluster
from .parser import Parser, one_line
from .progress import hide_bars_in_files, is_seen


COMMANDS = {  # command: its module here, what it does
    "generate": ("generate", "make a clip"),
    "evaluate": ("evaluate", "tell how good clips are, and compare two folders of them"),
    "estimate": ("estimate", "tell what a clip takes, before anything is loaded"),
    "app": ("app", "make clips on a page in the browser"),
    "demo": ("demo", "let jova-tiny speak, in two clips and a contact sheet"),
    "info": ("info", "show what a model consists of, or how a clip was made"),
    "prepare": ("prepare", "encode a data set once, for training"),
    "preview": ("preview", "show what prepared clips and their mouth masks look like"),
    "train-lora": ("train_lora", "train an adapter"),
    "distill": ("distill", "make a student of a model, for clips in a few steps"),
    "train": ("train", "train a transformer"),
    "presets": ("presets", "list the presets of training, or tell where one lies"),
    "assemble": ("assemble", "join components into a pipeline"),
    "convert": ("convert", "convert other people's weights"),
}


def build_parser() -> Parser:
    """Describe the commands; each reads its own words."""
    parser = Parser(prog="jova", description="Generate video with sound by JoVA, and train its models.")
    parser.add_argument("--version", action="version", version=f"diffusers_jova {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (_, purpose) in COMMANDS.items():
        commands.add_parser(name, help=purpose, add_help=False)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command."""
    words = sys.argv[1:] if argv is None else list(argv)
    if not words or words[0] not in COMMANDS:
        build_parser().parse_args(words)  # ends with a help text, the version or a refusal
        return
    command = importlib.import_module(f"{__package__}.{COMMANDS[words[0]][0]}")
    parser, args = command.parse(words[1:])

    def import_and_work(parser: Parser, args: argparse.Namespace) -> None:
        try:
            check_cluster(args)
        except ValueError as error:
            parser.error(one_line(error))
        hide_bars_in_files()
        if is_seen() and not command.WORK.startswith(f"{__package__}."):  # else nobody waits for a word
            print(f"{parser.prog}: loading torch and diffusers ...", file=sys.stderr, flush=True)
        try:
            work = importlib.import_module(command.WORK)
        except ImportError as error:
            extra = getattr(command, "EXTRA", "train")
            parser.error(f"{one_line(error)}; install the package with its extra `{extra}`")
        except RuntimeError as error:  # as diffusers says that transformers cannot be imported
            if "torchvision" not in str(cause := first_cause(error)):
                raise
            parser.error(
                f"the package `torchvision` cannot be imported ({one_line(cause)}); install the one that belongs to "
                "your torch, or remove it"
            )
        work.execute(parser, args)

    parser.run(import_and_work, args)


def first_cause(error: BaseException) -> BaseException:
    """What an error comes from in the end."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error
