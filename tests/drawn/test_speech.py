"""Speech: the timeline, the spectrum and the variation of the built-in voices."""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest

from diffusers_jova.drawn import espeak, speech
from diffusers_jova.drawn.speech import LEXICON, PHONES, VOICES, WORDS, speak
from diffusers_jova.drawn.visemes import SHAPES, mouth_track
from diffusers_jova.drawn.word_retrieval import alignment_costs, cepstra
from diffusers_jova.evaluation.spectrogram import log_mel


def _say(*words: str, voice: str = "man", seed: int = 0, **options: float) -> speech.Utterance:
    return speak(words, voice, np.random.default_rng(seed), **options)


def _rms(utterance: speech.Utterance, label: str) -> float:
    start_s, end_s, _ = next(phone for phone in utterance.phones if phone.label == label)
    return float(np.sqrt((utterance.waveform[int(16000 * start_s) : int(16000 * end_s)] ** 2).mean()))


def test_every_phoneme_of_the_lexicon_has_a_sound_and_a_mouth() -> None:
    used = {label for labels in LEXICON.values() for label in labels.split()}
    assert used <= set(PHONES)
    assert used <= set(SHAPES)


def test_phonemes_follow_each_other_without_gaps_and_fill_the_waveform() -> None:
    utterance = _say("hello", "banana", "six")
    ends = [phone.end_s for phone in utterance.phones]
    assert [phone.start_s for phone in utterance.phones[1:]] == ends[:-1]
    assert utterance.waveform.dtype == np.float32
    assert len(utterance.waveform) / 16000 == pytest.approx(ends[-1], abs=0.04)  # the last sound fades


def test_the_same_seed_says_the_same_and_another_seed_says_it_differently() -> None:
    first, again, other = _say("moon", "two"), _say("moon", "two"), _say("moon", "two", seed=1)
    np.testing.assert_array_equal(first.waveform, again.waveform)
    assert first.phones != other.phones


def test_vowels_are_louder_than_the_closures_and_fricatives_beside_them() -> None:
    assert _rms(_say("six"), "IH") > 2 * _rms(_say("six"), "S")
    assert _rms(_say("papa"), "AA") > 3 * _rms(_say("papa"), "P")


@pytest.mark.parametrize(("word", "label", "low_hz", "high_hz"), [("two", "UW", 200, 450), ("robot", "AA", 550, 950)])
def test_the_first_formant_lies_where_the_vowel_has_it(word: str, label: str, low_hz: int, high_hz: int) -> None:
    utterance = _say(word)
    start_s, end_s, _ = next(phone for phone in utterance.phones if phone.label == label)
    vowel = utterance.waveform[int(16000 * (start_s + 0.03)) : int(16000 * (end_s - 0.03))]
    spectrum = np.abs(np.fft.rfft(vowel * np.hanning(len(vowel)), 8192)) ** 2
    frequencies_hz = np.fft.rfftfreq(8192, 1 / 16000)
    smooth = np.convolve(spectrum, np.hanning(120), "same")  # over the harmonics
    is_low = (frequencies_hz > 150) & (frequencies_hz < 1000)
    assert low_hz < frequencies_hz[is_low][smooth[is_low].argmax()] < high_hz


def test_a_woman_speaks_higher_than_a_man() -> None:
    def pitch_hz(voice: str) -> float:
        waveform = _say("moon", voice=voice).waveform.astype(np.float64)
        correlation = np.correlate(waveform, waveform, "full")[len(waveform) - 1 :]
        return 16000 / (40 + correlation[40:200].argmax())

    assert pitch_hz("woman") > 1.5 * pitch_hz("man")


def test_a_long_sentence_is_spoken_faster_to_fit() -> None:
    words = ("banana", "banana", "seven", "music")
    assert _say(*words).phones[-1].end_s > 1.5
    assert _say(*words, max_duration_s=1.2).phones[-1].end_s < 1.25


def test_two_renderings_of_a_word_are_nearer_than_two_words() -> None:
    first, second = ([cepstra(log_mel(_say(word, seed=seed).waveform)) for word in WORDS] for seed in (1, 2))
    costs = np.stack([alignment_costs(features, second) for features in first])
    assert (costs.argmin(1) == np.arange(len(WORDS))).mean() > 0.9  # 23 of 24; chance is 1 of 24


def test_a_word_outside_the_lexicon_is_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"must be from the lexicon .* got 'zebra'; use `speech=\"espeak\"`"):
        _say("zebra")


def test_a_mouth_closes_for_m_and_opens_for_a_vowel_at_the_right_frame() -> None:
    phones = (speech.TimedPhone(0.0, 0.25, "M"), speech.TimedPhone(0.25, 0.5, "AA"))
    opening = mouth_track(phones, onset_s=0.5, num_frames=24, frame_rate=16, lead_s=0.0)[:, 0]
    assert opening[:11].max() < 0.05
    assert opening[13:15].min() > 0.8  # frames 12 to 15 show 0.75 s to 1 s
    assert opening[11] < 0.2 < opening[12]
    assert opening[18:].max() < 0.05


def test_a_lead_moves_the_mouth_before_the_sound() -> None:
    phones = (speech.TimedPhone(0.0, 0.25, "AA"),)
    early = mouth_track(phones, 0.5, 24, 16, lead_s=0.125)
    np.testing.assert_allclose(early[:-2], mouth_track(phones, 0.5, 24, 16, lead_s=0.0)[2:], atol=1e-12)


@pytest.mark.parametrize(
    ("mnemonic", "label"), [("'oU", "OW"), ("a#", "AX"), ("_:", "SIL"), ("tS", "CH"), ("t#", "DX"), ("", "SIL")]
)
def test_mnemonics_of_espeak_become_arpabet(mnemonic: str, label: str) -> None:
    assert espeak.arpabet(mnemonic) == label


@pytest.mark.skipif(importlib.util.find_spec("espeakng_loader") is None, reason="needs the extra `espeak`")
def test_espeak_says_any_word_with_times_for_its_phonemes() -> None:
    utterance = espeak.speak(("moon", "river"), "woman", np.random.default_rng(0))
    assert [phone.label for phone in utterance.phones][:3] == ["M", "UW", "N"]
    assert utterance.phones[-1].end_s == pytest.approx(len(utterance.waveform) / 16000, abs=0.01)
    assert {phone.label for phone in utterance.phones} <= set(SHAPES)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("espeakng_loader") is None, reason="needs espeakng-loader")
def test_espeak_says_the_same_in_every_process() -> None:
    say = "_espeak()('hello blue moon', 'en-us', 170, 50)"
    code = f"from diffusers_jova.drawn.espeak import _espeak; print({say}.waveform.sum())"
    said = {subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout for _ in range(2)}
    assert len(said) == 1


@pytest.mark.skipif(importlib.util.find_spec("espeakng_loader") is None, reason="needs the extra `espeak`")
def test_espeak_says_the_same_whatever_it_said_before() -> None:
    def say(*words: str, voice: str = "man", seed: int = 0) -> np.ndarray:
        return espeak.speak(words, voice, np.random.default_rng(seed)).waveform

    first = say("hello", "blue", "moon")
    say("one", "two", voice="child", seed=3)
    np.testing.assert_array_equal(say("hello", "blue", "moon"), first)
    np.testing.assert_array_equal(say("hello", "blue", "moon"), first)


def test_every_voice_says_every_word() -> None:
    assert set(VOICES) == set(espeak.VOICES)
    for voice in VOICES:
        assert np.isfinite(_say(*WORDS[:12], voice=voice).waveform).all()
