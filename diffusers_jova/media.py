"""Video with sound as arrays: reading, writing, resampling, loudness; every frame and every sample stays where it was.

Letters: F frames, H and W pixels. Frames are uint8 [F, H, W, 3]; sound is float32 [channels, samples] in [-1, 1].
"""

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from diffusers.utils import logging


logger = logging.get_logger(__name__)

PathLike = str | os.PathLike[str]
Frames = np.ndarray | torch.Tensor | Sequence[PIL.Image.Image]
Audio = np.ndarray | torch.Tensor

MIN_FRAME_RATE_HZ = 1e-3  # less becomes 0 as a fraction of small numbers
NTSC_NOMINAL_HZ = (24, 30, 48, 60, 120)  # the rates that television divides by 1.001
AAC_SAMPLING_RATES_HZ = (7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
AAC_MAX_BITS_PER_SAMPLE = 6  # 6144 bits per frame of 1024 samples and channel
HDR_CURVES = {16: "PQ", 18: "HLG"}  # transfer characteristics of ITU-T H.273
LOUDNESS_BLOCK_S = 0.4  # ITU-R BS.1770 measures blocks of 0.4 s


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


# --- arrays ---


def exact_frame_rate(frame_rate: float | Fraction) -> Fraction:
    """Frames per second as the fraction that is meant: 23.976 is 24000/1001, 29.97 is 30000/1001."""
    if not (math.isfinite(frame_rate) and frame_rate >= MIN_FRAME_RATE_HZ):
        raise ValueError(f"`frame_rate` must be a positive number of frames per second, got {frame_rate}; use 24, say")
    if isinstance(frame_rate, float):
        for nominal in NTSC_NOMINAL_HZ:
            if abs(frame_rate - nominal / 1.001) < 0.005:
                return Fraction(nominal * 1000, 1001)
        return Fraction(frame_rate).limit_denominator(1001)
    return Fraction(frame_rate)


def to_uint8_frames(frames: Frames) -> np.ndarray:
    """Convert any kind of frames that a pipeline returns to uint8.

    Args:
        frames: A list of PIL images of one size; uint8 [F, H, W, 3]; or float in [0, 1], [F, H, W, 3]
            (or [F, 3, H, W] for a tensor).

    Returns:
        uint8 [F, H, W, 3].

    Raises:
        ValueError: For another shape, another type of number, or values outside [0, 1].
    """
    if isinstance(frames, torch.Tensor):
        frames = frames.detach().cpu()
        if frames.ndim == 4 and frames.shape[-1] != 3 and frames.shape[1] == 3:
            frames = frames.movedim(1, -1)
        frames = (frames.float() if frames.is_floating_point() else frames).numpy()
    elif not isinstance(frames, np.ndarray):
        frames = _stack_images(frames)
    if frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise ValueError(
            f"`frames` must have the shape [F, H, W, 3] of one video, got {list(frames.shape)}; "
            "pass one video of a batch as `frames[0]`"
        )
    if frames.dtype == np.uint8:
        return frames
    if not np.issubdtype(frames.dtype, np.floating):
        raise ValueError(f"`frames` must be uint8 or float, got {frames.dtype}; convert them to uint8 in [0, 255]")
    low, high = frames.min(), frames.max()
    if not (low >= 0 and high <= 1):  # written so that NaN fails as well
        raise ValueError(f"`frames` of floats must lie in [0, 1], got [{low:.3g}, {high:.3g}]; rescale them first")
    return (frames * 255).round().astype(np.uint8)


def _stack_images(images: Sequence[PIL.Image.Image]) -> np.ndarray:
    images = list(images)
    if not images or not all(isinstance(image, PIL.Image.Image) for image in images):
        raise ValueError("`frames` must be an array, a tensor or a non-empty list of PIL images; pass one of these")
    sizes = sorted({image.size for image in images})
    if len(sizes) > 1:
        raise ValueError(f"`frames` must have one size, got {sizes[0]} and {sizes[-1]}; resize them to the same one")
    return np.stack([np.asarray(image.convert("RGB")) for image in images])


def to_float_audio(audio: Audio) -> np.ndarray:
    """Convert sound to float32 [channels, samples].

    Args:
        audio: Float [samples], [1, samples] or [2, samples], array or tensor; nominally in [-1, 1].

    Raises:
        ValueError: For another shape, integers, or values that are not finite.
    """
    if isinstance(audio, torch.Tensor):
        audio = audio.detach().float().cpu().numpy() if audio.is_floating_point() else audio.cpu().numpy()
    if not np.issubdtype(audio.dtype, np.floating):
        raise ValueError(f"`audio` must be float in [-1, 1], got {audio.dtype}; divide int16 by 32768, say")
    audio = np.atleast_2d(audio)
    if audio.ndim != 2 or audio.shape[0] not in (1, 2) or audio.shape[1] == 0:
        raise ValueError(
            f"`audio` must have the shape [channels, samples] with 1 or 2 channels, got {list(audio.shape)}; "
            "pass one sound of a batch as `audio[0]`"
        )
    if not np.isfinite(audio).all():
        raise ValueError("`audio` must be finite, got NaN or infinity; check the model that made it")
    return np.ascontiguousarray(audio, np.float32)


def mix_channels(audio: np.ndarray, num_channels: int) -> np.ndarray:
    """Bring sound [channels, samples] to 1 channel (the mean) or 2 (the same sound on both sides)."""
    if num_channels not in (1, 2):
        raise ValueError(f"`num_channels` must be 1 (mono) or 2 (stereo), got {num_channels}; choose one of them")
    if audio.shape[0] == num_channels:
        return audio
    return np.repeat(audio.mean(0, keepdims=True), num_channels, axis=0)


def resample(audio: np.ndarray, sampling_rate: int, target_rate: int) -> np.ndarray:
    """Change the sampling rate of sound, in phase: sample 0 stays at time 0.

    Args:
        audio: float [..., samples].
        sampling_rate: Samples per second of ``audio``.
        target_rate: Samples per second wanted.

    Returns:
        float32 [..., ceil(samples * target_rate / sampling_rate)].
    """
    check_sampling_rate("sampling_rate", sampling_rate)
    check_sampling_rate("target_rate", target_rate)
    if sampling_rate == target_rate:
        return audio.astype(np.float32, copy=False)
    import scipy.signal  # here: it takes half a second, which not every import of the package should pay

    divisor = math.gcd(sampling_rate, target_rate)
    up, down = target_rate // divisor, sampling_rate // divisor
    # 32 zero crossings a side: aliases stay below -90 dB, while scipy's own 10 let them pass at -60 dB.
    half_length = 32 * max(up, down)
    lowpass = scipy.signal.firwin(2 * half_length + 1, 0.94 / max(up, down), window=("kaiser", 9.0))
    resampled = scipy.signal.resample_poly(audio.astype(np.float64), up, down, axis=-1, window=lowpass)
    return resampled.astype(np.float32)


def check_sampling_rate(name: str, rate: int) -> None:
    """Refuse a number of samples per second that no sound has."""
    if not isinstance(rate, (int, np.integer)) or rate <= 0:
        raise ValueError(f"`{name}` must be a positive whole number of samples per second, got {rate}; use 16000, say")


def normalize_loudness(
    audio: np.ndarray, sampling_rate: int, target_lufs: float = -23.0, peak_dbfs: float = -1.0
) -> np.ndarray:
    """Scale sound to a loudness, or to the peak limit if that is reached first.

    Sound without a loudness (shorter than one measuring block of 0.4 s, or silence) comes back unchanged.
    The measure is ITU-R BS.1770-4, as pyloudnorm computes it.

    Args:
        audio: float32 [channels, samples].
        sampling_rate: Samples per second.
        target_lufs: Integrated loudness wanted, in LUFS.
        peak_dbfs: Highest sample allowed, in dB of full scale.
    """
    try:
        import pyloudnorm
    except ImportError as error:
        raise ImportError(
            "`normalize_loudness` needs pyloudnorm, which is not installed; run `pip install diffusers_jova[loudness]`"
        ) from error
    if audio.shape[1] < LOUDNESS_BLOCK_S * sampling_rate or not np.abs(audio).max() > 0:
        return audio
    with np.errstate(divide="ignore"):  # a block of zeros is -inf LUFS
        loudness_lufs = pyloudnorm.Meter(sampling_rate).integrated_loudness(audio.T)
    if not math.isfinite(loudness_lufs):
        return audio
    gain = 10 ** ((target_lufs - loudness_lufs) / 20)
    largest_gain = 10 ** (peak_dbfs / 20) / np.abs(audio).max()
    return (audio * min(gain, largest_gain)).astype(np.float32)


# --- reading ---


def read_video(
    path: PathLike,
    *,
    frame_rate: float | Fraction | None = None,
    max_num_frames: int | None = None,
    max_side_px: int | None = None,
) -> Video:
    """Decode a video file and its sound.

    Args:
        path: Any file that libav can read.
        frame_rate: Frames per second wanted: for each tick of that clock the nearest frame is taken. None keeps the
            frames as they are stored.
        max_num_frames: Stop after this many frames; the sound is cut to the same duration.
        max_side_px: Scale down (never up) so that the longer side has at most this many pixels.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file cannot be decoded or holds no picture.
    """
    target_rate = None if frame_rate is None else exact_frame_rate(frame_rate)
    for name, value in (("max_num_frames", max_num_frames), ("max_side_px", max_side_px)):
        if value is not None and value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}; None sets no limit")
    with open_for_reading(path) as container:
        stream, rate = find_video_stream(container, path)
        timed_frames = timed(container.decode(stream), rate)
        first = first_frame(timed_frames, path)
        chosen = choose_frames(chain([first], timed_frames), rate, target_rate)
        aspect = pixel_aspect(stream)
        frames = [frame_to_array(frame, aspect, max_side_px) for frame in islice(chosen, max_num_frames)]
        has_audio = bool(container.streams.audio)
    rate = target_rate or rate
    video = Video(np.stack(frames), rate, None, None)
    if not has_audio:
        return video
    audio, sampling_rate = read_sound(path, first[0])
    if max_num_frames is not None:
        audio = audio[:, : round(len(frames) / rate * sampling_rate)]
    return video._replace(audio=audio, sampling_rate=sampling_rate)


