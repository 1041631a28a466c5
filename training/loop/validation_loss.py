"""The loss on clips that are not trained on, so that steps of a run, and runs, can be compared.

The loss of training is as noisy as the noise levels that are drawn for it. Here every clip meets the same levels with
the same noise, and reads its own text, so that what changes from step to step are the weights alone.
"""

from __future__ import annotations

import filecmp
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from diffusers_jova.training.data.dataset import PrecomputedDataset
from diffusers_jova.training.loop.conditioning import Conditioning
from diffusers_jova.training.loop.config import TrainConfig
from diffusers_jova.training.loop.metrics import NUM_BUCKETS, LossMeter
from diffusers_jova.training.loop.microbatches import seed_of


if TYPE_CHECKING:
    from diffusers_jova.training.loop.trainer import Trainer


LEVELS = tuple((bucket + 0.5) / NUM_BUCKETS for bucket in range(NUM_BUCKETS))  # of both modalities; as losses are told


class ValidationLoss:
    """Measures the terms of a run's loss (JoVA, arXiv:2512.13677v1, Eq. 6) on other clips than it trains on.

    First frames, keyframes, beginnings and tasks come as often as in training, and always in the same clips.

    Args:
        clips: Prepared, not trained on.
        conditioning: Of the run, with `undropped` settings.
    """

    def __init__(self, clips: PrecomputedDataset, conditioning: Conditioning) -> None:
        self.clips, self.conditioning = clips, conditioning

    @torch.no_grad()
    def __call__(self, trainer: Trainer) -> dict[str, float]:
        """Measure with the weights as they are; every process takes its share of the clips and gets all means.

        Args:
            trainer: Of the run, between two steps.

        Returns:
            `validation_loss/video`, `/audio`, `/mouth` and `/face` where there is one, and of each the mean by noise
            level, `validation_loss_video/sigma_0.0_0.2`.
        """
        accelerator = trainer.accelerator
        meter = LossMeter(trainer.config, trainer.device)
        own = range(accelerator.process_index, len(self.clips), accelerator.num_processes)
        trainer.transformer.eval()
        for turn in range(-(-len(self.clips) // accelerator.num_processes)):
            # every process asks a sharded model equally often
            index = own[turn] if turn < len(own) else 0
            batch, name = self.clips[index], self.clips.headers[index].path.name
            for level in LEVELS:
                inputs = self.conditioning(batch, seed_of("validation", name), index, level)
                terms = trainer.loss(inputs)
                if turn < len(own):
                    meter.add(terms, inputs)
        trainer.transformer.train()
        values = meter.read(accelerator.reduce(meter.take()))
        return {f"validation_{name}": value for name, value in values.items() if name.startswith("loss")}


def undropped(config: TrainConfig) -> TrainConfig:
    """Settings in which every clip reads its text, and its modalities each other."""
    return replace(
        config,
        caption_dropout=0.0,
        audio_caption_dropout=None,
        uncoupled_probability=0.0,
        experts="drawn",
        coupling="shared",
    )


def shared_records(clips: PrecomputedDataset, others: Sequence[PrecomputedDataset]) -> list[str]:
    """Names of records that are the same file, or copies of it, in another folder."""
    paths = [(header.path, other.root / header.path.name) for header in clips.headers for other in others]
    return [own.name for own, other in paths if other.exists() and filecmp.cmp(own, other, shallow=False)]
