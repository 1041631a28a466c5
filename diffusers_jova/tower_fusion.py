"""How two towers read each other outside of their self-attention: the bridge of MOVA, the text attention of Ovi.

MOVA (arXiv:2602.08794v2) puts a bridge in front of its blocks: each modality reads all rows of the other, on a common
clock. Ovi's rows read the rows of the other modality by the queries with which they read the text. In both, nobody
reads rows that this fusion has updated, and no timestep modulates the update.

Letters in shapes: B batch, L rows of the modality that reads, M rows of the other one, R devices that share the rows,
H heads, K head dimension, D width of the modality that reads, E width of the other one.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from diffusers.models.normalization import FP32LayerNorm
from torch import Tensor, nn

from .joint_attention import JoVARMSNorm, JoVARowAttnProcessor, normed_heads
from .joint_transformer import MODALITIES
from .number_arguments import finite_number
from .sample_runs import OTHER, Coupling, reads_other, sample_runs
from .temporal_rope import apply_rotary_emb
from .wan_tower import JoVAKeyValueMixin, JoVAWanCrossAttention, Rotary


class Readers(NamedTuple):
    """Which samples of a batch read the other modality, as runs of neighbours.

    Args:
        sizes: Samples of each run.
        reads: Whether those of the run read.
        scale: Factor of what they read.
    """

    sizes: tuple[int, ...]
    reads: tuple[bool, ...]
    scale: float

    def select(self, values: Tensor) -> Tensor:
        """Values [B, ...] of the samples that read; one call for all of them, as caches of diffusers expect."""
        if all(self.reads):
            return values
        return torch.cat([part for part, reads in zip(values.split(self.sizes), self.reads, strict=True) if reads])

    def add(self, rows: Tensor, update: Tensor) -> Tensor:
        """Rows [B, ...] plus the scaled update of the samples that read."""
        update = update if self.scale == 1 else self.scale * update
        if all(self.reads):
            return rows + update
        updates = iter(update.split([size for size, reads in zip(self.sizes, self.reads, strict=True) if reads]))
        parts = zip(rows.split(self.sizes), self.reads, strict=True)
        return torch.cat([part + next(updates) if reads else part for part, reads in parts])


def readers_of(
    coupled: Coupling | Sequence[Coupling], scale: float | Sequence[float], batch_size: int
) -> dict[str, Readers]:
    """Who reads, by the modality that reads; a modality by which nobody reads is left out.

    Args:
        coupled: See `sample_runs`.
        scale: Factor of what is read, one number or one for each modality that reads.
        batch_size: Samples in the batch.

    Raises:
        ValueError: Either is of another form.
    """
    runs = sample_runs(coupled, batch_size)
    scales = list(scale) if isinstance(scale, Sequence) else [scale, scale]
    if len(scales) != len(MODALITIES):
        raise ValueError(f"`fusion_scale` must be a number or a pair of numbers, got {scale!r}; 1 is as trained")
    readers = {}
    for name, factor in zip(MODALITIES, scales, strict=True):
        finite_number("fusion_scale", factor, "1 is as trained")
        reads = tuple(reads_other(name, run.coupled) for run in runs)
        if any(reads) and factor:
            readers[name] = Readers(tuple(run.num_samples for run in runs), reads, float(factor))
    return readers


class FusionContext(Protocol):
    """What a fusion reads besides the rows; dictionaries hold the modalities that are present."""

    @property
    def readers(self) -> dict[str, Readers]:
        """Who reads, by the modality that reads; without a modality that nobody reads with."""

    @property
    def rotary_emb(self) -> dict[str, Rotary]:
        """Cosines and sines of the rows in the self-attention of their tower."""

    @property
    def bridge_rotary_emb(self) -> dict[str, Rotary]:
        """Cosines and sines of the rows on the clock of the bridge."""

    @property
    def attention_mask(self) -> dict[str, Tensor | None]:
        """Bool [B, R, 1, rows] of the shards of R devices, False for padding; None where there is none."""


class JoVABridgeAttnProcessor(JoVARowAttnProcessor):
    """Attention to all rows of the other modality."""

    def __call__(
        self,
        attn: "JoVABridgeAttention",
        hidden_states: Tensor,
        other: Tensor,
        rotary_embs: tuple[Rotary, Rotary],
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """See `JoVABridgeAttention.forward`."""
        query, key, value = attn.project_both(hidden_states, attn.norm_kv(other))
        query, key = (apply_rotary_emb(*pair) for pair in zip((query, key), rotary_embs, strict=True))
        return attn.to_out[0](self.attend(query, key, value, attention_mask).flatten(2))


class JoVABridgeAttention(JoVAWanCrossAttention):
    """Rows of one modality read the normed rows of the other; their own are not normed.

    Args:
        dim: Width of the rows that read, D.
        kv_dim: Width of the others, E.
        heads: Attention heads H of the tower that reads.
        head_dim: Channels of one head K.
        eps: Epsilon of all norms.
    """

    _default_processor_cls = JoVABridgeAttnProcessor
    _available_processors = [JoVABridgeAttnProcessor]

    def __init__(self, dim: int, kv_dim: int, heads: int, head_dim: int, eps: float) -> None:
        super().__init__(dim, heads, head_dim, eps, kv_dim)
        self.norm_kv = FP32LayerNorm(kv_dim, eps)

    def forward(  # type: ignore[override]
        self,
        hidden_states: Tensor,
        other: Tensor,
        rotary_embs: tuple[Rotary, Rotary],
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Update [B, L, D] of rows [B, L, D] that read rows [B, M, E].

        Args:
            hidden_states: Rows that read.
            other: Rows that are read.
            rotary_embs: Cosines and sines of both.
            attention_mask: Bool [B, R, 1, M] of the rows that are read, or None.
        """
        return self.processor(self, hidden_states, other, rotary_embs, attention_mask)


