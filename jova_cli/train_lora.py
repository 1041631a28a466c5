"""The words of `jova train-lora`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from .adapter_info import check_adapter
from .given_paths import check_prepared
from .parser import Parser
from .shipped import check_source, find_preset, preset_names
from .train import CHECKPOINTS_ARE_KEPT
from .training_estimate import add_estimate_arguments, check_estimate
from .training_settings import check_once, check_run, check_words, given_settings


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
    parser = Parser(lambda _: CHECKPOINTS_ARE_KEPT, prog="jova train-lora", description=DESCRIPTION)
    parser.add_argument("data", help="folder written by `jova prepare`")
    parser.add_argument("output_dir", help="folder of the adapter, its checkpoints and its log")
    parser.add_argument("--model", required=True, help="pipeline or transformer to adapt, a folder or a Hub id")
    parser.add_argument("--targets", choices=TARGETS, help="what the adapter reaches")
    parser.add_argument(
        "--init-adapter",
        metavar="PATH",
        help="adapter to go on from, a file, folder or Hub id; its weights, rank, alpha and targets are taken",
    )
    parser.add_argument(
        "--config", default="lora", help="a preset, see `jova presets`, or a YAML file like them; lora if not given"
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
    if args.init_adapter is not None:
        check_source("--init-adapter", args.init_adapter)
        if Path(args.init_adapter).exists():
            check_adapter("--init-adapter", Path(args.init_adapter))
    args.own = given_settings(args, SETTINGS)
    check_run(args.config, args.overrides, args.own, train="lora")
