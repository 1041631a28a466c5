"""Blocks whose frozen weights wait in the host's memory, and come to the device for their turn, forward and backward.

With gradient checkpointing every block is computed anew in the backward pass, so that one rule serves both directions:
who enters a swapped block finds its weights there, the next one's are on their way, and all others have left. Frozen
weights do not change, so nothing goes back to the host.

diffusers' group offloading is for calls: it moves the adapter's weights from under the optimizer, and where the
recomputation of a block stops early, as PyTorch lets it, the block never leaves the device again.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


NUM_TOGETHER = 2  # swapped blocks on the device: the one at work, and the one that comes next


def blocks_of(transformer: nn.Module) -> list[nn.Module]:
    """The blocks of a transformer in the order in which they compute."""
    lists = (child for child in transformer.children() if isinstance(child, nn.ModuleList))
    return [block for blocks in lists for block in blocks]


def swapped_blocks(transformer: nn.Module, number: int) -> list[nn.Module]:
    """The last blocks of a transformer, of which one at least stays.

    Raises:
        ValueError: There are not so many.
    """
    blocks = blocks_of(transformer)
    if number >= len(blocks):
        raise ValueError(
            f"`blocks_to_swap` must be less than the {len(blocks)} blocks of this `model`, got {number}; use "
            f"{len(blocks) - 1} or less"
        )
    return blocks[len(blocks) - number :]


def frozen_weights(block: nn.Module) -> list[nn.Parameter]:
    """What can wait on the host."""
    return [weight for weight in block.parameters() if not weight.requires_grad]


def swapped_bytes(transformer: nn.Module, number: int) -> int:
    """Bytes that are not on the device when most are: all frozen weights of the swapped blocks but the largest two."""
    sizes = [
        sum(weight.numel() * weight.element_size() for weight in frozen_weights(block))
        for block in swapped_blocks(transformer, number)
    ]
    return sum(sorted(sizes)[:-NUM_TOGETHER])


class BlockSwap:
    """Keeps the frozen weights of a transformer's last blocks on the host.

    Args:
        transformer: On the host, with gradient checkpointing; all else of it goes to the device.
        number: Of blocks.
        device: That computes.

    Attributes:
        present: Numbers of the swapped blocks whose weights are on the device, or on their way.
    """

    def __init__(self, transformer: nn.Module, number: int, device: torch.device) -> None:
        self.device, self.present, self.last, self.is_forward = device, set[int](), -1, True
        blocks = swapped_blocks(transformer, number)
        self.weights = [frozen_weights(block) for block in blocks]
        self.waiting = [[self.on_host(weight.data) for weight in weights] for weights in self.weights]
        for index in range(number):
            self.send_away(index)
        away = {id(weight) for weights in self.weights for weight in weights}
        place((weight for weight in transformer.parameters() if id(weight) not in away), device)
        place(transformer.buffers(), device)
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.arrivals: dict[int, Any] = {}
        for index, block in enumerate(blocks):
            block.register_forward_pre_hook(partial(self._enter, index))

    def on_host(self, weight: Tensor) -> Tensor:
        """A copy that waits, in memory from which copies do not stop the host."""
        return weight.cpu().pin_memory() if self.device.type == "cuda" else weight.cpu()

    def bring(self, index: int) -> None:
        """Begin to copy a block's weights to the device."""
        if index in self.present:
            return
        self.present.add(index)
        for weight, waiting in zip(self.weights[index], self.waiting[index], strict=True):
            # of the stream that computes, in whose order it is free; of another one it would be free when the GPU
            # comes to it, and a host that is blocks ahead would take new memory for each
            weight.data = torch.empty_like(waiting, device=self.device)
        if self.stream is not None:
            self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):  # does nothing without one
            for weight, waiting in zip(self.weights[index], self.waiting[index], strict=True):
                weight.data.copy_(waiting, non_blocking=True)
            if self.stream is not None:
                self.arrivals[index] = self.stream.record_event()

    def wait_for(self, index: int) -> None:
        """Let what is computed from now on wait until a block's weights are there."""
        if (arrival := self.arrivals.pop(index, None)) is not None:
            torch.cuda.current_stream(self.device).wait_event(arrival)

    def send_away(self, index: int) -> None:
        """Let go of a block's weights on the device."""
        self.present.discard(index)
        for weight, waiting in zip(self.weights[index], self.waiting[index], strict=True):
            weight.data = waiting

    def _enter(self, index: int, *_: Any) -> None:
        """Make ready for a block that computes, and for the next; computed twice in a row, it is the turning point."""
        if index == self.last:
            self.is_forward = not self.is_forward
        else:
            self.is_forward = index > self.last
        self.last, following = index, index + (1 if self.is_forward else -1)
        for other in self.present - {index, following}:
            self.wait_for(other)
            self.send_away(other)
        self.bring(index)
        self.wait_for(index)
        if 0 <= following < len(self.weights):
            self.bring(following)


def place(tensors: Iterable[Tensor], device: torch.device) -> None:
    """Bring tensors to a device, in place."""
    for tensor in tensors:
        tensor.data = tensor.data.to(device)


def check_swap(device: torch.device) -> None:
    """Refuse a device whose memory is where weights wait.

    Raises:
        ValueError: It is one.
    """
    if device.type != "cuda":
        raise ValueError(
            "`blocks_to_swap` must be 0 without a CUDA device: weights would wait in the memory that they are used "
            f"in, got a run on {device.type}; leave it out"
        )
