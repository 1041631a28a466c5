"""MOVA -> `JoVADualTowerTransformer3DModel`: one expert's video tower, the audio tower, and the bridge between them.

Two things change besides names. The bridge rotates the halves of a head, (i, i + K / 2), where this package rotates
pairs, (2 i, 2 i + 1): the rows of its queries and keys are put in that order. The video condition is [mask, image] in
MOVA and [image, mask] here: the columns of the patch embedding are.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from diffusers_jova.conversion.checkpoint import Checkpoint
from diffusers_jova.conversion.dual_tower import tower_config
from diffusers_jova.conversion.output import Parameter, parameters
from diffusers_jova.conversion.rules import Rule, plan, prefixed
from diffusers_jova.conversion.wan import ATTENTION, BLOCK, CONDITION, HEAD, HEAD_DIM, owned


EXPERTS = ("video_dit", "video_dit_2")  # for high noise, for low noise
BRIDGE = {"audio_to_video_conditioners": "video", "video_to_audio_conditioners": "audio"}  # by the modality that reads
ROTATED = ("q.{p}", "k.{p}", "norm_q.weight", "norm_k.weight")
MASK_CHANNELS = 4


def interleaved(tensor: Tensor, head_dim: int) -> Tensor:
    """Rows of queries or keys [H * K, ...] whose heads hold two halves, as pairs of one channel of each half."""
    return tensor.unflatten(0, (-1, 2, head_dim // 2)).transpose(1, 2).flatten(0, 2)


def mask_last(weight: Tensor) -> Tensor:
    """Columns [latents, mask, image] of the patch embedding as [latents, image, mask]; text alone has no condition."""
    num_latents = (weight.shape[1] - MASK_CHANNELS) // 2
    latents, mask, image = weight.split([num_latents, MASK_CHANNELS, num_latents], dim=1)
    return torch.cat([latents, image, mask], dim=1)


def row_weight(weight: Tensor) -> Tensor:
    """Kernel [D, C, 1] of a convolution over single latents as the weight of a linear layer."""
    return weight.squeeze(2)


def rules(expert: str, head_dim: int) -> list[Rule]:
    """Table of the release, whose folders stand in front of its names."""
    block = prefixed(BLOCK, "blocks.{i}.", "blocks.{i}.")
    video = [Rule("patch_embedding.weight", "patch_embedding.weight", mask_last)]
    audio = [Rule("patch_embedding.weight", "patch_embedding.weight", row_weight)]
    common = [Rule("patch_embedding.bias", "patch_embedding.bias"), *CONDITION, *block, *HEAD]
    bridge = [
        Rule(rule.source, rule.target, partial(interleaved, head_dim=head_dim)) if rule.source in ROTATED else rule
        for rule in ATTENTION
    ]
    table = prefixed(owned([*video, *common], "video"), f"{expert}.", "")
    table += prefixed(owned([*audio, *common], "audio"), "audio_dit.", "")
    for conditioners, owner in BRIDGE.items():
        source, target = f"dual_tower_bridge.{conditioners}.{{i}}.", f"blocks.{{i}}.fusion.{owner}."
        table += [
            *prefixed(bridge, f"{source}inner.", target),
            Rule(f"{source}y_norm.{{p}}", f"{target}norm_kv.{{p}}"),
        ]
    return table


def convert_transformer(
    checkpoint: Checkpoint, expert: str = EXPERTS[0], head_dim: int = HEAD_DIM
) -> tuple[dict[str, Any], list[Parameter]]:
    """Return config and parameters of one expert with the audio tower and the bridge.

    Args:
        checkpoint: Tensors of the release's folders under `<folder>.<name>`; the other expert's are passed over.
        expert: Folder of the video tower.
        head_dim: Channels of one head.
    """
    others = tuple(f"{name}." for name in EXPERTS if name != expert)
    checkpoint = {name: source for name, source in checkpoint.items() if not name.startswith(others)}
    found = parameters(plan(checkpoint, rules(expert, head_dim)), checkpoint)
    config = tower_config(found, head_dim)
    fused = {int(one.name.split(".")[1]) for one in found if ".fusion.video.to_q.weight" in one.name}
    is_full = len(fused) == min(config["num_layers"], config["audio_num_layers"])
    return {
        **config,
        "audio_text_dim": config["text_dim"],
        "audio_rope_axes_dim": (head_dim, 0, 0),
        "temporal_alignment": "none",
        "fusion": "bridge",
        "fusion_layers": None if is_full else sorted(fused),
    }, found
