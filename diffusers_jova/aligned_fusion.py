"""UniAVGen's fusion: each modality reads the part of the other that lies at its time (arXiv:2511.03334, Eq. 3 to 9).

A video row reads a window of audio rows around its latent; an audio row reads the video rows of its latent, or of two
latents in proportion, weighed by a mask of the face. Rows in front of the clip (references) take no part, and given
rows are read but not updated.

Letters in shapes: B batch, F latent frames of the clip, P rows of one latent frame, L audio rows of the clip, W rows
of an audio window, H heads, K head dimension, D width of the modality that reads, E width of the other one.
"""

import math
from functools import partial
from typing import NamedTuple, Protocol

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch import Tensor, distributed, nn

from .context_parallel import gather_rows, heads_to_rows, rows_to_heads, ulysses_group
from .joint_attention import normed_heads
from .kept_rows import KeptRows, kept_or_projected
from .reference_rows import ClipRows
from .temporal_rope import JoVARotaryPosEmbed, apply_rotary_emb, video_positions
from .tower_fusion import JoVATowerFusion, Readers
from .wan_tower import JoVAWanCrossAttention, JoVAWanHead, NoiseCondition, Rotary


WINDOW_MARGIN = 2  # frames before and behind those of a latent


class Alignment(NamedTuple):
    """Which rows of a clip read which, and how both rotate.

    Args:
        clip: Rows of the clip by modality.
        num_latent_frames: F.
        window: Audio rows that the rows of each latent frame read, [F, W].
        lower: Latent of the frame at or before each audio row, [L]; F stands for twice the last latent.
        upper: Latent of the frame behind it, [L].
        share: Of the upper latent in what an audio row reads, [L].
        video_rotary_emb: Of the video rows by height and width, [F * P, K/2] each.
        window_rotary_emb: Of the rows of a window by their place in it, [W, K/2] each.
    """

    clip: dict[str, ClipRows]
    num_latent_frames: int
    window: Tensor
    lower: Tensor
    upper: Tensor
    share: Tensor
    video_rotary_emb: Rotary
    window_rotary_emb: Rotary


class AlignmentContext(Protocol):
    """What the fusion reads besides the rows; dictionaries hold the modalities that are present."""

    @property
    def readers(self) -> dict[str, Readers]:
        """Who reads, by the modality that reads."""

    @property
    def noise(self) -> dict[str, NoiseCondition]:
        """Noise levels."""

    @property
    def is_updated(self) -> dict[str, Tensor]:
        """Bool [B, rows], False for references and for what is given."""

    @property
    def alignment(self) -> Alignment | None:
        """Which rows read which; None where a modality is absent."""


def audio_windows(num_audio: int, num_latent_frames: int, frames_per_latent: int) -> list[list[int]]:
    """Audio rows that the rows of each latent frame read (Eq. 3): those of its frames and of two on each side.

    All windows have the length of the longest. A shorter one is filled up outside the clip where it reaches beyond
    it, else on both sides; rows outside the clip are its first or last one.

    Args:
        num_audio: L.
        num_latent_frames: F.
        frames_per_latent: Frames of every latent but the first, which has one.
    """
    ratio = num_audio / (frames_per_latent * (num_latent_frames - 1) + 1)  # audio rows per frame
    before, behind = math.floor(WINDOW_MARGIN * ratio), math.ceil(WINDOW_MARGIN * ratio)
    spans = [(-before, 1 + behind)]
    for latent in range(1, num_latent_frames):
        first = frames_per_latent * (latent - 1) + 1
        spans.append((math.floor(first * ratio) - before, math.ceil((first + frames_per_latent) * ratio) + behind))
    length = max(end - start for start, end in spans[1:] or spans)
    windows = []
    for start, end in spans:
        missing = length - (end - start)
        fill = missing if start < 0 else 0 if end > num_audio else missing // 2  # of it in front
        windows.append([min(max(row, 0), num_audio - 1) for row in range(start - fill, start - fill + length)])
    return windows


