"""Train an avatar adapter: the work of `jova train-lora`."""

from __future__ import annotations

from collections.abc import Sequence

from diffusers_jova.training.train import execute
from jova_cli.train_lora import parse


def main(argv: Sequence[str] | None = None) -> None:
    """Train the adapter and say how to use it."""
    parser, args = parse(argv)
    parser.run(execute, args)


if __name__ == "__main__":
    main()
