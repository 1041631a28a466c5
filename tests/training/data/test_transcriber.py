"""What a speech model returns becomes words with times, whatever it leaves open."""

from diffusers_jova.training.data.subtitles import Speech
from diffusers_jova.training.data.transcriber import timed_speech


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
