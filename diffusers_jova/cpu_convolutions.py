"""Convolutions in space and time on a CPU, by oneDNN also where torch itself takes the slowest of its kernels.

For a batch of one and few rows, as in the chunks of a video VAE, torch unfolds the input and multiplies
(`slow_conv3d`). The convolution of oneDNN is up to four times faster and differs by round-off: `benchmarks.video_vae`.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .offloading import execution_device


class OneDNNConvolutions(TorchFunctionMode):
    """Lets oneDNN compute what `torch.conv3d` is asked for in this thread, while the block runs."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call it, or oneDNN in its place."""
        if func is torch.conv3d and len(args) == 7 and is_worth_it(*args[:2]):  # as layers call it
            given, weight, bias, stride, padding, dilation, groups = args
            if not isinstance(padding, str):
                sizes = (list(size) if isinstance(size, tuple) else [size] * 3 for size in (padding, stride, dilation))
                return torch.ops.aten.mkldnn_convolution(given, weight, bias, *sizes, groups)
        return func(*args, **(kwargs or {}))


def is_worth_it(given: Any, weight: Any) -> bool:
    """Whether oneDNN is the faster one: it brings the weights into an order of its own in every call.

    Args:
        given: Input [B, C, F, H, W].
        weight: Of the layer, [D, C, f, h, w].
    """
    if type(given) is not Tensor:  # one that stands for another, as where memory is counted without numbers
        return False
    if not given.dtype == weight.dtype == torch.float32 or given.device.type != "cpu" or given.ndim != 5:
        return False  # of bfloat16 torch takes oneDNN by itself
    num_positions = given.numel() // given.shape[1]
    return bool(num_positions >= weight.shape[0])


def fast_convolutions(module: nn.Module) -> AbstractContextManager[Any]:
    """A block in which the convolutions of a module are fast; one without effect but on a CPU with oneDNN."""
    parts = module.modules()
    is_compiled = any("_orig_mod" in part._modules or part._compiled_call_impl is not None for part in parts)
    if is_compiled or execution_device(module).type != "cpu" or not torch.backends.mkldnn.is_available():
        return nullcontext()
    return OneDNNConvolutions()
