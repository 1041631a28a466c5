"""Parts of a Wan tower: what its blocks read besides rows, its attentions, modulation and ends.

Letters in shapes: B batch, L rows of a modality, S text tokens, H heads, K head dimension, D model width, N noise
levels of one sample.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch import Tensor, nn

from .attention_processors import JoVAProcessedAttention
from .joint_attention import (
    JoVARMSNorm,
    JoVARowAttnProcessor,
    JoVAStreamAttention,
    JoVAStreamProjections,
    check_unadapted,
    concatenated,
    concatenated_linear,
    normed_heads,
)
from .modulation import Modulation, modulated_norm, select_level
from .row_spans import SpanRun, existing
from .temporal_rope import apply_rotary_emb
from .wan_embeddings import JoVAWanConditionEmbedder


Rotary = tuple[Tensor, Tensor]  # cosines and sines, [L, K/2] each


class TextCondition(NamedTuple):
    """Embedded text of one modality.

    Args:
        rows: Rows [B, S, D].
        mask: Bool [B, 1, 1, S], False for padding; None where every row is read, or where there are runs.
        runs: Rows that exist, per run of samples; None where every row is read, or where there is a mask.
    """

    rows: Tensor
    mask: Tensor | None
    runs: tuple[SpanRun, ...] | None


class NoiseCondition(NamedTuple):
    """Embedded timesteps of one modality.

    Args:
        temb: One embedding per distinct noise level, [B, N, D].
        modulation: Their projection for the blocks, [B, N, 6, D].
        level: Index of the noise level of each row, [L].
    """

    temb: Tensor
    modulation: Tensor
    level: Tensor

    def at_rows(self, values: Tensor) -> Tensor:
        """Values per noise level [B, N, D] at the rows: [B, L, D], or [B, 1, D] if there is one level."""
        return select_level(values, self.level)


def gated_sum(hidden_states: Tensor, gate: Tensor, update: Tensor) -> Tensor:
    """Rows plus gate times update in float32, [B, L, D]; the number format of the rows stays."""
    return torch.addcmul(hidden_states.float(), gate.float(), update.float()).type_as(hidden_states)


class JoVARowLevels(nn.Module):
    """Index of the noise level of each row; a module, because context parallelism splits the outputs of modules."""

    def forward(self, timestep: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Levels [L] of the rows on a grid: all 0 for timesteps [B], one per latent for timesteps [B, N]."""
        latent = torch.arange(grid[0], device=timestep.device).repeat_interleave(math.prod(grid[1:]))
        return latent if timestep.ndim == 2 else torch.zeros_like(latent)


