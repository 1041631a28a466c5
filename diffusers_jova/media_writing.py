"""Video with sound into files: every frame and every sample stays where it was.

Letters: F frames, H and W pixels.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from jova_cli.media_files import PathLike, import_av

from .content_credentials import Credentials, sign_file
from .media_arrays import Audio, check_sampling_rate, exact_frame_rate, to_float_audio
from .pictures import Pictures, to_uint8_frames
from .provenance_tags import append_wav_info, append_xmp, mp4_tags
from .whole_files import NOTHING_WRITTEN, explained_full_disk, written_whole


AAC_SAMPLING_RATES_HZ = (7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
AAC_MAX_BITS_PER_SAMPLE = 6  # 6144 bits per frame of 1024 samples and channel


def write_video(
    path: PathLike,
    frames: Pictures,
    frame_rate: float | Fraction,
    audio: Audio | None = None,
    sampling_rate: int | None = None,
    *,
    crf: int = 18,
    provenance: Mapping[str, Any] | None = None,
    credentials: Credentials | None = None,
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
        provenance: Record of how the clip was made, for the file to carry, such as `output.provenance[0]`; None for
            what no model made.
        credentials: Certificate and key that sign this record after C2PA.

    Raises:
        ValueError: If the frames, the sound or a number is not as described, or a certificate is refused.
        OSError: If ``path`` cannot be written.
    """
    av = import_av()
    _check_record(provenance, credentials)
    rate = exact_frame_rate(frame_rate)
    pictures = to_uint8_frames(frames)
    sound = None if audio is None else (to_float_audio(audio), _check_aac_rate(sampling_rate))
    if not 0 <= crf <= 51:
        raise ValueError(f"`crf` must be from 0 to 51, got {crf}; 18 looks like the original")
    with _written(path, ".mp4") as temporary:
        # A movie clock that both streams divide: the default of 1 ms would cut the sound at a wrong sample.
        clock_hz = math.lcm(rate.numerator, sound[1] if sound else 1)
        # without the second flag, keys beyond those of iTunes would be dropped
        options = {"movflags": "+faststart+use_metadata_tags", "movie_timescale": str(clock_hz)}
        with av.open(str(temporary.absolute()), "w", format="mp4", options=options) as container:
            container.metadata.update({} if provenance is None else mp4_tags(provenance))
            video_stream = _add_video_stream(container, pictures, rate, crf)
            audio_stream = _add_audio_stream(container, *sound) if sound else None
            _encode_video(container, video_stream, pictures)
            if sound:
                _encode_audio(container, audio_stream, *sound)
        if provenance is not None:
            append_xmp(temporary, provenance)
            _sign(temporary, provenance, credentials)


def write_audio(
    path: PathLike,
    audio: Audio,
    sampling_rate: int,
    *,
    provenance: Mapping[str, Any] | None = None,
    credentials: Credentials | None = None,
) -> None:
    """Write a .wav file of 16 bits; samples beyond [-1, 1] are clipped.

    Args:
        path: Ends in .wav; the folder must exist.
        audio: Float [channels, samples] or [samples], mono or stereo.
        sampling_rate: Samples per second.
        provenance: Record of how the sound was made, as of `write_video`.
        credentials: Certificate and key that sign it.
    """
    _check_record(provenance, credentials)
    check_sampling_rate("sampling_rate", sampling_rate)
    sound = to_float_audio(audio)
    samples = (sound * 32768).round().clip(-32768, 32767).astype(np.int16)
    import scipy.io.wavfile

    with _written(path, ".wav") as temporary:
        scipy.io.wavfile.write(temporary, sampling_rate, samples.T)
        if provenance is not None:
            append_wav_info(temporary, provenance)
            _sign(temporary, provenance, credentials)


def _check_record(provenance: Mapping[str, Any] | None, credentials: Credentials | None) -> None:
    """Refuse to sign nothing."""
    if provenance is None and credentials is not None:
        raise ValueError("`credentials` must have a record to sign, got none; pass `provenance`, or leave them out")


def _sign(path: Path, provenance: Mapping[str, Any], credentials: Credentials | None) -> None:
    """Put the signed file in the place of a complete one, where there is somebody to sign."""
    if credentials is None:
        return
    signed = path.with_stem(f"{path.stem}.signed")
    try:
        sign_file(path, signed, provenance, credentials)
        signed.replace(path)
    finally:
        signed.unlink(missing_ok=True)


def _check_aac_rate(sampling_rate: int | None) -> int:
    if sampling_rate not in AAC_SAMPLING_RATES_HZ:
        raise ValueError(
            f"`sampling_rate` must be one of {AAC_SAMPLING_RATES_HZ} in an mp4, got {sampling_rate}; use `resample`"
        )
    return sampling_rate


@contextmanager
def _written(path: PathLike, suffix: str) -> Iterator[Path]:
    """Give a file beside ``path`` to write to, which takes its name at the end and vanishes on an error."""
    path = Path(path)
    if path.suffix.lower() != suffix:
        raise ValueError(f"`path` must end in {suffix}, got {path}; write to {path.with_suffix(suffix)}")
    with ExitStack() as stack:
        try:
            if path.is_dir():
                raise IsADirectoryError("it is a folder")
            path.parent.stat()  # which is not made
            temporary = stack.enter_context(written_whole(path))
        except OSError as error:
            reason = error.strerror or error
            raise OSError(
                f"`path` must be a file that can be written, got {path} ({reason}); choose another"
            ) from error
        stack.enter_context(explained_full_disk(path, NOTHING_WRITTEN))
        yield temporary


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
    av = import_av()
    padding = ((0, stream.height - frames.shape[1]), (0, stream.width - frames.shape[2]), (0, 0))
    for frame in frames:
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(np.pad(frame, padding, mode="edge")), format="rgb24")
        picture = picture.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
        container.mux(stream.encode(picture))
    container.mux(stream.encode(None))


def _encode_audio(container: Any, stream: Any, audio: np.ndarray, sampling_rate: int) -> None:
    frame = import_av().AudioFrame.from_ndarray(audio, format="fltp", layout=stream.layout.name)
    # Without a pts the encoder's priming of 1024 samples is not taken back on reading, and the sound comes late.
    frame.sample_rate, frame.pts, frame.time_base = sampling_rate, 0, Fraction(1, sampling_rate)
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
