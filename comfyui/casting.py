"""Weights that core may keep elsewhere or in 8 bits, and cast to where and as what they are needed."""

from typing import Any

import comfy.ops
import torch
from torch import nn


CASTABLE = {
    nn.Linear: comfy.ops.manual_cast.Linear,
    nn.Conv1d: comfy.ops.manual_cast.Conv1d,
    nn.Conv3d: comfy.ops.manual_cast.Conv3d,
    nn.Embedding: comfy.ops.manual_cast.Embedding,
}


def make_castable(module: nn.Module) -> None:
    """Let core's layers take the place of torch's, in place: the weights and their names stay."""
    for part in module.modules():
        if cast := CASTABLE.get(type(part)):
            part.__class__ = cast
            part.weight_function, part.bias_function = [], []  # type: ignore[assignment]
            if not hasattr(part, "bias"):  # core asks its embeddings for one
                part.register_parameter("bias", None)


def store_in_8_bits(transformer: Any, dtype: torch.dtype) -> None:
    """Store the weights of the linear layers of the blocks in 8 bits; what the model keeps exact stays so.

    Args:
        transformer: Of the package, after `make_castable`.
        dtype: A float of 8 bits.
    """
    kept = (*transformer._skip_layerwise_casting_patterns, *(transformer._keep_in_fp32_modules or ()))
    for name, part in transformer.named_modules():
        if isinstance(part, nn.Linear) and not any(pattern in name for pattern in kept):
            part.weight.data = part.weight.data.to(dtype)


def settle(patcher: Any) -> None:
    """Bring to the device what core leaves behind when it loads a model in part: tensors that no layer casts.

    Norms, tables of positions and modulation: small beside the layers, and read by code that expects them in place.
    """
    device = patcher.load_device
    for part in patcher.model.modules():
        if not hasattr(part, "comfy_cast_weights"):
            for tensor in (*part.parameters(recurse=False), *part.buffers(recurse=False)):
                if tensor.device != device:
                    tensor.data = tensor.data.to(device)
