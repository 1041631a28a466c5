"""The optimizer of a run and the course of its learning rate."""

from __future__ import annotations

import math

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
                "`optimizer: adamw_8bit` needs bitsandbytes; run `pip install bitsandbytes` or set `optimizer: adamw`"
            ) from error
        return AdamW8bit(groups, lr=config.learning_rate, betas=config.betas)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=device.type == "cuda")


def learning_rate_factor(step: int, config: TrainConfig) -> float:
    """Computes the factor of the learning rate at a step: linear warm-up, plateau, then the course of the schedule."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    begin = max(config.warmup_steps, config.decay_start * config.steps)
    progress = min(1.0, max(0.0, (step - begin) / max(1, config.steps - begin)))
    remaining = {"constant": 1.0, "linear": 1 - progress, "cosine": 0.5 * (1 + math.cos(math.pi * progress))}
    if config.learning_rate_schedule == "constant":
        return 1.0
    floor = config.final_learning_rate
    return floor + (1 - floor) * remaining[config.learning_rate_schedule]
