"""What a scheduler of two modalities refuses in a step, and that a step which was refused can still be taken."""

from typing import Any

import pytest
import torch

from diffusers_jova.scheduling_flow_match_av import FlowMatchAudioVideoScheduler
from tests.diffusers_jova.test_scheduling_flow_match_av import AUDIO, VIDEO, host_warning, pairs, plain


def test_wrong_steps_are_refused() -> None:
    _, noise, _, audio_noise = pairs()
    scheduler = FlowMatchAudioVideoScheduler()
    with pytest.raises(ValueError, match="call `set_timesteps`"):
        scheduler.step(noise, None, 1000.0, noise, None)
    scheduler.set_timesteps(4)
    with pytest.raises(ValueError, match=r"next of `scheduler.timesteps`, got 501"):
        scheduler.step(noise, None, 501.0, noise, None)
    with pytest.raises(ValueError, match="got no sample"):
        scheduler.step(noise, None, 1000.0, None, None)
    scheduler.step(noise, None, 1000.0, noise, None)
    with pytest.raises(ValueError, match="before step 1 of 4"):
        scheduler.step(noise, None, 1000.0, noise, None)
    scheduler.step(noise, audio_noise, 750.0, noise, audio_noise)
    scheduler.step(noise, None, 500.0, noise, None)
    with pytest.raises(ValueError, match="a modality must take every step"):
        scheduler.step(noise, audio_noise, 250.0, noise, audio_noise)


def test_a_step_by_a_velocity_of_another_shape_is_refused() -> None:
    scheduler = FlowMatchAudioVideoScheduler()
    scheduler.set_timesteps(2)
    video, audio = torch.zeros(VIDEO), torch.zeros(AUDIO)
    with pytest.raises(ValueError, match="`model_output` must have the shape of the latents"):
        scheduler.step(video[:, :, :1], audio, scheduler.timesteps[0], video, audio)


@pytest.mark.parametrize("solver", ["euler", "unipc"])
@pytest.mark.parametrize("late", [False, True])
def test_a_step_that_is_refused_may_be_taken_again(solver: str, late: bool) -> None:
    data, noise, audio_data, audio_noise = pairs()
    velocities = noise - data, audio_noise - audio_data
    scheduler, other = (FlowMatchAudioVideoScheduler(shift=3.0, solver=solver) for _ in range(2))
    samples = wanted = (noise, audio_noise)
    for one in (scheduler, other):
        one.set_timesteps(4)
    for timestep in scheduler.timesteps:
        if not late or timestep == scheduler.timesteps[2]:
            for wrong in ((samples[0], None), (samples[0], velocities[1][:1]), (samples[0][0], samples[1])):
                with pytest.raises(ValueError, match="must "):
                    scheduler.step(velocities[0], velocities[1], timestep, *wrong)
            with pytest.raises(ValueError, match="`audio_model_output` must have the shape of the latents"):
                scheduler.step(velocities[0], velocities[1][:1], timestep, *samples)
        samples = scheduler.step(*velocities, timestep, *samples, return_dict=False)
        wanted = other.step(*velocities, timestep, *wanted, return_dict=False)
    for sample, expected in zip(samples, wanted, strict=True):
        assert torch.equal(sample, expected)


def out_of_memory(*_: Any, **__: Any) -> None:
    raise torch.OutOfMemoryError


