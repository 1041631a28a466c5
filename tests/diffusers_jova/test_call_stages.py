from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from diffusers_jova import JoVACacheConfig
from diffusers_jova.allocation_count import AllocationCounter
from diffusers_jova.call_stages import CallStages, PlannedCall
from diffusers_jova.guidance import CONDITIONAL
from diffusers_jova.memory_fitting import outline_of
from diffusers_jova.sound_cache import NUM_FIRST
from tests.tiny_pipeline import (
    DUAL_TOWERS,
    build_dual_tower,
    build_tiny_pipeline,
    build_transformer,
    build_wan_transformer,
)


MODELS = {
    "jova": build_transformer,
    "wan": build_wan_transformer,
    "cross_linear": lambda: build_transformer(fusion="cross_linear"),
    **{name: partial(build_dual_tower, name) for name in DUAL_TOWERS},
    "experts": partial(build_dual_tower, "bridge", boundary=0.9),
}
MEDIA: dict[str, dict[str, Any]] = {
    "text": {},
    "video": {"video": np.zeros((5, 32, 32, 3), np.uint8)},
    "audio": {"audio": np.zeros(5000), "audio_sampling_rate": 16000},
}
DUAL = {"guidance_scale": 3.0, "coupling_scale": 2.0}
SOUND_ALONE = {"guidance_scale": 1.0, "audio_guidance_scale": 3.0, "guidance_interval": (0.3, 1.0)}
KEPT = DUAL | {"uncoupled_text": "kept", "coupling_interval": (0.0, 0.5)}


@pytest.mark.parametrize(
    ("model", "scales", "given", "cache", "one_way"),
    [
        ("jova", DUAL, "video", None, False),
        ("jova", DUAL, "audio", None, True),
        ("jova", KEPT, "video", None, False),
        ("jova", SOUND_ALONE, "text", None, False),
        ("jova", DUAL, "video", JoVACacheConfig(2), False),
        ("bridge", KEPT, "video", JoVACacheConfig(2), False),
        ("experts", DUAL, "text", JoVACacheConfig(2), False),
        pytest.param("jova", DUAL, "text", None, False, marks=pytest.mark.slow),
        pytest.param("jova", DUAL, "text", JoVACacheConfig(2), False, marks=pytest.mark.slow),
        pytest.param("wan", DUAL, "text", JoVACacheConfig(2), False, marks=pytest.mark.slow),
        pytest.param("bridge", DUAL, "video", None, False, marks=pytest.mark.slow),
        pytest.param("cross_linear", DUAL, "text", JoVACacheConfig(2), False, marks=pytest.mark.slow),
        pytest.param("bridge", DUAL, "text", JoVACacheConfig(2), False, marks=pytest.mark.slow),
        pytest.param("aligned", DUAL, "video", JoVACacheConfig(2), False, marks=pytest.mark.slow),
        pytest.param("text_cross", DUAL, "text", JoVACacheConfig(2), False, marks=pytest.mark.slow),
    ],
)
def test_the_operations_that_are_counted_are_those_that_a_call_computes(
    model: str, scales: dict[str, Any], given: str, cache: JoVACacheConfig | None, one_way: bool
) -> None:
    pipeline = build_tiny_pipeline(transformer=MODELS[model](), one_way_coupling=one_way)
    settings = scales | {"num_inference_steps": 5, "num_frames": 5}
    call = PlannedCall(
        settings=pipeline.defaults.override(**settings, max_sequence_length=3),
        given=frozenset(MEDIA[given]) & {"video", "audio"},
        cache=cache,
    )
    stages = CallStages(outline_of(pipeline), call)
    transformer, counter = pipeline.transformer, AllocationCounter([])
    forward = transformer.forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        with counter:
            return forward(*args, **kwargs)

    transformer.forward = counted
    if cache is not None:
        transformer.enable_cache(cache)
    width = transformer.config.text_dim
    texts = {name: torch.ones(1, 3, width) for name in ("prompt_embeds", "negative_prompt_embeds")}
    pipeline(**texts, **settings, **MEDIA[given], output_type="latent")
    operations = stages.denoising(branches_apart=False).operations
    most = NUM_FIRST * stages.prediction(CONDITIONAL, ["video", "audio"]).operations * 3 if model == "experts" else 0
    assert operations - most <= counter.operations <= operations


def test_steps_need_not_be_walked_to_be_counted() -> None:
    pipeline = build_tiny_pipeline()
    number = 2 * 10**9
    settings = pipeline.defaults.override(num_inference_steps=number, guidance_interval=(0.25, 0.5))
    stages = [
        CallStages(outline_of(pipeline), PlannedCall(settings=settings, cache=cache))
        for cache in (None, JoVACacheConfig(4))
    ]
    assert [len(run.steps) for run in stages[0].runs] == [number // 4, number // 4, number // 2]
    plain, cached = (each.denoising(False).operations for each in stages)
    one = stages[0].prediction(CONDITIONAL, ["video", "audio"]).operations
    assert plain == one * number * 5 // 4
    audio = stages[1].sparing_operations(CONDITIONAL, ["video", "audio"])
    assert cached == pytest.approx((one + 3 * audio) / 4 * number * 5 / 4, rel=1e-9)
