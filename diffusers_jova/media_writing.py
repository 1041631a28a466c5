"""Video with sound into files: every frame and every sample stays where it was.

Letters: F frames, H and W pixels.
"""

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from jova_cli.given_paths import renamed
from jova_cli.media_files import PathLike, import_av

from .content_credentials import Credentials, sign_file
from .media_arrays import Audio, check_sampling_rate, exact_frame_rate, to_float_audio
from .media_reading import Sound, Video
from .pictures import Pictures, to_uint8_frames
from .provenance_tags import append_wav_info, append_xmp, mp4_tags
from .whole_files import NOTHING_WRITTEN, explained_full_disk, written_whole


AAC_SAMPLING_RATES_HZ = (7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
AAC_MAX_BITS_PER_SAMPLE = 6  # 6144 bits per frame of 1024 samples and channel
# without the second flag, keys beyond those of iTunes would be dropped
REPEATABLE = {"x264-params": "cpu-independent=1"}  # else libx264 codes the same frames anew in every call, by AVX-512
FINAL_OPTIONS = {"movflags": "+faststart+use_metadata_tags"}
PREVIEW_OPTIONS = {  # fragments of a second, each on the disk when it ends
    "movflags": "+empty_moov+delay_moov+default_base_moof+use_metadata_tags",
    "frag_duration": "1000000",
    "flush_packets": "1",
}

WritePiece = Callable[[Pictures, Audio | None], None]  # frames, then sound as long as they


def write_video(
    path: PathLike,
    frames: Pictures | Video,
    frame_rate: float | Fraction | None = None,
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
        frames: One video, as `to_uint8_frames` takes it; or with its sound what `read_video`, `from_moviepy` return.
        frame_rate: Frames per second; 23.976 means 24000/1001. None takes that of a whole video.
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
    _check_record(provenance, credentials)
    if isinstance(frames, Video):
        frame_rate = frames.frame_rate if frame_rate is None else frame_rate
        if audio is None:
            if sampling_rate is not None:
                raise ValueError(
                    f"`sampling_rate` must go with `audio`, got {sampling_rate} with a video, which has its own; "
                    "leave it out"
                )
            audio, sampling_rate = frames.audio, frames.sampling_rate
        frames = frames.frames
    if frame_rate is None:
        raise ValueError("`frame_rate` must be given with frames alone, got none; use 24, say")
    rate = exact_frame_rate(frame_rate)
    pictures = to_uint8_frames(frames)
    sound = None if audio is None else (to_float_audio(audio), _check_aac_rate(sampling_rate))
    if not 0 <= crf <= 51:
        raise ValueError(f"`crf` must be from 0 to 51, got {crf}; 18 looks like the original")
    sound_rate = None if sound is None else sound[1]
    with _written(path, ".mp4") as temporary:
        with _opened(temporary, rate, sound_rate, FINAL_OPTIONS, provenance) as container:
            encoder = _Encoder(container, rate, sound_rate, {"crf": str(crf)})
            encoder.write(pictures, None if sound is None else sound[0])
            encoder.finish()
        _mark(temporary, provenance, credentials)


@contextmanager
def streamed_video(
    path: PathLike,
    frame_rate: float | Fraction,
    sampling_rate: int | None = None,
    *,
    preview: Path | None = None,
    crf: int = 18,
    provenance: Callable[[], Mapping[str, Any] | None] = lambda: None,
    credentials: Credentials | None = None,
) -> Iterator[WritePiece]:
    """Give what writes the pieces of a clip one after the other, into one mp4 as `write_video` writes them at once.

    The file appears under its name when the block ends; until then, `preview` grows and can be watched.

    Args:
        path: Ends in .mp4; the folder must exist.
        frame_rate: Frames per second.
        sampling_rate: Samples per second of the sound; None for pieces without.
        preview: A fragmented mp4 of the same pieces, each of which is on the disk when it is written; it stays.
        crf: As of `write_video`.
        provenance: Gives the record for the file to carry, asked for at the first piece.
        credentials: As of `write_video`.
    """
    rate = exact_frame_rate(frame_rate)
    if sampling_rate is not None:
        _check_aac_rate(sampling_rate)
    with _written(path, ".mp4") as temporary, ExitStack() as stack:
        encoders: list[_Encoder] = []
        record: Mapping[str, Any] | None = None

        def write(frames: Pictures, audio: Audio | None) -> None:
            nonlocal record
            if not encoders:
                record = provenance()
                _check_record(record, credentials)
                places = [(temporary, FINAL_OPTIONS, {"crf": str(crf)})]
                if preview is not None:
                    places.append((preview, PREVIEW_OPTIONS, {"crf": str(crf), "tune": "zerolatency"}))
                for place, options, codec_options in places:
                    container = stack.enter_context(_opened(place, rate, sampling_rate, options, record))
                    encoders.append(_Encoder(container, rate, sampling_rate, codec_options))
            pictures = to_uint8_frames(frames)
            for encoder in encoders:
                encoder.write(pictures, None if audio is None else to_float_audio(audio))

        yield write
        if not encoders:
            raise ValueError("`write` must be called before the file ends, got no piece; write one")
        for encoder in encoders:
            encoder.finish()
        stack.close()
        _mark(temporary, record, credentials)


def write_audio(
    path: PathLike,
    audio: Audio | Sound,
    sampling_rate: int | None = None,
    *,
    provenance: Mapping[str, Any] | None = None,
    credentials: Credentials | None = None,
) -> None:
    """Write a .wav file of 16 bits; samples beyond [-1, 1] are clipped.

    Args:
        path: Ends in .wav; the folder must exist.
        audio: Float [channels, samples] or [samples], mono or stereo, or what `read_audio` returns.
        sampling_rate: Samples per second; must be given with samples alone.
        provenance: Record of how the sound was made, as of `write_video`.
        credentials: Certificate and key that sign it.
    """
    _check_record(provenance, credentials)
    if isinstance(audio, Sound):
        if sampling_rate not in (None, audio.sampling_rate):
            raise ValueError(
                f"`sampling_rate` must be that of the sound, {audio.sampling_rate}, got {sampling_rate}; leave it "
                "out, `media.resample` makes another"
            )
        audio, sampling_rate = audio
    if sampling_rate is None:
        raise ValueError("`sampling_rate` must be given with samples alone, got none; use 16000, say")
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


def _mark(path: Path, provenance: Mapping[str, Any] | None, credentials: Credentials | None) -> None:
    """Let a complete mp4 say where it comes from."""
    if provenance is not None:
        append_xmp(path, provenance)
        _sign(path, provenance, credentials)


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


def check_place(path: PathLike, suffix: str) -> None:
    """Refuse a path at which no file of a kind can be written.

    Raises:
        ValueError: For another ending.
        OSError: For a folder, or one in a folder that is not there.
    """
    if not isinstance(path, str | os.PathLike):
        raise ValueError(f"`path` must be the path of a file, got {path!r}; write each clip to its own, by its name")
    path = Path(path)
    if path.suffix.lower() != suffix:
        raise ValueError(f"`path` must end in {suffix}, got {path}; write to {renamed(path, suffix)}")
    try:
        if path.is_dir():
            raise IsADirectoryError("it is a folder")
        path.parent.stat()  # which is not made
    except OSError as error:
        raise OSError(_unwritable(path, error)) from error


def _unwritable(path: Path, error: OSError) -> str:
    return f"`path` must be a file that can be written, got {path} ({error.strerror or error}); choose another"


@contextmanager
def _written(path: PathLike, suffix: str) -> Iterator[Path]:
    """Give a file beside ``path`` to write to, which takes its name at the end and vanishes on an error."""
    check_place(path, suffix)
    path = Path(path)
    with ExitStack() as stack:
        try:
            temporary = stack.enter_context(written_whole(path))
        except OSError as error:
            raise OSError(_unwritable(path, error)) from error
        stack.enter_context(explained_full_disk(path, NOTHING_WRITTEN))
        yield temporary


@contextmanager
def _opened(
    path: Path,
    rate: Fraction,
    sampling_rate: int | None,
    options: Mapping[str, str],
    provenance: Mapping[str, Any] | None,
) -> Iterator[Any]:
    """An mp4 to mux into, with the tags of its record."""
    # A movie clock that both streams divide: the default of 1 ms would cut the sound at a wrong sample.
    clock = {"movie_timescale": str(math.lcm(rate.numerator, sampling_rate or 1))}
    with import_av().open(str(path.absolute()), "w", format="mp4", options={**options, **clock}) as container:
        container.metadata.update({} if provenance is None else mp4_tags(provenance))
        yield container


class _Encoder:
    """Encodes a clip into an open mp4, piece by piece; the first tells its size.

    Args:
        container: Opened for writing.
        rate: Frames per second.
        sampling_rate: Samples per second; None without sound.
        options: Of the video encoder.
    """

    def __init__(self, container: Any, rate: Fraction, sampling_rate: int | None, options: Mapping[str, str]) -> None:
        self.container = container
        self.rate = rate
        self.sampling_rate = sampling_rate
        self.options = options
        self.video: Any = None
        self.audio: Any = None
        self.num_samples = 0

    def write(self, pictures: np.ndarray, sound: np.ndarray | None) -> None:
        """Encode the next frames [F, H, W, 3] and samples [channels, samples]."""
        if self.video is None:
            self.video = _add_video_stream(self.container, pictures, self.rate, self.options)
            if self.sampling_rate is not None and sound is not None:
                self.audio = _add_audio_stream(self.container, sound, self.sampling_rate)
        _encode_video(self.container, self.video, pictures)
        if self.audio is not None and sound is not None and sound.shape[1]:
            _encode_audio(self.container, self.audio, sound, self.num_samples)
            self.num_samples += sound.shape[1]

    def finish(self) -> None:
        """Take what the encoders still hold."""
        for stream in (self.video, self.audio):
            if stream is not None:
                self.container.mux(stream.encode(None))


def _add_video_stream(container: Any, frames: np.ndarray, rate: Fraction, options: Mapping[str, str]) -> Any:
    stream = container.add_stream("libx264", rate=rate, options={**REPEATABLE, **options})
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


def _encode_audio(container: Any, stream: Any, audio: np.ndarray, first_sample: int) -> None:
    audio = np.ascontiguousarray(audio)
    frame = import_av().AudioFrame.from_ndarray(audio, format="fltp", layout=stream.layout.name)
    # Without a pts the encoder's priming of 1024 samples is not taken back on reading, and the sound comes late.
    frame.sample_rate, frame.pts, frame.time_base = stream.rate, first_sample, Fraction(1, stream.rate)
    container.mux(stream.encode(frame))
