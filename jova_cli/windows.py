"""The windows of a long clip: what a model makes at a time, where each begins and how much it shares with the last.

Boundaries between new parts lie behind whole latents, at frames `factor * k + 1`, so that the end of each window is a
beginning that can be given to the next.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

from .latent_lengths import check_whole_frames, num_frames_of, whole_frames


OVERLAP_SHARE = 0.25  # of a window, at least; longer where lines are short
LONGEST_OVERLAP_SHARE = 0.5  # the longest beginning that models are trained to go on from


class Window(NamedTuple):
    """One window.

    Attributes:
        first_frame: Of the long clip, with which it begins.
        num_frames: Its length.
        num_overlap: Frames at its beginning that the window before it ends with; 0 for the first.
        line: Index of the line whose prompt it has.
        share: Beginning and end of its new part within the line, as fractions.
    """

    first_frame: int
    num_frames: int
    num_overlap: int
    line: int
    share: tuple[float, float]

    @property
    def end_frame(self) -> int:
        """Frame behind its last."""
        return self.first_frame + self.num_frames


class WindowSize(NamedTuple):
    """How long windows are at most, and what they share at least.

    Attributes:
        num_frames: Of a window, `factor * k + 1`.
        num_overlap: Of its beginning, `factor * k + 1`.
        factor: Frames per latent after the first.
    """

    num_frames: int
    num_overlap: int
    factor: int

    @classmethod
    def of_model(
        cls, own: int, longest: int | None, factor: int, num_frames: int | None = None, num_overlap: int | None = None
    ) -> WindowSize:
        """The size that is asked for, or the model's own.

        Args:
            own: Frames of the clips that the model makes unless it is told otherwise.
            longest: Frames of its longest clip; None without a limit.
            factor: Frames per latent after the first.
            num_frames: Of a window, if the caller asks for a number.
            num_overlap: Of the shared part, if the caller asks for a number.

        Raises:
            ValueError: If the model makes no such window, or nothing of it is new.
        """
        own = own if longest is None else min(own, longest)
        size = own if num_frames is None else num_frames
        if longest is not None and size > longest:
            raise ValueError(
                f"`window_frames` must be at most {longest}, the longest clip of this model, got {size}; use {own}"
            )
        check_whole_frames(size, factor, "window_frames")
        if size < 1 + factor:
            raise ValueError(f"`window_frames` must be at least {1 + factor}, got {size}; use {max(own, 1 + factor)}")
        most = whole_frames(math.ceil(LONGEST_OVERLAP_SHARE * size), factor)
        if num_overlap is None:
            shared = whole_frames(math.ceil(OVERLAP_SHARE * size), factor)
        else:
            shared = num_overlap
            if not 1 <= shared <= most:
                raise ValueError(
                    f"`overlap_frames` must be from 1 to {most}, half of a window of {size}, got {shared}; leave it "
                    "out"
                )
            check_whole_frames(shared, factor, "overlap_frames")
        return cls(size, shared, factor)

    def overlap_of(self, length: int, before: Window) -> int:
        """Frames that a window shares with the one before it, to which at least one latent of its own is left.

        Args:
            length: Of its new part.
            before: The window before.
        """
        half = length + 1  # of a window of `2 * length + 1`
        wanted = max(self.num_overlap, min(self.num_frames - length, half))
        return min(wanted, before.num_frames - self.factor)


def plan_windows(starts_s: Sequence[float], num_frames: int, frame_rate: float, size: WindowSize) -> list[Window]:
    """Cover a clip with windows, of which none has the prompts of two lines.

    A line that is longer than a window is divided evenly. Where the new part of a window is short, it shares more with
    the window before, up to half of itself, so that windows come close to the length that the model was trained with;
    it shares less than `size` says where the window before would keep nothing of its own. First frames ascend.

    Args:
        starts_s: Seconds at which the lines begin, ascending from 0.
        num_frames: Of the clip, `factor * k + 1`.
        frame_rate: Frames per second.
        size: Of the windows.

    Raises:
        ValueError: If a line is too short for a latent, or begins behind the end of the clip.
    """
    check_whole_frames(num_frames, size.factor)
    bounds = [0, *(_bound(start_s, frame_rate, size.factor) for start_s in starts_s[1:]), num_frames]
    windows: list[Window] = []
    for line, (first, last) in enumerate(itertools.pairwise(bounds)):
        least = 1 if line or len(starts_s) == 1 else 1 + size.factor  # the first window has a frame that is shared
        if last - first < least:
            raise ValueError(_too_short(line, starts_s, num_frames, frame_rate, size.factor))
        position = first
        for length in _lengths(last - first, size, is_first=line == 0):
            share = ((position - first) / (last - first), (position + length - first) / (last - first))
            overlap = size.overlap_of(length, windows[-1]) if windows else 0
            windows.append(Window(position - overlap, overlap + length, overlap, line, share))
            position += length
    return windows


def with_shorter_overlap(windows: Sequence[Window], index: int, num_overlap: int, factor: int) -> list[Window]:
    """Windows of which one shares less with the one before it, and each behind it no more than that one can give.

    Where new parts begin and end stays as it is.

    Args:
        windows: Of a clip, as `plan_windows` gives them.
        index: Of the window that shares less, at least 1.
        num_overlap: Frames that it shares, `factor * k + 1`, no more than planned.
        factor: Frames per latent after the first.
    """
    shortened = list(windows[:index])
    for window in windows[index:]:
        new_frame = window.first_frame + window.num_overlap
        num_overlap = min(num_overlap, window.num_overlap)
        shortened.append(
            window._replace(
                first_frame=new_frame - num_overlap,
                num_frames=window.end_frame - new_frame + num_overlap,
                num_overlap=num_overlap,
            )
        )
        num_overlap = shortened[-1].num_frames - factor  # the most that the next can share
    return shortened


def _bound(start_s: float, frame_rate: float, factor: int) -> int:
    """The frame nearest to a time at which a new part can begin."""
    return num_frames_of(1 + round((start_s * frame_rate - 1) / factor), factor)


def _lengths(num_frames: int, size: WindowSize, is_first: bool) -> list[int]:
    """Frames of the new parts of one line; the first window of a clip is new as a whole."""
    most = (size.num_frames - size.num_overlap) // size.factor  # latents
    first = (size.num_frames - 1) // size.factor if is_first else most
    num_latents = num_frames // size.factor
    count = 1 + math.ceil(max(0, num_latents - first) / most)
    begins = min(first, max(round(num_latents / count), num_latents - (count - 1) * most))
    rest = num_latents - begins
    later = [rest * (index + 1) // (count - 1) - rest * index // (count - 1) for index in range(count - 1)]
    lengths = [size.factor * length for length in (begins, *later)]
    return [lengths[0] + (1 if is_first else 0), *lengths[1:]]


def _too_short(line: int, starts_s: Sequence[float], num_frames: int, frame_rate: float, factor: int) -> str:
    """Why a line has no frames."""
    duration_s = num_frames / frame_rate
    if starts_s[line] >= duration_s or line == len(starts_s) - 1:
        return (
            f"`start` must come before the end of the clip, {duration_s:g} s, by {factor / frame_rate:g} s at least, "
            f"got {starts_s[line]:g}; lengthen the clip, or leave the line out"
        )
    return (
        f"`start` must come {factor / frame_rate:g} s, a latent, after that of the line before at least, got "
        f"{starts_s[line + 1]:g} after {starts_s[line]:g}; join the lines"
    )
