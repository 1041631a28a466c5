"""Mouth shapes: what a phoneme looks like, and how a mouth moves through a sentence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from diffusers_jova.drawn.speech import TimedPhone


FloatArray = npt.NDArray[np.float64]

LEAD_S = 0.01  # the mouth moves before its sound; with this lead the sound's envelope peaks in the same frame
BLEND_S = 0.022  # co-articulation: standard deviation of the blending kernel
OVERSAMPLING = 8  # mouth shapes averaged per frame

# fmt: off
VISEMES: dict[str, tuple[float, float, float, float]] = {
    #            open  width round teeth, each 0..1; phonemes in ARPABET
    "P B M":            (0.00, 0.50, 0.0, 0.0),
    "F V":              (0.12, 0.55, 0.0, 1.0),
    "TH DH":            (0.20, 0.55, 0.0, 1.0),
    "T D N L S Z DX":   (0.20, 0.62, 0.0, 0.8),
    "SH ZH CH JH":      (0.22, 0.32, 0.7, 0.8),
    "K G NG HH Y":      (0.28, 0.60, 0.0, 0.4),
    "W":                (0.16, 0.10, 1.0, 0.0),
    "R":                (0.26, 0.35, 0.6, 0.2),
    "IY IH":            (0.34, 0.95, 0.0, 0.7),
    "EH EY":            (0.54, 0.85, 0.0, 0.5),
    "AE AY":            (0.86, 0.75, 0.0, 0.3),
    "AA AH":            (0.95, 0.58, 0.0, 0.2),
    "AX ER":            (0.46, 0.55, 0.1, 0.3),
    "AO OW OY":         (0.66, 0.26, 0.9, 0.0),
    "UW UH":            (0.36, 0.10, 1.0, 0.0),
    "AW":               (0.88, 0.45, 0.3, 0.2),
    "SIL":              (0.00, 0.45, 0.0, 0.0),
}
# fmt: on
SHAPES = {phone: shape for phones, shape in VISEMES.items() for phone in phones.split()}


def mouth_track(
    phones: Sequence[TimedPhone], onset_s: float, num_frames: int, frame_rate: float, *, lead_s: float = LEAD_S
) -> FloatArray:
    """Mouth shapes (open, width, round, teeth) over the frames of a clip, [F, 4].

    Frame f is the average over the interval from f / frame_rate to (f + 1) / frame_rate.

    Args:
        phones: The utterance, in seconds from its own start.
        onset_s: When the utterance starts in the clip.
        num_frames: F.
        frame_rate: Frames per second.
        lead_s: How long before its sound the mouth takes a shape.
    """
    steps_per_s = frame_rate * OVERSAMPLING
    times = (np.arange(num_frames * OVERSAMPLING) + 0.5) / steps_per_s - onset_s + lead_s
    targets = np.tile(SHAPES["SIL"], (len(times), 1))
    for start_s, end_s, label in phones:
        targets[(times >= start_s) & (times < end_s)] = SHAPES[label]
    radius = int(np.ceil(4 * BLEND_S * steps_per_s))
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / (BLEND_S * steps_per_s)) ** 2)
    padded = np.pad(targets, ((radius, radius), (0, 0)), mode="edge")
    smooth = np.stack([np.convolve(column, kernel / kernel.sum(), "valid") for column in padded.T], axis=1)
    return smooth.reshape(num_frames, OVERSAMPLING, 4).mean(1)
