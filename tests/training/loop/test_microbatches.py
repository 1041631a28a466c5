from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
import torch

from diffusers_jova.training.data.dataset import PrecomputedDataset
from diffusers_jova.training.loop.microbatches import BatchOrder, MicroBatchSampler, seed_of
from tests.tiny_training import tiny_config


BEGINNINGS = ((1, 0), (1, 5), (2, 0))  # seed and first batch
BUCKETS = [list(range(17)), list(range(17, 20)), [20]]


def parts(folder: Path, rank: int, world_size: int, count: int, start: int = 0, **settings: int) -> list[list[int]]:
    config = tiny_config(folder, **settings)
    sampler = iter(MicroBatchSampler(PrecomputedDataset(config.data), config, rank, world_size, start))
    return [next(sampler) for _ in range(count)]


def test_an_epoch_shows_every_clip_once(tmp_path: Path) -> None:
    batches = parts(tmp_path, 0, 1, count=4, batch_size=2)
    assert sorted(index for batch in batches for index in batch) == list(range(8))


@pytest.mark.parametrize(("world_size", "accumulation"), [(4, 1), (2, 2), (1, 4)])
def test_processes_and_accumulation_share_one_order(tmp_path: Path, world_size: int, accumulation: int) -> None:
    settings = {"batch_size": 2, "gradient_accumulation_steps": accumulation}
    ranks = [parts(tmp_path, rank, world_size, 3 * accumulation, **settings) for rank in range(world_size)]
    steps = [
        [ranks[rank][step * accumulation + micro] for micro in range(accumulation) for rank in range(world_size)]
        for step in range(3)
    ]
    one = parts(tmp_path, 0, 1, 12, batch_size=2, gradient_accumulation_steps=4)
    assert [batch for step in steps for batch in step] == one


def test_a_later_start_continues_the_same_order_over_epochs(tmp_path: Path) -> None:
    whole = parts(tmp_path, 0, 1, 12, batch_size=2)
    for start in (1, 4, 7):
        assert parts(tmp_path, 0, 1, 12 - start, start=start, batch_size=2) == whole[start:]


def draw(order: BatchOrder, num_batches: int, start: int = 0) -> list[list[int]]:
    return list(islice(order.batches_from(start), num_batches))


@pytest.mark.parametrize("size", [1, 4, 32])
def test_a_clip_of_a_rare_bucket_is_drawn_as_often_as_the_others(size: int) -> None:
    batches = draw(BatchOrder(BUCKETS, size, seed=0), 3 * 21)
    assert all(len(batch) == size for batch in batches)
    assert all(any(set(batch) <= set(bucket) for bucket in BUCKETS) for batch in batches)
    assert Counter(index for batch in batches for index in batch) == dict.fromkeys(range(21), 3 * size)


def test_an_order_begins_at_any_batch_where_the_whole_one_would_be() -> None:
    for size in (1, 4, 32):
        order = BatchOrder(BUCKETS, size, seed=3)
        whole = draw(order, 50)
        assert all(draw(order, 2, start) == whole[start : start + 2] for start in range(48))


def test_orders_of_other_seeds_and_epochs_differ() -> None:
    first, second, other = (draw(BatchOrder([list(range(20))], 4, seed), 5, start) for seed, start in BEGINNINGS)
    assert first != second
    assert first != other


def test_one_bucket_of_whole_batches_is_shuffled_and_then_its_batches_are() -> None:
    batches = draw(BatchOrder([list(range(12))], 4, seed=5), 6)
    for epoch in range(2):
        generator = torch.Generator().manual_seed(5 * 1_000_003 + epoch)
        order = torch.randperm(12, generator=generator).view(3, 4)
        assert batches[3 * epoch : 3 * epoch + 3] == order[torch.randperm(3, generator=generator)].tolist()


def test_neighbouring_seeds_are_unrelated() -> None:
    seeds = {seed_of(run, step, part) for run in range(4) for step in range(20) for part in range(4)}
    assert len(seeds) == 4 * 20 * 4
    assert seed_of(1, 23) != seed_of(12, 3)
    assert all(0 <= seed < 2**63 for seed in seeds)
