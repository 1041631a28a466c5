"""Wan2.1's and Wan2.2's video VAE, as Wan and NAVA release them (.pth) -> diffusers' `AutoencoderKLWan`.

Wan2.1 counts the layers of its encoder and decoder in one row; Wan2.2 nests them in blocks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan

from diffusers_jova.conversion.checkpoint import Checkpoint
from diffusers_jova.conversion.output import Model, Parameter, check_fits, parameters, shape_of
from diffusers_jova.conversion.rules import Rule, plan, prefixed


WAN_2_2_CONFIG = Path(__file__).with_name("wan_2.2_vae.json")
LAYERS_PER_UP_BLOCK = 4  # of Wan2.1: three residual layers, then the upsampler

# fmt: off
RESIDUAL = (  # Wan                       diffusers
    Rule("residual.0.gamma",              "norm1.gamma"),
    Rule("residual.2.{p}",                "conv1.{p}"),
    Rule("residual.3.gamma",              "norm2.gamma"),
    Rule("residual.6.{p}",                "conv2.{p}"),
)
SHORTCUT = Rule("shortcut.{p}",           "conv_shortcut.{p}")
RESAMPLE = Rule("resample.1.{p}",         "resample.1.{p}")
TIME = Rule("time_conv.{p}",              "time_conv.{p}")
HALF = (  # of encoder and decoder alike
    Rule("conv1.{p}",                     "conv_in.{p}"),
    *prefixed(RESIDUAL, "middle.0.",      "mid_block.resnets.0."),
    Rule("middle.1.norm.gamma",           "mid_block.attentions.0.norm.gamma"),
    Rule("middle.1.to_qkv.{p}",           "mid_block.attentions.0.to_qkv.{p}"),
    Rule("middle.1.proj.{p}",             "mid_block.attentions.0.proj.{p}"),
    *prefixed(RESIDUAL, "middle.2.",      "mid_block.resnets.1."),
    Rule("head.0.gamma",                  "norm_out.gamma"),
    Rule("head.2.{p}",                    "conv_out.{p}"),
)
ENDS = (
    *prefixed(HALF, "encoder.",           "encoder."),
    Rule("conv1.{p}",                     "quant_conv.{p}"),
    Rule("conv2.{p}",                     "post_quant_conv.{p}"),
    *prefixed(HALF, "decoder.",           "decoder."),
)
DOWN, UP = "encoder.downsamples.{i}.downsamples.{j}.", "decoder.upsamples.{i}.upsamples.{j}."
NESTED = (  # Wan2.2
    *prefixed([*RESIDUAL, SHORTCUT], DOWN, "encoder.down_blocks.{i}.resnets.{j}."),
    *prefixed([RESAMPLE, TIME],      DOWN, "encoder.down_blocks.{i}.downsampler."),
    *prefixed([*RESIDUAL, SHORTCUT], UP,   "decoder.up_blocks.{i}.resnets.{j}."),
    *prefixed([RESAMPLE, TIME],      UP,   "decoder.up_blocks.{i}.upsampler."),
)
# fmt: on


def flat_rules() -> Iterator[Rule]:
    """Yield the table of Wan2.1 between the ends: four blocks up, of which the first two also stretch time."""
    yield from prefixed([*RESIDUAL, SHORTCUT, RESAMPLE, TIME], "encoder.downsamples.{i}.", "encoder.down_blocks.{i}.")
    for block in range(4):
        first = LAYERS_PER_UP_BLOCK * block
        for layer in range(LAYERS_PER_UP_BLOCK - 1):
            target = f"decoder.up_blocks.{block}.resnets.{layer}."
            yield from prefixed(RESIDUAL, f"decoder.upsamples.{first + layer}.", target)
        upsampler = (RESAMPLE, TIME) if block < 2 else (RESAMPLE,) if block == 2 else ()
        source = f"decoder.upsamples.{first + LAYERS_PER_UP_BLOCK - 1}."
        yield from prefixed(upsampler, source, f"decoder.up_blocks.{block}.upsamplers.0.")
    yield from prefixed([SHORTCUT], "decoder.upsamples.4.", "decoder.up_blocks.1.resnets.0.")  # the only wider block


def is_nested(checkpoint: Checkpoint) -> bool:
    """Tell Wan2.2's VAE from Wan2.1's."""
    return any(name.startswith("encoder.downsamples.0.downsamples.") for name in checkpoint)


def convert_vae(checkpoint: Checkpoint) -> tuple[Model, list[Parameter]]:
    """Return the model, on the meta device, and its parameters.

    Raises:
        ValueError: The tensors are not those of a Wan VAE.
    """
    nested = is_nested(checkpoint)
    found = parameters(plan(checkpoint, [*ENDS, *(NESTED if nested else flat_rules())]), checkpoint)
    config: dict[str, Any] = json.loads(WAN_2_2_CONFIG.read_text()) if nested else {}
    config["base_dim"] = shape_of(found, "encoder.conv_in.weight", 5)[0]
    config["decoder_base_dim"] = shape_of(found, "decoder.norm_out.gamma", 4)[0]
    config["z_dim"] = shape_of(found, "post_quant_conv.weight", 5)[0]
    with torch.device("meta"):
        model = AutoencoderKLWan(**config)
    check_fits(found, model)
    return model, found
