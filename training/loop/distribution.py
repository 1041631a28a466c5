"""How the processes of a run are started: what accelerate is told, and whether it did what was asked."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator, DistributedType
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

from diffusers_jova.training.loop.config import TrainConfig


LONGEST_WAIT = timedelta(hours=2)  # of processes for another; NCCL's 10 minutes are less than a large checkpoint takes
DEEPSPEED_NUMBERS = {  # name in its configuration: setting of the run
    "train_micro_batch_size_per_gpu": "batch_size",
    "gradient_accumulation_steps": "gradient_accumulation_steps",
    "gradient_clipping": "max_grad_norm",
}


def start_accelerator(config: TrainConfig) -> Accelerator:
    """Start accelerate and check that what was asked for is what runs.

    `accelerate launch --cpu --num_processes 2` starts one process, and a sharded run without GPUs becomes another kind
    of run, both without a word: here they are errors.
    """
    if config.mixed_precision == "fp16" and not torch.cuda.is_available():
        raise ValueError("`mixed_precision` must be bf16 or no without a GPU, got fp16; use bf16")
    handlers = [
        DistributedDataParallelKwargs(gradient_as_bucket_view=True),
        InitProcessGroupKwargs(timeout=LONGEST_WAIT),
    ]
    # `accelerate launch` may have written another number there, or `auto`, which Accelerator cannot read
    os.environ["ACCELERATE_GRADIENT_ACCUMULATION_STEPS"] = str(config.gradient_accumulation_steps)
    accelerator = Accelerator(
        mixed_precision=config.mixed_precision,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        kwargs_handlers=handlers,
    )
    kinds = {
        DistributedType.NO: "none",
        DistributedType.MULTI_CPU: "ddp",
        DistributedType.MULTI_GPU: "ddp",
        DistributedType.FSDP: "fsdp",
        DistributedType.DEEPSPEED: "deepspeed",
    }
    started = kinds.get(accelerator.distributed_type, str(accelerator.distributed_type))
    asked = "fsdp" if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true" else config.distribution
    num_asked = int(os.environ.get("WORLD_SIZE", 1))
    preset = next((kind for kind in (asked, started) if kind in ("fsdp", "deepspeed")), "ddp")
    if config.distribution != started or asked != started or accelerator.num_processes != num_asked:
        on_the_cpu = (
            "on the CPU with `ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 -m diffusers_jova.training.train "
            "--config ...`"
        )
        if preset != "ddp":
            on_the_cpu += f" and `distribution=ddp`, because accelerate starts {preset} on accelerators alone"
        raise ValueError(
            f"`distribution` must be what was started, got {asked} for {num_asked} processes but {started} with "
            f"{accelerator.num_processes} runs; set `distribution` in the configuration and start with `accelerate "
            f'launch --config_file "$(jova presets accelerate/{preset})" -m diffusers_jova.training.train '
            f"--config ...`, {on_the_cpu}, or set `distribution=none` and start one process"
        )
    if config.mixed_precision == "bf16" and accelerator.device.type == "cpu" and lacks_bfloat16():
        accelerator.print("this processor has no instructions for bfloat16: `mixed_precision=no` is many times faster")
    if started == "deepspeed":
        settle_deepspeed(accelerator.state.deepspeed_plugin.deepspeed_config, config)
        accelerator.print("this run cannot be continued if it ends early: DeepSpeed's checkpoints lack the optimizer")
    return accelerator


def shard_by_block(accelerator: Accelerator, transformer: Any) -> None:
    """Let FSDP shard a transformer block by block, whichever class it is of.

    Raises:
        ValueError: Its configuration names blocks of another class.
    """
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is None:
        return
    blocks, named = list(transformer._repeated_blocks), plugin.transformer_cls_names_to_wrap
    if named is not None and (
        others := sorted({*named} - {type(module).__name__ for module in transformer.modules()})
    ):
        raise ValueError(
            f"`fsdp_transformer_layer_cls_to_wrap` must name blocks of the model, {', '.join(blocks)}, got "
            f"{', '.join(others)}; leave it out"
        )
    plugin.transformer_cls_names_to_wrap = named or blocks


def is_first_process() -> bool:
    """Whether this one speaks for all that were started; known before they meet."""
    return os.environ.get("RANK", "0") == "0"


def lacks_bfloat16() -> bool:
    """Whether matrices of bfloat16 are multiplied without instructions for it on this processor, as oneDNN tells."""
    return torch.backends.mkldnn.is_available() and not torch.ops.mkldnn._is_mkldnn_bf16_supported()


def settle_deepspeed(values: dict[str, Any], config: TrainConfig) -> None:
    """Write the run's numbers into DeepSpeed's configuration, which would otherwise go by numbers of its own.

    Raises:
        ValueError: If it holds other numbers, or shards the weights, of which a checkpoint would then miss parts.
    """
    if values["zero_optimization"]["stage"] > 2:
        raise ValueError(
            f"`zero_stage` must be 2 or less, got {values['zero_optimization']['stage']}; use `distribution: fsdp` "
            "to shard the weights"
        )
    for name, setting in DEEPSPEED_NUMBERS.items():
        value, found = getattr(config, setting), values.get(name, "auto")
        if found not in ("auto", value):
            raise ValueError(
                f"`{name}` must be `{setting}` = {value}, got {found}; write `{name}: auto` in DeepSpeed's settings"
            )
        values[name] = value
