"""How near pictures and sounds are to a reference."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from diffusers_jova.evaluation.spectrogram import log_mel


Frames = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.floating]


def psnr_db(frames: Frames, reference: Frames) -> float:
    """Peak signal-to-noise ratio of pictures, in dB; infinite if they are equal."""
    error = ((frames.astype(np.float64) - reference) ** 2).mean()
    return float(10 * np.log10(255**2 / error)) if error > 0 else float("inf")


def mouth_psnr_db(frames: Frames, reference: Frames, boxes: FloatArray) -> float:
    """The same inside the mouth boxes [P, F, 4] (xyxy pixels, NaN none) only; NaN without any."""
    height, width = frames.shape[1:3]
    y, x = np.mgrid[:height, :width] + 0.5
    corners = boxes[..., None, None]
    inside = (x > corners[:, :, 0]) & (x < corners[:, :, 2]) & (y > corners[:, :, 1]) & (y < corners[:, :, 3])
    is_mouth = inside.any(0)
    return psnr_db(frames[is_mouth], reference[is_mouth]) if is_mouth.any() else float("nan")


def mel_error(waveform: FloatArray, reference: FloatArray, sampling_rate: int = 16000) -> float:
    """Mean absolute difference of natural log-mels, over the common length."""
    length = min(len(waveform), len(reference))
    difference = log_mel(waveform[:length], sampling_rate) - log_mel(reference[:length], sampling_rate)
    return float(np.abs(difference).mean())
