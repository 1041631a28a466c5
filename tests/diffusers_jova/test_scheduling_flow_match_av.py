import copy
import json
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import pytest
import torch
from diffusers.configuration_utils import register_to_config
from safetensors.torch import load_file
from torch import Tensor

from diffusers_jova.flow_matching import (
    SigmaMixture,
    add_noise,
    expand_sigma,
    predict_data,
    shift_sigmas,
    velocity_target,
)
from diffusers_jova.scheduling_flow_match_av import PRESETS, FlowMatchAudioVideoScheduler
from tests.places import PARITY, needs_references


VIDEO, AUDIO = (2, 4, 3, 2, 2), (2, 5, 3)  # [B, C, F, H, W], [B, L, C]
SERVE_BOTH = {
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "FlowMapEulerDiscreteScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "FlowMatchLCMScheduler",
    "LTXEulerAncestralRFScheduler",
    "UniPCMultistepScheduler",
}
# every scheduler of diffusers whose extra requirements are installed
EVERY = [
    name
    for name in dir(diffusers)
    if name.endswith("Scheduler") and isinstance(kind := getattr(diffusers, name), type)
    if issubclass(kind, diffusers.SchedulerMixin) and hasattr(kind, "set_timesteps")
    if kind is not FlowMatchAudioVideoScheduler
]
REQUIRED: dict[str, dict[str, Any]] = {
    "AmusedScheduler": {"mask_token_id": 1},
    "RFD4ProteinaScheduler": {"schedule_mode": "log", "noise_mode": "tan", "tsr_k": 1.0, "tsr_sigma": 1.0},
    "VQDiffusionScheduler": {"num_vec_classes": 2},
}
# numpy 2 against torch tensors inside diffusers' schedulers; remove once diffusers converts them explicitly
host_warning = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning", "ignore:__array_wrap__ must accept:DeprecationWarning"
)


def pairs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    shapes = (VIDEO, VIDEO, AUDIO, AUDIO)
    data, noise, audio_data, audio_noise = (torch.randn(shape, generator=g) for shape in shapes)
    return data, noise, audio_data, audio_noise


def walk(scheduler: FlowMatchAudioVideoScheduler) -> tuple[Tensor, Tensor]:
    """Walk the perfect velocity from the scheduler's first noise levels to its end; return the remaining errors."""
    data, noise, audio_data, audio_noise = pairs()
    sample, audio = scheduler.scale_noise(
        data, audio_data, scheduler.sigmas[0], scheduler.audio_sigmas[0], noise, audio_noise
    )
    for timestep in scheduler.timesteps:
        index = scheduler.step_index or 0  # stochastic solvers leave the straight path
        sample, audio = scheduler.step(
            (sample - data) / scheduler.sigmas[index],
            (audio - audio_data) / scheduler.audio_sigmas[index],
            timestep,
            sample,
            audio,
            return_dict=False,
        )
    return sample - data, audio - audio_data


def plain(name: str, **config: float) -> diffusers.SchedulerMixin:
    return getattr(diffusers, name).from_config(FlowMatchAudioVideoScheduler(**config).config)


@pytest.mark.parametrize("solver", ["euler", "unipc"])
@pytest.mark.parametrize("shift", [1.0, 3.0, 7.0])
@pytest.mark.parametrize("steps", [1, 2, 3, 20])
def test_a_perfect_velocity_lands_on_the_data_in_any_number_of_steps(solver: str, shift: float, steps: int) -> None:
    scheduler = FlowMatchAudioVideoScheduler(shift=shift, audio_shift=5.0, solver=solver)
    scheduler.set_timesteps(steps)
    for error in walk(scheduler):
        assert error.abs().max() < 1e-5  # UniPC starts at sigma 1 - 1e-6, see diffusers


@pytest.mark.parametrize("solver", ["euler", "unipc"])
def test_a_perfect_velocity_lands_on_the_data_from_custom_sigmas_too(solver: str) -> None:
    scheduler = FlowMatchAudioVideoScheduler(shift=3.0, solver=solver)
    scheduler.set_timesteps(sigmas=[0.9, 0.5, 0.2], audio_sigmas=[1.0, 0.3, 0.1])
    for error in walk(scheduler):
        assert error.abs().max() < 1e-5


