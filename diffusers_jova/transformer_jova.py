"""JoVATransformer3DModel: two hybrid-stream diffusion transformers that meet in one joint self-attention per block.

JoVA (arXiv:2512.13677v1), Sec. 3.1 and 3.2, Fig. 2, on the block design of its backbone, Waver (README of
FoundationVision/Waver; sizes in arXiv:2605.30325, App. C). A video and an audio branch run side by side. In the first
M blocks each medium and its text have weights of their own (dual stream, four streams); in the next N blocks a medium
and its text share one set (single stream, two streams). All streams attend jointly in every block.

What the paper leaves open is decided here: query and key norms per head, the split and base of the rotary frequencies,
the sizes of the learned positions, and text features that pass a two-layer projection per encoder and are concatenated
along the sequence. With these choices the parameters add up to the sizes that the papers state.

Letters in shapes: B batch, C channels, F latent frames, H, W latent height and width, L rows of a stream or of all
streams packed, S text tokens, D model width, N noise levels of one sample.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models._modeling_parallel import ContextParallelInput, ContextParallelOutput, ParallelConfig
from diffusers.models.attention import FeedForward
from diffusers.models.embeddings import PixArtAlphaTextProjection, TimestepEmbedding, Timesteps
from diffusers.models.modeling_utils import get_parameter_dtype
from torch import Tensor, nn
from torch.nn import functional as F

from .adapter_scale import with_adapter_scale
from .context_parallel import key_mask
from .joint_attention import (
    Fusion,
    JoVAJointAttention,
    per_stream,
)
from .joint_transformer import (
    MODALITIES as MODALITIES,  # for those who look for it here
)
from .joint_transformer import (
    JoVATransformerMixin,
    JoVATransformerOutput,
    ModalityInput,
    check_positions,
    describe_arguments,
)
from .modulation import Modulation, modulated_norm, select_level
from .row_spans import Spans, TextLengths, joined_spans, mask_of
from .sample_runs import BranchSpans, Coupling, SampleRun, StreamLengths, sample_runs
from .temporal_rope import (
    JoVARotaryPosEmbed,
    TemporalAlignment,
    media_positions,
    text_positions,
)


DUAL_STREAMS = ("video", "video_text", "audio", "audio_text")  # packed order
SINGLE_STREAMS = MODALITIES  # each with its text


class NoiseLevels(NamedTuple):
    """Embedded timesteps of one branch.

    Args:
        temb: One embedding per distinct noise level, [B, N, D].
        media_level: Index of the noise level of each media row, [L].
        text_level: Index of the noise level of each text row, [S].
    """

    temb: Tensor
    media_level: Tensor
    text_level: Tensor

    def at_media(self, values: Tensor) -> Tensor:
        """Values per noise level [B, N, D] at the media rows: [B, L, D], or [B, 1, D] if there is one level."""
        return select_level(values, self.media_level)

    def per_stream(self, has_own_text: bool) -> tuple[Tensor, ...]:
        """Levels of the media and of the text rows, or of both packed."""
        levels = self.media_level, self.text_level
        return levels if has_own_text else (torch.cat(levels),)


class BranchRows(NamedTuple):
    """One branch, embedded.

    Args:
        media: Media rows [B, L, D].
        text: Text rows [B, S, D].
        levels: Noise levels.
        position: Learned positions of the media rows [L, D].
    """

    media: Tensor
    text: Tensor
    levels: NoiseLevels
    position: Tensor


class BlockContext(NamedTuple):
    """What every block reads besides the packed rows.

    Args:
        lengths: Rows of the four streams.
        levels: Noise levels of the branches that are present, by name.
        position: Learned positions of the packed rows, zero for text, [L, D].
        rotary_emb: Cosines and sines of the packed rows, [L, K/2] each.
        runs: Which modalities read each other and which rows exist, per run of samples.
        attention_mask: Bool [B, R, 1, L] of the shards of R devices, or None.
    """

    lengths: StreamLengths
    levels: dict[str, NoiseLevels]
    position: Tensor
    rotary_emb: tuple[Tensor, Tensor]
    runs: tuple[SampleRun, ...]
    attention_mask: Tensor | None


class JoVAVideoPatchEmbedding(nn.Module):
    """Latent patches to rows: [B, C, F, H, W] -> [B, L, D]."""

    def __init__(self, in_channels: int, dim: int, patch_size: tuple[int, int, int]) -> None:
        super().__init__()
        self.proj = nn.Conv3d(in_channels, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Rows in frame-major order."""
        return self.proj(hidden_states).flatten(2).transpose(1, 2)


