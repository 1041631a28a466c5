import numpy as np
import pytest

from diffusers_jova.drawn.avatars import make_clip
from diffusers_jova.recipes.evidence import REFERENCES, ear_table
from diffusers_jova.recipes.foreign_ear import ForeignEar, words_heard


@pytest.mark.parametrize(
    ("heard", "share"),
    [
        ("Hello, blue moon!", 1.0),
        ("hello moon", 2 / 3),
        ("moon blue hello", 1 / 3),  # in another order
        ("a yellow blue moon and more", 2 / 3),
        ("", 0.0),
        ("...", 0.0),
    ],
)
def test_words_are_heard_in_their_order(heard: str, share: float) -> None:
    assert words_heard("hello blue moon", heard) == pytest.approx(share)


def test_speech_is_understood_and_silence_is_not() -> None:
    pytest.importorskip("speechmos.dnsmos")
    pytest.importorskip("faster_whisper")
    clip = make_clip(3, subject="speaker")
    ear = ForeignEar(lambda sound, _: clip.transcript if sound.any() else "")
    spoken, silent = ear.measure([clip.waveform, np.zeros_like(clip.waveform)], [clip, clip])
    assert spoken["words_heard"] == 1
    assert 1 <= spoken["dnsmos"] <= 5
    assert silent == {"words_heard": 0}  # of which nobody has an opinion


def test_the_table_stands_where_an_ear_has_listened() -> None:
    figure = {"mean": 0.5, "standard_error": 0.1, "count": 4}
    summaries = {task: {"words_heard": figure, "dnsmos": figure} for task in ("text", *REFERENCES)}
    assert "| words that Whisper tiny.en hears | 50.0 % +- 10.0 % |" in ear_table(summaries)
    assert "| DNSMOS, overall, 1 to 5 | 0.500 +- 0.100 |" in ear_table(summaries)
    assert ear_table({"text": {}}) == ""
