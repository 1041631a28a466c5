"""What codecs are trained to get right: pixels with their edges, spectra, and a compact posterior.

Letters: B batch, C channels, F frames, H, W pixels, M mel bins, T mel frames, S samples, P faces.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor


STFT_SIZES = (256, 512, 1024, 2048)
SPECTRUM_FLOOR = 1e-2  # the gradient of a logarithm grows as 1 / magnitude: silence would drown everything else


def kl_divergence(posterior: DiagonalGaussianDistribution) -> Tensor:
    """Mean KL divergence from the unit Gaussian per latent value, a scalar.

    0.5 * (mean^2 + var - 1 - log var). The posterior's own `kl` sums three dimensions and so refuses [B, C, T].
    """
    mean, logvar = posterior.mean.float(), posterior.logvar.float()
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()


def mouth_weights(boxes: Tensor, height: int, width: int, weight: float) -> Tensor:
    """Weight of every pixel: `weight` inside a mouth box, 1 elsewhere.

    Args:
        boxes: xyxy in pixels, NaN for no mouth, [B, P, F, 4].
        height: H.
        width: W.
        weight: Of a mouth's pixels.

    Returns:
        [B, 1, F, H, W].
    """
    x1, y1, x2, y2 = boxes.nan_to_num(-1.0)[..., None, None, :].unbind(-1)  # [B, P, F, 1, 1]
    rows = torch.arange(height, device=boxes.device)[:, None] + 0.5
    columns = torch.arange(width, device=boxes.device)[None] + 0.5
    inside = (columns > x1) & (columns < x2) & (rows > y1) & (rows < y2)  # [B, P, F, H, W]
    return 1 + (weight - 1) * inside.any(1, keepdim=True).float()


def weighted_mean(error: Tensor, weights: Tensor) -> Tensor:
    """Mean of `error` [B, C, F, H, W] under `weights` [B, 1, F, H, W], a scalar."""
    return (error * weights).sum() / (weights.sum() * error.shape[1])


def pixel_loss(prediction: Tensor, target: Tensor, weights: Tensor, gradient_weight: float) -> Tensor:
    """Absolute error of the pixels and of their differences to the right, downwards and in time, a scalar.

    Args:
        prediction: [B, 3, F, H, W].
        target: The same shape.
        weights: Of the pixels, [B, 1, F, H, W].
        gradient_weight: Of the differences' errors, next to 1 for the pixels.
    """
    error = prediction.float() - target
    loss = weighted_mean(error.abs(), weights)
    for dim in (2, 3, 4):
        if error.shape[dim] > 1:
            kept = weights.narrow(dim, 1, weights.shape[dim] - 1)
            loss = loss + gradient_weight * weighted_mean(error.diff(dim=dim).abs(), kept)
    return loss


def mel_loss(prediction: Tensor, target: Tensor, gradient_weight: float) -> Tensor:
    """Absolute error of a log-mel spectrogram [B, M, T] and of its differences over bins and frames, a scalar."""
    error = prediction.float() - target
    edges = error.diff(dim=1).abs().mean() + error.diff(dim=2).abs().mean()
    return error.abs().mean() + gradient_weight * edges


def magnitudes(waveform: Tensor, size: int) -> Tensor:
    """Magnitude spectrogram with windows of `size` samples, a quarter apart: [B, S] -> [B, size / 2 + 1, frames]."""
    window = torch.hann_window(size, device=waveform.device)
    spectrum = torch.stft(waveform.float(), size, size // 4, window=window, return_complex=True)
    return torch.sqrt(spectrum.real.square() + spectrum.imag.square() + 1e-9)


def stft_loss(prediction: Tensor, target: Tensor, convergence_weight: float = 1.0) -> Tensor:
    """Multi-resolution STFT loss of waveforms [B, S], a scalar.

    Parallel WaveGAN (arXiv:1910.11480): mean over window sizes of |A - A'| / |A| and of the error of log A.

    Args:
        prediction: [B, S].
        target: [B, S].
        convergence_weight: Of |A - A'| / |A|, which is about the loudest partials, next to 1 for the error of log A.
    """
    total = prediction.new_zeros(())
    for size in STFT_SIZES:
        predicted, true = magnitudes(prediction, size), magnitudes(target, size)
        convergence = (true - predicted).norm() / true.norm().clamp(min=1e-3)
        logs = (predicted.clamp(min=SPECTRUM_FLOOR).log() - true.clamp(min=SPECTRUM_FLOOR).log()).abs().mean()
        total = total + (convergence_weight * convergence + logs) / len(STFT_SIZES)
    return total


def discriminator_loss(real: list[Tensor], generated: list[Tensor]) -> Tensor:
    """Least-squares loss of discriminators: scores of real sound towards 1, of generated sound towards 0."""
    pairs = zip(real, generated, strict=True)
    return torch.stack([(1 - r).square().mean() + g.square().mean() for r, g in pairs]).sum()


def adversarial_loss(generated: list[Tensor]) -> Tensor:
    """Least-squares loss of the generator: scores of generated sound towards 1."""
    return torch.stack([(1 - g).square().mean() for g in generated]).sum()


def feature_matching_loss(real: list[list[Tensor]], generated: list[list[Tensor]]) -> Tensor:
    """Absolute error between the discriminators' features, relative to the size of the real ones, a scalar."""
    terms = [
        F.l1_loss(fake, true.detach()) / true.detach().abs().mean().clamp(min=1e-3)
        for real_features, fake_features in zip(real, generated, strict=True)
        for true, fake in zip(real_features, fake_features, strict=True)
    ]
    return torch.stack(terms).mean()
