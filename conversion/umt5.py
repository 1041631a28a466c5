"""UMT5's encoder as Wan and NAVA release it (.pth) -> transformers' `UMT5EncoderModel`."""

from __future__ import annotations

import torch
from transformers import UMT5Config, UMT5EncoderModel

from diffusers_jova.conversion.checkpoint import Checkpoint
from diffusers_jova.conversion.output import Model, Parameter, check_fits, parameters, shape_of
from diffusers_jova.conversion.rules import Rule, plan, prefixed


TIED = "encoder.embed_tokens.weight"  # the same tensor as `shared.weight`; files hold it once

# fmt: off
BLOCK = (  # Wan                             transformers
    Rule("norm1.weight",                     "layer.0.layer_norm.weight"),
    Rule("attn.{p}.weight",                  "layer.0.SelfAttention.{p}.weight"),
    Rule("pos_embedding.embedding.weight",   "layer.0.SelfAttention.relative_attention_bias.weight"),
    Rule("norm2.weight",                     "layer.1.layer_norm.weight"),
    Rule("ffn.gate.0.weight",                "layer.1.DenseReluDense.wi_0.weight"),
    Rule("ffn.fc1.weight",                   "layer.1.DenseReluDense.wi_1.weight"),
    Rule("ffn.fc2.weight",                   "layer.1.DenseReluDense.wo.weight"),
)
TABLE = (
    Rule("token_embedding.weight",           "shared.weight"),
    *prefixed(BLOCK, "blocks.{i}.",          "encoder.block.{i}."),
    Rule("norm.weight",                      "encoder.final_layer_norm.weight"),
)
# fmt: on


def convert_text_encoder(checkpoint: Checkpoint) -> tuple[Model, list[Parameter]]:
    """Return the model, on the meta device, and its parameters.

    Raises:
        ValueError: The tensors are not those of a UMT5 encoder.
    """
    found = parameters(plan(checkpoint, TABLE), checkpoint)
    attention = "encoder.block.0.layer.0.SelfAttention"
    num_buckets, num_heads = shape_of(found, f"{attention}.relative_attention_bias.weight", 2)
    vocab_size, width = shape_of(found, "shared.weight", 2)
    config = UMT5Config(
        vocab_size=vocab_size,
        d_model=width,
        d_kv=shape_of(found, f"{attention}.q.weight", 2)[0] // num_heads,
        d_ff=shape_of(found, "encoder.block.0.layer.1.DenseReluDense.wi_0.weight", 2)[0],
        num_layers=len({entry.name.split(".")[2] for entry in found if entry.name.startswith("encoder.block.")}),
        num_heads=num_heads,
        relative_attention_num_buckets=num_buckets,
    )
    with torch.device("meta"):
        model = UMT5EncoderModel(config)
    check_fits(found, model, tied=(TIED,))
    return model, found
