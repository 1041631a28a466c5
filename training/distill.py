"""Make a student of few steps: the work of `jova distill`, a training with the model itself as the teacher."""

from __future__ import annotations

from collections.abc import Sequence

from diffusers_jova.training.train import execute
from jova_cli.distill import parse


def main(argv: Sequence[str] | None = None) -> None:
    """Train the student and say how to use it."""
    parser, args = parse(argv)
    parser.run(execute, args)


if __name__ == "__main__":
    main()
