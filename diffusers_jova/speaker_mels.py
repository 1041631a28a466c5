"""The log-mel spectrogram that ReDimNet reads, computed without torchaudio.

Letters: B sounds, S samples, M mel bands, T frames, K frequencies.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.audio_utils import mel_filter_bank

from .redimnet_config import SAMPLING_RATE_HZ, Spectrum


PREEMPHASIS = 0.97  # of a sample, taken from the next
LEVEL_FLOORS = {"pt": 1e-6, "tf": None}  # beside the deviation of a sound; "tf" takes the spectrum's own
DEVIATION_FLOOR = 1e-8
HTK_FACTOR, HTK_HZ = 2595.0, 700.0  # mel = 2595 log10(1 + f / 700)
STORED = "spec.torchfbank."  # beginning of the names of a checkpoint's own filters and window
ALIKE = 1e-3  # of the largest value; filters of another number or range of bands lie 0.1 and more apart


class SpeakerMels(nn.Module):
    """From sound to log-mel frames.

    As of torchaudio ("pt"), frames are centred, and the filters are triangles over frequencies up to half the rate. As
    of the older front end ("tf"), frames begin half a hop before the sound, the highest frequency is left out, and the
    filters still spread what is left over the whole range.

    Args:
        spectrum: What is computed.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, spectrum: Spectrum) -> None:
        super().__init__()
        self.spectrum = spectrum
        window = torch.hamming_window(spectrum.window_length, periodic=spectrum.kind == "pt", dtype=torch.float64)
        self.register_buffer("window", window.float(), persistent=False)
        self.register_buffer("filters", mel_filters(spectrum), persistent=False)  # [K, M]

    @torch.no_grad()
    def forward(self, sound: Tensor) -> Tensor:
        """Sound [B, S] to frames [B, M, T]."""
        spectrum = self.spectrum
        if spectrum.levels_sound:
            floor = LEVEL_FLOORS[spectrum.kind] or spectrum.floor
            deviation = sound.std(-1, keepdim=True, unbiased=False)
            sound = (sound - sound.mean(-1, keepdim=True)) / (deviation + floor)
        if spectrum.has_preemphasis:
            before = torch.cat([sound[:, 1:2], sound[:, :-1]], dim=1)  # mirrored at the first sample
            sound = sound - PREEMPHASIS * before
        energies = self.centred(sound) if spectrum.kind == "pt" else self.from_half_a_hop_before(sound)
        mels = (energies + spectrum.floor).log()
        mels = mels - mels.mean(-1, keepdim=True)
        return mels / (mels.std(-1, keepdim=True) + DEVIATION_FLOOR) if spectrum.norm == "mvn" else mels

    def centred(self, sound: Tensor) -> Tensor:
        """Energies [B, M, T] of the bands, as of torchaudio."""
        spectrum = self.spectrum
        sizes = (spectrum.fft_length, spectrum.hop_length, spectrum.window_length)
        powers = torch.stft(sound, *sizes, self.window, center=True, pad_mode="reflect", return_complex=True)
        return self.filters.T @ powers.abs().square()

    def from_half_a_hop_before(self, sound: Tensor) -> Tensor:
        """Energies [B, M, T] of the bands, as of the older front end."""
        spectrum = self.spectrum
        hop, floor = spectrum.hop_length, spectrum.floor
        frames = F.pad(sound, (hop // 2, hop // 2)).unfold(-1, spectrum.window_length, hop) * self.window  # [B, T, S]
        powers = torch.fft.rfft(frames, spectrum.fft_length).abs().square()[..., : len(self.filters)]
        return (powers.clip(floor, 1 / floor) @ self.filters).clip(floor, 1 / floor).transpose(1, 2)

    def as_stored(self) -> dict[str, Tensor]:
        """Filters and windows by the names that a public checkpoint has for them."""
        stored: dict[str, Tensor] = {}
        if self.spectrum.has_preemphasis:
            stored["1.flipped_filter"] = torch.tensor([[[-PREEMPHASIS, 1.0]]])
        if self.spectrum.kind == "pt":
            stored |= {"2.spectrogram.window": self.window, "2.mel_scale.fb": self.filters}
        else:
            waves = self.waves()
            stored |= {"2.real_kernel_pt": waves.real, "2.image_kernel_pt": waves.imag}
            stored["2.melbanks_pt"] = self.filters.T[..., None]
        return {STORED + name: tensor for name, tensor in stored.items()}

    def differing(self, stored: Mapping[str, Tensor]) -> list[str]:
        """Names of a checkpoint's filters and windows, all that begin with `STORED`, that are not these."""
        own = self.as_stored()
        return sorted(own.keys() ^ stored.keys()) or [
            name
            for name, tensor in own.items()
            if tensor.shape != stored[name].shape
            or not torch.allclose(tensor, stored[name].float(), rtol=0, atol=ALIKE * float(tensor.abs().max()))
        ]

    def waves(self) -> Tensor:
        """Windowed waves [K, 1, window samples] of the older front end, which checkpoints of it hold."""
        spectrum = self.spectrum
        places = torch.arange(spectrum.window_length) * torch.arange(spectrum.fft_length // 2)[:, None]
        angles = 2 * math.pi * (places % spectrum.fft_length).double() / spectrum.fft_length
        return (torch.polar(self.window.double().expand_as(angles), angles))[:, None].to(torch.complex64)


def mel_filters(spectrum: Spectrum) -> Tensor:
    """Triangles [K, M] on HTK's scale."""
    if spectrum.kind == "tf":
        return _older_filters(spectrum)
    filters = mel_filter_bank(
        num_frequency_bins=spectrum.fft_length // 2 + 1,
        num_mel_filters=spectrum.num_mels,
        min_frequency=spectrum.lowest_hz,
        max_frequency=spectrum.highest_hz,
        sampling_rate=SAMPLING_RATE_HZ,
        norm=None,
        mel_scale="htk",
    )
    return torch.from_numpy(filters).float()


def _older_filters(spectrum: Spectrum) -> Tensor:
    """Triangles whose slopes are straight in mels, over as many frequencies as half a transform has; none of 0 Hz."""
    lowest, highest = (float(_mel(np.float64(hz))) for hz in (spectrum.lowest_hz, spectrum.highest_hz))
    edges = np.linspace(lowest, highest, spectrum.num_mels + 2)
    places = _mel(np.linspace(0, SAMPLING_RATE_HZ / 2, spectrum.fft_length // 2))[:, None]
    rising = (places - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - places) / (edges[2:] - edges[1:-1])
    filters = np.clip(np.minimum(rising, falling), 0, None)
    filters[0] = 0
    return torch.from_numpy(filters).float()


def _mel(hz: np.ndarray | np.float64) -> np.ndarray:
    return np.asarray(HTK_FACTOR * np.log10(1 + hz / HTK_HZ))
