import json
from dataclasses import asdict
from typing import Any

import pytest

from diffusers_jova.generation_defaults import GenerationDefaults
from diffusers_jova.recipes.generation import num_predictions
from jova_cli.model_info import read_index
from jova_cli.shipped import WEIGHTS


def test_an_argument_that_is_none_takes_the_default_and_a_zero_stays_a_zero() -> None:
    defaults = GenerationDefaults(guidance_scale=5.0, guidance_rescale=0.7)
    settings = defaults.override(guidance_scale=None, guidance_rescale=0.0, audio_guidance_scale=0)
    assert settings.guidance_scale == 5
    assert settings.guidance_rescale == 0
    assert settings.audio_guidance_scale == 0
    assert defaults.guidance_rescale == 0.7


def test_audio_guidance_follows_video_where_it_is_none() -> None:
    guidance = GenerationDefaults(guidance_scale=4.0, coupling_scale=2.0, guidance_rescale=0.5).guidance()
    assert guidance["audio"] == guidance["video"]


def test_audio_guidance_may_differ_and_a_zero_is_a_zero() -> None:
    audio = GenerationDefaults(guidance_scale=4.0, audio_guidance_scale=0.0, audio_coupling_scale=3.0).guidance()[
        "audio"
    ]
    assert (audio.guidance_scale, audio.coupling_scale) == (0, 3)


def test_speaker_guidance_is_one_of_audio() -> None:
    guidance = GenerationDefaults(audio_speaker_scale=4.0).guidance()
    assert (guidance["video"].speaker_scale, guidance["audio"].speaker_scale) == (1, 4)


def test_the_norm_limit_of_video_is_not_one_of_audio() -> None:
    guidance = GenerationDefaults(apg_threshold=27.0).guidance()
    assert (guidance["video"].apg_threshold, guidance["audio"].apg_threshold) == (27, None)
    guidance = GenerationDefaults(apg_eta=0.5).guidance()
    assert (guidance["video"].apg_eta, guidance["audio"].apg_eta) == (0.5, 0.5)


def test_a_name_that_is_no_argument_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(ValueError, match="got 'guidance_scales'; did you mean 'guidance_scale'"):
        GenerationDefaults.from_dict({"guidance_scales": 3})


def test_defaults_survive_json_and_refuse_guidance_that_cannot_be() -> None:
    defaults = GenerationDefaults(coupling_scale=2.0, coupling_interval=(0.0, 0.5))
    assert GenerationDefaults.from_dict(json.loads(json.dumps(asdict(defaults)))) == defaults
    with pytest.raises(ValueError, match="`guidance_rescale` must be in"):
        GenerationDefaults.from_dict({"guidance_rescale": 2.0})


def test_coupling_goes_with_the_text_where_it_has_no_scale_of_its_own() -> None:
    own = GenerationDefaults(guidance_scale=1.5, coupling_scale=None)

    def scales(**arguments: Any) -> list[tuple[float, float]]:
        guidance = own.override(**arguments).guidance()
        return [(guidance[name].guidance_scale, guidance[name].coupling_scale) for name in ("video", "audio")]

    assert scales() == [(1.5, 1.5), (1.5, 1.5)]
    assert scales(guidance_scale=1.0) == [(1.0, 1.0), (1.0, 1.0)]
    assert scales(guidance_scale=3.0) == [(3.0, 3.0), (3.0, 3.0)]
    assert scales(audio_guidance_scale=2.0) == [(1.5, 1.5), (2.0, 2.0)]
    assert scales(audio_guidance_scale=2.0, audio_coupling_scale=4.0) == [(1.5, 1.5), (2.0, 4.0)]
    assert scales(coupling_scale=1.0) == [(1.5, 1.0), (1.5, 1.0)]
    half = own.override(guidance_interval=(0.0, 0.5)).guidance()["video"]
    assert half.coupling_interval == (0.0, 0.5)
    apart = own.override(guidance_interval=(0.0, 0.5), coupling_interval=(0.5, 1.0)).guidance()["video"]
    assert (apart.guidance_interval, apart.coupling_interval) == ((0.0, 0.5), (0.5, 1.0))
    whole = own.override(guidance_interval=(0.0, 0.5), coupling_interval=(0.0, 1.0)).guidance()["video"]
    assert (whole.coupling_scale, whole.coupling_interval) == (1.5, (0.0, 1.0))
    louder = own.override(audio_guidance_scale=2.0, coupling_interval=(0.0, 1.0)).guidance()
    assert [louder[name].coupling_scale for name in ("video", "audio")] == [1.5, 2.0]
    told = own.override(guidance_interval=(0.0, 0.5), audio_guidance_scale=2.0).explicit()
    assert (told.coupling_scale, told.audio_coupling_scale, told.coupling_interval) == (1.5, 2.0, (0.0, 0.5))
    assert told.guidance() == own.override(guidance_interval=(0.0, 0.5), audio_guidance_scale=2.0).guidance()
    fixed = GenerationDefaults(guidance_scale=1.5).override(guidance_interval=(0.0, 0.5)).guidance()["video"]
    assert (fixed.coupling_scale, fixed.coupling_interval) == (1.0, (0.0, 1.0))


@pytest.mark.parametrize(
    ("arguments", "rows"),
    [
        ({}, 16),
        ({"guidance_scale": 1.0}, 8),
        ({"guidance_scale": 3.0}, 16),
        ({"guidance_interval": (0.0, 0.5)}, 12),
        ({"coupling_scale": 1.0}, 16),
        ({"coupling_scale": 3.0}, 24),
    ],
)
def test_the_shipped_model_asks_no_more_for_coupling_than_for_the_text(arguments: dict[str, Any], rows: int) -> None:
    own = GenerationDefaults.from_dict(read_index(WEIGHTS / "jova-tiny")["defaults"])
    assert num_predictions(own.override(num_inference_steps=8, **arguments)) == rows


@pytest.mark.parametrize("name", ["negative_prompt", "audio_negative_prompt"])
def test_a_negative_prompt_that_is_no_text_is_refused_by_its_name(name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must be text, got 3; write it in quotes"):
        GenerationDefaults(**{name: 3})  # type: ignore[arg-type]
