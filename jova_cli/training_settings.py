"""The settings of a training run: which there are, and an error for what no run has, before torch is loaded."""

import argparse
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .adapter_info import check_adapter
from .class_fields import Field, read_fields
from .evaluate import FOLDERS, NETWORKS
from .given_paths import check_file, check_folder, check_prepared, kind_of
from .json_text import read_object
from .optional_packages import check_installed, of_extra
from .parser import did_you_mean
from .room_modules import import_alone
from .shipped import CONFIG, check_source, find_model


INDENT = " " * 6


def read_settings() -> list[Field]:
    """All settings, in their order."""
    return read_fields(*CONFIG)


def split_settings(words: Iterable[str]) -> dict[str, str]:
    """Split words of the form name=value.

    Raises:
        ValueError: If a word has another form, or sets what an earlier one has set.
    """
    values = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"an override must have the form name=value, got {word!r}")
        if name.lstrip("-") in values:
            raise ValueError(f"a setting must be given once, got `{name}` several times; leave all but one out")
        values[name.lstrip("-")] = value
    return values


def check_names(names: Iterable[str], known: Sequence[str], source: str) -> None:
    """Refuse names that are no setting.

    Args:
        names: What was given.
        known: All settings.
        source: Where the names stand, for the message.
    """
    for name in names:
        if name not in known:
            hint = did_you_mean(str(name), known, f"the fields are {', '.join(known)}")
            raise ValueError(f"`{name}` in {source} is not a setting of a training run; {hint}")


def check_words(words: Iterable[str]) -> None:
    """Refuse words of a command line that set nothing."""
    check_names(split_settings(words), [setting.name for setting in read_settings()], "the command line")


def given_settings(args: argparse.Namespace, settings: Mapping[str, str]) -> dict[str, str]:
    """The settings that have words of their own, as far as these are given.

    Args:
        args: The words.
        settings: The setting of each word that has one.
    """
    given = {setting: getattr(args, word) for word, setting in settings.items()}
    return {name: value for name, value in given.items() if value}


def check_once(args: argparse.Namespace, settings: Mapping[str, str], shown: Mapping[str, str]) -> None:
    """Refuse a setting that is given both by its own word and as name=value.

    Args:
        args: The words.
        settings: The setting of each word that has one.
        shown: How the words that are options are written.
    """
    for name in split_settings(args.overrides):
        twice = [word for word, setting in settings.items() if setting == name and getattr(args, word) is not None]
        if twice:
            word = shown.get(twice[0], twice[0])
            raise ValueError(f"a setting must be given once, got `{name}=` beside `{word}`; leave `{name}=` out")


def check_run(
    preset: Path,
    words: Sequence[str],
    own: Mapping[str, str],
    train: str = "",
    is_student: bool = False,
    needs_data: bool = True,
    is_run: bool = True,
) -> None:
    """Refuse what no run has, the most basic first: settings that do not exist, files that are not there, values.

    Without PyYAML, which reads the preset, the names alone are looked at: the work asks for its extra then.

    Args:
        preset: File of it.
        words: Of the form name=value.
        own: Settings that have words of their own.
        train: What the run must train; empty for anything.
        is_student: Whether it must make a student of few steps.
        needs_data: Whether the clips that `data` names must be there.
        is_run: Whether anything is trained, so that the packages for it must be there.
    """
    check_words(words)
    try:
        config = import_alone(CONFIG[0])
    except ModuleNotFoundError:
        return
    values = config.read_values(preset, {**own, **config.parse_overrides(words)}, tell=lambda _: None)
    check_files(values if needs_data else {name: value for name, value in values.items() if name != "data"})
    settings = config.from_values(values, source=str(preset))
    if train and settings.train != train:
        place = "the command line" if "train" in split_settings(words) else f"`{preset}`"
        raise ValueError(f"`train` must be {train}, got {settings.train} in {place}; use `jova train`")
    if is_student and settings.student_steps is None:
        raise ValueError(f"`student_steps` must be given, got null with `{preset}`; add `student_steps=4`, say")
    if is_run:
        check_packages(settings)


def check_packages(settings: Any) -> None:
    """Refuse settings that need what is not installed."""
    if settings.quantize == "nf4":
        check_installed("quantize: nf4", "bitsandbytes", of_extra("quantize"))
    if settings.optimizer == "adamw_8bit":
        advice = f"{of_extra('quantize')}, or set `optimizer=adamw`"
        check_installed("optimizer: adamw_8bit", "bitsandbytes", advice)
    if settings.tensorboard:
        check_installed("tensorboard: true", "tensorboard", f"{of_extra('train')}, or set `tensorboard=false`")


def check_files(values: Mapping[str, Any]) -> None:
    """Refuse clips, models and adapters that are not there, as far as they are given as paths."""
    given = {name: value for name, value in values.items() if isinstance(value, str)}
    for name in ("data", "prior_data", "validation_data"):
        if name in given:
            check_prepared(name, Path(given[name]))
    if "model" in given:
        check_trainable(find_model(given["model"]))
    if "validation_whisper" in given:
        check_folder("validation_whisper", Path(given["validation_whisper"]), "download a model first")
    for option in NETWORKS.values():
        if (name := f"validation_{option}") not in given:
            continue
        if option in FOLDERS:
            check_folder(name, Path(given[name]), "download a model first")
        else:
            check_file(name, Path(given[name]))
    if "init_adapter" in given:
        check_source("init_adapter", given["init_adapter"])
        if Path(given["init_adapter"]).exists():
            check_adapter("init_adapter", Path(given["init_adapter"]))


def check_trainable(model: str) -> None:
    """Refuse a `model` that is no saved transformer or pipeline, no config of one, and no hub name."""
    check_source("model", model)
    kind = kind_of(model)
    if kind == "file" and not model.endswith(".json"):
        raise ValueError(f"`model` must be a folder, or a config that ends in .json, got the file `{model}`")
    if kind == "folder":
        transformer = Path(model) / "transformer"
        config = (transformer if transformer.is_dir() else Path(model)) / "config.json"
        if kind_of(config) != "file":
            raise ValueError(f"`model` must be a saved transformer or pipeline, got `{model}`; it has no config.json")
        read_object(config)


def describe_settings() -> str:
    """All settings as the end of a help text."""
    return "\n".join(["settings, all of which a preset may hold and a word name=value may change:", *_entries()])


def _entries() -> Iterable[str]:
    for setting in read_settings():
        yield f"  {setting.name}={setting.default}" if setting.default else f"  {setting.name}=... (must be given)"
        number = "Some" if setting.is_list else "One"
        choices = f" {number} of {', '.join(setting.choices)}." if setting.choices else ""
        yield textwrap.fill(setting.purpose + choices, 100, initial_indent=INDENT, subsequent_indent=INDENT)
