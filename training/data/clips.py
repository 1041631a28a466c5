"""From a file to training clips: cut, resampled, cropped, with mouth boxes in the pixels of the crop; no model needed.

Letters: F frames, H x W pixels, P persons. A bucket is the size of a clip, written FxHxW.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffusers_jova.media import normalize_loudness, read_audio, read_image, read_video
from diffusers_jova.pictures import fit_pictures, place
from diffusers_jova.training.data.envelope_sync import envelope, envelope_sync
from diffusers_jova.training.data.frame_stream import FrameStream, read_frame_numbers, read_sound_of_video
from diffusers_jova.training.data.manifest import Sample
from diffusers_jova.training.data.mouth_detector import MouthDetector, read_boxes
from diffusers_jova.training.data.mouth_mask import clip_visible, interpolate_gaps, transform_boxes


Cut = Literal["first", "all"]

MAX_GAP_S = 1 / 3  # how long a mouth may be lost and still be interpolated
LITTLE_KEPT = 0.6  # of the picture; less is worth a word, a head may be gone
MIN_MOUTH_SHARE = 0.5  # of the frames, for `require_mouth`
SILENCE_PEAK = 1e-4
SOUND_TOLERANCE_S = 0.1  # by which a sound may end before its picture; codecs round to blocks
BROKEN_CLIP_ERRORS = (OSError, ValueError, RuntimeError, MemoryError)  # of `load_clips`: this file, not the next one


class SkippedClipError(Exception):
    """A readable clip that does not suit the data set; the message says why."""


class Bucket(NamedTuple):
    """Size of a training clip in frames and pixels."""

    num_frames: int
    height: int
    width: int

    def __str__(self) -> str:
        return "x".join(map(str, self))

    @classmethod
    def parse(cls, text: str) -> Bucket:
        """Read `FxHxW`."""
        parts = text.lower().split("x")
        if len(parts) != 3 or not all(part.isdecimal() for part in parts):
            raise ValueError(f"a bucket must be written FRAMESxHEIGHTxWIDTH, got `{text}`; 81x512x896, say")
        return cls(*map(int, parts))

    def check(self, temporal_factor: int, size_multiple: int) -> None:
        """Refuse a size that the model cannot take."""
        if not self.num_frames or (self.num_frames - 1) % temporal_factor:
            lower = max(0, self.num_frames - 1) // temporal_factor * temporal_factor + 1
            raise ValueError(
                f"the frames of a bucket must be {temporal_factor}k + 1 (the video VAE compresses time by "
                f"{temporal_factor}), got {self}; use {lower} or {lower + temporal_factor}"
            )
        if not self.height or not self.width or self.height % size_multiple or self.width % size_multiple:
            near = "x".join(str(max(1, round(side / size_multiple)) * size_multiple) for side in self[1:])
            raise ValueError(
                f"the sides of a bucket must be multiples of {size_multiple}, got {self}; use {self.num_frames}x{near}"
            )


@dataclass(frozen=True, kw_only=True)
class ClipSettings:
    """How files become clips.

    Attributes:
        buckets: Allowed sizes; a clip takes the one of the nearest aspect ratio, and of these the longest that fits.
        frame_rate: Frames per second of every clip.
        cut: `first` takes the beginning of a file; `all` cuts it into as many clips as fit.
        upscale: Accept files that are smaller than their bucket.
        loudness_lufs: Normalise the sound of a file to this loudness; None leaves it.
        require_mouth: Skip clips in which less than half of the frames show a mouth.
        require_sound: Skip clips without sound, or with silence.
        min_sync: Skip clips in which mouth and sound correlate less than this, see `sync_of`; None keeps all.
    """

    buckets: tuple[Bucket, ...]
    frame_rate: float
    cut: Cut = "first"
    upscale: bool = False
    loudness_lufs: float | None = None
    require_mouth: bool = False
    require_sound: bool = False
    min_sync: float | None = None


class Clip(NamedTuple):
    """One training clip.

    Attributes:
        bucket: Its size; for sound alone, the number of frames that last as long.
        frames: uint8 [F, H, W, 3]; None for sound alone.
        audio: float32 [channels, samples] as long as the frames; None for a silent clip.
        sampling_rate: Samples per second of the sound; 0 without.
        mouth_boxes: float32 [P, F, 4] xyxy in pixels of the crop, NaN = no mouth.
        reference_image: uint8 [H, W, 3] to condition on; None stands for the first frame.
        kept_share: Part of the file's picture that the crop keeps.
    """

    bucket: Bucket
    frames: NDArray[np.uint8] | None
    audio: NDArray[np.float32] | None
    sampling_rate: int
    mouth_boxes: NDArray[np.float32]
    reference_image: NDArray[np.uint8] | None
    kept_share: float = 1.0


def load_clips(sample: Sample, settings: ClipSettings, detector: MouthDetector) -> list[Clip]:
    """Read, cut and crop one sample.

    Raises:
        SkippedClipError: If the file is sound but unsuitable.
        BROKEN_CLIP_ERRORS: If it is broken.
    """
    frames, audio, sampling_rate = _read(sample, settings)
    if audio is not None and not np.isfinite(audio).all():
        raise ValueError("the sound must be finite, got NaN or infinity; export it again")
    if settings.require_sound and (audio is None or np.abs(audio).max(initial=0) < SILENCE_PEAK):
        raise SkippedClipError("no sound" if audio is None else "the sound is silence")
    if audio is not None and settings.loudness_lufs is not None:
        audio = normalize_loudness(audio, sampling_rate, settings.loudness_lufs)
    length = _common_length(frames, audio, sampling_rate, settings.frame_rate)
    bucket = choose_bucket(length, None if frames is None else frames.shape[1:3], settings)
    starts = range(0, length - bucket.num_frames + 1, bucket.num_frames)
    if settings.cut == "all" and len(starts) > 1 and sample.transcript:
        raise SkippedClipError(
            f"one transcript for {len(starts)} clips; cut the file yourself or transcribe each clip"
        )
    given, max_gap = _given_boxes(sample, frames, settings.frame_rate), round(MAX_GAP_S * settings.frame_rate)
    clips = []
    for start in starts if settings.cut == "all" else starts[:1]:
        window = slice(start, start + bucket.num_frames)
        sound = None if audio is None else cut_sound(audio, sampling_rate, start, bucket, settings.frame_rate)
        if frames is None:
            clips.append(
                Clip(bucket, None, sound, sampling_rate, np.zeros((0, bucket.num_frames, 4), np.float32), None)
            )
            continue
        pixels = frames[window]
        boxes = detector(pixels) if given is None else given[:, window]
        cropped, cropped_boxes = fit(pixels, interpolate_gaps(boxes, max_gap), bucket)
        image = None if sample.reference_image is None else _read_reference(sample.reference_image, bucket)
        rate, share = sampling_rate if audio is not None else 0, math.exp(-_stretch(bucket, frames.shape[1:3]))
        clips.append(Clip(bucket, cropped, sound, rate, cropped_boxes, image, share))
    if settings.require_mouth:
        shares = [mouth_share(clip) for clip in clips]
        clips = _require(clips, shares, MIN_MOUTH_SHARE, "a mouth is visible in {:.0%} of the frames")
    if settings.min_sync is not None:
        scores = [sync_of(clip, settings.frame_rate) for clip in clips]
        clips = _require(clips, scores, settings.min_sync, "mouth and sound correlate by {:.2f}")
    return clips


def choose_bucket(num_frames: int, size: tuple[int, ...] | None, settings: ClipSettings) -> Bucket:
    """Choose the bucket of a file of `num_frames` frames of `size` (height, width); sound alone has no size."""
    buckets = settings.buckets
    if size is not None and not settings.upscale:
        buckets = tuple(b for b in buckets if b.height <= size[0] and b.width <= size[1])
        if not buckets:
            raise SkippedClipError(f"{size[0]}x{size[1]} pixels are smaller than every bucket; allow upscaling")
    buckets = tuple(bucket for bucket in buckets if bucket.num_frames <= num_frames)
    if not buckets:
        shortest = min(bucket.num_frames for bucket in settings.buckets)
        raise SkippedClipError(
            f"picture and sound last {num_frames} frames at {settings.frame_rate:g} per second; "
            f"a bucket needs {shortest}"
        )

    def preference(bucket: Bucket) -> tuple[float, int, int]:
        stretch = 0.0 if size is None else _stretch(bucket, size)
        return round(stretch, 6), -bucket.num_frames, -bucket.height * bucket.width

    return min(buckets, key=preference)


def fit(
    frames: NDArray[np.uint8], boxes: NDArray[np.float32], bucket: Bucket
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Crop the centre to the aspect ratio of the bucket and resize; boxes go the same way in float.

    Args:
        frames: uint8 [F, h, w, 3].
        boxes: [P, F, 4] in pixels of `frames`.
        bucket: Size wanted.

    Returns:
        uint8 [F, H, W, 3], and boxes in its pixels, clipped to it, NaN where too little is left.
    """
    placed = place(frames.shape[1:3], (bucket.height, bucket.width))
    moved = transform_boxes(boxes, (placed.scale_x, placed.scale_y), (placed.crop_x, placed.crop_y))
    visible = clip_visible(moved, bucket.height, bucket.width).astype(np.float32)
    return fit_pictures(frames, bucket.height, bucket.width), visible