def read_audio(
    path: PathLike, *, sampling_rate: int | None = None, num_channels: int | None = None
) -> tuple[np.ndarray, int]:
    """Decode the sound of an audio or video file.

    Args:
        path: Any file that libav can read.
        sampling_rate: Samples per second wanted; None keeps the file's own.
        num_channels: 1 or 2; None keeps the file's own (surround sound is mixed down to stereo).

    Returns:
        Sound, float32 [channels, samples], and its sampling rate.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file cannot be decoded or holds no sound.
    """
    audio, file_rate = read_sound(path)
    if num_channels is not None:
        audio = mix_channels(audio, num_channels)
    if sampling_rate is not None:
        audio = resample(audio, file_rate, sampling_rate)
    return audio, sampling_rate or file_rate


def read_image(path: PathLike) -> PIL.Image.Image:
    """Read an image as RGB, turned the way the camera says.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no readable image.
    """
    path = _existing_file(path)
    try:
        with PIL.Image.open(path) as image:
            return PIL.ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError) as error:  # Pillow, of broken files
        raise ValueError(f"`path` must be a readable image, got {path} ({error}); open and save it again") from error


def _import_av() -> Any:
    try:
        import av
    except ImportError as error:
        raise ImportError("media files need PyAV, which is not installed; run `pip install av`") from error
    return av