@host_warning
@pytest.mark.parametrize("name", sorted(SERVE_BOTH))
def test_every_plain_flow_scheduler_serves_both_modalities(name: str) -> None:
    scheduler = FlowMatchAudioVideoScheduler.from_scheduler(plain(name, shift=7.0, audio_shift=3.5))
    scheduler.set_timesteps(6)
    torch.testing.assert_close(
        scheduler.audio_sigmas[1:4], shift_sigmas(scheduler.sigmas[1:4], 0.5), atol=5e-3, rtol=0
    )
    assert scheduler.sigmas.dtype == scheduler.timesteps.dtype == torch.float32
    for error in walk(scheduler):
        assert error.abs().max() < 1e-4


@host_warning
@pytest.mark.parametrize("name", sorted(SERVE_BOTH))
def test_a_plain_flow_scheduler_walks_the_levels_of_ours(name: str) -> None:
    """Those that diffusers shifts twice by itself, to the end; UniPC and DPM++ end at 1 / 1000 before they go to 0."""
    ours = FlowMatchAudioVideoScheduler(shift=3.0, audio_shift=5.0)
    ours.set_timesteps(8)
    scheduler = FlowMatchAudioVideoScheduler.from_scheduler(plain(name, shift=3.0, audio_shift=5.0))
    scheduler.set_timesteps(8)
    logarithmic = name.startswith(("UniPC", "DPM"))
    for levels, wanted in ((scheduler.sigmas, ours.sigmas), (scheduler.audio_sigmas, ours.audio_sigmas)):
        found = levels.unique().flip(0)  # Heun takes most levels twice
        torch.testing.assert_close(found, wanted, atol=5e-3 if logarithmic else 1e-6, rtol=0)


def test_the_last_level_of_ours_reaches_a_plain_flow_scheduler() -> None:
    ours = FlowMatchAudioVideoScheduler(**PRESETS["uniavgen"])
    ours.set_timesteps(8)
    scheduler = FlowMatchAudioVideoScheduler.from_scheduler(
        diffusers.FlowMatchEulerDiscreteScheduler.from_config(ours.config)
    )
    scheduler.set_timesteps(8)
    torch.testing.assert_close(scheduler.sigmas, ours.sigmas, atol=1e-6, rtol=0)


def advice(scheduler: diffusers.SchedulerMixin) -> diffusers.SchedulerMixin | None:
    """The scheduler that a refusal says to build instead; None if there was no refusal."""
    try:
        FlowMatchAudioVideoScheduler.from_scheduler(scheduler).set_timesteps(4)
    except ValueError as error:
        code = str(error).rsplit("; ", 1)[1].split("`")[1]
        return eval(code, {**vars(diffusers), type(scheduler).__name__: type(scheduler), "pipe": Pipe(scheduler)})
    return None


class Pipe(NamedTuple):
    scheduler: diffusers.SchedulerMixin


@host_warning
@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("is_fresh", [True, False])
def test_every_scheduler_of_diffusers_serves_or_is_refused_with_advice_that_works(name: str, is_fresh: bool) -> None:
    config = {} if is_fresh else FlowMatchAudioVideoScheduler(shift=7.0, audio_shift=3.5).config
    scheduler = getattr(diffusers, name).from_config(config, **REQUIRED.get(name, {}))
    advised = [scheduler]
    while (other := advice(advised[-1])) is not None:
        advised.append(other)
        assert len(advised) < 4, "advice that leads nowhere"
    assert is_fresh or (len(advised) == 1) == (name in SERVE_BOTH)
    final = FlowMatchAudioVideoScheduler.from_scheduler(advised[-1])
    if not is_fresh:
        assert (final.config.shift, final.config.audio_shift) == (7.0, 3.5), "the pipeline's shifts are lost"
    final.set_timesteps(4)
    for error in walk(final):
        assert error.abs().max() < 1e-4


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True}),
        ("FlowMatchEulerDiscreteScheduler", {"invert_sigmas": True}),
        ("UniPCMultistepScheduler", {"use_dynamic_shifting": True}),
        ("UniPCMultistepScheduler", {"final_sigmas_type": "sigma_min"}),
        ("FlowMatchLCMScheduler", {"scale_factors": [0.5]}),
        ("LTXEulerAncestralRFScheduler", {"use_dynamic_shifting": True}),
    ],
)
def test_options_that_two_modalities_cannot_share_are_refused_with_advice_that_works(
    name: str, option: dict[str, Any]
) -> None:
    scheduler = plain(name)
    scheduler.register_to_config(**option)
    with pytest.raises(ValueError, match="must "):
        FlowMatchAudioVideoScheduler.from_scheduler(scheduler).set_timesteps(4)
    advised = advice(scheduler)
    assert advised is not None
    assert advice(advised) is None


