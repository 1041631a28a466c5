"""The video VAE: its training, its statistics, and what it loses of held-out clips."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, WanResample
from torch import Tensor, nn

from diffusers_jova.training.codecs.codec_config import VideoStage, VideoVAEConfig
from diffusers_jova.training.codecs.codec_losses import (
    kl_divergence,
    mouth_weights,
    pixel_loss,
)
from diffusers_jova.training.codecs.timed_loop import optimise
from diffusers_jova.training.loop.muon import muon_for_kernels
from diffusers_jova.wan_clip import decode_clip, encode_clip


INITIAL_LOGVAR = -6.0
EVALUATION_BATCH = 8


@torch.no_grad()
def start_from_images(vae: AutoencoderKLWan) -> None:
    """Set the temporal weights so that what is learnt on single frames holds for clips from the first step on.

    A causal convolution sees a single frame through its last tap alone, so the other taps start at zero; merging in
    time starts as the mean of two frames and doubling as a repetition.
    """
    for module in vae.modules():
        if isinstance(module, WanCausalConv3d):
            module.weight[:, :, :-1] = 0
    for module in vae.modules():
        if isinstance(module, WanResample) and module.mode == "downsample3d":
            nn.init.dirac_(module.time_conv.weight[:, :, 2:])
            module.time_conv.weight[:, :, 1:].copy_(module.time_conv.weight[:, :, 2:].expand(-1, -1, 2, -1, -1) / 2)
            nn.init.zeros_(module.time_conv.bias)
        elif isinstance(module, WanResample) and module.mode == "upsample3d":
            for half in module.time_conv.weight.chunk(2):
                nn.init.dirac_(half[:, :, 2:])
            nn.init.zeros_(module.time_conv.bias)


def to_pixels(frames: Tensor) -> Tensor:
    """Frames uint8 [B, F, H, W, 3] as the VAE sees them: float [B, 3, F, H, W] in [-1, 1]."""
    return frames.permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def recolour(video: Tensor, share: float) -> Tensor:
    """Swap the colour channels of a share of the samples [B, 3, F, H, W] and squeeze them into a random range."""
    batch, device = len(video), video.device
    order = torch.rand(batch, 3, device=device).argsort(1)[..., None, None, None].expand_as(video)
    scale = torch.empty(batch, 3, 1, 1, 1, device=device).uniform_(0.4, 1)
    offset = torch.empty_like(scale).uniform_(-1, 1) * (1 - scale)
    chosen = torch.rand(batch, 1, 1, 1, 1, device=device) < share
    return torch.where(chosen, video.gather(1, order) * scale + offset, video)


def lay_channels_last(module: nn.Module) -> None:
    """Store the kernels of 2-D and 3-D convolutions channels-last; one call of `to` takes kernels of one rank only."""
    layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in module.parameters():
        if parameter.ndim in layouts:
            parameter.data = parameter.data.contiguous(memory_format=layouts[parameter.ndim])


@torch.no_grad()
def start_certain(vae: AutoencoderKLWan) -> None:
    """Start with small posterior variances: latents of unit noise would hide the picture from the decoder for long."""
    vae.quant_conv.bias[vae.config.z_dim :] = INITIAL_LOGVAR


def new_video_vae(config: VideoVAEConfig) -> AutoencoderKLWan:
    """Make the VAE that training begins with."""
    vae = AutoencoderKLWan(**config.model)
    start_from_images(vae)
    start_certain(vae)
    return vae


class VideoVAETraining:
    """Trains an `AutoencoderKLWan` on single frames first and on clips afterwards, or goes on with a decoder alone."""

    def __init__(
        self, config: VideoVAEConfig, frames: Tensor, mouth_boxes: Tensor, trained: AutoencoderKLWan | None = None
    ) -> None:
        """Take the clips on the device to train on.

        Args:
            config: Sizes and settings.
            frames: uint8 [N, F, H, W, 3].
            mouth_boxes: [N, P, F, 4].
            trained: The VAE whose decoder goes on; its latents stay what they are.
        """
        self.config, self.frames, self.mouth_boxes = config, frames, mouth_boxes
        self.vae = (trained or new_video_vae(config)).to(frames.device)
        if trained is not None:
            self.vae.encoder.requires_grad_(False)
            self.vae.quant_conv.requires_grad_(False)
        self.layout = torch.channels_last_3d if config.channels_last else torch.contiguous_format
        if config.channels_last:
            lay_channels_last(self.vae)
        self.modules: dict[str, nn.Module] = {"model": self.vae}
        self.optimizers: dict[str, torch.optim.Optimizer] = {"model": muon_for_kernels(self.vae)}

    def draw(self, stage: VideoStage) -> tuple[Tensor, Tensor]:
        """Draw pixels [B, 3, F, H, W] and their weights [B, 1, F, H, W]."""
        device = self.frames.device
        clip = torch.randint(len(self.frames), (stage.batch, 1), device=device)
        first = torch.randint(self.frames.shape[1] - stage.frames + 1, (stage.batch, 1), device=device)
        moment = first + torch.arange(stage.frames, device=device)
        video = recolour(to_pixels(self.frames[clip, moment]), self.config.recolour)
        boxes = self.mouth_boxes.transpose(1, 2)[clip, moment].transpose(1, 2)
        return video, mouth_weights(boxes, video.shape[-2], video.shape[-1], self.config.mouth_weight)

    def losses(self, video: Tensor, weights: Tensor) -> dict[str, Tensor]:
        """Losses of pixels [B, 3, F, H, W] under weights [B, 1, F, H, W]."""
        with torch.autocast(video.device.type, torch.bfloat16, enabled=self.config.bf16):
            posterior = encode_clip(self.vae, video.contiguous(memory_format=self.layout))
            decoded = decode_clip(self.vae, posterior.sample())
        pixel = pixel_loss(decoded, video, weights, self.config.gradient_weight)
        return {
            "pixel": pixel,
            "kl": kl_divergence(posterior),
            "psnr": psnr((decoded.detach() - video).square().mean()),
        }

    def train_step(self, step: int, progress: float) -> Mapping[str, Tensor]:
        """Take one step on the stage that `progress` falls in."""
        stage = next(stage for stage in self.config.stages if progress < stage.until)
        terms = self.losses(*self.draw(stage))
        loss = terms["pixel"] + self.config.kl_weight * terms["kl"]
        norm = optimise(list(self.optimizers.values()), loss, self.config.schedule.gradient_clip)
        return {**terms, "norm": norm}


def psnr(squared_error: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of a mean squared error between pixels in [-1, 1]."""
    return 10 * torch.log10(4 / squared_error.clamp(min=1e-10))


