"""The words of `jova distill`."""

import argparse
from collections.abc import Sequence

from .parser import Parser
from .training_settings import describe_settings
from .training_words import add_run_arguments, check_training, training_parser


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
    parser = training_parser("distill", DESCRIPTION, describe_settings())
    parser.add_argument("data", help="folder written by `jova prepare`")
    parser.add_argument("output_dir", help="folder of the student, its checkpoints and its log")
    parser.add_argument("--model", required=True, help="pipeline of the teacher, a folder or a Hub id")
    add_run_arguments(parser, "distill")
    return parser, parser.parse_checked(argv, check, intermixed=True)


def check(args: argparse.Namespace) -> None:
    """Refuse what no run has; see `check_training`."""
    check_training(args, SETTINGS, SHOWN, is_student=True)
