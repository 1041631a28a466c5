"""Texts, JSON and columns that people write by hand: what cannot be meant is named."""

import functools
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def read_text(path: Path) -> str:
    """Read UTF-8, without the mark that some editors put before it.

    Raises:
        ValueError: If it is another encoding.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"`{path}` must be text in UTF-8, got another encoding ({error}); save it anew") from error


def parse_json(text: str, where: str) -> Any:
    """Parse JSON whose objects have each name once.

    Args:
        text: The JSON.
        where: Where it stands, for the message.

    Raises:
        ValueError: If it is none.
    """
    try:
        return json.loads(text, object_pairs_hook=functools.partial(_object, where=where))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{where} must be valid JSON, got `{text[:60]}` ({error}); correct the line") from error


def _object(pairs: Sequence[tuple[str, Any]], where: str) -> dict[str, Any]:
    """Build an object of JSON; of a name that is there twice one value would be lost."""
    check_once([name for name, _ in pairs], where)
    return dict(pairs)


def check_once(names: Sequence[str], where: str) -> None:
    """Refuse columns that are there twice."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"{where} must have each column once, got {some(twice)} several times; remove or rename one")


def is_encodable(text: str) -> bool:
    """Whether a text is UTF-8; halves of surrogate pairs, from broken JSON or file names, are not."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def some(items: Sequence[str]) -> str:
    """Join the first three of a list."""
    return ", ".join(items[:3]) + (", ..." if len(items) > 3 else "")
