"""Adapters: which modules they reach, a 4-bit base below them, and a file that the pipeline loads."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import cast_training_params
from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor, nn

from diffusers_jova.adapter_file import for_peft, read_adapter
from diffusers_jova.adapter_fit import fitting
from diffusers_jova.adapter_keys import MATRIX_A, MATRIX_B, listed
from diffusers_jova.adapter_ranks import module_alpha, module_ranks
from diffusers_jova.few_steps import FewSteps
from diffusers_jova.number_formats import cast_weights
from diffusers_jova.provenance import name_of_source
from diffusers_jova.training.loop.branches import NOTHING_TO_TRAIN, learns
from diffusers_jova.training.loop.checkpoints import kept_by_run
from diffusers_jova.training.loop.config import TrainConfig
from diffusers_jova.transformer_jova_dual_tower import JoVADualTowerTransformer3DModel
from diffusers_jova.whole_files import explained_full_disk, written_whole


PROJECTIONS = r"(to_q|to_k|to_v|to_out\.0|to_cross)"
FEED_FORWARD = r"\.net\.(0\.proj|2)"
VIDEO, AUDIO, MEDIA = "video(_text|_low)?", "audio(_text)?", "(video|audio|shared)"
STREAMS = f"({VIDEO}|{AUDIO}|shared)"
TARGETS = {  # preset: regular expression of whole module names, in the transformers of joint attention
    "video": rf".*\.(attn[12]?\.{VIDEO}\.{PROJECTIONS}|ffn?\.{VIDEO}{FEED_FORWARD})",
    "audio": rf".*\.(attn[12]?\.{AUDIO}\.{PROJECTIONS}|ffn?\.{AUDIO}{FEED_FORWARD})",
    "joint": rf".*\.attn1?\.{MEDIA}\.{PROJECTIONS}",
    "attention": rf".*\.(attn[12]?|fusion)\.{STREAMS}\.{PROJECTIONS}",
    "attention_ff": rf".*\.((attn[12]?|fusion)\.{STREAMS}\.{PROJECTIONS}|ffn?\.{STREAMS}{FEED_FORWARD})",
}
TOWER_TARGETS = TARGETS | {"joint": rf".*\.fusion\.{MEDIA}\.{PROJECTIONS}"}  # of two towers, whose attn1 is not joint
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
    if config.init_adapter is None:
        settings = {
            "r": config.lora_rank,
            "lora_alpha": config.lora_alpha,
            "target_modules": target_modules(transformer, config),
        }
        weights: dict[str, Tensor] = {}
    else:
        weights, settings = begun_adapter(transformer, config)
    transformer.add_adapter(LoraConfig(**settings, lora_dropout=config.lora_dropout))
    cast_training_params(transformer, dtype=torch.float32)
    for name, weight in weights.items():
        transformer.get_parameter(f"{name.removesuffix('.weight')}.default.weight").data.copy_(weight)


def begun_adapter(transformer: nn.Module, config: TrainConfig) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the adapter that a run goes on from.

    Returns:
        Its matrices by `<module>.lora_{A,B}.weight`, and the fields of `LoraConfig`.

    Raises:
        ValueError: It does not fit the transformer, is no plain LoRA, or contradicts the settings.
    """
    adapter = read_adapter(config.init_adapter)
    check_same_purpose(adapter.few_steps, config)
    adapter = fitting(adapter, transformer, skip_unknown=False)
    if other := [name for name in adapter.tensors if not name.endswith((MATRIX_A, MATRIX_B))]:
        raise ValueError(
            f"`init_adapter` must be a plain LoRA to be trained, got {listed(other)}; start a new adapter"
        )
    if idle := [module for module in adapter.modules() if not learns(module, config)]:
        raise ValueError(
            f"`init_adapter` must change what the run trains alone, got {listed(idle)} in `stage: {config.stage}`; "
            "train the stage and the branches that it was trained in"
        )
    weights, fields = for_peft(adapter)
    assert fields is not None
    ranks = module_ranks(weights)
    alphas = {module: module_alpha(fields, module, rank) for module, rank in ranks.items()}
    check_agreement("lora_rank", config.lora_rank, set(ranks.values()))
    check_agreement("lora_alpha", config.lora_alpha, set(alphas.values()))
    if config.lora_targets is not None and {*ranks} != {*reached_modules(transformer, config.lora_targets)}:
        raise ValueError(
            f"`lora_targets` must be those of `init_adapter`, which changes other modules than {config.lora_targets}; "
            "leave it out"
        )
    return weights, fields


