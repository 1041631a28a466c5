"""Waveform to latents and back: the only view that the pipeline and the training have of an audio VAE and its vocoder.

Two families of audio VAE exist in diffusers. `MMAudioVAE` takes a waveform and speaks [B, C, L];
`AutoencoderKLLTX2Audio` takes a log-mel spectrogram and speaks [B, C, L, M'], normalised per channel. Which one is at
hand is decided by what its config offers, never by a class or a checkpoint. The transformer sees [B, L, C] from both.

Letters: B batch, C latent channels, L latents, S samples, T mel frames, M mel bins.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from transformers.audio_utils import mel_filter_bank

from .media import resample
from .number_arguments import positive_number, whole_number


MEL_FLOOR = 1e-5
SPECTROGRAM_FFT_LENGTH = 1024  # of the LTX-2 front end; no config holds it
RESAMPLER_REACH_SAMPLES = 7  # of the windowed sinc that carries the bandwidth extension's skip path


class JoVAAudioCodec:
    """An audio VAE with its vocoder, as sound in and sound out.

    Both networks run in their own dtype and are called through their public methods only, so that every kind of
    offloading works. Vocoding goes through chunks that overlap by the vocoder's structural reach: the result is that
    of the whole, to round-off, and long sound does not need long memory.

    Args:
        audio_vae: `MMAudioVAE` or `AutoencoderKLLTX2Audio`.
        vocoder: The vocoder that belongs to it: `MMAudioVocoder`, `LTX2Vocoder` or `LTX2VocoderWithBWE`.
        chunk_mel_frames: Mel frames that are vocoded at once, overlap not counted.

    Raises:
        ValueError: If the vocoder does not fit the VAE.
    """

    def __init__(self, audio_vae: Any, vocoder: Any, chunk_mel_frames: int = 512) -> None:
        self._vae: _AudioVAE = (
            _SpectrogramVAE(audio_vae) if "mel_hop_length" in audio_vae.config else _WaveformVAE(audio_vae)
        )
        self._vocoder = _Vocoder(vocoder)
        self._chunk_mel_frames = whole_number("chunk_mel_frames", chunk_mel_frames, least=1)
        self._check_that_both_fit()

    @property
    def latent_rate_hz(self) -> float:
        """Latents per second."""
        return self._vae.sampling_rate / (self._vae.hop_length_samples * self._vae.mel_frames_per_latent)

    @property
    def latent_channels(self) -> int:
        """Width of one latent as the transformer sees it."""
        return self._vae.latent_channels

    @property
    def sampling_rate(self) -> int:
        """Samples per second of the waveform, in and out."""
        rate = self._vae.sampling_rate * self._vocoder.hop_length_samples / self._vae.hop_length_samples
        return round(rate)

    @property
    def num_channels(self) -> int:
        """Channels of the waveform: 1 is mono, 2 is stereo."""
        return self._vocoder.num_channels

    def num_latents_for(self, duration_s: float) -> int:
        """Number of latents whose duration is nearest to ``duration_s`` seconds, at least 1."""
        duration_s = positive_number("duration_s", duration_s, "use 5.0, say")
        return max(1, math.floor(duration_s * self.latent_rate_hz + 0.5))

    def num_samples_for(self, num_latents: int) -> int:
        """Number of samples that ``num_latents`` decode to, and that encode to ``num_latents``."""
        return self._vae.num_mel_frames_for(num_latents) * self._vocoder.hop_length_samples

    def encode(self, waveform: Tensor) -> Tensor:
        """Encode sound to the mean of its posterior, scaled as the transformer sees it.

        Args:
            waveform: Float [B, num_channels, S] in [-1, 1] at `sampling_rate`.

        Returns:
            Latents [B, L, C], float32. A remainder shorter than one latent is dropped.

        Raises:
            ValueError: For another shape, or sound too short for one latent.
        """
        if waveform.ndim != 3 or waveform.shape[1] != self.num_channels:
            raise ValueError(
                f"`waveform` must have the shape [B, {self.num_channels}, S], got {list(waveform.shape)}; "
                "`media.mix_channels` changes the number of channels"
            )
        waveform = _resample(waveform.float(), self.sampling_rate, self._vae.sampling_rate)
        if waveform.shape[2] < self._vae.min_num_samples:
            min_s, duration_s = (
                samples / self._vae.sampling_rate for samples in (self._vae.min_num_samples, waveform.shape[2])
            )
            raise ValueError(f"`waveform` must last at least {min_s:.4f} s, got {duration_s:.4f} s; use longer sound")
        return self._vae.encode(waveform).float()

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents to sound.

        Args:
            latents: [B, L, C], scaled as the transformer sees them.

        Returns:
            Waveform [B, num_channels, num_samples_for(L)] at `sampling_rate`, float32.

        Raises:
            ValueError: For another shape.
        """
        if latents.ndim != 3 or latents.shape[2] != self.latent_channels or latents.shape[1] == 0:
            raise ValueError(
                f"`latents` must have the shape [B, L, {self.latent_channels}], got {list(latents.shape)}; "
                "decode with the codec that the latents were made with"
            )
        return self._vocode(self._vae.decode(latents)).float()

    def _vocode(self, mel: Tensor) -> Tensor:
        """Log-mel [B, channels, T, M] to waveform [B, num_channels, T * hop], chunk by chunk."""
        num_mel_frames, hop, reach = mel.shape[2], self._vocoder.hop_length_samples, self._vocoder.reach_mel_frames
        pieces = []
        for start in range(0, num_mel_frames, self._chunk_mel_frames):
            stop = min(start + self._chunk_mel_frames, num_mel_frames)
            # A true end of the sound gets no overlap: there the network's own padding belongs.
            first, last = max(start - reach, 0), min(stop + reach, num_mel_frames)
            waveform = self._vocoder(mel[:, :, first:last])
            pieces.append(waveform[..., (start - first) * hop : (stop - first) * hop])
        return torch.cat(pieces, dim=-1)

    def _check_that_both_fit(self) -> None:
        vae, vocoder = self._vae, self._vocoder
        for name, wanted, got in (
            # A vocoder that names no rate keeps that of the VAE.
            ("vocoder.sampling_rate", self.sampling_rate, vocoder.sampling_rate or vae.sampling_rate),
            ("vocoder.num_mel_bins", vae.num_mel_bins, vocoder.num_mel_bins),
            ("vocoder.num_channels", vae.num_channels, vocoder.num_channels),
        ):
            if got != wanted:
                raise ValueError(
                    f"`{name}` must be {wanted} to fit `audio_vae`, got {got}; load the vocoder of this audio VAE"
                )


