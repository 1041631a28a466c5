"""When something begins is found in picture and sound, and nothing is made up where it begins with the clip."""

from __future__ import annotations

import numpy as np
import pytest

from diffusers_jova.evaluation.clip_signals import Signals, track_pictures
from diffusers_jova.evaluation.onsets import first_movement_s, first_sound_s, measure_timing


RATE, FRAME_RATE = 16000, 20.0


def bark(seen_s: float | None, heard_s: float | None, duration_s: float = 2.0) -> Signals:
    """A square that begins to jump, and a noise that begins."""
    num_frames = round(duration_s * FRAME_RATE)
    frames = np.full((num_frames, 36, 64, 3), 80, np.uint8)
    for number in range(num_frames):
        if seen_s is not None and number / FRAME_RATE >= seen_s and number % 2 == 0:
            frames[number, 10:20, 10:20] = 240
    sound = np.zeros(round(duration_s * RATE), np.float32)
    if heard_s is not None:
        first = round(heard_s * RATE)
        sound[first:] = np.random.default_rng(0).normal(0, 0.1, len(sound) - first)
    return Signals(picture=track_pictures(frames, FRAME_RATE), audio=sound[None], sampling_rate=RATE)


@pytest.mark.parametrize(("seen_s", "heard_s"), [(0.8, 0.8), (0.8, 1.1), (1.2, 0.5)])
def test_the_first_movement_is_compared_with_the_first_sound(seen_s: float, heard_s: float) -> None:
    values = measure_timing(bark(seen_s, heard_s)).values
    assert values["onset_difference_ms"] == pytest.approx(1000 * (seen_s - heard_s), abs=10)  # a block of the level
    assert values["length_difference_ms"] == pytest.approx(0)


def test_what_begins_with_the_clip_or_never_has_no_onset() -> None:
    assert "no sound begins" in measure_timing(bark(0.8, None)).reason
    assert "no sound begins" in measure_timing(bark(0.8, 0.0)).reason
    assert "no movement begins" in measure_timing(bark(None, 0.8)).reason
    assert "no movement begins" in measure_timing(bark(0.0, 0.8)).reason
    with_noise = bark(1.0, 1.0)
    assert with_noise.audio is not None
    assert with_noise.picture is not None
    hiss = np.random.default_rng(1).normal(0, 1e-4, with_noise.audio.shape)
    assert first_sound_s(with_noise.audio + hiss, RATE) == pytest.approx(1.0, abs=0.01)
    assert first_movement_s(with_noise.picture) == pytest.approx(1.0)


def test_the_time_of_a_block_is_that_of_its_samples() -> None:
    rate = 11025  # of which a hundredth of a second is no whole number
    sound = np.zeros((1, 30 * rate), np.float32)
    sound[0, 29 * rate :] = 0.1
    assert first_sound_s(sound, rate) == pytest.approx(29, abs=0.01)


def test_a_longer_sound_is_told_in_milliseconds() -> None:
    signals = bark(0.8, 0.8)
    assert signals.audio is not None
    longer = Signals(picture=signals.picture, audio=np.pad(signals.audio, ((0, 0), (0, 800))), sampling_rate=RATE)
    assert measure_timing(longer).values["length_difference_ms"] == pytest.approx(50)
    assert measure_timing(Signals(picture=None, audio=signals.audio, sampling_rate=RATE)).reason == "no picture"
