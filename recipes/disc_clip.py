"""A procedurally drawn clip, a disc whose radius follows the loudness of a tone, and its twin.

The twin has another colour and runs backwards in time, picture and sound alike. A model that knows both has to read
the prompt, the first frame, or the other modality to know which of the two it is making.

Frame f shows the instant (f + 0.5) / frame_rate. The loudness swells faster and faster, so that no shift in time maps
the clip onto itself: picture and sound that are out of step cannot look as if they were in step.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt


Frames = npt.NDArray[np.uint8]
Waveform = npt.NDArray[np.float32]

SIZE_PX = 32
NUM_FRAMES = 33
FRAME_RATE = 16
SAMPLING_RATE = 16000
NUM_SAMPLES = 32768  # 64 audio latents, as long as the picture to 15 ms

COLOURS = {"orange": np.array([240.0, 150.0, 40.0]), "green": np.array([120.0, 230.0, 90.0])}  # of clip and twin
GROUND = np.array([[30.0, 60.0, 140.0], [70.0, 110.0, 180.0]])  # top, bottom
SMALLEST_PX, LARGEST_PX = 3.0, 13.0
PITCH_HZ = 250.0
NUM_HARMONICS = 31  # up to 7750 Hz


class DiscClip(NamedTuple):
    """The clip: frames uint8 [F, H, W, 3], waveform float32 [S] in [-1, 1], and its prompt."""

    frames: Frames
    waveform: Waveform
    caption: str


def draw_clip(colour: str = "orange") -> DiscClip:
    """Draw picture and sound from one loudness over time, which runs backwards in the twin."""
    frame_times_s = (np.arange(NUM_FRAMES) + 0.5) / FRAME_RATE
    sample_times_s = np.arange(NUM_SAMPLES) / SAMPLING_RATE
    if colour == "green":
        frame_times_s, sample_times_s = (NUM_FRAMES / FRAME_RATE - times for times in (frame_times_s, sample_times_s))
    frames = np.stack([draw_disc(radius_px(level), colour) for level in loudness(frame_times_s)])
    caption = f"{colour} disc <AUDCAP>a tone<ENDAUDCAP>"
    return DiscClip(frames, sound(loudness(sample_times_s)), caption)


def loudness(times_s: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Loudness in (0, 1] at some times, with swells that come closer and closer."""
    return 0.1 + 0.45 * (1 - np.cos(2 * np.pi * (0.7 * times_s + 0.35 * times_s**2)))


def radius_px(level: float) -> float:
    """Radius of the disc at a loudness."""
    return SMALLEST_PX + (LARGEST_PX - SMALLEST_PX) * level


def draw_disc(radius: float, colour: str) -> Frames:
    """One frame, uint8 [H, W, 3], with a smooth edge."""
    centres = np.arange(SIZE_PX) + 0.5
    distance = np.hypot(centres[:, None] - SIZE_PX / 2, centres[None] - SIZE_PX / 2)
    cover = np.clip(radius - distance + 0.5, 0, 1)[..., None]
    return (cover * COLOURS[colour] + (1 - cover) * ground()).round().astype(np.uint8)


def ground() -> npt.NDArray[np.float64]:
    """Colours behind the disc, [H, 1, 3]."""
    height = ((np.arange(SIZE_PX) + 0.5) / SIZE_PX)[:, None, None]
    return (1 - height) * GROUND[0] + height * GROUND[1]


def sound(levels: npt.NDArray[np.floating]) -> Waveform:
    """A tone [S] that is louder and brighter, the higher the loudness [S]."""
    phase = 2 * np.pi * PITCH_HZ * np.arange(len(levels)) / SAMPLING_RATE
    tone = sum(np.sin(harmonic * phase) / harmonic ** (1.8 - levels) for harmonic in range(1, NUM_HARMONICS + 1))
    return (levels * tone / (2 * np.abs(tone).max())).astype(np.float32)


def measure_radius(frames: Frames, colour: str = "orange") -> npt.NDArray[np.float64]:
    """Radius in pixels of the disc in each frame of uint8 [F, H, W, 3], from the area that it covers; [F]."""
    direction = COLOURS[colour] - ground()
    cover = ((frames - ground()) * direction).sum(-1) / (direction**2).sum(-1)
    return np.sqrt(np.clip(cover, 0, 1).sum((1, 2)) / np.pi)
