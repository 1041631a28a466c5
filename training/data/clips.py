"""From a file to training clips: cut, resampled, cropped, with mouth boxes in the pixels of the crop; no model needed.

Letters: F frames, H x W pixels, P persons. A bucket is the size of a clip, written FxHxW.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from diffusers_jova.media import normalize_loudness, read_audio, read_image
from diffusers_jova.pictures import fit_pictures, place
from diffusers_jova.training.data.envelope_sync import envelope, envelope_sync
from diffusers_jova.training.data.face_crop import crop_path, cut_share
from diffusers_jova.training.data.frame_stream import FrameStream, StillImage, read_sound_of_video
from diffusers_jova.training.data.manifest import Sample
from diffusers_jova.training.data.mouth_detector import MouthDetector, read_boxes
from diffusers_jova.training.data.mouth_mask import clip_visible, interpolate_gaps, transform_boxes
from diffusers_jova.training.data.scene_cuts import shots_between
from diffusers_jova.training.data.segments import (
    UNPAIRED,
    Plan,
    Segment,
    plan_segments,
    quiet_edges,
    quiet_frames,
    word_edges,
)
from diffusers_jova.training.data.subtitles import Speech, parts_within, read_subtitles, spoken_within
from jova_cli.clip_arguments import MAX_RATE_HZ, MIN_LUFS, check_between


Cut = Literal["first", "all", "pauses"]
Transcribe: TypeAlias = Callable[[NDArray[np.float32], int], list[Speech]]

MAX_GAP_S = 1 / 3  # how long a mouth may be lost and still be interpolated
LITTLE_KEPT = 0.6  # of the picture; less is worth a word, a head may be gone
MIN_MOUTH_SHARE = 0.5  # of the frames, for `require_mouth`
SILENCE_PEAK = 1e-4
SOUND_TOLERANCE_S = 0.1  # by which a sound may end before its picture; codecs round to blocks
BROKEN_CLIP_ERRORS = (
    OSError,
    ValueError,
    RuntimeError,
    MemoryError,
)  # of `read_recording`: this file, not the next one


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
        buckets: Allowed sizes; a clip takes the one of the nearest aspect ratio, and of these the longest that fits. A
            still image takes one of those of one frame, or without such one of any as if it had one frame, and clips
            take the others.
        frame_rate: Frames per second of every clip.
        cut: `first` takes one clip of a file, at its beginning; `all` as many as fit; `pauses` those that begin and
            end where the sound pauses. No clip spans a cut of the picture, and where the times of words are known,
            every clip begins and ends between them.
        follow_face: Where a crop cuts something away, keep the faces in it; without, it stays at the centre.
        upscale: Accept files that are smaller than their bucket.
        loudness_lufs: Normalise the sound of a file to this loudness; None leaves it.
        require_mouth: Skip clips in which less than half of the frames show a mouth.
        require_sound: Skip clips without sound, or with silence; still images stay.
        min_sync: Skip clips in which mouth and sound correlate less than this, see `sync_of`; None keeps all, and
            still images stay.
    """

    buckets: tuple[Bucket, ...]
    frame_rate: float
    cut: Cut = "first"
    follow_face: bool = True
    upscale: bool = False
    loudness_lufs: float | None = None
    require_mouth: bool = False
    require_sound: bool = False
    min_sync: float | None = None

    def __post_init__(self) -> None:
        """Refuse numbers that no clip can have."""
        check_between("frame_rate", self.frame_rate, 1 / MAX_RATE_HZ, MAX_RATE_HZ, "24, say")
        check_between("loudness_lufs", self.loudness_lufs, MIN_LUFS, 0, "-23, say")
        check_between("min_sync", self.min_sync, -1, 1, "0.5, say")


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
        start_s: Where it begins in its file, in seconds.
        words: What is said in it; None where only the sample's transcript, or nobody, knows.
        cut_share: Part of its faces that the crop cuts into.
        speech: What is said in it when, from its beginning on; None where nobody knows.
    """

    bucket: Bucket
    frames: NDArray[np.uint8] | None
    audio: NDArray[np.float32] | None
    sampling_rate: int
    mouth_boxes: NDArray[np.float32]
    reference_image: NDArray[np.uint8] | None
    kept_share: float = 1.0
    start_s: float = 0.0
    words: str | None = None
    cut_share: float = 0.0
    speech: tuple[Speech, ...] | None = None


class Recording(NamedTuple):
    """The clips of one file.

    Attributes:
        clips: In the order of time.
        length_s: Seconds of the file.
        unused_s: Seconds that are in no clip, for each reason.
    """

    clips: list[Clip]
    length_s: float
    unused_s: dict[str, float]


class _Tracks(NamedTuple):
    """Picture and sound of a file.

    Attributes:
        frames: None for sound alone.
        audio: float32 [channels, samples]; None for silence.
        sampling_rate: Samples per second; 0 without a track of sound.
        length: Frames for which there are picture and sound, as far as the file has both.
        longest: Frames for which there is either.
    """

    frames: FrameStream | StillImage | None
    audio: NDArray[np.float32] | None
    sampling_rate: int
    length: int
    longest: int


def read_recording(
    sample: Sample, settings: ClipSettings, detector: MouthDetector, transcriber: Transcribe | None = None
) -> Recording:
    """Read one sample, and cut and crop it into clips.

    Args:
        sample: The files, and what is known of them.
        settings: How they become clips.
        detector: Finds mouths where no boxes are given.
        transcriber: Writes down what is said, with times, where nobody wrote it.

    Raises:
        SkippedClipError: If the file is sound but unsuitable.
        BROKEN_CLIP_ERRORS: If it is broken.
    """
    settings = for_stills(settings) if sample.is_still else for_clips(settings)
    tracks = _read(sample, settings)
    speech = _speech(sample, tracks, transcriber)
    bucket, plan = _plan(tracks, settings, speech)
    if sample.transcript:
        _check_whole(plan.segments, tracks, settings.frame_rate)
    given = _given_boxes(sample, tracks.frames)
    clips = [
        _cut(sample, tracks, segment, bucket._replace(num_frames=segment.num_frames), settings, given, detector)
        for segment in plan.segments
    ]
    if speech is not None:
        clips = [_with_words(clip, speech, settings.frame_rate) for clip in clips]
    unused_s = {reason: frames / settings.frame_rate for reason, frames in plan.unused.items() if frames}
    recording = Recording(clips, tracks.longest / settings.frame_rate, unused_s)
    if settings.require_sound:
        recording = _require(recording, peak, SILENCE_PEAK, "its largest sample is {:.5f}", settings)
    if settings.require_mouth:
        recording = _require(
            recording, mouth_share, MIN_MOUTH_SHARE, "a mouth is visible in {:.0%} of the frames", settings
        )
    if settings.min_sync is not None:
        sync = functools.partial(sync_of, frame_rate=settings.frame_rate)
        recording = _require(recording, sync, settings.min_sync, "mouth and sound correlate by {:.2f}", settings)
    return recording


def for_stills(settings: ClipSettings) -> ClipSettings:
    """Settings for still images: buckets of one frame, and no demands on a sound."""
    own = [bucket for bucket in settings.buckets if bucket.num_frames == 1] or settings.buckets
    buckets = tuple(dict.fromkeys(bucket._replace(num_frames=1) for bucket in own))
    return replace(settings, buckets=buckets, cut="first", require_sound=False, min_sync=None)


def for_clips(settings: ClipSettings) -> ClipSettings:
    """Settings for clips: those of one frame are for still images where there are others."""
    longer = tuple(bucket for bucket in settings.buckets if bucket.num_frames > 1)
    return replace(settings, buckets=longer or settings.buckets)


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


def fit_along(
    frames: NDArray[np.uint8], boxes: NDArray[np.float32], bucket: Bucket, path: NDArray[np.int_]
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Crop along a path in place of the centre, then resize; see `fit`.

    Args:
        frames: uint8 [F, h, w, 3].
        boxes: [P, F, 4] in pixels of `frames`.
        bucket: Size wanted.
        path: Left upper corner (x, y) of the crop in each frame, [F, 2]; whole pixels of `frames`.

    Returns:
        uint8 [F, H, W, 3], and boxes in its pixels.
    """
    height, width = crop_size(frames.shape[1:3], bucket)
    cut = np.stack([frame[y : y + height, x : x + width] for frame, (x, y) in zip(frames, path, strict=True)])
    return fit(cut, (boxes - np.tile(path, 2)).astype(np.float32), bucket)


