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


def mouth_openings(boxes: FloatArray) -> FloatArray:
    """How far the mouths of boxes [P, F, 4] are open: height over width, [P, F]; NaN without a box or its width."""
    x1, y1, x2, y2 = np.moveaxis(boxes, -1, 0)
    return (y2 - y1) / np.where(x2 > x1, x2 - x1, np.nan)


def envelope_sync(aperture: FloatArray, loudness: FloatArray, max_lag: int = MAX_LAG) -> EnvelopeSync:
    """Correlate aperture [F] with envelope [F] at all lags, as `lag_correlations` does."""
    correlations = lag_correlations(aperture, loudness, max_lag)
    return EnvelopeSync(float(correlations[max_lag]), int(np.argmax(correlations)) - max_lag)


def lag_correlations(aperture: FloatArray, loudness: FloatArray, max_lag: int) -> npt.NDArray[np.float64]:
    """Correlation at each lag from `-max_lag` on, positive for late lips: [2 * max_lag + 1].

    Args:
        aperture: [F]; NaN in frames that do not count.
        loudness: [F].
        max_lag: In frames, less than F.

    Returns:
        Correlations; that of a constant track is 0.
    """
    count = len(aperture)
    correlations = []
    for lag in range(-max_lag, max_lag + 1):
        late, early = max(lag, 0), max(-lag, 0)
        length = count - abs(lag)
        correlations.append(_correlation(aperture[late : late + length], loudness[early : early + length]))
    return np.array(correlations)


def _correlation(a: FloatArray, b: FloatArray) -> float:
    seen = np.isfinite(a)
    if not seen.any():
        return 0.0
    a, b = a[seen] - a[seen].mean(), b[seen] - b[seen].mean()
    scale = np.sqrt((a**2).sum() * (b**2).sum())
    return float((a * b).sum() / scale) if scale > 1e-9 else 0.0
