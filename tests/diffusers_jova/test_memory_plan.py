import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffusers_jova import JoVACacheConfig
from diffusers_jova.call_stages import CallStages, PlannedCall
from diffusers_jova.memory_fitting import fitting_plan, outline_of
from diffusers_jova.memory_plan import MemoryEstimate, MemoryPlan, Sizes, plans_of
from diffusers_jova.sound_cache import kept_bytes
from tests.diffusers_jova.memory_of_a_call import KINDS, TOLERANCE
from tests.places import ROOT
from tests.tiny_pipeline import build_tiny_pipeline


CUDA, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.fixture(scope="module")
def estimate() -> MemoryEstimate:
    """Of a clip on a GPU that need not be there; what is counted once is kept."""
    pipeline = build_tiny_pipeline()
    return MemoryEstimate(outline_of(pipeline), PlannedCall(settings=pipeline.defaults, device=CUDA))


def test_an_outline_weighs_what_the_pipeline_does(estimate: MemoryEstimate) -> None:
    parts = {
        name: part for name, part in build_tiny_pipeline().components.items() if isinstance(part, torch.nn.Module)
    }
    assert {name: size.whole for name, size in estimate.sizes.items()} == {
        name: sum(weight.nbytes for weight in [*part.parameters(), *part.buffers()]) for name, part in parts.items()
    }


def test_every_way_to_use_memory_holds_the_weights_that_it_says(estimate: MemoryEstimate) -> None:
    held = {}
    for plan in plans_of(CUDA):
        if not (plan.branches_apart or plan.tiles_video):
            stages = {stage: estimate.weight_bytes(plan, stage) for stage in estimate.stages.components}
            held[plan.weights, plan.float8] = stages
    whole = {name: size.whole for name, size in estimate.sizes.items()}
    assert set(held["resident", False].values()) == {sum(whole.values())}
    offloaded = held["offloaded", False]
    assert offloaded["denoising"] == whole["transformer"]
    assert offloaded["sound decoding"] == max(whole["audio_vae"], whole["vocoder"])
    without_text = sum(whole.values()) - whole["text_encoder"]
    assert held["text_streamed", False]["denoising"] == without_text
    assert without_text < held["text_streamed", False]["text encoding"] < sum(whole.values())
    codecs = without_text - whole["transformer"]
    assert codecs < held["streamed", False]["denoising"] < without_text
    assert held["streamed", False]["video decoding"] == codecs
    for weights in ("resident", "text_streamed", "offloaded"):
        assert held[weights, True]["denoising"] < held[weights, False]["denoising"]


def test_predictions_apart_hold_those_of_one(estimate: MemoryEstimate) -> None:
    together, apart = (
        next(stage.held_bytes for stage, _ in estimate.peaks(plan) if stage.name == "denoising")
        for plan in (MemoryPlan(), MemoryPlan(branches_apart=True))
    )
    assert together == 2 * apart  # with the prompt and without


def test_the_first_plan_that_fits_is_taken_and_every_budget_below_it_takes_a_later_one(
    estimate: MemoryEstimate,
) -> None:
    plans, budget, taken = list(estimate.plans()), float("inf"), []
    assert not any(plan.tiles_video for plan in plans)  # frames are smaller than a tile
    while (plan := estimate.first_fitting(budget)) is not None:
        taken.append(plans.index(plan))
        budget = estimate.peak_bytes(plan) - 1
    assert taken == sorted(taken)
    assert taken[0] == 0
    assert len(taken) > 2
    assert estimate.peak_bytes(estimate.smallest()) == budget + 1


def test_the_memory_of_an_accelerator_is_not_that_of_its_host() -> None:
    assert {plan.weights for plan in plans_of(CUDA)} == {"resident", "text_streamed", "offloaded", "streamed"}
    assert {(plan.weights, plan.float8) for plan in plans_of(CPU)} == {("resident", False), ("resident", True)}
    assert {plan.float8 for plan in plans_of(torch.device("mps"))} == {False}


def test_a_cache_between_steps_holds_its_rows_and_spares_operations(estimate: MemoryEstimate) -> None:
    few, cache = estimate.call, JoVACacheConfig()
    many = replace(few, settings=few.settings.override(num_inference_steps=24))
    stages = [CallStages(outline_of(build_tiny_pipeline()), call) for call in (few, many, replace(many, cache=cache))]
    plain, longer, cached = (one.denoising(False) for one in stages)
    kept = kept_bytes(stages[0].pipeline.transformer, cache, stages[0].grid, few.settings.max_sequence_length, 2)
    assert cached.held_bytes - plain.held_bytes == kept
    assert longer.operations == 12 * plain.operations
    assert 1 < longer.operations / cached.operations < 2.4


