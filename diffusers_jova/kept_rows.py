"""Keys and values of video rows that attention keeps from one denoising step for the next ones.

A `JoVARowKeeper` is a module in which audio rows read video rows; a model has one or none in each block.

Letters in shapes: B samples that read them, R devices that share the rows, L rows on this device, H heads, K head
dimension.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .row_spans import Spans, joined_spans, mask_of


SCALED = (torch.float8_e4m3fn, torch.float8_e5m2)  # overflow instead of saturating, and know few small numbers


class StoredTensor(NamedTuple):
    """A tensor as it is kept.

    Args:
        values: In the number format and on the device of the store.
        scale: What they are multiplied by when read, [B, 1, H, 1]; None for 1.
    """

    values: Tensor
    scale: Tensor | None = None

    @classmethod
    def of(cls, tensor: Tensor, dtype: torch.dtype | None, device: torch.device | None) -> "StoredTensor":
        """Store [B, L, H, K], a copy without the rows beside it; in 8 bits each head fills their range."""
        scale = None
        if dtype in SCALED:
            largest = tensor.float().abs().amax((1, 3), keepdim=True)
            scale = largest.clamp(min=torch.finfo(torch.float32).tiny) / torch.finfo(dtype).max
            tensor = tensor / scale
            scale = scale.to(device)
        return cls(tensor.to(device, dtype, copy=True, memory_format=torch.contiguous_format), scale)

    def like(self, tensor: Tensor) -> Tensor:
        """What is stored, in the number format and on the device of a tensor."""
        values = self.values.to(tensor.device, tensor.dtype)
        return values if self.scale is None else values * self.scale.to(tensor)

    @property
    def num_bytes(self) -> int:
        """Memory that it takes."""
        return sum(part.numel() * part.element_size() for part in self if part is not None)


class KeptRows:
    """What one attention keeps: `keep` in a step that computes video rows, `in_front_of` in those that do not.

    Args:
        dtype: Number format of the store; None for that of the rows.
        device: Where it lies; None for where the rows are.
    """

    def __init__(self, dtype: torch.dtype | None = None, device: torch.device | None = None) -> None:
        self.dtype = dtype
        self.device = device
        self.key: StoredTensor | None = None
        self.value: StoredTensor | None = None
        self.mask: Tensor | None = None
        self.spans: Sequence[Spans | None] = ()
        self.alignment: Any = None  # which of them are read by which audio rows, for a fusion that goes by it

    def keep(
        self, key: Tensor, value: Tensor, mask: Tensor | None, spans: Sequence[Spans | None] | None = None
    ) -> None:
        """Keep keys and values in place of the last.

        Args:
            key: [B, L, H, K].
            value: Likewise.
            mask: Which of them are read, bool [B, R, 1, L]; None for all.
            spans: Rows of each sample that exist; None where all do.
        """
        self.key = StoredTensor.of(key, self.dtype, self.device)
        self.value = StoredTensor.of(value, self.dtype, self.device)
        self.mask = mask
        self.spans = [None] * len(key) if spans is None else spans

    def restored(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values, in the number format and on the device of a tensor."""
        if self.key is None or self.value is None:
            raise ValueError("video rows must be kept before audio rows read them, got none; begin with a full step")
        return self.key.like(like), self.value.like(like)

    def in_front_of(
        self, key: Tensor, value: Tensor, mask: Tensor | None, spans: Sequence[Spans | None]
    ) -> tuple[Tensor, Tensor, Tensor | None, Sequence[Spans | None]]:
        """The kept rows and others [B, L, H, K], with their mask, or the rows of each sample that exist."""
        kept_key, kept_value = self.restored(key)
        joined = torch.cat([kept_key, key], dim=1), torch.cat([kept_value, value], dim=1)
        sizes = kept_key.shape[1], key.shape[1]
        if self.mask is None and mask is None:
            pairs = zip(self.spans, spans, strict=True)
            return *joined, None, [joined_spans(list(zip(pair, sizes, strict=True))) for pair in pairs]
        shards: Any = self.mask if mask is None else mask
        masks = []
        for part, own, rows in ((self.mask, self.spans, sizes[0]), (mask, spans, sizes[1])):
            found = mask_of(own, rows, key.device) if part is None else part
            whole = key.new_ones(1, dtype=torch.bool)
            shape = (*shards.shape[:3], rows)
            masks.append((whole if found is None else found.view(len(key), -1, 1, rows)).expand(shape))
        return *joined, torch.cat(masks, dim=-1), [None] * len(key)

    @property
    def num_bytes(self) -> int:
        """Memory that it takes."""
        return sum(part.num_bytes for part in (self.key, self.value) if part is not None)


class JoVARowKeeper(ABC):
    """A module in which audio rows read video rows, and which can keep what they read of them."""

    kept_rows: KeptRows | None = None  # where a cache between steps puts them for one forward
    num_more_frames = 0  # latent frames that are kept besides those of the video

    @property
    @abstractmethod
    def kept_heads(self) -> tuple[int, int]:
        """Heads H of what is kept, and their dimension K."""


def keepers_of(model: nn.Module) -> list[JoVARowKeeper]:
    """All keepers of a model, in the order of its blocks."""
    return [part for part in model.modules() if isinstance(part, JoVARowKeeper)]


@contextmanager
def keeping(keepers: Sequence[JoVARowKeeper], kept: Sequence[KeptRows | None]) -> Iterator[None]:
    """Let keepers keep and read some rows each, or none, for one forward."""
    for keeper, rows in zip(keepers, kept, strict=True):
        keeper.kept_rows = rows
    try:
        yield
    finally:
        for keeper in keepers:
            keeper.kept_rows = None


def kept_or_projected(
    kept_rows: KeptRows | None,
    rows: Tensor | None,
    project: Callable[[Tensor], tuple[Tensor, Tensor]],
    mask: Tensor | None,
    like: Tensor,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Keys, values and mask of rows: of those that are there, which are kept, or of those that were kept.

    Args:
        kept_rows: Where they are kept; None for nowhere.
        rows: Rows [B, L, D] that are read; None in a step without them.
        project: Their keys and values, [B, L, H, K] each.
        mask: Which of them are read, bool [B, R, 1, L]; None for all.
        like: A tensor whose number format and device kept ones get.
    """
    if rows is None:
        assert kept_rows is not None
        return *kept_rows.restored(like), kept_rows.mask
    key, value = project(rows)
    if kept_rows is not None:
        kept_rows.keep(key, value, mask)
    return key, value, mask


def take(samples: Sequence[int], *tensors: Tensor | None) -> tuple[Any, ...]:
    """Some samples of tensors [B, ...]; None stays None, and all samples are the tensor itself."""
    return tuple(
        tensor if tensor is None or len(samples) == tensor.shape[0] else tensor[list(samples)] for tensor in tensors
    )
