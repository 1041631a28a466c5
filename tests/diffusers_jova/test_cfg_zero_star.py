"""CFG-Zero*: the optimised scale of predictions without the text, and first steps whose velocity is zero."""

import dataclasses
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchHeunDiscreteScheduler
from diffusers.guiders import ClassifierFreeZeroStarGuidance
from torch import Tensor

from diffusers_jova import FlowMatchAudioVideoScheduler, JoVAPipeline
from diffusers_jova.generation_defaults import GenerationDefaults
from diffusers_jova.guidance import (
    BRANCHES,
    CONDITIONAL,
    NO_COUPLING,
    NO_TEXT,
    UNCONDITIONAL,
    Branch,
    Guidance,
    combine,
    optimal_scale,
    runs_of_steps,
)
from diffusers_jova.prediction_plan import PredictionPlan
from diffusers_jova.scheduling_flow_match_av import expand_sigma, predict_data
from tests.tiny_pipeline import build_tiny_pipeline


VIDEO, AUDIO = (2, 4, 3, 2, 2), (2, 5, 6)  # [B, C, F, H, W], [B, L, C]
SHAPES = pytest.mark.parametrize("shape", [VIDEO, AUDIO], ids=["video", "audio"])
BOTH = ("video", "audio")
ROUND_OFF = {"atol": 2e-5, "rtol": 1e-5}  # float32 sums of a few dozen products
CALL: dict[str, Any] = {"num_frames": 5, "output_type": "latent", "return_dict": False, "guidance_scale": 4.0}
STEPS = 4


def answers(shape: tuple[int, ...], seed: int = 0) -> dict[Branch, Tensor]:
    """Velocities that have something in common, as those of a model."""
    g = torch.Generator().manual_seed(seed)
    shared = torch.randn(shape, generator=g)
    return {branch: shared + torch.randn(shape, generator=g) for branch in BRANCHES}


def noisy(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(9))


def guide(guidance: Guidance, predictions: Mapping[Branch, Tensor], sigma: float | Tensor = 0.5) -> Tensor:
    sample = noisy(tuple(predictions[CONDITIONAL].shape))
    return guidance.guide(predictions, guidance.weights(0, 4), sample, sigma)


# --- the optimised scale ---


@SHAPES
def test_guidance_with_the_optimised_scale_is_the_formula_in_double_precision(shape: tuple[int, ...]) -> None:
    predictions = answers(shape)
    guided = guide(Guidance(guidance_scale=4.0, cfg_zero_star=True), predictions)
    assert guided.dtype == torch.float32
    assert guided.shape == shape
    for i in range(shape[0]):
        cond, uncond = predictions[CONDITIONAL][i].double(), predictions[NO_TEXT][i].double()
        scale = float(cond.flatten() @ uncond.flatten() / (uncond.flatten() @ uncond.flatten()))
        wanted = scale * uncond + 4 * (cond - scale * uncond)
        torch.testing.assert_close(guided[i].double(), wanted, **ROUND_OFF)


@SHAPES
def test_it_is_what_the_guider_of_diffusers_computes(shape: tuple[int, ...]) -> None:
    predictions = answers(shape)
    guider = ClassifierFreeZeroStarGuidance(guidance_scale=4.0, zero_init_steps=1)
    for step in (0, 1):
        guider.set_state(step=step, num_inference_steps=4, timestep=None)
        theirs = guider.forward(predictions[CONDITIONAL], predictions[NO_TEXT]).pred
        ours = Guidance(guidance_scale=4.0, cfg_zero_star=True, zero_init_steps=1)
        weights = ours.weights(step, 4)
        torch.testing.assert_close(ours.guide(predictions, weights, noisy(shape), 0.5), theirs, **ROUND_OFF)
        assert (step == 0) == (theirs.count_nonzero() == 0)


