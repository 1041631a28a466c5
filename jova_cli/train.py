"""The words of `jova train`."""

import argparse
from collections.abc import Sequence

from .parser import Parser
from .shipped import find_preset, preset_names
from .training_estimate import add_estimate_arguments, check_estimate
from .training_settings import check_run, describe_settings


WORK = "diffusers_jova.training.train"
CHECKPOINTS_ARE_KEPT = "the last checkpoint is kept, and the same command goes on from it"
DESCRIPTION = """Train a JoVA transformer on prepared clips.

The preset gives the recipe, `name=value` words change single settings of it:

    jova train --config stage2_joint model=... data=... output_dir=...

Running the same command again continues an interrupted run; SIGTERM and Ctrl-C
end one with a checkpoint of its last step.
Several processes are started by `accelerate launch -m diffusers_jova.training.train`, or by `torchrun`, and the same
words; `jova presets` lists settings of accelerate as well."""


def parse(argv: Sequence[str] | None = None) -> tuple[Parser, argparse.Namespace]:
    """Read the words, and refuse what no run has."""
    parser = Parser(
        lambda _: CHECKPOINTS_ARE_KEPT, prog="jova train", description=DESCRIPTION, epilog=describe_settings()
    )
    parser.add_argument("--config", required=True, help="a preset, see `jova presets`, or a YAML file like them")
    add_estimate_arguments(parser)
    parser.add_argument("overrides", nargs="*", metavar="name=value", help="settings that differ from the preset")
    return parser, parser.parse_checked(argv, check, intermixed=True)


def check(args: argparse.Namespace) -> None:
    """Refuse what no run has, and put the preset's file in place of its name."""
    check_estimate(args)
    args.config = find_preset("--config", args.config, preset_names())
    args.own = {}
    check_run(args.config, args.overrides, args.own)
