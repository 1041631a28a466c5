"""Joint self-attention: one softmax over video, audio and text, with weights per stream.

JoVA (arXiv:2512.13677v1), Eq. 4:  [h_v; h_a; h_t] = JointAttn([h_v; h_a; h_t])

The rows lie packed as [video; video_text; audio; audio_text]: each branch (a medium and its text) is contiguous, so
cutting the coupling between the branches means two attention calls on views, never a mask. Texts of different lengths
mean a call for each run of samples with the same rows, likewise.

Letters in shapes: B batch, L packed rows on this device, R devices that share the rows, H heads, K head dimension, D
model width.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch import Tensor, nn
from torch.nn import functional as F

from .attention_processors import JoVAProcessedAttention
from .context_parallel import heads_to_rows, rows_to_heads, ulysses_group
from .kept_rows import JoVARowKeeper, KeptRows, take
from .row_spans import SpanRun, Spans, existing, put_back, span_runs
from .sample_runs import WHOLE, SampleRun, StreamLengths, grouped, readers_of_video, with_coupling
from .temporal_rope import apply_rotary_emb


Fusion = Literal["joint", "cross", "cross_linear"]


def per_stream(attended: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What `JoVAJointAttention` returned, a tuple again after a hook that returns its only entry as a lone tensor.

    TaylorSeer does so where one stream is present, in the steps that it predicts:
    https://github.com/huggingface/diffusers/blob/v0.42.1/src/diffusers/hooks/taylorseer_cache.py
    """
    return (attended,) if isinstance(attended, Tensor) else attended


class JoVARowAttnProcessor:
    """Softmax attention between rows that devices may share, on any attention backend of diffusers."""

    _attention_backend = None
    _parallel_config = None

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None = None,
        query_spans: Spans | None = None,
        key_spans: Spans | None = None,
    ) -> Tensor:
        """Softmax attention of queries [B, Lq, H, K] to keys and values [B, Lk, H, K].

        Args:
            query: Of the rows that read.
            key: Of those that are read.
            value: Likewise.
            attention_mask: Keys that are read, bool [B, R, 1, Lk]; None for all.
            query_spans: Queries that exist; the others get zeros. None for all.
            key_spans: Keys that exist; None for all.
        """
        num_queries, query = query.shape[1], existing(query, query_spans)
        key, value = existing(key, key_spans), existing(value, key_spans)
        group = ulysses_group(self._parallel_config)
        if group is not None:  # here, because diffusers' own has no gradient where Lq and Lk differ
            query, key, value = (rows_to_heads(part, group) for part in (query, key, value))
        attended = dispatch_attention_fn(
            query,
            key,
            value,
            attn_mask=None
            if attention_mask is None
            else attention_mask.flatten(1)[:, None, None],  # [B, 1, 1, R * Lk]
            backend=self._attention_backend,
            parallel_config=self._parallel_config if group is None else None,
        )
        return put_back(attended if group is None else heads_to_rows(attended, group), query_spans, num_queries)

    def attend_runs(
        self, runs: Sequence[SpanRun], query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None = None
    ) -> Tensor:
        """The same, with one call for each run of samples that has rows of its own."""
        sizes = [run.num_samples for run in runs]
        masks = [None] * len(sizes) if attention_mask is None else attention_mask.split(sizes)
        parts = zip(runs, query.split(sizes), key.split(sizes), value.split(sizes), masks, strict=True)
        return concatenated([self.attend(q, k, v, mask, *run.spans) for run, q, k, v, mask in parts])


