"""What conversions to `JoVADualTowerTransformer3DModel` share: its sizes, read off the shapes of two towers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from diffusers_jova.conversion.output import Model, Parameter, shape_of
from diffusers_jova.conversion.source_config import HEAD_DIM
from diffusers_jova.conversion.wan import rope_axes


def tower_config(found: Sequence[Parameter], head_dim: int = HEAD_DIM) -> dict[str, Any]:
    """Read the constructor arguments that two towers of Wan blocks share off the shapes of their parameters.

    Args:
        found: Parameters of the model.
        head_dim: Channels of one head, which no shape tells.

    Raises:
        ValueError: One of the parameters from which a size is read is missing or has other dimensions.
    """
    dim, in_channels, *patch_size = shape_of(found, "video.patch_embedding.weight", 5)
    config: dict[str, Any] = {
        "patch_size": tuple(patch_size),
        "attention_head_dim": head_dim,
        "rope_axes_dim": rope_axes(head_dim),
        "in_channels": in_channels,
        "out_channels": shape_of(found, "video.proj_out.weight", 2)[0] // math.prod(patch_size),
        "audio_in_channels": shape_of(found, "audio.proj_out.weight", 2)[0],
        "freq_dim": shape_of(found, "video.condition_embedder.time_embedder.linear_1.weight", 2)[1],
        "text_dim": shape_of(found, "video.condition_embedder.text_embedder.linear_1.weight", 2)[1],
    }
    dims = {"": dim, "audio_": shape_of(found, "audio.proj_out.weight", 2)[1]}
    for prefix, owner in (("", "video"), ("audio_", "audio")):
        start, end = "blocks.", f".ffn.{owner}.net.2.weight"
        layers = [one.name for one in found if one.name.startswith(start) and one.name.endswith(end)]
        config |= {
            f"{prefix}num_layers": len(layers),
            f"{prefix}num_attention_heads": dims[prefix] // head_dim,
            f"{prefix}ffn_dim": shape_of(found, f"{start}0{end}", 2)[1],
        }
    return config


def build(config: Mapping[str, Any]) -> Model:
    """Build the target model on the meta device."""
    from diffusers_jova.transformer_jova_dual_tower import JoVADualTowerTransformer3DModel

    with torch.device("meta"):
        return JoVADualTowerTransformer3DModel(**config)