@SHAPES
def test_every_branch_without_the_text_has_its_own_scale_and_those_with_it_have_none(shape: tuple[int, ...]) -> None:
    predictions = answers(shape)
    whole = torch.ones(1, dtype=torch.bool)
    scaled = {
        branch: optimal_scale(predictions[CONDITIONAL], velocity, whole) * velocity if not branch.text else velocity
        for branch, velocity in predictions.items()
    }
    for uncoupled_text in ("empty", "kept"):
        guidance = Guidance(
            guidance_scale=4.0,
            coupling_scale=2.5,
            uncoupled_text=uncoupled_text,
            speaker_scale=2.0,
            cfg_zero_star=True,
        )
        expected = combine(scaled, guidance.weights(0, 4))
        torch.testing.assert_close(guide(guidance, predictions), expected, **ROUND_OFF)
        plain = guide(dataclasses.replace(guidance, cfg_zero_star=False), predictions)
        assert not torch.allclose(plain, expected, atol=1e-2)


def test_equal_scales_of_text_and_coupling_are_the_formula_with_the_one_branch_that_is_left() -> None:
    predictions = answers(VIDEO)
    merged = Guidance(guidance_scale=4.0, coupling_scale=4.0, cfg_zero_star=True)
    plain = Guidance(guidance_scale=4.0, cfg_zero_star=True)
    renamed = {**predictions, NO_TEXT: predictions[UNCONDITIONAL]}
    torch.testing.assert_close(guide(merged, predictions), guide(plain, renamed))


@SHAPES
def test_a_prediction_without_the_text_counts_by_its_direction_alone(shape: tuple[int, ...]) -> None:
    predictions, guidance = answers(shape), Guidance(guidance_scale=4.0, cfg_zero_star=True)
    stretched = {**predictions, NO_TEXT: -7 * predictions[NO_TEXT]}
    torch.testing.assert_close(guide(guidance, stretched), guide(guidance, predictions), **ROUND_OFF)
    along = {**predictions, NO_TEXT: 0.3 * predictions[CONDITIONAL]}
    torch.testing.assert_close(guide(guidance, along), predictions[CONDITIONAL], **ROUND_OFF)


def test_every_sample_of_a_batch_has_its_own_scale() -> None:
    predictions, guidance = answers(VIDEO), Guidance(guidance_scale=4.0, cfg_zero_star=True)
    both = guide(guidance, predictions)
    other = {branch: torch.stack([velocity[0], 100 * velocity[1]]) for branch, velocity in predictions.items()}
    torch.testing.assert_close(guide(guidance, other)[0], both[0])


@pytest.mark.parametrize("zero", [0.0, 1e-22, 1e-30], ids=["zero", "tiny", "tinier"])
def test_a_prediction_of_nothing_is_left_as_it_is(zero: float) -> None:
    predictions = {**answers(AUDIO), NO_TEXT: torch.full(AUDIO, zero)}
    guided = guide(Guidance(guidance_scale=4.0, cfg_zero_star=True), predictions)
    assert guided.isfinite().all()
    torch.testing.assert_close(guided, 4 * predictions[CONDITIONAL], **ROUND_OFF)


@SHAPES
def test_given_latents_do_not_enter_the_inner_products_and_keep_their_plain_combination(
    shape: tuple[int, ...],
) -> None:
    tokens, axis = (shape[2], 2) if len(shape) == 5 else (shape[1], 1)
    sigma = torch.full((2, tokens), 0.5)
    sigma[:, 0] = 0
    predictions, guidance = answers(shape), Guidance(guidance_scale=4.0, cfg_zero_star=True)
    guided = guide(guidance, predictions, sigma)
    rest = {branch: velocity.narrow(axis, 1, tokens - 1) for branch, velocity in predictions.items()}
    torch.testing.assert_close(guided.narrow(axis, 1, tokens - 1), guide(guidance, rest), **ROUND_OFF)
    plain = combine(predictions, guidance.weights(0, 4))
    assert torch.equal(guided.narrow(axis, 0, 1), plain.narrow(axis, 0, 1))
    given = {**predictions, NO_TEXT: predictions[NO_TEXT].clone()}
    given[NO_TEXT].narrow(axis, 0, 1).fill_(torch.inf)  # whatever a model says there
    other = guide(guidance, given, sigma).narrow(axis, 1, tokens - 1)
    torch.testing.assert_close(other, guided.narrow(axis, 1, tokens - 1))