def check_same_purpose(few_steps: FewSteps | None, config: TrainConfig) -> None:
    """Refuse to make a student of an avatar, or an avatar of a student: the teacher is the model without the adapter.

    Raises:
        ValueError: The run would.
    """
    own = None if few_steps is None else few_steps.num_inference_steps
    if own != config.student_steps:
        kinds = ["an adapter of many steps" if n is None else f"a student of {n}" for n in (own, config.student_steps)]
        raise ValueError(
            f"`init_adapter` must be of the kind that is trained, {kinds[1]}, got `{config.init_adapter}`, {kinds[0]};"
            " begin a new adapter, `jova generate` takes several with `--lora`"
        )


def check_agreement(name: str, given: float | None, found: set[Any]) -> None:
    """Refuse a setting that contradicts the adapter that a run goes on from.

    Raises:
        ValueError: It does.
    """
    if given is not None and {given} != found:
        stated = ", ".join(f"{value:g}" for value in sorted(found))
        raise ValueError(f"`{name}` must be that of `init_adapter`, {stated}, got {given:g}; leave it out")


def adapter_digest(config: TrainConfig) -> str | None:
    """Digest of the adapter that a run goes on from, wherever it lies; None for a new one."""
    if config.init_adapter is None:
        return None
    adapter = read_adapter(config.init_adapter)
    digest = hashlib.sha256(json.dumps(sorted(adapter.alphas.items())).encode())
    for name in sorted(adapter.tensors):
        digest.update(name.encode() + adapter.tensors[name].float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def reached_modules(transformer: nn.Module, targets: str) -> list[str]:
    """Names of the modules that a preset means."""
    pattern = target_pattern(transformer, targets)
    return [name for name, _ in transformer.named_modules() if re.fullmatch(pattern, name)]


def target_pattern(transformer: nn.Module, targets: str) -> str:
    """Regular expression by which a preset names modules of a class of transformer."""
    return (TOWER_TARGETS if isinstance(transformer, JoVADualTowerTransformer3DModel) else TARGETS)[targets]


def target_modules(transformer: nn.Module, config: TrainConfig) -> str | list[str]:
    """Find what the adapter reaches: the preset's pattern, or names where the stage trains a part of it only."""
    assert config.lora_targets is not None
    reached = reached_modules(transformer, config.lora_targets)
    names = [name for name in reached if learns(name, config)]
    if not names:
        raise ValueError(NOTHING_TO_TRAIN)
    return target_pattern(transformer, config.lora_targets) if names == reached else names


def quantize_nf4_(module: nn.Module) -> None:
    """Replace every linear layer below ``module`` by a frozen one of 4-bit normal floats, in place."""
    try:
        from bitsandbytes.nn.modules import Linear4bit, Params4bit
    except ImportError as error:
        raise ImportError(
            "`quantize: nf4` needs bitsandbytes; install the package with its extra `quantize`"
        ) from error
    for name, child in list(module.named_children()):
        if not isinstance(child, nn.Linear):
            quantize_nf4_(child)
            continue
        has_bias, device = child.bias is not None, child.weight.device
        layer = Linear4bit(child.in_features, child.out_features, has_bias, child.weight.dtype, quant_type="nf4")
        layer.weight = Params4bit(child.weight.data, requires_grad=False, quant_type="nf4")
        layer.bias = child.bias
        setattr(module, name, layer.to(device))  # the move quantises


def save_adapter(
    transformer: Any,
    weights: dict[str, Tensor],
    output_dir: Path,
    config: TrainConfig,
    few_steps: FewSteps | None = None,
) -> Path:
    """Write an adapter that `JoVAPipeline.load_lora_weights` reads, with its configuration in the header.

    Args:
        transformer: The transformer with the adapter.
        weights: The adapter's weights under the transformer's own parameter names.
        output_dir: Folder of the file.
        config: The run's settings.
        few_steps: How a student is asked; None for other adapters.
    """
    adapter = transformer.active_adapters()[0]
    tensors = {f"transformer.{name.replace(f'.{adapter}.', '.')}": value for name, value in weights.items()}
    path = output_dir / ADAPTER_FILE
    header = adapter_header(transformer, config, few_steps)
    with explained_full_disk(path, kept_by_run(path.parent)), written_whole(path) as partial:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial, metadata=header)
    return path


def adapter_header(transformer: Any, config: TrainConfig, few_steps: FewSteps | None = None) -> dict[str, str]:
    """What the header of an adapter's file says: rank, alpha, targets, its model, and how a student is asked."""
    base_model = name_of_source(config.pipeline or config.model)
    values = transformer.peft_config[transformer.active_adapters()[0]].to_dict()
    values |= {"base_model_name_or_path": base_model}
    values = {name: sorted(value) if isinstance(value, set) else value for name, value in values.items()}
    metadata = {f"transformer.{name}": value for name, value in values.items()}
    header = {"format": "pt", "lora_adapter_metadata": json.dumps(metadata, indent=2, sort_keys=True)}
    return header | ({} if few_steps is None else few_steps.to_header())
