from typing import Any

import numpy as np
import pytest

from diffusers_jova import JoVAPrompt
from diffusers_jova.domain import EMPTY_PROMPT, check_domain, describe_strangers, tell_empty, tell_strangers
from diffusers_jova.drawn.avatars import make_clip, without_look
from diffusers_jova.drawn.corpus import caption_words
from jova_cli.model_info import read_index
from jova_cli.shipped import WEIGHTS
from tests.tiny_pipeline import build_tiny_pipeline


DRAWN = {"name": "drawn speakers", "words": ["a", "cartoon", "man", "speaks", "hello"]}


def test_what_a_model_of_few_things_does_not_know_is_said_in_one_line() -> None:
    assert describe_strangers(DRAWN, "A cartoon man speaks. <S>hello<E> <AUDCAP>a man<ENDAUDCAP>", False) is None
    said = describe_strangers(DRAWN, "A cartoon knight speaks, loudly", False)
    assert said == "this model knows drawn speakers only, and not the words knight, loudly: see its card"
    said = describe_strangers(DRAWN, "A cartoon man", True)
    assert said == "this model knows drawn speakers only, and not other pictures: see its card"
    assert describe_strangers(None, "A knight", True) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [("A größe man", "größe"), ("漢字", "漢字"), ("Привет", "привет"), ("a_knight", "knight")],
)
def test_words_of_any_alphabet_are_told_as_they_are_written(text: str, words: str) -> None:
    said = describe_strangers(DRAWN, text, False)
    assert said == f"this model knows drawn speakers only, and not the words {words}: see its card"


def test_a_domain_has_a_name_and_words() -> None:
    for domain in ({"name": "drawn speakers"}, {"name": 3, "words": []}):
        with pytest.raises(ValueError, match="`domain` must have the entries `name` and `words`, got"):
            check_domain(domain)


def test_jova_tiny_knows_the_words_of_its_corpus() -> None:
    domain = read_index(WEIGHTS / "jova-tiny")["domain"]
    assert domain["words"] == caption_words()
    for seed in range(40):
        clip = make_clip(seed)
        for caption in (clip.caption, without_look(clip.caption)):
            assert describe_strangers(domain, caption, has_image=False) is None
    assert describe_strangers(domain, "A man in a kitchen", has_image=False)


def test_a_call_tells_of_what_it_does_not_know_once(caplog: pytest.LogCaptureFixture) -> None:
    told: set[str] = set()
    for text, has_image in (("A cartoon knight", False), ("A cartoon knight and a dragon", True), ("A knight", True)):
        tell_strangers(DRAWN, text, has_image, told)
    assert [record.message for record in caplog.records] == [
        "this model knows drawn speakers only, and not the words knight: see its card",
        "this model knows drawn speakers only, and not the words and, dragon or other pictures: see its card",
    ]
    caplog.clear()
    tell_strangers(None, "A knight", True, told)
    assert not caplog.records


def test_a_pipeline_tells_what_it_does_not_know(caplog: pytest.LogCaptureFixture) -> None:
    pipeline = build_tiny_pipeline(domain=DRAWN)
    prompts = [JoVAPrompt(video="A cartoon knight", transcript="hello"), JoVAPrompt(video="A cartoon man")]
    for _ in range(2):
        pipeline(prompts, num_inference_steps=1, num_frames=5, output_type="latent")
    (said,) = (record.message for record in caplog.records if "knows" in record.message)
    assert said == "this model knows drawn speakers only, and not the words knight: see its card"


def test_a_model_of_few_things_is_told_of_in_other_sizes_once(caplog: pytest.LogCaptureFixture) -> None:
    call: dict[str, Any] = {"width": 32, "num_inference_steps": 1, "num_frames": 5, "output_type": "latent"}
    given = np.zeros((5, 16, 32, 3), np.uint8)
    for domain, more, lines in ((DRAWN, {}, 0), (DRAWN, {"height": 16}, 1), (None, {"height": 16}, 0)):
        caplog.clear()
        pipeline = build_tiny_pipeline(domain=domain)
        for _ in range(2):
            pipeline("a cartoon man speaks", **call, **more)
        told = [record.message for record in caplog.records if "pixels only" in record.message]
        assert (
            told
            == [f"this model knows {DRAWN['name']} of 32x32 pixels only: at 32x16 it repeats or cuts them"] * lines
        )
    caplog.clear()
    build_tiny_pipeline(domain=DRAWN)("a cartoon man speaks", video=given, height=16, **call)
    assert "pixels only" not in caplog.text  # no picture is made


def test_a_model_of_few_things_is_told_of_at_other_frame_rates_once(caplog: pytest.LogCaptureFixture) -> None:
    call: dict[str, Any] = {"num_inference_steps": 1, "num_frames": 5, "output_type": "latent"}
    for domain, rate, lines in ((DRAWN, None, 0), (DRAWN, 24, 1), (None, 24, 0)):
        caplog.clear()
        pipeline = build_tiny_pipeline(domain=domain)
        for _ in range(2):
            pipeline("a cartoon man speaks", frame_rate=rate, **call)
        told = [record.message for record in caplog.records if "frames per second only" in record.message]
        own = f"{pipeline.defaults.frame_rate:g}"
        said = f"this model knows {DRAWN['name']} at {own} frames per second only, and not at 24: see its card"
        assert told == [said] * lines
    caplog.clear()
    video = np.zeros((5, 32, 32, 3), np.uint8)
    build_tiny_pipeline(domain=DRAWN)("a cartoon man speaks", video=video, frame_rate=24, **call)
    assert "frames per second only" in caplog.text  # the sound is made for its moments
    caplog.clear()
    build_tiny_pipeline(domain=DRAWN)("a cartoon man speaks", modalities=["audio"], frame_rate=24, **call)
    assert "frames per second only" not in caplog.text


@pytest.mark.parametrize("prompts", ["", " \n", JoVAPrompt(video=""), ["A cartoon man", ""]])
def test_an_empty_prompt_is_told_once(prompts: Any, caplog: pytest.LogCaptureFixture) -> None:
    told: set[str] = set()
    tell_empty(prompts, told)
    tell_empty(prompts, told)
    assert [record.message for record in caplog.records] == [EMPTY_PROMPT]


@pytest.mark.parametrize("prompts", [None, "A man", ["A man", JoVAPrompt(video="", transcript="hello")]])
def test_a_prompt_with_words_or_given_otherwise_is_not_told(prompts: Any, caplog: pytest.LogCaptureFixture) -> None:
    tell_empty(prompts, set())
    assert not caplog.records


def test_a_call_tells_of_an_empty_prompt(caplog: pytest.LogCaptureFixture) -> None:
    pipeline = build_tiny_pipeline()
    pipeline("", num_frames=5, num_inference_steps=1, modalities=("video",))
    assert EMPTY_PROMPT in caplog.text