def _stretch(bucket: Bucket, size: tuple[int, ...]) -> float:
    """How far the aspect ratio of (height, width) is from the bucket; the crop keeps exp(-stretch) of the picture."""
    return abs(math.log(bucket.height / bucket.width * size[1] / size[0]))


def mouth_share(clip: Clip) -> float:
    """Share of the frames that show a mouth."""
    return float(np.isfinite(clip.mouth_boxes).all(-1).any(0).mean())


def sync_of(clip: Clip, frame_rate: float) -> float:
    """Correlation of the opening of the best mouth with the loudness; 0 without a mouth or without sound.

    The opening is height / width of the box. Measured on 24 synthetic speakers with boxes of the face mesh: .79 on
    average for their own sound, .22 for that of another one, .59 and .54 at the percentiles 5 and 95 that face each
    other.
    """
    if clip.audio is None:
        return 0.0
    loudness = envelope(clip.audio.mean(axis=0), clip.bucket.num_frames, frame_rate, clip.sampling_rate)
    x1, y1, x2, y2 = np.moveaxis(clip.mouth_boxes, -1, 0)
    openings = (y2 - y1) / (x2 - x1)  # [P, F]
    seen = (np.isfinite(opening) for opening in openings)
    scores = [envelope_sync(o[s], loudness[s], 0).correlation for o, s in zip(openings, seen, strict=True) if s.any()]
    return max(scores, default=0.0)


