"""Train an avatar adapter: the work of `jova train-lora`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from diffusers_jova.training.loop.config import load_yaml, parse_overrides
from diffusers_jova.training.train import checked_input, run, tell, worded_errors
from jova_cli.parser import Parser
from jova_cli.train_lora import own_settings, parse


def main(argv: Sequence[str] | None = None) -> None:
    """Train the adapter and say how to use it."""
    parser, args = parse(argv)
    parser.run(execute, args)


def execute(parser: Parser, args: argparse.Namespace) -> None:
    """Train as the words say."""
    with worded_errors(parser):
        with checked_input():
            config = load_yaml(args.config, own_settings(args) | parse_overrides(args.overrides), tell)
        run(config)


if __name__ == "__main__":
    main()
