"""Log-mel spectrograms in numpy, for measures."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
from transformers.audio_utils import mel_filter_bank


WINDOW_SAMPLES = 1024
HOP_LENGTH_SAMPLES = 256
NUM_MELS = 80
FLOOR = 1e-4
LOG_FLOOR = float(np.log(FLOOR))


def log_mel(waveform: npt.NDArray[np.floating], sampling_rate: int = 16000) -> npt.NDArray[np.float32]:
    """Natural logarithm of the mel magnitudes of [samples], [T, 80]; frame m is centred at (m + 1/2) hops."""
    padding = (WINDOW_SAMPLES - HOP_LENGTH_SAMPLES) // 2
    padded = np.pad(np.asarray(waveform, np.float64), padding, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW_SAMPLES)[::HOP_LENGTH_SAMPLES]
    magnitudes = np.abs(np.fft.rfft(windows * np.hanning(WINDOW_SAMPLES + 1)[:-1]))
    return np.log(np.maximum(magnitudes @ _filters(sampling_rate), FLOOR)).astype(np.float32)


@lru_cache(maxsize=4)
def _filters(sampling_rate: int) -> npt.NDArray[np.float64]:
    return mel_filter_bank(
        num_frequency_bins=WINDOW_SAMPLES // 2 + 1,
        num_mel_filters=NUM_MELS,
        min_frequency=0.0,
        max_frequency=min(8000.0, sampling_rate / 2),
        sampling_rate=sampling_rate,
        norm="slaney",
        mel_scale="slaney",
    )
