"""The audio VAE: its training, its statistics, and what it loses of held-out sounds."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from diffusers import MMAudioVAE
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor, nn

from diffusers_jova.training.codecs.codec_config import AudioVAEConfig
from diffusers_jova.training.codecs.codec_losses import (
    kl_divergence,
    mel_loss,
)
from diffusers_jova.training.codecs.timed_loop import optimise
from diffusers_jova.training.loop.muon import muon_for_kernels


MEL_FLOOR = -9.2  # ln 1e-4: below it, the vocoder's error is silence compared with silence
STATISTICS_CLIPS = 512
EVALUATION_BATCH = 8


def draw_waveforms(waveforms: Tensor, batch: int) -> Tensor:
    """Draw sound int16 [N, samples] as float [B, samples], shifted in time and between -10 and +2 dB."""
    device, length = waveforms.device, waveforms.shape[1]
    clip = torch.randint(len(waveforms), (batch, 1), device=device)
    shift = torch.randint(length, (batch, 1), device=device)
    chosen = waveforms[clip, (torch.arange(length, device=device) + shift) % length].float() / 32767
    return (chosen * 10 ** torch.empty(batch, 1, device=device).uniform_(-0.5, 0.1)).clamp(-1, 1)


@torch.no_grad()
def start_audio_vae(vae: MMAudioVAE, waveforms: Tensor) -> None:
    """Set the mel statistics from waveforms [N, samples]; give every kernel row the unit norm the class counts on."""
    mel = vae.mel_converter(waveforms)
    vae.vae.data_mean.copy_(mel.mean((0, 2))[None, :, None])
    vae.vae.data_std.copy_(mel.std((0, 2))[None, :, None].clamp(min=0.1))
    for parameter in vae.vae.parameters():
        if parameter.ndim == 3:
            nn.init.normal_(parameter)
            parameter.div_(parameter.flatten(1).norm(dim=1)[:, None, None])


class AudioVAETraining:
    """Trains an `MMAudioVAE` on log-mel spectrograms; its kernels are used as they are stored, nothing is folded."""

    def __init__(self, config: AudioVAEConfig, waveforms: Tensor) -> None:
        """Take sound int16 [N, samples] on the device to train on."""
        self.config, self.waveforms = config, waveforms
        self.vae = MMAudioVAE(**config.model).to(waveforms.device)
        start_audio_vae(self.vae, waveforms[:STATISTICS_CLIPS].float() / 32767)
        self.modules: dict[str, nn.Module] = {"model": self.vae}
        self.optimizers: dict[str, torch.optim.Optimizer] = {"model": muon_for_kernels(self.vae)}

    def losses(self, waveform: Tensor) -> dict[str, Tensor]:
        """Losses of waveforms [B, samples], in deviations of each mel bin."""
        network = self.vae.vae
        mel = self.vae.mel_converter(waveform)
        posterior = DiagonalGaussianDistribution(network.encode(mel))
        decoded = network.decode(posterior.sample())
        error = mel_loss(decoded / network.data_std, mel / network.data_std, self.config.gradient_weight)
        return {"mel": error, "kl": kl_divergence(posterior), "l1": (decoded.detach() - mel).abs().mean()}

    def train_step(self, step: int, progress: float) -> Mapping[str, Tensor]:
        """Take one step."""
        terms = self.losses(draw_waveforms(self.waveforms, self.config.batch))
        loss = terms["mel"] + self.config.kl_weight * terms["kl"]
        norm = optimise(list(self.optimizers.values()), loss, self.config.schedule.gradient_clip)
        return {**terms, "norm": norm}


@torch.no_grad()
def set_audio_statistics(vae: MMAudioVAE, waveforms: Tensor) -> None:
    """Write 1 / deviation of the latents of waveforms [N, samples] into the VAE's config as `scaling_factor`."""
    means = vae.encode(waveforms).latent_dist.mean
    vae.register_to_config(scaling_factor=1 / float(means.double().std()))


@torch.no_grad()
def measure_audio_vae(vae: MMAudioVAE, waveforms: Tensor) -> dict[str, float]:
    """Absolute error, in nats, of the decoded log-mel of waveforms [N, samples]."""
    mel = vae.mel_converter(waveforms)
    posterior = vae.encode(waveforms).latent_dist
    error = (vae.decode(posterior.mode()).sample - mel).abs()
    return {
        "mel_l1": float(error.mean()),
        "mel_l1_above_floor": float(error[mel > MEL_FLOOR].mean()),
        "posterior_std_over_latents_std": float(posterior.std.mean()) * vae.config.scaling_factor,
    }