# --- audio VAEs ---


class _AudioVAE(Protocol):
    """What the codec asks of an audio VAE; samples and rates are those of the VAE's own input."""

    sampling_rate: int
    hop_length_samples: int
    mel_frames_per_latent: int
    num_mel_bins: int  # of all channels together
    num_channels: int
    latent_channels: int
    min_num_samples: int

    def num_mel_frames_for(self, num_latents: int) -> int: ...
    def encode(self, waveform: Tensor) -> Tensor: ...
    def decode(self, latents: Tensor) -> Tensor: ...


class _WaveformVAE:
    """Mono waveform in, latents [B, C, L], log-mel [B, M, T] out; scaled by one factor."""

    num_channels = 1

    def __init__(self, module: Any) -> None:
        config = module.config
        self.module = module
        self.sampling_rate: int = config.sample_rate
        self.hop_length_samples: int = config.hop_length
        self.mel_frames_per_latent: int = module.latent_hop_length // config.hop_length
        self.num_mel_bins: int = config.mel_bins
        self.latent_channels: int = config.latent_channels
        reflected = (config.n_fft - config.hop_length) // 2  # a reflection must be shorter than what it reflects
        self.min_num_samples: int = max(module.latent_hop_length, reflected + 1)

    def num_mel_frames_for(self, num_latents: int) -> int:
        return num_latents * self.mel_frames_per_latent

    def encode(self, waveform: Tensor) -> Tensor:
        with _in_float32(self.module):  # the mel front end has no half precision FFT
            posterior = self.module.encode(waveform.squeeze(1), return_dict=False)[0]
        return posterior.mode().transpose(1, 2) * self.module.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        latents = (latents.float() / self.module.config.scaling_factor).transpose(1, 2)
        mel = self.module.decode(latents.to(self.module.dtype), return_dict=False)[0]
        return mel.transpose(1, 2).unsqueeze(1)


