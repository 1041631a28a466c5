import dataclasses

import pytest
import torch
from torch import Tensor

from diffusers_jova.guidance import (
    BRANCHES,
    CONDITIONAL,
    NO_COUPLING,
    NO_TEXT,
    NO_VOICE,
    PRESETS,
    UNCONDITIONAL,
    Branch,
    Guidance,
    branch_weights,
    combine,
    project,
    required_branches,
    rescale,
    runs_of_steps,
)
from diffusers_jova.scheduling_flow_match_av import add_noise, predict_data


VIDEO, AUDIO = (2, 4, 3, 2, 2), (2, 5, 6)  # [B, C, F, H, W], [B, L, C]
SCALES = (0.0, 0.5, 1.0, 3.0, 10.0)
# hand-made predictions: v(c_T, c_B), v(0, c_B), v(c_T, 0), v(0, 0), v(c_T, c_B, no voice)
NUMBERS = {CONDITIONAL: 1.0, NO_TEXT: 0.5, NO_COUPLING: 0.25, UNCONDITIONAL: -1.0, NO_VOICE: 0.875}
SCALARS = {branch: torch.tensor([value]) for branch, value in NUMBERS.items()}


def guided(guidance_scale: float, coupling_scale: float, uncoupled_text: str = "empty") -> float:
    return combine(SCALARS, branch_weights(guidance_scale, coupling_scale, uncoupled_text)).item()


def tensors(shape: tuple[int, ...]) -> dict[Branch, Tensor]:
    g = torch.Generator().manual_seed(0)
    return {branch: torch.randn(shape, generator=g) for branch in BRANCHES}


def guide(guidance: Guidance, predictions: dict[Branch, Tensor], sigma: float | Tensor = 0.5) -> Tensor:
    sample = torch.randn(predictions[CONDITIONAL].shape, generator=torch.Generator().manual_seed(1))
    return guidance.guide(predictions, guidance.weights(0, 1), sample, sigma)


def test_classifier_free_guidance_matches_hand_computed_numbers() -> None:
    assert guided(10, 1) == 0.5 + 10 * 0.5
    assert guided(10, 1, "kept") == pytest.approx(0.5 + 10 * 0.5)


def test_dual_guidance_of_mova_matches_hand_computed_numbers() -> None:
    assert guided(5, 3) == pytest.approx(-1 + 3 * (0.5 + 1) + 5 * (1 - 0.5))


def test_dual_guidance_with_equal_scales_is_that_of_uniavgen_and_needs_two_branches() -> None:
    assert guided(3, 3) == pytest.approx(-1 + 3 * (1 + 1))
    assert set(branch_weights(3, 3)) == {CONDITIONAL, UNCONDITIONAL}


def test_modality_guidance_of_ltx2_matches_hand_computed_numbers() -> None:
    assert guided(3, 2, "kept") == pytest.approx(1 + (3 - 1) * (1 - 0.5) + (2 - 1) * (1 - 0.25))


def test_the_scales_of_nava_are_ours_minus_one() -> None:
    video, audio = (preset.weights(0, 50) for preset in PRESETS["nava"])
    # NAVA: c + 3 (c - u) + 3 (c - m) for video, c + 2 (c - u) + 2 (c - m) + 3 (c - n) for audio
    assert video == {CONDITIONAL: 7, NO_TEXT: -3, NO_COUPLING: -3}
    assert audio == {CONDITIONAL: 8, NO_TEXT: -2, NO_COUPLING: -2, NO_VOICE: -3}
    assert combine(SCALARS, video).item() == pytest.approx(1 + 3 * 0.5 + 3 * 0.75)
    assert combine(SCALARS, audio).item() == pytest.approx(1 + 2 * 0.5 + 2 * 0.75 + 3 * 0.125)


