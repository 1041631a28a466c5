import subprocess
import sys

import pytest

from jova_cli.cache_words import cache_settings


def test_words_become_the_settings_of_a_cache() -> None:
    assert cache_settings("video_interval=3") == {"video_interval": 3}
    assert cache_settings("video_threshold=.05, storage_dtype=float8_e5m2,storage_device=cpu") == {
        "video_threshold": 0.05,
        "storage_dtype": "float8_e5m2",
        "storage_device": "cpu",
    }


REFUSED = {
    "3": r"`--cache` must be words name=value, got '3'",
    "video_intervall=3": r"must name a setting of the cache, got 'video_intervall'; .*video_interval",
    "video_interval=2.5": r"`video_interval` of `--cache` must be a whole number, got 2.5",
    "video_interval=three": r"`video_interval` of `--cache` must be a number, got 'three'",
    "audio_threshold=-1": r"`audio_threshold` of `--cache` must be positive and finite, got -1",
    "video_interval=2,video_interval=3": r"once, got `video_interval` several times",
    "storage_dtype=int8": r"`storage_dtype` of `--cache` must be one of float8_e4m3fn, .* got 'int8'",
}


@pytest.mark.parametrize(("words", "message"), REFUSED.items())
def test_words_that_set_nothing_are_refused(words: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cache_settings(words)


def test_a_refused_cache_does_not_load_torch() -> None:
    code = (
        "import sys, jova_cli.cache_words as words\n"
        "try: words.cache_settings('x=1')\n"
        "except ValueError: print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
