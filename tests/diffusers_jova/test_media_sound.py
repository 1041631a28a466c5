"""Sound as an array: another rate, other channels, another loudness."""

import numpy as np
import pytest

from diffusers_jova import media
from tests.made_clips import SAMPLING_RATE, clicks


def test_resampling_keeps_time_and_pitch_and_lets_no_alias_through() -> None:
    def tone(hz: float, rate: int) -> np.ndarray:
        return np.sin(2 * np.pi * hz * np.arange(rate) / rate)[None]

    inner = slice(1000, -1000)  # the ends ring
    np.testing.assert_allclose(
        media.resample(tone(440, 44100), 44100, 16000)[:, inner], tone(440, 16000)[:, inner], atol=1e-4
    )
    np.testing.assert_allclose(
        media.resample(tone(440, 16000), 16000, 48000)[:, inner], tone(440, 48000)[:, inner], atol=1e-4
    )
    assert np.abs(media.resample(tone(10000, 44100), 44100, 16000)[:, inner]).max() < 1e-4


def test_mixing_down_takes_the_mean_and_mixing_up_repeats() -> None:
    stereo = clicks(100, 2)
    np.testing.assert_allclose(media.mix_channels(stereo, 1)[0], stereo.mean(0), atol=1e-7)
    np.testing.assert_array_equal(media.mix_channels(stereo[:1], 2), stereo[[0, 0]])


def test_loudness_reaches_the_target_and_scales_only() -> None:
    pyloudnorm = pytest.importorskip("pyloudnorm")
    sound = 0.1 * clicks(2 * SAMPLING_RATE, 2)
    louder = media.normalize_loudness(sound, SAMPLING_RATE, target_lufs=-30.0)
    assert pyloudnorm.Meter(SAMPLING_RATE).integrated_loudness(louder.T) == pytest.approx(-30.0, abs=0.01)
    assert np.corrcoef(louder[0], sound[0])[0, 1] == pytest.approx(1)


def test_loudness_stops_at_the_peak_limit() -> None:
    pytest.importorskip("pyloudnorm")
    loud = media.normalize_loudness(clicks(SAMPLING_RATE), SAMPLING_RATE, target_lufs=0.0, peak_dbfs=-1.0)
    assert np.abs(loud).max() == pytest.approx(10 ** (-1 / 20), abs=1e-6)


def test_sound_without_a_loudness_comes_back_unchanged() -> None:
    pytest.importorskip("pyloudnorm")
    for sound in (np.zeros((1, SAMPLING_RATE), np.float32), clicks(int(0.39 * SAMPLING_RATE))):
        np.testing.assert_array_equal(media.normalize_loudness(sound, SAMPLING_RATE), sound)


def test_the_bass_of_six_channels_has_no_loudness_and_more_channels_are_refused() -> None:
    pyloudnorm = pytest.importorskip("pyloudnorm")
    sound = np.random.default_rng(0).normal(0, 0.05, (6, SAMPLING_RATE)).astype(np.float32)
    weighed = pyloudnorm.Meter(SAMPLING_RATE).integrated_loudness(sound[[0, 1, 2, 4, 5]].T)
    assert media.integrated_loudness(sound, SAMPLING_RATE) == pytest.approx(weighed)
    bass = np.zeros_like(sound)
    bass[3] = 0.5  # of front left, right and centre, bass, back left and right
    assert media.integrated_loudness(bass, SAMPLING_RATE) is None
    assert media.integrated_loudness(sound + bass, SAMPLING_RATE) == pytest.approx(weighed)
    louder = media.normalize_loudness(sound, SAMPLING_RATE, target_lufs=weighed + 3)
    assert media.integrated_loudness(louder, SAMPLING_RATE) == pytest.approx(weighed + 3, abs=0.01)
    assert louder.shape == sound.shape
    for take in (media.integrated_loudness, media.normalize_loudness):
        with pytest.raises(ValueError, match=r"must have 1 to 6 channels for a loudness, got 8; mix it"):
            take(sound[[0, 1, 2, 3, 4, 5, 4, 5]], SAMPLING_RATE)
