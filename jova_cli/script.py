"""The script of a long clip: a list of lines, each with the time from which its prompt holds."""

import argparse
import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self, TypeVar

from .parser import did_you_mean, one_line
from .tables import check_once, csv_rows, is_encodable, jsonl_lines, parse_row, separator_hint


SUFFIXES = (".jsonl", ".csv")
TIMES = ("start", "end")  # seconds
TEXTS = ("prompt", "video_caption", "audio_caption", "transcript")
COLUMNS = (*TIMES, *TEXTS)
EXAMPLE = '{"start": 0, "transcript": "hello blue moon"}'


class TimedLine(Protocol):
    """A line whose words may end before the next one begins."""

    @property
    def start_s(self) -> float:
        """Seconds from the beginning of the clip."""
        ...

    @property
    def end_s(self) -> float | None:
        """Until when its words are said; None until the next line."""
        ...

    @property
    def silent(self) -> Self:
        """What holds when its words are said."""
        ...


Line = TypeVar("Line", bound=TimedLine)


class ScriptRow(NamedTuple):
    """One line of a script.

    Attributes:
        start_s: Seconds from the beginning of the clip, from which it holds.
        end_s: Until when its words are said; None until the next line.
        texts: The prompt, whole or in three parts, by the names of the options.
    """

    start_s: float
    end_s: float | None
    texts: Mapping[str, str]

    @property
    def silent(self) -> "ScriptRow":
        """What holds when its words are said."""
        assert self.end_s is not None
        return ScriptRow(self.end_s, None, {**self.texts, "transcript": ""})


def read_script(
    path: Path, common: argparse.Namespace, check_prompt: Callable[[argparse.Namespace], None]
) -> list[ScriptRow]:
    """Read the lines of a script, .jsonl or .csv, in the order of their times.

    Args:
        path: Of the script.
        common: The command line; its texts hold for lines that leave them empty.
        check_prompt: Raises what is wrong with the texts of one line.

    Raises:
        ValueError: With the line, if a script cannot be meant.
    """
    if path.suffix.lower() not in SUFFIXES or not path.is_file():
        raise ValueError(f"`--script` must be an existing .jsonl or .csv file, got {path}; see the README")
    lines: list[ScriptRow] = []
    for number, cells in _rows(path):
        where = f"{path}, line {number}"
        try:
            lines.append(_line_of(cells, common, check_prompt))
            _check_order(lines)
        except ValueError as error:
            reason = one_line(error)
            raise ValueError(reason if reason.startswith(where) else f"{where}: {reason}") from error
    if not lines:
        raise ValueError(f"`--script` must have at least one line, got the empty {path}; write {EXAMPLE}")
    return lines


def with_silence(lines: Sequence[Line], num_frames: int, frame_rate: float, factor: int) -> list[Line]:
    """Lines with one more behind each whose words end a latent or more before the next line, or before the clip.

    Args:
        lines: Of a script, in the order of their times.
        num_frames: Of the clip.
        frame_rate: Frames per second.
        factor: Frames per latent after the first.
    """
    laid_out: list[Line] = []
    ends = [*(line.start_s for line in lines[1:]), num_frames / frame_rate]
    for line, end_s in zip(lines, ends, strict=True):
        laid_out.append(line)
        if line.end_s is not None and end_s - line.end_s > factor / frame_rate:
            laid_out.append(line.silent)
    return laid_out


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a file with the numbers of their lines."""
    if path.suffix.lower() != ".csv":
        for number, line in jsonl_lines(path):
            where = f"{path}, line {number}"
            row = parse_row(line, where, EXAMPLE)
            names = [name.replace("-", "_") for name in row]
            check_once(names, where)
            yield number, dict(zip(names, row.values(), strict=True))
        return

    def columns_of(cells: Sequence[str]) -> list[str]:
        columns = [name.strip().replace("-", "_") for name in cells]
        if "start" not in columns:
            hint = separator_hint(columns) or "add it"
            raise ValueError(f"{path}: a script must have the column `start`, got {', '.join(columns)}; {hint}")
        for column in columns:
            _check_column(column)
        return columns

    for number, columns, cells in csv_rows(path, columns_of, "close its quotes"):
        if len(cells) != len(columns):
            raise ValueError(
                f"{path}, line {number}: a line must have a cell for each of {len(columns)} columns, got "
                f"{len(cells)}; quote commas"
            )
        yield number, dict(zip(columns, cells, strict=True))


def _line_of(
    cells: Mapping[str, Any], common: argparse.Namespace, check_prompt: Callable[[argparse.Namespace], None]
) -> ScriptRow:
    """A line by its cells; those that are empty are not given."""
    given = {name: value for name, value in cells.items() if value is not None and str(value).strip()}
    if not given:
        raise ValueError(f"a line must have a time and a text, got an empty one; write {EXAMPLE}, or delete it")
    for column in given:
        _check_column(column)
    if "start" not in given:
        raise ValueError(f"a line must have a `start` in seconds, got none; write {EXAMPLE}")
    times = {name: _seconds(name, given[name]) for name in TIMES if name in given}
    texts = {name: _text(name, given[name]) for name in TEXTS if name in given}
    if not texts:
        raise ValueError(f"a line must have a text, got `start` {times['start']:g} alone; write {EXAMPLE}")
    merged = copy.copy(common)
    for name, text in texts.items():
        setattr(merged, name, text)
    check_prompt(merged)
    return ScriptRow(times["start"], times.get("end"), {name: getattr(merged, name) for name in TEXTS})


def _check_order(lines: Sequence[ScriptRow]) -> None:
    """Refuse a last line that does not come after those before it."""
    line = lines[-1]
    if len(lines) == 1 and line.start_s != 0:
        raise ValueError(f"`start` must be 0 in the first line, got {line.start_s:g}; say what the clip begins with")
    if line.end_s is not None and line.end_s <= line.start_s:
        raise ValueError(f"`end` must come after `start` {line.start_s:g}, got {line.end_s:g}; correct it")
    if len(lines) == 1:
        return
    before = lines[-2]
    if line.start_s <= before.start_s:
        raise ValueError(
            f"`start` must come after that of the line before, {before.start_s:g}, got {line.start_s:g}; sort the "
            "lines, and let none begin together"
        )
    if before.end_s is not None and before.end_s > line.start_s:
        raise ValueError(
            f"`start` must not come before the `end` of the line before, {before.end_s:g}, got {line.start_s:g}; "
            "lines must not overlap"
        )


def _check_column(column: str) -> None:
    if column not in COLUMNS:
        hint = did_you_mean(column, list(COLUMNS), f"a script has {', '.join(COLUMNS)}")
        raise ValueError(f"a column must be one of a script, got `{column}`; {hint}")


def _seconds(name: str, value: Any) -> float:
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if isinstance(value, bool) or not math.isfinite(seconds) or seconds < 0:
        raise ValueError(f"`{name}` must be a time in seconds, 0 or more, got {value!r}; write 2.5, say")
    return seconds


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not is_encodable(value):
        raise ValueError(f"`{name}` must be a text, got {value!r}; correct the cell")
    return value
