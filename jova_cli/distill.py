"""The words of `jova distill`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from .given_paths import check_prepared
from .parser import Parser
from .shipped import find_preset, preset_names
from .train import CHECKPOINTS_ARE_KEPT
from .training_estimate import add_estimate_arguments, check_estimate
from .training_settings import check_once, check_run, check_words, describe_settings, given_settings


WORK = "diffusers_jova.training.distill"
DESCRIPTION = """Make a student of a model: it comes near in a few steps to what the model makes in many with guidance.

    jova prepare clips/ prepared/ --model MODEL
    jova distill prepared/ student/ --model MODEL student_steps=4
    jova generate --model MODEL --lora student/ --prompt "..." --output clip.mp4

It is a training like the others, with the model itself as the teacher, on clips of the kind that the model makes. The
student is an adapter, which knows its steps; with `train=full` it is a pipeline of its own. Running the same command
again continues an interrupted run."""
SETTINGS = {"data": "data", "output_dir": "output_dir", "model": "model"}  # that have words of their own
SHOWN = {"model": "--model"}  # of those that are options


def parse(argv: Sequence[str] | None = None) -> tuple[Parser, argparse.Namespace]:
    """Read the words, and refuse what no run has."""
    parser = Parser(
        lambda _: CHECKPOINTS_ARE_KEPT, prog="jova distill", description=DESCRIPTION, epilog=describe_settings()
    )
    parser.add_argument("data", help="folder written by `jova prepare`")
    parser.add_argument("output_dir", help="folder of the student, its checkpoints and its log")
    parser.add_argument("--model", required=True, help="pipeline of the teacher, a folder or a Hub id")
    parser.add_argument(
        "--config",
        default="distill",
        help="a preset, see `jova presets`, or a YAML file like them; distill if not given",
    )
    add_estimate_arguments(parser)
    parser.add_argument("overrides", nargs="*", metavar="name=value", help="settings that differ from the preset")
    return parser, parser.parse_checked(argv, check, intermixed=True)


def check(args: argparse.Namespace) -> None:
    """Refuse what no run has, and put the preset's file in place of its name."""
    check_estimate(args)
    args.config = find_preset("--config", args.config, preset_names())
    check_words(args.overrides)
    check_once(args, SETTINGS, SHOWN)
    check_prepared("data", Path(args.data))
    args.own = given_settings(args, SETTINGS)
    check_run(args.config, args.overrides, args.own, is_student=True)
