"""Levels of sounds whose levels are known."""

from __future__ import annotations

import numpy as np
import pytest

from diffusers_jova.evaluation import sound_level
from diffusers_jova.evaluation.sound_level import clipped_share, measure_sound, silence_share, true_peak_dbtp


RATE = 48000
TIME_S = np.arange(RATE) / RATE


def tone(frequency_hz: float, amplitude: float, phase: float = 0.0) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * frequency_hz * TIME_S + phase)).astype(np.float32)[None]


def test_a_tone_has_the_loudness_that_the_standard_gives_it() -> None:
    pytest.importorskip("pyloudnorm")
    measured = measure_sound(np.repeat(tone(997, 0.1), 2, axis=0), RATE)
    assert measured.values["loudness_lufs"] == pytest.approx(
        -20.0, abs=0.1
    )  # BS.1770: 997 Hz at 0 dBFS is -3.01 in one
    assert not measured.reason


@pytest.mark.parametrize("place", [0, 299, 300, 700, 999])
def test_the_true_peak_of_a_long_sound_is_found_piece_by_piece(place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    audio = 0.1 * np.random.default_rng(0).standard_normal((2, 1000)).astype(np.float32) + 0.3  # a step at wrong edges
    audio[1, max(place - 1, 0) : place + 1] += 0.5
    whole = true_peak_dbtp(audio, RATE)
    monkeypatch.setattr(sound_level, "PIECE", 300)
    assert true_peak_dbtp(audio, RATE) == pytest.approx(whole, abs=1e-4)


def test_the_true_peak_lies_between_samples() -> None:
    between = tone(RATE / 4, 1.0, np.pi / 4)  # whose samples are all at 0.707
    assert np.abs(between).max() == pytest.approx(np.sqrt(0.5), rel=1e-4)
    assert true_peak_dbtp(between[:, 1000:-1000], RATE) == pytest.approx(0.0, abs=0.5)
    assert true_peak_dbtp(np.zeros((1, 100), np.float32), RATE) is None


def test_clipping_is_a_run_at_full_scale_and_a_peak_is_none() -> None:
    sound = np.zeros((1, 100), np.float32)
    sound[0, 10], sound[0, 20:25], sound[0, 40:42] = 1.0, -1.0, 1.0
    assert clipped_share(sound) == 0.05
    assert clipped_share(np.clip(3 * tone(100, 1.0), -1, 1)) > 0.5
    assert clipped_share(tone(100, 0.9)) == 0


def test_silence_is_counted_in_time() -> None:
    sound = np.concatenate([tone(440, 0.1), np.zeros((1, RATE), np.float32), tone(440, 1e-4), tone(440, 0.1)], axis=1)
    assert silence_share(sound, RATE) == pytest.approx(0.5)
    assert measure_sound(None, 0).reason == "no sound"
    nothing = measure_sound(np.zeros((2, RATE), np.float32), RATE)
    assert nothing.values["silence_share"] == 1
    assert nothing.values["true_peak_dbtp"] is None
    assert nothing.reason


def test_what_is_quiet_throughout_is_no_silence() -> None:
    pytest.importorskip("pyloudnorm")
    quiet = measure_sound(tone(997, 5e-4), RATE)
    assert (quiet.values["silence_share"], quiet.reason) == (1, "")
    assert quiet.values["loudness_lufs"] == pytest.approx(-69.0, abs=0.1)
    quieter = measure_sound(tone(997, 2e-4), RATE)  # than what the standard counts, which begins at -70 LUFS
    assert (quieter.values["loudness_lufs"], quieter.reason) == (None, "the sound is too quiet for a loudness")
    assert measure_sound(tone(997, 5e-5), RATE).reason == "the sound is silence"


def test_sound_of_six_channels_has_a_loudness_and_that_of_eight_all_the_other_numbers() -> None:
    pytest.importorskip("pyloudnorm")
    for num_channels in (6, 8):
        measured = measure_sound(np.repeat(tone(997, 0.1), num_channels, axis=0), RATE)
        assert (measured.values["loudness_lufs"] is None) == (num_channels == 8)
        assert ("must have 1 to 6 channels for a loudness, got 8" in measured.reason) == (num_channels == 8)
        assert measured.values["true_peak_dbtp"] == pytest.approx(-20, abs=0.1)
        assert measured.values["silence_share"] == measured.values["clipped_share"] == 0
        assert measured.is_final
