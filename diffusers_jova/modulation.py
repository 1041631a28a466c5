"""Modulation of norms by noise levels, of which a sample has one, or one per latent.

Letters in shapes: B batch, L rows, D model width, N noise levels of one sample.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Modulation(NamedTuple):
    """Shift, scale and gate of the two halves of a block, [B, 1 or L, D] each."""

    attn_shift: Tensor
    attn_scale: Tensor
    attn_gate: Tensor
    ff_shift: Tensor
    ff_scale: Tensor
    ff_gate: Tensor


def select_level(values: Tensor, level: Tensor) -> Tensor:
    """Spread values per noise level [B, N, D] over rows with levels [L]; one level stays [B, 1, D] and broadcasts."""
    return values if values.shape[1] == 1 else values.index_select(1, level)


def modulated_norm(hidden_states: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """Layer norm without weights, then shift and scale, in float32: [B, L, D] in and out."""
    normed = F.layer_norm(hidden_states.float(), hidden_states.shape[-1:], eps=eps)
    return torch.addcmul(shift.float(), normed, 1 + scale.float()).type_as(hidden_states)
