"""JoVADualTowerTransformer3DModel: two towers of Wan blocks that read each other outside of their self-attention.

Each tower has a width, depth and heads of its own, and computes what a Wan model of its size computes. A fusion
couples them: `"bridge"` (MOVA, in front of a block), `"aligned"` (UniAVGen, behind a block), `"text_cross"` (Ovi,
inside the attention to text). A block takes and returns the rows of both towers packed as units, whose width divides
the widths of both.

Parameters bear the names of `JoVAWanTransformer3DModel`; `blocks.0.fusion.video` is what video rows read audio by.

Letters in shapes: B batch, C channels, F latent frames, H, W latent height and width, L rows of a modality, S text
tokens, D width of a tower, U width of a unit, K head dimension, N noise levels of one sample.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models._modeling_parallel import ContextParallelInput, ContextParallelOutput
from diffusers.models.attention import FeedForward
from diffusers.models.normalization import FP32LayerNorm
from torch import Tensor, nn

from .adapter_scale import with_adapter_scale
from .aligned_fusion import Alignment, JoVAAlignedFusion, JoVAAlignment
from .context_parallel import check_whole_rows, key_mask
from .joint_attention import per_stream
from .joint_transformer import (
    MODALITIES,
    JoVATransformerMixin,
    JoVATransformerOutput,
    ModalityInput,
    check_positions,
    describe_arguments,
)
from .latent_rows import pack, unpack
from .modulation import modulated_norm
from .number_arguments import check_flags, finite_number
from .reference_rows import ClipRows, JoVAUpdatedRows, with_references
from .row_spans import TextLengths, span_runs
from .sample_runs import OTHER, Coupling
from .sound_cache import JoVACacheConfig
from .temporal_rope import JoVARotaryPosEmbed, TemporalAlignment, media_positions
from .tower_fusion import JoVABridge, JoVATextCross, JoVATowerFusion, Readers, readers_of
from .wan_embeddings import JoVAWanConditionEmbedder, JoVAWanPatchEmbedding, audio_patch_embedding
from .wan_tower import (
    JoVARowLevels,
    JoVATowerAttention,
    JoVAWanCrossAttention,
    JoVAWanEnds,
    JoVAWanModulation,
    NoiseCondition,
    Rotary,
    TextCondition,
    Tower,
    gated_sum,
)


LOW_NOISE = "video_low"  # owner of the weights of a second video tower
TowerFusion = Literal["bridge", "aligned", "text_cross"]
TIMESTEPS = 1000  # timestep of sigma 1
FUSIONS = {"bridge": JoVABridge, "aligned": JoVAAlignedFusion, "text_cross": JoVATextCross}


class BlockContext(NamedTuple):
    """What every block reads besides the packed rows; dictionaries hold the modalities that are present.

    Args:
        owner: Tower that serves the modality in this step.
        num_rows: Rows on this device.
        noise: Noise levels.
        text: Text.
        text_rotary_embs: Rotations of rows and text in the attention to text; without a modality that rotates neither.
        rotary_emb: Cosines and sines of the rows in the self-attention, [L, K/2] each.
        bridge_rotary_emb: The same for a bridge; empty without one.
        attention_mask: Bool [B, R, 1, L] of the shards of R devices, False for padding; None where there is none.
        readers: Samples that read the other modality, by the modality that reads.
        is_updated: Bool [B, L], False for rows that an aligned fusion leaves alone; empty for others.
        alignment: Which rows of an aligned fusion read which; None for others, or where a modality is absent.
        returns_face_mask: Whether blocks with a face mask return it beside the rows.
    """

    owner: dict[str, str]
    num_rows: dict[str, int]
    noise: dict[str, NoiseCondition]
    text: dict[str, TextCondition]
    text_rotary_embs: dict[str, tuple[Rotary, Rotary]]
    rotary_emb: dict[str, Rotary]
    bridge_rotary_emb: dict[str, Rotary]
    attention_mask: dict[str, Tensor | None]
    readers: dict[str, Readers]
    is_updated: dict[str, Tensor]
    alignment: Alignment | None
    returns_face_mask: bool


class JoVADualTowerTransformerBlock(nn.Module):
    """Wan's block of one tower or both, with what couples them.

    Args:
        towers: Sizes of the towers that have this block.
        dims: Widths of both towers.
        head_dim: Channels of one head.
        fusion: How they read each other; None where they do not.
        eps: Epsilon of all norms.
    """

    def __init__(
        self,
        towers: Mapping[str, Tower],
        dims: Mapping[str, int],
        head_dim: int,
        fusion: TowerFusion | None,
        eps: float,
    ) -> None:
        super().__init__()
        self.eps = eps
        self.dims = dict(dims)
        self.unit = math.gcd(*dims.values())
        self.attn1 = JoVATowerAttention(towers, head_dim, eps)
        self.attn2, self.norm2, self.ffn, self.modulation = (nn.ModuleDict() for _ in range(4))
        for name, (dim, heads, ffn_dim, _) in towers.items():
            self.attn2[name] = JoVAWanCrossAttention(dim, heads, head_dim, eps)
            self.norm2[name] = FP32LayerNorm(dim, eps)
            self.ffn[name] = FeedForward(dim, inner_dim=ffn_dim, activation_fn="gelu-approximate")
            self.modulation[name] = JoVAWanModulation(dim)
        self.fusion: Any = None
        if fusion is not None:
            heads_of = {name: tower.heads for name, tower in towers.items()}
            self.fusion = FUSIONS[fusion](dict(dims), heads_of, head_dim, eps)
        self.fusion_kind = fusion

    def forward(self, hidden_states: Tensor, context: BlockContext) -> Tensor | tuple[Tensor, Tensor]:
        """Packed rows [B, units, U] in and out; on request with the face mask of the video rows, [B, L, 1]."""
        rows = unpack(hidden_states, context.num_rows, self.dims)
        if self.fusion_kind == "bridge":
            rows = self.fusion(rows, context)
        rows = rows | self.attend_and_feed(rows, context)
        if self.fusion_kind != "aligned":
            return pack(rows, self.unit)

        if not (context.readers or context.returns_face_mask):
            return pack(rows, self.unit)
        if "video" not in rows:
            return pack(self.fusion(rows, None, context), self.unit)
        mask = self.fusion.face_mask(rows["video"], context.noise["video"])
        packed = pack(self.fusion(rows, mask, context), self.unit)
        return (packed, mask) if context.returns_face_mask else packed

    def attend_and_feed(self, rows: dict[str, Tensor], context: BlockContext) -> dict[str, Tensor]:
        """Wan's block of every tower that is present and as deep, [B, L, D] in and out."""
        owner = {name: context.owner[name] for name in rows if context.owner[name] in self.attn1.streams}
        modulation = {name: self.modulation[tower](context.noise[name]) for name, tower in owner.items()}

        # 1. Self-attention; values are spread over rows where they are used, because six of them are large
        normed = {}
        for name, tower in owner.items():
            mod, noise = modulation[name], context.noise[name]
            shift, scale = noise.at_rows(mod.attn_shift), noise.at_rows(mod.attn_scale)
            normed[tower] = modulated_norm(rows[name], shift, scale, self.eps)
        rotary_emb = {tower: context.rotary_emb[name] for name, tower in owner.items()}
        masks = {tower: context.attention_mask[name] for name, tower in owner.items()}
        attended = self.attn1(normed, rotary_emb, masks) if owner else ()
        attended_rows = {
            name: gated_sum(rows[name], context.noise[name].at_rows(modulation[name].attn_gate), attention)
            for name, attention in zip(owner, per_stream(attended), strict=True)
        }

        # 2. Attention to text and feed-forward network
        outputs = {}
        for name, x in attended_rows.items():
            mod, noise, text, tower = modulation[name], context.noise[name], context.text[name], owner[name]
            read_more = None
            if self.fusion_kind == "text_cross":  # the other rows are those that no fusion has updated
                read_more = partial(self.fusion, name, attended_rows.get(OTHER[name]), context)
            rotary_embs = context.text_rotary_embs.get(name)
            x = x + self.attn2[tower](self.norm2[tower](x), text.rows, text.mask, text.runs, rotary_embs, read_more)
            ff_input = modulated_norm(x, noise.at_rows(mod.ff_shift), noise.at_rows(mod.ff_scale), self.eps)
            outputs[name] = gated_sum(x, noise.at_rows(mod.ff_gate), self.ffn[tower](ff_input))
        return outputs