def test_the_second_order_solver_beats_euler_on_a_curved_path() -> None:
    def error(solver: str) -> float:
        scheduler = FlowMatchAudioVideoScheduler(solver=solver)
        scheduler.set_timesteps(10)
        sample = torch.ones(1, 1, 1, 1, 1)
        for timestep in scheduler.timesteps:  # data ~ N(0, 0.5^2): the velocity is known and the path is curved
            sigma = timestep / 1000
            variance = (1 - sigma) ** 2 * 0.25 + sigma**2
            velocity = sample * (sigma - (1 - sigma) * 0.25) / variance
            sample = scheduler.step(velocity, None, timestep, sample, None).prev_sample
        return abs(sample.item() - 0.5)  # the flow maps a sample of N(0, 1) to the same quantile of the data

    assert error("unipc") < 0.3 * error("euler")


def test_schedules_start_at_one_end_at_zero_and_keep_exact_timesteps() -> None:
    for solver in ("euler", "unipc"):
        scheduler = FlowMatchAudioVideoScheduler(shift=3.0, audio_shift=7.0, solver=solver)
        scheduler.set_timesteps(8)
        u = torch.linspace(1, 0, 9, dtype=torch.float64)  # rounded to float32 by both: an eps each at most
        torch.testing.assert_close(scheduler.sigmas, shift_sigmas(u, 3.0).float(), atol=0, rtol=2.4e-7)
        torch.testing.assert_close(scheduler.audio_sigmas, shift_sigmas(u, 7.0).float(), atol=0, rtol=2.4e-7)
        assert scheduler.timesteps[0] == scheduler.audio_timesteps[0] == 1000
        assert scheduler.timesteps.dtype == torch.float32
        assert torch.equal(scheduler.timesteps, 1000 * scheduler.sigmas[:-1])
        assert torch.equal(scheduler.audio_timesteps, 1000 * scheduler.audio_sigmas[:-1])


def test_custom_sigmas_are_used_as_they_are_and_audio_keeps_pace() -> None:
    sigmas = [1.0, 0.7, 0.0375]
    scheduler = FlowMatchAudioVideoScheduler(shift=3.0, audio_shift=3.0)
    scheduler.set_timesteps(sigmas=sigmas)
    assert torch.equal(scheduler.sigmas, torch.tensor([*sigmas, 0.0]))
    assert torch.equal(scheduler.audio_sigmas, scheduler.sigmas)
    assert scheduler.timesteps[2] == 37.5

    scheduler = FlowMatchAudioVideoScheduler(shift=3.0, audio_shift=6.0)
    scheduler.set_timesteps(sigmas=sigmas)
    torch.testing.assert_close(scheduler.audio_sigmas[1], torch.tensor(2 * 0.7 / 1.7))


def test_default_schedules_of_both_modalities_lie_on_the_curve_that_shared_training_draws() -> None:
    scheduler = FlowMatchAudioVideoScheduler(shift=5.0, audio_shift=2.0)
    scheduler.set_timesteps(10)
    sigmas, audio_sigmas = scheduler.sample_training_sigmas(64)
    torch.testing.assert_close(shift_sigmas(scheduler.sigmas, 0.4), scheduler.audio_sigmas)
    torch.testing.assert_close(shift_sigmas(sigmas, 0.4), audio_sigmas)


def test_a_modality_steps_alone_as_it_does_in_company() -> None:
    _, noise, _, audio_noise = pairs()
    scheduler = FlowMatchAudioVideoScheduler(shift=3.0, solver="unipc")
    together, alone, audio_alone = (noise, audio_noise), noise, audio_noise
    for video_only in (None, True, False):
        scheduler.set_timesteps(4)
        for timestep in scheduler.timesteps:
            if video_only is None:
                velocities = [x.sin() for x in together]
                together = scheduler.step(*velocities, timestep, *together, return_dict=False)
            elif video_only:
                output = scheduler.step(alone.sin(), None, timestep, alone, None)
                alone = output.prev_sample
                assert output.prev_audio_sample is None
            else:
                none, audio_alone = scheduler.step(
                    None, audio_alone.sin(), timestep, None, audio_alone, return_dict=False
                )
                assert none is None
    assert torch.equal(together[0], alone)
    assert torch.equal(together[1], audio_alone)