def cut_sound(
    audio: NDArray[np.float32], sampling_rate: int, start: int, bucket: Bucket, frame_rate: float
) -> NDArray[np.float32]:
    """Cut the sound of frames `start` .. of a clip; the tolerated rest after its end is silence."""
    first, last = (round(frame / frame_rate * sampling_rate) for frame in (start, start + bucket.num_frames))
    sound = audio[:, first:last]
    return np.pad(sound, ((0, 0), (0, last - first - sound.shape[1])))


def _read(sample: Sample, settings: ClipSettings) -> tuple[Any, Any, int]:
    """Frames at the frame rate of the clips (or None), sound (or None) and its sampling rate (or 0)."""
    frames: Any = None
    audio, sampling_rate = None, None
    if sample.video is not None and settings.cut == "first":
        limit = max(bucket.num_frames for bucket in settings.buckets)
        frames, _, audio, sampling_rate = read_video(
            sample.video, frame_rate=settings.frame_rate, max_num_frames=limit
        )
    elif sample.video is not None:
        frames = FrameStream(sample.video, settings.frame_rate)
        audio, sampling_rate = read_sound_of_video(sample.video)
    if sample.audio is not None:
        audio, sampling_rate = read_audio(sample.audio)
    return frames, audio, sampling_rate or 0


def _common_length(frames: Any, audio: Any, sampling_rate: int, frame_rate: float) -> int:
    """Frames for which there are picture and sound, as far as the file has both."""
    lengths = [] if frames is None else [len(frames)]
    if audio is not None:
        lengths.append(int((audio.shape[1] / sampling_rate + SOUND_TOLERANCE_S) * frame_rate))
    return min(lengths)


def _given_boxes(sample: Sample, frames: Any, frame_rate: float) -> NDArray[Any] | None:
    """Boxes [P, F, 4] of the sample in pixels of the file, for each frame that is read; None leaves them to find."""
    if frames is None or sample.mouth_boxes is None:
        return None
    assert sample.video is not None
    is_stream = isinstance(frames, FrameStream)
    known = (frames.numbers, frames.num_stored) if is_stream else read_frame_numbers(sample.video, frame_rate)
    numbers, num_stored = known
    return read_boxes(sample.mouth_boxes, num_stored)[:, numbers[: len(frames)]]


def _read_reference(path: Path, bucket: Bucket) -> NDArray[np.uint8]:
    image = np.asarray(read_image(path), np.uint8)
    return fit(image[None], np.zeros((0, 1, 4), np.float32), bucket)[0][0]


def _require(clips: list[Clip], scores: Sequence[float], minimum: float, reason: str) -> list[Clip]:
    """Keep the clips with a score of at least `minimum`; a sample without any is skipped for the `reason`."""
    kept = [clip for clip, score in zip(clips, scores, strict=True) if score >= minimum]
    if not kept:
        raise SkippedClipError(reason.format(max(scores)))
    return kept
