"""Work that is spread over a Ray cluster, of which every node sees the same files."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar


Item = TypeVar("Item")
Result = TypeVar("Result")


def run_on_ray(
    worker: Callable[[Item], Result], items: Sequence[Item], num_processes: int, device: str | None
) -> Iterator[Result]:
    """Give each item to one of several actors, each with its own copy of the worker.

    Args:
        worker: What is done with an item; it is sent to the actors.
        items: What there is to do.
        num_processes: How many actors there are.
        device: Where the worker computes; unless it is the CPU, each actor has a GPU of its own if there are any.

    Yields:
        The results as they come.

    Raises:
        ImportError: If Ray is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError(
            "`--ray` needs Ray Data, which is not installed; install the package with its extra `ray`"
        ) from error
    if not items:
        return
    if not ray.is_initialized():
        ray.init()
    gpus = 1 if ray.cluster_resources().get("GPU") and device != "cpu" else 0
    rows = ray.data.from_items([{"item": pickle.dumps(item)} for item in items])
    results = rows.map(_Actor, fn_constructor_args=(worker,), concurrency=max(1, num_processes), num_gpus=gpus)
    for row in results.iter_rows():
        yield pickle.loads(row["result"])


class _Actor:
    """One actor of the cluster; a table of bytes leaves items and results as they are."""

    def __init__(self, worker: Callable[[Any], Any]) -> None:
        self._worker = worker

    def __call__(self, row: dict[str, Any]) -> dict[str, bytes]:
        return {"result": pickle.dumps(self._worker(pickle.loads(row["item"])))}
