"""JSON that others wrote: an object, or one sentence."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


TOO_DEEP = "nested too deeply"
ANEW = "write or fetch it anew"


class NoJSONError(ValueError):
    """A text that is no JSON, or nested without end; the message says why."""


def parse(text: str | bytes, build: Callable[[list[tuple[str, Any]]], Any] = dict) -> Any:
    """Read JSON.

    Args:
        text: Of it.
        build: Makes an object of its pairs.

    Raises:
        NoJSONError: If it is no text, no JSON, or nested without end.
    """
    try:
        return json.loads(text, object_pairs_hook=build)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise NoJSONError(error) from error
    except RecursionError as error:
        raise NoJSONError(TOO_DEEP) from error


def parse_object(text: str | bytes, what: str, advice: str = ANEW) -> dict[str, Any]:
    """Read an object of JSON.

    Args:
        text: Of it.
        what: Where it stands, for the message.
        advice: What to do about it.

    Raises:
        ValueError: If it is something else, or no JSON at all.
    """
    try:
        values = parse(text)
    except NoJSONError as error:
        found = f"one that is {TOO_DEEP}" if str(error) == TOO_DEEP else f"something else ({error})"
        raise ValueError(f"{what} must be a JSON object, got {found}; {advice}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{what} must be a JSON object, got {shown(values)}; {advice}")
    return values


def read_object(path: Path, advice: str = ANEW) -> dict[str, Any]:
    """Read a file that holds an object of JSON.

    Raises:
        OSError: If there is no such file.
        ValueError: If it holds something else.
    """
    return parse_object(path.read_bytes(), f"`{path}`", advice)


def readable(value: object, indent: int | None = None) -> str:
    """A value as JSON to read, in its own letters; where it holds halves of pairs, which no output takes, escaped."""
    text = json.dumps(value, indent=indent, default=str, ensure_ascii=False)
    halves = any("\ud800" <= character <= "\udfff" for character in text)
    return json.dumps(value, indent=indent, default=str) if halves else text


def shown(value: object, length: int = 60) -> str:
    """A value as JSON, cut to a readable length."""
    text = json.dumps(value, default=repr)
    return text if len(text) <= length else f"{text[: length - 3]}..."
