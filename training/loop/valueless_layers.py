"""Stand-ins without values for what bitsandbytes keeps in 4 and 8 bits: the bytes are its own, the numbers none.

bitsandbytes 0.50: NF4 keeps 4 bits a weight in blocks of 64, whose scales have 8 bits in blocks of 256 with a float32
each (QLoRA, arXiv:2305.14314v1, Sec. 3). Its 8-bit AdamW keeps two bytes a weight and two float32 for each block of
256, but float32 for tensors of less than 4096 (arXiv:2110.02861v2, Sec. 2).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


NF4_BLOCK, NF4_OUTER_BLOCK = 64, 256
ADAM_BLOCK, ADAM_SMALLEST = 256, 4096


class NF4Product(torch.autograd.Function):
    """A product that keeps no weight of its own for the backward pass, as bitsandbytes makes it."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, layer: NF4Outline) -> Tensor:
        """Multiply rows [..., in] by the weight; returns [..., out]."""
        ctx.layer, ctx.dtype = layer, rows.dtype
        return F.linear(rows, layer.dequantised(rows), layer.bias.to(rows.dtype) if layer.bias is not None else None)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Gradient of the rows."""
        (gradient,) = gradients
        return gradient.to(ctx.dtype) @ ctx.layer.dequantised(gradient), None


class NF4Outline(nn.Module):
    """A frozen linear layer in NF4.

    Args:
        linear: The layer that it stands for, on the meta device.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        number = linear.weight.numel()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_buffer("packed", torch.empty((number + 1) // 2, dtype=torch.uint8, device="meta"))
        blocks = -(-number // NF4_BLOCK)
        self.register_buffer("scales", torch.empty(blocks, dtype=torch.uint8, device="meta"))
        self.register_buffer("outer_scales", torch.empty(-(-blocks // NF4_OUTER_BLOCK), device="meta"))
        self.weight = nn.Parameter(torch.empty(0, device="meta", dtype=linear.weight.dtype), requires_grad=False)
        self.bias = linear.bias

    def dequantised(self, like: Tensor) -> Tensor:
        """The weight [out, in] in the format of rows."""
        return torch.empty(self.out_features, self.in_features, dtype=like.dtype, device=like.device)

    def forward(self, rows: Tensor) -> Tensor:
        """Multiply rows [..., in]; returns [..., out]."""
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else rows.dtype
        product: Tensor = NF4Product.apply(rows.to(dtype), self)
        return product.clone()  # as peft does above 4 bits


def outline_nf4_(transformer: nn.Module) -> None:
    """Replace what `quantize_nf4_` replaces, below the adapter, in place: linear layers of the lists of blocks."""
    for blocks in transformer.children():
        if isinstance(blocks, nn.ModuleList):
            _replace(blocks)


def _replace(module: nn.Module) -> None:
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Linear):
            setattr(module, name, NF4Outline(child))
        elif not name.startswith("lora_"):
            _replace(child)


class AdamW8bitOutline(torch.optim.Optimizer):
    """The states of AdamW in 8 bits.

    Args:
        params: Of the optimizer.
        lr: Learning rate.
    """

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Make the states of weights that have none."""
        for weight in (weight for group in self.param_groups for weight in group["params"]):
            if self.state[weight]:
                continue
            if weight.numel() < ADAM_SMALLEST:
                self.state[weight] = {name: torch.zeros_like(weight) for name in ("state1", "state2")}
                continue
            for name in ("1", "2"):
                blocks = -(-weight.numel() // ADAM_BLOCK)
                self.state[weight] |= {
                    f"state{name}": torch.zeros_like(weight, dtype=torch.uint8),
                    f"absmax{name}": torch.zeros(blocks, device=weight.device),
                }