def test_walking_may_begin_in_the_middle() -> None:
    data, noise, _, _ = pairs()
    for solver in ("euler", "unipc"):
        for explicit in (True, False):
            scheduler = FlowMatchAudioVideoScheduler(shift=3.0, solver=solver)
            scheduler.set_timesteps(6)
            if explicit:
                scheduler.set_begin_index(2)
            sample = add_noise(data, noise, scheduler.sigmas[2])
            for timestep in scheduler.timesteps[2:]:
                sample = scheduler.step(noise - data, None, timestep, sample, None).prev_sample
            torch.testing.assert_close(sample, data, atol=1e-5, rtol=0)


def test_half_precision_latents_are_stepped_in_float32_and_keep_their_dtype() -> None:
    scheduler = FlowMatchAudioVideoScheduler()
    scheduler.set_timesteps(100)
    velocity = torch.full(VIDEO, 0.1, dtype=torch.bfloat16)
    sample = torch.ones(VIDEO)  # float32 latents survive a bfloat16 velocity
    stepped = scheduler.step(velocity, None, scheduler.timesteps[0], sample, None).prev_sample
    torch.testing.assert_close(stepped, sample - 0.01 * velocity.float())
    scheduler.set_timesteps(100)
    halved = scheduler.step(velocity, None, scheduler.timesteps[0], sample.bfloat16(), None).prev_sample
    assert halved.dtype == torch.bfloat16


@host_warning
def test_stochastic_solvers_follow_the_generator() -> None:
    data, noise, _, _ = pairs()
    stochastic = plain("DPMSolverMultistepScheduler")
    stochastic = type(stochastic).from_config(stochastic.config, algorithm_type="sde-dpmsolver++", euler_at_final=True)
    scheduler = FlowMatchAudioVideoScheduler.from_scheduler(stochastic)

    def first_step(seed: int) -> Tensor:
        scheduler.set_timesteps(4)
        generator = torch.Generator().manual_seed(seed)
        return scheduler.step(noise - data, None, scheduler.timesteps[0], noise, None, generator=generator).prev_sample

    assert torch.equal(first_step(0), first_step(0))
    assert not torch.equal(first_step(0), first_step(1))


def test_a_scheduler_survives_saving_and_loading(tmp_path: Path) -> None:
    scheduler = FlowMatchAudioVideoScheduler(shift=7.0, audio_shift=3.0, solver="unipc")
    scheduler.save_pretrained(tmp_path)
    loaded = FlowMatchAudioVideoScheduler.from_pretrained(tmp_path)
    for name in ("shift", "audio_shift", "solver", "num_train_timesteps", "flow_shift"):
        assert loaded.config[name] == scheduler.config[name]
    assert type(loaded.video) is diffusers.UniPCMultistepScheduler
    assert json.loads((tmp_path / "scheduler_config.json").read_text())["_class_name"] == type(scheduler).__name__


def test_a_changed_shift_reaches_every_scheduler_built_from_the_config() -> None:
    config = FlowMatchAudioVideoScheduler(shift=7.0, audio_shift=7.0).config
    changed = FlowMatchAudioVideoScheduler.from_config(config, shift=3.0)
    unipc = diffusers.UniPCMultistepScheduler.from_config(changed.config)
    assert unipc.config.flow_shift == 3.0
    assert unipc.config.prediction_type == "flow_prediction"
    assert unipc.config.use_flow_sigmas
    pair = FlowMatchAudioVideoScheduler.from_scheduler(unipc)
    assert (pair.video.config.flow_shift, pair.audio.config.flow_shift) == (3.0, 7.0)

    overridden = diffusers.UniPCMultistepScheduler.from_config(config, flow_shift=2.0)  # 7 and 7 become 2 and 2
    pair = FlowMatchAudioVideoScheduler.from_scheduler(overridden)
    assert (pair.video.config.flow_shift, pair.audio.config.flow_shift) == (2.0, 2.0)


@pytest.mark.parametrize("ours", [True, False])
def test_copying_a_scheduler_leaves_the_original_alone(ours: bool) -> None:
    original = FlowMatchAudioVideoScheduler(solver="unipc") if ours else plain("UniPCMultistepScheduler")
    pair = FlowMatchAudioVideoScheduler.from_scheduler(original)
    pair.set_timesteps(3)
    walk(pair)
    assert original.step_index is None
    assert pair.video is not pair.audio
    if isinstance(original, FlowMatchAudioVideoScheduler):
        assert dict(pair.config) == dict(original.config)
        assert original.video.step_index is None