@pytest.mark.parametrize("solver", ["euler", "unipc"])
def test_a_step_that_breaks_within_a_solver_may_be_taken_again(solver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, noise, _, audio_noise = pairs()
    scheduler, other = (FlowMatchAudioVideoScheduler(solver=solver) for _ in range(2))
    samples = wanted = (noise, audio_noise)
    for one in (scheduler, other):
        one.set_timesteps(4)
    for timestep in scheduler.timesteps:
        with monkeypatch.context() as patch:
            patch.setattr(scheduler.audio, "step", out_of_memory)
            with pytest.raises(torch.OutOfMemoryError):
                scheduler.step(*(x.sin() for x in samples), timestep, *samples)
        samples = scheduler.step(*(x.sin() for x in samples), timestep, *samples, return_dict=False)
        wanted = other.step(*(x.sin() for x in wanted), timestep, *wanted, return_dict=False)
    assert torch.equal(samples[0], wanted[0])
    assert torch.equal(samples[1], wanted[1])


def test_video_and_audio_are_not_taken_for_each_other() -> None:
    video, _, audio, _ = pairs()
    scheduler = FlowMatchAudioVideoScheduler()
    scheduler.set_timesteps(4)
    with pytest.raises(ValueError, match=r"`sample` must be video latents \[B, C, F, H, W\], got \[2, 5, 3\]; "):
        scheduler.step(audio, video, scheduler.timesteps[0], audio, video)
    with pytest.raises(ValueError, match=r"`audio_sample` must be audio latents \[B, L, C\], got \[2, 4, 3, 2, 2\]; "):
        scheduler.step(None, video, scheduler.timesteps[0], None, video)
    with pytest.raises(ValueError, match=r"`sample` must be video latents \[B, C, F, H, W\], got \[2, 5, 3\]; "):
        scheduler.scale_noise(audio, video, 0.5, 0.5, audio, video)
    with pytest.raises(ValueError, match="`audio_sample` must be audio latents"):
        scheduler.scale_noise(None, video, 0.5, 0.5, None, video)


@pytest.mark.parametrize("timestep", [torch.full((2,), 1000.0), None, "x", torch.zeros(0), True])
def test_a_step_starts_at_one_timestep(timestep: Any) -> None:
    video, _, audio, _ = pairs()
    scheduler = FlowMatchAudioVideoScheduler()
    scheduler.set_timesteps(4)
    with pytest.raises(ValueError, match=r"`timestep` must be one entry of `scheduler.timesteps`, got .*; give "):
        scheduler.step(video, audio, timestep, video, audio)


def test_a_timestep_that_no_step_starts_at_is_said_to_be_none() -> None:
    video, _, audio, _ = pairs()
    scheduler = FlowMatchAudioVideoScheduler()
    scheduler.set_timesteps(4)
    message = r"next of `scheduler.timesteps`, got 750.5, which is none of them; .* audio takes the video's"
    with pytest.raises(ValueError, match=message):
        scheduler.step(video, audio, scheduler.timesteps[1] + 0.5, video, audio)


@host_warning
@pytest.mark.parametrize("generator", [5, [5, 6], "seed"])
def test_what_is_no_generator_is_named(generator: Any) -> None:
    with pytest.raises(ValueError, match=r"`generator` must be a `torch.Generator` or a list of them, got .*; "):
        FlowMatchAudioVideoScheduler().sample_training_sigmas(2, generator=generator)
    data, noise, _, _ = pairs()
    stochastic = plain("DPMSolverMultistepScheduler")
    stochastic = type(stochastic).from_config(stochastic.config, algorithm_type="sde-dpmsolver++", euler_at_final=True)
    scheduler = FlowMatchAudioVideoScheduler.from_scheduler(stochastic)
    scheduler.set_timesteps(4)
    with pytest.raises(ValueError, match=r"`generator` must be a `torch.Generator` or a list of them"):
        scheduler.step(noise - data, None, scheduler.timesteps[0], noise, None, generator=generator)


def test_latents_of_whole_numbers_are_refused_before_a_step_is_taken() -> None:
    scheduler = FlowMatchAudioVideoScheduler()
    scheduler.set_timesteps(4)
    scheduler.set_begin_index(0)
    video, noise, _, _ = pairs()
    with pytest.raises(ValueError, match=r"`latents` must be of floats, got torch.int64"):
        scheduler.step(video, None, scheduler.timesteps[0], video.long(), None)
    scheduler.step(noise, None, scheduler.timesteps[0], video, None)
    assert scheduler.step_index == 1
    scheduler.step(None, None, scheduler.timesteps[1], None, None)  # a step of no velocity, as CFG-Zero* begins
    assert scheduler.step_index == 2
