"""What stands in front of Wan blocks: embeddings of latents, timesteps, text, voices.

Letters in shapes: B batch, C channels, F latent frames, H, W latent height and width, L rows of a modality, S text
tokens, P voices, D model width, N noise levels of one sample.
"""

import math
from typing import NamedTuple

import torch
from diffusers.models.embeddings import PixArtAlphaTextProjection, TimestepEmbedding
from diffusers.models.modeling_utils import get_parameter_dtype
from torch import Tensor, nn
from torch.nn import functional as F


CONV_KERNEL = 7  # of Ovi's and NAVA's audio embedding
CONV_HIDDEN_MULTIPLE = 256
TIMESTEP_THETA = 10000.0
WITHOUT_FLOAT64 = ("mps", "npu", "xpu", "privateuseone")  # devices


class JoVAWanPatchEmbedding(nn.Conv3d):
    """Latent patches to rows: [B, C, F, H, W] -> [B, L, D], frame-major."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Embed latents."""
        return super().forward(hidden_states).flatten(2).transpose(1, 2)


class JoVARowConv1d(nn.Conv1d):
    """Convolution along rows that keeps their number: [B, L, C] -> [B, L, D]."""

    def __init__(self, in_channels: int, out_channels: int, bias: bool) -> None:
        super().__init__(in_channels, out_channels, CONV_KERNEL, padding=CONV_KERNEL // 2, bias=bias)

    def forward(self, rows: Tensor) -> Tensor:
        """Convolve rows."""
        return super().forward(rows.transpose(1, 2)).transpose(1, 2)


class JoVAConvFeedForward(nn.Module):
    """SwiGLU network of convolutions along rows, [B, L, D] in and out; names and width are those of Ovi and NAVA."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = CONV_HIDDEN_MULTIPLE * math.ceil((8 * dim // 3) / CONV_HIDDEN_MULTIPLE)
        self.w1 = JoVARowConv1d(dim, hidden, bias=False)
        self.w2 = JoVARowConv1d(hidden, dim, bias=False)
        self.w3 = JoVARowConv1d(dim, hidden, bias=False)

    def forward(self, rows: Tensor) -> Tensor:
        """Gate one convolution by another, then convolve back."""
        return self.w2(F.silu(self.w1(rows)) * self.w3(rows))


def audio_patch_embedding(kind: str, in_channels: int, dim: int) -> nn.Module:
    """Audio latents [B, L, C] to rows [B, L, D]: one linear layer, UniAVGen's two, or convolutions as in Ovi, NAVA."""
    if kind not in ("linear", "mlp", "conv"):
        raise ValueError(f"`audio_embedding` must be 'linear', 'mlp' or 'conv', got {kind!r}")
    if kind == "linear":
        return nn.Linear(in_channels, dim)
    if kind == "mlp":
        return nn.Sequential(nn.Linear(in_channels, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim))
    return nn.Sequential(JoVARowConv1d(in_channels, dim, bias=True), nn.SiLU(), JoVAConvFeedForward(dim))


class JoVASpeakerEmbedding(nn.Module):
    """Voice of a speaker as a text row, as in NAVA: [B, P, speaker_dim] -> [B, P, D]; zeros mean an unknown voice.

    Args:
        speaker_dim: Width of the speaker encoder's vectors.
        dim: Model width D.
    """

    def __init__(self, speaker_dim: int, dim: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.LayerNorm(speaker_dim), nn.Linear(speaker_dim, dim), nn.SiLU(), nn.Linear(dim, dim)
        )
        self.out_norm = nn.LayerNorm(dim)
        self.null_token = nn.Parameter(torch.zeros(1, dim))

    def forward(self, speaker_embeds: Tensor) -> Tensor:
        """Embed voices; a vector whose squared length is at most 1e-6 gives the learned row of no voice."""
        is_known = speaker_embeds.float().square().sum(-1, keepdim=True) > 1e-6
        rows = self.out_norm(self.net(speaker_embeds.to(self.null_token.dtype)))
        return torch.where(is_known, rows, self.null_token)


class Voices(NamedTuple):
    """Embedded voices of speakers.

    Args:
        rows: Rows [B, P, D].
        positions: Text rows that they replace, [B, P]; -1 leaves a voice out.
    """

    rows: Tensor
    positions: Tensor

    def put_into(self, text: Tensor) -> Tensor:
        """Text rows [B, S, D] with the voices at their positions."""
        index = torch.arange(text.shape[1], device=text.device)
        is_at = self.positions[:, None] == index[:, None]  # [B, S, P]
        return torch.where(is_at.any(-1, keepdim=True), is_at.type_as(text) @ self.rows.type_as(text), text)


def timestep_sinusoid(timestep: Tensor, dim: int) -> Tensor:
    """Cosines, then sines of timesteps [N], float32 [N, dim].

    In float64 where the device has it, as in Wan and the models that grew from it: float32 rounds an angle of up to
    1000 so far that a prediction moves by up to 5e-6.
    """
    dtype = torch.float32 if timestep.device.type in WITHOUT_FLOAT64 else torch.float64
    exponents = torch.arange(dim // 2, device=timestep.device, dtype=dtype) / (dim // 2)
    angles = timestep.to(dtype)[:, None] * TIMESTEP_THETA**-exponents
    return torch.cat([angles.cos(), angles.sin()], dim=1).float()


class JoVAWanConditionEmbedder(nn.Module):
    """Timesteps and text features to what the blocks read.

    Args:
        freq_dim: Width of the sinusoidal embedding of a timestep.
        text_dim: Width of the text encoder's features.
        dim: Model width D.
        text_embedding: `"mlp"`, two layers as in Wan, or `"linear"`, one without a bias.
    """

    def __init__(self, freq_dim: int, text_dim: int, dim: int, text_embedding: str = "mlp") -> None:
        super().__init__()
        if text_embedding not in ("mlp", "linear"):
            raise ValueError(f"`audio_text_embedding` must be 'mlp' or 'linear', got {text_embedding!r}")
        self.freq_dim = freq_dim
        self.time_embedder = TimestepEmbedding(freq_dim, dim)
        self.time_proj = nn.Linear(dim, 6 * dim)
        self.text_embedder = (
            PixArtAlphaTextProjection(text_dim, dim, act_fn="gelu_tanh")
            if text_embedding == "mlp"
            else nn.Linear(text_dim, dim, bias=False)
        )

    def forward(self, timestep: Tensor, text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Embed timesteps [B, N] and features [B, S, text_dim].

        Returns:
            Embeddings of the timesteps [B, N, D], their projection [B, N, 6, D], text rows [B, S, D].
        """
        text = self.text_embedder(text)
        frequencies = timestep_sinusoid(timestep.flatten(), self.freq_dim)
        temb = self.time_embedder(frequencies.to(get_parameter_dtype(self.time_embedder)))
        temb = temb.type_as(text).unflatten(0, timestep.shape)
        return temb, self.time_proj(F.silu(temb)).unflatten(2, (6, -1)), text