def interpolation(
    num_audio: int, num_latent_frames: int, frames_per_latent: int
) -> tuple[list[int], list[int], list[float]]:
    """Latents that each audio row reads (Eq. 4), before and behind it, and the share of the second.

    In the last frame the weights of the released code add up to 2, not to 1: its rows read the last latent doubled. It
    is kept, as latent F; so all weights add up to 1 here and layers with a bias may come before the interpolation.
    """
    num_frames = frames_per_latent * (num_latent_frames - 1) + 1

    def latent_of(frame: int) -> int:
        return (frame + frames_per_latent - 1) // frames_per_latent

    lower, upper, share = [], [], []
    for row in range(num_audio):
        position = row / (num_audio / num_frames)
        frame = min(math.floor(position), num_frames - 1)
        is_last = frame == num_frames - 1
        lower.append(num_latent_frames if is_last else latent_of(frame))
        upper.append(num_latent_frames if is_last else latent_of(frame + 1))
        share.append(0.0 if is_last else position - frame)
    return lower, upper, share


class JoVAAlignment(nn.Module):
    """Tables of a clip, whole on every device.

    Args:
        rope_axes_dim: Channels of a head that rotate with (t, h, w).
        theta: Base of the frequencies.
        frames_per_latent: Frames of every latent but the first.
    """

    def __init__(self, rope_axes_dim: tuple[int, int, int], theta: float, frames_per_latent: int) -> None:
        super().__init__()
        self.temporal_pairs = rope_axes_dim[0] // 2
        self.frames_per_latent = frames_per_latent
        self.video_rope = JoVARotaryPosEmbed(rope_axes_dim, theta)
        self.window_rope = JoVARotaryPosEmbed((sum(rope_axes_dim), 0, 0), theta)

    def forward(self, clip: dict[str, ClipRows], video_grid: tuple[int, ...], device: torch.device) -> Alignment:
        """Tables for the grid of the video, that of a reference in front included, and the rows of `clip`."""
        _, height, width = video_grid
        frames = clip["video"].num_rows // (height * width)
        sizes = (clip["audio"].num_rows, frames, self.frames_per_latent)
        window = torch.tensor(audio_windows(*sizes), device=device)
        lower, upper, share = (torch.tensor(part, device=device) for part in interpolation(*sizes))
        positions = video_positions(frames, height, width, device)
        places = torch.zeros(window.shape[1], 3, device=device)
        places[:, 0] = torch.arange(window.shape[1], device=device)
        cos, sin = self.window_rope(places)  # of the audio tower, on the pairs by which video rows rotate in time
        turns = torch.arange(cos.shape[1], device=device) < self.temporal_pairs
        return Alignment(
            clip=clip,
            num_latent_frames=frames,
            window=window,
            lower=lower,
            upper=upper,
            share=share,
            video_rotary_emb=self.video_rope(positions * positions.new_tensor([0.0, 1.0, 1.0])),
            window_rotary_emb=(torch.where(turns, cos, 1.0), torch.where(turns, sin, 0.0)),
        )


class JoVAWindowAttnProcessor:
    """Attention of video rows to the audio window of their latent frame (Eq. 3), on any attention backend."""

    _attention_backend = None
    _parallel_config = None

    def __call__(
        self, attn: "JoVAWindowAttention", hidden_states: Tensor, other: Tensor, mask: Tensor, alignment: Alignment
    ) -> Tensor:
        """See `JoVAWindowAttention.forward`."""
        query, key, value = attn.project_both(hidden_states, other)
        group = ulysses_group(self._parallel_config)
        if group is not None:
            query, key, value = (rows_to_heads(part, group) for part in (query, key, value))
        num_all, num_frames = query.shape[1], alignment.num_latent_frames
        query = apply_rotary_emb(alignment.clip["video"].cut(query), alignment.video_rotary_emb)
        query = query.unflatten(1, (num_frames, -1)).flatten(0, 1)  # [B * F, P, H, K]
        key, value = (
            alignment.clip["audio"].cut(part)[:, alignment.window].flatten(0, 1) for part in (key, value)
        )  # [B * F, W, H, K]
        key = apply_rotary_emb(key, alignment.window_rotary_emb)
        read = dispatch_attention_fn(query, key, value, backend=self._attention_backend)
        read = read.unflatten(0, (-1, num_frames)).flatten(1, 2)
        read = alignment.clip["video"].put_back(read, num_all)
        if group is not None:
            read = heads_to_rows(read, group)
        return attn.to_out[0](mask * read.flatten(2))


