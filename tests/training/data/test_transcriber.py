"""What a speech model returns becomes words with times, whatever it leaves open."""

import re
from pathlib import Path

import pytest

from diffusers_jova.training.data.subtitles import Speech
from diffusers_jova.training.data.transcriber import Transcriber, timed_speech


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
