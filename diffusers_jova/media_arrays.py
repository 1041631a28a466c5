"""Sound as arrays in one form, float32 [channels, samples] in [-1, 1]: resampling, mixing, loudness; frame rates."""

import math
from fractions import Fraction

import numpy as np
import torch

from jova_cli.media_files import MAX_SAMPLING_RATE_HZ

from .number_arguments import check_number


Audio = np.ndarray | torch.Tensor

MIN_FRAME_RATE_HZ = 1e-3  # less becomes 0 as a fraction of small numbers
MAX_FRAME_RATE_HZ = 1000.0  # a frame of more lasts no sample of a telephone
NTSC_NOMINAL_HZ = (24, 30, 48, 60, 120)  # the rates that television divides by 1.001
INTEGER_SCALES = {"int8": (0, 2**7), "uint8": (2**7, 2**7), "int16": (0, 2**15), "int32": (0, 2**31)}  # centre, peak
SILENT = 1e-8  # amplitude below which sound is none
SILENCE_PEAK = 1e-4  # of full scale, -80 dB; no voice is as quiet, and no room that was recorded
LARGEST_OVERSHOOT = 4.0  # peak of floats, 12 dB above full scale; what is louder has another scale
LOUDNESS_BLOCK_S = 0.4  # ITU-R BS.1770 measures blocks of 0.4 s
SURROUND = (True, True, True, False, True, True)  # channels of 5.1, as ffmpeg orders them, that BS.1770 weighs


def exact_frame_rate(frame_rate: float | Fraction) -> Fraction:
    """Frames per second as the fraction that is meant: 23.976 is 24000/1001, 29.97 is 30000/1001."""
    check_number("frame_rate", frame_rate)
    if not (math.isfinite(frame_rate) and frame_rate >= MIN_FRAME_RATE_HZ):
        raise ValueError(f"`frame_rate` must be a positive number of frames per second, got {frame_rate}; use 24, say")
    if not isinstance(frame_rate, int | Fraction):
        frame_rate = float(frame_rate)
        for nominal in NTSC_NOMINAL_HZ:
            if abs(frame_rate - nominal / 1.001) < 0.005:
                return Fraction(nominal * 1000, 1001)
        return Fraction(frame_rate).limit_denominator(1001)
    return Fraction(frame_rate)


def to_float_audio(audio: Audio) -> np.ndarray:
    """Convert sound to float32 [channels, samples].

    Args:
        audio: [samples], [1, samples] or [2, samples], array or tensor, of numbers as `to_unit_floats` takes them.

    Raises:
        ValueError: For another shape, or numbers of another kind.
    """
    sound = np.atleast_2d(to_unit_floats("audio", audio))
    if sound.ndim != 2 or sound.shape[0] not in (1, 2) or sound.shape[1] == 0:
        raise ValueError(
            f"`audio` must have the shape [channels, samples] with 1 or 2 channels, got {list(sound.shape)}; "
            "pass one sound of a batch as `audio[0]`"
        )
    return np.ascontiguousarray(sound)


def to_unit_floats(name: str, audio: Audio) -> np.ndarray:
    """Sound of any shape as float32 in [-1, 1]: whole numbers are scaled by their type, uint8 is centred at 128.

    Args:
        name: Argument that the sound came from.
        audio: int8, uint8, int16 or int32, as sound files hold them; or float in [-1, 1], with some overshoot.

    Raises:
        ValueError: For another type of number, values that are not finite, or floats of another scale.
    """
    if isinstance(audio, torch.Tensor):
        audio = audio.detach().cpu()
        audio = (audio.float() if audio.is_floating_point() else audio).numpy()
    if not isinstance(audio, np.ndarray):
        raise ValueError(f"`{name}` must be an array or a tensor, got {type(audio).__name__}; use `numpy.asarray`")
    if audio.dtype.name in INTEGER_SCALES:
        centre, scale = INTEGER_SCALES[audio.dtype.name]
        return ((audio.astype(np.float64) - centre) / scale).astype(np.float32)
    if not np.issubdtype(audio.dtype, np.floating):
        raise ValueError(
            f"`{name}` must be float in [-1, 1] or one of {sorted(INTEGER_SCALES)}, got {audio.dtype}; divide it by "
            "its largest value"
        )
    if not np.isfinite(audio).all():
        raise ValueError(f"`{name}` must be finite, got NaN or infinity; check how the sound was read or made")
    peak = float(np.abs(audio).max(initial=0))
    if peak > LARGEST_OVERSHOOT:
        raise ValueError(
            f"`{name}` of floats must lie in [-1, 1], got a peak of {peak:.5g}; divide values of 16 bits by 32768"
        )
    return audio.astype(np.float32, copy=False)


def mix_channels(audio: np.ndarray, num_channels: int) -> np.ndarray:
    """Bring sound [..., channels, samples] to 1 channel (the mean) or 2 (the mean on both sides)."""
    if num_channels not in (1, 2):
        raise ValueError(f"`num_channels` must be 1 (mono) or 2 (stereo), got {num_channels}; choose one of them")
    if audio.shape[-2] == num_channels:
        return audio
    return np.repeat(audio.mean(-2, keepdims=True), num_channels, axis=-2)


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
    if not isinstance(rate, (int, np.integer)) or not 0 < rate <= MAX_SAMPLING_RATE_HZ:
        raise ValueError(
            f"`{name}` must be a positive whole number of samples per second up to {MAX_SAMPLING_RATE_HZ}, got "
            f"{rate!r}; use 16000, say"
        )


def is_silence(audio: np.ndarray) -> bool:
    """Whether sound of any shape is nothing throughout, as what fills up a track is; a recorded pause is sound."""
    return float(np.abs(audio).max(initial=0)) < SILENCE_PEAK


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

    Raises:
        ValueError: If it has more than 6 channels.
    """
    loudness_lufs = integrated_loudness(audio, sampling_rate)
    if loudness_lufs is None:
        return audio
    gain = 10 ** ((target_lufs - loudness_lufs) / 20)
    largest_gain = 10 ** (peak_dbfs / 20) / np.abs(audio).max()
    return (audio * min(gain, largest_gain)).astype(np.float32)


def integrated_loudness(audio: np.ndarray, sampling_rate: int) -> float | None:
    """Loudness of sound [channels, samples] in LUFS after ITU-R BS.1770-4; None where it has none.

    Six channels are those of 5.1 as ffmpeg orders them: front left, right and centre, bass, back left and right. The
    bass does not count.

    Raises:
        ValueError: If it has more channels.
    """
    try:
        import pyloudnorm
    except ImportError as error:
        raise ImportError(
            "loudness needs pyloudnorm, which is not installed; install the package with its extra `loudness`"
        ) from error
    if len(audio) > len(SURROUND):
        raise ValueError(
            f"the sound must have 1 to {len(SURROUND)} channels for a loudness, got {len(audio)}; mix it to stereo"
        )
    if len(audio) == len(SURROUND):
        audio = audio[np.array(SURROUND)]
    if audio.shape[1] < LOUDNESS_BLOCK_S * sampling_rate or not np.abs(audio).max() > 0:
        return None
    with np.errstate(divide="ignore"):  # a block of zeros is -inf LUFS
        loudness_lufs = float(pyloudnorm.Meter(sampling_rate).integrated_loudness(audio.T))
    return loudness_lufs if math.isfinite(loudness_lufs) else None
