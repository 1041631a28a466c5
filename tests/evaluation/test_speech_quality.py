"""Scores of networks that come in packages: they tell noise from a voice, and voices from each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from diffusers_jova.drawn.speech import speak
from diffusers_jova.evaluation.speech_quality import VoiceComparer, measure_speech, read_voice
from diffusers_jova.media import write_audio


RATE = 16000


def voice(kind: str, seed: int) -> np.ndarray:
    said = speak(["hello", "blue", "moon"] * 2, kind, np.random.default_rng(seed), sampling_rate=RATE)
    return said.waveform[None].astype(np.float32)


@pytest.mark.slow
def test_noise_makes_speech_worse() -> None:
    pytest.importorskip("speechmos.dnsmos")
    clean = voice("woman", 0)
    noisy = clean + np.random.default_rng(0).normal(0, 0.05, clean.shape).astype(np.float32)
    scores = [measure_speech(sound, RATE).values["dnsmos_background"] for sound in (clean, noisy)]
    assert scores[0] is not None
    assert scores[1] is not None
    assert scores[0] > scores[1] + 0.5
    assert measure_speech(None, 0).reason == "no sound"
    assert measure_speech(np.zeros_like(clean), RATE).reason == "the sound is silence"


@pytest.mark.slow
def test_the_share_of_speech_is_that_of_the_words_and_noise_and_tones_have_none() -> None:
    pytest.importorskip("speechmos.dnsmos")
    pytest.importorskip("faster_whisper")
    said = voice("man", 0)
    paused = np.concatenate([said, np.zeros_like(said)], axis=1)
    noise = np.random.default_rng(0).normal(0, 0.1, said.shape).astype(np.float32)
    tone = np.sin(np.arange(said.shape[1]) / 4, dtype=np.float32)[None]
    shares = [measure_speech(sound, RATE).values["speech_share"] for sound in (said, paused, noise, tone, 0 * said)]
    assert shares == [pytest.approx(1, abs=0.1), pytest.approx(0.5, abs=0.05), 0, 0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("num_samples", [1, RATE // 4, RATE - 1])
def test_a_sound_of_less_than_a_second_gets_no_opinion(num_samples: int) -> None:
    pytest.importorskip("speechmos.dnsmos")
    pytest.importorskip("faster_whisper")
    short = measure_speech(voice("woman", 0)[:, 2000 : 2000 + num_samples], RATE)
    assert set(short.values) == {"speech_share"}
    assert short.reason == "less than 1 s of sound, which is too short for an opinion on it"
    assert short.is_final
    assert measure_speech(voice("woman", 0)[:, :RATE], RATE).values["dnsmos_overall"] is not None


@pytest.mark.slow
def test_speech_that_is_clean_is_better_as_a_whole_than_in_noise_and_than_noise_alone() -> None:
    pytest.importorskip("speechmos.dnsmos")
    pytest.importorskip("faster_whisper")
    noise = np.random.default_rng(0).normal(0, 0.05, voice("man", 0).shape).astype(np.float32)
    for kind in ("woman", "man"):
        clean = voice(kind, 0)
        sounds = (clean, clean + noise[:, : clean.shape[1]], 0.02 * clean + noise[:, : clean.shape[1]])
        overall = [measure_speech(sound, RATE).values["dnsmos_overall"] or 0.0 for sound in sounds]
        assert overall[0] > overall[1] + 0.2
        assert overall[0] > overall[2] + 0.5


@pytest.mark.slow
def test_a_voice_is_more_like_itself_than_like_another(tmp_path: Path) -> None:
    pytest.importorskip("resemblyzer")
    write_audio(tmp_path / "woman.wav", voice("woman", 0), RATE)
    comparer = VoiceComparer()
    same, other = (
        comparer.measure(voice(kind, 1), RATE, tmp_path / "woman.wav").values["voice_similarity"]
        for kind in ("woman", "man")
    )
    assert same is not None
    assert other is not None
    assert same > other
    hiss = np.random.default_rng(0).normal(0, 0.003, (1, 3 * RATE)).astype(np.float32)
    assert comparer.measure(hiss, RATE, tmp_path / "woman.wav").reason == "less than 1 s of a voice"
    write_audio(tmp_path / "hiss.wav", hiss, RATE)
    with pytest.raises(ValueError, match="must be sound in which somebody speaks"):
        comparer.know(tmp_path / "hiss.wav")


def test_a_sound_that_can_hold_no_voice_is_refused(tmp_path: Path) -> None:
    for name, sound in {"silence": np.zeros((1, 2 * RATE)), "short": np.full((1, RATE // 2), 0.1)}.items():
        write_audio(tmp_path / f"{name}.wav", sound.astype(np.float32), RATE)
    with pytest.raises(ValueError, match="must be sound of a voice, 1 s or more, got the sound is silence"):
        read_voice(tmp_path / "silence.wav")
    with pytest.raises(ValueError, match=r"got 0\.5 s; give another voice"):
        read_voice(tmp_path / "short.wav")