class JoVAWindowAttention(JoVAWanCrossAttention):
    """Video rows read audio; arguments as in `JoVAWanCrossAttention`."""

    _default_processor_cls = JoVAWindowAttnProcessor
    _available_processors = [JoVAWindowAttnProcessor]

    def forward(  # type: ignore[override]
        self, hidden_states: Tensor, other: Tensor, mask: Tensor, alignment: Alignment
    ) -> Tensor:
        """Update of video rows (Eq. 3, 9): the mask [B, rows, 1] weighs what the output layer projects, bias left out.

        Args:
            hidden_states: Video rows [B, rows, D].
            other: Audio rows [B, rows, E].
            mask: Of the face.
            alignment: Which rows read which.
        """
        return self.processor(self, hidden_states, other, mask, alignment)


class JoVALatentAttnProcessor:
    """Attention of audio rows to the video latents at their time (Eq. 5), on any attention backend."""

    _attention_backend = None
    _parallel_config = None

    def __call__(
        self,
        attn: "JoVALatentAttention",
        hidden_states: Tensor,
        other: Tensor | None,
        alignment: Alignment,
        kept_rows: KeptRows | None = None,
    ) -> Tensor:
        """See `JoVALatentAttention.forward`."""
        group = ulysses_group(self._parallel_config)
        query = attn.normed_queries(hidden_states)
        if group is not None:
            query = rows_to_heads(query, group)
        num_all = query.shape[1]
        query = alignment.clip["audio"].cut(query)

        # 1. Project latents, then mix them: equal to projecting what each audio row reads, at a fraction of the cost
        project = partial(self.project_latents, attn, alignment)
        key, value, _ = kept_or_projected(kept_rows, other, project, None, query)
        key, value = (alignment_mix(part.flatten(2), alignment) for part in (key, value))  # [B, L, P, H * K]
        key, value = normed_heads(attn.norm_k, key, attn.head_dim), value.unflatten(-1, (-1, attn.head_dim))
        if group is not None:
            ranks = distributed.get_world_size(group)
            key, value = (part.chunk(ranks, dim=3)[distributed.get_rank(group)] for part in (key, value))

        # 2. Every audio row reads rows of its own
        key, value = key.flatten(0, 1), value.flatten(0, 1)  # [B * L, P, H, K]
        num_positions = key.shape[1]
        cos, sin = (part[:num_positions] for part in alignment.video_rotary_emb)  # the same in every latent frame
        key = apply_rotary_emb(key, (cos, sin))
        read = dispatch_attention_fn(query.flatten(0, 1)[:, None], key, value, backend=self._attention_backend)
        read = alignment.clip["audio"].put_back(read[:, 0].unflatten(0, (-1, query.shape[1])), num_all)
        if group is not None:
            read = heads_to_rows(read, group)
        return attn.to_out[0](read.flatten(2))

    def project_latents(
        self, attn: "JoVALatentAttention", alignment: Alignment, other: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Keys, not yet normed, and values [B, (F + 1) * P, H, K] of the clip's latents and twice the last of them."""
        if (group := ulysses_group(self._parallel_config)) is not None:
            other = gather_rows(other, group)
        latents = alignment.clip["video"].cut(other)  # [B, F * P, E]
        num_positions = latents.shape[1] // alignment.num_latent_frames
        latents = torch.cat([latents, 2 * latents[:, -num_positions:]], dim=1)
        key, value = (part.unflatten(-1, (-1, attn.head_dim)) for part in attn.keys_and_values(latents))
        return key, value


def alignment_mix(latents: Tensor, alignment: Alignment) -> Tensor:
    """What each audio row reads of projected latents [B, (F + 1) * P, D]: [B, L, P, D]."""
    latents = latents.unflatten(1, (alignment.num_latent_frames + 1, -1))
    share = alignment.share.to(latents.dtype)[:, None, None]
    return torch.lerp(latents[:, alignment.lower], latents[:, alignment.upper], share)


class JoVALatentAttention(JoVAWanCrossAttention):
    """Audio rows read video; arguments as in `JoVAWanCrossAttention`."""

    _default_processor_cls = JoVALatentAttnProcessor
    _available_processors = [JoVALatentAttnProcessor]

    def forward(  # type: ignore[override]
        self,
        hidden_states: Tensor,
        other: Tensor | None,
        alignment: Alignment,
        kept_rows: KeptRows | None = None,
    ) -> Tensor:
        """Update [B, rows, D] of audio rows [B, rows, D] that read masked video rows [B, rows, E].

        Args:
            hidden_states: Audio rows.
            other: Video rows; None for those that were kept.
            alignment: Which rows read which.
            kept_rows: Where the keys and values of video latents are kept; None for nowhere.
        """
        return self.processor(self, hidden_states, other, alignment, kept_rows)


class JoVAAlignedFusion(JoVATowerFusion):
    """Both modalities read each other at their time, before either is updated (Eq. 6, 7, 9).

    Args:
        dims: Width of each modality.
        heads: Heads of each modality.
        head_dim: Channels of one head.
        eps: Epsilon of all norms.
    """

    num_more_frames = 1  # twice the last

    def __init__(self, dims: dict[str, int], heads: dict[str, int], head_dim: int, eps: float) -> None:
        super().__init__()
        self.video = JoVAWindowAttention(dims["video"], heads["video"], head_dim, eps, kv_dim=dims["audio"])
        self.audio = JoVALatentAttention(dims["audio"], heads["audio"], head_dim, eps, kv_dim=dims["video"])
        self.mask_head = JoVAWanHead(dims["video"], 1, eps)
        for attention in (self.video, self.audio):  # coupled towers start as towers alone
            for parameter in attention.to_out.parameters():
                nn.init.zeros_(parameter)

    def face_mask(self, rows: Tensor, noise: NoiseCondition) -> Tensor:
        """Share of a face in each video row (Eq. 8), [B, rows, 1] from [B, rows, D]; the noise level modulates it."""
        return torch.sigmoid(self.mask_head(rows, noise))

    def forward(self, rows: dict[str, Tensor], mask: Tensor | None, context: AlignmentContext) -> dict[str, Tensor]:
        """Rows [B, rows, D] of the modalities that are present, in and out; the mask is that of the video rows."""
        alignment, updated = self.alignment_of(context), dict(rows)
        for name, readers in context.readers.items():
            video, audio, weights = (readers.select(part) for part in (rows.get("video"), rows["audio"], mask))
            if name == "video":
                update = self.video(video, audio, weights, alignment)
            else:
                masked = None if video is None or weights is None else weights * video
                update = self.audio(audio, masked, alignment, self.rows_for(name))
            keeps = ~readers.select(context.is_updated[name])[..., None]
            updated[name] = readers.add(rows[name], update.masked_fill(keeps, 0))
        return updated

    def alignment_of(self, context: AlignmentContext) -> Alignment | None:
        """Which rows read which: in a step without video rows that of the step which has kept them."""
        if self.kept_rows is None:
            return context.alignment
        if context.alignment is not None:
            self.kept_rows.alignment = context.alignment
        alignment: Alignment | None = self.kept_rows.alignment
        return alignment
