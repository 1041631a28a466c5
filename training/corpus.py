"""Shards of synthetic clips on disk, and one array at a time back from them.

Every process makes and writes whole shards, so that no picture travels between processes: 13 to 16 ms per clip and
core, 0.54 MB per clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from training.avatars import write_shards


CLIPS_PER_SHARD = 256
HELD_OUT_SEED = 10_000_000  # training seeds count from 0 and stay far below


def make_shards(folder: str | Path, seeds: Sequence[int], *, num_processes: int = 1, **options: Any) -> list[Path]:
    """Make the clips of `seeds` unless their shards are there.

    Args:
        folder: Where the shards lie.
        seeds: One clip each.
        num_processes: Processes that make clips.
        options: Those of `training.avatars.make_clip`.

    Returns:
        The shards, in the order of the seeds.
    """
    chunks = [seeds[first : first + CLIPS_PER_SHARD] for first in range(0, len(seeds), CLIPS_PER_SHARD)]
    write = partial(write_shards, folder, clips_per_shard=CLIPS_PER_SHARD, **options)
    if num_processes <= 1:
        return [path for chunk in chunks for path in write(seeds=chunk)]
    with get_context("spawn").Pool(num_processes) as pool:
        return [path for paths in pool.imap(write, chunks) for path in paths]


def read_array(shards: Sequence[Path], name: str) -> npt.NDArray[Any]:
    """Read one field of `training.avatars.ClipBatch` of all clips; the first dimension counts clips."""
    parts = []
    for shard in shards:
        with np.load(shard) as arrays:
            parts.append(arrays[name])
    return np.concatenate(parts)
