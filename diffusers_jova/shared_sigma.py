"""Two noise schedules through one sigma: for samplers that carry picture and sound in one tensor and know one level.

With shifts s_v and s_a and c = s_a / s_v, the sound's level at the picture's level sigma is

    sigma_a = c sigma / ((1 - sigma) + c sigma)                                             (`shift_sigmas` by c)

which is not the level that such a sampler mixes noise and data with. The sound is therefore carried as

    y = (1 - sigma) (x_0 / c) + sigma noise,    x_a = c y / ((1 - sigma) + c sigma)

that is, with its data divided by c: to the sampler y is at sigma, to the model x_a is at sigma_a. A prediction x_0 of
the sound's data goes back as x_0 / c. Euler, whose step is linear in sample and prediction, then takes exactly the
steps of the sound's own schedule, and so does every solver that works on such predictions.

Letters in shapes: B batch, L audio latents, C channels.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .flow_matching import expand_sigma, shift_sigmas


class SharedSigma(NamedTuple):
    """How the sound is carried at the picture's noise level.

    Args:
        ratio: c = audio_shift / shift; 1 leaves the sound as it is.
    """

    ratio: float = 1.0

    def carry(self, data: Tensor) -> Tensor:
        """Data of the sound, or a prediction of it, as the sampler carries it; any shape."""
        return data if self.ratio == 1 else data / self.ratio

    def recover(self, carried: Tensor) -> Tensor:
        """The inverse of `carry`."""
        return carried if self.ratio == 1 else carried * self.ratio

    def audio_sigma(self, sigma: Tensor) -> Tensor:
        """The sound's noise level at the picture's, any shape."""
        return sigma if self.ratio == 1 else shift_sigmas(sigma, self.ratio)

    def audio_sample(self, carried: Tensor, sigma: Tensor) -> Tensor:
        """The noisy sound as the model sees it.

        Args:
            carried: y, [B, L, C].
            sigma: Noise level of the picture, [B] or per audio latent [B, L].
        """
        if self.ratio == 1:
            return carried
        sigma = expand_sigma(sigma, carried)
        return carried * (self.ratio / (1 + (self.ratio - 1) * sigma))


def flow_sigmas(shift: float, num_levels: int) -> Tensor:
    """Noise levels 1/N, 2/N, ..., 1 after a shift, rising, float32 [num_levels].

    Args:
        shift: See `shift_sigmas`.
        num_levels: N; schedules of n steps take every N/n-th level, exactly where n divides N.
    """
    levels = torch.arange(1, num_levels + 1, dtype=torch.float64) / num_levels
    return shift_sigmas(levels, shift).float()
