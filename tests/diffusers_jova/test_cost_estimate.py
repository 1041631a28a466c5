import pytest
import torch
from diffusers import FlowMatchHeunDiscreteScheduler

from diffusers_jova import JoVACacheConfig, cost_estimate
from diffusers_jova.call_stages import CallStages, PlannedCall
from diffusers_jova.cost_estimate import RowSizes, estimate, in_words, stored_bytes
from diffusers_jova.generation_defaults import GenerationDefaults
from diffusers_jova.memory_fitting import outline_of
from diffusers_jova.sound_cache import kept_bytes
from tests.tiny_pipeline import build_tiny_pipeline


BOTH = ["video", "audio"]


def test_offloaded_modules_take_the_memory_of_the_largest() -> None:
    small, large = torch.nn.Linear(2, 3), torch.nn.Linear(4, 5).to(torch.float16)
    assert stored_bytes([small, large], is_offloaded=False) == 9 * 4 + 25 * 2
    assert stored_bytes([small, large], is_offloaded=True) == 25 * 2


def test_memory_holds_weights_frames_and_rows() -> None:
    pipeline = build_tiny_pipeline()
    weights = stored_bytes([part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)], False)
    settings = GenerationDefaults(num_inference_steps=1, num_frames=9, height=32, width=32, frame_rate=16)
    few, many = (estimate(pipeline, settings.override(num_frames=number), BOTH) for number in (9, 49))
    frame_bytes = 32 * 32 * 3 * 4  # decoded floats alone
    assert few.memory_bytes > weights + 9 * frame_bytes
    assert many.memory_bytes - few.memory_bytes > 40 * frame_bytes
    with_voice = estimate(pipeline, settings, BOTH, reference_s=5.0)
    assert with_voice.memory_bytes > estimate(pipeline, settings, BOTH).memory_bytes  # its rows are in front
    guided = estimate(pipeline, settings.override(guidance_scale=3.0, num_frames=49), BOTH)
    alone = estimate(pipeline, settings.override(guidance_scale=1.0, num_frames=49), BOTH)
    assert guided.memory_bytes > alone.memory_bytes  # a batch of two predictions has twice the rows


def test_a_cache_of_video_rows_takes_their_memory_and_spares_operations(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cost_estimate, "operations_per_second", lambda *_: 1e9)
    pipeline = build_tiny_pipeline()
    settings = GenerationDefaults(num_inference_steps=24, num_frames=49, height=32, width=32, frame_rate=16)
    plain = estimate(pipeline, settings, BOTH)
    config = JoVACacheConfig()
    pipeline.transformer.enable_cache(config)
    kept = kept_bytes(pipeline.transformer, config, (13, 4, 4), num_text_rows=0, num_predictions=2)
    cached = estimate(pipeline, settings, BOTH)
    assert cached.memory_bytes == plain.memory_bytes + kept
    assert 1 < plain.seconds / cached.seconds < 24 / 10
    assert estimate(pipeline, settings, ["video"]) == estimate(build_tiny_pipeline(), settings, ["video"])
    pipeline.transformer.disable_cache()
    pipeline.transformer.enable_cache(JoVACacheConfig(storage_device="meta"))
    assert estimate(pipeline, settings, BOTH).memory_bytes == plain.memory_bytes


def test_what_is_given_and_steps_without_guidance_take_less(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost_estimate, "operations_per_second", lambda *_: 1e9)
    pipeline = build_tiny_pipeline()
    settings = pipeline.defaults.override(num_inference_steps=4, guidance_scale=3.0, coupling_scale=2.0)
    sizes = RowSizes.of(pipeline, settings, BOTH, 0.0)
    one, audio = sizes.operations(BOTH, BOTH), sizes.operations(["audio"], ["audio"])
    for changes, whole, operations in (
        ({}, set(), 12 * one),
        ({}, {"video"}, 8 * one + 4 * audio),  # no video is read where the coupling is removed
        ({"coupling_interval": (0.0, 0.5)}, set(), 10 * one),
        ({"guidance_scale": 1.0, "coupling_scale": 1.0}, {"video"}, 4 * one),
    ):
        taken = estimate(pipeline, settings.override(**changes), BOTH, whole)
        assert taken.seconds == pytest.approx(operations / 1e9)


def test_a_solver_that_asks_twice_in_a_step_takes_the_time_of_all_that_it_asks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cost_estimate, "operations_per_second", lambda *_: 1e9)
    pipeline = build_tiny_pipeline()
    settings = pipeline.defaults.override(num_inference_steps=4, guidance_scale=3.0, guidance_interval=(0.0, 0.5))
    euler = estimate(pipeline, settings, BOTH)
    monkeypatch.setattr(pipeline, "scheduler", FlowMatchHeunDiscreteScheduler(shift=3.0))
    # of two steps with guidance and two without: 2 * 2 + 2, and 2 * 4 + 3 of Heun, whose last step asks once
    assert estimate(pipeline, settings, BOTH).seconds == pytest.approx(euler.seconds * 11 / 6)
    stages = CallStages(outline_of(pipeline), PlannedCall(settings=settings))
    assert (stages.num_steps, [len(run.steps) for run in stages.runs]) == (7, [4, 3])


def test_where_everything_is_given_nothing_is_computed_and_the_call_says_so() -> None:
    pipeline = build_tiny_pipeline()
    assert estimate(pipeline, pipeline.defaults, BOTH, BOTH).seconds == 0
    assert estimate(pipeline, pipeline.defaults, ["audio"], ["audio"]).seconds == 0


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0.0 seconds"), (4e-4, "0.0004 seconds"), (0.25, "0.2 seconds"), (90, "1.5 minutes"), (7200, "2.0 hours")],
)
def test_a_short_time_is_not_told_as_none(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