class JoVAWanHead(nn.Module):
    """Modulated norm and projection of rows.

    Args:
        dim: Model width D.
        out_features: Values per row.
        eps: Epsilon of the norm.
    """

    def __init__(self, dim: int, out_features: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.scale_shift_table = nn.Parameter(torch.randn(1, 2, dim) / dim**0.5)
        self.proj_out = nn.Linear(dim, out_features)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def forward(self, rows: Tensor, noise: NoiseCondition) -> Tensor:
        """Rows [B, L, D] to [B, L, out_features]."""
        modulation = self.scale_shift_table.float() + noise.temb.float()[:, :, None]  # [B, N, 2, D]
        shift, scale = (noise.at_rows(part) for part in modulation.unbind(2))
        return self.proj_out(modulated_norm(rows, shift, scale, self.eps))


class JoVAWanEnds(JoVAWanHead):
    """What one modality owns in front of the blocks and behind them; called, it is the head.

    Args:
        patch_embedding: Latents to rows [B, L, D].
        condition_embedder: Of timesteps and text; None if both modalities share one.
        dim: Model width D.
        out_features: Values that the head predicts per row.
        eps: Epsilon of the norm.
    """

    def __init__(
        self,
        patch_embedding: nn.Module,
        condition_embedder: JoVAWanConditionEmbedder | None,
        dim: int,
        out_features: int,
        eps: float,
    ) -> None:
        super().__init__(dim, out_features, eps)
        self.patch_embedding = patch_embedding
        if condition_embedder is not None:
            self.condition_embedder = condition_embedder


class JoVAWanModulation(nn.Module):
    """A block's own addition to the projected timesteps: six values of width D per noise level."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale_shift_table = nn.Parameter(torch.randn(1, 6, dim) / dim**0.5)

    def forward(self, noise: NoiseCondition) -> Modulation:
        """Shift, scale and gate of both halves of a block per noise level, [B, N, D] each, float32."""
        return Modulation(*(self.scale_shift_table.float() + noise.modulation.float()).unbind(2))


class JoVAWanCrossAttnProcessor:
    """Cross-attention to text on any attention backend of diffusers; text is whole on every device."""

    _attention_backend = None
    _parallel_config = None

    def __call__(
        self,
        attn: "JoVAWanCrossAttention",
        hidden_states: Tensor,
        text: Tensor,
        attention_mask: Tensor | None = None,
        text_runs: tuple[SpanRun, ...] | None = None,
        rotary_embs: tuple[Rotary, Rotary] | None = None,
        read_more: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> Tensor:
        """See `JoVAWanCrossAttention.forward`."""
        query, key, value = attn.project_both(hidden_states, text)
        rotated = query, key
        if rotary_embs is not None:
            rotated = apply_rotary_emb(query, rotary_embs[0]), apply_rotary_emb(key, rotary_embs[1])
        read = self.attend(*rotated, value, attention_mask, text_runs)
        if read_more is not None:
            read = read_more(read, query)
        return attn.to_out[0](read.flatten(2))

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        text_runs: tuple[SpanRun, ...] | None,
    ) -> Tensor:
        """Attention of queries [B, L, H, K] to text [B, S, H, K], one call for each run of texts of equal length."""
        if text_runs is None:
            read: Tensor = dispatch_attention_fn(
                query, key, value, attn_mask=attention_mask, backend=self._attention_backend
            )
            return read
        sizes = [run.num_samples for run in text_runs]
        parts = zip(text_runs, query.split(sizes), key.split(sizes), value.split(sizes), strict=True)
        read_parts = [
            dispatch_attention_fn(q, *(existing(part, *run.spans) for part in (k, v)), backend=self._attention_backend)
            for run, q, k, v in parts
        ]
        return concatenated(read_parts)


class JoVAKeyValueMixin(JoVAProcessedAttention):
    """Keys and values of other rows than the queries' come from layers that may be fused."""

    use_bias = True
    is_cross_attention = True
    head_dim: int
    to_k: nn.Linear
    to_v: nn.Linear
    norm_k: JoVARMSNorm

    def keys_and_values(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [..., H * K] of rows, before norms."""
        if hasattr(self, "to_kv"):
            check_unadapted([self.to_k, self.to_v])
            key, value = self.to_kv(rows).chunk(2, dim=-1)
            return key, value
        return self.to_k(rows), self.to_v(rows)

    def normed_keys_and_values(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Normed keys and values [B, L, H, K] of rows [B, L, D]."""
        key, value = self.keys_and_values(rows)
        return normed_heads(self.norm_k, key, self.head_dim), value.unflatten(-1, (-1, self.head_dim))

    def fuse_projections(self) -> None:
        """Compute keys and values by one product."""
        self.to_kv = concatenated_linear([self.to_k, self.to_v])
        self.fused_projections = True

    def unfuse_projections(self) -> None:
        """Return to separate projections; the weights never left."""
        if hasattr(self, "to_kv"):
            del self.to_kv
        self.fused_projections = False


class JoVAWanCrossAttention(JoVAStreamProjections, JoVAKeyValueMixin):
    """Rows of a modality read the text; queries and keys are normed over the full width.

    Args:
        dim: Model width D.
        heads: Attention heads.
        head_dim: Channels of one head.
        eps: Epsilon of the query and key norms.
        kv_dim: Width of the rows that are read; None for D.
    """

    _default_processor_cls: type[Any] = JoVAWanCrossAttnProcessor
    _available_processors: list[type[Any]] = [JoVAWanCrossAttnProcessor]
    processor: Any

    def __init__(self, dim: int, heads: int, head_dim: int, eps: float, kv_dim: int | None = None) -> None:
        super().__init__(dim, heads, head_dim, eps, norm_dim=heads * head_dim, kv_dim=kv_dim)
        self.heads = heads
        self.processor = self._default_processor_cls()

    def forward(
        self,
        hidden_states: Tensor,
        text: Tensor,
        attention_mask: Tensor | None = None,
        text_runs: tuple[SpanRun, ...] | None = None,
        rotary_embs: tuple[Rotary, Rotary] | None = None,
        read_more: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Read text.

        Args:
            hidden_states: Rows [B, L, D].
            text: Text rows [B, S, D].
            attention_mask: Bool [B, 1, 1, S], False for text rows that are not read.
            text_runs: Text rows that exist, per run of samples; None for all.
            rotary_embs: Cosines and sines of the rows, [L, K/2] each, and of the text; None rotates nothing.
            read_more: Adds to what was read [B, L, H, K] what the normed queries of that shape read besides the text.

        Returns:
            Rows [B, L, D].
        """
        return self.processor(self, hidden_states, text, attention_mask, text_runs, rotary_embs, read_more)

    def project_both(self, hidden_states: Tensor, text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normed queries of rows [B, L, D], normed keys and values of text [B, S, D]; heads split."""
        return self.normed_queries(hidden_states), *self.normed_keys_and_values(text)

    def normed_queries(self, hidden_states: Tensor) -> Tensor:
        """Normed queries [B, L, H, K] of rows [B, L, D]."""
        return normed_heads(self.norm_q, self.to_q(hidden_states), self.head_dim)


class Tower(NamedTuple):
    """Sizes of one tower.

    Args:
        dim: Width D.
        heads: Attention heads.
        ffn_dim: Hidden width of the feed-forward networks.
        num_layers: Blocks.
    """

    dim: int
    heads: int
    ffn_dim: int
    num_layers: int


class JoVATowerAttnProcessor(JoVARowAttnProcessor):
    """Self-attention of each tower."""

    def __call__(
        self,
        attn: "JoVATowerAttention",
        streams: dict[str, Tensor],
        rotary_emb: dict[str, Rotary],
        attention_mask: dict[str, Tensor | None],
    ) -> tuple[Tensor, ...]:
        """See `JoVATowerAttention.forward`."""
        attended = []
        for name, rows in streams.items():
            projections = getattr(attn, name)
            query, key, value = projections.project(rows)
            query, key = (apply_rotary_emb(part, rotary_emb[name]) for part in (query, key))
            read = self.attend(query, key, value, attention_mask[name])
            attended.append(projections.to_out[0](read.flatten(2)))
        return tuple(attended)


class JoVATowerAttention(JoVAStreamAttention):
    """Self-attention of the towers in one block, called once for both.

    Args:
        towers: Sizes of those that have this block.
        head_dim: Channels of one head K.
        eps: Epsilon of the query and key norms.
    """

    _default_processor_cls = JoVATowerAttnProcessor
    _available_processors = [JoVATowerAttnProcessor]
    processor: JoVATowerAttnProcessor

    def __init__(self, towers: Mapping[str, Tower], head_dim: int, eps: float) -> None:
        super().__init__()
        self.streams = tuple(towers)
        for name, tower in towers.items():
            norm_dim = tower.heads * head_dim
            self.add_module(name, JoVAStreamProjections(tower.dim, tower.heads, head_dim, eps, norm_dim))
        self.processor = JoVATowerAttnProcessor()

    def forward(
        self,
        streams: dict[str, Tensor],
        rotary_emb: dict[str, Rotary],
        attention_mask: dict[str, Tensor | None],
    ) -> tuple[Tensor, ...]:
        """Attend in each tower.

        Args:
            streams: Normed rows [B, L, D] of every tower that is present.
            rotary_emb: Cosines and sines of the rows.
            attention_mask: Bool [B, R, 1, L], or None.

        Returns:
            The projected rows of every tower in `streams`, in its order.
        """
        return self.processor(self, streams, rotary_emb, attention_mask)
