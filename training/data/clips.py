"""From a file to training clips: cut, resampled, cropped, with mouth boxes in the pixels of the crop; no model needed.

Letters: F frames, H x W pixels, P persons.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from diffusers_jova.media import is_silence, mix_channels, normalize_loudness, read_audio, read_image
from diffusers_jova.pictures import Fit, fit_pictures
from diffusers_jova.training.data.buckets import (
    crop_size,
    crop_windows,
    fit,
    fit_along,
    is_upscaled,
    shape_stretch,
)
from diffusers_jova.training.data.clip import BrokenFileError, Clip, ClipSettings, Heard, Recording, SkippedClipError
from diffusers_jova.training.data.clip_requirements import required, requirements
from diffusers_jova.training.data.face_crop import crop_path, cut_share
from diffusers_jova.training.data.frame_stream import FrameStream, StillImage, read_sound_of_video
from diffusers_jova.training.data.manifest import Sample
from diffusers_jova.training.data.mouth_detector import MouthDetector, NoMouths, read_boxes, track_faces
from diffusers_jova.training.data.mouth_mask import interpolate_gaps
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
from jova_cli.clip_limits import Bucket
from jova_cli.media_files import check_image, check_sound, check_video
from jova_cli.parser import one_line


Transcribe: TypeAlias = Callable[[NDArray[np.float32], int], list[Speech]]

MAX_GAP_S = 1 / 3  # how long a mouth may be lost and still be interpolated
SOUND_TOLERANCE_S = 0.1  # by which a sound may end before its picture; codecs round to blocks
BROKEN_FILE_ERRORS = (OSError, ValueError, RuntimeError, MemoryError)  # this file, not the next one


class _Tracks(NamedTuple):
    """Picture and sound of a file.

    Attributes:
        frames: None for sound alone.
        audio: float32 [channels, samples]; None for silence.
        sampling_rate: Samples per second; 0 without a track of sound.
        length: Frames for which there are picture and sound, as far as the file has both.
        longest: Frames for which there is either.
        heard: The sound as the file has it; None without a track.
    """

    frames: FrameStream | StillImage | None
    audio: NDArray[np.float32] | None
    sampling_rate: int
    length: int
    longest: int
    heard: Heard | None = None


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
        BrokenFileError: If it is broken.
    """
    settings = for_stills(settings) if sample.is_still else for_clips(settings)
    with broken_files():
        tracks = _read(sample, settings)
    length_s = tracks.longest / settings.frame_rate
    with broken_files(), skipped_seconds(length_s):
        speech = _speech(sample, tracks, settings, transcriber)
        bucket, plan = _plan(tracks, settings, speech)
        if sample.transcript:
            _check_whole(plan.segments, tracks, settings.frame_rate)
        given = _given_boxes(sample, tracks.frames)
    unused_s = defaultdict(float, {name: num / settings.frame_rate for name, num in plan.unused.items() if num})

    def cut() -> Iterator[Clip]:
        for segment in plan.segments:
            size = bucket._replace(num_frames=segment.num_frames)
            with broken_files():
                clip = _cut(sample, tracks, segment, size, settings, given, detector)
            yield clip if speech is None else _with_words(clip, speech, settings.frame_rate)

    looks = not isinstance(detector, NoMouths)
    asked = requirements(settings, sample, looks_for_mouths=looks, has_sound=tracks.heard is not None)
    clips = required(cut(), asked, unused_s, settings.frame_rate)
    return Recording(clips, plan.segments, length_s, unused_s)


def check_files(sample: Sample, *, allow_truncated: bool = False) -> None:
    """Refuse a sample whose picture or sound cannot be opened; nothing is decoded."""
    if sample.video is not None and sample.is_still:
        check_image(sample.video)
    elif sample.video is not None:
        check_video(sample.video, allow_truncated=allow_truncated)
    if sample.audio is not None:
        check_sound(sample.audio, allow_truncated=allow_truncated)


@contextmanager
def skipped_seconds(length_s: float) -> Iterator[None]:
    """Let a recording that is skipped as a whole say how long it is."""
    try:
        yield
    except SkippedClipError as error:
        error.length_s = length_s
        raise


