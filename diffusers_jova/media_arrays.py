"""Sound as arrays in one form, float32 [channels, samples] in [-1, 1]: resampling, mixing, loudness; frame rates."""

import math
from fractions import Fraction

import numpy as np
import torch


Audio = np.ndarray | torch.Tensor

NTSC_NOMINAL_HZ = (24, 30, 48, 60, 120)  # the rates that television divides by 1.001
LOUDNESS_BLOCK_S = 0.4  # ITU-R BS.1770 measures blocks of 0.4 s


def exact_frame_rate(frame_rate: float | Fraction) -> Fraction:
    """Frames per second as the fraction that is meant: 23.976 is 24000/1001, 29.97 is 30000/1001."""
    if not (math.isfinite(frame_rate) and frame_rate > 0):
        raise ValueError(f"`frame_rate` must be a positive number of frames per second, got {frame_rate}; use 24, say")
    if isinstance(frame_rate, float):
        for nominal in NTSC_NOMINAL_HZ:
            if abs(frame_rate - nominal / 1.001) < 0.005:
                return Fraction(nominal * 1000, 1001)
        return Fraction(frame_rate).limit_denominator(1001)
    return Fraction(frame_rate)


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
