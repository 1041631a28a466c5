"""The settings of a training run as words name=value: which there are, and what is none."""

import textwrap
from collections.abc import Iterable, Sequence

from .class_fields import Field, read_fields
from .parser import did_you_mean
from .shipped import TRAINING


CONFIG = (TRAINING / "loop" / "config.py", "TrainConfig")  # in diffusers_jova.training.loop
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


def describe_settings() -> str:
    """All settings as the end of a help text."""
    return "\n".join(["settings, all of which a preset may hold and a word name=value may change:", *_entries()])


def _entries() -> Iterable[str]:
    for setting in read_settings():
        yield f"  {setting.name}={setting.default}" if setting.default else f"  {setting.name}=... (must be given)"
        choices = f" One of {', '.join(setting.choices)}." if setting.choices else ""
        yield textwrap.fill(setting.purpose + choices, 100, initial_indent=INDENT, subsequent_indent=INDENT)
