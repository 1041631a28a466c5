"""What a speech model returns becomes words with times, whatever it leaves open."""

import re
from pathlib import Path

import numpy as np
import pytest

from diffusers_jova.training.data.subtitles import Speech
from diffusers_jova.training.data.transcriber import Transcriber, timed_speech
from tests.prepared_clips import save_speech_model
from tests.tiny_networks import save_whisper


SOUND = np.random.default_rng(0).normal(0, 0.1, (1, 16000)).astype(np.float32)


def told_before(transcriber: Transcriber) -> list[str]:
    """What a Whisper is told before it writes its first word."""
    seen: list[list[int]] = []
    whisper = transcriber._pipeline
    handle = whisper.model.model.decoder.register_forward_pre_hook(
        lambda _module, _args, options: seen.append(options["input_ids"][0].tolist()), with_kwargs=True
    )
    transcriber(SOUND, 16000)
    handle.remove()
    names = whisper.tokenizer.added_tokens_decoder
    return [str(names[number]) for number in max(seen, key=len) if number in names]


@pytest.mark.parametrize("language", ["fr", "FR", "french"])
def test_a_whisper_of_many_languages_hears_the_one_that_is_given(tmp_path: Path, language: str) -> None:
    folder = save_whisper(tmp_path / "whisper")
    guessed = told_before(Transcriber(folder))
    assert "<|fr|>" not in guessed
    assert told_before(Transcriber(folder, "cpu", language)) == ["<|startoftranscript|>", "<|fr|>", "<|transcribe|>"]


def test_a_language_is_no_matter_to_models_of_one(tmp_path: Path) -> None:
    english = save_whisper(tmp_path / "whisper", is_multilingual=False)
    assert told_before(Transcriber(english, "cpu", "fr")) == told_before(Transcriber(english))
    assert Transcriber(save_speech_model(tmp_path / "ctc"), "cpu", "fr")(SOUND, 16000)


def test_a_language_that_a_whisper_does_not_know_is_refused_before_it_hears(tmp_path: Path) -> None:
    folder = save_whisper(tmp_path / "whisper")
    message = f"the language must be one of en, fr, zh, which the recogniser in `{folder}` knows, got xx; give another"
    with pytest.raises(ValueError, match=re.escape(message)):
        Transcriber(folder, "cpu", "xx")


def test_open_ends_reach_to_the_neighbours_and_to_the_end() -> None:
    chunks = [
        {"text": " Hello", "timestamp": (None, 0.5)},
        {"text": " ", "timestamp": (0.5, 0.6)},
        {"text": " blue", "timestamp": (0.6, None)},
        {"text": " moon", "timestamp": (1.5, None)},
    ]
    assert timed_speech({"text": "", "chunks": chunks}, 3.0) == [
        Speech("Hello", 0.0, 0.5),
        Speech("blue", 0.6, 1.5),
        Speech("moon", 1.5, 3.0),
    ]


def test_a_text_without_times_is_known_of_the_whole_sound_alone() -> None:
    assert timed_speech({"text": " hello "}, 3.0) == [Speech("hello", 0.0, 3.0)]
    assert timed_speech({"text": " "}, 3.0) == []


@pytest.mark.parametrize("config", [None, "{}", "no json", '{"model_type": "t5"}'])
def test_a_folder_without_a_recogniser_is_refused_by_name(tmp_path: Path, config: str | None) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(ValueError, match=re.escape(f"`{tmp_path}` must hold a speech recognition model that")) as told:
        Transcriber(tmp_path)
    assert len(str(told.value)) < 600
    assert str(told.value).endswith("download one, such as Whisper")
