"""How loud a sound is, where it clips, how much of it is silence."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from diffusers_jova.evaluation.measured import Measured
from diffusers_jova.media import integrated_loudness, is_silence, mix_channels, resample
from diffusers_jova.media_arrays import LOUDNESS_BLOCK_S
from jova_cli.media_files import MAX_SAMPLING_RATE_HZ
from jova_cli.parser import one_line


FloatArray = npt.NDArray[np.floating]

OVERSAMPLING = 4  # ITU-R BS.1770-4, Annex 2
PIECE = 2**18  # samples that are oversampled at a time
MARGIN = 256  # samples on either side of a piece, more than the filter reaches
FULL_SCALE = 0.999
CLIPPED_RUN = 3  # samples at full scale in a row; fewer may be a peak
BLOCK_S = 0.05
SILENCE_DBFS = -60.0
FLOOR = 1e-9
PUBLIC_PEAK_DBFS = -1.0  # of Verse-Bench


def why_unheard(audio: FloatArray | None) -> str:
    """Why in sound [channels, samples], None for a silent file, nothing can be heard; empty if something may.

    All that hears here hears the mean of the channels, which may be nothing where the channels are something.
    """
    if audio is None:
        return "no sound"
    if is_silence(audio):
        return "the sound is silence"
    return "the channels cancel each other" if is_silence(mix_channels(audio, 1)) else ""


def at_public_peak(sound: FloatArray) -> FloatArray:
    """Sound [samples] that is not silence, at the peak of -1 dB of full scale to which Verse-Bench brings it."""
    return np.asarray(sound * 10 ** (PUBLIC_PEAK_DBFS / 20) / np.abs(sound).max())


def measure_sound(audio: FloatArray | None, sampling_rate: int) -> Measured:
    """Measure sound [channels, samples]; the loudness is left out where pyloudnorm is not installed, or refuses it.

    Args:
        audio: Of the clip; None for a silent file.
        sampling_rate: Samples per second.
    """
    if audio is None or not audio.size:
        return Measured({}, "no sound")
    reason = ""
    try:
        loudness_lufs = integrated_loudness(audio, sampling_rate)
    except (ImportError, ValueError) as error:
        loudness_lufs, reason = None, one_line(error)
    if is_silence(audio):
        reason = reason or "the sound is silence"
    elif loudness_lufs is None and audio.shape[1] >= LOUDNESS_BLOCK_S * sampling_rate:
        reason = reason or "the sound is too quiet for a loudness"
    return Measured(
        {
            "loudness_lufs": loudness_lufs,
            "true_peak_dbtp": true_peak_dbtp(audio, sampling_rate),
            "clipped_share": clipped_share(audio),
            "silence_share": silence_share(audio, sampling_rate),
        },
        reason,
    )


def true_peak_dbtp(audio: FloatArray, sampling_rate: int) -> float | None:
    """Largest value between the samples, by four times as many (ITU-R BS.1770-4, Annex 2); None for silence."""
    factor = min(OVERSAMPLING, MAX_SAMPLING_RATE_HZ // sampling_rate)
    peak = float(np.abs(audio).max())
    for start in range(0, audio.shape[1], PIECE):  # a long file many times over does not fit into memory
        before = min(start, MARGIN)
        piece = audio[:, start - before : start + PIECE + MARGIN]
        between = resample(piece, sampling_rate, factor * sampling_rate)[:, factor * before :][:, : factor * PIECE]
        peak = max(peak, float(np.abs(between).max()))
    return float(20 * np.log10(peak)) if peak > FLOOR else None


def clipped_share(audio: FloatArray) -> float:
    """Share of the samples that stand at full scale together with their neighbours."""
    full = np.abs(audio) >= FULL_SCALE
    if full.shape[1] < CLIPPED_RUN:
        return 0.0
    runs = np.lib.stride_tricks.sliding_window_view(full, CLIPPED_RUN, axis=1).all(-1)
    clipped = np.zeros_like(full)
    for offset in range(CLIPPED_RUN):
        clipped[:, offset : offset + runs.shape[1]] |= runs
    return float(clipped.mean())


def silence_share(audio: FloatArray, sampling_rate: int) -> float:
    """Share of the time in which the loudest channel stays below -60 dB of full scale."""
    levels = block_levels_dbfs(audio, sampling_rate, BLOCK_S)
    return float((levels < SILENCE_DBFS).mean())


def block_length(sampling_rate: int, block_s: float) -> int:
    """Samples of a block."""
    return max(1, round(block_s * sampling_rate))


def block_levels_dbfs(audio: FloatArray, sampling_rate: int, block_s: float) -> npt.NDArray[np.float64]:
    """RMS of the loudest channel in each block, in dB of full scale; what is left of a block counts as one."""
    length = block_length(sampling_rate, block_s)
    starts = np.arange(0, audio.shape[1], length)
    power = np.add.reduceat(np.asarray(audio, np.float64) ** 2, starts, axis=1) / np.diff([*starts, audio.shape[1]])
    return np.asarray(10 * np.log10(np.maximum(power.max(0), FLOOR**2)))
