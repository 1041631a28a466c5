"""Ovi -> `JoVADualTowerTransformer3DModel`, complete, or its towers alone -> `JoVAWanTransformer3DModel`.

`convert_fused` keeps the fusion inside the attention to text: the model computes what Ovi computes. `convert_fusion`
leaves it out: uncoupled, the towers compute what Ovi's compute alone; the joint attention that takes the place of the
fusion has no parameters of its own and must be trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffusers_jova.conversion import dual_tower
from diffusers_jova.conversion.card import OVI, WAN
from diffusers_jova.conversion.checkpoint import Checkpoint, dequantized, open_checkpoint
from diffusers_jova.conversion.output import Options, Parameter, parameters, write_single
from diffusers_jova.conversion.pipeline import Family, guidance_defaults, negative_prompts
from diffusers_jova.conversion.rules import Move, Rule, inverse, plan, prefixed
from diffusers_jova.conversion.source_config import HEAD_DIM, HEADS, print_lost, released_config
from diffusers_jova.conversion.wan import (
    ATTENTION,
    CONDITION,
    FEED_FORWARD,
    HEAD,
    PATCH,
    build,
    check_heads,
    model_config,
    owned,
    write,
)
from diffusers_jova.prompt import PROMPT_TEMPLATE


TOWERS = ("video_model.", "audio_model.")
AUDIO_POSITION_SCALE = 0.19676  # video latents per audio latent that the released audio tower was trained with
FAMILY = Family(
    title="Ovi for diffusers_jova",
    licences=[OVI, WAN],
    scheduler="ovi",
    prompt_template=PROMPT_TEMPLATE,
    defaults={  # of the 720 x 720, 5 s checkpoint, as is the template
        "height": 704,
        "width": 704,
        "num_frames": 121,
        "frame_rate": 24.0,
        **guidance_defaults("ovi"),
        **negative_prompts("ovi"),
    },
    config={"negative_skip_layer": 11},  # as the release's own inference has it
)
TOWERS_FAMILY = replace(FAMILY, title="JoVA from Ovi's towers", config={})

# fmt: off
FUSION = (  # Ovi                                     left out
    Rule("cross_attn.k_fusion.{p}",                   ()),
    Rule("cross_attn.v_fusion.{p}",                   ()),
    Rule("cross_attn.pre_attn_norm_fusion.{p}",       ()),
    Rule("cross_attn.norm_k_fusion.weight",           ()),
)
FUSED = (  # Ovi                                       JoVATextCrossAttention
    Rule("cross_attn.k_fusion.{p}",                   "fusion.to_k.{p}"),
    Rule("cross_attn.v_fusion.{p}",                   "fusion.to_v.{p}"),
    Rule("cross_attn.pre_attn_norm_fusion.{p}",       "fusion.norm_kv.{p}"),
    Rule("cross_attn.norm_k_fusion.weight",           "fusion.norm_k.weight"),
)
BLOCK = (
    *prefixed(ATTENTION, "self_attn.", "attn1."),
    *prefixed(ATTENTION, "cross_attn.", "attn2."),
    *FEED_FORWARD,
    Rule("modulation.modulation",                     "scale_shift_table"),
)
AUDIO_PATCH = (
    Rule("patch_embedding.0.{p}",                     "patch_embedding.0.{p}"),
    Rule("patch_embedding.2.{conv}.weight",           "patch_embedding.2.{conv}.weight"),
)
# fmt: on


def tower_rules(modality: str, fusion: Sequence[Rule]) -> list[Rule]:
    """Table of the `video` or `audio` tower, with the rules of its fusion tensors."""
    block = (*BLOCK, *fusion)
    patch = PATCH if modality == "video" else AUDIO_PATCH
    rules = [*patch, *CONDITION, *prefixed(block, "blocks.{i}.", "blocks.{i}."), *HEAD]
    return owned(rules, modality)


def fusion_rules(fusion: Sequence[Rule] = FUSION) -> list[Rule]:
    """Table of the released checkpoint, by default without its fusion."""
    return [
        *prefixed(tower_rules("video", fusion), TOWERS[0], ""),
        *prefixed(tower_rules("audio", fusion), TOWERS[1], ""),
    ]


def convert_fused(checkpoint: Checkpoint, head_dim: int = HEAD_DIM) -> tuple[dict[str, Any], list[Parameter]]:
    """Return config and parameters of both towers with their fusion, which takes every tensor of the checkpoint."""
    found = parameters(plan(checkpoint, fusion_rules(FUSED)), checkpoint)
    config = dual_tower.tower_config(found, head_dim)
    return {
        **config,
        "audio_text_dim": config["text_dim"],
        "audio_embedding": "conv",
        "audio_rope_axes_dim": config["rope_axes_dim"],
        "temporal_alignment": AUDIO_POSITION_SCALE,
        "fusion": "text_cross",
    }, found


def convert_fusion(
    checkpoint: Checkpoint, head_dim: int = HEAD_DIM
) -> tuple[dict[str, Any], list[Parameter], list[str]]:
    """Return config and parameters of the two towers, and the names of the tensors that are left out."""
    moves = plan(checkpoint, fusion_rules())
    found = parameters(moves, checkpoint)
    config = {**model_config(found, head_dim), "audio_embedding": "conv", "temporal_alignment": AUDIO_POSITION_SCALE}
    return config, found, left_out(moves)


def restore_fused(checkpoint: Checkpoint) -> list[Parameter]:
    """Return the parameters under Ovi's own names; towers without the fusion are refused."""
    return parameters(plan(checkpoint, inverse(fusion_rules(FUSED))), checkpoint)


def left_out(moves: list[Move]) -> list[str]:
    """List the source tensors that go nowhere."""
    return [name for move in moves if not move.targets for name in move.sources]


def convert(path: Path, output: Path, options: Options) -> None:
    """Convert Ovi's fusion checkpoint, bf16 or fp8, or write a converted one back into one file.

    Without the fusion, every tensor that is left out is reported.

    Raises:
        ValueError: The tensors are not Ovi's.
    """
    if options.reverse:
        write_single(output, restore_fused(open_checkpoint(path)), options.dtype)
        print_lost(path)
        return
    checkpoint = dequantized(open_checkpoint(path))
    if not any(name.startswith(TOWERS) for name in checkpoint):
        raise ValueError(
            "`SOURCE` must be Ovi's checkpoint, whose tensors are those of `video_model` and `audio_model`, got "
            f"`{path}` without; name its `model.safetensors`"
        )
    given, head_dim = released_config(path)
    codec = "Ovi's audio VAE and vocoder are MMAudio's (CC-BY-NC 4.0)."
    if not options.towers_only:
        config, found = convert_fused(checkpoint, head_dim)
        done = ["Both towers and their fusion inside the attention to text, complete.", codec]
        check_heads(found, head_dim)
        write(output, dual_tower.build(given.complete(config, HEADS)), found, options, FAMILY, done)
        return
    config, found, unused = convert_fusion(checkpoint, head_dim)
    print(f"left out, {len(unused)} tensors of Ovi's fusion cross-attention:")
    print("\n".join(unused))
    fusion = f"{len(unused)} tensors of Ovi's fusion are left out; joint attention, not trained yet, takes its place."
    check_heads(found, head_dim)
    write(output, build(given.complete(config, HEADS)), found, options, TOWERS_FAMILY, [fusion, codec])