def test_schedulers_that_do_not_predict_flow_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must step by a velocity noise - data, got a DDIMScheduler; .*from_config"):
        FlowMatchAudioVideoScheduler.from_scheduler(diffusers.DDIMScheduler())
    with pytest.raises(ValueError, match="must predict flow, got a UniPC"):
        FlowMatchAudioVideoScheduler.from_scheduler(diffusers.UniPCMultistepScheduler(use_flow_sigmas=True))
    with pytest.raises(ValueError, match="`use_dynamic_shifting` must be False"):
        FlowMatchAudioVideoScheduler.from_scheduler(
            diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
        )
    unfinished = plain("UniPCMultistepScheduler")
    unfinished.register_to_config(final_sigmas_type="sigma_min")
    with pytest.raises(ValueError, match="must end at sigma 0"):
        FlowMatchAudioVideoScheduler.from_scheduler(unfinished).set_timesteps(4)
    with pytest.raises(ValueError, match="which has its own schedule"):
        FlowMatchAudioVideoScheduler.from_scheduler(plain("UniPCMultistepScheduler")).set_timesteps(sigmas=[1.0])


def test_wrong_schedules_are_refused() -> None:
    scheduler = FlowMatchAudioVideoScheduler()
    with pytest.raises(ValueError, match=r"one positive number of steps, got \[2, 3\]"):
        scheduler.set_timesteps(sigmas=[1.0, 0.5], audio_sigmas=[1.0, 0.5, 0.2])
    with pytest.raises(ValueError, match=r"got \[2, 5\]"):
        scheduler.set_timesteps(5, sigmas=[1.0, 0.5])
    for steps in (None, 0):
        with pytest.raises(ValueError, match="one positive number of steps"):
            scheduler.set_timesteps(steps)
    for sigmas in ([1.0, 0.0], [0.5, 0.7], [1.1, 0.5]):
        with pytest.raises(ValueError, match=r"`audio_sigmas` must fall strictly within \(0, 1\]"):
            scheduler.set_timesteps(audio_sigmas=sigmas)
    with pytest.raises(ValueError, match="`audio_shift` must be positive"):
        FlowMatchAudioVideoScheduler(audio_shift=0)
    with pytest.raises(ValueError, match="`solver` must be one of"):
        FlowMatchAudioVideoScheduler(solver="heun")


def test_noise_is_added_per_sample_and_per_token() -> None:
    data, noise, audio_data, audio_noise = pairs()
    sigma = torch.rand(2, 3)
    audio_sigma = torch.tensor([0.0, 1.0])
    noisy, noisy_audio = FlowMatchAudioVideoScheduler().scale_noise(
        data, audio_data, sigma, audio_sigma, noise, audio_noise
    )
    torch.testing.assert_close(noisy[1, :, 2], 0.0 + data[1, :, 2].lerp(noise[1, :, 2], sigma[1, 2]))
    assert torch.equal(noisy_audio[0], audio_data[0])
    assert torch.equal(noisy_audio[1], audio_noise[1])
    assert expand_sigma(torch.rand(2, 5), audio_data).shape == (2, 5, 1)
    torch.testing.assert_close(predict_data(noisy, velocity_target(data, noise), sigma), data)
    assert add_noise(data.bfloat16(), noise.bfloat16(), sigma).dtype == torch.bfloat16


def test_an_absent_modality_stays_absent() -> None:
    data, noise, audio_data, audio_noise = pairs()
    scheduler = FlowMatchAudioVideoScheduler()
    assert scheduler.scale_noise(data, None, 0.5, 0.5, noise, None)[1] is None
    assert scheduler.scale_noise(None, audio_data, 0.5, 0.5, None, audio_noise)[0] is None
    with pytest.raises(ValueError, match="both its sample and its noise, got no noise"):
        scheduler.scale_noise(data, None, 0.5, 0.5, None, None)


def test_a_copy_of_a_scheduler_walks_on_its_own() -> None:
    scheduler = FlowMatchAudioVideoScheduler(shift=3.0, solver="unipc")
    copied = copy.deepcopy(scheduler)
    copied.set_timesteps(3)
    assert max(error.abs().max() for error in walk(copied)) < 1e-5
    assert len(scheduler.timesteps) == 0


