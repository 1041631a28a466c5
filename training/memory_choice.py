"""Settings by which a training fits into a memory: of the ways that there are, the first that does.

What is typed stays as it is. The ways come in this order, what changes no number first:

    1. as typed
    2. activations computed anew in the backward pass     gradient_checkpointing=true
    3. as few blocks as it takes wait on the host, too     blocks_to_swap=N, for an adapter in one process on CUDA
    4. in place of 3, the frozen base in 4 bits            quantize=nf4, for an adapter; changes numbers
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any, NamedTuple

import torch

from diffusers_jova.cost_estimate import GIGA
from diffusers_jova.memory_fitting import gigabytes_up
from diffusers_jova.training.estimate import TrainingEstimate, left_out
from diffusers_jova.training.loop.block_swap import blocks_of, swapped_bytes
from diffusers_jova.training.loop.config import TrainConfig


class Way(NamedTuple):
    """Settings, and the bytes on the device that a training with them holds at most."""

    config: TrainConfig
    peak_bytes: int


def fit_training(config: TrainConfig, gigabytes: float, device: torch.device) -> tuple[TrainConfig, str]:
    """Choose the first way that fits.

    Args:
        config: The settings as typed.
        gigabytes: Memory of the device, 10^9 bytes each.
        device: Kind of device that is meant.

    Returns:
        The settings, and one line that says what was chosen and what is not counted.

    Raises:
        ValueError: If none fits, with what would; or if the run is sharded.
    """
    if config.distribution in ("fsdp", "deepspeed"):
        raise ValueError(
            f"`--memory` must be for a run whose processes hold all of it, got `distribution: {config.distribution}`; "
            "leave it out, `--estimate` tells what is divided"
        )
    tried: list[Way] = []
    for way in ways(config, device):
        tried.append(way)
        if way.peak_bytes <= gigabytes * GIGA:
            said = f"memory: {way.peak_bytes / GIGA:.3g} of {gigabytes:g} GB, {changes(config, way.config)}"
            uncounted = " and ".join(left_out(config))
            return way.config, f"{said}; not counted: {uncounted}" if uncounted else said
    smallest = min(tried, key=lambda way: way.peak_bytes)
    raise ValueError(
        f"`--memory` must be at least {gigabytes_up(smallest.peak_bytes):g} for this training by the smallest way "
        f"({changes(config, smallest.config)}), got {gigabytes:g}; "
        f"{remedy(smallest.config, gigabytes, device)}"
    )


def ways(config: TrainConfig, device: torch.device) -> Iterator[Way]:
    """The ways in their order, as far as the settings allow them."""
    estimate = TrainingEstimate(config, device)
    yield Way(config, estimate.peak_bytes)
    if not config.gradient_checkpointing:
        config = replace(config, gradient_checkpointing=True)
        estimate = TrainingEstimate(config, device)
        yield Way(config, estimate.peak_bytes)
    without_swap = estimate.peak_bytes + estimate.run.swapped_bytes
    transformer = estimate.run.transformer
    if device.type == "cuda":
        for number in range(config.blocks_to_swap + 1, len(blocks_of(transformer))):
            if (swapping := allowed(config, blocks_to_swap=number)) is not None:
                yield Way(swapping, without_swap - swapped_bytes(transformer, number))
    if config.quantize == "none" and (small := allowed(config, quantize="nf4")) is not None:
        yield Way(small, TrainingEstimate(small, device).peak_bytes)


def allowed(config: TrainConfig, **values: Any) -> TrainConfig | None:
    """Other settings, where they go with each other."""
    try:
        return replace(config, **values)
    except ValueError:
        return None


def changes(typed: TrainConfig, chosen: TrainConfig) -> str:
    """What was chosen beyond what was typed."""
    names = [field.name for field in fields(typed) if getattr(typed, field.name) != getattr(chosen, field.name)]
    return ", ".join(f"{name}={str(getattr(chosen, name)).lower()}" for name in names) or "as typed"


def remedy(config: TrainConfig, gigabytes: float, device: torch.device) -> str:
    """What whoever has less memory can do."""
    others = "clips prepared with smaller `--buckets`"
    if config.batch_size == 1:
        return f"use {others}"
    number = config.batch_size * config.gradient_accumulation_steps
    alone = replace(config, batch_size=1, gradient_accumulation_steps=number)
    if TrainingEstimate(alone, device).peak_bytes <= gigabytes * GIGA:
        return f"use `batch_size=1 gradient_accumulation_steps={number}`, or {others}"
    return f"use {others} and `batch_size=1`"
