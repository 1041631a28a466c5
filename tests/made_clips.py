"""Pictures and sounds whose time is seen in them, files of them as cameras write them, and how far two are apart."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np


SAMPLING_RATE = 16000


def moving_square(num_frames: int, height: int = 64, width: int = 64) -> np.ndarray:
    """A bright square that steps by one position each frame: every frame tells its own index."""
    frames = np.full((num_frames, height, width, 3), 40, np.uint8)
    columns = max(1, (width - 16) // 4)
    for index, frame in enumerate(frames):
        row, column = divmod(index, columns)
        frame[8 * row : 8 * row + 8, 4 * column : 4 * column + 8] = (230, 200, 160)
    return frames


def clicks(num_samples: int, num_channels: int = 1, seed: int = 0) -> np.ndarray:
    """Noise bursts at known places; the channels differ."""
    rng = np.random.default_rng(seed)
    sound = 0.01 * rng.standard_normal((num_channels, num_samples))
    for channel, row in enumerate(sound):
        for start in range(500 + 900 * channel, num_samples - 400, 4000):
            row[start : start + 300] += 0.4 * rng.standard_normal(300)
    return sound.clip(-1, 1).astype(np.float32)


def lag_samples(sound: np.ndarray, reference: np.ndarray) -> int:
    """By how many samples `sound` is later, from the peak of the cross-correlation."""
    size = len(sound) + len(reference)
    spectrum = np.fft.rfft(sound, size) * np.conj(np.fft.rfft(reference, size))
    peak = int(np.argmax(np.fft.irfft(spectrum, size)))
    return peak if peak < len(sound) else peak - size


def psnr_db(frames: np.ndarray, reference: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((frames.astype(float) - reference) ** 2)))


def remux(path: Path, target: Path) -> None:
    """Copy the packets of a file into another container."""
    with av.open(str(path)) as source, av.open(str(target), "w") as container:
        streams = {stream: container.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream]
                container.mux(packet)


def write_h264(path: Path, frames: np.ndarray, **options: object) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width = frames.shape[1:3]
        for name, value in options.items():
            setattr(stream.codec_context, name, value)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def late_sound(path: Path, late_s: float, num_frames: int = 33, late_picture_s: float = 0.0) -> Path:
    """A clip at 16 frames per second whose track of sound, a steady tone, begins later than its picture, or before."""
    rate = 16000
    tone = np.sin(np.arange(int((num_frames / 16 - late_s) * rate)) / 4)
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=16)
        video.width = video.height = 32
        audio = container.add_stream("pcm_s16le", rate=rate, layout="mono")
        for shade in range(num_frames):
            picture = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 40 + 4 * shade, np.uint8), format="rgb24")
            picture.pts, picture.time_base = shade + round(16 * late_picture_s), Fraction(1, 16)
            container.mux(video.encode(picture))
        container.mux(video.encode(None))
        sound = av.AudioFrame.from_ndarray((tone * 16000).astype(np.int16)[None], format="s16", layout="mono")
        sound.sample_rate, sound.time_base, sound.pts = rate, Fraction(1, rate), round(late_s * rate)
        container.mux(audio.encode(sound))
        container.mux(audio.encode(None))
    return path
