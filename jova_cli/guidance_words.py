"""What guides a clip besides the scales of its text, as words name=value; torch is not needed to refuse them."""

from collections.abc import Callable
from typing import Any, NamedTuple

from .named_words import named_words


OPTION = "--guidance"
EXAMPLE = "coupling_scale=2,guidance_interval=0:0.5"
FLAGS = {"true": True, "false": False}
OWN_OPTIONS = ("guidance_scale", "audio_guidance_scale")


def flag(value: str) -> bool:
    """Yes or no."""
    return FLAGS[value.lower()]


def interval(value: str) -> tuple[float, float]:
    """Part of the steps, its two ends as fractions of them."""
    first, last = value.split(":")
    return float(first), float(last)


class Kind(NamedTuple):
    """What a value is.

    Attributes:
        read: Makes it of its text.
        rule: What it must be.
        example: Of its text.
    """

    read: Callable[[str], Any]
    rule: str
    example: str


SCALE, SHARE, LIMIT = Kind(float, "a number", "2"), Kind(float, "a number", "0.5"), Kind(float, "a number", "5")
KINDS = {
    **dict.fromkeys(("coupling_scale", "audio_coupling_scale", "audio_speaker_scale"), SCALE),
    **dict.fromkeys(("guidance_rescale", "audio_guidance_rescale", "apg_eta"), SHARE),
    **dict.fromkeys(("apg_threshold", "audio_apg_threshold"), LIMIT),
    **dict.fromkeys(("guidance_interval", "coupling_interval"), Kind(interval, "two numbers", "0:0.5")),
    **dict.fromkeys(("cfg_zero_star", "audio_cfg_zero_star"), Kind(flag, "true or false", "true")),
    **dict.fromkeys(("zero_init_steps", "audio_zero_init_steps"), Kind(int, "a whole number", "1")),
    "uncoupled_text": Kind(str, "empty or kept", "kept"),
}


def guidance_settings(text: str | None) -> dict[str, Any]:
    """Arguments of a call that words name; whether their values can be, the call says.

    Args:
        text: Words name=value with a comma between them; None for none.

    Raises:
        ValueError: Naming the option.
    """
    if text is None:
        return {}
    words = named_words(OPTION, text, [*KINDS, *OWN_OPTIONS], "guidance", EXAMPLE)
    for name in OWN_OPTIONS:
        if name in words:
            option = f"--{name.replace('_', '-')}"
            raise ValueError(f"`{name}` must be given by its own option, got it in `{OPTION}`; use `{option} 3`, say")
    return {name: read(name, value) for name, value in words.items()}


def read(name: str, value: str) -> Any:
    """One value of its kind."""
    kind = KINDS[name]
    try:
        return kind.read(value)
    except (ValueError, KeyError) as error:
        raise ValueError(
            f"`{name}` of `{OPTION}` must be {kind.rule}, got {value!r}; write {name}={kind.example}, say"
        ) from error