class JoVATextEmbedding(nn.Module):
    """Features of one or two text encoders to rows, concatenated along the sequence: [B, S, D]."""

    def __init__(self, text_dim: int, text_dim_2: int | None, dim: int) -> None:
        super().__init__()
        self.proj = PixArtAlphaTextProjection(text_dim, dim)
        if text_dim_2 is not None:
            self.proj_2 = PixArtAlphaTextProjection(text_dim_2, dim)

    def forward(self, features: Tensor, features_2: Tensor | None = None) -> Tensor:
        """Features [B, S1, text_dim] and, with a second encoder, [B, S2, text_dim_2]."""
        if (features_2 is None) == hasattr(self, "proj_2"):
            rule = "be given for a model with" if features_2 is None else "be None for a model without"
            raise ValueError(f"`encoder_hidden_states_2` must {rule} `text_dim_2`; use its own text encoders")
        rows = self.proj(features)
        return rows if features_2 is None else torch.cat([rows, self.proj_2(features_2)], dim=1)


class JoVATimestepEmbedding(nn.Module):
    """Timesteps to activated embeddings, one per distinct noise level; text follows the noisiest latent."""

    def __init__(self, dim: int, frequency_dim: int = 256) -> None:
        super().__init__()
        self.time_proj = Timesteps(num_channels=frequency_dim, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedder = TimestepEmbedding(frequency_dim, dim)

    def forward(self, timestep: Tensor, num_media_rows: int, num_text_rows: int) -> tuple[Tensor, Tensor, Tensor]:
        """Embed timesteps [B] or, one per latent, [B, N]; see `NoiseLevels` for what is returned."""
        media_level = torch.zeros(num_media_rows, dtype=torch.long, device=timestep.device)
        text_level = torch.zeros(num_text_rows, dtype=torch.long, device=timestep.device)
        if timestep.ndim == 2:
            num_latents = timestep.shape[1]
            media_level = torch.arange(num_latents, device=timestep.device)
            media_level = media_level.repeat_interleave(num_media_rows // num_latents)
            text_level = text_level + num_latents
            timestep = torch.cat([timestep, timestep.amax(1, keepdim=True)], dim=1)  # [B, N]
        else:
            timestep = timestep[:, None]
        frequencies = self.time_proj(timestep.float().flatten())  # float32: rounding a timestep moves the output
        temb = self.time_embedder(frequencies.to(get_parameter_dtype(self.time_embedder)))
        return F.silu(temb).unflatten(0, timestep.shape), media_level, text_level


class JoVAPositionTables(nn.Module):
    """One learned table [size, D] per axis; a module of its own because a `ParameterList` breaks offloading.

    Args:
        sizes: Entries of the table of each axis.
        dim: Model width D.
    """

    def __init__(self, sizes: tuple[int, ...], dim: int) -> None:
        super().__init__()
        for axis, size in enumerate(sizes):
            self.register_parameter(str(axis), nn.Parameter(torch.randn(size, dim) * 0.02))

    def forward(self, grid: tuple[int, ...]) -> Tensor:
        """Sums of the tables' entries at every point of a grid, the last axis fastest: [L, D]."""
        position = self.get_parameter("0")[: grid[0]]
        for axis, size in enumerate(grid[1:], start=1):
            position = position[..., None, :] + self.get_parameter(str(axis))[:size]
        return position.flatten(0, -2)


class JoVAPositionEmbedding(nn.Module):
    """Factorised learned position: the sum of one table per axis, at the integer grid of the media rows, [L, D].

    Args:
        table_sizes: Entries of the table of each axis.
        dim: Model width D.
    """

    def __init__(self, table_sizes: tuple[int, ...], dim: int) -> None:
        super().__init__()
        self.table_sizes = tuple(table_sizes)
        self.tables = JoVAPositionTables(self.table_sizes, dim)

    def forward(self, grid: tuple[int, ...]) -> Tensor:
        """Positions of a grid with `grid` rows per axis, the last axis fastest."""
        if any(size > limit for size, limit in zip(grid, self.table_sizes, strict=True)):
            latents, field = "latents", "position_table_sizes"
            if len(grid) == 1:
                latents, field = "audio latents", "audio_position_table_size"
            raise ValueError(
                f"{latents} must have at most {list(self.table_sizes)} rows per axis (`{field}`), "
                f"got {list(grid)}; generate a shorter or smaller clip"
            )
        return self.tables(grid)


class JoVABranchEmbedding(nn.Module):
    """Everything in front of the blocks that one branch owns.

    Args:
        media_embedding: Latents to rows [B, L, D].
        table_sizes: Sizes of the learned position tables of the medium.
        text_dim: Width of the first text encoder's features.
        text_dim_2: Width of the second's; None if there is no second.
        dim: Model width D.
    """

    def __init__(
        self,
        media_embedding: nn.Module,
        table_sizes: tuple[int, ...],
        text_dim: int,
        text_dim_2: int | None,
        dim: int,
    ) -> None:
        super().__init__()
        self.patch_embedding = media_embedding
        self.text_embedding = JoVATextEmbedding(text_dim, text_dim_2, dim)
        self.time_embedding = JoVATimestepEmbedding(dim)
        self.position_embedding = JoVAPositionEmbedding(table_sizes, dim)

    def forward(self, branch: ModalityInput) -> BranchRows:
        """Embed latents, their timesteps and the branch's text."""
        media = self.patch_embedding(branch.latents)
        text = self.text_embedding(*branch.text.features)
        temb, media_level, text_level = self.time_embedding(branch.timestep, branch.num_rows, branch.text.num_rows)
        levels = NoiseLevels(temb.to(media.dtype), media_level, text_level)
        return BranchRows(media, text, levels, self.position_embedding(branch.grid))


class JoVAHead(nn.Module):
    """Everything behind the blocks that one branch owns: modulated norm and projection, zero at the start."""

    def __init__(self, dim: int, out_features: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.modulation = nn.Linear(dim, 2 * dim)
        self.proj_out = nn.Linear(dim, out_features)
        for layer in (self.modulation, self.proj_out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, media: Tensor, levels: NoiseLevels) -> Tensor:
        """Media rows [B, L, D] to velocities [B, L, out_features]."""
        shift, scale = levels.at_media(self.modulation(levels.temb)).chunk(2, dim=-1)
        return self.proj_out(modulated_norm(media, shift, scale, self.eps))


class JoVAModulation(nn.Module):
    """adaLN-Zero of one stream: six values of width D per noise level, zero at the start."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, 6 * dim)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, temb: Tensor, level: Tensor) -> Modulation:
        """Embeddings [B, N, D] and the levels [L] of the stream's rows."""
        return Modulation(*(select_level(part, level) for part in self.linear(temb).chunk(6, dim=-1)))


class JoVATransformerBlock(nn.Module):
    """Joint self-attention, then a feed-forward network per stream, in sequence.

    JoVA (arXiv:2512.13677v1), Eq. 1:  h' = SA(h) + h,  h'' = FFN(h') + h'

    With four streams it is the dual-stream block of Fig. 2, with two the single-stream block.

    Args:
        streams: Streams with weights of their own, in packed order.
        dim: Model width D.
        heads: Attention heads.
        head_dim: Channels of one head.
        fusion: `"joint"`, `"cross"` or `"cross_linear"` (Fig. 4).
        eps: Epsilon of all norms.
    """

    def __init__(
        self, streams: Sequence[str], dim: int, heads: int, head_dim: int, fusion: Fusion, eps: float
    ) -> None:
        super().__init__()
        self.eps = eps
        self.streams = tuple(streams)
        self.attn = JoVAJointAttention(dim, heads, head_dim, streams, fusion, eps)
        self.ff = nn.ModuleDict({name: FeedForward(dim, activation_fn="gelu-approximate") for name in streams})
        self.modulation = nn.ModuleDict({name: JoVAModulation(dim) for name in streams})

    def forward(self, hidden_states: Tensor, context: BlockContext) -> Tensor:
        """Packed rows [B, L, D] in and out."""
        rows = context.lengths.rows_of(self.streams)
        parts = (hidden_states + context.position).split(list(rows.values()), dim=1)
        streams = dict(zip(rows, parts, strict=True))
        modulation = self.modulate(context)

        # 1. Joint self-attention
        normed = {
            name: modulated_norm(x, modulation[name].attn_shift, modulation[name].attn_scale, self.eps)
            for name, x in streams.items()
        }
        attended = self.attn(normed, context.lengths, context.rotary_emb, context.runs, context.attention_mask)

        # 2. Feed-forward network of each stream
        outputs = []
        for (name, x), attention in zip(streams.items(), per_stream(attended), strict=True):
            mod = modulation[name]
            x = torch.addcmul(x, mod.attn_gate, attention)
            ff_output = self.ff[name](modulated_norm(x, mod.ff_shift, mod.ff_scale, self.eps))
            outputs.append(torch.addcmul(x, mod.ff_gate, ff_output))
        return torch.cat(outputs, dim=1)

    def modulate(self, context: BlockContext) -> dict[str, Modulation]:
        """Modulation of every stream that is present."""
        modulation = {}
        has_own_text = len(self.streams) == len(DUAL_STREAMS)
        for branch, levels in context.levels.items():
            names = (branch, f"{branch}_text") if has_own_text else (branch,)
            for name, level in zip(names, levels.per_stream(has_own_text), strict=True):
                modulation[name] = self.modulation[name](levels.temb, level)
        return modulation


class JoVATransformer3DModel(JoVATransformerMixin, ModelMixin, ConfigMixin):
    """Joint video and audio diffusion transformer of JoVA (arXiv:2512.13677v1), Fig. 2.

    Args:
        in_channels: Video channels in: noisy latent, condition-image latent, mask of what is given.
        out_channels: Video channels out, those of the video VAE.
        audio_in_channels: Channels of the audio latents.
        num_layers: Dual-stream blocks M.
        num_single_layers: Single-stream blocks N.
        num_attention_heads: Heads of each stream.
        attention_head_dim: Channels of one head; model width D = heads * channels.
        patch_size: Latents per row along (frames, height, width).
        text_dim: Width of the first text encoder's features.
        text_dim_2: Width of the second's; None for a single text encoder.
        rope_axes_dim: Channels of a head that rotate with (t, h, w).
        rope_theta: Base of the rotary frequencies.
        temporal_alignment: How audio positions follow from the audio index: `"time"` (exact), a factor, or `"none"`.
        temporal_compression_ratio: Frames per video latent of the video VAE, after its first.
        position_table_sizes: Longest learnable grid of video rows (frames, height, width).
        audio_position_table_size: Longest learnable run of audio latents.
        fusion: How the modalities meet: `"joint"`, `"cross"` or `"cross_linear"` (Fig. 4 a, c, b).
        eps: Epsilon of all norms.
    """

    _no_split_modules = ["JoVATransformerBlock", "JoVABranchEmbedding", "JoVAHead"]
    _repeated_blocks = ["JoVATransformerBlock"]
    _keep_in_fp32_modules = ["time_embedder"]
    _skip_layerwise_casting_patterns = ["embed", "norm", "head"]
    # Every stream is padded and split where it is embedded and gathered at its head; blocks measure lengths between.
    _cp_plan = {
        **{
            f"embed.{branch}.{module}": {0: ContextParallelInput(split_dim=1, expected_dims=3, split_output=True)}
            for branch in MODALITIES
            for module in ("patch_embedding", "text_embedding")
        },
        **{
            f"embed.{branch}.time_embedding": {
                index: ContextParallelInput(split_dim=0, expected_dims=1, split_output=True) for index in (1, 2)
            }
            for branch in MODALITIES
        },
        **{
            f"embed.{branch}.position_embedding": {
                0: ContextParallelInput(split_dim=0, expected_dims=2, split_output=True)
            }
            for branch in MODALITIES
        },
        "rope": {index: ContextParallelInput(split_dim=0, expected_dims=2, split_output=True) for index in (0, 1)},
        "head.video.proj_out": ContextParallelOutput(gather_dim=1, expected_dims=3),
        "head.audio.proj_out": ContextParallelOutput(gather_dim=1, expected_dims=3),
    }

    @register_to_config
    def __init__(
        self,
        in_channels: int = 36,
        out_channels: int = 16,
        audio_in_channels: int = 20,
        num_layers: int = 16,
        num_single_layers: int = 40,
        num_attention_heads: int = 24,
        attention_head_dim: int = 128,
        patch_size: tuple[int, int, int] = (1, 2, 2),
        text_dim: int = 4096,
        text_dim_2: int | None = 5120,
        rope_axes_dim: tuple[int, int, int] = (44, 42, 42),
        rope_theta: float = 10000.0,
        temporal_alignment: TemporalAlignment = "time",
        temporal_compression_ratio: int = 4,
        position_table_sizes: tuple[int, int, int] = (64, 128, 128),
        audio_position_table_size: int = 512,
        fusion: Fusion = "joint",
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.check_sizes()
        check_positions(rope_axes_dim, attention_head_dim, temporal_alignment)
        if fusion not in ("joint", "cross", "cross_linear"):
            raise ValueError(f"`fusion` must be 'joint', 'cross' or 'cross_linear', got {fusion!r}")
        dim = num_attention_heads * attention_head_dim

        # 1. Embeddings
        text_dims = (text_dim, text_dim_2)
        video_embedding = JoVAVideoPatchEmbedding(in_channels, dim, patch_size)
        audio_embedding = nn.Linear(audio_in_channels, dim)
        self.embed = nn.ModuleDict(
            {
                "video": JoVABranchEmbedding(video_embedding, position_table_sizes, *text_dims, dim),
                "audio": JoVABranchEmbedding(audio_embedding, (audio_position_table_size,), *text_dims, dim),
            }
        )
        self.rope = JoVARotaryPosEmbed(rope_axes_dim, rope_theta)

        # 2. Blocks
        sizes = (dim, num_attention_heads, attention_head_dim, fusion, eps)
        self.transformer_blocks = nn.ModuleList(JoVATransformerBlock(DUAL_STREAMS, *sizes) for _ in range(num_layers))
        self.single_transformer_blocks = nn.ModuleList(
            JoVATransformerBlock(SINGLE_STREAMS, *sizes) for _ in range(num_single_layers)
        )

        # 3. Heads
        self.head = nn.ModuleDict(
            {
                "video": JoVAHead(dim, out_channels * math.prod(patch_size), eps),
                "audio": JoVAHead(dim, audio_in_channels, eps),
            }
        )
        self.gradient_checkpointing = False

    @with_adapter_scale
    @describe_arguments(
        encoder_hidden_states="Features of the first text encoder, [B, S, text_dim].",
        encoder_hidden_states_2="Features of the second text encoder, [B, S2, text_dim_2].",
        encoder_attention_mask="Bool over the concatenated text [B, S + S2], False for padding. Pass None where "
        "nothing is padded, or give `text_lengths`: every attention backend is then available.",
        audio_encoder_hidden_states_2="Second features of the text that audio reads.",
    )
    def forward(
        self,
        hidden_states: Tensor | None,
        audio_hidden_states: Tensor | None,
        encoder_hidden_states: Tensor,
        timestep: Tensor,
        audio_timestep: Tensor | None = None,
        encoder_hidden_states_2: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        audio_encoder_hidden_states: Tensor | None = None,
        audio_encoder_hidden_states_2: Tensor | None = None,
        audio_encoder_attention_mask: Tensor | None = None,
        *,
        text_lengths: TextLengths | None = None,
        audio_text_lengths: TextLengths | None = None,
        frame_rate: float,
        audio_latent_rate_hz: float,
        coupled: Coupling | Sequence[Coupling] = True,
        attention_kwargs: dict[str, Any] | None = None,
        return_dict: bool = True,
    ) -> JoVATransformerOutput | tuple[Tensor | None, Tensor | None]:
        """Predict the velocity, noise - data, of both modalities.

        Either modality may be absent (None): the model is then a video or an audio model.
        """
        inputs = self.read_inputs(
            (hidden_states, audio_hidden_states),
            (timestep, audio_timestep),
            (encoder_hidden_states, encoder_hidden_states_2, encoder_attention_mask, text_lengths),
            (
                audio_encoder_hidden_states,
                audio_encoder_hidden_states_2,
                audio_encoder_attention_mask,
                audio_text_lengths,
            ),
            attention_kwargs,
        )

        # 1. Embed each branch; with context parallelism every stream is a shard from here on
        rows: dict[str, BranchRows] = {branch: self.embed[branch](part) for branch, part in inputs.items()}
        lengths = stream_lengths(rows)

        # 2. Positions on the common clock
        rotary_emb = self.rotate(inputs, frame_rate, audio_latent_rate_hz)

        # 3. Pack [video; video_text; audio; audio_text]
        packed = torch.cat([part for branch in rows.values() for part in (branch.media, branch.text)], dim=1)
        context = BlockContext(
            lengths=lengths,
            levels={branch: part.levels for branch, part in rows.items()},
            position=pack_positions(rows).to(packed.dtype),
            rotary_emb=rotary_emb,
            runs=sample_runs(coupled, packed.shape[0], self.spans(inputs)),
            attention_mask=pack_attention_mask(inputs, packed, self._parallel_config),
        )

        # 4. Blocks
        for block in (*self.transformer_blocks, *self.single_transformer_blocks):
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                packed = self._gradient_checkpointing_func(block, packed, context)
            else:
                packed = block(packed, context)

        # 5. Heads
        streams = dict(zip(DUAL_STREAMS, packed.split(list(lengths), dim=1), strict=True))
        velocities = {branch: self.head[branch](streams[branch], part.levels) for branch, part in rows.items()}
        return self.join_outputs(velocities, inputs, return_dict)

    def spans(self, inputs: Mapping[str, ModalityInput]) -> list[BranchSpans] | None:
        """Rows of each sample that exist; None where all do, or where a mask tells it."""
        texts = {branch: part.text.spans for branch, part in inputs.items() if part.text.spans is not None}
        if not texts or needs_mask(inputs, self._parallel_config):
            return None
        branches = {}
        for branch, spans in texts.items():
            part = inputs[branch]
            branches[branch] = [joined_spans([(None, part.num_rows), (own, part.text.num_rows)]) for own in spans]
        nothing: list[Spans | None] = [None] * len(next(iter(branches.values())))
        per_sample = zip(*(branches.get(branch, nothing) for branch in MODALITIES), strict=True)
        return [BranchSpans(*own) for own in per_sample]

    def rotate(
        self, inputs: Mapping[str, ModalityInput], frame_rate: float, audio_latent_rate_hz: float
    ) -> tuple[Tensor, Tensor]:
        """Rotary embedding of the packed rows, [L, K/2] each, from positions on the common clock."""
        angles = []
        for branch, part in inputs.items():
            device = part.text.features[0].device
            clock = (self.config.temporal_alignment, frame_rate, audio_latent_rate_hz)
            positions = media_positions(branch, part.grid, *clock, self.config.temporal_compression_ratio, device)
            angles.append(self.rope(positions))
            angles.append(self.rope(text_positions(part.text.num_rows, device)))
        cos, sin = (torch.cat(parts) for parts in zip(*angles, strict=True))
        return cos, sin


def stream_lengths(rows: dict[str, BranchRows]) -> StreamLengths:
    """Rows of the four streams; 0 for those of an absent branch."""
    sizes = {branch: (part.media.shape[1], part.text.shape[1]) for branch, part in rows.items()}
    return StreamLengths(*sizes.get("video", (0, 0)), *sizes.get("audio", (0, 0)))


def pack_positions(rows: dict[str, BranchRows]) -> Tensor:
    """Learned positions of the packed rows [L, D]: those of the media, zero for text."""
    parts = []
    for branch in rows.values():
        parts += [branch.position, branch.position.new_zeros(branch.text.shape[1:])]
    return torch.cat(parts)


def needs_mask(inputs: Mapping[str, ModalityInput], parallel_config: ParallelConfig | None) -> bool:
    """Whether a mask tells which rows exist: where devices share them, or where a text comes with one."""
    return parallel_config is not None or any(part.text.mask is not None for part in inputs.values())


def pack_attention_mask(
    inputs: Mapping[str, ModalityInput], packed: Tensor, parallel_config: ParallelConfig | None
) -> Tensor | None:
    """Key mask of the packed rows, bool [B, R, 1, L], False for padding; None where nothing is padded."""
    masks: dict[str, Tensor | None] = {}
    num_rows: dict[str, int] = {}
    for branch, part in inputs.items():
        masks |= {branch: None, f"{branch}_text": part.text.mask}
        if part.text.spans is not None and needs_mask(inputs, parallel_config):
            masks[f"{branch}_text"] = mask_of(part.text.spans, part.text.num_rows, packed.device)
        num_rows |= {branch: part.num_rows, f"{branch}_text": part.text.num_rows}
    return key_mask(masks, num_rows, packed.shape[0], packed.device, parallel_config)
