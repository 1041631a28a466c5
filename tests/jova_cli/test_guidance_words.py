import re
from dataclasses import fields
from typing import Any

import pytest

from diffusers_jova.generation_defaults import GenerationDefaults
from diffusers_jova.guidance import Guidance
from jova_cli.guidance_words import KINDS, guidance_settings


def test_all_that_guides_can_be_said() -> None:
    of_guidance = {field.name for field in fields(Guidance)}
    said = {field.name for field in fields(GenerationDefaults) if field.name.removeprefix("audio_") in of_guidance}
    assert KINDS.keys() == said - {"guidance_scale", "audio_guidance_scale"}  # which have options of their own


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        (None, {}),
        ("coupling_scale=2", {"coupling_scale": 2.0}),
        ("apg_threshold=0, apg_eta = .5", {"apg_threshold": 0.0, "apg_eta": 0.5}),
        ("cfg_zero_star=true,audio_cfg_zero_star=False", {"cfg_zero_star": True, "audio_cfg_zero_star": False}),
        ("zero_init_steps=1", {"zero_init_steps": 1}),
        ("guidance_interval=0:0.5", {"guidance_interval": (0.0, 0.5)}),
        ("uncoupled_text=kept", {"uncoupled_text": "kept"}),
    ],
)
def test_words_become_arguments_of_a_call(text: str | None, settings: dict[str, Any]) -> None:
    assert guidance_settings(text) == settings
    GenerationDefaults(**settings)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("coupling_scale", "`--guidance` must be words name=value, got 'coupling_scale'; write coupling_scale=2"),
        ("", "`--guidance` must be words name=value, got ''"),
        ("coupling=2", "`--guidance` must name a setting of guidance, got 'coupling'; did you mean `coupling_scale`"),
        ("apg_eta=1,apg_eta=1", "`--guidance` must name a setting once, got `apg_eta` several times"),
        (
            "coupling_scale=much",
            "`coupling_scale` of `--guidance` must be a number, got 'much'; write coupling_scale=2, say",
        ),
        (
            "cfg_zero_star=1",
            "`cfg_zero_star` of `--guidance` must be true or false, got '1'; write cfg_zero_star=true, say",
        ),
        (
            "guidance_interval=0,0.5",
            "`--guidance` must be words name=value, got '0.5'; write coupling_scale=2,guidance_i",
        ),
        (
            "guidance_scale=3",
            "`guidance_scale` must be given by its own option, got it in `--guidance`; use `--guidanc",
        ),
        ("zero_init_steps=1.5", "`zero_init_steps` of `--guidance` must be a whole number, got '1.5'"),
        (
            "guidance_interval=0",
            "`guidance_interval` of `--guidance` must be two numbers, got '0'; write guidance_interval=0:0.5, say",
        ),
    ],
)
def test_other_words_are_refused_in_one_sentence(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        guidance_settings(text)
