"""Log-mel spectrograms of sound: what some audio VAEs encode, and what some models generate in place of latents.

Letters: B batch, S samples, T mel frames, M mel bins.
"""

import numpy as np
import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.audio_utils import mel_filter_bank

from .config_class import JoVAConfigClassMixin
from .media_arrays import SILENT
from .number_arguments import finite_number


MEL_FLOOR = 1e-5
POWER_FLOOR = 1e-9  # of HiFi-GAN's front end, whose gradient is finite in silence


def mel_filters(sampling_rate: int, fft_length: int, num_mel_bins: int, max_frequency_hz: float) -> Tensor:
    """Slaney's mel filters, from 0 Hz on: float32 [frequencies, M]."""
    filters = mel_filter_bank(
        num_frequency_bins=fft_length // 2 + 1,
        num_mel_filters=num_mel_bins,
        min_frequency=0.0,
        max_frequency=max_frequency_hz,
        sampling_rate=sampling_rate,
        norm="slaney",
        mel_scale="slaney",
    )
    return torch.from_numpy(filters.astype(np.float32))


def spectrum(waveform: Tensor, fft_length: int, hop_length_samples: int, is_centred: bool) -> Tensor:
    """Short-time Fourier transform with a periodic Hann window, reflected at both ends.

    Args:
        waveform: Float [B, S].
        fft_length: Samples of the window.
        hop_length_samples: Samples between two frames.
        is_centred: Whether frames lie on the multiples of the hop, 1 + S // hop of them; otherwise each hop has one
            frame around its middle, S // hop of them.

    Returns:
        Complex [B, frequencies, T].
    """
    if not is_centred:
        margin = (fft_length - hop_length_samples) // 2
        waveform = F.pad(waveform[:, None], (margin, margin), mode="reflect")[:, 0]
    return torch.stft(
        waveform,
        fft_length,
        hop_length=hop_length_samples,
        window=torch.hann_window(fft_length, device=waveform.device, dtype=waveform.dtype),
        center=is_centred,
        pad_mode="reflect",
        return_complex=True,
    )


def centred_log_mel(
    waveform: Tensor, sampling_rate: int, hop_length_samples: int, num_mel_bins: int, fft_length: int
) -> Tensor:
    """Natural log of the Slaney mel magnitudes, frames centred on the multiples of the hop.

    Args:
        waveform: Float32 [B, channels, S].
        sampling_rate: Samples per second.
        hop_length_samples: Samples between two frames.
        num_mel_bins: M.
        fft_length: Samples of the window.

    Returns:
        [B, channels, 1 + S // hop, M].
    """
    magnitudes = spectrum(waveform.flatten(0, 1), fft_length, hop_length_samples, is_centred=True).abs()
    magnitudes = magnitudes.transpose(1, 2).unflatten(0, waveform.shape[:2])
    filters = mel_filters(sampling_rate, fft_length, num_mel_bins, sampling_rate / 2)
    return (magnitudes @ filters.to(waveform.device)).clamp(min=MEL_FLOOR).log()


def brought_to_peak(waveform: Tensor, peak: float) -> Tensor:
    """Sound [B, S] whose largest amplitude is `peak`, each by itself; silence as it is."""
    largest = waveform.abs().amax(dim=1, keepdim=True)
    return waveform * torch.where(largest >= SILENT, peak / largest, 1.0)


class JoVALogMel(JoVAConfigClassMixin, ModelMixin, ConfigMixin):
    """Sound as normalised log-mel frames: what stands in place of an audio VAE where a model generates them.

    The front end is that of HiFi-GAN (jik876/hifi-gan @ 4769534, meldataset.py), which UniAVGen
    (MCG-NJU/Sora2-mini @ 6d9a41b) takes over: one frame per hop, of which a vocoder makes one hop of samples.

    Its weights are `latents_mean` and `latents_std` [M], by which frames are normalised.

    Args:
        sample_rate: Samples per second.
        n_fft: Samples of the window of the Fourier transform.
        hop_length: Samples of one frame; differs from `n_fft` by an even number.
        mel_bins: M.
        max_frequency_hz: Upper end of the mel filters, which begin at 0 Hz.
        peak: Largest amplitude, to which every sound is brought before it is encoded, as UniAVGen brings the given
            ones to 0.999146; None leaves it as it is. Silence stays silence.
    """

    @register_to_config
    def __init__(
        self,
        sample_rate: int = 24000,
        n_fft: int = 1024,
        hop_length: int = 240,
        mel_bins: int = 80,
        max_frequency_hz: float = 8000.0,
        peak: float | None = None,
    ) -> None:
        super().__init__()
        if (n_fft - hop_length) % 2 or n_fft < hop_length:
            raise ValueError(
                f"`n_fft` must exceed `hop_length` by an even number, got {n_fft} and {hop_length}; use 1024 and 240"
            )
        if peak is not None and not 0 < finite_number("peak", peak) <= 1:
            raise ValueError(f"`peak` must lie within (0, 1], got {peak:g}; None leaves sound as it is")
        # parameters, so that loading tells a checkpoint that lacks them; nothing trains them
        self.latents_mean = nn.Parameter(torch.zeros(mel_bins), requires_grad=False)
        self.latents_std = nn.Parameter(torch.ones(mel_bins), requires_grad=False)

    @apply_forward_hook
    def encode(self, waveform: Tensor) -> Tensor:
        """Normalised log-mel frames [B, S // hop, M] of sound [B, S]."""
        config = self.config
        if config.peak is not None:
            waveform = brought_to_peak(waveform, config.peak)
        frames = spectrum(waveform, config.n_fft, config.hop_length, is_centred=False)
        magnitudes = (frames.real.square() + frames.imag.square() + POWER_FLOOR).sqrt().transpose(1, 2)
        filters = mel_filters(config.sample_rate, config.n_fft, config.mel_bins, config.max_frequency_hz)
        log_mel = (magnitudes @ filters.to(magnitudes)).clamp(min=MEL_FLOOR).log()
        return (log_mel - self.latents_mean) / self.latents_std

    @apply_forward_hook
    def decode(self, latents: Tensor) -> Tensor:
        """Log-mel frames [B, T, M] of normalised ones."""
        return latents * self.latents_std + self.latents_mean
