"""Judges of generated speech, used only while the vocoder is trained: by period and by resolution.

Multi-period (HiFi-GAN, arXiv:2010.05646) and multi-resolution spectrogram (UnivNet, arXiv:2106.07889), small.
Letters: B batch, S samples.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from diffusers_jova.training.codecs.codec_losses import magnitudes


PERIODS = (2, 3, 5, 7, 11)
RESOLUTIONS = (256, 512, 1024)
SLOPE = 0.1


class Judge(nn.Module):
    """A stack of 2-D convolutions that scores every place of a picture of the sound.

    Args:
        kernels: Rows and columns of each layer's kernel.
        strides: Rows and columns of each layer's stride.
        width: Channels of the first layer; they double with every further one, up to eight times as many.
    """

    def __init__(self, kernels: list[tuple[int, int]], strides: list[tuple[int, int]], width: int) -> None:
        super().__init__()
        channels = [1, *(min(width * 2**index, 8 * width) for index in range(len(kernels)))]
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(before, after, kernel, stride, padding=(kernel[0] // 2, kernel[1] // 2)))
            for before, after, kernel, stride in zip(channels[:-1], channels[1:], kernels, strides, strict=True)
        )
        self.score = weight_norm(nn.Conv2d(channels[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, picture: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Score a picture [B, 1, rows, columns]; returns scores and the features of every layer."""
        features = []
        for layer in self.layers:
            picture = F.leaky_relu(layer(picture), SLOPE)
            features.append(picture)
        return self.score(picture), features


def fold(waveform: Tensor, period: int) -> Tensor:
    """Write a waveform [B, S] in rows of one period: [B, 1, ceil(S / period), period]."""
    padded = F.pad(waveform[:, None], (0, -waveform.shape[-1] % period), mode="reflect")
    return padded.unflatten(2, (-1, period))


class Discriminators(nn.Module):
    """All judges together.

    Args:
        width: Channels of each judge's first layer.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.periods = nn.ModuleList(Judge([(5, 1)] * 4, [(3, 1)] * 4, width) for _ in PERIODS)
        self.resolutions = nn.ModuleList(
            Judge([(3, 9), (3, 9), (3, 3)], [(1, 1), (2, 2), (2, 2)], width) for _ in RESOLUTIONS
        )

    def forward(self, waveform: Tensor) -> tuple[list[Tensor], list[list[Tensor]]]:
        """Judge waveforms [B, S]; returns the scores and the features of every judge."""
        pictures = [fold(waveform, period) for period in PERIODS]
        pictures += [magnitudes(waveform, size)[:, None] for size in RESOLUTIONS]
        judged = [judge(p) for judge, p in zip([*self.periods, *self.resolutions], pictures, strict=True)]
        return [scores for scores, _ in judged], [features for _, features in judged]