class JoVAJointAttnProcessor(JoVARowAttnProcessor):
    """Eq. 4 and the two fusion variants of Fig. 4."""

    def __call__(
        self,
        attn: "JoVAJointAttention",
        streams: dict[str, Tensor],
        lengths: StreamLengths,
        rotary_emb: tuple[Tensor, Tensor],
        runs: tuple[SampleRun, ...],
        attention_mask: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """See `JoVAJointAttention.forward`."""
        projections = [attn.weights_of(name).project(rows) for name, rows in streams.items()]
        query, key, value = (torch.cat(parts, dim=1) for parts in zip(*projections, strict=True))  # [B, L, H, K]
        query, key = apply_rotary_emb(query, rotary_emb), apply_rotary_emb(key, rotary_emb)

        if attn.kept_rows is not None and lengths.video:
            self.keep_video(attn, attn.kept_rows, key, value, lengths, runs, attention_mask)
        if attn.kept_rows is not None and not lengths.video:
            hidden_states = self.read_kept(
                attn, attn.kept_rows, query, key, value, lengths, runs, attention_mask
            ).flatten(2)
        elif attn.fusion == "joint":
            hidden_states = self.attend_coupled(query, key, value, lengths, runs, attention_mask).flatten(2)
        else:
            own = with_coupling(runs, False)
            hidden_states = self.attend_coupled(query, key, value, lengths, own, attention_mask).flatten(2)
            hidden_states = self.add_cross_terms(attn, hidden_states, query, key, value, lengths, runs, attention_mask)

        rows_of_streams = hidden_states.split([rows.shape[1] for rows in streams.values()], dim=1)
        return tuple(
            attn.weights_of(name).to_out[0](rows) for name, rows in zip(streams, rows_of_streams, strict=True)
        )

    def attend_coupled(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        lengths: StreamLengths,
        runs: tuple[SampleRun, ...],
        attention_mask: Tensor | None,
    ) -> Tensor:
        """Attention over the packed rows [B, L, H, K], each sample with its own coupling and its own rows."""
        if 0 in lengths.branches:  # nothing to couple
            runs = with_coupling(runs, True)
        sizes = [run.num_samples for run in runs]
        masks = [None] * len(sizes) if attention_mask is None else attention_mask.split(sizes)
        parts = zip(runs, query.split(sizes), key.split(sizes), value.split(sizes), masks, strict=True)
        return concatenated([self.attend_run(run, q, k, v, lengths, mask) for run, q, k, v, mask in parts])

    def attend_run(
        self,
        run: SampleRun,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        lengths: StreamLengths,
        attention_mask: Tensor | None,
    ) -> Tensor:
        """Attention of samples that are alike: one call, or one per branch, which reads all rows or its own."""
        spans = run.spans.joined(lengths)
        if run.coupled is True:
            return self.attend(query, key, value, attention_mask, spans, spans)
        outputs = []
        start = 0
        directions = (run.coupled == "a2v", run.coupled == "v2a")
        for rows, own_spans, reads_all in zip(lengths.branches, run.spans, directions, strict=True):
            own = slice(start, start + rows)
            keys = slice(None) if reads_all else own
            mask = None if attention_mask is None else attention_mask[..., keys]
            read = key[:, keys], value[:, keys], mask, own_spans, spans if reads_all else own_spans
            outputs.append(self.attend(query[:, own], *read))
            start += rows
        return torch.cat(outputs, dim=1)

    def keep_video(
        self,
        attn: "JoVAJointAttention",
        kept_rows: KeptRows,
        key: Tensor,
        value: Tensor,
        lengths: StreamLengths,
        runs: tuple[SampleRun, ...],
        attention_mask: Tensor | None,
    ) -> None:
        """Keep what audio rows read of the video branch, for the samples that do."""
        video = slice(0, lengths.branches[0] if attn.fusion == "joint" else lengths.video)
        mask = None if attention_mask is None else attention_mask[..., video]
        readers, _ = readers_of_video(runs)
        spans = [run.spans.video for run in runs if run.audio_reads_video for _ in range(run.num_samples)]
        if readers:
            key, value, mask = take(readers, key[:, video], value[:, video], mask)
            kept_rows.keep(key, value, mask, spans if attn.fusion == "joint" else None)

    def read_kept(
        self,
        attn: "JoVAJointAttention",
        kept_rows: KeptRows,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        lengths: StreamLengths,
        runs: tuple[SampleRun, ...],
        attention_mask: Tensor | None,
    ) -> Tensor:
        """Attention of the audio branch [B, L, H, K] to itself and, where coupled, to the kept rows of video."""
        rows = (query, key, value, attention_mask)
        readers, others = readers_of_video(runs)
        if not readers or attn.fusion != "joint":
            attended = self.attend_coupled(query, key, value, lengths, runs, attention_mask)
            if not readers:
                return attended
            return self.add_kept_cross_terms(attn, kept_rows, query, attended, lengths, readers)
        spans = [run.spans.audio for run in runs for _ in range(run.num_samples)]
        own = [spans[index] for index in readers]
        query, key, value, mask = take(readers, *rows)
        key, value, mask, read_spans = kept_rows.in_front_of(key, value, mask, own)
        attended = self.attend_runs(span_runs(own, read_spans), query, key, value, mask)
        if not others:
            return attended
        own = [spans[index] for index in others]
        order = torch.tensor([*readers, *others], device=query.device).argsort()
        return torch.cat([attended, self.attend_runs(span_runs(own, own), *take(others, *rows))])[order]

    def add_kept_cross_terms(
        self,
        attn: "JoVAJointAttention",
        kept_rows: KeptRows,
        query: Tensor,
        attended: Tensor,
        lengths: StreamLengths,
        readers: Sequence[int],
    ) -> Tensor:
        """Add to audio media rows what they read from the kept ones of video by a second softmax, as below."""
        media_query = query[list(readers), : lengths.audio]
        mask = kept_rows.mask
        has_padding = mask is not None and mask.shape[1] > 1
        cross = self.attend(media_query, *kept_rows.restored(query), mask if has_padding else None)
        if attn.fusion == "cross_linear":
            cross = attn.weights_of("audio").to_cross(cross.flatten(2)).view_as(cross)
        attended = attended.clone()
        attended[list(readers), : lengths.audio] += cross
        return attended

    def add_cross_terms(
        self,
        attn: "JoVAJointAttention",
        hidden_states: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        lengths: StreamLengths,
        runs: tuple[SampleRun, ...],
        attention_mask: Tensor | None,
    ) -> Tensor:
        """Add to the media rows what they read from the other medium by a second softmax (Fig. 4 b, c).

        Deviates from Fig. 4 where it is silent: the terms are summed before the output projection, the keys are the
        other branch's media rows without its text, and queries and keys keep their norms and rotations.
        """
        if 0 in lengths.branches:
            return hidden_states
        rows = {"video": slice(0, lengths.video), "audio": slice(lengths.branches[0], sum(lengths[:3]))}
        if attention_mask is not None and attention_mask.shape[1] == 1:
            attention_mask = None  # only shards of media have padding, of which there is one
        hidden_states = hidden_states.clone()
        runs = grouped((run.coupled, WHOLE) for run in runs for _ in range(run.num_samples))  # media have all rows
        for medium, other, direction in (("video", "audio", "a2v"), ("audio", "video", "v2a")):
            start = 0
            for run in runs:
                samples = slice(start, start + run.num_samples)
                start += run.num_samples
                if run.coupled is not True and run.coupled != direction:
                    continue
                media_query = query[samples, rows[medium]]
                mask = None if attention_mask is None else attention_mask[samples, ..., rows[other]]
                cross = self.attend(media_query, key[samples, rows[other]], value[samples, rows[other]], mask)
                cross = cross.flatten(2)
                if attn.fusion == "cross_linear":
                    cross = getattr(attn, medium).to_cross(cross)
                hidden_states[samples, rows[medium]] += cross
        return hidden_states


def concatenated(parts: Sequence[Tensor]) -> Tensor:
    """Samples of several tensors [B, ...] as one; a lone tensor is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


class JoVARMSNorm(nn.RMSNorm):
    """RMS norm in the number format of its input, so that autocast finds a fused kernel."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Norm over the last axis of [..., K]."""
        return F.rms_norm(hidden_states, self.normalized_shape, self.weight.to(hidden_states.dtype), self.eps)


class JoVAStreamProjections(nn.Module):
    """Query, key, value and output projections of one stream, with RMS norms of queries and keys.

    Args:
        dim: Model width D.
        heads: Attention heads H.
        head_dim: Channels of one head K.
        eps: Epsilon of the norms.
        norm_dim: Channels that are normed together: `head_dim` for a norm per head, all of them as in Wan.
        has_cross: Whether a linear layer for the cross term exists (Fig. 4 b); it starts at zero.
        kv_dim: Width of the rows that are read; None for D.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        head_dim: int,
        eps: float,
        norm_dim: int,
        has_cross: bool = False,
        kv_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.to_q = nn.Linear(dim, heads * head_dim)
        self.to_k = nn.Linear(kv_dim or dim, heads * head_dim)
        self.to_v = nn.Linear(kv_dim or dim, heads * head_dim)
        self.norm_q = JoVARMSNorm(norm_dim, eps=eps)
        self.norm_k = JoVARMSNorm(norm_dim, eps=eps)
        self.to_out = nn.ModuleList([nn.Linear(heads * head_dim, dim)])
        if has_cross:
            self.to_cross = nn.Linear(heads * head_dim, heads * head_dim)
            nn.init.zeros_(self.to_cross.weight)
            nn.init.zeros_(self.to_cross.bias)

    def project(self, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normed queries, normed keys and values, [B, L, H, K] each, of rows [B, L, D]."""
        if hasattr(self, "to_qkv"):
            check_unadapted([self.to_q, self.to_k, self.to_v])
            query, key, value = self.to_qkv(hidden_states).chunk(3, dim=-1)
        else:
            query, key, value = self.to_q(hidden_states), self.to_k(hidden_states), self.to_v(hidden_states)
        return self.normed_heads(query, key, value)

    def normed_heads(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Norm queries and keys and split the heads: [B, L, H * K] to [B, L, H, K] each."""
        query, key = (
            normed_heads(norm, part, self.head_dim) for norm, part in ((self.norm_q, query), (self.norm_k, key))
        )
        return query, key, value.unflatten(-1, (-1, self.head_dim))

    def fuse(self) -> None:
        """Replace the three input projections by one."""
        self.to_qkv = concatenated_linear([self.to_q, self.to_k, self.to_v])


def normed_heads(norm: JoVARMSNorm, rows: Tensor, head_dim: int) -> Tensor:
    """Norm queries or keys, per head or over the full width, and split the heads: [..., H * K] to [..., H, K]."""
    return norm(rows.unflatten(-1, (-1, norm.normalized_shape[0]))).flatten(-2).unflatten(-1, (-1, head_dim))


def check_unadapted(layers: Sequence[nn.Module]) -> None:
    """Refuse to compute by a fused projection what an adapter changes in the separate ones."""
    if not all(isinstance(layer, nn.Linear) for layer in layers):
        raise ValueError(
            "projections must be separate for an adapter, got fused ones; call `unfuse_qkv_projections` first"
        )


@torch.no_grad()
def concatenated_linear(layers: Sequence[nn.Linear]) -> nn.Linear:
    """One linear layer whose output is the outputs of several, side by side.

    Raises:
        ValueError: A layer is more than its weights: it carries an adapter, or is quantised.
    """
    if others := {type(layer).__name__ for layer in layers if type(layer) is not nn.Linear}:
        raise ValueError(
            f"projections must be plain linear layers to be fused, got {', '.join(sorted(others))} of an adapter or a "
            "quantised model; make adapters part of the weights with `fuse_lora`, then `unload_lora_weights`"
        )
    weight = torch.cat([layer.weight for layer in layers])
    with torch.device(weight.device):
        joined = nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype)
    joined.weight.copy_(weight)
    joined.bias.copy_(torch.cat([layer.bias for layer in layers]))
    return joined


class JoVAStreamAttention(nn.Module, JoVAProcessedAttention):
    """Attention of several streams, each with projections of its own name; subclasses add these."""

    streams: tuple[str, ...]
    use_bias = True
    is_cross_attention = False

    def fuse_projections(self) -> None:
        """Compute queries, keys and values of each stream by one product."""
        for name in self.streams:
            getattr(self, name).fuse()
        self.fused_projections = True

    def unfuse_projections(self) -> None:
        """Return to separate projections; the weights never left."""
        for name in self.streams:
            if hasattr(getattr(self, name), "to_qkv"):
                del getattr(self, name).to_qkv
        self.fused_projections = False


class JoVAJointAttention(JoVAStreamAttention, JoVARowKeeper):
    """The only place where modalities meet.

    Args:
        dim: Model width D.
        heads: Attention heads H.
        head_dim: Channels of one head K.
        streams: Names of the streams that have weights of their own, in packed order; `("shared",)` for one set of
            weights that serves every stream.
        fusion: `"joint"`, `"cross"` or `"cross_linear"` (Fig. 4 a, c, b).
        eps: Epsilon of the query and key norms.
        norms_full_width: Whether queries and keys are normed over all heads together, as in Wan.
    """

    _default_processor_cls = JoVAJointAttnProcessor
    _available_processors = [JoVAJointAttnProcessor]
    processor: JoVAJointAttnProcessor

    def __init__(
        self,
        dim: int,
        heads: int,
        head_dim: int,
        streams: Sequence[str],
        fusion: Fusion,
        eps: float,
        norms_full_width: bool = False,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.head_dim = head_dim
        self.fusion = fusion
        self.streams = tuple(streams)
        norm_dim = heads * head_dim if norms_full_width else head_dim
        for name in streams:
            has_cross = fusion == "cross_linear" and name in ("video", "audio")
            self.add_module(name, JoVAStreamProjections(dim, heads, head_dim, eps, norm_dim, has_cross))
        self.processor = JoVAJointAttnProcessor()

    def forward(
        self,
        streams: dict[str, Tensor],
        lengths: StreamLengths,
        rotary_emb: tuple[Tensor, Tensor],
        runs: tuple[SampleRun, ...],
        attention_mask: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Attend jointly.

        Args:
            streams: Normed rows [B, rows, D] of every stream that is present, in packed order.
            lengths: Rows of the four streams.
            rotary_emb: Cosines and sines of the packed rows, [L, K/2] each.
            runs: Which modalities read each other and which rows exist, per run of samples.
            attention_mask: Bool [B, R, 1, L], False for padding, of the shards of R devices; None where there is none.

        Returns:
            The projected rows [B, rows, D] of every stream in `streams`, in its order.
        """
        return self.processor(self, streams, lengths, rotary_emb, runs, attention_mask)

    @property
    def kept_heads(self) -> tuple[int, int]:
        """Heads and their dimension; all are kept."""
        return self.heads, self.head_dim

    def weights_of(self, stream: str) -> JoVAStreamProjections:
        """Projections of a stream, its own or the shared ones."""
        projections: JoVAStreamProjections = getattr(self, "shared" if "shared" in self.streams else stream)
        return projections