@pytest.mark.parametrize(
    ("density", "shift", "mean"),  # means of 400 k draws of the reference formulas
    [("uniform", 3.0, 0.676), ("logit_normal", 7.0, 0.838), ("mode", 3.0, 0.710), ("mode", 7.0, 0.829)],
)
def test_densities_have_their_means(density: str, shift: float, mean: float) -> None:
    scheduler = FlowMatchAudioVideoScheduler(shift=shift)
    sigmas, _ = scheduler.sample_training_sigmas(20_000, density, generator=torch.Generator().manual_seed(0))
    assert sigmas.mean().item() == pytest.approx(mean, abs=0.01)  # 5 standard errors


def test_a_positive_logit_mean_means_more_noise() -> None:
    scheduler = FlowMatchAudioVideoScheduler()
    sigmas, _ = scheduler.sample_training_sigmas(
        20_000, "logit_normal", generator=torch.Generator().manual_seed(0), logit_mean=0.5
    )
    assert sigmas.mean().item() == pytest.approx(0.601, abs=0.01)  # 0.399 if u were mistaken for an index


def test_modalities_are_coupled_as_asked() -> None:
    scheduler = FlowMatchAudioVideoScheduler(shift=3.0, audio_shift=3.0)

    def draw(coupling: str | SigmaMixture) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.stack(scheduler.sample_training_sigmas(20_000, coupling=coupling, generator=generator))

    shared, independent, mixed = draw("shared"), draw("independent"), draw("mixed")
    assert torch.equal(shared[0], shared[1])
    assert torch.corrcoef(independent)[0, 1].abs() < 0.03
    clean = (mixed == 0).float().mean(1)
    torch.testing.assert_close(clean, torch.tensor([0.2, 0.2]), atol=0.015, rtol=0)
    assert not (mixed == 0).all(0).any()
    assert (mixed[0] == mixed[1]).float().mean().item() == pytest.approx(0.5, abs=0.02)
    assert (draw(SigmaMixture(0, 0, 0, 1))[1] == 0).all()
    assert (draw(SigmaMixture(0, 0, 1, 0))[0] == 0).all()


def test_a_generator_per_sample_makes_sigmas_independent_of_the_batch() -> None:
    scheduler = FlowMatchAudioVideoScheduler(shift=3.0)

    def draw(seeds: list[int]) -> Tensor:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return torch.stack(scheduler.sample_training_sigmas(len(seeds), coupling="mixed", generator=generators))

    assert torch.equal(draw([1, 2, 3])[:, 1:], draw([2, 3]))


def test_wrong_training_draws_are_refused() -> None:
    scheduler = FlowMatchAudioVideoScheduler()
    with pytest.raises(ValueError, match=r"`density` must be one of .*, got 'lognormal'"):
        scheduler.sample_training_sigmas(2, "lognormal")
    with pytest.raises(ValueError, match="`coupling` must be a SigmaMixture or one of"):
        scheduler.sample_training_sigmas(2, coupling="both")
    with pytest.raises(ValueError, match="four probabilities that sum to 1"):
        SigmaMixture(shared=0.9)
    with pytest.raises(ValueError, match=r"3 \(one per sample\), got 2"):
        scheduler.sample_training_sigmas(3, generator=[torch.Generator(), torch.Generator()])


@pytest.mark.parametrize("num_steps", [1, 2, 7, 50])
def test_the_last_step_starts_where_it_is_told_to_and_the_others_are_even(num_steps: int) -> None:
    scheduler = FlowMatchAudioVideoScheduler(audio_shift=3.0, last_sigma=0.25)
    scheduler.set_timesteps(num_steps)
    assert scheduler.sigmas[-1] == scheduler.audio_sigmas[-1] == 0
    if num_steps > 1:
        torch.testing.assert_close(scheduler.sigmas[:-1], torch.linspace(1, 0.25, num_steps))
        assert float(scheduler.audio_sigmas[-2]) == pytest.approx(3 * 0.25 / 1.5)
    assert scheduler.sigmas[0] == 1
    data, noise = torch.randn(1, 2, 1, 2, 2), torch.randn(1, 2, 1, 2, 2)
    sample = noise
    for timestep in scheduler.timesteps:
        sample = scheduler.step(noise - data, None, timestep, sample, None).prev_sample
    torch.testing.assert_close(sample, data)


