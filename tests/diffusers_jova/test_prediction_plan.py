"""The predictions of a step, and whose rows each needs."""

from typing import Any

import pytest
import torch

from diffusers_jova.guidance import (
    CONDITIONAL,
    NO_COUPLING,
    NO_TEXT,
    NO_VOICE,
    UNCONDITIONAL,
    Branch,
    Guidance,
    combine,
)
from diffusers_jova.prediction_plan import PredictionPlan, wanted_of


BOTH = ("video", "audio")
DUAL = Guidance(guidance_scale=3.0, coupling_scale=2.0)
ROWS: dict[str, tuple[dict[str, Any], dict[Branch, tuple[str, ...]]]] = {
    "both": ({"generated": BOTH}, dict.fromkeys((CONDITIONAL, NO_TEXT, UNCONDITIONAL), BOTH)),
    "a given video": (
        {"generated": ("audio",)},
        {CONDITIONAL: BOTH, NO_TEXT: BOTH, UNCONDITIONAL: ("audio",)},
    ),
    "a given sound": (
        {"generated": ("video",)},
        {CONDITIONAL: BOTH, NO_TEXT: BOTH, UNCONDITIONAL: ("video",)},
    ),
    "sound alone": (
        {"names": ("audio",), "generated": ("audio",)},
        {CONDITIONAL: ("audio",), NO_TEXT: ("audio",)},
    ),
    "a given video that nothing reads": (
        {"generated": ("audio",), "coupling": "a2v", "negative_coupling": "a2v"},
        {CONDITIONAL: ("audio",), NO_TEXT: ("audio",)},
    ),
    "sound that reads the picture without the prompt alone": (
        {"generated": ("audio",), "coupling": "a2v"},
        {CONDITIONAL: ("audio",), NO_TEXT: BOTH, UNCONDITIONAL: ("audio",)},
    ),
}


def guidance(**settings: Any) -> dict[str, Guidance]:
    """The same for both modalities."""
    return dict.fromkeys(BOTH, Guidance(**settings))


@pytest.mark.parametrize("task", ROWS)
def test_a_prediction_has_rows_of_what_is_wanted_and_of_what_that_reads(task: str) -> None:
    options, expected = ROWS[task]
    plan = PredictionPlan(**{"names": BOTH, **options})
    assert plan.rows_read(plan.weights(dict.fromkeys(BOTH, DUAL), 0, 4)) == expected


def test_each_prediction_tells_who_wants_it() -> None:
    plan = PredictionPlan(names=BOTH, generated=BOTH)
    each = {"video": Guidance(guidance_scale=3.0), "audio": Guidance(coupling_scale=2.0, uncoupled_text="kept")}
    assert wanted_of(plan.weights(each, 0, 4)) == {CONDITIONAL: [*BOTH], NO_TEXT: ["video"], NO_COUPLING: ["audio"]}


def test_a_prediction_without_voices_is_asked_where_there_are_some() -> None:
    settings: dict[str, Any] = {"names": BOTH, "generated": BOTH}
    scales = guidance(speaker_scale=3.0)
    silent, voiced = (PredictionPlan(**settings, has_voices=has).weights(scales, 0, 4) for has in (False, True))
    assert silent == {name: {CONDITIONAL: 1.0} for name in BOTH}
    assert voiced == {name: {CONDITIONAL: 3.0, NO_VOICE: -2.0} for name in BOTH}


def test_predictions_that_a_modality_cannot_tell_apart_are_one_with_the_sum_of_their_weights() -> None:
    plan = PredictionPlan(names=("video",), generated=("video",))
    assert plan.weights({"video": DUAL}, 0, 4) == {"video": {CONDITIONAL: 3.0, NO_TEXT: -2.0}}


@pytest.mark.parametrize("settings", [{"apg_threshold": 0.0}, {"guidance_rescale": 0.5}])
@pytest.mark.parametrize("coupling_scale", [1.0, 2.0])
def test_what_projection_and_rescaling_compare_with_is_asked_where_its_weights_sum_to_nothing(
    settings: dict[str, Any], coupling_scale: float
) -> None:
    scales = {"guidance_scale": 0.0, "coupling_scale": coupling_scale, "speaker_scale": 2.0}
    plan = PredictionPlan(names=BOTH, generated=BOTH)
    linear = plan.weights(guidance(**scales), 0, 4)["video"]
    assert CONDITIONAL not in linear  # its share is that of the prediction without voices, of which there are none
    bent = Guidance(**scales, **settings)
    weights = plan.weights(dict.fromkeys(BOTH, bent), 0, 4)["video"]
    assert weights == {CONDITIONAL: 0.0, **linear}
    generator = torch.Generator().manual_seed(0)
    answers = {branch: torch.randn(1, 2, 1, 4, 4, generator=generator) for branch in weights}
    guided = bent.guide_data(answers, weights, torch.randn(1, 2, 1, 4, 4, generator=generator), 0.5)
    assert not torch.allclose(guided, combine(answers, weights))
