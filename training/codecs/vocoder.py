"""The vocoder: its training against judges, and how near its sounds come to the spectra that they are made from."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from diffusers import MMAudioVAE
from diffusers.pipelines.ltx2 import LTX2Vocoder
from torch import Tensor, nn

from diffusers_jova.training.codecs.audio_vae import EVALUATION_BATCH, MEL_FLOOR, draw_waveforms
from diffusers_jova.training.codecs.codec_config import VocoderConfig
from diffusers_jova.training.codecs.codec_losses import (
    adversarial_loss,
    discriminator_loss,
    feature_matching_loss,
    stft_loss,
)
from diffusers_jova.training.codecs.discriminators import Discriminators
from diffusers_jova.training.codecs.timed_loop import adamw, optimise
from diffusers_jova.training.loop.muon import muon_for_kernels


TRAINED_MEL_FLOOR = -7.0  # 61 dB below magnitude 1: errors below it would rule the gradient, being the steepest


def vocode(vocoder: LTX2Vocoder, mel: Tensor) -> Tensor:
    """Turn log-mel spectrograms [B, M, T] into waveforms [B, samples]."""
    return vocoder(mel[:, None], time_last=True)[:, 0]


class VocoderTraining:
    """Trains an `LTX2Vocoder` on true mels, then on decoded ones as well; from some point on, judges listen."""

    def __init__(self, config: VocoderConfig, audio_vae: MMAudioVAE, waveforms: Tensor) -> None:
        """Take a trained audio VAE and sound int16 [N, samples], both on the device to train on."""
        self.config, self.audio_vae, self.waveforms = config, audio_vae, waveforms
        self.vocoder = LTX2Vocoder(**config.model).to(waveforms.device)
        self.discriminators = Discriminators(config.discriminator_width).to(waveforms.device)
        self.modules: dict[str, nn.Module] = {"model": self.vocoder, "discriminators": self.discriminators}
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "model": muon_for_kernels(self.vocoder),
            "discriminators": adamw(self.discriminators, betas=(0.8, 0.99)),
        }

    @torch.no_grad()
    def draw(self, progress: float) -> tuple[Tensor, Tensor]:
        """Draw segments: log-mel [B, M, T] and the waveform [B, samples] that belongs to it."""
        waveform = draw_waveforms(self.waveforms, self.config.batch)
        mel = self.audio_vae.mel_converter(waveform)
        if progress >= self.config.decoded_from:
            half = self.config.batch // 2
            mel[:half] = self.audio_vae.decode(self.audio_vae.encode(waveform[:half]).latent_dist.sample()).sample
        length, hop = self.config.segment_frames, self.audio_vae.config.hop_length
        first = torch.randint(mel.shape[2] - length + 1, (len(mel), 1), device=mel.device)
        frames = first + torch.arange(length, device=mel.device)
        samples = first * hop + torch.arange(length * hop, device=mel.device)
        return mel.gather(2, frames[:, None].expand(-1, mel.shape[1], -1)), waveform.gather(1, samples)

    def losses(self, mel: Tensor, waveform: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Generate [B, samples] from a mel [B, M, T] and compare with the true waveform."""
        generated = vocode(self.vocoder, mel)
        mels = [self.audio_vae.mel_converter(sound).clamp(min=TRAINED_MEL_FLOOR) for sound in (generated, waveform)]
        spectra = stft_loss(generated, waveform, self.config.convergence_weight)
        return generated, {"mel": F.l1_loss(*mels), "stft": spectra}

    def train_step(self, step: int, progress: float) -> Mapping[str, Tensor]:
        """Take one step of the vocoder, and one of the judges once they take part."""
        config = self.config
        mel, waveform = self.draw(progress)
        generated, terms = self.losses(mel, waveform)
        loss = config.mel_weight * terms["mel"] + config.stft_weight * terms["stft"]
        if progress >= config.judged_from:
            terms["judge"] = self._train_judges(waveform, generated.detach())
            _, true_features = self.discriminators(waveform)
            scores, features = self.discriminators(generated)
            terms["adversarial"] = adversarial_loss(scores)
            terms["features"] = feature_matching_loss(true_features, features)
            loss = loss + terms["adversarial"] + config.feature_weight * terms["features"]
        terms["norm"] = optimise([self.optimizers["model"]], loss, 10 * config.schedule.gradient_clip)
        return terms

    def _train_judges(self, waveform: Tensor, generated: Tensor) -> Tensor:
        real, _ = self.discriminators(waveform)
        fake, _ = self.discriminators(generated)
        loss = discriminator_loss(real, fake)
        optimise([self.optimizers["discriminators"]], loss, 10 * self.config.schedule.gradient_clip)
        return loss.detach()


@torch.no_grad()
def measure_vocoder(vocoder: LTX2Vocoder, audio_vae: MMAudioVAE, waveforms: Tensor) -> dict[str, float]:
    """Absolute error, in nats, of the log-mel of vocoded sound against that of waveforms [N, samples]."""
    mel = audio_vae.mel_converter(waveforms)
    decoded = audio_vae.decode(audio_vae.encode(waveforms).latent_dist.mode()).sample
    true = mel.clamp(min=MEL_FLOOR)
    errors = {}
    for name, spectrum in (("from_true_mel", mel), ("from_decoded_mel", decoded)):
        sound = torch.cat([vocode(vocoder, part) for part in spectrum.split(EVALUATION_BATCH)])
        error = (audio_vae.mel_converter(sound).clamp(min=MEL_FLOOR) - true).abs()
        errors[f"mel_l1_{name}"] = float(error.mean())
        errors[f"mel_l1_above_floor_{name}"] = float(error[true > MEL_FLOOR].mean())
    return errors
