"""Caches of diffusers between denoising steps: they save work and keep picture and sound, or they are refused."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from diffusers import (
    FasterCacheConfig,
    FirstBlockCacheConfig,
    PyramidAttentionBroadcastConfig,
    SeaCacheConfig,
    TaylorSeerCacheConfig,
    TextKVCacheConfig,
)
from torch import Tensor

from diffusers_jova import JoVAPipeline
from diffusers_jova.joint_attention import JoVAStreamAttention
from tests.tiny_pipeline import (
    DUAL_TOWERS,
    TRANSFORMERS,
    build_dual_tower,
    build_tiny_pipeline,
)


NUM_STEPS = 8


@pytest.fixture(params=TRANSFORMERS.values(), ids=TRANSFORMERS.keys())
def pipeline(request: pytest.FixtureRequest) -> JoVAPipeline:
    """A tiny pipeline around each class of transformer."""
    return build_tiny_pipeline(transformer=request.param())


def generate(pipeline: JoVAPipeline, **arguments: Any) -> tuple[Tensor, Tensor]:
    """Latents of both modalities after a few guided steps."""
    settings = {"num_frames": 5, "num_inference_steps": NUM_STEPS, "guidance_scale": 3.0, "output_type": "latent"}
    generator = torch.Generator().manual_seed(0)
    return pipeline("a dog", return_dict=False, generator=generator, **{**settings, **arguments})


def count_attentions(pipeline: JoVAPipeline) -> list[str]:
    """A list that grows by one entry whenever the last block computes its joint attention."""
    attention = [part for part in pipeline.transformer.modules() if isinstance(part, JoVAStreamAttention)][-1]
    calls: list[str] = []
    next(attention.children()).to_v.register_forward_hook(lambda *_: calls.append("attention"))
    return calls


def is_shared(pipeline: JoVAPipeline) -> bool:
    """Whether the last block has one set of projections, which is then called for one modality after the other."""
    return any(name.endswith("attn1.shared") for name, _ in pipeline.transformer.named_modules())


def difference(actual: Tensor, expected: Tensor) -> float:
    return ((actual - expected).norm() / expected.norm()).item()


def broadcast(pipeline: JoVAPipeline, kind: str = "spatial") -> PyramidAttentionBroadcastConfig:
    return PyramidAttentionBroadcastConfig(
        **{f"{kind}_attention_block_skip_range": 2}, current_timestep_callback=lambda: pipeline.current_timestep
    )


WORKING = {
    "broadcast": broadcast,
    # not in bfloat16, where a last bit of a sum decides which way a factor is rounded
    "taylor": lambda _: TaylorSeerCacheConfig(taylor_factors_dtype=torch.float32),
    "taylor lite": lambda _: TaylorSeerCacheConfig(taylor_factors_dtype=torch.float32, use_lite_mode=True),
    "sea": lambda _: SeaCacheConfig(threshold=0.6),  # random weights: latents turn faster than those of a clip
}


@pytest.mark.parametrize("configure", WORKING.values(), ids=WORKING.keys())
def test_a_cache_saves_work_and_both_modalities_follow(
    pipeline: JoVAPipeline, configure: Callable[[JoVAPipeline], Any]
) -> None:
    plain = generate(pipeline)
    calls = count_attentions(pipeline)
    num_streams = 2 if is_shared(pipeline) else 1  # per attention
    pipeline.transformer.enable_cache(configure(pipeline))
    batch = generate(pipeline)
    assert NUM_STEPS / 4 <= len(calls) / num_streams <= NUM_STEPS * 3 / 4
    for latents, expected in zip(batch, plain, strict=True):
        assert 1e-6 < difference(latents, expected) < 0.1
    for latents, again in zip(batch, generate(pipeline), strict=True):
        assert torch.equal(latents, again), "one call must leave nothing behind for the next"
    calls.clear()
    turns = generate(pipeline, sequential_guidance=True)  # predictions take turns, each with a cache of its own
    assert NUM_STEPS / 4 <= len(calls) / num_streams / 2 <= NUM_STEPS * 3 / 4
    for latents, expected in zip(turns, batch, strict=True):
        torch.testing.assert_close(latents, expected, atol=1e-3, rtol=1e-3)  # float32, several steps


def test_sea_cache_measures_what_is_generated(pipeline: JoVAPipeline) -> None:
    seen: list[int] = []
    transformer = pipeline.transformer
    transformer.enable_cache(SeaCacheConfig())
    callback = transformer._cache_config.raw_vision_callback
    transformer.disable_cache()

    def record(module: Any, args: Any, kwargs: Any) -> list[Tensor]:
        seen.append(len(callback(module, args, kwargs)))
        return callback(module, args, kwargs)

    transformer.enable_cache(SeaCacheConfig(raw_vision_callback=record))
    generate(pipeline, guidance_scale=1.0, num_inference_steps=1)
    given = torch.zeros(1, round(5 / 16 * 16000))
    generate(pipeline, guidance_scale=1.0, num_inference_steps=1, audio=given, audio_sampling_rate=16000)
    generate(pipeline, guidance_scale=1.0, num_inference_steps=1, modalities=["audio"])
    assert seen == [2, 1, 1]


REFUSED = {
    "faster": (FasterCacheConfig(current_timestep_callback=lambda: 500), "for the picture and not for the sound"),
    "text": (TextKVCacheConfig(), "knows the blocks of Nucleus-Image only; use TaylorSeerCacheConfig"),
    "nothing": (TaylorSeerCacheConfig(cache_identifiers=["attention"]), "must name modules of this model"),
    "both": (TaylorSeerCacheConfig(use_lite_mode=True, cache_identifiers=["blocks.0"]), "leave one out"),
    "temporal": (broadcast(None, "temporal"), "`temporal_attention_block_skip_range` must be None .* got 2"),
}


@pytest.mark.parametrize(("config", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_a_cache_that_loses_the_sound_or_changes_nothing_is_refused(
    pipeline: JoVAPipeline, config: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        pipeline.transformer.enable_cache(config)
    assert not pipeline.transformer.is_cache_enabled
    pipeline.transformer.enable_cache(TaylorSeerCacheConfig())  # nothing was left behind


def test_a_model_of_two_experts_has_no_cache_that_would_go_from_one_to_the_other() -> None:
    model = build_dual_tower(boundary=0.9)
    said = r"`config` must be a JoVACacheConfig for a model of two video towers, got a Taylor.*below sigma 0\.9"
    with pytest.raises(ValueError, match=said):
        model.enable_cache(TaylorSeerCacheConfig())
    assert not model.is_cache_enabled


@pytest.mark.parametrize(("index", "is_refused"), [(0, True), (1, False), (2, True)])
def test_blocks_by_which_a_cache_goes_are_not_skipped(index: int, is_refused: bool) -> None:
    pipeline = build_tiny_pipeline(transformer=build_dual_tower(num_layers=3), negative_skip_layer=index)
    pipeline.transformer.enable_cache(FirstBlockCacheConfig())
    said = rf"`skip_layers` must hold neither the first nor the last block .*, got \[{index}\]"
    with pytest.raises(ValueError, match=said) if is_refused else nullcontext():
        generate(pipeline, guidance_scale=3.0)


@pytest.mark.parametrize("kind", ["wan", *DUAL_TOWERS])
def test_text_attention_is_broadcast_where_each_modality_has_its_own(kind: str) -> None:
    pipeline = build_tiny_pipeline(transformer=TRANSFORMERS[kind]())
    plain = generate(pipeline)
    pipeline.transformer.enable_cache(broadcast(pipeline, "cross"))
    for latents, expected in zip(generate(pipeline, sequential_guidance=True), plain, strict=True):
        assert 1e-6 < difference(latents, expected) < 0.1


@pytest.mark.parametrize(
    ("kind", "message"),
    [("jova", "has no cross attention"), ("nava", r"got `blocks.1.attn2.shared`, which serves picture and sound")],
)
def test_text_attention_that_is_absent_or_serves_both_modalities_is_not_broadcast(kind: str, message: str) -> None:
    pipeline = build_tiny_pipeline(transformer=TRANSFORMERS[kind]())
    with pytest.raises(ValueError, match=message):
        pipeline.transformer.enable_cache(broadcast(pipeline, "cross"))
    assert not pipeline.transformer.is_cache_enabled
