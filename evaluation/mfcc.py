"""Cepstral coefficients of sound, as the package python_speech_features 0.6 computes them by default."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.fft


FloatArray = npt.NDArray[np.floating]

RATE_HZ = 16000
WINDOW, HOP, FFT = 400, 160, 512  # samples
NUM_FILTERS, NUM_COEFFICIENTS = 26, 13
PREEMPHASIS, LIFTER = 0.97, 22
SMALLEST = np.finfo(float).eps  # in place of no energy, whose logarithm is none


def mfcc(samples: FloatArray) -> npt.NDArray[np.float64]:
    """Mel-frequency cepstral coefficients (Davis and Mermelstein 1980), a hundred rows a second.

    Rectangular windows of 25 ms each 10 ms, the last one filled with zeros; 26 triangular filters up to 8 kHz; the
    first coefficient is the logarithm of the energy.

    Args:
        samples: [samples] at 16 kHz, in units of 16-bit sound, -32768 to 32767.

    Returns:
        [rows, 13].
    """
    emphasized = np.asarray(samples, np.float64)
    emphasized = np.concatenate([emphasized[:1], emphasized[1:] - PREEMPHASIS * emphasized[:-1]])
    num_rows = 1 + max(0, -(-(len(emphasized) - WINDOW) // HOP))
    padded = np.pad(emphasized, (0, max(0, (num_rows - 1) * HOP + WINDOW - len(emphasized))))
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP][:num_rows]
    power = np.abs(np.fft.rfft(windows, FFT)) ** 2 / FFT  # [rows, FFT / 2 + 1]
    bands = _log(power @ mel_filters().T)  # [rows, filters]
    cepstra = scipy.fft.dct(bands, type=2, norm="ortho", axis=1)[:, :NUM_COEFFICIENTS]
    lifted = cepstra * (1 + LIFTER / 2 * np.sin(np.pi * np.arange(NUM_COEFFICIENTS) / LIFTER))
    lifted[:, 0] = _log(power.sum(1))
    return lifted


def mel_filters() -> npt.NDArray[np.float64]:
    """Triangles between bins of the spectrum that are evenly spaced in mel, [filters, FFT / 2 + 1]."""
    highest = 2595 * np.log10(1 + RATE_HZ / 2 / 700)
    edges_hz = 700 * (10 ** (np.linspace(0, highest, NUM_FILTERS + 2) / 2595) - 1)
    edges = np.floor((FFT + 1) * edges_hz / RATE_HZ)[:, None]  # [filters + 2, 1]
    bins = np.arange(FFT // 2 + 1)
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return np.minimum(rising, falling).clip(0)


def _log(energy: FloatArray) -> npt.NDArray[np.float64]:
    return np.log(np.where(energy == 0, SMALLEST, energy))