def crop_size(size: tuple[int, int], bucket: Bucket) -> tuple[int, int]:
    """Height and width of what the crop keeps of a picture of `size`, in its whole pixels."""
    scale = max(bucket.height / size[0], bucket.width / size[1])
    height, width = (min(side, round(wanted / scale)) for side, wanted in zip(size, bucket[1:], strict=True))
    return height, width


def crop_windows(
    size: tuple[int, int], bucket: Bucket, path: NDArray[np.int_] | None, num_frames: int
) -> NDArray[np.int_]:
    """What the crop keeps of each frame of `size`, xyxy [F, 4]; None is the path that stays at the centre."""
    height, width = crop_size(size, bucket)
    centre = np.array([(size[1] - width) // 2, (size[0] - height) // 2])
    corners = np.tile(centre, (num_frames, 1)) if path is None else path
    return np.concatenate([corners, corners + np.array([width, height])], axis=1)


def _stretch(bucket: Bucket, size: tuple[int, ...]) -> float:
    """How far the aspect ratio of (height, width) is from the bucket; the crop keeps exp(-stretch) of the picture."""
    return abs(math.log(bucket.height / bucket.width * size[1] / size[0]))


def peak(clip: Clip) -> float:
    """Largest sample of the sound, without its sign; 0 without sound."""
    return 0.0 if clip.audio is None else float(np.abs(clip.audio).max(initial=0))


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


def _read(sample: Sample, settings: ClipSettings) -> _Tracks:
    """Open the picture, decode the sound, and refuse what is unsuitable as a whole."""
    frames: FrameStream | StillImage | None = None
    if sample.video is not None:
        frames = StillImage(sample.video) if sample.is_still else FrameStream(sample.video, settings.frame_rate)
    audio, sampling_rate = None, None
    if sample.audio is not None:
        audio, sampling_rate = read_audio(sample.audio)
    elif sample.video is not None and not sample.is_still:
        audio, sampling_rate = read_sound_of_video(sample.video)
    if audio is not None and not np.isfinite(audio).all():
        raise ValueError("the sound must be finite, got NaN or infinity; export it again")
    is_silent = audio is not None and np.abs(audio).max(initial=0) < SILENCE_PEAK
    if (settings.require_sound or frames is None) and (audio is None or is_silent):
        raise SkippedClipError("no sound" if audio is None else "the sound is silence")
    both = [] if frames is None else [len(frames)]
    either = [*both]
    if audio is not None and sampling_rate:
        both.append(int((audio.shape[1] / sampling_rate + SOUND_TOLERANCE_S) * settings.frame_rate))
        either.append(int(audio.shape[1] / sampling_rate * settings.frame_rate))
    if is_silent:
        audio = None  # a track of zeros is no sound to learn from
    if audio is not None and sampling_rate and settings.loudness_lufs is not None:
        audio = normalize_loudness(audio, sampling_rate, settings.loudness_lufs)
    return _Tracks(frames, audio, sampling_rate or 0, min(both), max(either))


def _speech(sample: Sample, tracks: _Tracks, transcriber: Transcribe | None) -> list[Speech] | None:
    """What is said when, from subtitles or by listening where no words are written; None where it is not known."""
    if sample.subtitles is not None:
        return read_subtitles(sample.subtitles)
    if sample.caption or sample.transcript or transcriber is None or tracks.audio is None:
        return None
    return transcriber(tracks.audio, tracks.sampling_rate)


def _plan(tracks: _Tracks, settings: ClipSettings, speech: list[Speech] | None) -> tuple[Bucket, Plan]:
    """Choose the size of the clips, and where they begin and end."""
    length, size = tracks.length, None if tracks.frames is None else tracks.frames.shape[1:3]
    shots = shots_between(() if tracks.frames is None else tracks.frames.cuts, length)
    choose_bucket(length, size, settings)  # raises if the file as a whole is too short or too small
    try:
        bucket = choose_bucket(max(map(len, shots)), size, settings)
    except SkippedClipError as error:
        raise SkippedClipError(f"{len(shots)} shots, and a clip must lie in one: in the longest, {error}") from error
    lengths = sorted({b.num_frames for b in settings.buckets if b[1:] == bucket[1:]}, reverse=True)
    free = np.ones(length + 1, bool)
    if speech is not None:
        free &= word_edges(speech, length, settings.frame_rate)
    elif settings.cut == "pauses" and tracks.audio is not None:
        free &= quiet_edges(tracks.audio, tracks.sampling_rate, length, settings.frame_rate)
    plan = plan_segments(
        shots,
        lambda num_frames: [n for n in lengths if n <= num_frames],
        lambda at: bool(free[at]),
        only_first=settings.cut == "first",
    )
    if not plan.segments:
        raise SkippedClipError(
            f"no {min(lengths)} frames begin and end between words; give shorter `--buckets`, or times of single words"
        )
    plan.unused[UNPAIRED] += max(0, tracks.longest - length)
    return bucket, plan


def _check_whole(segments: Sequence[Segment], tracks: _Tracks, frame_rate: float) -> None:
    """Refuse a transcript without times where words of it may be spoken outside of the clip."""
    only, (first, *_) = len(segments) == 1, segments
    if only and tracks.audio is not None:
        num_frames = math.ceil(tracks.audio.shape[1] / tracks.sampling_rate * frame_rate)
        quiet = quiet_frames(tracks.audio, tracks.sampling_rate, num_frames, frame_rate)
        slack = int(SOUND_TOLERANCE_S * frame_rate)  # frames in which nobody says a word
        loud = np.flatnonzero(~quiet)
        outside = loud[(loud < first.start - slack) | (loud >= first.start + first.num_frames + slack)]
        only = not len(outside)
    if only and tracks.audio is None:
        only = tracks.longest - first.num_frames <= SOUND_TOLERANCE_S * frame_rate
    if not only:
        raise SkippedClipError(
            "the transcript of a file longer than one clip must have times, got one text for "
            f"{tracks.longest / frame_rate:.1f} s and {len(segments)} clips of {first.num_frames / frame_rate:.1f} s; "
            "write it as subtitles (`NAME.srt` or `NAME.vtt` beside the file), or remove it and let `--whisper` listen"
        )


def _cut(
    sample: Sample,
    tracks: _Tracks,
    segment: Segment,
    bucket: Bucket,
    settings: ClipSettings,
    given: NDArray[Any] | None,
    detector: MouthDetector,
) -> Clip:
    """Cut one clip out of picture and sound."""
    window = slice(segment.start, segment.start + segment.num_frames)
    sound, rate = None, tracks.sampling_rate if tracks.audio is not None else 0
    start_s = segment.start / settings.frame_rate
    if tracks.audio is not None:
        sound = cut_sound(tracks.audio, rate, segment.start, bucket, settings.frame_rate)
    if tracks.frames is None:
        nobody = np.zeros((0, bucket.num_frames, 4), np.float32)
        return Clip(bucket, None, sound, rate, nobody, None, start_s=start_s)
    pixels = tracks.frames[window]
    boxes = interpolate_gaps(
        detector(pixels) if given is None else given[:, window], round(MAX_GAP_S * settings.frame_rate)
    )
    size = pixels.shape[1:3]
    path = crop_path(boxes, size, crop_size(size, bucket), settings.frame_rate) if settings.follow_face else None
    cropped, cropped_boxes = fit(pixels, boxes, bucket) if path is None else fit_along(pixels, boxes, bucket, path)
    cut = cut_share(boxes, size, crop_windows(size, bucket, path, len(pixels)))
    image = None if sample.reference_image is None else _read_reference(sample.reference_image, bucket)
    share = math.exp(-_stretch(bucket, size))
    return Clip(bucket, cropped, sound, rate, cropped_boxes, image, share, start_s, cut_share=cut)


def _with_words(clip: Clip, speech: list[Speech], frame_rate: float) -> Clip:
    begin_s, end_s = clip.start_s, clip.start_s + clip.bucket.num_frames / frame_rate
    parts = parts_within(speech, begin_s, end_s, frame_rate)
    own = tuple(part._replace(start_s=part.start_s - begin_s, end_s=part.end_s - begin_s) for part in parts)
    return clip._replace(words=spoken_within(parts, begin_s, end_s, frame_rate), speech=own)


def _given_boxes(sample: Sample, frames: FrameStream | StillImage | None) -> NDArray[Any] | None:
    """Boxes [P, F, 4] of the sample in pixels of the file, for each frame that is taken; None leaves them to find."""
    if frames is None or sample.mouth_boxes is None:
        return None
    return read_boxes(sample.mouth_boxes, frames.num_stored)[:, frames.numbers]


def _read_reference(path: Path, bucket: Bucket) -> NDArray[np.uint8]:
    image = np.array(read_image(path), np.uint8)
    return fit(image[None], np.zeros((0, 1, 4), np.float32), bucket)[0][0]


def _require(
    recording: Recording, measure: Callable[[Clip], float], minimum: float, reason: str, settings: ClipSettings
) -> Recording:
    """Keep the clips that measure at least `minimum`; a recording without any is skipped for the `reason`."""
    scores = [measure(clip) for clip in recording.clips]
    kept = [clip for clip, score in zip(recording.clips, scores, strict=True) if score >= minimum]
    if not kept:
        raise SkippedClipError(reason.format(max(scores)))
    lost = sum(clip.bucket.num_frames for clip in recording.clips) - sum(clip.bucket.num_frames for clip in kept)
    asked = f"below the {minimum:g} that is required ({reason.partition(' by ')[0].partition(' is ')[0]})"
    unused_s = recording.unused_s | ({asked: lost / settings.frame_rate} if lost else {})
    return recording._replace(clips=kept, unused_s=unused_s)
