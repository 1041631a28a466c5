"""Flow matching: the sign convention, its formulas, and the noise levels to train on.

=============  ===========================  =====================================
quantity       paper (arXiv:2512.13677v1)   this package (the diffusers convention)
=============  ===========================  =====================================
time           t: 0 noise -> 1 data         sigma = 1 - t: 1 noise -> 0 data
noisy sample   x_t = (1 - t) x_0 + t x_1    (1 - sigma) * data + sigma * noise
velocity       u = x_1 - x_0                noise - data = -u
=============  ===========================  =====================================

Letters: B batch, C channels, F latent frames, H and W latent height and width, L audio latents.
Video is [B, C, F, H, W] and audio [B, L, C] throughout.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass
from numbers import Real
from types import MappingProxyType
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from .number_arguments import finite_number, positive_number


LEVEL_ERROR = 1e-5  # of what shifts and their inverses make of 0 and 1
MOST_MODE_SCALE = 2 / (math.pi - 2)  # of SD3, Eq. 20
AXES: Mapping[str, str] = MappingProxyType({"video": "[B, C, F, H, W]", "audio": "[B, L, C]"})
Sigmas = TypeVar("Sigmas", Tensor, np.ndarray)


def add_noise(data: Tensor, noise: Tensor, sigma: Tensor | float) -> Tensor:
    """Mix data and noise on the straight path between them.

    JoVA (arXiv:2512.13677v1), Eq. 2:  x_t = (1 - t) x_0 + t x_1, with t = 1 - sigma

    Args:
        data: Clean latents, [B, ...].
        noise: Standard normal noise, same shape.
        sigma: Noise level in [0, 1], broadcast as in `expand_sigma`.

    Returns:
        Noisy latents in the shape and dtype of ``data``.

    Raises:
        TypeError: Data or noise is no tensor, or a level neither a tensor nor a number.
        ValueError: The shapes differ, or a level lies outside [0, 1], as a timestep does; on a GPU, which would have
            to be waited for, levels of a tensor are not looked at unless they are whole numbers.
    """
    check_same_shape("noise", noise, data)
    check_levels(sigma)
    sigma = expand_sigma(sigma, data)
    return ((1 - sigma) * data + sigma * noise).to(data.dtype)


def check_levels(sigma: Tensor | float) -> None:
    """Refuse what are timesteps, or no noise levels.

    Args:
        sigma: Of any shape.

    Raises:
        TypeError: They are neither a tensor nor a number.
        ValueError: One lies outside [0, 1], those of a tensor by more than the rounding of shifts and their inverses.
    """
    if not isinstance(sigma, (Tensor, Real)) or isinstance(sigma, bool):
        raise TypeError(f"`sigma` must be a tensor or a number, got {type(sigma).__name__}; use `torch.as_tensor`")
    if not isinstance(sigma, Tensor):
        found = [] if 0 <= sigma <= 1 else [sigma]
    elif sigma.device.type == "cpu" or not sigma.is_floating_point():
        found = sigma[~((sigma >= -LEVEL_ERROR) & (sigma <= 1 + LEVEL_ERROR))].flatten()[:1].tolist()
    else:
        found = []
    if found:
        raise ValueError(f"`sigma` must lie in [0, 1], got {found[0]}; a timestep is `sigma * num_train_timesteps`")


def velocity_target(data: Tensor, noise: Tensor) -> Tensor:
    """Give the velocity d sample / d sigma that the model learns.

    JoVA (arXiv:2512.13677v1), Eq. 3:  u = x_1 - x_0, here with the opposite sign

    Args:
        data: Clean latents, any shape.
        noise: The noise they were mixed with, same shape.
    """
    check_same_shape("noise", noise, data)
    return noise - data


def check_same_shape(name: str, one: Tensor, other: Tensor) -> None:
    """Refuse what is no tensor of floats, and one of another shape than its latents, which would be broadcast."""
    for what, value in (("latents", other), (name, one)):
        if not isinstance(value, Tensor):
            raise TypeError(f"`{what}` must be a tensor, got {type(value).__name__}; use `torch.as_tensor`")
        if not value.is_floating_point():
            raise ValueError(f"`{what}` must be of floats, got {value.dtype}, which rounds to whole numbers; cast it")
    if one.shape != other.shape:
        raise ValueError(
            f"`{name}` must have the shape of the latents, {list(other.shape)}, got {list(one.shape)}; make it of "
            "their own"
        )


def check_axes(name: str, latents: Tensor, modality: str) -> None:
    """Refuse latents with another number of axes than their modality has: they are those of the other one.

    Args:
        name: Argument that they are given as.
        latents: Tensor of any shape.
        modality: ``"video"`` or ``"audio"``.

    Raises:
        ValueError: Naming the argument.
    """
    if latents.ndim != AXES[modality].count(",") + 1:
        raise ValueError(
            f"`{name}` must be {modality} latents {AXES[modality]}, got {list(latents.shape)}; video comes before "
            "audio, each with an axis of samples"
        )


def predict_data(sample: Tensor, velocity: Tensor, sigma: Tensor | float) -> Tensor:
    """Follow the velocity from a noisy sample straight to the data (the "denoised" or x0 prediction).

    Args:
        sample: Noisy latents, [B, ...].
        velocity: Velocity at ``sample``, same shape.
        sigma: Noise level of ``sample``, broadcast as in `expand_sigma`.

    Raises:
        TypeError: Sample or velocity is no tensor, or a level neither a tensor nor a number.
        ValueError: The shapes differ, or a level is a timestep, or no noise level, as far as `check_levels` sees.
    """
    check_same_shape("velocity", velocity, sample)
    check_levels(sigma)
    return sample - expand_sigma(sigma, sample) * velocity


def expand_sigma(sigma: Tensor | float, sample: Tensor) -> Tensor:
    """Give noise levels the number of dimensions of the sample they belong to.

    Args:
        sigma: One level for all (a number), per sample [B], per latent frame [B, F] or per audio latent [B, L];
            what is expanded already, to the number of dimensions of the sample, stays as it is.
        sample: Video latents [B, C, F, H, W], audio latents [B, L, C], or anything with B first.

    Returns:
        The same values, broadcastable to ``sample``: [1 or B, 1, F or 1, 1, 1] or [1 or B, L or 1, 1].

    Raises:
        ValueError: There are levels of another number of samples, frames or latents, or they are expanded to another
            number of dimensions.
    """
    sigma = torch.as_tensor(sigma, device=sample.device)
    lengths = (sample.shape[0], sample.shape[min(2 if sample.ndim == 5 else 1, sample.ndim - 1)])
    is_expanded = sigma.ndim > 2
    fitting = sample.shape if is_expanded else lengths[: sample.ndim]
    fits = sigma.ndim == sample.ndim if is_expanded else sigma.ndim <= sample.ndim
    if not fits or any(found not in (1, wanted) for found, wanted in zip(sigma.shape, fitting, strict=False)):
        raise ValueError(
            f"`sigma` must have one level for all, {lengths[0]} for the samples, or {list(lengths)} of them, got the "
            f"shape {list(sigma.shape)}; draw one for each sample"
        )
    if is_expanded:
        return sigma
    shape = [1] * sample.ndim
    shape[0] = sigma.shape[0] if sigma.ndim else 1
    if sigma.ndim == 2:
        shape[2 if sample.ndim == 5 else 1] = sigma.shape[1]
    return sigma.reshape(shape)


def shift_sigmas(sigmas: Sigmas, shift: float) -> Sigmas:
    """Move noise levels towards the noisy end for ``shift`` > 1.

    SD3 (arXiv:2403.03206v1), Eq. 23; MOVA (arXiv:2602.08794v2), dual sigma shift:
    sigma' = s * sigma / (1 + (s - 1) * sigma). A shift by s and then by r is a shift by s * r.

    Args:
        sigmas: Noise levels in [0, 1], any shape; 0 and 1 stay where they are.
        shift: s > 0; 1 changes nothing.

    Raises:
        ValueError: The shift is no positive number, or a level is none, as far as `check_levels` sees.
    """
    positive_number("shift", shift, "1 changes nothing")
    check_levels(torch.as_tensor(sigmas))
    return shift * sigmas / (1 + (shift - 1) * sigmas)


@dataclass(frozen=True)
class SigmaMixture:
    """Probabilities with which a training sample draws the noise levels of its two modalities.

    The defaults follow the multi-task ratio 4:1:1:2:2 of UniAVGen (arXiv:2511.03334, stage 3): joint generation with
    and without a reference voice, continuation, video -> audio, audio -> video.

    Args:
        shared: One u for both modalities, each with its own shift: the curve that joint sampling walks.
        independent: One u for each modality.
        clean_video: Video at sigma 0: what video -> audio needs.
        clean_audio: Audio at sigma 0: what audio -> video needs.
    """

    shared: float = 0.5
    independent: float = 0.1
    clean_video: float = 0.2
    clean_audio: float = 0.2

    def __post_init__(self) -> None:
        probabilities = [finite_number(name, value, "0 leaves it out") for name, value in asdict(self).items()]
        if min(probabilities) < 0 or not math.isclose(sum(probabilities), 1, abs_tol=1e-6):
            raise ValueError(f"`SigmaMixture` must be four probabilities that sum to 1, got {astuple(self)}")


COUPLINGS: Mapping[str, SigmaMixture] = MappingProxyType(
    {
        "shared": SigmaMixture(shared=1, independent=0, clean_video=0, clean_audio=0),
        "independent": SigmaMixture(shared=0, independent=1, clean_video=0, clean_audio=0),
        "mixed": SigmaMixture(),
    }
)


def sigma_quantile(u: Tensor, density: str, mean: float = 0.0, std: float = 1.0, mode_scale: float = 1.29) -> Tensor:
    """Turn uniform numbers into noise levels of a density, before any shift.

    SD3 (arXiv:2403.03206v1), Sec. 3.1, whose t is our sigma:
    ``"logit_normal"``: sigma = sigmoid(mean + std * z), z standard normal (Eq. 19);
    ``"mode"``: sigma = 1 - u - s * (cos(pi/2 u)^2 - 1 + u) (Eq. 20).

    Args:
        u: Uniform in (0, 1), any shape.
        density: ``"uniform"``, ``"logit_normal"`` or ``"mode"``.
        mean: Of the logit; above 0 means more noise.
        std: Of the logit, above 0.
        mode_scale: s in [-1, 2 / (pi - 2)]; above 0 favours the middle.

    Raises:
        ValueError: The density is unknown, or a number is out of its range.
    """
    finite_number("logit_mean", mean, "0 is the middle")
    positive_number("logit_std", std, "SD3 has 1")
    if not -1 <= finite_number("mode_scale", mode_scale, "SD3 has 1.29") <= MOST_MODE_SCALE:
        raise ValueError(
            f"`mode_scale` must lie in [-1, {MOST_MODE_SCALE:.3f}], where levels fall as `u` rises, got {mode_scale}; "
            "SD3 has 1.29"
        )
    if density == "uniform":
        return u
    if density == "logit_normal":
        return torch.sigmoid(mean + std * torch.special.ndtri(u))
    if density == "mode":
        return 1 - u - mode_scale * (torch.cos(torch.pi / 2 * u).square() - 1 + u)
    raise ValueError(f"`density` must be one of ['logit_normal', 'mode', 'uniform'], got {density!r}")
