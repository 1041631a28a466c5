"""Things that make a sound when something visible happens: a dog, a bell, a beeping lamp, rain, a bouncing ball."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from diffusers_jova.drawn.portraits import RGB, Canvas


FloatArray = npt.NDArray[np.float64]


class SoundingObject(NamedTuple):
    """One kind of object.

    `schedule` gives the times of its events in seconds; `strength` the visible state 0..1 from the seconds since the
    last and until the next event; `sound` the waveform of one event; `draw` one frame.
    """

    picture_caption: str
    audio_caption: str
    schedule: Callable[[float, np.random.Generator], FloatArray]
    strength: Callable[[FloatArray, FloatArray], FloatArray]
    sound: Callable[[int, np.random.Generator], FloatArray]
    draw: Callable[[Canvas, float, float], None]


def states(thing: SoundingObject, events_s: FloatArray, num_frames: int, frame_rate: float) -> FloatArray:
    """Visible state of each frame, averaged over its interval; 0..1, [F]."""
    times = (np.arange(8 * num_frames) + 0.5) / (8 * frame_rate)
    until = events_s[None] - times[:, None]  # [T, events]
    since_last = np.where(until <= 0, -until, np.inf).min(1)
    until_next = np.where(until > 0, until, np.inf).min(1)
    return thing.strength(since_last, until_next).reshape(num_frames, 8).mean(1)


def soundtrack(
    thing: SoundingObject, events_s: FloatArray, num_samples: int, sampling_rate: int, generator: np.random.Generator
) -> npt.NDArray[np.float32]:
    """The sounds of all events, float32 [samples] in [-1, 1]."""
    waveform = np.zeros(num_samples)
    for start in np.round(events_s * sampling_rate).astype(int):
        sound = thing.sound(sampling_rate, generator)[: max(num_samples - start, 0)]
        waveform[start : start + len(sound)] += sound
    return (0.6 * waveform / max(np.abs(waveform).max(), 1e-6)).astype(np.float32)


def _times(duration_s: float, sampling_rate: int) -> FloatArray:
    return np.arange(round(duration_s * sampling_rate)) / sampling_rate


# 1. Schedules: times of the events in a clip of `duration_s`


def _now_and_then(duration_s: float, generator: np.random.Generator) -> FloatArray:
    gaps = generator.uniform(0.35, 0.8, 8)
    times = generator.uniform(0.1, 0.4) + np.concatenate([[0.0], np.cumsum(gaps)])
    return times[times < duration_s - 0.25]


def _regularly(duration_s: float, generator: np.random.Generator) -> FloatArray:
    return np.arange(generator.uniform(0.1, 0.4), duration_s - 0.2, generator.uniform(0.38, 0.62))


def _drops(duration_s: float, generator: np.random.Generator) -> FloatArray:
    return np.arange(generator.uniform(0.0, 0.1), duration_s, generator.uniform(0.11, 0.15))


# 2. Visible states


def _mouth_state(since_last: FloatArray, _until_next: FloatArray) -> FloatArray:
    return np.clip(np.minimum((since_last + 0.03) / 0.04, (0.2 - since_last) / 0.08), 0, 1)


def _swing_state(since_last: FloatArray, _until_next: FloatArray) -> FloatArray:
    return np.where(np.isfinite(since_last), np.exp(-np.minimum(since_last, 9.0) / 0.25), 0.0)


def _lamp_state(since_last: FloatArray, _until_next: FloatArray) -> FloatArray:
    return (since_last < 0.15).astype(float)


def _splash_state(since_last: FloatArray, _until_next: FloatArray) -> FloatArray:
    return np.clip(1 - since_last / 0.12, 0, 1)


def _impact_state(since_last: FloatArray, until_next: FloatArray) -> FloatArray:
    nearest = np.minimum(np.minimum(since_last, until_next), 0.5)
    return 1 - np.sqrt(1 - (1 - np.minimum(nearest / 0.25, 1)) ** 2)  # 1 on the floor, 0 at the top


# 3. Sounds of one event, [samples]


def _bark(sampling_rate: int, generator: np.random.Generator) -> FloatArray:
    t = _times(0.2, sampling_rate)
    pitch_hz = 420 * np.exp(-2.2 * t / 0.2 * 0.5) * generator.uniform(0.9, 1.1)
    tone = sum(np.sin(k * 2 * np.pi * np.cumsum(pitch_hz) / sampling_rate) / k for k in range(1, 9))
    rasp = generator.standard_normal(len(t)) * 0.5
    return (tone + rasp) * np.minimum(t / 0.012, 1) * np.exp(-((t / 0.1) ** 2))


def _ring(sampling_rate: int, generator: np.random.Generator) -> FloatArray:
    t = _times(0.8, sampling_rate)
    base_hz = generator.uniform(640, 760)
    partials = ((1.0, 1.0, 0.5), (2.0, 0.6, 0.4), (2.76, 0.5, 0.25), (5.4, 0.3, 0.12))
    return sum(
        (gain * np.sin(2 * np.pi * ratio * base_hz * t) * np.exp(-t / decay_s) for ratio, gain, decay_s in partials),
        start=np.zeros_like(t),
    )


def _beep(sampling_rate: int, _generator: np.random.Generator) -> FloatArray:
    t = _times(0.15, sampling_rate)
    tone = np.sin(2 * np.pi * 1000 * t) + 0.3 * np.sin(2 * np.pi * 3000 * t)
    return tone * np.minimum(np.minimum(t, 0.15 - t) / 0.005, 1)


def _drop(sampling_rate: int, generator: np.random.Generator) -> FloatArray:
    t = _times(0.2, sampling_rate)
    hiss = np.convolve(generator.standard_normal(len(t)), (0.5, 0.5), "same")
    return hiss * (0.35 + np.exp(-t / 0.03)) * np.minimum((0.2 - t) / 0.05, 1)


def _thud(sampling_rate: int, generator: np.random.Generator) -> FloatArray:
    t = _times(0.16, sampling_rate)
    phase = 2 * np.pi * np.cumsum(90 + 160 * np.exp(-t / 0.02)) / sampling_rate
    click = generator.standard_normal(len(t)) * np.exp(-t / 0.004)
    return np.sin(phase) * np.exp(-t / 0.05) + 0.4 * click


# 4. Pictures; `state` is 0..1, `seconds` the time of the frame

FUR: RGB = (178, 122, 66)
DARK_FUR: RGB = (112, 72, 40)
DARK: RGB = (30, 24, 26)


def _draw_dog(canvas: Canvas, state: float, _seconds: float) -> None:
    canvas.ellipse((32, 46 + 3.5 * state), 6.5, 4 + 5 * state, (60, 12, 20))
    canvas.ellipse((32, 32), 16, 15, FUR)
    for side in (-1, 1):
        canvas.ellipse((32 + 16 * side, 28), 5, 11, DARK_FUR)
        canvas.ellipse((32 + 6 * side, 27), 1.9, 2.2, DARK)
    canvas.ellipse((32, 40), 9, 6.5, (222, 184, 140))
    canvas.ellipse((32, 36.5), 3.2, 2.3, DARK)


def _draw_bell(canvas: Canvas, state: float, seconds: float) -> None:
    shift = 7 * state * np.sin(2 * np.pi * 4 * seconds)
    gold: RGB = (232, 190, 60)
    canvas.ellipse((32 - 1.4 * shift, 49), 3.6, 3.6, (150, 110, 30))
    canvas.chord((32 + 0.4 * shift, 34), 12, 20, (180, 360), gold)
    points = ((20 + 0.4 * shift, 33), (44 + 0.4 * shift, 33), (50 + shift, 48), (14 + shift, 48))
    canvas.polygon(points, gold)
    canvas.ellipse((32, 13), 2.6, 2.6, (150, 110, 30))


def _draw_lamp(canvas: Canvas, state: float, _seconds: float) -> None:
    off, on = np.array([90.0, 20.0, 20.0]), np.array([255.0, 60.0, 50.0])
    red, green, blue = (off + state * (on - off)).round().astype(int).tolist()
    canvas.ellipse((32, 33), 16, 16, (70, 70, 74))
    canvas.ellipse((32, 33), 13, 13, (red, green, blue))


def _draw_rain(canvas: Canvas, state: float, seconds: float) -> None:
    water: RGB = (40, 90, 190)
    canvas.rectangle((0, 56), (64, 64), 0, (60, 110, 200))
    for cloud in ((26, 16), (38, 15), (32, 12), (20, 18), (44, 18)):
        canvas.ellipse(cloud, 8, 6, (235, 235, 240))
    for column in range(6):
        y = 24 + (70 * seconds + 11 * column * 3.7) % 32
        canvas.line((14 + 7 * column, y), (14 + 7 * column, y + 4), 1.0, water)
        canvas.ellipse((14 + 7 * column, 57), 1 + 2 * state, 0.6 + 0.6 * state, (200, 220, 250))


def _draw_ball(canvas: Canvas, state: float, _seconds: float) -> None:
    y = 47 - 30 * (1 - state)
    squash = 2.5 * max(state - 0.8, 0) / 0.2
    canvas.rectangle((0, 56), (64, 64), 0, (120, 90, 70))
    canvas.ellipse((32, 57), 4 + 5 * state, 1.2, (80, 60, 48))
    canvas.ellipse((32, y + squash), 9 + squash, 9 - squash, (215, 50, 50))
    canvas.ellipse((29, y - 3 + squash), 2.4, 2.0, (245, 160, 160))


# fmt: off
SOUNDING_OBJECTS = {
    "dog": SoundingObject("A cartoon dog barks", "a dog barking", _now_and_then, _mouth_state, _bark, _draw_dog),
    "bell": SoundingObject("A golden bell swings", "a bell ringing", _now_and_then, _swing_state, _ring, _draw_bell),
    "lamp": SoundingObject("A red lamp blinks", "an electronic beep", _regularly, _lamp_state, _beep, _draw_lamp),
    "rain": SoundingObject("Rain falls from a cloud", "rain falling", _drops, _splash_state, _drop, _draw_rain),
    "ball": SoundingObject("A red ball bounces", "a ball bouncing", _regularly, _impact_state, _thud, _draw_ball),
}
# fmt: on