@SHAPES
@pytest.mark.parametrize("extra", [{}, {"apg_threshold": 0.5}, {"guidance_rescale": 0.7}], ids=str)
def test_guiding_denoised_predictions_scales_as_guiding_velocities_does(
    shape: tuple[int, ...], extra: dict[str, float]
) -> None:
    guidance = Guidance(guidance_scale=4.0, coupling_scale=2.0, cfg_zero_star=True, **extra)
    velocities, sample, weights = answers(shape), noisy(shape), guidance.weights(0, 4)
    tokens = shape[2] if len(shape) == 5 else shape[1]
    levels = torch.tensor([[0.8], [0.3]]) * torch.linspace(0.5, 1.0, tokens)  # other levels in one sample as well
    for sigma in (torch.tensor([0.8, 0.3]), levels):
        data = {branch: predict_data(sample, velocity, sigma) for branch, velocity in velocities.items()}
        guided = predict_data(sample, guidance.guide(velocities, weights, sample, sigma), sigma)
        torch.testing.assert_close(guidance.guide_data(data, weights, sample, sigma), guided, atol=1e-4, rtol=1e-4)
    linear = dataclasses.replace(guidance, cfg_zero_star=False)
    assert not torch.allclose(linear.guide_data(data, weights, sample, levels), guided, atol=1e-2)


def test_data_of_given_latents_keep_their_plain_combination() -> None:
    guidance, sigma = Guidance(guidance_scale=4.0, cfg_zero_star=True), torch.tensor([[0.0, 0.5, 0.5]] * 2)
    data, sample, weights = answers(VIDEO), noisy(VIDEO), guidance.weights(0, 4)
    for branch in data:
        data[branch][:, :, 0] = sample[:, :, 0]  # a given latent is its own data
    guided = guidance.guide_data(data, weights, sample, sigma)
    torch.testing.assert_close(guided[:, :, 0], sample[:, :, 0], **ROUND_OFF)
    rest = {branch: value[:, :, 1:] for branch, value in data.items()}
    torch.testing.assert_close(guided[:, :, 1:], guidance.guide_data(rest, weights, sample[:, :, 1:], 0.5))


def test_projection_compares_with_the_direction_that_is_scaled() -> None:
    predictions, sigma = answers(VIDEO), torch.tensor(0.5)
    projected = Guidance(guidance_scale=4.0, apg_threshold=0.0, apg_eta=1.0, cfg_zero_star=True)
    plain = dataclasses.replace(projected, apg_threshold=None)
    # projection that keeps everything changes nothing
    torch.testing.assert_close(guide(projected, predictions), guide(plain, predictions), atol=1e-4, rtol=1e-4)
    conditional, sample = predictions[CONDITIONAL], noisy(VIDEO)
    across = guide(dataclasses.replace(projected, apg_eta=0.0), predictions)
    data, base = (predict_data(sample, velocity, expand_sigma(sigma, sample)) for velocity in (across, conditional))
    assert ((data - base) * base).sum((1, 3, 4)).abs().max() < 1e-3


def test_what_it_compares_with_is_asked_where_a_branch_without_the_text_is_and_only_there() -> None:
    scales: dict[str, Any] = {"guidance_scale": 0.0, "cfg_zero_star": True}
    assert Guidance(**scales).weights(0, 4) == {CONDITIONAL: 0, NO_TEXT: 1}
    guidance = Guidance(**scales)
    predictions = answers(AUDIO)
    wanted = optimal_scale(predictions[CONDITIONAL], predictions[NO_TEXT], torch.tensor(True)) * predictions[NO_TEXT]
    torch.testing.assert_close(guide(guidance, predictions), wanted)
    kept = Guidance(coupling_scale=0.0, uncoupled_text="kept", cfg_zero_star=True)
    assert kept.weights(0, 4) == {NO_COUPLING: 1}
    assert Guidance(cfg_zero_star=True).weights(0, 4) == {CONDITIONAL: 1}
    plan = PredictionPlan(names=BOTH, generated=BOTH)  # without voices, whose weight takes that of the conditional
    weights = plan.weights(dict.fromkeys(BOTH, Guidance(speaker_scale=2.0, **scales)), 0, 4)["video"]
    assert weights == {CONDITIONAL: 0, NO_TEXT: 1}