class JoVABridge(nn.Module):
    """MOVA's bridge: both modalities read each other before either is updated.

    Args:
        dims: Width of each modality.
        heads: Heads of each modality.
        head_dim: Channels of one head.
        eps: Epsilon of all norms.
    """

    def __init__(self, dims: dict[str, int], heads: dict[str, int], head_dim: int, eps: float) -> None:
        super().__init__()
        for name, other in OTHER.items():
            self.add_module(name, JoVABridgeAttention(dims[name], dims[other], heads[name], head_dim, eps))

    def forward(self, rows: dict[str, Tensor], context: FusionContext) -> dict[str, Tensor]:
        """Rows [B, L, D] of both modalities, in and out."""
        updated = dict(rows)
        for name, readers in context.readers.items():
            other = OTHER[name]
            mask = context.attention_mask[other]
            update = getattr(self, name)(
                readers.select(rows[name]),
                readers.select(rows[other]),
                (context.bridge_rotary_emb[name], context.bridge_rotary_emb[other]),
                None if mask is None else readers.select(mask),
            )
            updated[name] = readers.add(rows[name], update)
        return updated


class JoVATextCrossAttnProcessor(JoVARowAttnProcessor):
    """Attention of queries that read the text as well."""

    def __call__(
        self,
        attn: "JoVATextCrossAttention",
        query: Tensor,
        other: Tensor,
        rotary_embs: tuple[Rotary, Rotary],
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """See `JoVATextCrossAttention.forward`."""
        key, value = attn.keys_and_values(attn.norm_kv(other))
        key = normed_heads(attn.norm_k, key, attn.head_dim)
        query, key = (apply_rotary_emb(*pair) for pair in zip((query, key), rotary_embs, strict=True))
        return self.attend(query, key, value.unflatten(-1, (-1, attn.head_dim)), attention_mask)


class JoVATextCrossAttention(nn.Module, JoVAKeyValueMixin):
    """Keys and values of the other modality's rows for the queries of a text attention, as in Ovi.

    Args:
        kv_dim: Width of the rows that are read, E.
        heads: Attention heads H of the tower that reads.
        head_dim: Channels of one head K.
        eps: Epsilon of all norms.
    """

    _default_processor_cls = JoVATextCrossAttnProcessor
    _available_processors = [JoVATextCrossAttnProcessor]
    processor: Any

    def __init__(self, kv_dim: int, heads: int, head_dim: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.head_dim = head_dim
        self.norm_kv = FP32LayerNorm(kv_dim, eps)
        self.to_k = nn.Linear(kv_dim, heads * head_dim)
        self.to_v = nn.Linear(kv_dim, heads * head_dim)
        self.norm_k = JoVARMSNorm(heads * head_dim, eps=eps)
        self.processor = JoVATextCrossAttnProcessor()

    def forward(
        self,
        query: Tensor,
        other: Tensor,
        rotary_embs: tuple[Rotary, Rotary],
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """What normed queries [B, L, H, K] read from rows [B, M, E], in their shape; arguments as for the bridge."""
        return self.processor(self, query, other, rotary_embs, attention_mask)


class JoVATextCross(nn.Module):
    """Ovi's fusion: what the text attention of both modalities reads besides the text.

    Args:
        dims: Width of each modality.
        heads: Heads of each modality.
        head_dim: Channels of one head.
        eps: Epsilon of all norms.
    """

    def __init__(self, dims: dict[str, int], heads: dict[str, int], head_dim: int, eps: float) -> None:
        super().__init__()
        for name, other in OTHER.items():
            self.add_module(name, JoVATextCrossAttention(dims[other], heads[name], head_dim, eps))

    def forward(self, modality: str, other: Tensor, context: FusionContext, read: Tensor, query: Tensor) -> Tensor:
        """Add to what the queries of a modality read from the text what they read from the other modality.

        Args:
            modality: That reads.
            other: Rows of the other modality behind its self-attention, [B, M, E].
            context: Who reads, rotations, masks.
            read: From the text, [B, L, H, K].
            query: Normed queries [B, L, H, K].
        """
        if modality not in context.readers:
            return read
        readers, mask = context.readers[modality], context.attention_mask[OTHER[modality]]
        more = getattr(self, modality)(
            readers.select(query),
            readers.select(other),
            (context.rotary_emb[modality], context.rotary_emb[OTHER[modality]]),
            None if mask is None else readers.select(mask),
        )
        return readers.add(read, more)
