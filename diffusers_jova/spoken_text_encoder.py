"""JoVASpokenTextEncoder: characters of what is said to features that the audio tower of UniAVGen reads.

The network is the text embedding of F5-TTS (arXiv:2410.06885, Sec. 3.2): embedded characters with sinusoidal
positions, refined by blocks of ConvNeXt V2 (arXiv:2301.00808).

Letters in shapes: B batch, S characters, D width.
"""

import math

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F

from .config_class import JoVAConfigClassMixin


FILLER = -1  # behind a text that is too short
CONV_KERNEL = 7
POSITION_THETA = 10000.0


class JoVAResponseNorm(nn.Module):
    """Norm of each channel over all rows, fillers included, by the mean of the channels: [B, S, D] in and out."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, dim))
        self.beta = nn.Parameter(torch.zeros(1, 1, dim))

    def forward(self, rows: Tensor) -> Tensor:
        """Add the normed rows, weighed, to the rows."""
        strength = rows.norm(dim=1, keepdim=True)
        relative = strength / (strength.mean(dim=-1, keepdim=True) + 1e-6)
        return self.gamma * (rows * relative) + self.beta + rows


class JoVASpokenTextBlock(nn.Module):
    """Block of ConvNeXt V2 along characters, [B, S, D] in and out."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(dim, dim, CONV_KERNEL, padding=CONV_KERNEL // 2, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.linear_1 = nn.Linear(dim, hidden_dim)
        self.response_norm = JoVAResponseNorm(hidden_dim)
        self.linear_2 = nn.Linear(hidden_dim, dim)

    def forward(self, rows: Tensor) -> Tensor:
        """Add what the neighbours tell."""
        update = self.norm(self.conv(rows.transpose(1, 2)).transpose(1, 2))
        return rows + self.linear_2(self.response_norm(F.gelu(self.linear_1(update))))


class JoVASpokenTextEncoder(JoVAConfigClassMixin, ModelMixin, ConfigMixin):
    """Characters of a transcript to features.

    Args:
        vocab_size: Characters.
        dim: Width D of the features.
        hidden_dim: Hidden width of the blocks.
        num_layers: Blocks.
    """

    @register_to_config
    def __init__(self, vocab_size: int = 2545, dim: int = 512, hidden_dim: int = 1024, num_layers: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size + 1, dim)  # 0 is the filler
        self.blocks = nn.ModuleList(JoVASpokenTextBlock(dim, hidden_dim) for _ in range(num_layers))

    def forward(self, input_ids: Tensor) -> Tensor:
        """Encode characters.

        Every text is encoded alone, or with others of its length: fillers change the features of the others.

        Args:
            input_ids: Indices of characters [B, S], -1 for a filler.

        Returns:
            Features [B, S, D], zero for fillers.
        """
        is_text = (input_ids != FILLER)[..., None]
        rows = self.embedding(input_ids + 1)
        rows = (rows + sinusoid(input_ids.shape[1], rows.shape[2], rows.device).type_as(rows)) * is_text
        for block in self.blocks:
            rows = block(rows) * is_text
        return rows


def sinusoid(num_positions: int, dim: int, device: torch.device) -> Tensor:
    """Cosines, then sines of positions, float32 [S, D]."""
    exponents = torch.arange(0, dim, 2, device=device, dtype=torch.float32) / dim
    angles = torch.arange(num_positions, device=device)[:, None] * torch.exp(-math.log(POSITION_THETA) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)