@torch.no_grad()
def set_video_statistics(vae: AutoencoderKLWan, frames: Tensor) -> None:
    """Write the channels' means and their common deviation over frames uint8 [N, F, H, W, 3] into the VAE's config.

    A deviation of each channel's own would whiten the latents, and most of the flow-matching loss would then go to
    detail that nobody sees.
    """
    means = torch.cat([encode_clip(vae, to_pixels(part)).mean for part in frames.split(EVALUATION_BATCH)])
    channels = means.transpose(0, 1).flatten(1).double()
    deviation = float(channels.var(1).mean().sqrt())
    vae.register_to_config(latents_mean=channels.mean(1).tolist(), latents_std=[deviation] * len(channels))


@torch.no_grad()
def measure_video_vae(vae: AutoencoderKLWan, frames: Tensor, mouth_boxes: Tensor) -> dict[str, float]:
    """PSNR in dB, everywhere and in the mouths, through the class's own methods.

    Args:
        vae: With the statistics of its latents.
        frames: uint8 [N, F, H, W, 3].
        mouth_boxes: xyxy in pixels, NaN for no mouth, [N, P, F, 4].
    """
    errors, mouths, deviation = [], [], []
    for part, boxes in zip(frames.split(EVALUATION_BATCH), mouth_boxes.split(EVALUATION_BATCH), strict=True):
        video = to_pixels(part)
        posterior = vae.encode(video).latent_dist
        error = (vae.decode(posterior.mode()).sample - video).square()
        inside = mouth_weights(boxes, video.shape[-2], video.shape[-1], 0.0) == 0  # [B, 1, F, H, W]
        errors.append(error.mean())
        mouths.append(error[inside.expand_as(error)])
        deviation.append(posterior.std.mean())
    scale = torch.tensor(vae.config.latents_std).mean()
    return {
        "psnr_db": float(psnr(torch.stack(errors).mean())),
        "mouth_psnr_db": float(psnr(torch.cat(mouths).mean())),
        "posterior_std_over_latents_std": float(torch.stack(deviation).mean().cpu() / scale),
    }
