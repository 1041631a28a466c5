"""How long and how large clips can be, and an error for every one that cannot: what codecs and positions hold."""

import math
import sys
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .latent_lengths import AudioClock, num_frames_of, num_latent_frames, whole_frames


class GivenLengths(NamedTuple):
    """How long the media are that a call is given.

    Attributes:
        num_frames: Of a video; None without one.
        num_samples: Of a sound; 0 without one.
        sampling_rate: Its samples per second.
    """

    num_frames: int | None = None
    num_samples: int = 0
    sampling_rate: int = 1

    @property
    def audio_s(self) -> float:
        """Seconds of the sound."""
        return self.num_samples / self.sampling_rate


class ClipLimits(NamedTuple):
    """The largest clip.

    Attributes:
        num_frames: Frames.
        height: Pixels.
        width: Pixels.
        num_audio_latents: Latents of its sound.
    """

    num_frames: int
    height: int
    width: int
    num_audio_latents: int

    def longest(self, frame_rate: float, clock: AudioClock | None, temporal_factor: int) -> int:
        """Frames of the longest clip at a frame rate.

        Args:
            frame_rate: Frames per second.
            clock: Of its sound; None for a clip without.
            temporal_factor: Frames per latent after the first.
        """
        if clock is None:
            return self.num_frames

        def num_audio_latents(num_latents: int) -> int:
            return clock.num_latents(num_frames_of(num_latents, temporal_factor) / frame_rate)

        candidates = range(1, num_latent_frames(self.num_frames, temporal_factor) + 1)
        num_fitting = bisect_right(candidates, self.num_audio_latents, key=num_audio_latents)
        return num_frames_of(max(1, num_fitting), temporal_factor)

    def of_call(
        self, modalities: Sequence[str], frame_rate: float, clock: AudioClock | None, temporal_factor: int
    ) -> "ClipLimits":
        """Those of clips of some modalities at a frame rate; `num_frames` is then that of the longest."""
        limits = self if "video" in modalities else self._replace(num_frames=sys.maxsize)
        longest = limits.longest(frame_rate, clock if "audio" in modalities else None, temporal_factor)
        return limits._replace(num_frames=longest)


class Bucket(NamedTuple):
    """Size of a training clip in frames and pixels."""

    num_frames: int
    height: int
    width: int

    def __str__(self) -> str:
        return "x".join(map(str, self))

    @classmethod
    def parse(cls, text: str) -> "Bucket":
        """Read `FxHxW`."""
        parts = text.lower().split("x")
        if len(parts) != 3 or not all(part.isdecimal() for part in parts):
            raise ValueError(f"a bucket must be written FRAMESxHEIGHTxWIDTH, got `{text}`; 81x512x896, say")
        return cls(*map(int, parts))

    def check(self, temporal_factor: int, size_multiple: int) -> None:
        """Refuse a size that the model cannot take."""
        if (lower := whole_frames(self.num_frames, temporal_factor)) != self.num_frames:
            raise ValueError(
                f"the frames of a bucket must be {temporal_factor}k + 1 (the video VAE compresses time by "
                f"{temporal_factor}), got {self}; use {lower} or {lower + temporal_factor}"
            )
        if not self.height or not self.width or self.height % size_multiple or self.width % size_multiple:
            near = "x".join(str(max(1, round(side / size_multiple)) * size_multiple) for side in self[1:])
            raise ValueError(
                f"the sides of a bucket must be multiples of {size_multiple}, got {self}; use {self.num_frames}x{near}"
            )


def clip_limits(transformer: Mapping[str, Any], temporal_factor: int, spatial_factor: int) -> ClipLimits | None:
    """The largest clip of a transformer; None where positions are computed, which have no end.

    Args:
        transformer: Its config.
        temporal_factor: Frames per latent after the first.
        spatial_factor: Pixels per latent cell.
    """
    tables = transformer.get("position_table_sizes")
    if tables is None:
        return None
    rows = [size * patch for size, patch in zip(tables, transformer["patch_size"], strict=True)]
    return ClipLimits(
        num_frames=(rows[0] - 1) * temporal_factor + 1,
        height=rows[1] * spatial_factor,
        width=rows[2] * spatial_factor,
        num_audio_latents=transformer["audio_position_table_size"],
    )


def rounded_down(seconds: float) -> float:
    """Seconds with two decimals that are no more than they are."""
    return math.floor(seconds * 100) / 100


