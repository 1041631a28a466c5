"""The words of `jova train`."""

import argparse
from collections.abc import Sequence

from .parser import Parser
from .training_settings import describe_settings
from .training_words import add_run_arguments, check_training, training_parser


WORK = "diffusers_jova.training.train"
DESCRIPTION = """Train a JoVA transformer on prepared clips.

The preset gives the recipe, `name=value` words change single settings of it:

    jova train --config stage2_joint model=... data=... output_dir=...

Running the same command again continues an interrupted run; SIGTERM and Ctrl-C
end one with a checkpoint of its last step.
Several processes are started by `accelerate launch -m diffusers_jova.training.train`, or by `torchrun`, and the same
words; `jova presets` lists settings of accelerate as well."""


def parse(argv: Sequence[str] | None = None) -> tuple[Parser, argparse.Namespace]:
    """Read the words, and refuse what no run has."""
    parser = training_parser("train", DESCRIPTION, describe_settings())
    add_run_arguments(parser)
    return parser, parser.parse_checked(argv, check, intermixed=True)


def check(args: argparse.Namespace) -> None:
    """Refuse what no run has; see `check_training`."""
    check_training(args, {}, {})
