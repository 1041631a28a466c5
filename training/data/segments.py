"""Where the clips of a recording begin and end: inside one shot, and between words where those are known.

All positions are frames at the frame rate of the clips; a position is the instant at which that frame begins.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffusers_jova.training.data.envelope_sync import envelope
from diffusers_jova.training.data.subtitles import Speech, slack_s


LOUD_QUANTILE, FLOOR_QUANTILE = 0.95, 0.05  # of the level of all frames
PAUSE_LEVEL = 0.3  # between floor and loud, in the logarithm of the level
LEAST_RANGE = np.log(2)  # between floor and loud; a sound that is more even has no pauses that could be told
PAUSE_S = 0.1  # on either side of an edge; the closure of a plosive is shorter

OTHER_SHOT, BETWEEN_WORDS, REST, FIRST_ONLY, UNPAIRED = (
    "in shots shorter than a clip",
    "where no clip begins and ends between words",
    "at ends of shots, too short for a clip",
    "after the first clip (`--cut all` takes more)",
    "where picture or sound is missing",
)


class Segment(NamedTuple):
    """A clip to be: its first frame, and how many it has."""

    start: int
    num_frames: int


class Plan(NamedTuple):
    """The clips of a recording, and why the other frames are in none.

    Attributes:
        segments: In the order of time, without overlap.
        unused: Frames for each reason.
    """

    segments: list[Segment]
    unused: Counter[str]


def plan_segments(
    shots: Sequence[range],
    lengths_of: Callable[[int], Sequence[int]],
    is_edge: Callable[[int], bool],
    *,
    only_first: bool = False,
) -> Plan:
    """Place clips one after the other, each in one shot, each between two edges.

    Args:
        shots: Frames without a cut between them.
        lengths_of: Lengths that a clip may have in a shot of so many frames, the preferred one first; none if it is
            too short.
        is_edge: Whether a clip may begin or end at a position.
        only_first: Stop after one clip.
    """
    segments: list[Segment] = []
    unused: Counter[str] = Counter()
    for shot in shots:
        if only_first and segments:
            unused[FIRST_ONLY] += len(shot)
        elif not (lengths := lengths_of(len(shot))):
            unused[OTHER_SHOT] += len(shot)
        else:
            found = [*_place(shot, lengths, is_edge)]
            taken = found[:1] if only_first else found
            segments += taken
            _count_rest(shot, taken, min(lengths), unused, cut_short=len(taken) < len(found))
    return Plan(segments, unused)


def word_edges(speech: Sequence[Speech], num_frames: int, frame_rate: float) -> NDArray[np.bool_]:
    """Tell for every position, [num_frames + 1], whether no word or sentence goes on across it.

    Of each, `slack_s` is given up on either side.
    """
    times_s = np.arange(num_frames + 1) / frame_rate
    free = np.ones(num_frames + 1, bool)
    for part in speech:
        slack = slack_s(part, frame_rate)
        free &= ~((times_s > part.start_s + slack) & (times_s < part.end_s - slack))
    return free


def quiet_frames(
    audio: NDArray[np.float32], sampling_rate: int, num_frames: int, frame_rate: float
) -> NDArray[np.bool_]:
    """Tell for every frame, [num_frames], whether the sound [channels, samples] is low for its own range.

    A sound that is too even to tell is quiet nowhere.
    """
    level = envelope(audio.mean(axis=0), num_frames, frame_rate, sampling_rate)
    floor, loud = np.quantile(level, [FLOOR_QUANTILE, LOUD_QUANTILE])
    return (level <= floor + PAUSE_LEVEL * (loud - floor)) & (loud - floor >= LEAST_RANGE)


def quiet_edges(
    audio: NDArray[np.float32], sampling_rate: int, num_frames: int, frame_rate: float
) -> NDArray[np.bool_]:
    """Tell for every position, [num_frames + 1], whether the sound pauses for `PAUSE_S` on either side.

    In a sound too even to have pauses a clip may begin anywhere.
    """
    quiet = quiet_frames(audio, sampling_rate, num_frames, frame_rate)
    around = max(1, round(PAUSE_S * frame_rate))
    if not quiet.any():
        return np.ones(num_frames + 1, bool)
    return np.array([quiet[max(0, at - around) : at + around].all() for at in range(num_frames + 1)])


def _place(shot: range, lengths: Sequence[int], is_edge: Callable[[int], bool]) -> Iterator[Segment]:
    at = shot.start
    while at + min(lengths) <= shot.stop:
        ends = (length for length in lengths if at + length <= shot.stop and is_edge(at + length))
        length = next(ends, None) if is_edge(at) else None
        if length is None:
            at += 1
        else:
            yield Segment(at, length)
            at += length


def _count_rest(
    shot: range, taken: Sequence[Segment], shortest: int, unused: Counter[str], *, cut_short: bool
) -> None:
    """Count the frames of a shot that are in no clip: before and between clips, and at the end."""
    end = shot.start
    for segment in taken:
        unused[BETWEEN_WORDS] += segment.start - end
        end = segment.start + segment.num_frames
    rest = shot.stop - end
    reason = FIRST_ONLY if cut_short else REST if taken and rest < shortest else BETWEEN_WORDS
    unused[reason] += rest
