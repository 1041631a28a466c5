"""The pipeline's view of the video VAE: frames to normalised latents and back.

Letters in shapes: B batch, N frames, F latent frames, C latent channels, H, W height and width in pixels.
"""

from typing import Any

import torch
from torch import Tensor

from jova_cli.latent_lengths import num_latent_frames

from .offloading import execution_device


class JoVAVideoCodec:
    """Frames to latents as the transformer sees them, and back.

    The VAE is causal: latent 0 holds frame 0, each later latent `temporal_factor` frames, so a clip has
    `temporal_factor` * k + 1 frames. What a class of diffusers offers is asked of its config, its name never.

    Args:
        vae: Video VAE whose `encode` takes [B, 3, N, H, W] in [-1, 1], e.g. `AutoencoderKLWan`.
    """

    def __init__(self, vae: Any) -> None:
        self.vae = vae
        self.temporal_factor: int = vae.config.scale_factor_temporal
        self.spatial_factor: int = vae.config.scale_factor_spatial
        self.num_channels: int = vae.config.z_dim

    def num_latent_frames(self, num_frames: int) -> int:
        """Latent frames of a clip of `temporal_factor` * k + 1 frames."""
        return num_latent_frames(num_frames, self.temporal_factor)

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Latents [C, F, H / s, W / s] of a clip."""
        sizes = (height // self.spatial_factor, width // self.spatial_factor)
        return (self.num_channels, self.num_latent_frames(num_frames), *sizes)

    def encode(self, frames: Tensor) -> Tensor:
        """Normalised posterior means, float32 [B, C, F, h, w], of frames [B, 3, N, H, W] in [-1, 1]."""
        frames = frames.to(execution_device(self.vae), self.vae.dtype)
        return self.normalize(self.vae.encode(frames).latent_dist.mode())

    def decode(self, latents: Tensor) -> Tensor:
        """Frames [B, 3, N, H, W] in [-1, 1] of normalised latents [B, C, F, h, w]."""
        latents = self.denormalize(latents.float()).to(execution_device(self.vae), self.vae.dtype)
        return self.vae.decode(latents, return_dict=False)[0].clamp(-1, 1)

    def normalize(self, latents: Tensor) -> Tensor:
        """Latents of the VAE [B, C, ...] to zero mean and unit deviation per channel, in float32."""
        mean, std = self.statistics(latents)
        return (latents.float() - mean) / std

    def denormalize(self, latents: Tensor) -> Tensor:
        """The inverse of `normalize`."""
        mean, std = self.statistics(latents)
        return latents * std + mean

    def statistics(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the VAE's latents per channel, [C, 1, 1, 1] each."""
        config = self.vae.config
        mean, std = (
            torch.tensor(values, device=latents.device) for values in (config.latents_mean, config.latents_std)
        )
        return mean[:, None, None, None], std[:, None, None, None]
