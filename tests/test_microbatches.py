from pathlib import Path

import pytest

from tests.tiny_training import tiny_config
from training.dataset import PrecomputedDataset
from training.microbatches import MicroBatchSampler, seed_of


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


def test_neighbouring_seeds_are_unrelated() -> None:
    seeds = {seed_of(run, step, part) for run in range(4) for step in range(20) for part in range(4)}
    assert len(seeds) == 4 * 20 * 4
    assert seed_of(1, 23) != seed_of(12, 3)
    assert all(0 <= seed < 2**63 for seed in seeds)
