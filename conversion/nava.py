"""NAVA -> `JoVAWanTransformer3DModel`: a released model that already attends jointly over video and audio.

Its first blocks are twins that share the norm before cross-attention and the feed-forward; the later blocks serve both
modalities. A module that serves both has one name, with `shared` where others have `video` or `audio`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from diffusers_jova.conversion.card import NAVA, WAN
from diffusers_jova.conversion.checkpoint import Checkpoint, dequantized, open_checkpoint
from diffusers_jova.conversion.output import Options, Parameter, parameters, shape_of, write_single
from diffusers_jova.conversion.pipeline import Family, guidance_defaults, negative_prompts
from diffusers_jova.conversion.rules import Rule, inverse, plan, prefixed
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


AUDIO_POSITION_SCALE = 0.24  # 6 video latents per second over 25 audio latents per second
PREFIX = "backbone."
# The released scales (text 3 and 2, alignment 3 and 2, timbre 3) are added to a conditional prediction of weight 1.
# Both modalities read one text: the negative one ends in a clause about sound, and audio has none of its own.
FAMILY = Family(
    title="NAVA for diffusers_jova",
    licences=[NAVA, WAN],
    scheduler="nava",
    prompt_template="{video}\n{audio}\n<S>{transcript}<E>",
    speaker_token="<extra_id_2>",
    defaults={
        "height": 704,
        "width": 1280,
        "num_frames": 145,
        "frame_rate": 24.0,
        "num_inference_steps": 50,
        **guidance_defaults("nava"),
        **negative_prompts("nava"),
    },
)

# fmt: off
AUDIO_ATTENTION = (  # NAVA               diffusers
    Rule("q_audio.{p}",                   "to_q.{p}"),
    Rule("k_audio.{p}",                   "to_k.{p}"),
    Rule("v_audio.{p}",                   "to_v.{p}"),
    Rule("o_audio.{p}",                   "to_out.0.{p}"),
    Rule("norm_q_audio.weight",           "norm_q.weight"),
    Rule("norm_k_audio.weight",           "norm_k.weight"),
)
TWIN = (
    *prefixed(ATTENTION, "self_attn.", "attn1."),
    *prefixed(ATTENTION, "cross_attn.", "attn2."),
    Rule("modulation.modulation",         "scale_shift_table"),
)
AUDIO_TWIN = (
    *prefixed(AUDIO_ATTENTION, "self_attn.", "attn1."),
    *prefixed(AUDIO_ATTENTION, "cross_attn.", "attn2."),
    Rule("modulation_audio.modulation",   "scale_shift_table"),
)
AUDIO_ENDS = (
    Rule("patch_embedding_audio.0.{p}",           "patch_embedding.0.{p}"),
    Rule("patch_embedding_audio.2.{conv}.weight", "patch_embedding.2.{conv}.weight"),
    Rule("head_audio.modulation",                 "scale_shift_table"),
    Rule("head_audio.head.{p}",                   "proj_out.{p}"),
)
SPEAKER = (
    Rule("speaker_embedding.net.{i}.{p}",         "speaker_embedding.net.{i}.{p}"),
    Rule("speaker_embedding.out_norm.{p}",        "speaker_embedding.out_norm.{p}"),
    Rule("speaker_embedding.null_token",          "speaker_embedding.null_token"),
)
# fmt: on


def rules(num_twins: int, num_shared: int, speaker: bool) -> list[Rule]:
    """Table of a model with so many twin blocks followed by so many shared ones, with or without speaker embedding."""
    table = owned([*PATCH, *HEAD], "video") + owned(AUDIO_ENDS, "audio") + owned(CONDITION, "shared")
    for index in range(num_twins):
        old, new = f"double_blocks.{index}.", f"blocks.{index}."
        table += owned(prefixed(TWIN, old, new), "video") + owned(prefixed(AUDIO_TWIN, old, new), "audio")
        table += owned(prefixed(FEED_FORWARD, old, new), "shared")
    for index in range(num_shared):
        old, new = f"single_blocks.{index}.", f"blocks.{num_twins + index}."
        table += owned(prefixed([*TWIN, *FEED_FORWARD], old, new), "shared")
    return table + (list(SPEAKER) if speaker else [])


def count_blocks(checkpoint: Checkpoint, kind: str) -> int:
    """Count the blocks of a list by their indices."""
    start = f"{kind}."
    return len({name.removeprefix(start).split(".")[0] for name in checkpoint if name.startswith(start)})


def convert_transformer(checkpoint: Checkpoint, head_dim: int = HEAD_DIM) -> tuple[dict[str, Any], list[Parameter]]:
    """Return config and parameters of the transformer.

    Args:
        checkpoint: Tensors, whose names may carry the released file's `backbone.` prefix.
        head_dim: Channels of one head.
    """
    checkpoint = {name.removeprefix(PREFIX): source for name, source in checkpoint.items()}
    num_twins, num_shared = (count_blocks(checkpoint, kind) for kind in ("double_blocks", "single_blocks"))
    speaker = "speaker_embedding.null_token" in checkpoint
    found = parameters(plan(checkpoint, rules(num_twins, num_shared, speaker)), checkpoint)
    config = {
        **model_config(found, head_dim),
        "audio_embedding": "conv",
        "temporal_alignment": AUDIO_POSITION_SCALE,
        "shared_layers": list(range(num_twins, num_twins + num_shared)),
        "shared_parts": ["condition_embedder", "feed_forward"],
        "speaker_dim": shape_of(found, "speaker_embedding.net.0.weight", 1)[0] if speaker else None,
    }
    return config, found


def convert(path: Path, output: Path, options: Options) -> None:
    """Convert NAVA's transformer, fp32 or fp8, or write a converted one back into one file."""
    if options.reverse:
        write_single(output, restore_transformer(open_checkpoint(path)), options.dtype)
        print_lost(path)
        return
    checkpoint = dequantized(open_checkpoint(path))
    given, head_dim = released_config(path)
    config, found = convert_transformer(checkpoint, head_dim)
    num_shared = len(config["shared_layers"])
    done = [
        f"{config['num_layers'] - num_shared} twin blocks and {num_shared} shared ones.",
        "NAVA's audio VAE is LTX-2's (LTX-2 Community License).",
    ]
    if config["speaker_dim"] is not None:
        done.append(
            f"`speaker_embeds` of a call are voices, {config['speaker_dim']} wide vectors of ReDimNet "
            f"(IDRnD/ReDimNet, MIT), which is not part of this folder."
        )
    check_heads(found, head_dim)
    write(output, build(given.complete(config, HEADS)), found, options, FAMILY, done)


def restore_transformer(checkpoint: Checkpoint) -> list[Parameter]:
    """Return the parameters under NAVA's own names, ready for its own code."""
    num_layers = count_blocks(checkpoint, "blocks")
    num_twins = len({name.split(".")[1] for name in checkpoint if re.match(r"blocks\.\d+\.\w+\.audio\.", name)})
    speaker = "speaker_embedding.null_token" in checkpoint
    table = inverse(rules(num_twins, num_layers - num_twins, speaker))
    return parameters(plan(checkpoint, prefixed(table, "", PREFIX)), checkpoint)
