"""Train the small components of a model from scratch on synthetic clips: video VAE, audio VAE, vocoder, text encoder.

    python -m diffusers_jova.training.codecs.train_codecs --config training/configs/codecs_tiny.yaml --output DIR

makes the clips once (13 to 16 ms per clip and core), then trains; `all` runs three chains side by side: the video VAE,
the audio VAE followed by the vocoder, and the text encoder. Each component ends when the minutes or steps of its
schedule are spent, so the time of a run is what the config says.
Started again, a command continues from its checkpoints and leaves finished components alone.

Written are library classes in bfloat16, `vae`, `audio_vae`, `vocoder`, `text_encoder`, `tokenizer`, and in each folder
a `report.json` measured on held-out clips with the weights as they were saved.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan, MMAudioVAE
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.pipelines.ltx2 import LTX2Vocoder
from torch import Tensor, nn

from diffusers_jova.drawn.corpus import HELD_OUT_SEED, make_shards, make_shards_aside, read_array
from diffusers_jova.origin import OriginError, check_origin, digest_components
from diffusers_jova.training.codecs.codec_config import (
    AudioVAEConfig,
    CodecsConfig,
    VideoDecoderConfig,
    VideoStage,
    VideoVAEConfig,
    VocoderConfig,
    component_settings,
    load_config,
)
from diffusers_jova.training.codecs.codec_losses import (
    adversarial_loss,
    discriminator_loss,
    feature_matching_loss,
    kl_divergence,
    mel_loss,
    mouth_weights,
    pixel_loss,
    stft_loss,
)
from diffusers_jova.training.codecs.discriminators import Discriminators
from diffusers_jova.training.codecs.timed_loop import adamw, decisive_settings, optimise, run
from diffusers_jova.training.codecs.train_text_encoder import train_text_encoder
from diffusers_jova.training.codecs.wan_clip import decode_clip, encode_clip, start_from_images
from diffusers_jova.training.loop.muon import muon_for_kernels
from diffusers_jova.whole_files import FullDiskError, write_json
from jova_cli.parser import Parser, one_line


MEL_FLOOR = -9.2  # ln 1e-4: below it, the vocoder's error is silence compared with silence
TRAINED_MEL_FLOOR = -7.0  # 61 dB below magnitude 1: errors below it would rule the gradient, being the steepest
CHAINS = (("video_vae",), ("audio_vae", "vocoder"), ("text_encoder",))  # side by side; each in its own process
FOLDERS = {"video_vae": "vae", "audio_vae": "audio_vae", "vocoder": "vocoder", "text_encoder": "text_encoder"}
INITIAL_LOGVAR = -6.0
STATISTICS_CLIPS = 512
EVALUATION_BATCH = 8


# 1. Video VAE


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


# 2. Audio VAE


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


# 3. Vocoder


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


# 4. Components, from clips to folders


def save_rounded(model: Any, folder: Path) -> Any:
    """Save parameters in bfloat16 and buffers as they are; returns the model as it will be loaded, in float32.

    Buffers are filters and statistics: rounding them would move every spectrogram for the sake of a few kilobytes.
    """
    device = next(model.parameters()).device
    for parameter in model.parameters():
        parameter.data = parameter.data.contiguous().to(torch.bfloat16)
    model.save_pretrained(folder)
    return type(model).from_pretrained(folder).eval().to(device)


def digest(module: nn.Module) -> str:
    """Digest the weights of a module: other weights, another text."""
    weights = (value.detach().cpu().contiguous().numpy().tobytes() for value in module.state_dict().values())
    return hashlib.sha256(b"".join(weights)).hexdigest()[:16]


def is_finished(name: str, config: CodecsConfig, output: Path) -> bool:
    """Whether a component is complete: its report is written last.

    Raises:
        OriginError: If it was made with other settings; one whose report names none counts as made with these.
    """
    report = output / FOLDERS[name] / "report.json"
    if not report.exists():
        return False
    found = json.loads(report.read_text()).get("settings", {})
    if found:
        check_origin(found, component_settings(name, config, output / FOLDERS["audio_vae"]), report.parent)
    return True


class Workshop:
    """Where components are made: config, clips, output folder and device.

    Args:
        config: Clips, sizes and schedules.
        corpus: Folder of the clips, which are made unless they are there.
        output: Folder for the components and their checkpoints.
        processes: Processes that make clips.
    """

    def __init__(self, config: CodecsConfig, corpus: Path, output: Path, processes: int) -> None:
        self.config, self.output, self.audio_vae = config, output, output / FOLDERS["audio_vae"]
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.backends.cuda.matmul.allow_tf32 = config.tf32
        torch.backends.cudnn.allow_tf32 = config.tf32
        torch.backends.cudnn.benchmark = True
        held_out = range(HELD_OUT_SEED, HELD_OUT_SEED + config.corpus.held_out)
        if processes > 1:
            make_shards_aside(corpus, range(config.corpus.clips), processes, config.corpus.speech)
        self.shards = make_shards(corpus, range(config.corpus.clips), speech=config.corpus.speech)
        self.held_out_shards = make_shards(corpus, held_out, speech=config.corpus.speech)

    def frames(self, shards: Sequence[Path]) -> tuple[Tensor, Tensor]:
        """Frames uint8 [N, F, H, W, 3] and mouth boxes [N, P, F, 4] of all clips, on the device."""
        boxes = torch.from_numpy(read_array(shards, "mouth_boxes"))
        return torch.from_numpy(read_array(shards, "frames")).to(self.device), boxes.to(self.device)

    def waveforms(self, shards: Sequence[Path]) -> Tensor:
        """Sound int16 [N, samples] of all clips, on the device."""
        return (torch.from_numpy(read_array(shards, "waveforms")) * 32767).round().short().to(self.device)

    def held_out_waveforms(self) -> Tensor:
        """Held-out sound, float [N, samples], on the device."""
        return self.waveforms(self.held_out_shards).float() / 32767

    def train(self, name: str, training: Any, **origin: str) -> dict[str, Any]:
        """Run a training to the end of its schedule; returns steps, seconds and last losses.

        Args:
            name: Of the checkpoint.
            training: With a `config`.
            origin: What else a checkpoint must have been made from to be continued.
        """
        config = training.config
        settings = {**decisive_settings(config), **origin}
        print(f"{name}: {sum(p.numel() for p in training.modules['model'].parameters()):,} parameters", flush=True)
        return run(training, config.schedule, self.output / "checkpoints" / f"{name}.safetensors", settings)

    def make_video_vae(self, folder: Path) -> dict[str, Any]:
        """Train, measure and save the video VAE."""
        training = VideoVAETraining(self.config.video_vae, *self.frames(self.shards))
        report = self.train("video_vae", training)
        set_video_statistics(training.vae, training.frames[:STATISTICS_CLIPS])
        held_out = self.frames(self.held_out_shards)
        if self.config.video_decoder is not None:
            report["before_decoder"] = measure_video_vae(training.vae, *held_out)
            report["decoder"] = self.go_on_with_decoder(self.config.video_decoder, training)
        vae = save_rounded(training.vae, folder)
        return {**report, "held_out": measure_video_vae(vae, *held_out)}

    def go_on_with_decoder(self, config: VideoDecoderConfig, training: VideoVAETraining) -> dict[str, Any]:
        """Train the decoder of a trained video VAE on whole clips."""
        stage = VideoStage(until=1.0, frames=training.frames.shape[1], batch=config.batch)
        settings = replace(
            training.config, schedule=config.schedule, stages=(stage,), mouth_weight=config.mouth_weight
        )
        decoder = VideoVAETraining(settings, training.frames, training.mouth_boxes, training.vae)
        return self.train("video_decoder", decoder, encoder=digest(training.vae.encoder))

    def make_audio_vae(self, folder: Path) -> dict[str, Any]:
        """Train, measure and save the audio VAE."""
        training = AudioVAETraining(self.config.audio_vae, self.waveforms(self.shards))
        report = self.train("audio_vae", training)
        set_audio_statistics(training.vae, training.waveforms[:STATISTICS_CLIPS].float() / 32767)
        vae = save_rounded(training.vae, folder)
        return {**report, "held_out": measure_audio_vae(vae, self.held_out_waveforms())}

    def make_vocoder(self, folder: Path) -> dict[str, Any]:
        """Train, measure and save the vocoder; the audio VAE has to be there."""
        audio_vae = MMAudioVAE.from_pretrained(self.audio_vae).eval().to(self.device)
        training = VocoderTraining(self.config.vocoder, audio_vae, self.waveforms(self.shards))
        report = self.train("vocoder", training, audio_vae=digest_components([self.audio_vae]))
        vocoder = save_rounded(training.vocoder, folder)
        return {**report, "held_out": measure_vocoder(vocoder, audio_vae, self.held_out_waveforms())}

    def make_text_encoder(self, folder: Path) -> dict[str, Any]:
        """Train, measure and save tokenizer and text encoder."""
        captions, held_out = (
            [str(caption) for caption in read_array(shards, "captions")]
            for shards in (self.shards, self.held_out_shards)
        )
        checkpoint = self.output / "checkpoints" / "text_encoder.safetensors"
        return train_text_encoder(self.config.text_encoder, captions, held_out, folder, checkpoint, self.device)

    def make(self, name: str) -> None:
        """Make one component unless it is finished, and write its report last: a folder with a report is complete."""
        folder = self.output / FOLDERS[name]
        if is_finished(name, self.config, self.output):
            print(f"{name} is finished: {folder}")
            return
        makers: dict[str, Callable[[Path], dict[str, Any]]] = {
            "video_vae": self.make_video_vae,
            "audio_vae": self.make_audio_vae,
            "vocoder": self.make_vocoder,
            "text_encoder": self.make_text_encoder,
        }
        report = {**makers[name](folder), "settings": component_settings(name, self.config, self.audio_vae)}
        report["megabytes"] = round(sum(f.stat().st_size for f in folder.glob("*.safetensors")) / 1e6, 2)
        if self.device.type == "cuda":
            report["gpu"] = torch.cuda.get_device_name()
            report["peak_gigabytes"] = round(torch.cuda.max_memory_allocated() / 1e9, 1)
        print(f"{name}: {json.dumps({key: value for key, value in report.items() if key != 'settings'})}", flush=True)
        write_json(folder / "report.json", report)


def run_chains(arguments: Sequence[str]) -> int:
    """Start every chain in its own process; returns 0 if all of them ended well."""
    command = [sys.executable, "-m", "diffusers_jova.training.codecs.train_codecs", *arguments, "--component"]
    running = [subprocess.Popen([*command, ",".join(chain)]) for chain in CHAINS]
    return max(abs(process.wait()) for process in running)


def main(argv: Sequence[str] | None = None) -> None:
    """Train what `--component` names."""
    parser = Parser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="YAML file, see configs/codecs_tiny.yaml")
    parser.add_argument("--output", type=Path, required=True, help="folder for the components and their checkpoints")
    parser.add_argument("--corpus", type=Path, help="folder for the clips; OUTPUT/corpus if not given")
    parser.add_argument("--component", default="all", help=f"all, or some of {', '.join(FOLDERS)}, joined by commas")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="processes that make clips")
    args = parser.parse_args(argv)
    names = list(FOLDERS) if args.component == "all" else args.component.split(",")
    if unknown := [name for name in names if name not in FOLDERS]:
        parser.error(f"`--component` must be all or some of {', '.join(FOLDERS)}, got {', '.join(unknown)}")
    corpus = args.corpus or args.output / "corpus"
    try:
        config = load_config(args.config)
        for name in names:
            is_finished(name, config, args.output)  # refuses one of other settings before anything is made
        workshop = Workshop(config, corpus, args.output, args.processes)
    except (OSError, ValueError) as error:
        parser.error(one_line(error))
    if args.component == "all":
        places = ["--config", str(args.config), "--output", str(args.output), "--corpus", str(corpus)]
        sys.exit(run_chains([*places, "--processes", "1"]))  # the clips are there
    try:
        for name in names:
            workshop.make(name)
    except (OriginError, FloatingPointError, FullDiskError) as error:
        parser.error(one_line(error))


if __name__ == "__main__":
    main()
