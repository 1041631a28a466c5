"""A mouth and its sound as tracks, and as a clip with its boxes: what they have in common is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter1d

from diffusers_jova.media import write_video


FRAME_RATE, SAMPLING_RATE = 25, 16000
LEVEL_RATE = 1000  # of how loud a voice is


def syllables(seed: int, duration_s: float = 5.0) -> npt.NDArray[np.float64]:
    """How loud a voice is, in [0, 1], one number for each sample: irregular syllables and pauses."""
    rng = np.random.default_rng(seed)
    level = np.zeros(round(duration_s * LEVEL_RATE))
    at_s = rng.uniform(0.0, 0.5)
    while at_s < duration_s - 0.3:
        end_s = at_s + rng.uniform(0.08, 0.25)
        level[round(at_s * LEVEL_RATE) : round(end_s * LEVEL_RATE)] = rng.uniform(0.4, 1.0)
        at_s = end_s + (rng.uniform(0.3, 0.6) if rng.random() < 0.25 else rng.uniform(0.02, 0.1))
    return gaussian_filter1d(level, 0.02 * LEVEL_RATE).repeat(SAMPLING_RATE // LEVEL_RATE)


def voice(level: npt.NDArray[np.float64], late_s: float = 0.0) -> npt.NDArray[np.float32]:
    """A hiss as loud as that, [samples], that begins later."""
    hiss = np.random.default_rng(1).normal(0, 0.2, len(level))
    num_late = round(late_s * SAMPLING_RATE)
    return np.roll(level * hiss, num_late).astype(np.float32)


def mouth(level: npt.NDArray[np.float64], seed: int = 2) -> npt.NDArray[np.float64]:
    """How far a mouth is open that says it, [F], with the noise of a detector."""
    per_frame = SAMPLING_RATE // FRAME_RATE
    opening = level[: len(level) // per_frame * per_frame].reshape(-1, per_frame).mean(1)
    return 0.3 + 0.4 * opening + np.random.default_rng(seed).normal(0, 0.03, len(opening))


def write_speaker(folder: Path, name: str, *, seed: int, late_s: float = 0.0, transcript: str = "") -> Path:
    """Write a clip of two seconds with mouth boxes, and what is said, beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    level = syllables(seed, 2.0)
    opening = mouth(level)
    frames = np.full((len(opening), 48, 64, 3), 120, np.uint8)
    boxes = []
    for frame, opened in zip(frames, opening, strict=True):
        height = 20 * opened
        frame[20 : 20 + round(height), 22:42] = 20
        boxes.append([22.0, 20.0, 42.0, 20.0 + height])
    write_video(folder / f"{name}.mp4", frames, FRAME_RATE, voice(level, late_s), SAMPLING_RATE)
    (folder / f"{name}.boxes.json").write_text(json.dumps([boxes]))
    (folder / f"{name}.json").write_text(json.dumps({"transcript": transcript}) if transcript else "{}")
    return folder / f"{name}.mp4"