def check_size(size: Any, spatial_factor: int, patch_size: Sequence[int]) -> None:
    """Refuse sizes that the video VAE and the transformer cannot hold.

    Args:
        size: Has `height` and `width`, in pixels.
        spatial_factor: Pixels per latent cell.
        patch_size: Latents per row along (frames, height, width).
    """
    for name, patch in zip(("height", "width"), patch_size[1:], strict=True):
        value, multiple = getattr(size, name), spatial_factor * patch
        if value <= 0 or value % multiple:
            near = max(multiple, round(value / multiple) * multiple)
            raise ValueError(f"`{name}` must be a positive multiple of {multiple}, got {value}; use {near}")


def check_largest_size(size: Any, limits: ClipLimits, own: Any = None) -> None:
    """Refuse frames that are larger than the transformer has positions for.

    Args:
        size: As in `check_size`.
        limits: Of the transformer.
        own: The size that a pipeline takes where a call says nothing.
    """
    for name in ("height", "width"):
        value, largest = getattr(size, name), getattr(limits, name)
        if value > largest:
            default = " by the `defaults` of the pipeline" if value == getattr(own, name, None) else ""
            raise ValueError(f"`{name}` must be at most {largest} for this model, got {value}{default}; use {largest}")


class LengthWords(NamedTuple):
    """How the arguments are called that set a length, and what to do where it is too long; `{}` is the longest.

    Attributes:
        num_frames: Name of the number of frames.
        video: Name of given frames.
        cut_audio: What to do with a given sound, of seconds.
        cut_video: What to do with given frames, of frames.
        by_windows: What else to do with frames that are not given.
        slower: What else to do with frames of a high rate.
    """

    num_frames: str = "num_frames"
    video: str = "video"
    cut_audio: str = "cut it, by `duration_s={}` of `media.read_audio` or by `--duration {}`"
    cut_video: str = "set `num_frames={}`, or `--num-frames {}`, to take its beginning"
    by_windows: str = ""
    slower: str = ""


CALL_WORDS = LengthWords(by_windows=", or make the clip by windows, by `LongClip` or `--window-frames`")


def check_length(
    num_frames: int, frame_rate: float, longest: int, given: GivenLengths, words: LengthWords = CALL_WORDS
) -> None:
    """Refuse a clip that is longer than the transformer has positions for, by what makes it so.

    Args:
        num_frames: Of the clip.
        frame_rate: Frames per second.
        longest: Frames of the longest clip.
        given: What may have set `num_frames`.
        words: Of those who ask.
    """
    longest_s = rounded_down(longest / frame_rate)
    counted = f"{longest} frame{'s' * (longest != 1)}"
    limit = f"{longest_s} s, {counted} at {frame_rate:g} per second, the longest clip of this model"
    is_long = num_frames > longest
    if (is_long or given.num_frames is None) and round(given.audio_s * frame_rate, 3) > longest:
        more = words.by_windows if given.num_frames is None else words.slower
        advice = words.cut_audio.format(*[longest_s] * 2) + more
        raise ValueError(f"`audio` must last at most {limit}, got {given.audio_s:.2f} s; {advice}")
    if is_long and given.num_frames is not None and given.num_frames > longest:
        advice = f"{words.cut_video.format(*[longest] * 2)}{words.slower or words.by_windows}"
        found = f"{given.num_frames} frames; {advice}"
        raise ValueError(f"`{words.video}` must last at most {limit}, got {found}")
    if is_long:
        name = words.num_frames
        advice = f"use {longest}{words.by_windows}"
        raise ValueError(f"`{name}` must be at most {longest} ({limit}), got {num_frames}; {advice}")


def check_sound_fits(given: GivenLengths, num_frames: int, frame_rate: float, temporal_factor: int) -> None:
    """Refuse given sound that is longer than the clip; beside a given video, by more than the frames of one latent."""
    tolerated_frames = 0 if given.num_frames is None else temporal_factor
    if given.num_samples > round((num_frames + tolerated_frames) / frame_rate * given.sampling_rate):
        raise ValueError(
            f"`audio` must last at most as long as the clip, {num_frames / frame_rate:.3f} s, got "
            f"{given.audio_s:.3f} s; cut it, or leave the number of frames out to fit the clip to the sound, or take "
            f"its beginning by `--duration {rounded_down(num_frames / frame_rate)}`"
        )