@needs_references
@pytest.mark.parametrize("num_steps", [6, 8, 50])
def test_the_schedule_of_uniavgen_is_that_of_its_release(num_steps: int) -> None:
    scheduler = FlowMatchAudioVideoScheduler(**PRESETS["uniavgen"])
    scheduler.set_timesteps(num_steps)
    released = load_file(PARITY / "uniavgen" / "schedule.safetensors")
    torch.testing.assert_close(scheduler.sigmas.double(), released[f"sigmas_float64.{num_steps}"], atol=1e-6, rtol=0)
    torch.testing.assert_close(scheduler.timesteps, released[f"timesteps_float32.{num_steps}"][:-1], atol=1e-3, rtol=0)
    assert torch.equal(scheduler.sigmas, scheduler.audio_sigmas)


@needs_references
@pytest.mark.parametrize("num_steps", [5, 6, 20, 25, 30, 50])
def test_the_schedule_of_mova_is_that_of_its_release(num_steps: int) -> None:
    released = json.loads((PARITY / "mova" / "schedules.json").read_text())
    for preset, shifts in (("mova", "shift_5_5"), ("mova-phase-1", "shift_5_1")):
        found = released[f"released/{shifts}/steps_{num_steps}"]
        scheduler = FlowMatchAudioVideoScheduler(**PRESETS[preset])
        scheduler.set_timesteps(num_steps)
        for name in ("sigmas", "audio_sigmas"):
            expected = torch.tensor(found[name])
            torch.testing.assert_close(getattr(scheduler, name)[:-1], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("last_sigma", [0, 1, -0.5, float("nan"), True, "0.1"])
def test_a_last_level_that_no_schedule_has_is_refused(last_sigma: Any) -> None:
    with pytest.raises(ValueError, match=r"`last_sigma` must .*; "):
        FlowMatchAudioVideoScheduler(last_sigma=last_sigma)


def test_presets_are_arguments() -> None:
    for arguments in PRESETS.values():
        FlowMatchAudioVideoScheduler(**arguments).set_timesteps(2)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"logit_std": float("nan")}, "`logit_std` must be positive and finite"),
        ({"logit_std": -1.0}, "`logit_std` must be positive and finite"),
        ({"logit_mean": float("inf")}, "`logit_mean` must be finite"),
        ({"mode_scale": 5.0}, r"`mode_scale` must lie in \[-1, 1.752\]"),
        ({"coupling": None}, "`coupling` must be a SigmaMixture or one of"),
        ({"batch_size": 0}, "`batch_size` must be at least 1"),
        ({"batch_size": 3.0}, "`batch_size` must be a whole number"),
    ],
)
def test_levels_to_train_on_come_from_numbers_that_have_a_density(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FlowMatchAudioVideoScheduler().sample_training_sigmas(**{"batch_size": 4, **wrong})


class Bare(diffusers.SchedulerMixin, diffusers.ConfigMixin):
    """A scheduler of one's own that has the arguments of a flow scheduler and nothing else."""

    @register_to_config
    def __init__(
        self, prediction_type: str = "flow_prediction", use_flow_sigmas: bool = True, flow_shift: float = 1.0
    ) -> None:
        pass


def test_a_scheduler_of_ones_own_derives_from_one_that_serves() -> None:
    class Own(diffusers.FlowMatchEulerDiscreteScheduler):
        """Of the user."""

    plain = FlowMatchAudioVideoScheduler.from_scheduler(Own())
    plain.set_timesteps(4)
    assert len(plain.timesteps) == 4
    with pytest.raises(ValueError, match=r"`set_begin_index`, .*got a Bare without `step_index` and"):
        FlowMatchAudioVideoScheduler.from_scheduler(Bare())


PLAIN = {
    "euler": diffusers.FlowMatchEulerDiscreteScheduler(shift=4.0),
    "unipc": diffusers.UniPCMultistepScheduler(
        flow_shift=4.0, use_flow_sigmas=True, prediction_type="flow_prediction"
    ),
}


@pytest.mark.parametrize("solver", PLAIN)
@pytest.mark.parametrize("is_from_ours", [False, True])
def test_the_config_of_a_plain_scheduler_gives_its_shift_and_its_solver(solver: str, is_from_ours: bool) -> None:
    plain = PLAIN[solver]
    if is_from_ours:
        own = FlowMatchAudioVideoScheduler(shift=3.0, audio_shift=1.5, solver=solver)
        plain = type(plain).from_config(own.config)
    ours = FlowMatchAudioVideoScheduler.from_config(plain.config)
    same = FlowMatchAudioVideoScheduler.from_scheduler(plain)
    assert (ours.config.shift, ours.config.audio_shift) == (same.config.shift, same.config.audio_shift)
    assert ours.config.shift == (3.0 if is_from_ours else 4.0)
    assert ours.config.solver == solver
    for one in (ours, same):
        one.set_timesteps(4)
    for modality in ("video", "audio"):
        levels = [getattr(one, modality).sigmas for one in (ours, same)]
        torch.testing.assert_close(*levels, atol=2e-3, rtol=0)  # UniPC lays out its own, between 1 and 1 / 1000


UNREAD = {"use_dynamic_shifting": True, "shift_terminal": 0.02, "use_karras_sigmas": True, "stochastic_sampling": True}


@pytest.mark.parametrize("option", UNREAD)
def test_what_ours_does_not_take_from_a_plain_config_is_told(option: str, caplog: pytest.LogCaptureFixture) -> None:
    config = dict(diffusers.FlowMatchEulerDiscreteScheduler(shift=4.0).config)
    FlowMatchAudioVideoScheduler.from_config(config)
    assert not caplog.messages
    FlowMatchAudioVideoScheduler.from_config({**config, option: UNREAD[option]})
    assert f"config of a plain scheduler: {option}; our levels are shifted by 4 at every size" in caplog.text


def test_a_field_that_is_given_comes_before_the_config_of_a_plain_scheduler() -> None:
    ours = FlowMatchAudioVideoScheduler.from_config(PLAIN["euler"].config, audio_shift=2.0)
    assert (ours.config.shift, ours.config.audio_shift) == (4.0, 2.0)
    ours = FlowMatchAudioVideoScheduler.from_config({"shift": 4.0, "solver": "unipc"})  # of this class, in part
    assert (ours.config.shift, ours.config.audio_shift, ours.config.solver) == (4.0, 1.0, "unipc")
    with pytest.raises(ValueError, match="`shift` must"):
        FlowMatchAudioVideoScheduler.from_config({"shift": "x"})
    other = FlowMatchAudioVideoScheduler.from_config(diffusers.DDIMScheduler().config)
    assert (other.config.shift, other.config.audio_shift) == (1.0, 1.0)


@pytest.mark.parametrize("begin_index", [-1, 2.0, "1", True, None, 4, 99])
def test_walking_begins_at_a_step_that_there_is(begin_index: Any) -> None:
    scheduler = FlowMatchAudioVideoScheduler()
    scheduler.set_timesteps(4)
    with pytest.raises(ValueError, match=r"`begin_index` must be .*, got .*; "):
        scheduler.set_begin_index(begin_index)
    assert scheduler.begin_index is None


@pytest.mark.parametrize(
    ("density", "given"),
    [
        ("mode", {"logit_mean": 3.0}),
        ("mode", {"logit_std": 0.5}),
        ("uniform", {"mode_scale": 1.0}),
        ("logit_normal", {"mode_scale": 1.0}),
    ],
)
def test_parameters_of_another_density_are_refused(density: Any, given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"`{next(iter(given))}` must be left out with `density` '{density}', got "):
        FlowMatchAudioVideoScheduler().sample_training_sigmas(4, density, **given)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "DPMSolverMultistepScheduler",
            "DPMSolverMultistepScheduler is not taken from the config of a plain",
        ),
        ("UniPCMultistepScheduler", ""),
        ("FlowMatchEulerDiscreteScheduler", ""),
        ("DDIMScheduler", "nothing is taken from the config of a scheduler that does not predict flow"),
    ],
)
def test_a_solver_that_ours_does_not_have_is_told(name: str, said: str, caplog: pytest.LogCaptureFixture) -> None:
    own = plain(name) if name in SERVE_BOTH else diffusers.DDIMScheduler()
    FlowMatchAudioVideoScheduler.from_config(own.config)
    told = [record.message for record in caplog.records if record.name.startswith("diffusers_jova")]
    assert [said in line for line in told] == [True] * bool(said)


def test_a_saved_scheduler_that_ours_cannot_be_is_told_by_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    diffusers.FlowMatchHeunDiscreteScheduler(shift=3.0).save_pretrained(tmp_path)
    ours = FlowMatchAudioVideoScheduler.from_pretrained(tmp_path)
    assert (ours.config.shift, ours.config.solver) == (3.0, "euler")
    assert "FlowMatchHeunDiscreteScheduler is not taken from the config of a plain scheduler" in caplog.text
