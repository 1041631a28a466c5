"""Video with sound from files: every frame and every sample stays where it was.

Letters: F frames, H and W pixels. Frames are uint8 [F, H, W, 3]; sound is float32 [channels, samples] in [-1, 1].
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from functools import cache
from itertools import chain, islice
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
from diffusers.utils import logging

from jova_cli.media_files import (
    PathLike,
    find_audio_stream,
    first_default,
    import_av,
    is_decodable,
    open_for_reading,
    opened_image,
    video_stream,
)

from .media_arrays import check_sampling_rate, exact_frame_rate, mix_channels, resample
from .number_arguments import check_number, whole_number
from .pictures import on_white, to_rgb_image


logger = logging.get_logger(__name__)

MAX_GAP_S = 60  # between two frames, or between picture and sound; more is a broken time stamp
SOUND_JITTER_S = 0.04  # by which the times of sound may lie behind its samples; lost packets add up to more
MP4_NAMES = {"mov", "mp4"}  # of libav, for a track whose header counts its samples
HALF = Fraction(1, 2)
LONGEST_STEP, LONGEST_STEP_S = Fraction(3, 2), Fraction(1, 4)  # in frames, s; where both are passed, a picture stands
MOST_REPEATS = 4  # of a frame of a variable rate, on average, for the sake of its exact time
EARLY_S = 0.01  # less than that nobody hears missing at the end of a sound
HDR_CURVES = {16: "PQ", 18: "HLG"}  # transfer characteristics of ITU-T H.273


class Sound(NamedTuple):
    """The decoded sound of a file.

    Attributes:
        audio: float32 [channels, samples].
        sampling_rate: Samples per second.
    """

    audio: np.ndarray
    sampling_rate: int


class Video(NamedTuple):
    """A decoded file.

    Attributes:
        frames: uint8 [F, H, W, 3].
        frame_rate: Frames per second, exact.
        audio: float32 [channels, samples], starting with the first frame; None for a silent file.
        sampling_rate: Samples per second; None for a silent file.
    """

    frames: np.ndarray
    frame_rate: Fraction
    audio: np.ndarray | None
    sampling_rate: int | None


def read_video(
    path: PathLike,
    *,
    frame_rate: float | Fraction | None = None,
    max_num_frames: int | None = None,
    max_side_px: int | None = None,
    start_s: float = 0.0,
    duration_s: float | None = None,
    audio_track: int | None = None,
    allow_truncated: bool = False,
) -> Video:
    """Decode a video file and its sound.

    Args:
        path: Any file that libav can read.
        frame_rate: Frames per second wanted: for each tick of that clock the nearest frame is taken. None keeps the
            frames as they are stored; those of a file whose frames do not come at equal distances, as of many phones,
            are taken at its nominal rate, and a line says so.
        max_num_frames: Stop after this many frames; the sound is cut to the same duration.
        max_side_px: Scale down (never up) so that the longer side has at most this many pixels.
        start_s: Seconds to leave out at the beginning.
        duration_s: Seconds to read; None reads to the end.
        audio_track: Which sound track, counted from 0; None takes the one that players choose: the first that is
            marked as default, else the first.
        allow_truncated: Take what is there of a file that announces more than it holds.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file cannot be decoded, holds no picture, or is truncated.
    """
    target_rate = None if frame_rate is None else exact_frame_rate(frame_rate)
    for name, value in (("max_num_frames", max_num_frames), ("max_side_px", max_side_px)):
        if value is not None and whole_number(name, value) < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}; None sets no limit")
    check_part(start_s, duration_s)
    with open_for_reading(path, allow_truncated=allow_truncated) as container:
        stream, rate = find_video_stream(container, path)
        has_audio = audio_track is not None or has_sound(container, path)
        timed_frames = timed(decode(container, stream, allow_truncated), rate)
        opening = first_frame(timed_frames, path)
        part = part_of(chain([opening], timed_frames), rate, start_s, duration_s)
        first = next(part, None)
        if first is None:
            raise ValueError(f"`start_s` must lie within the file, got {start_s:g} for {path}; choose an earlier one")
        times_s: list[Fraction] = []
        chosen = choose_frames(noted(chain([first], part), times_s), rate, target_rate)
        aspect = pixel_aspect(stream)
        frames = [frame_to_array(frame, aspect, max_side_px) for frame in islice(chosen, max_num_frames)]
        nominal_rate = None if target_rate is not None or comes_evenly(times_s, rate) else nominal(stream, times_s)
    if nominal_rate is not None:
        del frames  # before as many are read again
        logger.warning(
            f"the frames of {path} do not come at equal distances: they are taken at {float(nominal_rate):.4g} per "
            "second; `frame_rate` takes another"
        )
        return read_video(
            path,
            frame_rate=nominal_rate,
            max_num_frames=max_num_frames,
            max_side_px=max_side_px,
            start_s=start_s,
            duration_s=duration_s,
            audio_track=audio_track,
            allow_truncated=allow_truncated,
        )
    if duration_s is not None and len(frames) != max_num_frames:
        tick_s = float(1 / (target_rate or rate))
        tell_early_end(path, len(frames) * tick_s, duration_s, tick_s)
    if len({frame.shape for frame in frames}) > 1:
        raise ValueError(f"`path` must be a video of one size, got {path}, which changes it; convert it with ffmpeg")
    rate = target_rate or rate
    video = Video(np.stack(frames), rate, None, None)
    if not has_audio:
        return video
    skipped_s = first[0] - opening[0]
    audio, sampling_rate = read_sound(
        path, first[0], skipped_s, audio_track=audio_track, allow_truncated=allow_truncated
    )
    if max_num_frames is not None or duration_s is not None:
        audio = audio[:, : round(len(frames) / rate * sampling_rate)]
    if audio.shape[1] == 0:  # the sound has ended before the part begins
        return video
    return video._replace(audio=audio, sampling_rate=sampling_rate)


def read_audio(
    path: PathLike,
    *,
    sampling_rate: int | None = None,
    num_channels: int | None = None,
    start_s: float = 0.0,
    duration_s: float | None = None,
    audio_track: int | None = None,
    allow_truncated: bool = False,
    from_first_frame: bool = False,
) -> Sound:
    """Decode the sound of an audio or video file, from its own first sample on.

    Args:
        path: Any file that libav can read.
        sampling_rate: Samples per second wanted; None keeps the file's own.
        num_channels: 1 or 2; None keeps the file's own (surround sound is mixed down to stereo).
        start_s: Seconds to leave out at the beginning.
        duration_s: Seconds to read; None reads to the end.
        audio_track: Which sound track, counted from 0; None takes the one that players choose.
        allow_truncated: Take what is there of a file that announces more than it holds.
        from_first_frame: Of a file with a picture that can be decoded, begin with its first frame, as `read_video` and
            players do: sound that begins later comes after silence.

    Returns:
        Sound, float32 [channels, samples], and its sampling rate.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file cannot be decoded, holds no sound, or is truncated.
    """
    check_part(start_s, duration_s)
    if sampling_rate is not None:
        check_sampling_rate("sampling_rate", sampling_rate)
    picture_s = picture_start_s(path, allow_truncated) if from_first_frame else None
    audio, file_rate = read_sound(path, picture_s, audio_track=audio_track, allow_truncated=allow_truncated)
    if audio.shape[1] == 0 and picture_s is not None:
        raise ValueError(
            f"the sound of a file with a picture must reach its first frame, got one of {path} that ends before; cut "
            "the sound out of it into a file of its own"
        )
    end = None if duration_s is None else round((start_s + duration_s) * file_rate)
    audio = audio[:, round(start_s * file_rate) : end]
    if audio.shape[1] == 0:
        raise ValueError(f"`start_s` must lie within the file, got {start_s:g} for {path}; choose an earlier one")
    if duration_s is not None:
        tell_early_end(path, audio.shape[1] / file_rate, duration_s, EARLY_S)
    if num_channels is not None:
        audio = mix_channels(audio, num_channels)
    if sampling_rate is not None:
        audio = resample(audio, file_rate, sampling_rate)
    return Sound(audio, sampling_rate or file_rate)


def picture_start_s(path: PathLike, allow_truncated: bool = False) -> Fraction | None:
    """When the first frame of a file is shown, by its clock in seconds; None without a picture that can be decoded."""
    with open_for_reading(path, allow_truncated=allow_truncated) as container:
        try:
            stream = video_stream(container, path)
        except ValueError:
            return None
        frame = next(decode(container, stream, allow_truncated=True), None)
        if frame is None:
            return None
        return Fraction(0) if frame.pts is None else Fraction(frame.pts * frame.time_base)


def check_part(start_s: float, duration_s: float | None) -> None:
    """Refuse a part of a file that cannot be."""
    check_number("start_s", start_s)
    if duration_s is not None:
        check_number("duration_s", duration_s)
    if not (math.isfinite(start_s) and start_s >= 0):
        raise ValueError(f"`start_s` must be a number of seconds from 0 on, got {start_s}; 0 is the beginning")
    if duration_s is not None and not (math.isfinite(duration_s) and duration_s > 0):
        raise ValueError(
            f"`duration_s` must be a positive number of seconds, got {duration_s}; leave it out to read to the end"
        )


def tell_early_end(path: PathLike, read_s: float, duration_s: float, tolerance_s: float) -> None:
    """Say in one line that a file ends before the part of it that is wanted, beyond what rounding makes."""
    if read_s < duration_s - tolerance_s:
        logger.warning(f"{path} ends early: {read_s:.2f} s of it are read, not {duration_s:g} s")


def read_image(path: PathLike) -> PIL.Image.Image:
    """Read an image as RGB, turned the way the camera says; what is transparent lies on white.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no readable image.
    """
    with opened_image(path) as image:
        image.load()
        return to_rgb_image("path", image)


def decode(container: Any, stream: Any, allow_truncated: bool = False) -> Iterator[Any]:
    """Frames of a stream; of a truncated file those before the place where it breaks off."""
    try:
        yield from container.decode(stream)
    except import_av().error.FFmpegError:
        if not allow_truncated:
            raise


def find_video_stream(container: Any, path: PathLike) -> tuple[Any, Fraction]:
    """The picture of an open file, and its frames per second; the cover of a record is no video."""
    stream = video_stream(container, path)
    stream.thread_type = "AUTO"
    if curve := HDR_CURVES.get(stream.codec_context.color_trc):
        _warn_of_hdr(str(path), curve)
    rates = [stream.average_rate, stream.base_rate, stream.guessed_rate]
    if container.format.name == "apng":  # libav takes the average of such pictures from the first alone
        rates.insert(0, stream.base_rate)
    rate = next(filter(None, rates), None)
    if not rate:
        raise ValueError(f"`path` must be a video that tells its frame rate, got {path}; convert it with ffmpeg")
    return stream, Fraction(rate)


@cache  # once per file
def _warn_of_hdr(path: str, curve: str) -> None:
    logger.warning(
        f"{path} is video of high dynamic range ({curve}), whose colours will look pale; convert it first: "
        "ffmpeg -i IN -vf zscale=t=linear:npl=100,tonemap=hable,zscale=p=bt709:t=bt709:m=bt709,format=yuv420p OUT"
    )


def pixel_aspect(stream: Any) -> Fraction:
    """Width of a stored pixel over its height; 1 where the file does not say."""
    return Fraction(stream.sample_aspect_ratio or 1)


def timed(frames: Iterable[Any], rate: Fraction) -> Iterator[tuple[Fraction, Any]]:
    """Each frame with its time in seconds; bare streams carry no times, then the frames are evenly spaced.

    Where the last one stands for longer than a tick of the rate, as in a GIF, None comes at its end.
    """
    time_s, last = Fraction(0), None
    for index, frame in enumerate(frames):
        time_s, last = (index / rate if frame.pts is None else frame.pts * frame.time_base), frame
        yield time_s, frame
    if last is not None and last.duration and last.time_base:
        stands_s = last.duration * last.time_base
        if stands_s * rate - 1 > HALF and stands_s <= MAX_GAP_S:
            yield time_s + stands_s, None


def noted(timed_frames: Iterable[tuple[Fraction, Any]], times_s: list[Fraction]) -> Iterator[tuple[Fraction, Any]]:
    """The same frames; their times are added to a list as they pass."""
    for time_s, frame in timed_frames:
        times_s.append(time_s)
        yield time_s, frame


def comes_evenly(times_s: Sequence[Fraction], rate: Fraction) -> bool:
    """Whether frames come, within half of one, where a clock of `rate` from the first of them on has its ticks."""
    return all(abs((time_s - times_s[0]) * rate - index) <= HALF for index, time_s in enumerate(times_s))


def nominal(stream: Any, times_s: Sequence[Fraction]) -> Fraction:
    """The rate at whose ticks frames of a variable rate come, where the file has one; else their mean rate."""
    base_rate, duration_s = Fraction(stream.base_rate or 0), times_s[-1] - times_s[0]
    if duration_s <= 0:
        return base_rate or stream.average_rate
    mean_rate = ((len(times_s) - 1) / duration_s).limit_denominator(1001)  # what a file claims may be its clock's
    return base_rate if mean_rate <= base_rate <= MOST_REPEATS * mean_rate else mean_rate


def first_frame(timed_frames: Iterator[tuple[Fraction, Any]], path: PathLike) -> tuple[Fraction, Any]:
    """Take the first frame and its time in seconds; a file without frames is refused."""
    first = next(timed_frames, None)
    if first is None:
        raise ValueError(f"`path` must be a video of at least one frame, got {path}; check the file")
    return first


def part_of(
    timed_frames: Iterable[tuple[Fraction, Any]], rate: Fraction, start_s: float, duration_s: float | None
) -> Iterator[tuple[Fraction, Any]]:
    """The timed frames of a part of a video; its edges are rounded to the nearest frame.

    A picture that stands where the part begins is its first frame, at that time. Where the part ends within the video,
    None comes last, at the time until which the last frame stands.
    """
    first_s = last_s = standing = None
    for time_s, frame in timed_frames:
        if first_s is None:
            first_s = time_s + Fraction(start_s)
        begin_s = first_s - 1 / rate / 2
        if time_s <= begin_s:
            standing = frame
            continue
        if last_s is None and standing is not None and time_s > begin_s + 1 / rate:
            yield first_s, standing
            last_s = first_s
        if last_s is None and frame is None:
            return
        if duration_s is not None and time_s >= begin_s + Fraction(duration_s):
            if last_s is not None:
                yield min(time_s, max(last_s + 1 / rate, first_s + Fraction(duration_s))), None
            return
        yield time_s, frame
        last_s = time_s


def choose_frames(
    timed_frames: Iterator[tuple[Fraction, Any]], rate: Fraction, target_rate: Fraction | None
) -> Iterator[Any]:
    """For each tick k / target_rate within the video, the frame whose time is nearest; or all frames.

    A frame after which none comes for a while stands until then, as in a player. None in place of the last frame is
    the end of the one before it.
    """
    if target_rate is None:
        yield from (frame for _, frame in timed_frames if frame is not None)
        return
    start_s, frame = next(timed_frames)
    tick, time_s, end_s = 0, start_s, None
    for next_time_s, next_frame in timed_frames:
        if next_frame is None:
            end_s = next_time_s
            break
        if next_time_s - time_s > MAX_GAP_S:
            raise ValueError(
                f"`path` must be a video with sound time stamps, got a frame {float(next_time_s - time_s):g} s after "
                "the one before it; convert it with ffmpeg"
            )
        while start_s + tick / target_rate <= next_time_s - _lead_s(next_time_s - time_s, rate, target_rate):
            yield frame
            tick += 1
        time_s, frame = next_time_s, next_frame
    end_s = time_s + 1 / rate if end_s is None else end_s
    while start_s + (tick + 1) / target_rate <= end_s or tick == 0:
        yield frame
        tick += 1


def _lead_s(gap_s: Fraction, rate: Fraction, target_rate: Fraction) -> Fraction:
    """How long before its time a frame is the nearest: half of the way from the one before it, unless that stands."""
    stands = gap_s * rate > LONGEST_STEP and gap_s > LONGEST_STEP_S
    return min(1 / rate, 1 / target_rate) / 2 if stands else gap_s / 2


def frame_to_array(frame: Any, aspect: Fraction = Fraction(1), max_side_px: int | None = None) -> np.ndarray:
    """Decode one frame to uint8 [H, W, 3] with square pixels, scaled down and turned the way the file says.

    Args:
        frame: Of libav.
        aspect: Width of a stored pixel over its height.
        max_side_px: Longest side of what is returned; None for no limit.
    """
    shown_width = frame.width * float(aspect)
    scale = min(1.0, (max_side_px or math.inf) / max(shown_width, frame.height))
    width, height = max(1, round(shown_width * scale)), max(1, round(frame.height * scale))
    has_alpha = any(component.is_alpha for component in frame.format.components)
    array = frame.to_ndarray(format="rgba" if has_alpha else "rgb24", width=width, height=height)
    array = on_white(array)
    quarter_turns = round(frame.rotation / 90)  # counterclockwise, as rot90 turns
    return np.ascontiguousarray(np.rot90(array, quarter_turns)) if quarter_turns % 4 else array


def has_sound(container: Any, path: PathLike) -> bool:
    """Whether an open file has a sound track that can be decoded, and a line about one that cannot."""
    tracks = container.streams.audio
    if any(is_decodable(track) for track in tracks):
        return True
    if tracks:
        logger.warning(
            f"the sound of {path} is of a codec that libav does not know and is left out; convert it with ffmpeg"
        )
    return False


def read_sound(
    path: PathLike,
    start_s: Fraction | None = None,
    skipped_s: Fraction = Fraction(0),
    *,
    audio_track: int | None = None,
    allow_truncated: bool = False,
) -> tuple[np.ndarray, int]:
    """Sound [channels, samples] that begins at ``start_s`` of the file's clock (None: where it begins itself).

    Of ``start_s``, ``skipped_s`` lie behind the first frame of the file, and say nothing of its time stamps.
    """
    av = import_av()
    with open_for_reading(path, allow_truncated=allow_truncated) as container:
        stream = find_audio_stream(container, path, audio_track)
        if audio_track is None and not is_decodable(first_default(container.streams.audio)):
            track = container.streams.audio.index(stream)
            logger.warning(
                f"the sound track of {path} that players choose is of a codec that libav does not know: track {track} "
                "is read"
            )
        sampling_rate = stream.rate
        layout = "mono" if stream.channels == 1 else "stereo"
        resampler = av.AudioResampler(format="fltp", layout=layout, rate=sampling_rate)
        decoded = [*decode(container, stream, allow_truncated)]
        gaps = _sound_gaps(decoded, sampling_rate, path)
        pieces = [piece.to_ndarray() for frame in [*decoded, None] for piece in resampler.resample(frame)]
        num_announced = _announced_samples(container, stream)
    if not decoded or not pieces:
        raise ValueError(f"`path` must be a file with sound, got {path} with an empty audio stream; check the file")
    audio = _with_silence(np.concatenate(pieces, axis=1), gaps)
    # The last block of a codec is padded; the container knows where the sound ends, unless packets go on behind that.
    if num_announced is not None and 0 <= audio.shape[1] - num_announced < 2 * decoded[-1].samples:
        audio = audio[:, :num_announced]
    if start_s is not None and decoded[0].pts is not None:
        delay_s = decoded[0].pts * decoded[0].time_base - start_s
        if abs(delay_s + skipped_s) > MAX_GAP_S:
            raise ValueError(
                f"`path` must be a file with sound time stamps, got {path}, whose sound begins "
                f"{float(delay_s + skipped_s):g} s after its picture; convert it with ffmpeg"
            )
        audio = _shift(audio, round(delay_s * sampling_rate))
    return np.ascontiguousarray(audio, np.float32), sampling_rate


def _sound_gaps(frames: Sequence[Any], sampling_rate: int, path: PathLike) -> list[tuple[int, int]]:
    """Where the times of decoded sound leave samples out: how many lie before each gap, and how many it lacks.

    Raises:
        ValueError: If a gap is so long that the time stamps must be broken.
    """
    gaps: list[tuple[int, int]] = []
    num_samples, first_s = 0, None
    for frame in frames:
        time_s = None if frame.pts is None else frame.pts * frame.time_base
        first_s = time_s if first_s is None else first_s
        if time_s is not None and first_s is not None:
            lacking_s = time_s - first_s - Fraction(num_samples + sum(lacking for _, lacking in gaps), sampling_rate)
            if lacking_s > MAX_GAP_S:
                raise ValueError(
                    f"`path` must be a file with sound time stamps, got {path}, whose sound stops for "
                    f"{float(lacking_s):g} s; convert it with ffmpeg"
                )
            if lacking_s > SOUND_JITTER_S:
                gaps.append((num_samples, round(lacking_s * sampling_rate)))
        num_samples += round(frame.samples * Fraction(sampling_rate, frame.sample_rate))
    if gaps:
        lacking_s = sum(lacking for _, lacking in gaps) / sampling_rate
        logger.warning(f"{path} lacks {lacking_s:.2f} s of its sound in {len(gaps)} places, which are silent now")
    return gaps


def _with_silence(audio: np.ndarray, gaps: Sequence[tuple[int, int]]) -> np.ndarray:
    """Sound [channels, samples] with silence in its gaps, so that what follows comes at its time."""
    first, *others = np.split(audio, [place for place, _ in gaps], axis=1)
    silences = [np.zeros((len(audio), num_lacking), audio.dtype) for _, num_lacking in gaps]
    return np.concatenate([first, *chain.from_iterable(zip(silences, others, strict=True))], axis=1)


def _announced_samples(container: Any, stream: Any) -> int | None:
    """Samples that the header of a track announces; None in formats whose durations are estimates."""
    if stream.duration is None or not MP4_NAMES & {*container.format.name.split(",")}:
        return None
    return math.ceil(stream.duration * stream.time_base * stream.rate)


def _shift(audio: np.ndarray, num_samples: int) -> np.ndarray:
    """Delay by silence (positive) or cut the beginning (negative)."""
    return np.pad(audio, ((0, 0), (num_samples, 0))) if num_samples > 0 else audio[:, -num_samples:]
