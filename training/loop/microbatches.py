"""Which clips each process sees at each step: a function of the seed and the step, so that nothing need be stored."""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import count

import torch
from torch.utils.data import DataLoader, Sampler

from diffusers_jova.training.data.dataset import Batch, PrecomputedDataset
from diffusers_jova.training.loop.config import TrainConfig


def seed_of(*parts: object) -> int:
    """Mixes numbers or names (run seed, step, part of the step) into one seed; different parts, unrelated seeds."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


@dataclass(frozen=True)
class BatchOrder:
    """Endless batches of one bucket each, in which every clip is drawn equally often, whatever its bucket.

    Each epoch goes once through the clips of every bucket, in an order of its own, and draws the batches that are then
    full, in random turn. The clips of a bucket that fill no batch are the first of its next one, epochs later if they
    are few: after `size` epochs, every clip was drawn `size` times.

    Attributes:
        buckets: Indices of each bucket, as `PrecomputedDataset.buckets`.
        size: Clips in a batch.
        seed: Seed of the order.
    """

    buckets: Sequence[Sequence[int]]
    size: int
    seed: int

    def batches_from(self, start: int) -> Iterator[list[int]]:
        """Draw the batches from number `start` on."""
        first_epoch = self._epoch_of(start)
        num_drawn = start - sum(self._num_full(first_epoch))
        yield from self._batches_of(first_epoch)[num_drawn:]
        for epoch in count(first_epoch + 1):
            yield from self._batches_of(epoch)

    def _num_full(self, num_epochs: int) -> list[int]:
        """Batches of each bucket that its clips fill in `num_epochs` epochs."""
        return [num_epochs * len(bucket) // self.size for bucket in self.buckets]

    def _epoch_of(self, batch: int) -> int:
        num_clips = sum(map(len, self.buckets))
        last = (batch + 1 + len(self.buckets)) * self.size // num_clips + 1  # less than a batch of each is not full
        return bisect_right(range(last), batch, key=lambda epoch: sum(self._num_full(epoch))) - 1

    def _batches_of(self, epoch: int) -> list[list[int]]:
        spans = zip(self._num_full(epoch), self._num_full(epoch + 1), strict=True)
        batches = [batch for bucket, span in enumerate(spans) for batch in self._draw(bucket, *span)]
        return [batches[i] for i in self._permutation(epoch, len(self.buckets), len(batches))]

    def _draw(self, bucket: int, first: int, last: int) -> list[list[int]]:
        """Cut batches `first` to `last` - 1 of a bucket from the orders of its epochs, one behind the other."""
        clips, order_of = self.buckets[bucket], cache(partial(self._permutation, which=bucket))
        places = (divmod(place, len(clips)) for place in range(first * self.size, last * self.size))
        drawn = [clips[order_of(epoch)[row]] for epoch, row in places]
        return [drawn[start : start + self.size] for start in range(0, len(drawn), self.size)]

    def _permutation(self, epoch: int, which: int, num_batches: int = 0) -> list[int]:
        """Give the order of the clips of bucket `which`, or behind the last bucket that of the epoch's batches."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        lengths = [*map(len, self.buckets), num_batches][: which + 1]
        *_, order = (torch.randperm(length, generator=generator) for length in lengths)
        return order.tolist()


class MicroBatchSampler(Sampler[list[int]]):
    """Endless index lists, one per micro-batch of this process.

    One optimizer step draws one global batch of one bucket and cuts it into `accumulation * world_size` parts. So each
    step of a run on R processes sees what one process with R times the accumulation sees.

    Args:
        dataset: The prepared clips.
        config: The run's settings.
        rank: This process.
        world_size: Number of processes.
        start: Step to begin with.
    """

    def __init__(
        self, dataset: PrecomputedDataset, config: TrainConfig, rank: int, world_size: int, start: int
    ) -> None:
        self.size, self.rank, self.world_size, self.start = config.batch_size, rank, world_size, start
        self.num_micro_batches = config.gradient_accumulation_steps
        global_batch_size = self.size * world_size * self.num_micro_batches
        self.order = BatchOrder(dataset.buckets, global_batch_size, config.seed)

    def __iter__(self) -> Iterator[list[int]]:
        for indices in self.order.batches_from(self.start):
            for micro in range(self.num_micro_batches):
                part = micro * self.world_size + self.rank
                yield indices[part * self.size : (part + 1) * self.size]


class MicroBatches:
    """The batches of this process in order, of the training clips and, at fixed intervals, of the prior ones.

    Args:
        config: The run's settings.
        dataset: The prepared clips.
        prior: Prepared clips against forgetting, or None.
        rank: This process.
        world_size: Number of processes.
        start: Step to begin with.
    """

    def __init__(
        self,
        config: TrainConfig,
        dataset: PrecomputedDataset,
        prior: PrecomputedDataset | None,
        rank: int,
        world_size: int,
        start: int,
    ) -> None:
        self.config = config
        num_prior = int(start * config.prior_probability)
        self.batches = self._load(dataset, rank, world_size, start - num_prior)
        self.prior_batches = None if prior is None else self._load(prior, rank, world_size, num_prior)

    def next(self, step: int) -> Batch:
        """Loads the next micro-batch of ``step``."""
        share = self.config.prior_probability
        if self.prior_batches is not None and int((step + 1) * share) > int(step * share):
            return next(self.prior_batches)
        return next(self.batches)

    def _load(self, dataset: PrecomputedDataset, rank: int, world_size: int, start: int) -> Iterator[Batch]:
        sampler = MicroBatchSampler(dataset, self.config, rank, world_size, start)
        if dataset.in_memory:
            return (dataset.batch(indices) for indices in sampler)
        return iter(
            DataLoader(
                dataset,
                sampler=sampler,
                batch_size=None,
                num_workers=self.config.num_workers,
                worker_init_fn=leave_group,
            )
        )


def leave_group(_worker: int) -> None:
    """Take a worker process out of its parent's group: signals to the group end the run, which needs it to the end."""
    os.setsid()
