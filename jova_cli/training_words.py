"""The words that all commands that train share, and what all of them refuse."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from .given_paths import check_prepared
from .parser import Parser
from .shipped import find_preset, preset_names
from .training_estimate import add_estimate_arguments, check_estimate
from .training_settings import check_once, check_run, check_words, given_settings, read_settings


CHECKPOINTS_ARE_KEPT = "the last checkpoint is kept, and the same command goes on from it"


def training_parser(name: str, description: str, epilog: str | None = None) -> Parser:
    """A parser of a command that trains, which says what an interrupted one leaves."""
    return TrainingParser(lambda _: CHECKPOINTS_ARE_KEPT, prog=f"jova {name}", description=description, epilog=epilog)


class TrainingParser(Parser):
    """Parser of a command whose settings are words name=value beside its options."""

    def advice_on(self, name: str, names: Sequence[str]) -> str:
        """What to write in place of an option that there is not: a setting, where that is its name."""
        setting = name.lstrip("-").replace("-", "_")
        has_word = setting in {action.dest for action in self._actions}
        if not has_word and setting in {field.name for field in read_settings()}:
            return f"it is a setting: write `{setting}=VALUE`"
        return super().advice_on(name, names)


def add_run_arguments(parser: argparse.ArgumentParser, preset: str | None = None) -> None:
    """Add the preset, the estimate and the settings that differ.

    Args:
        parser: Of the command.
        preset: That is taken where none is given; None where one must be.
    """
    told = "" if preset is None else f"; {preset} if not given"
    parser.add_argument(
        "--config",
        default=preset,
        required=preset is None,
        help=f"a preset, see `jova presets`, or a YAML file like them{told}",
    )
    add_estimate_arguments(parser)
    parser.add_argument("overrides", nargs="*", metavar="name=value", help="settings that differ from the preset")


def check_training(
    args: argparse.Namespace,
    settings: Mapping[str, str],
    shown: Mapping[str, str],
    train: str = "",
    is_student: bool = False,
) -> None:
    """Refuse what no run has, put the preset's file in place of its name, and what words of their own set into `own`.

    Args:
        args: The words.
        settings: The setting of each word that has one.
        shown: How the words that are options are written.
        train: What the run must train; empty for anything.
        is_student: Whether it must make a student of few steps.
    """
    check_estimate(args)
    args.config = find_preset("--config", args.config, preset_names())
    check_words(args.overrides)
    check_once(args, settings, shown)
    if "data" in settings and args.bucket is None:
        check_prepared("data", Path(args.data))
    args.own = given_settings(args, settings)
    check_run(
        args.config,
        args.overrides,
        args.own,
        train,
        is_student,
        needs_data=args.bucket is None,
        is_run=not args.estimate,
    )
