"""Adapters: which modules they reach, a 4-bit base below them, and a file that the pipeline loads."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import cast_training_params
from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor, nn

from diffusers_jova.training.loop.branches import NOTHING_TO_TRAIN, branch_of, trains
from diffusers_jova.training.loop.checkpoints import kept_by_run
from diffusers_jova.training.loop.config import TrainConfig
from diffusers_jova.whole_files import explained_full_disk, written_whole


PROJECTIONS = r"(to_q|to_k|to_v|to_out\.0)"
FEED_FORWARD = r"\.net\.(0\.proj|2)"
VIDEO, AUDIO, MEDIA = "video(_text)?", "audio(_text)?", "(video|audio|shared)"
STREAMS = "((video|audio)(_text)?|shared)"
TARGETS = {  # preset: regular expression of whole module names, in both transformers
    "video": rf".*\.(attn[12]?\.{VIDEO}\.{PROJECTIONS}|ffn?\.{VIDEO}{FEED_FORWARD})",
    "audio": rf".*\.(attn[12]?\.{AUDIO}\.{PROJECTIONS}|ffn?\.{AUDIO}{FEED_FORWARD})",
    "joint": rf".*\.attn1?\.{MEDIA}\.{PROJECTIONS}",
    "attention": rf".*\.attn[12]?\.{STREAMS}\.{PROJECTIONS}",
    "attention_ff": rf".*\.(attn[12]?\.{STREAMS}\.{PROJECTIONS}|ffn?\.{STREAMS}{FEED_FORWARD})",
}
DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
ADAPTER_FILE = "pytorch_lora_weights.safetensors"


def add_adapter(transformer: Any, config: TrainConfig) -> None:
    """Freeze the transformer, in the run's number format or in 4 bit, and lay a float32 adapter over it."""
    transformer.requires_grad_(False)
    cast_weights(transformer, DTYPES[config.mixed_precision])
    if config.quantize == "nf4":
        for blocks in transformer.children():
            if isinstance(blocks, nn.ModuleList):
                quantize_nf4_(blocks)
    transformer.add_adapter(
        LoraConfig(
            r=config.lora_rank,
            lora_alpha=config.lora_alpha,
            lora_dropout=config.lora_dropout,
            target_modules=target_modules(transformer, config),
        )
    )
    cast_training_params(transformer, dtype=torch.float32)


def target_modules(transformer: nn.Module, config: TrainConfig) -> str | list[str]:
    """Find what the adapter reaches: the preset's pattern, or names where the stage trains a part of it only."""
    pattern = TARGETS[config.lora_targets]
    reached = [name for name, _ in transformer.named_modules() if re.fullmatch(pattern, name)]
    names = [name for name in reached if trains(branch_of(name), config)]
    if not names:
        raise ValueError(NOTHING_TO_TRAIN)
    return pattern if names == reached else names


def cast_weights(transformer: Any, dtype: torch.dtype) -> None:
    """Cast all weights but those that `from_pretrained` keeps in float32 too: what is trained is what is loaded."""
    kept = {*(transformer._keep_in_fp32_modules or ())}
    for name, parameter in transformer.named_parameters():
        if kept.isdisjoint(name.split(".")):
            parameter.data = parameter.data.to(dtype)


def quantize_nf4_(module: nn.Module) -> None:
    """Replace every linear layer below ``module`` by a frozen one of 4-bit normal floats, in place."""
    try:
        from bitsandbytes.nn.modules import Linear4bit, Params4bit
    except ImportError as error:
        raise ImportError("`quantize: nf4` needs bitsandbytes; run `pip install bitsandbytes`") from error
    for name, child in list(module.named_children()):
        if not isinstance(child, nn.Linear):
            quantize_nf4_(child)
            continue
        has_bias, device = child.bias is not None, child.weight.device
        layer = Linear4bit(child.in_features, child.out_features, has_bias, child.weight.dtype, quant_type="nf4")
        layer.weight = Params4bit(child.weight.data, requires_grad=False, quant_type="nf4")
        layer.bias = child.bias
        setattr(module, name, layer.to(device))  # the move quantises


def save_adapter(transformer: Any, weights: dict[str, Tensor], output_dir: Path) -> Path:
    """Write an adapter that `JoVAPipeline.load_lora_weights` reads, with its configuration in the header.

    Args:
        transformer: The transformer with the adapter.
        weights: The adapter's weights under the transformer's own parameter names.
        output_dir: Folder of the file.
    """
    adapter = transformer.active_adapters()[0]
    tensors = {f"transformer.{name.replace(f'.{adapter}.', '.')}": value for name, value in weights.items()}
    values = transformer.peft_config[adapter].to_dict()
    values = {name: sorted(value) if isinstance(value, set) else value for name, value in values.items()}
    metadata = {f"transformer.{name}": value for name, value in values.items()}
    path = output_dir / ADAPTER_FILE
    header = {"format": "pt", "lora_adapter_metadata": json.dumps(metadata, indent=2, sort_keys=True)}
    with explained_full_disk(path, kept_by_run(path.parent)), written_whole(path) as partial:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial, metadata=header)
    return path
