"""JoVAWanTransformer3DModel: joint self-attention over video and audio on Wan blocks, for open weights.

Every block is Wan's (Wan-Video/Wan2.1): modulated self-attention, cross-attention to text without a gate, modulated
feed-forward network; one projection of the timestep, D -> 6 D, serves all blocks, and each adds a table of its own.
The self-attention is JoVA's (arXiv:2512.13677v1, Eq. 4) over the packed rows [video; audio]; text is only read.

Parameters bear diffusers' names for Wan with their owner put in: `blocks.0.attn1.video.to_q` is Wan's
`blocks.0.attn1.to_q`. An owner is `video`, `audio`, or `shared`, whose one module serves both modalities.

Letters in shapes: B batch, C channels, F latent frames, H, W latent height and width, L rows of a modality or of both
packed, S text tokens, D model width, N noise levels of one sample.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models._modeling_parallel import ContextParallelInput, ContextParallelOutput
from diffusers.models.attention import FeedForward
from diffusers.models.normalization import FP32LayerNorm
from torch import Tensor, nn

from .adapter_scale import with_adapter_scale
from .context_parallel import key_mask
from .joint_attention import (
    JoVAJointAttention,
    per_stream,
)
from .joint_transformer import (
    MODALITIES,
    JoVATransformerMixin,
    JoVATransformerOutput,
    ModalityInput,
    check_positions,
    describe_arguments,
)
from .latent_rows import check_tensor
from .modulation import modulated_norm
from .row_spans import TextLengths, span_runs
from .sample_runs import Coupling, SampleRun, StreamLengths, sample_runs
from .temporal_rope import (
    JoVARotaryPosEmbed,
    TemporalAlignment,
    media_positions,
)
from .wan_embeddings import (
    JoVASpeakerEmbedding,
    JoVAWanConditionEmbedder,
    JoVAWanPatchEmbedding,
    Voices,
    audio_patch_embedding,
)
from .wan_tower import (
    JoVARowLevels,
    JoVAWanCrossAttention,
    JoVAWanEnds,
    JoVAWanModulation,
    NoiseCondition,
    TextCondition,
    gated_sum,
)


SharedPart = Literal["condition_embedder", "attention", "feed_forward", "modulation"]
BLOCK_PARTS = get_args(SharedPart)[1:]


class BlockContext(NamedTuple):
    """What every block reads besides the packed rows; dictionaries hold the modalities that are present.

    Args:
        lengths: Rows of both modalities.
        noise: Noise levels.
        text: Text.
        rotary_emb: Cosines and sines of the packed rows, [L, K/2] each.
        runs: Which modalities read each other and which rows exist, per run of samples.
        attention_mask: Bool [B, R, 1, L] of the shards of R devices, False for padding; None where there is none.
    """

    lengths: StreamLengths
    noise: dict[str, NoiseCondition]
    text: dict[str, TextCondition]
    rotary_emb: tuple[Tensor, Tensor]
    runs: tuple[SampleRun, ...]
    attention_mask: Tensor | None


class PerModality(nn.ModuleDict):
    """One module for each modality, or one that serves both.

    Args:
        make: Builds one module.
        is_shared: Whether one module serves both.
    """

    def __init__(self, make: Callable[[], nn.Module], is_shared: bool) -> None:
        super().__init__({owner: make() for owner in (("shared",) if is_shared else MODALITIES)})

    def of(self, modality: str) -> nn.Module:
        """The module that serves a modality."""
        return self[modality] if modality in self else self["shared"]


class JoVAWanTransformerBlock(nn.Module):
    """Wan's block for two modalities that meet in its self-attention.

    Args:
        dim: Model width D.
        ffn_dim: Hidden width of the feed-forward network.
        heads: Attention heads.
        head_dim: Channels of one head.
        shared_parts: Which of `BLOCK_PARTS` serve both modalities.
        eps: Epsilon of all norms.
    """

    def __init__(
        self, dim: int, ffn_dim: int, heads: int, head_dim: int, shared_parts: Collection[str], eps: float
    ) -> None:
        super().__init__()
        self.eps = eps
        shares_attention, shares_ffn, shares_modulation = (part in shared_parts for part in BLOCK_PARTS)
        owners = ("shared",) if shares_attention else MODALITIES
        self.attn1 = JoVAJointAttention(dim, heads, head_dim, owners, "joint", eps, norms_full_width=True)
        self.attn2 = PerModality(lambda: JoVAWanCrossAttention(dim, heads, head_dim, eps), shares_attention)
        self.norm2 = PerModality(lambda: FP32LayerNorm(dim, eps), shares_ffn)
        self.ffn = PerModality(
            lambda: FeedForward(dim, inner_dim=ffn_dim, activation_fn="gelu-approximate"), shares_ffn
        )
        self.modulation = PerModality(lambda: JoVAWanModulation(dim), shares_modulation)

    def forward(self, hidden_states: Tensor, context: BlockContext) -> Tensor:
        """Packed rows [B, L, D] in and out."""
        rows = context.lengths.rows_of(MODALITIES)
        streams = dict(zip(rows, hidden_states.split(list(rows.values()), dim=1), strict=True))
        modulation = {name: self.modulation.of(name)(noise) for name, noise in context.noise.items()}

        # 1. Joint self-attention; values are spread over rows where they are used, because six of them are large
        normed = {}
        for name, x in streams.items():
            mod, noise = modulation[name], context.noise[name]
            normed[name] = modulated_norm(x, noise.at_rows(mod.attn_shift), noise.at_rows(mod.attn_scale), self.eps)
        attended = self.attn1(normed, context.lengths, context.rotary_emb, context.runs, context.attention_mask)

        # 2. Cross-attention to text and feed-forward network of each modality
        outputs = []
        for (name, x), attention in zip(streams.items(), per_stream(attended), strict=True):
            mod, noise, text = modulation[name], context.noise[name], context.text[name]
            x = gated_sum(x, noise.at_rows(mod.attn_gate), attention)
            x = x + self.attn2.of(name)(self.norm2.of(name)(x), text.rows, text.mask, text.runs)
            ff_input = modulated_norm(x, noise.at_rows(mod.ff_shift), noise.at_rows(mod.ff_scale), self.eps)
            outputs.append(gated_sum(x, noise.at_rows(mod.ff_gate), self.ffn.of(name)(ff_input)))
        return torch.cat(outputs, dim=1)


class JoVAWanTransformer3DModel(JoVATransformerMixin, ModelMixin, ConfigMixin):
    """Joint video and audio diffusion transformer on Wan blocks: twin towers of Wan and Ovi, or NAVA.

    Args:
        in_channels: Video channels in.
        out_channels: Video channels out, those of the video VAE.
        audio_in_channels: Channels of the audio latents.
        num_layers: Blocks.
        num_attention_heads: Heads of each modality.
        attention_head_dim: Channels of one head; model width D = heads * channels.
        ffn_dim: Hidden width of the feed-forward networks.
        patch_size: Latents per row along (frames, height, width).
        text_dim: Width of the text encoder's features.
        freq_dim: Width of the sinusoidal embedding of a timestep.
        audio_embedding: `"linear"`, `"mlp"` (two layers), or `"conv"`, the convolutions of Ovi and NAVA.
        shared_layers: Indices of the blocks whose weights all serve both modalities.
        shared_parts: What serves both modalities in the other blocks as well: `"attention"` (to itself and to text),
            `"feed_forward"` (with the norm before cross-attention), `"modulation"`; or in front of them:
            `"condition_embedder"`.
        speaker_dim: Width of speaker embeddings; None for a model without.
        rope_axes_dim: Channels of a head that rotate with (t, h, w).
        rope_theta: Base of the rotary frequencies.
        temporal_alignment: How audio positions follow from the audio index: `"time"` (exact), a factor (Ovi 0.19676,
            NAVA 0.24), or `"none"`.
        temporal_compression_ratio: Frames per video latent of the video VAE, after its first.
        eps: Epsilon of all norms.
    """

    _no_split_modules = ["JoVAWanTransformerBlock", "JoVAWanConditionEmbedder"]
    _repeated_blocks = ["JoVAWanTransformerBlock"]
    _keep_in_fp32_modules = ["time_embedder", "scale_shift_table", "norm2"]
    _skip_layerwise_casting_patterns = ["patch_embedding", "condition_embedder", "speaker", "norm", "proj_out"]
    # Media rows are padded and split where they are embedded and gathered at their head; text stays whole everywhere.
    _cp_plan = {
        **{
            f"{modality}.patch_embedding": {0: ContextParallelInput(split_dim=1, expected_dims=3, split_output=True)}
            for modality in MODALITIES
        },
        "row_levels": {0: ContextParallelInput(split_dim=0, expected_dims=1, split_output=True)},
        "rope": {index: ContextParallelInput(split_dim=0, expected_dims=2, split_output=True) for index in (0, 1)},
        "video.proj_out": ContextParallelOutput(gather_dim=1, expected_dims=3),
        "audio.proj_out": ContextParallelOutput(gather_dim=1, expected_dims=3),
    }

    @register_to_config
    def __init__(
        self,
        in_channels: int = 48,
        out_channels: int = 48,
        audio_in_channels: int = 20,
        num_layers: int = 30,
        num_attention_heads: int = 24,
        attention_head_dim: int = 128,
        ffn_dim: int = 14336,
        patch_size: tuple[int, int, int] = (1, 2, 2),
        text_dim: int = 4096,
        freq_dim: int = 256,
        audio_embedding: Literal["linear", "mlp", "conv"] = "linear",
        shared_layers: Sequence[int] = (),
        shared_parts: Sequence[SharedPart] = (),
        speaker_dim: int | None = None,
        rope_axes_dim: tuple[int, int, int] = (44, 42, 42),
        rope_theta: float = 10000.0,
        temporal_alignment: TemporalAlignment = "time",
        temporal_compression_ratio: int = 4,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.check_sizes()
        check_positions(rope_axes_dim, attention_head_dim, temporal_alignment)
        check_sharing(num_layers, shared_layers, shared_parts)
        dim = num_attention_heads * attention_head_dim

        # 1. Embeddings and heads
        embedder_sizes = (freq_dim, text_dim, dim)
        shares_conditions = "condition_embedder" in shared_parts
        if shares_conditions:
            self.shared = nn.ModuleDict({"condition_embedder": JoVAWanConditionEmbedder(*embedder_sizes)})
        patch_embeddings = {
            "video": JoVAWanPatchEmbedding(in_channels, dim, kernel_size=patch_size, stride=patch_size),
            "audio": audio_patch_embedding(audio_embedding, audio_in_channels, dim),
        }
        out_features = {"video": out_channels * math.prod(patch_size), "audio": audio_in_channels}
        for name in MODALITIES:
            own_embedder = None if shares_conditions else JoVAWanConditionEmbedder(*embedder_sizes)
            self.add_module(name, JoVAWanEnds(patch_embeddings[name], own_embedder, dim, out_features[name], eps))
        if speaker_dim is not None:
            self.speaker_embedding = JoVASpeakerEmbedding(speaker_dim, dim)
        self.row_levels = JoVARowLevels()
        self.rope = JoVARotaryPosEmbed(rope_axes_dim, rope_theta)

        # 2. Blocks
        sizes = (dim, ffn_dim, num_attention_heads, attention_head_dim)
        self.blocks = nn.ModuleList(
            JoVAWanTransformerBlock(*sizes, BLOCK_PARTS if index in shared_layers else shared_parts, eps)
            for index in range(num_layers)
        )
        self.gradient_checkpointing = False

    @with_adapter_scale
    @describe_arguments(
        encoder_hidden_states="Text features [B, S, text_dim]. Wan, Ovi and NAVA expect 512 rows, zeros behind the "
        "end of the text.",
        encoder_hidden_states_2="None; there is no second text encoder.",
        encoder_attention_mask="Bool [B, S], False for text rows that are not read; None reads all, as released "
        "weights do.",
        audio_encoder_hidden_states_2="None, too.",
        speaker_embeds="Voices [B, P, speaker_dim]; zeros for an unknown voice.",
        speaker_positions="Text rows that the voices replace, [B, P]; -1 leaves a voice out.",
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
        speaker_embeds: Tensor | None = None,
        speaker_positions: Tensor | None = None,
        attention_kwargs: dict[str, Any] | None = None,
        return_dict: bool = True,
    ) -> JoVATransformerOutput | tuple[Tensor | None, Tensor | None]:
        """Predict the velocity, noise - data, of both modalities.

        Either modality may be absent (None): the model is then a video or an audio model.
        """
        if encoder_hidden_states_2 is not None or audio_encoder_hidden_states_2 is not None:
            raise ValueError("`encoder_hidden_states_2` must be None, got features; this model has one text encoder")
        inputs = self.read_inputs(
            (hidden_states, audio_hidden_states),
            (timestep, audio_timestep),
            (encoder_hidden_states, None, encoder_attention_mask, text_lengths),
            (audio_encoder_hidden_states, None, audio_encoder_attention_mask, audio_text_lengths),
            attention_kwargs,
        )
        voices = None if speaker_embeds is None else self.embed_voices(speaker_embeds, speaker_positions)

        # 1. Embed each modality; with context parallelism its rows are a shard from here on
        rows = {name: getattr(self, name).patch_embedding(part.latents) for name, part in inputs.items()}
        noise, text = {}, {}
        for name, part in inputs.items():
            noise[name], text[name] = self.condition(name, part, voices)

        # 2. Pack [video; audio] on the common clock
        packed = torch.cat(list(rows.values()), dim=1)
        whole_lengths = {name: part.num_rows for name, part in inputs.items()}
        num_rows = [rows[name].shape[1] if name in rows else 0 for name in MODALITIES]
        context = BlockContext(
            lengths=StreamLengths(video=num_rows[0], video_text=0, audio=num_rows[1], audio_text=0),
            noise=noise,
            text=text,
            rotary_emb=self.rotate(inputs, frame_rate, audio_latent_rate_hz, packed.device),
            runs=sample_runs(coupled, packed.shape[0]),
            attention_mask=key_mask(
                dict.fromkeys(inputs), whole_lengths, packed.shape[0], packed.device, self._parallel_config
            ),
        )

        # 3. Blocks
        for block in self.blocks:
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                packed = self._gradient_checkpointing_func(block, packed, context)
            else:
                packed = block(packed, context)

        # 4. Heads
        parts = packed.split([part.shape[1] for part in rows.values()], dim=1)
        velocities = {name: getattr(self, name)(part, noise[name]) for name, part in zip(rows, parts, strict=True)}
        return self.join_outputs(velocities, inputs, return_dict)

    def condition(
        self, modality: str, part: ModalityInput, voices: Voices | None
    ) -> tuple[NoiseCondition, TextCondition]:
        """Embed what the blocks read besides the rows of a modality."""
        owner: Any = self.shared if "condition_embedder" in self.config.shared_parts else getattr(self, modality)
        levels = part.timestep if part.timestep.ndim == 2 else part.timestep[:, None]  # [B, N]
        temb, modulation, text = owner.condition_embedder(levels, part.text.features_1)
        if voices is not None:
            text = voices.put_into(text)
        text_mask = None if part.text.mask is None else part.text.mask.bool()[:, None, None]
        text_runs = None if part.text.spans is None else span_runs(part.text.spans)
        noise = NoiseCondition(temb, modulation, self.row_levels(part.timestep, part.grid))
        return noise, TextCondition(text, text_mask, text_runs)

    def embed_voices(self, speaker_embeds: Tensor, speaker_positions: Tensor | None) -> Voices:
        """Embed voices [B, P, speaker_dim] for the text rows [B, P] that they replace."""
        check_tensor("speaker_embeds", speaker_embeds)
        if self.config.speaker_dim is None or speaker_positions is None:
            raise ValueError(
                f"`speaker_embeds` must come with `speaker_positions`, for a model with `speaker_dim`, got "
                f"{list(speaker_embeds.shape)} for `speaker_dim` = {self.config.speaker_dim}"
            )
        check_tensor("speaker_positions", speaker_positions)
        return Voices(self.speaker_embedding(speaker_embeds), speaker_positions)

    def rotate(
        self,
        inputs: Mapping[str, ModalityInput],
        frame_rate: float,
        audio_latent_rate_hz: float,
        device: torch.device,
    ) -> tuple[Tensor, Tensor]:
        """Rotary embedding of the packed rows, [L, K/2] each, from positions on the common clock."""
        angles = []
        for modality, part in inputs.items():
            clock = (self.config.temporal_alignment, frame_rate, audio_latent_rate_hz)
            positions = media_positions(modality, part.grid, *clock, self.config.temporal_compression_ratio, device)
            angles.append(self.rope(positions))
        cos, sin = (torch.cat(parts) for parts in zip(*angles, strict=True))
        return cos, sin


def check_sharing(num_layers: int, shared_layers: Sequence[int], shared_parts: Sequence[str]) -> None:
    """Refuse blocks and parts that do not exist."""
    if unknown := [part for part in shared_parts if part not in get_args(SharedPart)]:
        raise ValueError(f"`shared_parts` must be among {list(get_args(SharedPart))}, got {unknown}")
    if outside := [index for index in shared_layers if not 0 <= index < num_layers]:
        raise ValueError(f"`shared_layers` must be indices of the {num_layers} blocks, got {outside}")