class _SpectrogramVAE:
    """Log-mel [B, channels, T, M] in and out, latents [B, C, L, M / 4] packed to [B, L, C * M / 4]; causal in time."""

    def __init__(self, module: Any) -> None:
        config = module.config
        self.module = module
        self.sampling_rate: int = config.sample_rate
        self.hop_length_samples: int = config.mel_hop_length
        self.mel_frames_per_latent: int = module.temporal_compression_ratio
        self.num_mel_bins: int = config.mel_bins * config.output_channels
        self.num_channels: int = config.in_channels
        self.latent_channels: int = config.latent_channels * config.mel_bins // module.mel_compression_ratio
        self.min_num_samples: int = SPECTROGRAM_FFT_LENGTH // 2 + 1  # for the reflection

    def num_mel_frames_for(self, num_latents: int) -> int:
        # Causal: the first latent holds one mel frame.
        return (num_latents - 1) * self.mel_frames_per_latent + 1

    def encode(self, waveform: Tensor) -> Tensor:
        mel = _log_mel(waveform, self.sampling_rate, self.hop_length_samples, self.module.config.mel_bins)
        posterior = self.module.encode(mel.to(self.module.dtype), return_dict=False)[0]
        latents = posterior.mode().float().transpose(1, 2).flatten(2)  # [B, L, C * M / 4]
        latents_mean, latents_std = self._statistics(latents)
        return (latents - latents_mean) / latents_std

    def decode(self, latents: Tensor) -> Tensor:
        latents_mean, latents_std = self._statistics(latents)
        latents = latents.float() * latents_std + latents_mean
        latents = latents.unflatten(2, (self.module.config.latent_channels, -1)).transpose(1, 2)
        return self.module.decode(latents.to(self.module.dtype), return_dict=False)[0]

    def _statistics(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        return tuple(x.to(latents.device, torch.float32) for x in (self.module.latents_mean, self.module.latents_std))


@contextmanager
def _in_float32(module: Any) -> Iterator[None]:
    """Run a module in float32, and give it its dtype back; widening and narrowing again changes no weight."""
    dtype = module.dtype
    if dtype == torch.float32:
        yield
        return
    nn.Module.to(module, torch.float32)  # not ModelMixin's own `to`, which warns at every change of dtype
    try:
        yield
    finally:
        nn.Module.to(module, dtype)


def _log_mel(waveform: Tensor, sampling_rate: int, hop_length_samples: int, num_mel_bins: int) -> Tensor:
    """Natural log of the Slaney mel magnitudes, frames centred on the multiples of the hop.

    Args:
        waveform: Float32 [B, channels, S].
        sampling_rate: Samples per second.
        hop_length_samples: Samples between two frames.
        num_mel_bins: M.

    Returns:
        [B, channels, 1 + S // hop, M].
    """
    length = SPECTROGRAM_FFT_LENGTH
    spectrum = torch.stft(
        waveform.flatten(0, 1),
        length,
        hop_length=hop_length_samples,
        window=torch.hann_window(length, device=waveform.device),
        center=True,
        pad_mode="reflect",
        return_complex=True,
    )
    filters = mel_filter_bank(
        num_frequency_bins=length // 2 + 1,
        num_mel_filters=num_mel_bins,
        min_frequency=0.0,
        max_frequency=sampling_rate / 2,
        sampling_rate=sampling_rate,
        norm="slaney",
        mel_scale="slaney",
    )  # [frequencies, M]
    magnitudes = spectrum.abs().transpose(1, 2).unflatten(0, waveform.shape[:2])
    mel = magnitudes @ torch.from_numpy(filters.astype(np.float32)).to(waveform.device)
    return mel.clamp(min=MEL_FLOOR).log()


def _resample(waveform: Tensor, sampling_rate: int, target_rate: int) -> Tensor:
    if sampling_rate == target_rate:
        return waveform
    return torch.from_numpy(resample(waveform.cpu().numpy(), sampling_rate, target_rate)).to(waveform.device)


# --- vocoders ---


class _Vocoder:
    """Log-mel [B, channels, T, M] to waveform [B, num_channels, T * hop_length_samples]."""

    def __init__(self, module: Any) -> None:
        config = module.config
        self.module = module
        self.takes_one_mel = "num_mels" in config  # [B, M, T]; the others take [B, channels, T, M]
        self.num_mel_bins: int = config.num_mels if self.takes_one_mel else config.in_channels
        self.sampling_rate: int | None = config.get("output_sampling_rate")
        extends_bandwidth = "bwe_out_channels" in config
        self.num_channels: int = config.get("bwe_out_channels" if extends_bandwidth else "out_channels", 1)
        self.hop_length_samples: int = math.prod(_Generator.from_config(config).factors)
        if extends_bandwidth:
            self.hop_length_samples *= config.output_sampling_rate // config.input_sampling_rate
        self.reach_mel_frames: int = _reach_mel_frames(config)

    def __call__(self, mel: Tensor) -> Tensor:
        mel = mel.to(self.module.dtype)
        if self.takes_one_mel:
            return self.module(mel.squeeze(1).transpose(1, 2), return_dict=False)[0]
        return self.module(mel)


@dataclass(frozen=True)
class _Generator:
    """The kernels of a HiFi-GAN-like generator, enough to know what each output sample depends on."""

    factors: Sequence[int]
    kernel_sizes: Sequence[int]
    resnet_kernel_sizes: Sequence[int]
    resnet_dilations: Sequence[Sequence[int]]
    activation_reach: int  # frames to each side of one (anti-aliased) activation
    last_activation_reach: int

    @classmethod
    def from_config(cls, config: Mapping[str, Any], prefix: str = "") -> "_Generator":
        if "upsample_rates" in config:  # BigVGAN's own names; always anti-aliased, by 2 with 12 taps
            names = ["upsample_rates", "upsample_kernel_sizes", "resblock_kernel_sizes", "resblock_dilation_sizes"]
            inner_reach = last_reach = _antialias_reach(2, 12)
        else:
            suffixes = ("upsample_factors", "upsample_kernel_sizes", "resnet_kernel_sizes", "resnet_dilations")
            names = [prefix + suffix for suffix in suffixes]
            reach = _antialias_reach(config[f"{prefix}antialias_ratio"], config[f"{prefix}antialias_kernel_size"])
            inner_reach = reach if config[f"{prefix}antialias"] else 0
            last_reach = 0 if config[f"{prefix}act_fn"] == "leaky_relu" else reach
        factors, kernel_sizes, resnet_kernel_sizes, resnet_dilations = (config[name] for name in names)
        return cls(factors, kernel_sizes, resnet_kernel_sizes, resnet_dilations, inner_reach, last_reach)

    def input_interval(self, low: int, high: int) -> tuple[int, int]:
        """First and last mel frame that the output samples ``low`` to ``high`` depend on."""
        margin = 3 + self.last_activation_reach  # the last convolution has 7 taps
        resnet_reach = max(map(self._resnet_reach, self.resnet_kernel_sizes, self.resnet_dilations))
        for factor, kernel_size in zip(reversed(self.factors), reversed(self.kernel_sizes), strict=True):
            low, high = low - margin - resnet_reach, high + margin + resnet_reach
            padding = (kernel_size - factor) // 2
            low, high = -((kernel_size - 1 - padding - low) // factor), (high + padding) // factor
            margin = 0
        return low - 3, high + 3  # the first convolution has 7 taps

    def _resnet_reach(self, kernel_size: int, dilations: Sequence[int]) -> int:
        per_layer = 2 * self.activation_reach + kernel_size // 2  # two activations and an undilated convolution
        return sum(per_layer + kernel_size // 2 * dilation for dilation in dilations)


def _antialias_reach(ratio: int, kernel_size: int) -> int:
    """Frames to each side that up-sampling, an activation and down-sampling mix."""
    return (kernel_size - 1) // ratio


def _reach_mel_frames(config: Mapping[str, Any]) -> int:
    """Mel frames to each side of its own that the samples of one mel frame depend on."""
    generator = _Generator.from_config(config)
    low, high = 0, math.prod(generator.factors) - 1
    if "bwe_out_channels" in config:
        low, high = _bandwidth_extension_interval(config, high)
    low, high = generator.input_interval(low, high)
    return max(-low, high)


def _bandwidth_extension_interval(config: Mapping[str, Any], high: int) -> tuple[int, int]:
    """First and last sample of the first stage that the final samples of its samples 0 to ``high`` depend on."""
    hop, window = config["hop_length"], config["window_length"]
    if (high + 1) % hop:
        raise ValueError(
            f"`vocoder` must upsample by a multiple of its own `hop_length` {hop}, got {high + 1}; correct its config"
        )
    ratio = config["output_sampling_rate"] // config["input_sampling_rate"]
    first, last = _Generator.from_config(config, "bwe_").input_interval(0, (high + 1) * ratio - 1)
    # Its spectrogram is causal: frame i ends with sample (i + 1) * hop - 1 and spans one window.
    first, last = (first + 1) * hop - window, (last + 1) * hop - 1
    return min(first, -RESAMPLER_REACH_SAMPLES), max(last, high + RESAMPLER_REACH_SAMPLES)
