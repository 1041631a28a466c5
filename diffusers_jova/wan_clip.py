"""The Wan video VAE over a whole clip in one pass: the numbers of `AutoencoderKLWan`, several times faster.

The class walks through a clip in chunks (one frame, then four at a time) and hands the last frames of every layer to
the next chunk. That keeps memory small and starts nine times as many kernels, small ones. All its temporal operations
are causal, so one pass over the clip computes the same function; the tests hold the two together.

Letters: B batch, C channels, F frames (4k + 1), T latent frames (k + 1), H, W pixels, h, w latents.
"""

from typing import Any

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanResample, patchify, unpatchify
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor, nn


def full_map_bytes(vae: AutoencoderKLWan, num_frames: int, height: int, width: int) -> int:
    """Bytes of what a layer at the full size of one clip makes, frames and pixels counted; a pass holds several."""
    config = vae.config
    channels = max(config.base_dim, config.decoder_base_dim or 0) * config.dim_mult[0]
    positions = num_frames * height * width // (config.patch_size or 1) ** 2
    return channels * positions * vae.dtype.itemsize


def halve_time(time_conv: nn.Module, hidden_states: Tensor) -> Tensor:
    """Keep frame 0 and merge the others in pairs: [B, C, 2k + 1, H, W] -> [B, C, k + 1, H, W]."""
    if hidden_states.shape[2] == 1:
        return hidden_states
    return torch.cat([hidden_states[:, :, :1], time_conv(hidden_states)], dim=2)


def double_time(time_conv: nn.Module, hidden_states: Tensor, begins: bool) -> Tensor:
    """Make two of every frame but frame 0 of a clip: [B, C, k + 1, H, W] -> [B, C, 2k + 1, H, W].

    Of a piece that does not begin a clip, two of every frame: [B, C, k, H, W] -> [B, C, 2k, H, W].
    """
    first, rest = hidden_states.split([1, hidden_states.shape[2] - 1] if begins else [0, hidden_states.shape[2]], 2)
    if rest.shape[2] == 0:
        return first
    pairs = time_conv(rest).unflatten(1, (2, -1))  # [B, 2, C, k, H, W]
    return torch.cat([first, pairs.permute(0, 2, 3, 1, 4, 5).flatten(2, 3)], dim=2)


def resample(layer: Any, hidden_states: Tensor, begins: bool = True) -> Tensor:
    """Apply one `WanResample`; without its cache the layer itself leaves time alone."""
    if layer.mode == "upsample3d":
        hidden_states = double_time(layer.time_conv, hidden_states, begins)
    hidden_states = layer(hidden_states)
    return halve_time(layer.time_conv, hidden_states) if layer.mode == "downsample3d" else hidden_states


def apply_down_block(block: Any, hidden_states: Tensor) -> Tensor:
    """Apply one entry of `encoder.down_blocks`: a layer, or a block with a residual shortcut around it."""
    if isinstance(block, WanResample):
        return resample(block, hidden_states)
    if not hasattr(block, "avg_shortcut"):
        return block(hidden_states)
    shortcut = block.avg_shortcut(hidden_states)
    for resnet in block.resnets:
        hidden_states = resnet(hidden_states)
    if block.downsampler is not None:
        hidden_states = resample(block.downsampler, hidden_states)
    return hidden_states + shortcut


def apply_up_block(block: Any, hidden_states: Tensor, begins: bool) -> Tensor:
    """Apply one entry of `decoder.up_blocks`, with its residual shortcut if the model has them."""
    shortcut = getattr(block, "avg_shortcut", None)
    skipped = shortcut(hidden_states, first_chunk=begins) if shortcut is not None else None
    for resnet in block.resnets:
        hidden_states = resnet(hidden_states)
    upsampler = block.upsampler if hasattr(block, "upsampler") else (block.upsamplers or [None])[0]
    if upsampler is not None:
        hidden_states = resample(upsampler, hidden_states, begins)
    return hidden_states if skipped is None else hidden_states + skipped


def encode_clip(vae: AutoencoderKLWan, video: Tensor) -> DiagonalGaussianDistribution:
    """Encode frames [B, 3, F, H, W] in [-1, 1] to a posterior over latents [B, C, T, h, w], as `vae.encode` does."""
    encoder = vae.encoder
    hidden_states = video if vae.config.patch_size is None else patchify(video, vae.config.patch_size)
    hidden_states = encoder.conv_in(hidden_states)
    for block in encoder.down_blocks:
        hidden_states = apply_down_block(block, hidden_states)
    hidden_states = encoder.nonlinearity(encoder.norm_out(encoder.mid_block(hidden_states)))
    return DiagonalGaussianDistribution(vae.quant_conv(encoder.conv_out(hidden_states)))


def decode_clip(vae: AutoencoderKLWan, latents: Tensor, begins: bool = True) -> Tensor:
    """Decode latents [B, C, T, h, w] to frames [B, 3, F, H, W], as `vae.decode` does, but without its final clamp.

    A clamped pixel has no gradient, so a decoder that overshoots would never learn to come back.

    Args:
        vae: Whose decoder it is.
        latents: Of a clip, or of a piece of one.
        begins: Whether latent 0 is that of a clip, which holds one frame; elsewhere it holds as many as the others,
            and the causal convolutions must be given what stands before, see `decoding_parallel.py`.
    """
    decoder = vae.decoder
    hidden_states = decoder.mid_block(decoder.conv_in(vae.post_quant_conv(latents)))
    for block in decoder.up_blocks:
        hidden_states = apply_up_block(block, hidden_states, begins)
    frames = decoder.conv_out(decoder.nonlinearity(decoder.norm_out(hidden_states)))
    return frames if vae.config.patch_size is None else unpatchify(frames, vae.config.patch_size)
