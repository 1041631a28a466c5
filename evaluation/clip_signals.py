"""What measures look at: the tracks of a clip, from one pass through its pictures; the sound is held whole.

Letters: F frames, P persons, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diffusers_jova.evaluation.measured import Measured
from diffusers_jova.media import (
    choose_frames,
    exact_frame_rate,
    find_video_stream,
    mix_channels,
    open_for_reading,
    read_audio,
)
from diffusers_jova.training.data.frame_stream import (
    Survey,
    decode_copies,
    decode_frames,
    read_sound_of_video,
    survey,
)
from diffusers_jova.training.data.manifest import Sample
from diffusers_jova.training.data.mouth_detector import MouthDetector, link_tracks, read_boxes
from jova_cli.parser import one_line


Frames = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.floating]

LUMA = (0.2126, 0.7152, 0.0722)  # ITU-R BT.709
CHUNK = 32  # frames in memory at a time
GRID = (9, 16)  # rows and columns of the tiles in which changes are looked for
DARK = 0.1  # of white


@dataclass(frozen=True, kw_only=True)
class PictureTracks:
    """A row of numbers for each frame.

    Attributes:
        frame_rate: Frames per second.
        size: Height and width, in pixels.
        luma: Mean, of white, [F].
        dark: Share of the pixels darker than a tenth of white, [F].
        detail: Variance of the Laplacian of luma in 0..255, [F].
        changes: Mean difference of each tile to the frame before it, of white, [F - 1, tiles].
        boxes: Mouths, [P, F, 4] xyxy in pixels, NaN where none is seen; None where nobody looked for them.
        copies: Which steps from a frame to the next lie within one stored frame, that the rate repeats, [F - 1]; None
            where each frame is one of its own.
        bad_boxes: Why those that were given cannot be read; empty if they can, or none were.
        held: The frames, uint8 [F, H, W, 3], where they are in memory; None where the file of the clip has them.
    """

    frame_rate: float
    size: tuple[int, int]
    luma: FloatArray
    dark: FloatArray
    detail: FloatArray
    changes: FloatArray
    boxes: FloatArray | None
    copies: npt.NDArray[np.bool_] | None = None
    bad_boxes: str = ""
    held: Frames | None = None

    @property
    def duration_s(self) -> float:
        """Seconds from the first frame to the end of the last."""
        return len(self.luma) / self.frame_rate


@dataclass(frozen=True, kw_only=True)
class Signals:
    """The tracks of a clip.

    Attributes:
        picture: None for sound alone.
        audio: float32 [channels, samples] from the first frame on; None for a silent file.
        sampling_rate: Of the sound, in Hz; 0 without.
    """

    picture: PictureTracks | None
    audio: FloatArray | None
    sampling_rate: int

    @property
    def waveform(self) -> FloatArray | None:
        """The sound as one channel, [samples]."""
        return None if self.audio is None else mix_channels(self.audio, 1)[0]

    def without_boxes(self) -> Measured:
        """What measures of mouths say where there are no boxes."""
        bad_boxes = "" if self.picture is None else self.picture.bad_boxes
        return Measured({}, bad_boxes or "no picture", has_failed=bool(bad_boxes))


@dataclass
class _Tracker:
    """Collects the numbers of frames as they pass."""

    luma: list[float] = field(default_factory=list)
    dark: list[float] = field(default_factory=list)
    detail: list[float] = field(default_factory=list)
    changes: list[FloatArray] = field(default_factory=list)
    last: FloatArray | None = None

    def add(self, frame: Frames) -> None:
        grey = frame.astype(np.float32) @ np.array(LUMA, np.float32)  # [H, W] in 0..255
        self.luma.append(float(grey.mean()) / 255)
        self.dark.append(float((grey < DARK * 255).mean()))
        self.detail.append(laplacian_variance(grey))
        if self.last is not None:
            self.changes.append(tile_means(np.abs(grey - self.last)) / 255)
        self.last = grey


def laplacian_variance(grey: FloatArray) -> float:
    """Variance of the Laplacian of [H, W] (Pech-Pacheco et al., ICPR 2000); 0 for less than three pixels a side."""
    if min(grey.shape) < 3:
        return 0.0
    middle = grey[1:-1, 1:-1]
    return float((grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * middle).var())


def tile_means(grey: FloatArray) -> FloatArray:
    """Means of [H, W] over a grid of tiles, fewer where there are fewer pixels: [tiles]."""
    starts = [np.unique(np.arange(n) * size // n) for size, n in zip(grey.shape, GRID, strict=True)]
    sums = np.add.reduceat(np.add.reduceat(grey, starts[0], axis=0), starts[1], axis=1)
    heights, widths = (np.diff([*start, size]) for start, size in zip(starts, grey.shape, strict=True))
    return (sums / np.outer(heights, widths)).ravel()


def track_pictures(
    frames: Iterable[Frames], frame_rate: float, detector: MouthDetector | None = None
) -> PictureTracks:
    """Follow frames, uint8 [H, W, 3], that need not be in memory together.

    Args:
        frames: Of one size.
        frame_rate: Frames per second.
        detector: Finds mouths; None looks for none.

    Raises:
        ValueError: If the size changes.
    """
    tracker, mouths, size = _Tracker(), [], None
    for chunk in _chunks(frames):
        size = size or chunk[0].shape[:2]
        if any(frame.shape[:2] != size for frame in chunk):
            raise ValueError("a clip must be a video of one size, got one that changes it; convert it with ffmpeg")
        for frame in chunk:
            tracker.add(frame)
        if detector is not None:
            mouths += _boxes_by_frame(detector(np.stack(chunk)))
    if size is None:
        raise ValueError("a clip must have at least one frame, got none; check the file")
    return PictureTracks(
        frame_rate=frame_rate,
        size=size,
        luma=np.array(tracker.luma),
        dark=np.array(tracker.dark),
        detail=np.array(tracker.detail),
        changes=np.array(tracker.changes).reshape(len(tracker.luma) - 1, tile_means(np.zeros(size)).size),
        boxes=None if detector is None else link_tracks(mouths),
    )


def _chunks(frames: Iterable[Frames]) -> Iterator[list[Frames]]:
    iterator = iter(frames)
    while chunk := list(islice(iterator, CHUNK)):
        yield chunk


def _boxes_by_frame(tracks: FloatArray) -> list[Any]:
    """The boxes [N, 4] that are seen in each frame of tracks [P, F, 4]."""
    return [boxes[np.isfinite(boxes).all(-1)] for boxes in np.moveaxis(tracks, 1, 0)]


def read_signals(sample: Sample, detector: MouthDetector | None = None, *, with_picture: bool = True) -> Signals:
    """Read the tracks of a clip at the frame rate and sampling rate that its file has.

    Args:
        sample: The files; a sound beside a video takes the place of its own.
        detector: Finds mouths; None looks for none.
        with_picture: Whether the frames are looked at.

    Raises:
        ValueError: If a video or a sound cannot be read.
    """
    picture = None if sample.video is None or not with_picture else _read_picture(sample, sample.video, detector)
    audio, sampling_rate = None, None
    if sample.audio is not None:
        audio, sampling_rate = read_audio(sample.audio, from_first_frame=True)
    elif sample.video is not None:
        audio, sampling_rate = read_sound_of_video(sample.video)
    if audio is not None and not np.isfinite(audio).all():
        raise ValueError("the sound must be finite, got NaN or infinity; export it again")
    return Signals(picture=picture, audio=audio, sampling_rate=sampling_rate or 0)


def frames_at(video: Path, picture: PictureTracks, frame_rate: Fraction) -> Iterator[Frames]:
    """The frames of a clip at a rate, uint8 [H, W, 3] each, by time; of its file unless they are in memory."""
    if picture.held is None:
        yield from decode_frames(video, frame_rate)
    else:
        yield from (picture.held[number] for number in _numbers_at(picture, frame_rate))


def survey_at(video: Path, picture: PictureTracks, frame_rate: Fraction) -> Survey:
    """Which frames of a clip `frames_at` takes; clips in memory are cut where scenes change, and have no cut."""
    if picture.held is None:
        return survey(video, frame_rate)
    return Survey(_numbers_at(picture, frame_rate), len(picture.luma), [])


def _numbers_at(picture: PictureTracks, frame_rate: Fraction) -> list[int]:
    rate, num_frames = exact_frame_rate(picture.frame_rate), len(picture.luma)
    timed = ((number / rate, number if number < num_frames else None) for number in range(num_frames + 1))
    return [*choose_frames(timed, rate, frame_rate)]


def frame_rate_of(video: Path) -> Fraction:
    """Frames per second of a file, at which it is looked at."""
    with open_for_reading(video) as container:
        return exact_frame_rate(find_video_stream(container, video)[1])


def _read_picture(sample: Sample, video: Path, detector: MouthDetector | None) -> PictureTracks:
    rate = frame_rate_of(video)
    copies: list[bool] = []

    def frames() -> Iterator[Frames]:
        for frame, is_copy in decode_copies(video, rate):
            copies.append(is_copy)
            yield frame

    tracks = track_pictures(frames(), float(rate), detector if sample.mouth_boxes is None else None)
    tracks = replace(tracks, copies=np.array(copies[1:], bool))
    if sample.mouth_boxes is None:
        return tracks
    taken = survey(video, rate)
    try:
        boxes = read_boxes(sample.mouth_boxes, taken.num_stored, tracks.size)
        return replace(tracks, boxes=boxes[:, taken.numbers])
    except ValueError as error:  # the picture is as good as without them
        return replace(tracks, bad_boxes=one_line(error))
