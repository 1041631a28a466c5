"""The words of `jova app`."""

import argparse
from collections.abc import Sequence

from .generate import add_model_arguments, check_model
from .parser import Parser


WORK = "diffusers_jova.page.app"
EXTRA = "app"
LARGEST_PORT = 65535
DESCRIPTION = """Open a page in the browser that makes clips, on this machine and for nobody else.

    jova app
    jova app --model MODEL --lora adapter/

What the page does can be called by programs as well: "Use via API" at its foot tells how."""


def parse(argv: Sequence[str] | None = None) -> tuple[Parser, argparse.Namespace]:
    """Read the words, and refuse what cannot work."""
    parser = Parser(prog="jova app", description=DESCRIPTION)
    add = parser.add_argument
    add_model_arguments(parser)
    add("--host", help="address to listen at; this machine alone if not given, 0.0.0.0 for all of its network")
    add("--port", type=int, help="port to listen at; the first free one from 7860 if not given")
    add("--share", action="store_true", help="also a public address, through a server of Gradio, for a week")
    add("--queue-size", type=int, default=20, help="how many clips may wait for their turn")
    return parser, parser.parse_checked(argv, check)


def check(args: argparse.Namespace) -> None:
    """Refuse a model that is not there, and numbers that mean nothing."""
    check_model(args)
    if args.port is not None and not 1 <= args.port <= LARGEST_PORT:
        raise ValueError(f"`--port` must be from 1 to {LARGEST_PORT}, got {args.port}; leave it out for a free one")
    if args.queue_size < 1:
        raise ValueError(f"`--queue-size` must be at least 1, got {args.queue_size}")