def test_the_speaker_scale_adds_its_term_to_either_formula() -> None:
    for uncoupled_text in ("empty", "kept"):
        voiced = combine(SCALARS, branch_weights(5, 3, uncoupled_text, 3)).item()
        assert voiced == pytest.approx(guided(5, 3, uncoupled_text) + (3 - 1) * (1 - 0.875))
    assert branch_weights(1, 1, speaker_scale=0) == {NO_VOICE: 1}


@pytest.mark.parametrize("uncoupled_text", ["empty", "kept"])
@pytest.mark.parametrize("guidance_scale", SCALES)
@pytest.mark.parametrize("coupling_scale", SCALES)
@pytest.mark.parametrize("speaker_scale", [0.0, 1.0, 4.0])
def test_weights_sum_to_one_and_none_is_zero(
    guidance_scale: float, coupling_scale: float, uncoupled_text: str, speaker_scale: float
) -> None:
    weights = branch_weights(guidance_scale, coupling_scale, uncoupled_text, speaker_scale)
    assert sum(weights.values()) == pytest.approx(1)
    assert 0 not in weights.values()


@pytest.mark.parametrize("shape", [VIDEO, AUDIO])
@pytest.mark.parametrize("uncoupled_text", ["empty", "kept"])
def test_scales_of_one_return_the_conditional_prediction_to_the_bit(
    shape: tuple[int, ...], uncoupled_text: str
) -> None:
    guidance = Guidance(uncoupled_text=uncoupled_text, guidance_rescale=0.7, apg_threshold=1.0)
    assert set(guidance.weights(0, 1)) == {CONDITIONAL}
    predictions = tensors(shape)
    assert torch.equal(guide(guidance, predictions), predictions[CONDITIONAL])


def test_a_scale_of_zero_is_a_scale_of_zero() -> None:
    assert branch_weights(0, 1) == {NO_TEXT: 1}
    assert branch_weights(0, 0) == {UNCONDITIONAL: 1}
    assert branch_weights(1, 0) == {CONDITIONAL: 1, NO_TEXT: -1, UNCONDITIONAL: 1}
    assert branch_weights(1, 0, "kept") == {NO_COUPLING: 1}


def test_only_the_branches_that_some_modality_needs_are_asked() -> None:
    video = Guidance(guidance_scale=4.0).weights(0, 10)
    audio = Guidance(coupling_scale=2.0, uncoupled_text="kept").weights(0, 10)
    assert required_branches(video) == [CONDITIONAL, NO_TEXT]
    assert required_branches(video, audio) == [CONDITIONAL, NO_TEXT, NO_COUPLING]
    assert required_branches({}, audio) == [CONDITIONAL, NO_COUPLING]
    assert required_branches(branch_weights(0, 1)) == [NO_TEXT]


@pytest.mark.parametrize("num_steps", [1, 2, 7, 10, 50, 100])
@pytest.mark.parametrize("interval", [(0.0, 1.0), (0.0, 0.5), (0.55, 0.85), (0.3, 0.3), (1.0, 1.0), (0.123, 0.777)])
def test_runs_of_steps_have_the_weights_of_each_of_their_steps(num_steps: int, interval: tuple[float, float]) -> None:
    guidance = [
        Guidance(guidance_scale=3.0, coupling_scale=2.0, coupling_interval=interval),
        Guidance(guidance_scale=5.0, guidance_interval=(0.29, 0.58)),
    ]
    runs = runs_of_steps(guidance, num_steps)
    assert [step for run in runs for step in run] == list(range(num_steps))
    for run in runs:
        for step in run:
            assert [one.weights(step, num_steps) for one in guidance] == [
                one.weights(run.start, num_steps) for one in guidance
            ]