@contextmanager
def broken_files() -> Iterator[None]:
    """Turn what the libraries raise of a file into one error, so that the next file has its turn."""
    try:
        yield
    except BROKEN_FILE_ERRORS as error:
        raise BrokenFileError(one_line(error) or type(error).__name__) from error


def for_stills(settings: ClipSettings) -> ClipSettings:
    """Settings for still images: buckets of one frame, and no demands on a sound."""
    own = [bucket for bucket in settings.buckets if bucket.num_frames == 1] or settings.buckets
    buckets = tuple(dict.fromkeys(bucket._replace(num_frames=1) for bucket in own))
    return replace(settings, buckets=buckets, cut="first", require_sound=False, require_words=False, min_sync=None)


def for_clips(settings: ClipSettings) -> ClipSettings:
    """Settings for clips: those of one frame are for still images where there are others."""
    longer = tuple(bucket for bucket in settings.buckets if bucket.num_frames > 1)
    return replace(settings, buckets=longer or settings.buckets)


def choose_bucket(num_frames: int, size: tuple[int, ...] | None, settings: ClipSettings) -> Bucket:
    """Choose the bucket of a file of `num_frames` frames of `size` (height, width); sound alone has no size."""
    buckets = settings.buckets
    if size is not None and not settings.upscale:
        buckets = tuple(b for b in buckets if not is_upscaled(size, b, settings.fit))
        if not buckets:
            raise SkippedClipError(
                f"{size[0]}x{size[1]} pixels are smaller than every bucket; give smaller `--buckets`, or `--upscale`; "
                f"it is {size[0]} high and {size[1]} wide"
            )
    buckets = tuple(bucket for bucket in buckets if bucket.num_frames <= num_frames)
    if not buckets:
        shortest = min(bucket.num_frames for bucket in settings.buckets)
        raise SkippedClipError(
            f"picture and sound last {num_frames} frames at {settings.frame_rate:g} per second; "
            f"a bucket needs {shortest}"
        )

    def preference(bucket: Bucket) -> tuple[float, int, int]:
        stretch = 0.0 if size is None else shape_stretch(bucket, size)
        return round(stretch, 6), -bucket.num_frames, -bucket.height * bucket.width

    return min(buckets, key=preference)


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
        frames = (
            StillImage(sample.video)
            if sample.is_still
            else FrameStream(sample.video, settings.frame_rate, allow_truncated=settings.allow_truncated)
        )
    audio, sampling_rate = None, None
    how: dict[str, Any] = {"audio_track": settings.audio_track, "allow_truncated": settings.allow_truncated}
    if sample.audio is not None:
        audio, sampling_rate = read_audio(sample.audio, **how, from_first_frame=True)
    elif sample.video is not None and not sample.is_still:
        audio, sampling_rate = read_sound_of_video(sample.video, **how)
    if audio is not None and not np.isfinite(audio).all():
        raise ValueError("the sound must be finite, got NaN or infinity; export it again")
    if audio is not None and settings.num_channels is not None:
        audio = mix_channels(audio, settings.num_channels)
    is_silent = audio is not None and is_silence(audio)
    both = [] if frames is None else [len(frames)]
    either = [*both]
    if audio is not None and sampling_rate:
        both.append(int((audio.shape[1] / sampling_rate + SOUND_TOLERANCE_S) * settings.frame_rate))
        either.append(int(audio.shape[1] / sampling_rate * settings.frame_rate))
    if (settings.require_sound or frames is None) and (audio is None or is_silent):
        with skipped_seconds(max(either) / settings.frame_rate):
            raise SkippedClipError("no sound" if audio is None else "the sound is silence")
    gain, all_audio = 1.0, audio
    if is_silent:
        audio = None  # a track of zeros is no sound to learn from
    if audio is not None and sampling_rate and settings.loudness_lufs is not None:
        before = np.abs(audio).max()
        all_audio = audio = normalize_loudness(audio, sampling_rate, settings.loudness_lufs)
        gain = float(np.abs(audio).max() / before)
    heard = None if all_audio is None or not sampling_rate else Heard(all_audio, sampling_rate, gain)
    return _Tracks(frames, audio, sampling_rate or 0, min(both), max(either), heard)