def test_a_streamed_pipeline_makes_the_same_clip_and_its_record_says_the_plan() -> None:
    def call(pipeline: Any) -> Any:
        generator = torch.Generator().manual_seed(0)
        return pipeline("a dog", num_frames=5, num_inference_steps=1, output_type="np", generator=generator)

    plain = call(build_tiny_pipeline())
    pipeline = build_tiny_pipeline()
    pipeline.take_plan(MemoryPlan(weights="streamed"), CPU)
    made = call(pipeline)
    np.testing.assert_array_equal(made.frames, plain.frames)
    torch.testing.assert_close(torch.as_tensor(made.audio), torch.as_tensor(plain.audio), rtol=0, atol=0)
    assert made.provenance[0]["settings"]["memory_plan"]["weights"] == "streamed"
    assert "memory_plan" not in plain.provenance[0]["settings"]
    with pytest.raises(ValueError, match=r"`fit_memory` must be called on a pipeline whose weights nothing moves"):
        pipeline.fit_memory(10)


def test_a_plan_makes_predictions_apart_and_casts_to_float8_unless_a_call_says_otherwise() -> None:
    pipeline = build_tiny_pipeline()
    sizes: list[int] = []
    pipeline.transformer.register_forward_pre_hook(
        lambda _, __, given: sizes.append(len(given["audio_hidden_states"])), with_kwargs=True
    )
    pipeline.take_plan(MemoryPlan(float8=True, branches_apart=True, tiles_video=True), CPU)
    assert pipeline.vae.use_tiling
    arguments: dict[str, Any] = {"num_frames": 5, "num_inference_steps": 1, "output_type": "latent"}
    pipeline("a dog", **arguments)
    pipeline("a dog", **arguments, sequential_guidance=False)
    assert sizes == [1, 1, 2]
    assert torch.float8_e4m3fn in {weight.dtype for weight in pipeline.transformer.parameters()}
    with pytest.raises(ValueError, match=r"got one whose `transformer` is offloaded or cast; load it anew"):
        pipeline.fit_memory(10)


@pytest.mark.parametrize(
    ("gigabytes", "message"),
    [
        (0, r"`gigabytes` must be positive and finite, got 0; 24, say"),
        (-1, r"`gigabytes` must be positive and finite, got -1; 24, say"),
        (float("nan"), r"`gigabytes` must be positive and finite, got nan; 24, say"),
        ("24", r"`gigabytes` must be .*number.*, got '24'"),
    ],
    ids=str,
)
def test_memory_that_is_none_is_refused(gigabytes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_tiny_pipeline().fit_memory(gigabytes)


def test_settings_of_a_clip_that_are_none_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"settings of `fit_memory` must name arguments .*, got 'num_frame'; did you mean"
    ):
        build_tiny_pipeline().fit_memory(4, num_frame=5)


def test_what_is_given_leaves_something_to_generate() -> None:
    pipeline = build_tiny_pipeline()
    with pytest.raises(
        ValueError, match=r"what is given must leave something .*, got video and audio for the whole cl"
    ):
        pipeline.fit_memory(1, given=["video", "audio"])
    with pytest.raises(ValueError, match=r"`continued` must name audio or video that `given` names, got 'image'"):
        pipeline.fit_memory(1, given=["image"], continued=["image"])


def test_media_that_the_clip_goes_on_with_are_encoded_denoised_and_decoded(estimate: MemoryEstimate) -> None:
    media = frozenset({"video", "audio"})
    call = replace(estimate.call, given=media, continued=media)
    names = CallStages(outline_of(build_tiny_pipeline()), call).components
    assert [*names] == ["media encoding", "text encoding", "denoising", "video decoding", "sound decoding"]
    call = replace(call, continued=frozenset({"video"}))
    whole_sound = CallStages(outline_of(build_tiny_pipeline()), call).components
    assert [*whole_sound] == ["media encoding", "text encoding", "denoising", "video decoding"]


def test_a_plan_without_tiles_ends_those_of_an_earlier_plan_alone() -> None:
    pipeline = build_tiny_pipeline()
    pipeline.enable_vae_tiling()
    pipeline.take_plan(MemoryPlan(), CPU)
    assert pipeline.vae.use_tiling
    pipeline.take_plan(MemoryPlan(tiles_video=True), CPU)
    pipeline.take_plan(MemoryPlan(), CPU)
    assert not pipeline.vae.use_tiling


