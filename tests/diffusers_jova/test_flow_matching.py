import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from diffusers_jova.flow_matching import add_noise, predict_data, shift_sigmas, sigma_quantile, velocity_target


VIDEO = (2, 4, 3, 2, 2)  # [B, C, F, H, W]


@pytest.mark.parametrize(
    ("sigma", "message"),
    [
        (torch.tensor([500.0, 250.0]), r"`sigma` must lie in \[0, 1\], got 500.0; a timestep is `sigma \* num_train"),
        (torch.tensor([1, 0, 2])[1:], r"`sigma` must lie in \[0, 1\], got 2; "),
        (torch.tensor([0.5, float("nan")]), r"`sigma` must lie in \[0, 1\], got nan; "),
        (1.5, r"`sigma` must lie in \[0, 1\], got 1.5; "),
        (torch.rand(3), r"one level for all, 2 for the samples, or \[2, 4\] of them, got the shape \[3\]; draw one"),
        (torch.rand(2, 5), r"one level for all, 2 for the samples, or \[2, 4\] of them, got the shape \[2, 5\]; "),
    ],
)
def test_levels_that_are_none_are_refused(sigma: Any, message: str) -> None:
    data = torch.zeros(2, 3, 4, 2, 2)
    with pytest.raises(ValueError, match=message):
        add_noise(data, torch.ones_like(data), sigma)


@pytest.mark.parametrize("shift", [0, -1.0, float("nan"), float("inf")])
def test_a_shift_is_positive(shift: float) -> None:
    with pytest.raises(ValueError, match=r"`shift` must be positive and finite, got .*; 1 changes nothing"):
        shift_sigmas(torch.tensor(0.5), shift)


def test_the_mode_density_matches_its_formula_and_is_symmetric() -> None:
    u = torch.linspace(0, 1, 101, dtype=torch.float64)
    sigma = sigma_quantile(u, "mode", mode_scale=1.29)
    assert sigma[25].item() == pytest.approx(1 - 0.25 - 1.29 * (math.cos(math.pi / 8) ** 2 - 0.75))
    torch.testing.assert_close(sigma + sigma.flip(0), torch.ones_like(u))
    assert (sigma.diff() < 0).all()


def test_a_timestep_is_no_noise_level() -> None:
    with pytest.raises(ValueError, match=r"`sigma` must lie in \[0, 1\], got 500"):
        add_noise(torch.zeros(VIDEO), torch.ones(VIDEO), 500)


@pytest.mark.parametrize("of", [partial(add_noise, sigma=0.5), velocity_target])
def test_noise_of_one_sample_is_not_shared_by_a_batch(of: Callable[..., Tensor]) -> None:
    data = torch.zeros(VIDEO)
    with pytest.raises(ValueError, match=r"`noise` must have the shape of the latents, \[2, 4, 3, 2, 2\], got \[1"):
        of(data, data[:1])


def test_data_is_predicted_at_noise_levels_and_not_at_timesteps() -> None:
    with pytest.raises(ValueError, match=r"`sigma` must lie in \[0, 1\], got 500"):
        predict_data(torch.zeros(VIDEO), torch.ones(VIDEO), 500.0)
    assert predict_data(torch.zeros(VIDEO), torch.ones(VIDEO), 0.5).unique().tolist() == [-0.5]


@pytest.mark.parametrize("data", [[0.0, 1.0], torch.zeros(2).numpy(), None])
@pytest.mark.parametrize("of", [partial(add_noise, sigma=0.5), velocity_target])
def test_what_is_no_tensor_is_named(of: Callable[..., Tensor], data: Any) -> None:
    with pytest.raises(TypeError, match=r"`latents` must be a tensor, got .*; use `torch.as_tensor`"):
        of(data, torch.zeros(2))
    with pytest.raises(TypeError, match="`noise` must be a tensor, got "):
        of(torch.zeros(2), data)


@pytest.mark.parametrize("sigma", [[0.5, 0.5], "0.5", None])
def test_a_level_is_a_tensor_or_a_number(sigma: Any) -> None:
    with pytest.raises(TypeError, match="`sigma` must be a tensor or a number, got "):
        add_noise(torch.zeros(2), torch.zeros(2), sigma)


@pytest.mark.parametrize("shape", [(3, 1, 1), (3, 1, 3, 1), (3, 1, 1, 1, 1, 1), (3, 4, 1, 2, 3)])
@pytest.mark.parametrize("of", [add_noise, predict_data])
def test_levels_of_another_modality_are_not_spread_over_the_wrong_axis(
    of: Callable[..., Tensor], shape: tuple[int, ...]
) -> None:
    video = torch.zeros(3, 4, 3, 2, 2)
    with pytest.raises(ValueError, match=r"`sigma` must have one level for all, 3 for the samples, .*; draw one"):
        of(video, video, torch.rand(shape))
    assert of(video, video, torch.rand(3, 1, 3, 1, 1)).shape == video.shape
    assert of(video[:, 0, 0], video[:, 0, 0], torch.rand(3, 1, 1)).shape == (3, 2, 2)


def test_levels_have_no_more_axes_than_what_they_belong_to() -> None:
    with pytest.raises(ValueError, match="`sigma` must have one level for all"):
        add_noise(torch.zeros(2), torch.zeros(2), torch.rand(2, 1))


@pytest.mark.parametrize("shape", [VIDEO, (2, 5, 3)])
def test_data_is_predicted_by_a_velocity_of_their_own_shape(shape: tuple[int, ...]) -> None:
    sample = torch.zeros(shape)
    for velocity in (sample[:1], sample[:, :1]):
        with pytest.raises(ValueError, match="`velocity` must have the shape of the latents"):
            predict_data(sample, velocity, 0.5)
    with pytest.raises(TypeError, match="`velocity` must be a tensor"):
        predict_data(sample, None, 0.5)


@pytest.mark.parametrize("of", [partial(add_noise, sigma=0.5), velocity_target])
def test_latents_of_whole_numbers_are_refused_in_place_of_rounded(of: Callable[..., Tensor]) -> None:
    with pytest.raises(ValueError, match=r"`latents` must be of floats, got torch.int64, which rounds"):
        of(torch.ones(2, 3).long(), torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"`noise` must be of floats, got torch.int64"):
        of(torch.ones(2, 3), torch.ones(2, 3).long())


def test_a_flag_is_no_level() -> None:
    with pytest.raises(TypeError, match="`sigma` must be a tensor or a number, got bool"):
        add_noise(torch.zeros(2), torch.zeros(2), True)


@pytest.mark.parametrize("levels", [torch.tensor([500.0]), torch.tensor([-0.5]), np.array([1.5]), np.array([np.nan])])
def test_what_is_no_level_is_not_shifted(levels: Any) -> None:
    with pytest.raises(ValueError, match=r"`sigma` must lie in \[0, 1\], got "):
        shift_sigmas(levels, 3.0)
