"""The work of `jova convert`: every kind of conversion, and what it is given."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError

from diffusers_jova.conversion import components, lora, mmaudio, mova, nava, ovi, single_file, uniavgen, wan
from diffusers_jova.conversion.output import Options
from diffusers_jova.conversion.source import local_path
from jova_cli.convert import parse
from jova_cli.parser import Parser, one_line


KINDS: dict[str, Callable[[Path, Path, Options], None]] = {
    "wan": wan.convert,
    "ovi": ovi.convert,
    "nava": nava.convert,
    "mova": mova.convert,
    "uniavgen": uniavgen.convert,
    "mmaudio": mmaudio.convert,
    "lora": lora.convert,
    "single_file": single_file.convert,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run one conversion."""
    parser, args = parse(argv)
    parser.run(execute, args)


def execute(parser: Parser, args: argparse.Namespace) -> None:
    """Run one conversion; a mistake in the arguments or the files ends in a message and exit code 2."""
    try:
        options = Options(
            dtype=None if args.dtype is None else getattr(torch, args.dtype),
            shard_gb=args.shard_gb,
            audio_channels=args.audio_channels,
            layout=args.to,
            skip_unknown=args.skip_unknown,
            tower=args.tower,
            alpha=args.alpha,
            reverse=args.reverse,
            towers_only=args.towers_only,
            components=[local_path(folder, components.FILES) for folder in args.components],
        )
        KINDS[args.kind](local_path(args.source), args.output, options)
    except (ValueError, OSError, SafetensorError) as error:
        parser.error(one_line(error))
    print(f"wrote {args.output}")


if __name__ == "__main__":
    main()
