"""JSON that others wrote: an object, or one sentence."""

import json
from pathlib import Path
from typing import Any


ANEW = "write or fetch it anew"


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
        values = json.loads(text)
    except (ValueError, RecursionError) as error:  # no text, no JSON, or nested without end
        reason = "one that is nested too deeply" if isinstance(error, RecursionError) else f"something else ({error})"
        raise ValueError(f"{what} must be a JSON object, got {reason}; {advice}") from error
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


def shown(value: object, length: int = 60) -> str:
    """A value as JSON, cut to a readable length."""
    text = json.dumps(value, default=repr)
    return text if len(text) <= length else f"{text[: length - 3]}..."