def _existing_file(path: PathLike) -> Path:
    if not Path(path).is_file():
        raise FileNotFoundError(f"`path` must be an existing file, got {path}; check the spelling")
    return Path(path)


@contextmanager
def open_for_reading(path: PathLike) -> Iterator[Any]:
    """Open a file, and turn every failure of libav while it is open into one helpful error."""
    av = _import_av()
    path = _existing_file(path)
    try:
        with av.open(str(path)) as container:
            yield container
    except av.error.FFmpegError as error:
        raise ValueError(
            f"`path` must be a media file that libav can decode, got {path} ({error.strerror}); convert it with ffmpeg"
        ) from error


def find_video_stream(container: Any, path: PathLike) -> tuple[Any, Fraction]:
    """The picture of an open file, and its frames per second."""
    if not container.streams.video:
        raise ValueError(f"`path` must be a file with a video stream, got {path}; use `read_audio` for sound alone")
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    if curve := HDR_CURVES.get(stream.codec_context.color_trc):
        _warn_of_hdr(str(path), curve)
    return stream, Fraction(stream.average_rate or stream.base_rate)


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
    """Each frame with its time in seconds; bare streams carry no times, then the frames are evenly spaced."""
    for index, frame in enumerate(frames):
        yield (index / rate if frame.pts is None else frame.pts * frame.time_base), frame


