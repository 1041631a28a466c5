"""What guides a clip besides the scales of its text, as words name=value; torch is not needed to refuse them."""

from collections.abc import Callable
from typing import Any

from .named_words import named_words


OPTION = "--guidance"
EXAMPLE = "coupling_scale=2"
FLAGS = {"true": True, "false": False}


def number(value: str) -> float:
    """A number."""
    return float(value)


def flag(value: str) -> bool:
    """Yes or no."""
    return FLAGS[value.lower()]


def interval(value: str) -> tuple[float, float]:
    """Part of the steps, its two ends as fractions of them."""
    first, last = value.split(":")
    return float(first), float(last)


# fmt: off
KINDS: dict[str, tuple[Callable[[str], Any], str]] = {  # how a value is read, and what it must be
    **dict.fromkeys(("coupling_scale", "audio_coupling_scale", "audio_speaker_scale"), (number, "a number")),
    **dict.fromkeys(("guidance_rescale", "audio_guidance_rescale"), (number, "a number")),
    **dict.fromkeys(("apg_threshold", "audio_apg_threshold", "apg_eta"), (number, "a number")),
    **dict.fromkeys(("guidance_interval", "coupling_interval"), (interval, "two numbers such as 0:0.5")),
    **dict.fromkeys(("cfg_zero_star", "audio_cfg_zero_star"), (flag, "true or false")),
    **dict.fromkeys(("zero_init_steps", "audio_zero_init_steps"), (int, "a whole number")),
    "uncoupled_text":                                              (str, "empty or kept"),
}
# fmt: on


def guidance_settings(text: str | None) -> dict[str, Any]:
    """Arguments of a call that words name; whether their values can be, the call says.

    Args:
        text: Words name=value with a comma between them; None for none.

    Raises:
        ValueError: Naming the option.
    """
    words = {} if text is None else named_words(OPTION, text, KINDS, "guidance", EXAMPLE)
    return {name: read(name, value) for name, value in words.items()}


def read(name: str, value: str) -> Any:
    """One value of its kind."""
    take, kind = KINDS[name]
    try:
        return take(value)
    except (ValueError, KeyError) as error:
        raise ValueError(f"`{name}` of `{OPTION}` must be {kind}, got {value!r}; write {EXAMPLE}, say") from error