@pytest.mark.parametrize("interval", [(0.0, 1.0), (0.0, 0.5), (0.25, 0.75), (0.55, 0.85), (0.3, 0.3)])
@pytest.mark.parametrize("num_whole", [1, 2, 8])
def test_an_interval_holds_in_a_step_of_a_solver_that_asks_twice_as_in_one_that_asks_once(
    interval: tuple[float, float], num_whole: int
) -> None:
    guidance = Guidance(guidance_scale=2.0, coupling_scale=3.0, guidance_interval=interval)
    once = [guidance.weights(step, num_whole) for step in range(num_whole)]
    num_steps = 2 * num_whole - 1  # of Heun
    assert [guidance.weights(step, num_steps, 2) for step in range(num_steps)] == [
        once[step // 2] for step in range(num_steps)
    ]
    for run in runs_of_steps([guidance], num_steps, 2):
        assert len({tuple(guidance.weights(step, num_steps, 2).items()) for step in run}) <= 1


def test_intervals_hold_the_steps_that_lie_within_two_fractions_as_a_whole() -> None:
    def steps(interval: tuple[float, float], num_steps: int) -> list[int]:
        guidance = Guidance(guidance_scale=2.0, guidance_interval=interval)
        return [step for step in range(num_steps) if guidance.weights(step, num_steps) != {CONDITIONAL: 1}]

    assert steps((0, 1), 7) == list(range(7))
    assert steps((0.0, 0.5), 4) == [0, 1]
    assert steps((0.0, 0.5), 5) == [0, 1]  # as in UniAVGen's code: step < int(0.5 * steps)
    assert [len(steps((0.0, 0.5), num_steps)) for num_steps in range(1, 60)] == [n // 2 for n in range(1, 60)]
    assert steps((0.2, 0.9), 4) == [1, 2]
    assert steps((0.5, 0.5), 4) == []
    assert steps((0.55, 1.0), 100) == list(range(55, 100))  # 0.55 * 100 > 55 in floating point
    assert steps((0.0, 0.29), 100) == list(range(29))


def test_uniavgen_turns_to_plain_guidance_after_half_of_the_steps() -> None:
    video, _ = PRESETS["uniavgen"]
    assert set(video.weights(24, 50)) == {CONDITIONAL, UNCONDITIONAL}
    assert video.weights(25, 50) == {CONDITIONAL: 3, NO_TEXT: -2}


def test_half_precision_predictions_are_combined_in_float32() -> None:
    predictions = {CONDITIONAL: torch.tensor([1.0]).bfloat16(), NO_TEXT: torch.tensor([0.99609375]).bfloat16()}
    combined = combine(predictions, branch_weights(10, 1))
    assert combined.dtype == torch.float32
    assert combined.item() == 0.99609375 + 10 * (1 - 0.99609375)


@pytest.mark.parametrize("shape", [VIDEO, AUDIO])
@pytest.mark.parametrize(("coupling_scale", "uncoupled_text"), [(1.0, "empty"), (3.0, "empty"), (3.0, "kept")])
def test_projection_that_keeps_everything_changes_nothing(
    shape: tuple[int, ...], coupling_scale: float, uncoupled_text: str
) -> None:
    linear = Guidance(guidance_scale=8.0, coupling_scale=coupling_scale, uncoupled_text=uncoupled_text)
    everything = dataclasses.replace(linear, apg_threshold=0.0, apg_eta=1.0)
    predictions = tensors(shape)
    torch.testing.assert_close(guide(everything, predictions), guide(linear, predictions), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("shape", "dim"), [(VIDEO, (1, 3, 4)), (AUDIO, (2,))])
def test_projection_leaves_a_limited_direction_across_the_prediction(
    shape: tuple[int, ...], dim: tuple[int, ...]
) -> None:
    predictions = tensors(shape)
    conditional, other = predictions[CONDITIONAL], predictions[NO_TEXT]
    weight, threshold = 8.0, 1.5
    linear = conditional + (weight - 1) * (conditional - other)
    direction = (project(linear, conditional, weight, threshold) - conditional) / (weight - 1)
    assert (direction * conditional).sum(dim).abs().max() < 1e-4  # at every moment, not only on the whole
    limited = (project(linear, conditional, weight, threshold, eta=1.0) - conditional) / (weight - 1)
    norms = torch.linalg.vector_norm(limited, dim=dim)
    torch.testing.assert_close(norms, torch.full_like(norms, threshold), atol=1e-4, rtol=0)


def test_projection_matches_hand_computed_numbers() -> None:
    conditional = torch.tensor([[[2.0, 0.0]]])  # [B, L, C]
    other = torch.tensor([[[-1.0, -4.0]]])  # direction (3, 4), norm 5; limited to 2.5: (1.5, 2)
    linear = conditional + 2 * (conditional - other)  # scale 3
    torch.testing.assert_close(project(linear, conditional, 3.0, 2.5, eta=0.0), torch.tensor([[[2.0, 4.0]]]))
    torch.testing.assert_close(project(linear, conditional, 3.0, 2.5, eta=0.5), torch.tensor([[[3.5, 4.0]]]))


def test_projection_has_nothing_to_do_at_weight_one() -> None:
    predictions = tensors(AUDIO)
    weights = branch_weights(1.0, 3.0)
    linear = combine(predictions, weights)
    assert torch.equal(project(linear, predictions[CONDITIONAL], weights[CONDITIONAL], 1.0), linear)


def test_rescaling_restores_the_contrast_of_the_denoised_prediction() -> None:
    predictions, sigma = tensors(VIDEO), torch.tensor([0.9, 0.3])
    sample = torch.randn(VIDEO, generator=torch.Generator().manual_seed(1))
    guidance = Guidance(guidance_scale=7.0, guidance_rescale=1.0)
    velocity = guidance.guide(predictions, guidance.weights(0, 1), sample, sigma)
    contrast = predict_data(sample, velocity, sigma).flatten(1).std(1)
    wanted = predict_data(sample, predictions[CONDITIONAL], sigma).flatten(1).std(1)
    torch.testing.assert_close(contrast, wanted)
    half = rescale(torch.tensor([[0.0, 4.0]]), torch.tensor([[0.0, 1.0]]), 0.5)
    torch.testing.assert_close(half, torch.tensor([[0.0, 2.5]]))  # half of the way from 4 to 1


@pytest.mark.parametrize(("shape", "tokens"), [(VIDEO, 3), (AUDIO, 5)])
def test_condition_tokens_keep_their_plain_combination(shape: tuple[int, ...], tokens: int) -> None:
    guidance = Guidance(guidance_scale=5.0, guidance_rescale=0.7, apg_threshold=1.0)
    sigma = torch.full((2, tokens), 0.5)
    sigma[:, 0] = 0
    predictions = tensors(shape)
    velocity = guide(guidance, predictions, sigma)
    linear = combine(predictions, guidance.weights(0, 1))
    first = (slice(None), slice(None), 0) if len(shape) == 5 else (slice(None), 0)
    assert velocity.isfinite().all()
    assert torch.equal(velocity[first], linear[first])
    assert not torch.allclose(velocity, linear)


def test_projection_and_rescaling_look_at_the_conditional_prediction_even_at_scale_zero() -> None:
    guidance = Guidance(guidance_scale=0.0, guidance_rescale=0.5)
    assert guidance.weights(0, 1) == {CONDITIONAL: 0, NO_TEXT: 1}
    assert guide(guidance, tensors(AUDIO)).isfinite().all()


@pytest.mark.parametrize("shape", [(2, 3, 4, 2, 2), (2, 5, 3)])
@pytest.mark.parametrize("extra", [{}, {"apg_threshold": 0.5}, {"guidance_rescale": 0.7}])
def test_guiding_denoised_predictions_is_guiding_velocities(shape: tuple[int, ...], extra: dict[str, float]) -> None:
    torch.manual_seed(0)
    guidance, sigma = Guidance(guidance_scale=4.0, coupling_scale=2.0, **extra), torch.tensor([0.8, 0.3])
    sample, weights = torch.randn(shape), guidance.weights(0, 4)
    velocities = {branch: torch.randn(shape) for branch in BRANCHES}
    data = {branch: predict_data(sample, velocity, sigma) for branch, velocity in velocities.items()}
    guided = predict_data(sample, guidance.guide(velocities, weights, sample, sigma), sigma)
    torch.testing.assert_close(
        guidance.guide_data(data, weights, sample, sigma), guided, atol=1e-5, rtol=1e-4
    )  # divides by sigma


def test_guiding_is_the_same_for_one_sample_and_for_a_batch() -> None:
    guidance = Guidance(guidance_scale=8.0, coupling_scale=3.0, guidance_rescale=0.7, apg_threshold=2.0)
    predictions, weights = tensors(VIDEO), guidance.weights(0, 1)
    data, noise = predictions[NO_COUPLING], predictions[UNCONDITIONAL]
    sigma = torch.tensor([0.8, 0.4])
    sample = add_noise(data, noise, sigma)
    both = guidance.guide(predictions, weights, sample, sigma)
    for i in range(2):
        one = guidance.guide({b: v[i : i + 1] for b, v in predictions.items()}, weights, sample[i : i + 1], sigma[i])
        torch.testing.assert_close(one, both[i : i + 1])


def test_wrong_guidance_is_refused() -> None:
    with pytest.raises(ValueError, match="`uncoupled_text` must be 'empty' or 'kept', got 'none'"):
        Guidance(uncoupled_text="none")
    with pytest.raises(ValueError, match=r"`coupling_interval` must be two rising fractions.*got \(0.5, 0.2\)"):
        Guidance(coupling_interval=(0.5, 0.2))
    with pytest.raises(ValueError, match=r"`guidance_rescale` must be in \[0, 1\], got 2"):
        Guidance(guidance_rescale=2)
    with pytest.raises(ValueError, match="`apg_threshold` must not be negative"):
        Guidance(apg_threshold=-1)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_agree_with_a_model_that_ignores_its_conditions(name: str) -> None:
    for guidance, shape in zip(PRESETS[name], (VIDEO, AUDIO), strict=True):
        same = torch.randn(shape)
        torch.testing.assert_close(guide(guidance, dict.fromkeys(BRANCHES, same)), same, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("guidance", [Guidance(guidance_scale=2.0), Guidance(guidance_scale=2.0, cfg_zero_star=True)])
@pytest.mark.parametrize("of", ["guide", "guide_data"])
def test_a_branch_without_an_answer_is_named(guidance: Guidance, of: str) -> None:
    sample = torch.ones(1, 2, 3)
    weights = guidance.weights(0, 1)
    with pytest.raises(ValueError, match="must answer every branch that has a weight, got no empty_coupled"):
        getattr(guidance, of)({CONDITIONAL: sample}, weights, sample, 0.5)


@pytest.mark.parametrize("of", ["guide", "guide_data"])
@pytest.mark.parametrize("extra", [{}, {"apg_threshold": 1.0}, {"cfg_zero_star": True}])
def test_what_is_guided_has_the_shape_of_what_the_branches_saw(of: str, extra: dict[str, float]) -> None:
    guidance, predictions = Guidance(guidance_scale=3.0, **extra), tensors(VIDEO)
    weights, sample = guidance.weights(0, 1), torch.zeros(VIDEO)
    with pytest.raises(ValueError, match="`sample` must have the shape of the latents"):
        getattr(guidance, of)(predictions, weights, sample[:, :1], 0.5)
    with pytest.raises(ValueError, match=r"`predictions\[empty_coupled\]` must have the shape of the latents"):
        getattr(guidance, of)({**predictions, NO_TEXT: sample[:1]}, weights, sample, 0.5)


@pytest.mark.parametrize(("step", "num_steps"), [(9, 4), (4, 4), (-1, 4), (1.0, 4), (0, 0), (True, 4)])
def test_weights_are_those_of_a_step_that_there_is(step: int, num_steps: int) -> None:
    with pytest.raises(ValueError, match=r"`(step|num_steps)` must "):
        Guidance(guidance_scale=3.0).weights(step, num_steps)


def test_a_formula_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="`uncoupled_text` must be 'empty' or 'kept', got 'keept'"):
        branch_weights(3.0, 3.0, "keept")