def first_frame(timed_frames: Iterator[tuple[Fraction, Any]], path: PathLike) -> tuple[Fraction, Any]:
    """Take the first frame and its time in seconds; a file without frames is refused."""
    first = next(timed_frames, None)
    if first is None:
        raise ValueError(f"`path` must be a video of at least one frame, got {path}; check the file")
    return first


def choose_frames(
    timed_frames: Iterator[tuple[Fraction, Any]], rate: Fraction, target_rate: Fraction | None
) -> Iterator[Any]:
    """For each tick k / target_rate within the video, the frame whose time is nearest; or all frames."""
    if target_rate is None:
        yield from (frame for _, frame in timed_frames)
        return
    start_s, frame = next(timed_frames)
    tick, time_s = 0, start_s
    for next_time_s, next_frame in timed_frames:
        while start_s + tick / target_rate <= (time_s + next_time_s) / 2:
            yield frame
            tick += 1
        time_s, frame = next_time_s, next_frame
    end_s = time_s + 1 / rate
    while start_s + (tick + 1) / target_rate <= end_s or tick == 0:
        yield frame
        tick += 1


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
    array = frame.to_ndarray(format="rgb24", width=width, height=height)
    quarter_turns = round(frame.rotation / 90)  # counterclockwise, as rot90 turns
    return np.ascontiguousarray(np.rot90(array, quarter_turns)) if quarter_turns % 4 else array


def read_sound(path: PathLike, start_s: Fraction | None = None) -> tuple[np.ndarray, int]:
    """Sound [channels, samples] that begins at ``start_s`` of the file's clock (None: where it begins itself)."""
    av = _import_av()
    with open_for_reading(path) as container:
        if not container.streams.audio:
            raise ValueError(f"`path` must be a file with sound, got {path}; choose a file with an audio stream")
        stream = container.streams.audio[0]
        sampling_rate = stream.rate
        layout = "mono" if stream.channels == 1 else "stereo"
        resampler = av.AudioResampler(format="fltp", layout=layout, rate=sampling_rate)
        decoded = [*container.decode(stream)]
        pieces = [piece for frame in [*decoded, None] for piece in resampler.resample(frame)]
        duration_s = None if stream.duration is None else stream.duration * stream.time_base
    if not decoded or not pieces:
        raise ValueError(f"`path` must be a file with sound, got {path} with an empty audio stream; check the file")
    audio = np.concatenate([piece.to_ndarray() for piece in pieces], axis=1)
    if duration_s is not None:  # the last block of a codec is padded; the container knows where the sound ends
        audio = audio[:, : math.ceil(duration_s * sampling_rate)]
    if start_s is not None and decoded[0].pts is not None:
        audio = _shift(audio, round((decoded[0].pts * decoded[0].time_base - start_s) * sampling_rate))
    return np.ascontiguousarray(audio, np.float32), sampling_rate


def _shift(audio: np.ndarray, num_samples: int) -> np.ndarray:
    """Delay by silence (positive) or cut the beginning (negative)."""
    return np.pad(audio, ((0, 0), (num_samples, 0))) if num_samples > 0 else audio[:, -num_samples:]


# --- writing ---


def write_video(
    path: PathLike,
    frames: Frames,
    frame_rate: float | Fraction,
    audio: Audio | None = None,
    sampling_rate: int | None = None,
    *,
    crf: int = 18,
) -> None:
    """Write an mp4 (H.264 and AAC) that starts picture and sound at the same instant.

    An odd height or width is padded by repeating the last row or column, because players want even sizes.
    The file appears under its name only when it is complete.

    Args:
        path: Ends in .mp4; the folder must exist.
        frames: One video, as `to_uint8_frames` takes it.
        frame_rate: Frames per second; 23.976 means 24000/1001.
        audio: Float [channels, samples] or [samples] in [-1, 1], mono or stereo.
        sampling_rate: Samples per second of ``audio``.
        crf: Quality of the picture, 0 (lossless) to 51.

    Raises:
        ValueError: If the frames, the sound or a number is not as described.
        OSError: If ``path`` cannot be written.
    """
    av = _import_av()
    rate = exact_frame_rate(frame_rate)
    pictures = to_uint8_frames(frames)
    sound = None if audio is None else (to_float_audio(audio), _check_aac_rate(sampling_rate))
    if not 0 <= crf <= 51:
        raise ValueError(f"`crf` must be from 0 to 51, got {crf}; 18 looks like the original")
    with _write_atomically(path, ".mp4") as temporary:
        # A movie clock that both streams divide: the default of 1 ms would cut the sound at a wrong sample.
        clock_hz = math.lcm(rate.numerator, sound[1] if sound else 1)
        options = {"movflags": "+faststart", "movie_timescale": str(clock_hz)}
        with av.open(str(temporary), "w", format="mp4", options=options) as container:
            video_stream = _add_video_stream(container, pictures, rate, crf)
            audio_stream = _add_audio_stream(container, *sound) if sound else None
            _encode_video(container, video_stream, pictures)
            if sound:
                _encode_audio(container, audio_stream, *sound)


