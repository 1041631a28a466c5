"""The pipeline's view of the video VAE: frames to normalised latents and back.

Letters in shapes: B batch, N frames, F latent frames, C latent channels, H, W height and width in pixels.
"""

from typing import Any

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from jova_cli.latent_lengths import num_latent_frames

from .cpu_convolutions import fast_convolutions
from .decoding_parallel import Pieces, SharedDecoding, cut_evenly
from .offloading import execution_device
from .wan_clip import decode_clip, encode_clip, full_map_bytes


NUM_STILL_BEFORE = (
    1  # latents behind the first: one leaves 1 % of a deviation to the fifth, none 7 % (jova-tiny's VAE)
)
ONE_PASS_BYTES = 16 * 2**20  # of a layer at full size, in clips that are coded in one pass; several are held at once


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

    def frame_shape(self, latents: Tensor) -> tuple[int, int, int]:
        """Number of frames, height and width of latents [B, C, F, h, w]; the inverse of `latent_shape`."""
        num_latent_frames, *sizes = latents.shape[2:]
        height, width = (size * self.spatial_factor for size in sizes)
        return ((num_latent_frames - 1) * self.temporal_factor + 1, height, width)

    def encode(self, frames: Tensor) -> Tensor:
        """Normalised posterior means, float32 [B, C, F, h, w], of frames [B, 3, N, H, W] in [-1, 1]."""
        frames = frames.to(execution_device(self.vae), self.vae.dtype)
        is_whole = (frames.shape[2] - 1) % self.temporal_factor == 0  # the VAE's chunks drop the rest
        is_one_pass = is_whole and self.takes_one_pass(len(frames), *frames.shape[2:])
        encode = encode_clip if is_one_pass else _host_encode
        with fast_convolutions(self.vae):
            return self.normalize(encode(self.vae, frames).mode())

    def encode_still(self, picture: Tensor) -> Tensor:
        """Normalised latent [B, C, 1, h, w] of a picture [B, 3, 1, H, W] that fills a latent frame behind the first.

        The causal encoder reads what stands before; the picture stands there as well, for as many latents as its
        latent still changes with them.
        """
        num_frames = 1 + self.temporal_factor * (1 + NUM_STILL_BEFORE)
        return self.encode(picture.expand(-1, -1, num_frames, -1, -1))[:, :, -1:]

    def decode(self, latents: Tensor, shared: SharedDecoding | None = None) -> Tensor:
        """Frames [B, 3, N, H, W] in [-1, 1] of normalised latents [B, C, F, h, w].

        Args:
            latents: Of whole clips.
            shared: The processes that decode them together, all of which enter this; None for this one alone.
        """
        latents = self.denormalize(latents.float()).to(execution_device(self.vae), self.vae.dtype)
        decode = decode_clip if self.takes_one_pass(len(latents), *self.frame_shape(latents)) else _host_decode
        with fast_convolutions(self.vae):
            frames = decode(self.vae, latents) if shared is None else shared.decode(self.vae, latents)
        return frames.clamp(-1, 1)

    def takes_one_pass(self, batch_size: int, num_frames: int, height: int, width: int) -> bool:
        """Whether clips are coded as a whole, faster on a CPU than the VAE's own chunks (`benchmarks.video_vae`).

        Larger clips keep the chunks, whose layers stay in the processor's cache and whose memory does not grow, as do
        VAEs that somebody tiles, offloads, compiles or subclasses.
        """
        vae = self.vae
        if type(vae) is not AutoencoderKLWan or not _is_plain(vae, vae.encoder, vae.decoder):
            return False
        if execution_device(vae).type != "cpu" or vae.use_tiling or vae.use_slicing:
            return False
        return batch_size * full_map_bytes(vae, num_frames, height, width) <= ONE_PASS_BYTES

    def pieces(self, latents: Tensor, num_processes: int) -> Pieces | None:
        """How so many processes would decode latents [B, C, F, h, w] together; None where each decodes them whole.

        That is where they have too few, and for VAEs that somebody tiles, offloads, compiles or subclasses. A piece
        has as many latents as `takes_one_pass` allows, or two.
        """
        vae = self.vae
        if type(vae) is not AutoencoderKLWan or vae.use_tiling or execution_device(vae) != latents.device:
            return None
        if not _is_plain(vae, vae.post_quant_conv, *vae.decoder.modules()):
            return None
        batch_size = 1 if vae.use_slicing else len(latents)
        bytes_of_latent = batch_size * full_map_bytes(vae, self.temporal_factor, *self.frame_shape(latents)[1:])
        return cut_evenly(latents.shape[2], num_processes, ONE_PASS_BYTES // bytes_of_latent)

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


def _host_encode(vae: Any, frames: Tensor) -> Any:
    return vae.encode(frames).latent_dist


def _host_decode(vae: Any, latents: Tensor) -> Tensor:
    decoded: Tensor = vae.decode(latents, return_dict=False)[0]
    return decoded


def _is_plain(*modules: Any) -> bool:
    """Whether nobody compiled modules, put hooks on them, or methods in place of those of their classes."""
    changes = {"encode", "decode", "forward", "_hf_hook"}
    return not any(
        changes & vars(module).keys()
        or "_orig_mod" in module._modules  # as torch.compile leaves it
        or module._compiled_call_impl is not None
        or module._forward_hooks
        or module._forward_pre_hooks
        for module in modules
    )
