"""Samples shared out among processes, or the actors of a Ray cluster."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch

from diffusers_jova.ray_cluster import run_on_ray
from diffusers_jova.training.data.manifest import Sample


class Worker(Protocol):
    """A dataclass that does something with a sample, and can be sent to other processes.

    Attributes:
        model: A folder that it reads.
        output: A folder that it writes to.
        device: Where it computes.
    """

    model: Path
    output: Path
    device: str

    def __call__(self, sample: Sample) -> Any:
        """Do the work."""


Run = Callable[[Sequence[Sample], Any, int], Iterator[Any]]  # samples, a `Worker` and how many processes


def choose_run(num_processes: int, use_ray: bool) -> Run:
    """How samples are gone through: on a Ray cluster, in several processes, or in this one."""
    return run_ray if use_ray else run_processes if num_processes > 1 else run_here


def run_here(samples: Sequence[Sample], worker: Worker, _: int) -> Iterator[Any]:
    """Do the work in this process."""
    yield from map(worker, samples)


def run_processes(samples: Sequence[Sample], worker: Any, num_processes: int) -> Iterator[Any]:
    """Give each process every n-th sample, and its own GPU if there are several."""
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    with context.Manager() as manager, ProcessPoolExecutor(num_processes, context) as pool:  # which reports to the end
        queue = manager.Queue()
        shards = [samples[rank::num_processes] for rank in range(num_processes)]
        workers = [replace(worker, device=_device(worker.device, rank)) for rank in range(num_processes)]
        futures = [pool.submit(_work, worker, shard, queue) for worker, shard in zip(workers, shards, strict=True)]
        for future in futures:
            future.add_done_callback(lambda _: queue.put(None))
        for _ in futures:
            yield from iter(queue.get, None)
        for future in futures:
            future.result()  # raises what a worker raised


def run_ray(samples: Sequence[Sample], worker: Any, num_processes: int) -> Iterator[Any]:
    """Give the samples to actors of a cluster, of which every node sees the same files."""
    sent = replace(worker, model=worker.model.absolute(), output=worker.output.absolute())
    yield from run_on_ray(sent, samples, num_processes, worker.device)


def _work(worker: Worker, samples: Sequence[Sample], queue: Any) -> None:
    torch.set_num_threads(1)
    for sample in samples:
        queue.put(worker(sample))


def _device(device: str, rank: int) -> str:
    """Give rank `rank` its own GPU where several are asked for by `cuda`."""
    return f"cuda:{rank % torch.cuda.device_count()}" if device == "cuda" and torch.cuda.is_available() else device
