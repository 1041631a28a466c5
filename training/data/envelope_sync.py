"""Whether a mouth moves with its sound: its opening correlated with the sound's envelope."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt


FloatArray = npt.NDArray[np.floating]

ENVELOPE_FLOOR = 1e-2
MAX_LAG = 6  # frames


class EnvelopeSync(NamedTuple):
    """Correlation of aperture and envelope at lag 0, and the lag, in frames, of its maximum (positive: late lips)."""

    correlation: float
    lag: int


def envelope(waveform: FloatArray, num_frames: int, frame_rate: float, sampling_rate: int) -> npt.NDArray[np.float64]:
    """Logarithm of the RMS of [samples] over the interval of each frame, [F]; silence beyond the end."""
    edges = np.round(np.arange(num_frames + 1) / frame_rate * sampling_rate).astype(int)
    power = np.concatenate([[0.0], np.cumsum(np.asarray(waveform, np.float64) ** 2)])
    sums = np.diff(power[np.minimum(edges, len(waveform))])
    return np.log(np.sqrt(np.maximum(sums, 0) / np.diff(edges)) + ENVELOPE_FLOOR)


def envelope_sync(aperture: FloatArray, loudness: FloatArray, max_lag: int = MAX_LAG) -> EnvelopeSync:
    """Correlate aperture [F] with envelope [F] at all lags; a constant track correlates 0."""
    count = len(aperture)
    correlations = []
    for lag in range(-max_lag, max_lag + 1):
        late, early = max(lag, 0), max(-lag, 0)
        length = count - abs(lag)
        correlations.append(_correlation(aperture[late : late + length], loudness[early : early + length]))
    return EnvelopeSync(correlations[max_lag], int(np.argmax(correlations)) - max_lag)


def _correlation(a: FloatArray, b: FloatArray) -> float:
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt((a**2).sum() * (b**2).sum())
    return float((a * b).sum() / scale) if scale > 1e-9 else 0.0
