"""The optimizer of a run and the course of its learning rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from diffusers_jova.training.loop.branches import parameter_groups
from diffusers_jova.training.loop.config import TrainConfig
from diffusers_jova.training.loop.muon import MuonAdamW


def build_optimizer(transformer: nn.Module, config: TrainConfig, device: torch.device) -> torch.optim.Optimizer:
    """Builds the optimizer over what has gradients; AdamW's 8-bit form is loaded only when asked for."""
    groups = parameter_groups(transformer, config)
    if config.optimizer == "muon":
        return MuonAdamW(groups, lr=config.learning_rate, betas=config.betas)
    if config.optimizer == "adamw_8bit":
        try:
            from bitsandbytes.optim.adamw import AdamW8bit
        except ImportError as error:
            raise ImportError(
                "`optimizer: adamw_8bit` needs bitsandbytes; install the package with its extra `quantize`, or set "
                "`optimizer: adamw`"
            ) from error
        return AdamW8bit(groups, lr=config.learning_rate, betas=config.betas)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=device.type == "cuda")


class Part(NamedTuple):
    """One part of a run's course: that of one number of steps.

    Attributes:
        start: First step.
        factor: Factor of the learning rate there, but for the warm-up.
        steps: Where the course ends.
    """

    start: int
    factor: float
    steps: int


def new_course(config: TrainConfig) -> list[Part]:
    """The course of a run that begins."""
    return [Part(0, 1.0, config.steps)]


def continued_course(
    course: Sequence[Part], step: int, config: TrainConfig, warmup_steps: int | None = None
) -> list[Part]:
    """The course of a run that continues at a step: the same, or without a jump to another end if `steps` changed.

    Args:
        course: Until now.
        step: At which the run continues.
        config: Its settings from now on.
        warmup_steps: Of the run until now; None where they are those of `config`.
    """
    if not course or course[-1].steps == config.steps:
        return list(course) or new_course(config)
    is_warm = step > config.warmup_steps
    factor = learning_rate_factor(step - 1, config, course, warmup_steps) if is_warm else 1.0
    return [*(part for part in course if part.start < step), Part(step, factor, config.steps)]


def learning_rate_factor(
    step: int, config: TrainConfig, course: Sequence[Part] = (), warmup_steps: int | None = None
) -> float:
    """Compute the factor of the learning rate at a step: linear warm-up, plateau, then the course of the schedule.

    Args:
        step: From 0.
        config: Settings of the run.
        course: Its parts.
        warmup_steps: In place of those of the settings.
    """
    warmup_steps = config.warmup_steps if warmup_steps is None else warmup_steps
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    part = next(part for part in reversed([*new_course(config), *course]) if part.start <= step)
    begin = max(warmup_steps, config.decay_start * part.steps, part.start)
    progress = min(1.0, max(0.0, (step - begin) / max(1, part.steps - begin)))
    remaining = {"constant": 1.0, "linear": 1 - progress, "cosine": 0.5 * (1 + math.cos(math.pi * progress))}
    if config.learning_rate_schedule == "constant":
        return 1.0
    floor = config.final_learning_rate
    return floor + (part.factor - floor) * remaining[config.learning_rate_schedule]
