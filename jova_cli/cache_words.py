"""The settings of a cache between steps as words name=value; torch is not needed to refuse them."""

from typing import Any

from .class_fields import read_fields
from .named_words import named_words
from .shipped import PACKAGE


CONFIG = (PACKAGE / "sound_cache.py", "JoVACacheConfig")
FORMATS = ("float8_e4m3fn", "float8_e5m2", "float16", "bfloat16", "float32")
EXAMPLE = "video_interval=3"


def cache_settings(text: str) -> dict[str, Any]:
    """Settings of a `JoVACacheConfig`, numbers as such; its `storage_dtype` by its name.

    Args:
        text: Words name=value with a comma between them.

    Raises:
        ValueError: Naming the option.
    """
    known = {field.name: field.default for field in read_fields(*CONFIG)}
    settings: dict[str, Any] = {
        name: value if name.startswith("storage_") else number(name, value, is_whole=known[name].isdecimal())
        for name, value in named_words("--cache", text, known, "the cache", EXAMPLE).items()
    }
    if (dtype := settings.get("storage_dtype", FORMATS[0])) not in FORMATS:
        raise ValueError(f"`storage_dtype` of `--cache` must be one of {', '.join(FORMATS)}, got {dtype!r}")
    return settings


def number(name: str, value: str, is_whole: bool) -> float:
    """A number of a setting, whole where its default is."""
    try:
        found = float(value)
    except ValueError as error:
        raise ValueError(f"`{name}` of `--cache` must be a number, got {value!r}; write {EXAMPLE}, say") from error
    if not 0 < found < float("inf"):
        raise ValueError(f"`{name}` of `--cache` must be positive and finite, got {value}; write {EXAMPLE}, say")
    if is_whole and not found.is_integer():
        raise ValueError(f"`{name}` of `--cache` must be a whole number, got {value}; write {EXAMPLE}, say")
    return int(found) if is_whole else found
