"""Which clips each process sees at each step: a function of the seed and the step, so that nothing need be stored."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from torch.utils.data import DataLoader, Sampler

from training.config import TrainConfig
from training.dataset import Batch, BucketSampler, PrecomputedDataset


def seed_of(*parts: object) -> int:
    """Mixes numbers or names (run seed, step, part of the step) into one seed; different parts, unrelated seeds."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


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
        self.size, self.rank, self.world_size = config.batch_size, rank, world_size
        self.num_micro_batches = config.gradient_accumulation_steps
        global_batch_size = self.size * world_size * self.num_micro_batches
        self.sampler = BucketSampler(dataset.buckets, global_batch_size, config.seed)
        epoch, position = divmod(start, len(self.sampler))
        self.sampler.load_state_dict({"epoch": epoch, "position": position})

    def __iter__(self) -> Iterator[list[int]]:
        while True:
            for indices in self.sampler:
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
        loader = DataLoader(dataset, sampler=sampler, batch_size=None, num_workers=self.config.num_workers)
        return iter(loader)