def test_steps_without_guidance_by_text_are_the_conditional_prediction_to_the_bit() -> None:
    guidance = Guidance(guidance_scale=4.0, guidance_interval=(0.5, 1.0), cfg_zero_star=True)
    predictions = answers(AUDIO)
    weights = guidance.weights(0, 4)
    assert torch.equal(guidance.guide(predictions, weights, noisy(AUDIO), 0.5), predictions[CONDITIONAL])


# --- zero-init ---


def test_first_steps_have_no_weights_and_no_velocity() -> None:
    guidance = Guidance(guidance_scale=4.0, zero_init_steps=2)
    assert [set(guidance.weights(step, 4)) for step in range(4)] == [set(), set(), *[{CONDITIONAL, NO_TEXT}] * 2]
    sample = noisy(AUDIO).bfloat16()
    assert torch.equal(guidance.guide({}, {}, sample, 1.0), torch.zeros(AUDIO))
    assert torch.equal(guidance.guide_data({}, {}, sample, 1.0), sample.float())
    audio = Guidance(guidance_scale=4.0, zero_init_steps=1)
    assert runs_of_steps([guidance, audio], 4) == [range(1), range(1, 2), range(2, 4)]


@pytest.fixture(scope="module")
def pipeline() -> JoVAPipeline:
    return build_tiny_pipeline()


def latents(pipeline: JoVAPipeline, **arguments: Any) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    steps = {} if "sigmas" in arguments else {"num_inference_steps": STEPS}
    video, audio = pipeline("a dog", generator=generator, **(CALL | steps | arguments))
    return video, audio


@pytest.mark.parametrize("solver", ["euler", "unipc"])
def test_zero_init_is_the_same_noise_taken_for_a_lower_level_and_no_solver_remembers_it(
    pipeline: JoVAPipeline, monkeypatch: pytest.MonkeyPatch, solver: str
) -> None:
    scheduler = FlowMatchAudioVideoScheduler(shift=3.0, audio_shift=2.0, solver=solver)
    monkeypatch.setattr(pipeline, "scheduler", scheduler)
    asked: list[Any] = []
    hook = pipeline.transformer.register_forward_pre_hook(lambda *call: asked.append(call))
    zero = latents(pipeline, zero_init_steps=2)
    hook.remove()
    assert len(asked) == STEPS - 2, "nothing is asked where nothing moves"
    scheduler.set_timesteps(STEPS)
    levels = {"sigmas": scheduler.sigmas[2:-1].tolist(), "audio_sigmas": scheduler.audio_sigmas[2:-1].tolist()}
    begun = latents(pipeline, **levels)
    plain = latents(pipeline)
    for one, wanted, other in zip(zero, begun, plain, strict=True):
        torch.testing.assert_close(one, wanted, atol=1e-4, rtol=1e-4)
        assert not torch.allclose(one, other, atol=1e-2)


def test_one_modality_stays_while_the_other_moves(pipeline: JoVAPipeline) -> None:
    seen: list[tuple[Tensor, ...]] = []
    names = ["latents", "audio_latents"]

    def note(*told: Any) -> None:
        seen.append(tuple(told[-1][name].clone() for name in names))

    latents(
        pipeline,
        zero_init_steps=1,
        audio_zero_init_steps=2,
        callback_on_step_end=note,
        callback_on_step_end_tensor_inputs=names,
    )
    videos, sounds = zip(*seen, strict=True)
    assert [torch.equal(*pair) for pair in pairwise(videos)] == [False] * 3
    assert [torch.equal(*pair) for pair in pairwise(sounds)] == [True, False, False]