def _speech(
    sample: Sample, tracks: _Tracks, settings: ClipSettings, transcriber: Transcribe | None
) -> list[Speech] | None:
    """What is said when, from subtitles or by listening where no words are written; None where it is not known."""
    if sample.subtitles is not None:
        cues, longest_s = read_subtitles(sample.subtitles), tracks.longest / settings.frame_rate
        if cues[0].start_s >= longest_s:
            raise ValueError(
                f"`{sample.subtitles}` must be those of a recording of {longest_s:.1f} s, got a first cue at "
                f"{cues[0].start_s:.1f} s; correct its times, or remove it"
            )
        return cues
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
        sound_s = 0 if tracks.audio is None else tracks.audio.shape[1] / tracks.sampling_rate
        of_sound = "of sound " if sound_s > tracks.length / frame_rate + 1 else ""
        raise SkippedClipError(
            "the transcript of a file longer than one clip must have times, got one text for "
            f"{tracks.longest / frame_rate:.1f} s {of_sound}and {len(segments)} clip{'s' * (len(segments) != 1)} of "
            f"{first.num_frames / frame_rate:.1f} s; "
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
    start_s = segment.start / settings.frame_rate
    end_s = (segment.start + segment.num_frames) / settings.frame_rate
    part = None if tracks.heard is None else tracks.heard.part(start_s, end_s)
    heard = part if part is not None and part.scaled.size else None
    sound, rate = None, 0
    if tracks.audio is not None and heard is not None and not is_silence(heard.audio):
        rate = tracks.sampling_rate
        sound = cut_sound(tracks.audio, rate, segment.start, bucket, settings.frame_rate)
    if tracks.frames is None:
        nobody = np.zeros((0, bucket.num_frames, 4), np.float32)
        return Clip(bucket, None, sound, rate, nobody, None, start_s=start_s, heard=heard)
    pixels = tracks.frames[window]
    if given is None:
        found, found_faces = track_faces(detector, pixels)
    else:
        found, found_faces = given[:, window], np.full_like(given[:, window], np.nan)
    boxes, faces = (interpolate_gaps(one, round(MAX_GAP_S * settings.frame_rate)) for one in (found, found_faces))
    size = pixels.shape[1:3]
    is_cropped = settings.fit == "cover"
    follows = is_cropped and settings.follow_face
    path = crop_path(boxes, size, crop_size(size, bucket), settings.frame_rate) if follows else None
    both = np.concatenate([boxes, faces])
    fitted, fitted_both = (
        fit(pixels, both, bucket, settings.fit) if path is None else fit_along(pixels, both, bucket, path)
    )
    fitted_boxes, fitted_faces = np.split(fitted_both, 2)
    cut = cut_share(boxes, size, crop_windows(size, bucket, path, len(pixels))) if is_cropped else 0.0
    image = None if sample.reference_image is None else _read_reference(sample.reference_image, bucket, settings.fit)
    share = math.exp(-shape_stretch(bucket, size))
    return Clip(
        bucket,
        fitted,
        sound,
        rate,
        fitted_boxes,
        image,
        share,
        start_s,
        cut_share=cut,
        seen=np.asarray(np.isfinite(found).all(-1)),
        face_boxes=fitted_faces if np.isfinite(fitted_faces).any() else None,
        heard=heard,
    )


def _with_words(clip: Clip, speech: list[Speech], frame_rate: float) -> Clip:
    begin_s, end_s = clip.start_s, clip.start_s + clip.bucket.num_frames / frame_rate
    parts = parts_within(speech, begin_s, end_s, frame_rate)
    own = tuple(part._replace(start_s=part.start_s - begin_s, end_s=part.end_s - begin_s) for part in parts)
    return clip._replace(words=spoken_within(parts, begin_s, end_s, frame_rate), speech=own)


def _given_boxes(sample: Sample, frames: FrameStream | StillImage | None) -> NDArray[Any] | None:
    """Boxes [P, F, 4] of the sample in pixels of the file, for each frame that is taken; None leaves them to find."""
    if frames is None or sample.mouth_boxes is None:
        return None
    height, width = frames.shape[1:3]
    return read_boxes(sample.mouth_boxes, frames.num_stored, (height, width))[:, frames.numbers]


def _read_reference(path: Path, bucket: Bucket, how: Fit) -> NDArray[np.uint8]:
    image = np.array(read_image(path), np.uint8)
    return fit_pictures(image[None], bucket.height, bucket.width, how)[0]
