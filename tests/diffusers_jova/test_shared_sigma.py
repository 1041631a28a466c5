import pytest
import torch

from diffusers_jova.scheduling_flow_match_av import FlowMatchAudioVideoScheduler, add_noise, shift_sigmas
from diffusers_jova.shared_sigma import SharedSigma, flow_sigmas


SIGMAS = torch.tensor([1.0, 0.7, 0.2, 0.0])


@pytest.mark.parametrize("ratio", [0.2, 0.5, 3.0])
def test_carried_sound_is_at_the_pictures_level_for_the_sampler_and_at_its_own_for_the_model(ratio: float) -> None:
    data, noise = torch.randn(2, 4, 5, 3, dtype=torch.float64)
    shared, sigma = SharedSigma(ratio), SIGMAS.double()
    carried = add_noise(shared.carry(data), noise, sigma)  # what the sampler makes
    expected = add_noise(data, noise, shared.audio_sigma(sigma))
    torch.testing.assert_close(shared.audio_sample(carried, sigma), expected)
    torch.testing.assert_close(shared.audio_sigma(sigma), shift_sigmas(sigma, ratio))
    torch.testing.assert_close(shared.recover(shared.carry(data)), data)


def test_one_level_per_latent_leaves_given_ones_clean() -> None:
    data = torch.randn(1, 3, 2)
    shared, sigma = SharedSigma(0.5), torch.tensor([[0.0, 0.4, 0.0]])
    carried = add_noise(shared.carry(data), torch.randn(1, 3, 2), sigma)
    sample = shared.audio_sample(carried, sigma)
    torch.testing.assert_close(sample[:, [0, 2]], data[:, [0, 2]])
    assert shared.audio_sigma(sigma)[0, 0] == 0


def test_equal_shifts_leave_everything_as_it_is() -> None:
    tensor, shared = torch.randn(1, 3, 2), SharedSigma()
    assert shared.carry(tensor) is tensor
    assert shared.recover(tensor) is tensor
    assert shared.audio_sample(tensor, torch.ones(1)) is tensor


def test_an_euler_step_of_the_carried_sound_is_one_on_its_own_schedule() -> None:
    noise, prediction = torch.randn(2, 1, 3, 2, dtype=torch.float64)
    shared, (sigma, following) = SharedSigma(0.5), torch.tensor([0.7, 0.2], dtype=torch.float64)
    carried = add_noise(shared.carry(torch.ones_like(noise)), noise, sigma)
    stepped = carried + (following - sigma) * (carried - shared.carry(prediction)) / sigma
    own, own_following = shared.audio_sigma(sigma), shared.audio_sigma(following)
    sample = shared.audio_sample(carried, sigma[None])
    expected = sample + (own_following - own) * (sample - prediction) / own
    torch.testing.assert_close(shared.audio_sample(stepped, following[None]), expected)


@pytest.mark.parametrize("num_steps", [1, 4, 6, 24, 50])
def test_every_nth_level_of_a_fine_table_is_the_schedule_of_the_scheduler(num_steps: int) -> None:
    scheduler = FlowMatchAudioVideoScheduler(shift=7.0)
    scheduler.set_timesteps(num_steps)
    table = flow_sigmas(7.0, 1200)
    chosen = table[[-1 - 1200 * step // num_steps for step in range(num_steps)]]
    torch.testing.assert_close(chosen, scheduler.sigmas[:-1], rtol=1e-6, atol=0)
