"""`jova presets`: the words and the work, which only reads."""

import argparse
import textwrap
from collections.abc import Sequence

from .parser import Parser, one_line
from .shipped import find_preset, launch_names, preset_names


WORK = "jova_cli.presets"
DESCRIPTION = """List the presets of `jova train`, or print the path of one.

    cp "$(jova presets lora)" my.yaml
    accelerate launch --config_file "$(jova presets accelerate/fsdp)" -m diffusers_jova.training.train --config ..."""


def parse(argv: Sequence[str] | None = None) -> tuple[Parser, argparse.Namespace]:
    """Read the words."""
    parser = Parser(prog="jova presets", description=DESCRIPTION)
    parser.add_argument("name", nargs="?", help="a preset; all of them with their first lines if not given")
    return parser, parser.parse_checked(argv, lambda _: None)


def execute(parser: Parser, args: argparse.Namespace) -> None:
    """Print one path, or the names."""
    try:
        print(find_preset("name", args.name, all_names()) if args.name else describe_presets())
    except ValueError as error:
        parser.error(one_line(error))


def all_names() -> list[str]:
    """Presets of training, then those of accelerate."""
    return [*preset_names(), *launch_names()]


def describe_presets() -> str:
    """Every preset with what it is for."""
    names = all_names()
    width = max(map(len, names))
    return "\n".join(f"{name:{width}}  {purpose(name)}" for name in names)


def purpose(name: str) -> str:
    """The first line of a preset's file, which says what it is for."""
    first = find_preset("name", name, all_names()).read_text(encoding="utf-8").splitlines()[0]
    return textwrap.shorten(first.removeprefix("# ").removeprefix("Goal: "), 90, placeholder=" ...")
