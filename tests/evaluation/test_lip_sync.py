"""An offset between lips and sound is found where there is one, and none is made up where nothing fits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from diffusers_jova.evaluation.clip_signals import Signals, track_pictures
from diffusers_jova.evaluation.lip_sync import ENOUGH, LipSync, measure_lip_sync
from diffusers_jova.evaluation.meter import measure_sync
from diffusers_jova.training.data.envelope_sync import mouth_openings
from tests.evaluation.speaking import FRAME_RATE, SAMPLING_RATE, mouth, syllables, voice


FRAME_MS = 1000 / FRAME_RATE


def sync_of(opening: np.ndarray, waveform: np.ndarray | None) -> LipSync:
    return measure_lip_sync(opening[None], waveform, FRAME_RATE, SAMPLING_RATE)


@pytest.mark.parametrize("late_s", [-0.4, 0.0, 0.1])
def test_the_offset_of_shifted_sound_is_found_within_half_a_frame(late_s: float) -> None:
    for seed in range(3):
        level = syllables(seed)
        sync = sync_of(mouth(level), voice(level, late_s))
        assert sync.confidence is not None
        assert sync.confidence > ENOUGH
        assert sync.offset_ms == pytest.approx(-1000 * late_s, abs=FRAME_MS / 2)  # late sound is an early picture


def test_sound_that_fits_as_it_is_correlates_more_than_the_same_sound_later() -> None:
    level = syllables(0)
    true, late = (sync_of(mouth(level), voice(level, late_s)).correlation for late_s in (0, 0.3))
    assert true is not None
    assert late is not None
    assert true > 0.8 > 0.3 > late


def test_mouths_and_sounds_of_different_clips_get_an_offset_about_as_rarely_as_the_confidence_says() -> None:
    levels = [syllables(seed) for seed in range(8)]
    pairs = [(a, (a + apart) % 8) for a in range(8) for apart in (1, 2, 3)]
    told = [sync_of(mouth(levels[a]), voice(levels[b])).offset_ms is not None for a, b in pairs]
    assert sum(told) <= 4  # of 24; at 5 in a hundred, more come once in 150 times


def test_of_two_mouths_the_one_that_speaks_counts() -> None:
    level, other = syllables(0), syllables(7)
    both = np.stack([mouth(other), mouth(level)])
    sync = measure_lip_sync(both, voice(level), FRAME_RATE, SAMPLING_RATE)
    alone = sync_of(mouth(level), voice(level))
    assert sync[:2] == alone[:2]  # the confidence is another, for twice the offsets were tried


def test_of_more_mouths_the_best_fits_better_by_chance() -> None:
    level = syllables(0, 1.6)
    one = sync_of(mouth(level), voice(level))
    many = measure_lip_sync(np.stack([mouth(level)] * 8), voice(level), FRAME_RATE, SAMPLING_RATE)
    assert one.confidence is not None
    assert many.confidence == pytest.approx(one.confidence**8)


def test_a_box_without_width_is_no_mouth() -> None:
    boxes = np.array([[[0, 0, 10, 5], [10, 0, 10, 5], [10, 0, 9, 5], [np.nan] * 4]], np.float64)
    np.testing.assert_array_equal(mouth_openings(boxes), [[0.5, np.nan, np.nan, np.nan]])


def test_frames_without_a_mouth_do_not_count() -> None:
    level = syllables(0)
    opening = mouth(level)
    opening[40:60] = np.nan
    sync = sync_of(opening, voice(level))
    assert sync.offset_ms == pytest.approx(0, abs=FRAME_MS / 2)


def test_what_cannot_be_judged_says_why() -> None:
    level = syllables(0)
    opening, steady = mouth(level), np.random.default_rng(0).normal(0, 0.1, len(level)).astype(np.float32)
    nobody = np.full((1, len(opening)), np.nan)
    assert sync_of(opening, None).reason == "no sound"
    assert sync_of(opening, np.zeros_like(steady)).reason == "the sound is silence"
    quiet = sync_of(opening, 1e-3 * steady)  # which may be heard
    assert quiet.reason == "the sound is too quiet to judge: -80 dB of full scale, and -60 is needed"
    assert sync_of(np.full_like(opening, np.nan), None).reason == "no face"
    assert sync_of(nobody[0], voice(level)).reason == "no face"
    assert measure_lip_sync(nobody[:0], voice(level), FRAME_RATE, SAMPLING_RATE).reason == "no face"
    assert "nobody speaks" in sync_of(opening, steady).reason
    still = sync_of(np.full(len(opening), 0.4), voice(level))
    assert still.reason == "the mouth does not move"
    assert still.correlation == 0
    seldom = np.full(len(opening), np.nan)
    seldom[:10] = opening[:10]
    assert "is seen in less than 25 frames" in sync_of(seldom, voice(level)).reason


@pytest.mark.parametrize("speaker", [0, 1])
def test_of_two_faces_the_mouth_that_was_measured_is_drawn(speaker: int) -> None:
    level = syllables(0)
    spoken = mouth(level)
    listening = 0.5 + 0.1 * np.sin(np.arange(len(spoken)) / 3)  # of one who chews, and is seen more
    spoken[:10] = np.nan
    openings = np.stack([spoken, listening] if speaker == 0 else [listening, spoken])
    heights = 20 * openings[..., None]
    boxes = np.concatenate([np.zeros_like(heights), np.zeros_like(heights), 0 * heights + 20, heights], axis=-1)
    picture = replace(track_pictures(np.zeros((len(spoken), 8, 8, 3), np.uint8), FRAME_RATE), boxes=boxes)
    measured = measure_sync(Signals(picture=picture, audio=voice(level)[None], sampling_rate=SAMPLING_RATE))
    assert (
        measured.values["sync_correlation"]
        == measure_lip_sync(spoken[None], voice(level), FRAME_RATE, SAMPLING_RATE).correlation
    )
    drawn = np.array(measured.curves["mouth"], float)
    assert np.isnan(drawn[:10]).all()
    assert np.corrcoef(drawn[10:], spoken[10:])[0, 1] == pytest.approx(1)
