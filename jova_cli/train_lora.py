"""The words of `jova train-lora`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from .adapter_info import check_adapter
from .parser import Parser
from .shipped import check_source
from .training_words import add_run_arguments, check_training, training_parser


WORK = "diffusers_jova.training.train_lora"
DESCRIPTION = """Train an avatar adapter: prepared clips in, one file that `JoVAPipeline.load_lora_weights` reads out.

    jova prepare clips/ prepared/ --model MODEL
    jova train-lora prepared/ adapter/ --model MODEL --targets attention

The adapter learns who speaks and how; dropped captions, and `prior_data=`, clips of the base model's own kind, keep it
from forgetting everything else. Running the same command again continues an interrupted run; `--init-adapter` goes on
from a finished adapter in a new folder, with other clips or a new course of the learning rate. `jova train --help`
lists the settings."""
SETTINGS = {  # that have words of their own
    "data": "data",
    "output_dir": "output_dir",
    "model": "model",
    "targets": "lora_targets",
    "init_adapter": "init_adapter",
}
SHOWN = {"model": "--model", "targets": "--targets", "init_adapter": "--init-adapter"}  # of those that are options
TARGETS = ("attention", "attention_ff", "audio", "joint", "video")


def parse(argv: Sequence[str] | None = None) -> tuple[Parser, argparse.Namespace]:
    """Read the words, and refuse what no run has."""
    parser = training_parser("train-lora", DESCRIPTION)
    parser.add_argument("data", help="folder written by `jova prepare`")
    parser.add_argument("output_dir", help="folder of the adapter, its checkpoints and its log")
    parser.add_argument("--model", required=True, help="pipeline or transformer to adapt, a folder or a Hub id")
    parser.add_argument("--targets", choices=TARGETS, help="what the adapter reaches")
    parser.add_argument(
        "--init-adapter",
        metavar="PATH",
        help="adapter to go on from, a file, folder or Hub id; its weights, rank, alpha and targets are taken",
    )
    add_run_arguments(parser, "lora")
    return parser, parser.parse_checked(argv, check, intermixed=True)


def check(args: argparse.Namespace) -> None:
    """Refuse what no run has; see `check_training`."""
    if args.init_adapter is not None:
        check_source("--init-adapter", args.init_adapter)
        if Path(args.init_adapter).exists():
            check_adapter("--init-adapter", Path(args.init_adapter))
    check_training(args, SETTINGS, SHOWN, train="lora")