def write_audio(path: PathLike, audio: Audio, sampling_rate: int) -> None:
    """Write a .wav file of 16 bits; samples beyond [-1, 1] are clipped.

    Args:
        path: Ends in .wav; the folder must exist.
        audio: Float [channels, samples] or [samples], mono or stereo.
        sampling_rate: Samples per second.
    """
    check_sampling_rate("sampling_rate", sampling_rate)
    sound = to_float_audio(audio)
    samples = (sound * 32768).round().clip(-32768, 32767).astype(np.int16)
    import scipy.io.wavfile

    with _write_atomically(path, ".wav") as temporary:
        scipy.io.wavfile.write(temporary, sampling_rate, samples.T)


def _check_aac_rate(sampling_rate: int | None) -> int:
    if sampling_rate not in AAC_SAMPLING_RATES_HZ:
        raise ValueError(
            f"`sampling_rate` must be one of {AAC_SAMPLING_RATES_HZ} in an mp4, got {sampling_rate}; use `resample`"
        )
    return sampling_rate


@contextmanager
def _write_atomically(path: PathLike, suffix: str) -> Iterator[Path]:
    """Give a file beside ``path`` to write to, which takes its name at the end and vanishes on an error."""
    path = Path(path)
    if path.suffix.lower() != suffix:
        raise ValueError(f"`path` must end in {suffix}, got {path}; write to {path.with_suffix(suffix)}")
    temporary = path.with_name(f".{path.stem}.{uuid4().hex[:8]}{suffix}")
    try:
        if path.is_dir():
            raise IsADirectoryError("it is a folder")
        temporary.touch(exist_ok=False)
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"`path` must be a file that can be written, got {path} ({reason}); choose another") from error
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _add_video_stream(container: Any, frames: np.ndarray, rate: Fraction, crf: int) -> Any:
    stream = container.add_stream("libx264", rate=rate, options={"crf": str(crf)})
    height, width = frames.shape[1:3]
    stream.width, stream.height, stream.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
    context = stream.codec_context  # 1 is BT.709 in all of libav's tables; untagged colours are guessed by players
    context.colorspace = context.color_primaries = context.color_trc = context.color_range = 1
    return stream


def _add_audio_stream(container: Any, audio: np.ndarray, sampling_rate: int) -> Any:
    num_channels = audio.shape[0]
    stream = container.add_stream("aac", rate=sampling_rate, layout="mono" if num_channels == 1 else "stereo")
    stream.bit_rate = min(128_000, AAC_MAX_BITS_PER_SAMPLE * sampling_rate) * num_channels
    return stream


def _encode_video(container: Any, stream: Any, frames: np.ndarray) -> None:
    av = _import_av()
    padding = ((0, stream.height - frames.shape[1]), (0, stream.width - frames.shape[2]), (0, 0))
    for frame in frames:
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(np.pad(frame, padding, mode="edge")), format="rgb24")
        picture = picture.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
        container.mux(stream.encode(picture))
    container.mux(stream.encode(None))


def _encode_audio(container: Any, stream: Any, audio: np.ndarray, sampling_rate: int) -> None:
    frame = _import_av().AudioFrame.from_ndarray(audio, format="fltp", layout=stream.layout.name)
    # Without a pts the encoder's priming of 1024 samples is not taken back on reading, and the sound comes late.
    frame.sample_rate, frame.pts, frame.time_base = sampling_rate, 0, Fraction(1, sampling_rate)
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
