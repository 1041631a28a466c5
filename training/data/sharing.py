"""Work shared out among processes, or the actors of a Ray cluster: on samples that are prepared, clips to measure."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from diffusers_jova.ray_cluster import run_on_ray


class Worker(Protocol):
    """A dataclass that does something with an item, and can be sent to other processes.

    Attributes:
        device: Where it computes.
    """

    device: str

    def __call__(self, item: Any) -> Any:
        """Do the work."""


Run = Callable[[Sequence[Any], Any, int], Iterator[Any]]  # items, a `Worker` and how many processes


def choose_run(num_processes: int, use_ray: bool) -> Run:
    """How items are gone through: on a Ray cluster, in several processes, or in this one."""
    return run_ray if use_ray else run_processes if num_processes > 1 else run_here


def run_here(items: Sequence[Any], worker: Worker, _: int) -> Iterator[Any]:
    """Do the work in this process."""
    yield from map(worker, items)


def run_processes(items: Sequence[Any], worker: Any, num_processes: int) -> Iterator[Any]:
    """Give each process every n-th item, and its own GPU if there are several."""
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    with context.Manager() as manager, ProcessPoolExecutor(num_processes, context) as pool:  # which reports to the end
        queue = manager.Queue()
        shards = [items[rank::num_processes] for rank in range(num_processes)]
        workers = [replace(worker, device=_device(worker.device, rank)) for rank in range(num_processes)]
        futures = [pool.submit(_work, worker, shard, queue) for worker, shard in zip(workers, shards, strict=True)]
        for future in futures:
            future.add_done_callback(lambda _: queue.put(None))
        for _ in futures:
            yield from iter(queue.get, None)
        for future in futures:
            future.result()  # raises what a worker raised


def run_ray(items: Sequence[Any], worker: Any, num_processes: int) -> Iterator[Any]:
    """Give the items to actors of a cluster, of which every node sees the same files under their whole paths."""
    yield from run_on_ray(with_whole_paths(worker), items, num_processes, worker.device)


def with_whole_paths(value: Any) -> Any:
    """A path that holds in any working folder, or a dataclass with such ones in it; anything else as it is."""
    if isinstance(value, Path):
        return value.absolute()
    if not is_dataclass(value) or isinstance(value, type):
        return value
    held = {field.name: with_whole_paths(getattr(value, field.name)) for field in fields(value) if field.init}
    return replace(value, **held)


def _work(worker: Worker, items: Sequence[Any], queue: Any) -> None:
    torch.set_num_threads(1)
    for item in items:
        queue.put(worker(item))


def _device(device: str, rank: int) -> str:
    """Give rank `rank` its own GPU where several are asked for by `cuda`."""
    return f"cuda:{rank % torch.cuda.device_count()}" if device == "cuda" and torch.cuda.is_available() else device
