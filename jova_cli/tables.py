"""Texts, JSON and columns that people write by hand: what cannot be meant is named."""

import csv
import functools
import io
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from .json_text import NoJSONError, parse


def read_text(path: Path) -> str:
    """Read UTF-8, without the mark that some editors put before it.

    Raises:
        ValueError: If it is another encoding.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = 1 + error.object[: error.start].count(b"\n")
        raise ValueError(
            f"`{path}` must be text in UTF-8, got another encoding in line {line}; save it anew in UTF-8"
        ) from error


def separator_hint(columns: Sequence[str]) -> str | None:
    """What to do about names of columns that hold another separator than the comma; None where none does."""
    return "separate the columns by commas" if {*";\t"} & {*"".join(columns)} else None


def parse_json(text: str, where: str) -> Any:
    """Parse JSON whose objects have each name once.

    Args:
        text: The JSON.
        where: Where it stands, for the message.

    Raises:
        ValueError: If it is none.
    """
    try:
        return parse(text, functools.partial(_object, where=where))
    except NoJSONError as error:
        raise ValueError(f"{where} must be valid JSON, got `{text[:60]}` ({error}); correct the line") from error


def parse_row(text: str, where: str, example: str) -> dict[str, Any]:
    """Parse an object of JSON, a row by its columns.

    Args:
        text: The JSON.
        where: Where it stands, for the message.
        example: What a row looks like.

    Raises:
        ValueError: If it is something else.
    """
    row = parse_json(text, where)
    if not isinstance(row, dict):
        raise ValueError(f"{where} must be a JSON object, got `{text[:60]}`; write {example}")
    return row


def jsonl_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that hold something, with their numbers: only a line feed ends one, JSON may hold the other separators."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            yield number, line


def csv_rows(
    path: Path, columns_of: Callable[[Sequence[str]], Sequence[str]], advice: str
) -> Iterator[tuple[int, Sequence[str], list[str]]]:
    """Rows with the line where they begin and the columns; a row may go on over several lines of a quoted cell.

    Args:
        path: Of the file.
        columns_of: The columns for the cells of the first row, or an error.
        advice: What to do about a file that is no CSV.

    Raises:
        ValueError: If it is none, or has a column twice.
    """
    rows = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    columns: Sequence[str] = ()
    end = 0
    try:
        for cells in rows:
            number, end = end + 1, rows.line_num
            if not columns:
                check_once(columns := columns_of(cells), str(path))
            elif cells:
                yield number, columns, cells
    except csv.Error as error:
        raise ValueError(f"{path}, line {end + 1} must be CSV, got something else ({error}); {advice}") from error


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


def some(items: Sequence[str], most: int = 3) -> str:
    """Join the first ones of a list, three unless told otherwise."""
    return ", ".join(items[:most]) + (", ..." if len(items) > most else "")