@pytest.mark.slow  # a process that imports everything
def test_the_lines_of_the_manual_work_in_a_fresh_process(tiny_pipeline_folder: Path) -> None:
    model = repr(str(tiny_pipeline_folder))
    lines = f"from diffusers_jova import JoVAPipeline; p = JoVAPipeline.from_pretrained({model}); "
    fit = (
        "print(p.fit_memory(24, device='cpu', modalities=['audio'], num_frames=5))"  # a video VAE takes long to count
    )
    command = [sys.executable, "-c", lines + fit]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["all weights on the device"], done.stderr


def test_given_media_have_names() -> None:
    with pytest.raises(ValueError, match=r"`given` must name arguments of image, .*, audio, .*, got 'picture'"):
        build_tiny_pipeline().fit_memory(1, given=["picture"])
    with pytest.raises(ValueError, match=r"`given` must be a list of names .*, got 'audio'; pass \['audio'\]"):
        build_tiny_pipeline().fit_memory(1, given="audio")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_frames": 32}, "`num_frames` must be 4k \\+ 1"),
        ({"num_frames": 0}, "`num_frames` must be "),
        ({"num_frames": 400001}, "`num_frames` must be at most "),
        ({"height": 100}, "`height` must be a positive multiple of 16, got 100; use 96"),
        ({"height": 0}, "`height` must be a positive multiple of 16, got 0"),
        ({"width": -16}, "`width` must be a positive multiple of 16, got -16"),
        ({"height": 1024}, "`height` must be at most "),
        ({"frame_rate": 0}, "`frame_rate` must be positive"),
        ({"modalities": "audio"}, r"`modalities` must be a list of names .*; pass \['audio'\]"),
    ],
)
def test_a_clip_that_no_call_makes_is_refused_before_it_is_counted(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_tiny_pipeline().fit_memory(24, **settings)


def build_of_sound(call: PlannedCall) -> MemoryEstimate:
    return MemoryEstimate(outline_of(build_tiny_pipeline()), call)


@pytest.fixture
def sound_call() -> PlannedCall:
    """A video VAE takes longer to count."""
    settings = build_tiny_pipeline().defaults.override(num_frames=61)
    return PlannedCall(settings=settings, modalities=("audio",), device=CUDA)


def test_what_is_less_than_the_weights_is_refused_without_counting(sound_call: PlannedCall) -> None:
    estimate = build_of_sound(sound_call)
    weights = min(map(estimate.least_bytes, estimate.plans()))
    with pytest.raises(
        ValueError,
        match=r"`gigabytes` must be at least .* for the weights of this model alone, got .*; use a smaller model",
    ):
        fitting_plan(lambda _: estimate, sound_call, (weights - 1) / 1e9)


@pytest.mark.slow
def test_what_cannot_fit_is_refused_with_what_would(sound_call: PlannedCall) -> None:
    build = functools.cache(build_of_sound)
    estimate = build(sound_call)
    peak = estimate.peak_bytes(estimate.smallest())
    with pytest.raises(ValueError, match=r"^`--memory` must be at least .* for 61 frames .*, got .*; use 30 frames$"):
        fitting_plan(build, sound_call, (peak - 1) / 1e9, "--memory")


def test_layers_that_neighbour_each_other_are_on_the_device_together() -> None:
    layers = torch.nn.Sequential(*(torch.nn.Linear(size, 1, bias=False) for size in (1, 8, 16, 2)))
    layers.register_parameter("loose", torch.nn.Parameter(torch.zeros(3)))
    assert Sizes.of(layers) == Sizes(whole=4 * 30, streamed=4 * (8 + 16 + 3))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux tells of a process")
@pytest.mark.parametrize(("kind", "way"), [("jova", "apart"), *((kind, "together") for kind in KINDS)])
def test_a_call_holds_what_is_estimated(kind: str, way: str, record_property: Callable[[str, object], None]) -> None:
    command = [sys.executable, "-m", "tests.diffusers_jova.memory_of_a_call", kind, way]
    # the C library returns what is freed at once, so that the resident set is what tensors hold
    options = dict.fromkeys(("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"), "65536")
    done = subprocess.run(command, cwd=ROOT, env=os.environ | options, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    record_property("estimated_of_measured", found["estimated"] / found["measured"])
    assert abs(found["estimated"] - found["measured"]) <= TOLERANCE * found["measured"], found
