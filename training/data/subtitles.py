"""What is said when: words or sentences with their times, read from a subtitle file (`.srt`, `.vtt`), or written."""

from __future__ import annotations

import html
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from diffusers_jova.whole_files import write_text
from jova_cli.tables import read_text


TIME = re.compile(
    r"^(?:(\d+):)?(\d{1,2}):(\d{1,2})(?:[.,](\d{1,3}))?$"
)  # h:mm:ss,ms; the hours may be missing in .vtt
MARKUP = re.compile(r"<[^<>]*>|\{\\[^{}]*\}")  # <i>, <00:00:01.000> and the {\an8} of some editors
ARROW = "-->"
SUBTITLE_VTT = ".vtt"
HELD_GAP_S = 0.1  # between cues that are one display
SHORTEST_SPEECH_S = 0.05
MAX_SLACK_S, MAX_SLACK_SHARE = 0.08, 0.25


class Speech(NamedTuple):
    """A word, or as much of a sentence as one time is known of, in seconds from the first frame."""

    text: str
    start_s: float
    end_s: float


def read_subtitles(path: Path) -> list[Speech]:
    """Read the cues of a subtitle file, in the order of their beginnings; lines that captions repeat count once.

    Raises:
        ValueError: If a time cannot be read, a cue ends before it begins, or there is no cue.
    """
    cues = [cue for cue in _cues(read_text(path).splitlines(), path) if cue.text]
    if not cues:
        raise ValueError(
            f"`{path}` must hold cues `00:00:01,000 --> 00:00:02,500` with text, got none; export it again"
        )
    return sorted(cues, key=lambda cue: cue.start_s)


def slack_s(part: Speech, frame_rate: float) -> float:
    """How much of a word or sentence may lie beyond the edge of its clip, in seconds, on either side.

    Half a frame, because an edge is a whole frame; and of a longer word what a recogniser's times are unsure of.
    """
    return max(0.5 / frame_rate, min(MAX_SLACK_S, MAX_SLACK_SHARE * (part.end_s - part.start_s)))


def write_subtitles(path: Path, speech: Iterable[Speech]) -> None:
    """Write cues as a `.srt` file."""
    cues = (
        f"{number}\n{_srt_time(part.start_s)} {ARROW} {_srt_time(part.end_s)}\n{part.text}\n"
        for number, part in enumerate(speech, start=1)
    )
    write_text(path, "\n".join(cues))


def parts_within(speech: Iterable[Speech], start_s: float, end_s: float, frame_rate: float) -> list[Speech]:
    """What is said between two times; what only overlaps with them is not in it, and nothing is in two clips."""

    def is_inside(part: Speech) -> bool:
        slack = slack_s(part, frame_rate)
        middle_s = (part.start_s + part.end_s) / 2
        return part.start_s >= start_s - slack and part.end_s <= end_s + slack and start_s <= middle_s < end_s

    return [part for part in speech if is_inside(part) and part.text.strip()]


def spoken_within(speech: Iterable[Speech], start_s: float, end_s: float, frame_rate: float) -> str:
    """Join what is said between two times, see `parts_within`."""
    return " ".join(part.text.strip() for part in parts_within(speech, start_s, end_s, frame_rate))


def _cues(lines: Sequence[str], path: Path) -> Iterator[Speech]:
    """Each line of times with its lines of text, without those that the cue before it showed already."""
    at = [number for number, line in enumerate(lines) if ARROW in line]
    shown: list[str] = []
    shown_until_s = -math.inf
    for number, following in itertools.pairwise([*at, len(lines)]):
        before, _, after = lines[number].partition(ARROW)
        start_s, end_s = (_seconds(part, f"{path}, line {number + 1}") for part in (before, after))
        if end_s < start_s:
            raise ValueError(
                f"{path}, line {number + 1}: a cue must end after it begins, got `{lines[number].strip()}`; correct it"
            )
        text = _text(lines[number + 1 : following], is_last=following == len(lines), is_vtt=_is_vtt(path))
        is_held = start_s <= shown_until_s + HELD_GAP_S
        yield Speech(" ".join(_new_lines(shown, text, end_s - start_s) if is_held else text), start_s, end_s)
        shown, shown_until_s = text, end_s


def _is_vtt(path: Path) -> bool:
    return path.suffix.lower() == SUBTITLE_VTT


def _text(lines: Sequence[str], *, is_last: bool, is_vtt: bool) -> list[str]:
    """Lines of text of a cue, out of all between its times and those of the next one.

    In .vtt they end at the first empty line, and notes may follow; in .srt at the number of the next cue, which may
    have no empty line in front of it.
    """
    if is_vtt:
        lines = list(itertools.takewhile(bool, lines))  # a blank is no empty line: captions that roll have some
    elif lines and not is_last and lines[-1].strip().isdecimal():
        lines = lines[:-1]
    text = (html.unescape(MARKUP.sub("", line)).strip() for line in lines)
    return [line for line in text if line]


def _new_lines(shown: Sequence[str], text: list[str], duration_s: float) -> list[str]:
    """Lines of a cue that the one before it has not shown: captions that roll repeat their last lines.

    A cue that repeats all of them is new words, unless it is too short to speak them.
    """
    for count in range(min(len(shown), len(text)), 0, -1):
        if text[:count] == shown[-count:] and (count < len(text) or duration_s < SHORTEST_SPEECH_S):
            return text[count:]
    return text


def _seconds(text: str, where: str) -> float:
    """Read a time; in .vtt the settings of the cue follow the second one."""
    word = (text.split() or [""])[0]
    match = TIME.match(word)
    if match is None:
        raise ValueError(
            f"{where}: a time must be written hours:minutes:seconds,milliseconds, got `{word}`; correct it"
        )
    hours, minutes, seconds, fraction = (part or "0" for part in match.groups())
    return math.fsum((int(hours) * 3600, int(minutes) * 60, int(seconds), int(fraction.ljust(3, "0")) / 1000))


def _srt_time(time_s: float) -> str:
    """Write a time as hours:minutes:seconds,milliseconds; nothing is said before the beginning."""
    minutes, milliseconds = divmod(max(0, round(time_s * 1000)), 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{milliseconds // 1000:02d},{milliseconds % 1000:03d}"