def test_a_call_with_cfg_zero_star_is_another_one_and_each_modality_has_its_own(pipeline: JoVAPipeline) -> None:
    plain, both = latents(pipeline), latents(pipeline, cfg_zero_star=True)
    alone = latents(pipeline, cfg_zero_star=True, audio_cfg_zero_star=False)
    for one, other in zip(plain, both, strict=True):
        assert other.isfinite().all()
        assert not torch.allclose(one, other, atol=1e-3)
    assert not torch.equal(alone[1], both[1])
    defaults = build_tiny_pipeline(defaults={**pipeline.config.defaults, "cfg_zero_star": True})
    defaults.transformer = pipeline.transformer
    assert GenerationDefaults(cfg_zero_star=True).guidance()["audio"].cfg_zero_star
    for one, other in zip(latents(defaults), both, strict=True):
        assert torch.equal(one, other)


def test_the_record_of_a_clip_tells_it(pipeline: JoVAPipeline) -> None:
    output: Any = pipeline(
        "a dog", num_inference_steps=2, cfg_zero_star=True, zero_init_steps=1, **{**CALL, "return_dict": True}
    )
    settings = output.provenance[0]["settings"]
    assert (settings["cfg_zero_star"], settings["zero_init_steps"]) == (True, 1)


@pytest.mark.parametrize("count", [4, 9])
def test_a_call_whose_velocity_would_be_zero_throughout_is_refused(pipeline: JoVAPipeline, count: int) -> None:
    with pytest.raises(
        ValueError, match=f"`zero_init_steps` must be less than the number of steps, 4, got {count}; 0"
    ):
        latents(pipeline, zero_init_steps=count)


def test_zero_steps_that_cannot_be_are_refused_before_anything_is_encoded(
    pipeline: JoVAPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "encode_media", lambda *_: pytest.fail("media were encoded"))
    with pytest.raises(ValueError, match="`zero_init_steps` must be less"):
        latents(pipeline, zero_init_steps=4)
    monkeypatch.setattr(pipeline, "scheduler", FlowMatchHeunDiscreteScheduler(shift=3.0))
    with pytest.raises(ValueError, match="must be a multiple of 2"):
        latents(pipeline, zero_init_steps=1)


def test_zero_steps_of_what_is_given_are_not_asked_for(pipeline: JoVAPipeline) -> None:
    given = np.zeros((5, 32, 32, 3), np.uint8)
    zero = {"zero_init_steps": 9, "audio_zero_init_steps": 0}
    _, sound = pipeline("a dog", video=given, num_inference_steps=2, **zero, **CALL)
    assert sound.isfinite().all()


def test_solvers_that_ask_twice_in_a_step_have_whole_steps_of_zero(
    pipeline: JoVAPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "scheduler", FlowMatchHeunDiscreteScheduler(shift=3.0))
    with pytest.raises(
        ValueError, match=r"must be a multiple of 2 with a FlowMatchHeunDiscreteScheduler, .* got 1; use"
    ):
        latents(pipeline, zero_init_steps=1)
    zero, plain = latents(pipeline, zero_init_steps=2), latents(pipeline)
    for one, other in zip(zero, plain, strict=True):
        assert one.isfinite().all()
        assert not torch.allclose(one, other, atol=1e-2)


@pytest.mark.parametrize("value", ["1", 1.0, True, -1], ids=repr)
def test_steps_of_zero_are_a_count(value: Any) -> None:
    for build in (Guidance, GenerationDefaults):
        with pytest.raises(ValueError, match=r"`zero_init_steps` must be (a whole number|at least 0), got "):
            build(zero_init_steps=value)
    with pytest.raises(ValueError, match=r"`audio_zero_init_steps` must be (a whole number|at least 0), got "):
        GenerationDefaults.from_dict({"audio_zero_init_steps": value})


@pytest.mark.parametrize("value", ["True", 1, 0.0], ids=repr)
def test_whether_predictions_are_scaled_is_a_flag(value: Any) -> None:
    for build in (Guidance, GenerationDefaults):
        with pytest.raises(ValueError, match="`cfg_zero_star` must be True or False, got "):
            build(cfg_zero_star=value)
    with pytest.raises(ValueError, match="`audio_cfg_zero_star` must be True or False, got "):
        GenerationDefaults.from_dict({"audio_cfg_zero_star": value})
