"""How two towers read each other outside of their self-attention: the bridge of MOVA, the text attention of Ovi.

MOVA (arXiv:2602.08794v2) puts a bridge in front of its blocks: each modality reads all rows of the other, on a common
clock. Ovi's rows read the rows of the other modality by the queries with which they read the text. In both, nobody
reads rows that this fusion has updated, and no timestep modulates the update.

In a step without video rows audio reads the keys and values of those that a cache has kept.

Letters in shapes: B batch, L rows of the modality that reads, M rows of the other one, R devices that share the rows,
H heads, K head dimension, D width of the modality that reads, E width of the other one.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from diffusers.models.normalization import FP32LayerNorm
from torch import Tensor, nn

from .joint_attention import JoVARMSNorm, JoVARowAttnProcessor
from .joint_transformer import MODALITIES
from .kept_rows import JoVARowKeeper, KeptRows, kept_or_projected
from .number_arguments import finite_number
from .sample_runs import OTHER, Coupling, reads_other, sample_runs
from .temporal_rope import apply_rotary_emb
from .wan_tower import JoVAKeyValueMixin, JoVAWanCrossAttention, Rotary


OptionalTensor = TypeVar("OptionalTensor", Tensor, Tensor | None)


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

    def select(self, values: OptionalTensor) -> OptionalTensor:
        """Values [B, ...] of the samples that read; one call for all of them, as caches of diffusers expect.

        None stays None.
        """
        if values is None or all(self.reads):
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
        """Who reads, by the modality that reads; without a modality that nobody reads with, or that has no rows.

        Audio reads without video rows only where some were kept.
        """

    @property
    def rotary_emb(self) -> dict[str, Rotary]:
        """Cosines and sines of the rows in the self-attention of their tower."""

    @property
    def bridge_rotary_emb(self) -> dict[str, Rotary]:
        """Cosines and sines of the rows on the clock of the bridge."""

    @property
    def attention_mask(self) -> dict[str, Tensor | None]:
        """Bool [B, R, 1, rows] of the shards of R devices, False for padding; None where there is none."""


class JoVATowerFusion(nn.Module, JoVARowKeeper):
    """A fusion whose module of the name of a modality is what the rows of that modality read the other ones by."""

    audio: Any

    @property
    def kept_heads(self) -> tuple[int, int]:
        """Heads by which audio reads, and their dimension."""
        return self.audio.heads, self.audio.head_dim

    def rows_for(self, modality: str) -> KeptRows | None:
        """Where what a modality reads is kept; only audio goes on without the other one."""
        return self.kept_rows if modality == "audio" else None


def rotated_keys(
    attn: "JoVABridgeAttention | JoVATextCrossAttention", rotary_emb: Rotary | None, other: Tensor
) -> tuple[Tensor, Tensor]:
    """Rotated keys and values [B, M, H, K] of the normed rows of the other modality [B, M, E]."""
    assert rotary_emb is not None
    key, value = attn.normed_keys_and_values(attn.norm_kv(other))
    return apply_rotary_emb(key, rotary_emb), value


class JoVABridgeAttnProcessor(JoVARowAttnProcessor):
    """Attention to all rows of the other modality."""

    def __call__(
        self,
        attn: "JoVABridgeAttention",
        hidden_states: Tensor,
        other: Tensor | None,
        rotary_embs: tuple[Rotary, Rotary | None],
        attention_mask: Tensor | None = None,
        kept_rows: KeptRows | None = None,
    ) -> Tensor:
        """See `JoVABridgeAttention.forward`."""
        query = apply_rotary_emb(attn.normed_queries(hidden_states), rotary_embs[0])
        project = partial(rotated_keys, attn, rotary_embs[1])
        read = kept_or_projected(kept_rows, other, project, attention_mask, query)
        return attn.to_out[0](self.attend(query, *read).flatten(2))


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
        other: Tensor | None,
        rotary_embs: tuple[Rotary, Rotary | None],
        attention_mask: Tensor | None = None,
        kept_rows: KeptRows | None = None,
    ) -> Tensor:
        """Update [B, L, D] of rows [B, L, D] that read rows [B, M, E].

        Args:
            hidden_states: Rows that read.
            other: Rows that are read; None for those that were kept.
            rotary_embs: Cosines and sines of both; None for what was kept, which is rotated.
            attention_mask: Bool [B, R, 1, M] of the rows that are read, or None.
            kept_rows: Where their keys and values are kept; None for nowhere.
        """
        return self.processor(self, hidden_states, other, rotary_embs, attention_mask, kept_rows)


class JoVABridge(JoVATowerFusion):
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
        """Rows [B, L, D] of the modalities that are present, in and out."""
        updated = dict(rows)
        for name, readers in context.readers.items():
            other = OTHER[name]
            update = getattr(self, name)(
                readers.select(rows[name]),
                readers.select(rows.get(other)),
                (context.bridge_rotary_emb[name], context.bridge_rotary_emb.get(other)),
                readers.select(context.attention_mask.get(other)),
                self.rows_for(name),
            )
            updated[name] = readers.add(rows[name], update)
        return updated


class JoVATextCrossAttnProcessor(JoVARowAttnProcessor):
    """Attention of queries that read the text as well."""

    def __call__(
        self,
        attn: "JoVATextCrossAttention",
        query: Tensor,
        other: Tensor | None,
        rotary_embs: tuple[Rotary, Rotary | None],
        attention_mask: Tensor | None = None,
        kept_rows: KeptRows | None = None,
    ) -> Tensor:
        """See `JoVATextCrossAttention.forward`."""
        query = apply_rotary_emb(query, rotary_embs[0])
        project = partial(rotated_keys, attn, rotary_embs[1])
        return self.attend(query, *kept_or_projected(kept_rows, other, project, attention_mask, query))


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
        other: Tensor | None,
        rotary_embs: tuple[Rotary, Rotary | None],
        attention_mask: Tensor | None = None,
        kept_rows: KeptRows | None = None,
    ) -> Tensor:
        """What normed queries [B, L, H, K] read from rows [B, M, E], in their shape; arguments as for the bridge."""
        return self.processor(self, query, other, rotary_embs, attention_mask, kept_rows)


class JoVATextCross(JoVATowerFusion):
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

    def forward(
        self, modality: str, other: Tensor | None, context: FusionContext, read: Tensor, query: Tensor
    ) -> Tensor:
        """Add to what the queries of a modality read from the text what they read from the other modality.

        Args:
            modality: That reads.
            other: Rows of the other modality behind its self-attention, [B, M, E]; None where it is absent.
            context: Who reads, rotations, masks.
            read: From the text, [B, L, H, K].
            query: Normed queries [B, L, H, K].
        """
        if modality not in context.readers:
            return read
        readers, other_name = context.readers[modality], OTHER[modality]
        more = getattr(self, modality)(
            readers.select(query),
            readers.select(other),
            (context.rotary_emb[modality], context.rotary_emb.get(other_name)),
            readers.select(context.attention_mask.get(other_name)),
            self.rows_for(modality),
        )
        return readers.add(read, more)
