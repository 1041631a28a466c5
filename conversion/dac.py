"""The continuous DAC of MOVA (`audio_vae`) and HunyuanVideo-Foley (`vae_128d_48k.pth`) -> `JoVAAutoencoderKLDAC`.

The original counts the layers of each half in one row; its Snake and its convolution are layers of their own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from diffusers_jova.autoencoder_kl_dac import JoVAAutoencoderKLDAC
from diffusers_jova.conversion.checkpoint import Checkpoint, Source
from diffusers_jova.conversion.output import Model, Parameter, check_fits, parameters, shape_of
from diffusers_jova.conversion.rules import Rule, plan, prefixed


NUM_UNITS = 3  # residual units of a block
SAMPLE_RATE = 48000  # of both releases; no tensor tells it

# fmt: off
CONV = (  # DAC                                             diffusers
    Rule("weight_g",                                        "parametrizations.weight.original0"),
    Rule("weight_v",                                        "parametrizations.weight.original1"),
    Rule("bias",                                            "bias"),
)
UNIT = (
    Rule("block.0.alpha",                                   "snake1.alpha"),
    *prefixed(CONV, "block.1.",                             "conv1."),
    Rule("block.2.alpha",                                   "snake2.alpha"),
    *prefixed(CONV, "block.3.",                             "conv2."),
)
ENDS = (
    *prefixed(CONV, "quant_conv.",                          "in_proj."),
    *prefixed(CONV, "post_quant_conv.",                     "out_proj."),
)
# fmt: on


def half_rules(source: str, target: str, num_blocks: int) -> list[Rule]:
    """What encoder and decoder have around their blocks: a convolution, and Snake with a convolution."""
    return [
        *prefixed(CONV, f"{source}0.", f"{target}conv1."),
        Rule(f"{source}{num_blocks + 1}.alpha", f"{target}snake1.alpha"),
        *prefixed(CONV, f"{source}{num_blocks + 2}.", f"{target}conv2."),
    ]


def units(source: str, target: str, first: int) -> list[Rule]:
    """Residual units of one block, the first of which is layer `first` of the original."""
    return [
        rule
        for index in range(NUM_UNITS)
        for rule in prefixed(UNIT, f"{source}block.{first + index}.", f"{target}res_unit{index + 1}.")
    ]


def rules(num_blocks: int) -> list[Rule]:
    """Table of a DAC with so many blocks in each half."""
    table = [*ENDS]
    table += half_rules("encoder.block.", "encoder.", num_blocks)
    table += half_rules("decoder.model.", "decoder.", num_blocks)
    for index in range(num_blocks):
        source, target = f"encoder.block.{index + 1}.", f"encoder.block.{index}."
        table += units(source, target, first=0)
        table.append(Rule(f"{source}block.{NUM_UNITS}.alpha", f"{target}snake1.alpha"))
        table += prefixed(CONV, f"{source}block.{NUM_UNITS + 1}.", f"{target}conv1.")
        source, target = f"decoder.model.{index + 1}.", f"decoder.block.{index}."
        table.append(Rule(f"{source}block.0.alpha", f"{target}snake1.alpha"))
        table += prefixed(CONV, f"{source}block.1.", f"{target}conv_t1.")
        table += units(source, target, first=2)
    return table


def with_weight_norm(checkpoint: Checkpoint) -> dict[str, Source]:
    """Split folded weights into a direction `weight_v` and its length `weight_g`, over all axes but the first.

    The lengths are computed and kept in float32, because a rounded length rounds every weight.
    """
    split: dict[str, Source] = {}
    for name, source in checkpoint.items():
        if not name.endswith(".weight"):
            split[name] = source
            continue

        def read_lengths(source: Source = source) -> Tensor:
            return lengths(source.read().float())

        shape = (source.shape[0], *(1 for _ in source.shape[1:]))
        split[f"{name}_v"] = source
        split[f"{name}_g"] = Source(shape, torch.float32, read_lengths)
    return split


def lengths(weight: Tensor) -> Tensor:
    """Norm over all axes but the first, which are kept."""
    return torch.linalg.vector_norm(weight, dim=tuple(range(1, weight.ndim)), keepdim=True)


def count_blocks(checkpoint: Checkpoint) -> int:
    """Number of blocks of the encoder: all its layers but three."""
    return len({name.split(".")[2] for name in checkpoint if name.startswith("encoder.block.")}) - 3


def rates(found: Sequence[Parameter], names: Sequence[str]) -> list[int]:
    """Factors by which convolutions change the rate: half as many as they have taps."""
    return [shape_of(found, f"{name}.parametrizations.weight.original1", 3)[2] // 2 for name in names]


def convert_dac(checkpoint: Checkpoint) -> tuple[Model, list[Parameter]]:
    """Return the audio VAE, on the meta device, and its parameters; weights may be folded or split.

    Raises:
        ValueError: The tensors are not those of a continuous DAC.
    """
    checkpoint = with_weight_norm(checkpoint)
    num_blocks = count_blocks(checkpoint)
    found = parameters(plan(checkpoint, rules(max(0, num_blocks))), checkpoint)
    config = {
        "encoder_dim": shape_of(found, "encoder.conv1.bias", 1)[0],
        "encoder_rates": rates(found, [f"encoder.block.{index}.conv1" for index in range(num_blocks)]),
        "latent_dim": shape_of(found, "out_proj.bias", 1)[0],
        "decoder_dim": shape_of(found, "decoder.conv1.bias", 1)[0],
        "decoder_rates": rates(found, [f"decoder.block.{index}.conv_t1" for index in range(num_blocks)]),
        "sample_rate": SAMPLE_RATE,
        "num_channels": shape_of(found, "decoder.conv2.bias", 1)[0],
    }
    with torch.device("meta"):
        model = JoVAAutoencoderKLDAC(**config)
    check_fits(found, model)
    return model, found