class JoVADualTowerTransformer3DModel(JoVATransformerMixin, ModelMixin, ConfigMixin):
    """Video and audio towers of Wan blocks that a bridge, an alignment or the attention to text couples.

    Args:
        in_channels: Video channels in.
        out_channels: Video channels out, those of the video VAE.
        audio_in_channels: Channels of the audio latents.
        num_layers: Blocks of the video tower.
        audio_num_layers: Blocks of the audio tower.
        num_attention_heads: Heads of the video tower.
        audio_num_attention_heads: Heads of the audio tower.
        attention_head_dim: Channels of one head; width of a tower D = heads * channels.
        ffn_dim: Hidden width of the feed-forward networks of the video tower.
        audio_ffn_dim: The same for audio.
        patch_size: Latents per row along (frames, height, width).
        text_dim: Width of the text features that video reads.
        audio_text_dim: Width of those that audio reads.
        freq_dim: Width of the sinusoidal embedding of a timestep.
        audio_embedding: `"linear"`, `"mlp"` (UniAVGen), or `"conv"` (Ovi).
        audio_text_embedding: `"mlp"`, or `"linear"` for features of a text encoder that was trained with the model.
        audio_text_rotates: Whether audio rows and their text rotate by their indices where they meet, as in UniAVGen.
        fusion: `"bridge"` (MOVA), `"aligned"` (UniAVGen) or `"text_cross"` (Ovi).
        fusion_layers: Blocks with a fusion; None for all that both towers have.
        rope_axes_dim: Channels of a head that rotate with (t, h, w).
        audio_rope_axes_dim: The same for audio, which has a t alone.
        rope_theta: Base of the rotary frequencies.
        temporal_alignment: How positions in the audio tower follow from the audio index; see `audio_positions`.
        temporal_compression_ratio: Frames per video latent of the video VAE, after its first.
        boundary: Noise level of the video, sigma, below which a second video tower takes the place of the first, as in
            MOVA (0.9); audio tower and fusion serve both. None for one video tower.
        eps: Epsilon of all norms.
    """

    _no_split_modules = ["JoVADualTowerTransformerBlock", "JoVAWanConditionEmbedder"]
    _repeated_blocks = ["JoVADualTowerTransformerBlock"]
    _keep_in_fp32_modules = ["time_embedder", "scale_shift_table", "norm2"]
    _skip_layerwise_casting_patterns = ["patch_embedding", "condition_embedder", "norm", "proj_out"]
    # Media rows are padded and split where they are embedded and gathered at their head; text stays whole everywhere.
    _cp_plan = {
        **{
            f"{modality}.patch_embedding": {0: ContextParallelInput(split_dim=1, expected_dims=3, split_output=True)}
            for modality in MODALITIES
        },
        "row_levels": {0: ContextParallelInput(split_dim=0, expected_dims=1, split_output=True)},
        "updated_rows": {0: ContextParallelInput(split_dim=1, expected_dims=2, split_output=True)},
        **{
            rope: {index: ContextParallelInput(split_dim=0, expected_dims=2, split_output=True) for index in (0, 1)}
            for rope in ("rope", "audio_rope", "bridge_rope")
        },
        "video.proj_out": ContextParallelOutput(gather_dim=1, expected_dims=3),
        "audio.proj_out": ContextParallelOutput(gather_dim=1, expected_dims=3),
    }

    @register_to_config
    def __init__(
        self,
        in_channels: int = 36,
        out_channels: int = 16,
        audio_in_channels: int = 128,
        num_layers: int = 40,
        audio_num_layers: int = 30,
        num_attention_heads: int = 40,
        audio_num_attention_heads: int = 12,
        attention_head_dim: int = 128,
        ffn_dim: int = 13824,
        audio_ffn_dim: int = 8960,
        patch_size: tuple[int, int, int] = (1, 2, 2),
        text_dim: int = 4096,
        audio_text_dim: int = 4096,
        freq_dim: int = 256,
        audio_embedding: Literal["linear", "mlp", "conv"] = "linear",
        audio_text_embedding: Literal["mlp", "linear"] = "mlp",
        audio_text_rotates: bool = False,
        fusion: TowerFusion = "bridge",
        fusion_layers: Sequence[int] | None = None,
        rope_axes_dim: tuple[int, int, int] = (44, 42, 42),
        audio_rope_axes_dim: tuple[int, int, int] = (128, 0, 0),
        rope_theta: float = 10000.0,
        temporal_alignment: TemporalAlignment = "none",
        temporal_compression_ratio: int = 4,
        boundary: float | None = None,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.check_sizes()
        check_positions(rope_axes_dim, attention_head_dim, temporal_alignment)
        check_positions(audio_rope_axes_dim, attention_head_dim, temporal_alignment, "audio_rope_axes_dim")
        check_flags({"audio_text_rotates": audio_text_rotates})
        check_boundary(boundary)
        check_fusion(fusion, fusion_layers, min(num_layers, audio_num_layers))
        towers = {
            "video": Tower(num_attention_heads * attention_head_dim, num_attention_heads, ffn_dim, num_layers),
            "audio": Tower(
                audio_num_attention_heads * attention_head_dim,
                audio_num_attention_heads,
                audio_ffn_dim,
                audio_num_layers,
            ),
        }
        self.dims = {name: tower.dim for name, tower in towers.items()}
        if boundary is not None:
            towers[LOW_NOISE] = towers["video"]
            ends = {f"{LOW_NOISE}.{end}": self._cp_plan[f"video.{end}"] for end in ("patch_embedding", "proj_out")}
            self._cp_plan = self._cp_plan | ends

        # 1. Embeddings and heads
        for name in towers:
            dim = towers[name].dim
            patch_embedding: nn.Module
            if name == "audio":
                patch_embedding = audio_patch_embedding(audio_embedding, audio_in_channels, dim)
                embedder = JoVAWanConditionEmbedder(freq_dim, audio_text_dim, dim, audio_text_embedding)
                out_features = audio_in_channels
            else:
                patch_embedding = JoVAWanPatchEmbedding(in_channels, dim, kernel_size=patch_size, stride=patch_size)
                embedder = JoVAWanConditionEmbedder(freq_dim, text_dim, dim)
                out_features = out_channels * math.prod(patch_size)
            self.add_module(name, JoVAWanEnds(patch_embedding, embedder, dim, out_features, eps))
        self.row_levels = JoVARowLevels()
        self.updated_rows = JoVAUpdatedRows()
        self.rope = JoVARotaryPosEmbed(rope_axes_dim, rope_theta)
        self.audio_rope = JoVARotaryPosEmbed(audio_rope_axes_dim, rope_theta)
        self.bridge_rope = JoVARotaryPosEmbed((attention_head_dim, 0, 0), rope_theta)
        self.text_rope = JoVARotaryPosEmbed(audio_rope_axes_dim, rope_theta)  # text is whole on every device
        self.alignment = JoVAAlignment(rope_axes_dim, rope_theta, temporal_compression_ratio)

        # 2. Blocks
        fused = range(min(num_layers, audio_num_layers)) if fusion_layers is None else fusion_layers
        self.blocks = nn.ModuleList(
            JoVADualTowerTransformerBlock(
                {name: tower for name, tower in towers.items() if index < tower.num_layers},
                self.dims,
                attention_head_dim,
                fusion if index in fused else None,
                eps,
            )
            for index in range(max(num_layers, audio_num_layers))
        )
        self.gradient_checkpointing = False

    @with_adapter_scale
    @describe_arguments(
        encoder_hidden_states="Text features [B, S, text_dim]. Wan's towers expect 512 rows, zeros behind the end of "
        "the text.",
        encoder_hidden_states_2="None; there is no second text encoder.",
        encoder_attention_mask="Bool [B, S], False for text rows that are not read; None reads all, as released "
        "weights do.",
        audio_encoder_hidden_states="Text features [B, S, audio_text_dim] that audio reads; None takes the video's "
        "text and mask.",
        audio_encoder_hidden_states_2="None, too.",
        reference_hidden_states="For an aligned fusion: clean latent of a reference image [B, in_channels, 1, H, W], "
        "in front of the clip; None takes a copy of the clip's first latent, with its timestep.",
        audio_reference_hidden_states="For an aligned fusion: clean audio latents of a reference voice [B, R, C], in "
        "front of the clip, at the noisiest timestep of the audio, as UniAVGen has them.",
        fusion_scale="Factor of what is read from the other modality, 1 as trained; a pair is for (video, audio).",
        skip_layers="Indices of blocks that are left out, fusion included.",
        return_face_masks="Whether to return the masks of an aligned fusion, for a loss on them.",
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
        reference_hidden_states: Tensor | None = None,
        audio_reference_hidden_states: Tensor | None = None,
        fusion_scale: float | tuple[float, float] = 1.0,
        skip_layers: Sequence[int] = (),
        return_face_masks: bool = False,
        attention_kwargs: dict[str, Any] | None = None,
        return_dict: bool = True,
    ) -> JoVATransformerOutput | tuple[Tensor | None, ...]:
        """Predict the velocity, noise - data, of both modalities.

        Either modality may be absent (None): the model is then a tower alone. An aligned fusion reads by index, so
        sound and picture have to be equally long; what has timestep 0 is given, read, and not updated by it.
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
        self.check_layers(skip_layers)
        if return_face_masks:
            self.check_face_masks(inputs, skip_layers)
        references = {"video": reference_hidden_states, "audio": audio_reference_hidden_states}
        whole, clip = with_references(inputs, references, self.config.fusion)
        owner = self.owners(inputs)

        # 1. Embed each modality; with context parallelism its rows are a shard from here on
        rows = {name: getattr(self, owner[name]).patch_embedding(part.latents) for name, part in whole.items()}
        rates_hz = (frame_rate, audio_latent_rate_hz)
        readers = self.present_readers(readers_of(coupled, fusion_scale, next(iter(rows.values())).shape[0]), rows)
        context = self.context(whole, clip, owner, rows, readers, rates_hz, return_face_masks)
        packed = pack(rows, math.gcd(*self.dims.values()))

        # 2. Blocks
        face_masks = []
        for index, block in enumerate(self.blocks):
            if index in skip_layers:
                continue
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                packed = self._gradient_checkpointing_func(block, packed, context)
            else:
                packed = block(packed, context)
            if isinstance(packed, tuple):
                packed, mask = packed
                face_masks.append(clip["video"].cut(mask).squeeze(2).unflatten(1, inputs["video"].grid))

        # 3. Heads
        velocities = {
            name: clip[name].cut(getattr(self, owner[name])(part, context.noise[name]))
            for name, part in unpack(packed, context.num_rows, self.dims).items()
        }
        output = self.join_outputs(velocities, inputs, return_dict)
        if not return_face_masks:
            return output
        masks = torch.stack(face_masks, dim=1)
        if isinstance(output, tuple):
            return *output, masks
        output.face_masks = masks
        return output

    def context(
        self,
        inputs: Mapping[str, ModalityInput],
        clip: dict[str, ClipRows],
        owner: dict[str, str],
        rows: Mapping[str, Tensor],
        readers: dict[str, Readers],
        rates_hz: tuple[float, float],
        returns_face_mask: bool,
    ) -> BlockContext:
        """What the blocks read; `rates_hz` are those of frames and of audio latents."""
        batch_size, device = next((part.shape[0], part.device) for part in rows.values())
        is_aligned = self.config.fusion == "aligned"
        rotary_emb = {name: self.rotate(name, part.grid, rates_hz, device) for name, part in inputs.items()}
        noise, text, text_rotary_embs = {}, {}, {}
        for name, part in inputs.items():
            noise[name], text[name] = self.condition(owner[name], part)
            if name == "audio" and self.config.audio_text_rotates:
                indices = media_positions("audio", (text[name].rows.shape[1],), "none", *rates_hz, 1, device)
                text_rotary_embs[name] = rotary_emb[name], self.text_rope(indices)
        return BlockContext(
            owner=owner,
            num_rows={name: part.shape[1] for name, part in rows.items()},
            noise=noise,
            text=text,
            text_rotary_embs=text_rotary_embs,
            rotary_emb=rotary_emb,
            bridge_rotary_emb={
                name: self.rotate_on_bridge(name, part.grid, rates_hz, device)
                for name, part in inputs.items()
                if self.config.fusion == "bridge"
            },
            attention_mask={
                name: key_mask({name: None}, {name: part.num_rows}, batch_size, device, self._parallel_config)
                for name, part in inputs.items()
            },
            readers=readers,
            is_updated={
                name: self.updated_rows(part.timestep, part.grid, clip[name].num_before)
                for name, part in inputs.items()
                if is_aligned
            },
            alignment=(
                self.alignment(clip, inputs["video"].grid, device)
                if is_aligned and readers and "video" in inputs
                else None
            ),
            returns_face_mask=returns_face_mask,
        )

    def present_readers(self, readers: dict[str, Readers], rows: Mapping[str, Tensor]) -> dict[str, Readers]:
        """Those that have rows to read: of the other modality, or of a video that a cache has kept."""
        if len(rows) == len(MODALITIES):
            return readers
        fusions = [block.fusion for block in self.blocks if isinstance(block.fusion, JoVATowerFusion)]
        has_kept = any(fusion.kept_rows is not None for fusion in fusions)
        return {name: one for name, one in readers.items() if name == "audio" and name in rows and has_kept}

    def owners(self, inputs: Mapping[str, ModalityInput]) -> dict[str, str]:
        """Towers that serve a step, by the modality."""
        return {name: self.video_tower(part.timestep) if name == "video" else name for name, part in inputs.items()}

    def video_tower(self, timestep: Tensor) -> str:
        """The video tower at timesteps [B] or [B, F]; of two the noisiest latent decides, of all samples alike."""
        boundary = self.config.boundary
        if boundary is None:
            return "video"
        timestep = timestep.reshape(len(timestep), -1).amax(1)
        is_high = (timestep >= TIMESTEPS * boundary).tolist()
        if any(is_high) and not all(is_high):
            raise ValueError(
                f"`timestep` must lie on one side of {TIMESTEPS * boundary:g} for all samples, where the other video "
                f"tower begins, got {timestep.tolist()}; divide the batch"
            )
        return "video" if all(is_high) else LOW_NOISE

    def condition(self, tower: str, part: ModalityInput) -> tuple[NoiseCondition, TextCondition]:
        """Embed what the blocks read besides the rows of a tower."""
        levels = part.timestep if part.timestep.ndim == 2 else part.timestep[:, None]  # [B, N]
        temb, modulation, text = getattr(self, tower).condition_embedder(levels, part.text.features_1)
        text_mask = None if part.text.mask is None else part.text.mask.bool()[:, None, None]
        text_runs = None if part.text.spans is None else span_runs(part.text.spans)
        noise = NoiseCondition(temb, modulation, self.row_levels(part.timestep, part.grid))
        return noise, TextCondition(text, text_mask, text_runs)

    def rotate(
        self, modality: str, grid: tuple[int, ...], rates_hz: tuple[float, float], device: torch.device
    ) -> Rotary:
        """Rotary embedding of the rows in the self-attention of their tower."""
        ratio = self.config.temporal_compression_ratio
        positions = media_positions(modality, grid, self.config.temporal_alignment, *rates_hz, ratio, device)
        rotary: Rotary = (self.rope if modality == "video" else self.audio_rope)(positions)
        return rotary

    def rotate_on_bridge(
        self, modality: str, grid: tuple[int, ...], rates_hz: tuple[float, float], device: torch.device
    ) -> Rotary:
        """Rotary embedding of the rows on the clock of a bridge, in audio latents (arXiv:2602.08794v2, Sec. 3)."""
        frame_rate, audio_latent_rate_hz = rates_hz
        positions = media_positions(modality, grid, "none", *rates_hz, 1, device)
        if modality == "video":
            video_latent_rate_hz = frame_rate / self.config.temporal_compression_ratio
            positions = positions * positions.new_tensor([audio_latent_rate_hz / video_latent_rate_hz, 0.0, 0.0])
        rotary: Rotary = self.bridge_rope(positions)
        return rotary

    def enable_parallelism(self, *, config: Any, **kwargs: Any) -> None:
        """Share the work between processes; see `JoVAContextParallelMixin`."""
        if self.config.fusion == "aligned":
            check_whole_rows(config)
        super().enable_parallelism(config=config, **kwargs)

    def check_layers(self, skip_layers: Sequence[int]) -> None:
        """Refuse to skip blocks that do not exist."""
        if outside := [index for index in skip_layers if not 0 <= index < len(self.blocks)]:
            raise ValueError(
                f"`skip_layers` must be indices of the {len(self.blocks)} blocks, got {outside}; leave them out"
            )
        goes_by_ends = self.is_cache_enabled and not isinstance(self._cache_config, JoVACacheConfig)
        if goes_by_ends and (ends := {0, len(self.blocks) - 1}.intersection(skip_layers)):
            raise ValueError(
                f"`skip_layers` must hold neither the first nor the last block where a cache is enabled, which goes "
                f"by them, got {sorted(ends)}; call `disable_cache`"
            )

    def check_face_masks(self, inputs: Mapping[str, ModalityInput], skip_layers: Sequence[int]) -> None:
        """Refuse face masks where there are none, or not all rows of them."""
        if self.config.fusion != "aligned" or "video" not in inputs:
            raise ValueError(
                "`return_face_masks` must go with video and a model of `fusion` 'aligned', got "
                f"{list(inputs)} and '{self.config.fusion}'; leave it out"
            )
        if all(block.fusion is None or index in skip_layers for index, block in enumerate(self.blocks)):
            raise ValueError(
                "`return_face_masks` must go with a block that has a fusion and is not skipped, got none; leave it out"
            )
        if self.is_cache_enabled or self._parallel_config is not None:
            raise ValueError(
                "`return_face_masks` must go without a cache and without context parallelism, got one of them; "
                "they are for training"
            )


def check_boundary(boundary: float | None) -> None:
    """Refuse a noise level that leaves one of two video towers without work."""
    if boundary is not None and not 0 < finite_number("boundary", boundary, "MOVA has 0.9") < 1:
        raise ValueError(f"`boundary` must lie between 0 and 1, got {boundary:g}; None is one video tower")


def check_fusion(fusion: str, fusion_layers: Sequence[int] | None, num_common_layers: int) -> None:
    """Refuse a fusion that does not exist, and blocks that not both towers have."""
    if fusion not in get_args(TowerFusion):
        raise ValueError(f"`fusion` must be one of {list(get_args(TowerFusion))}, got {fusion!r}")
    if outside := [index for index in fusion_layers or () if not 0 <= index < num_common_layers]:
        raise ValueError(
            f"`fusion_layers` must be indices of the {num_common_layers} blocks that both towers have, got {outside}"
        )
