"""Processes of tests that share a work, as `torchrun` and `accelerate launch` start them.

None is a fork of the test's own process: one that has threads leaves their locks shut behind in a fork of it.
"""

import faulthandler
import os
import tempfile
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from accelerate.utils import PrepareForLaunch
from torch import distributed, multiprocessing


PRELOADED = ["diffusers_jova.training.train", "jova_cli.main"]  # once, by the process that all others are forks of


def start(work: Callable[..., None], arguments: tuple[Any, ...], num_processes: int = 2) -> None:
    """Run `work(rank, *arguments)`, a function of a module, in so many processes and wait for them."""
    multiprocessing.set_forkserver_preload(PRELOADED)
    multiprocessing.start_processes(work, arguments, nprocs=num_processes, start_method="forkserver")


def forkserver(_: str = "spawn") -> ForkServerContext:
    """The context whose processes need not import everything anew, for one that a command asks for by name."""
    multiprocessing.set_forkserver_preload(PRELOADED)
    return multiprocessing.get_context("forkserver")


def alone(work: Callable[..., None], *arguments: Any) -> BaseProcess:
    """A process that will run `work(*arguments)`, a function of a module."""
    as_here = (dict(os.environ), torch.get_num_threads())
    return forkserver().Process(target=_run, args=(*as_here, work, *arguments))


def launch(work: Callable[..., None], *arguments: Any) -> None:
    """Run `work(*arguments)`, a function of a module, in two processes that accelerate finds in one group."""
    with tempfile.TemporaryDirectory() as folder:  # for one file, which goes with the group
        environment = {**os.environ, "WORLD_SIZE": "2", "GLOO_SOCKET_IFNAME": "lo"}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}  # asked for, not used
        environment |= {"ACCELERATE_USE_CPU": "true", "ACCELERATE_MIXED_PRECISION": "no"}
        environment["ACCELERATE_DEBUG_RDV_FILE"] = f"{folder}/meeting-point"
        start(_join, (environment, torch.get_num_threads(), work, *arguments))


def _join(
    rank: int, environment: dict[str, str], num_threads: int, work: Callable[..., None], *arguments: Any
) -> None:
    _run(environment, num_threads, PrepareForLaunch(work, debug=True), rank, *arguments)
    if distributed.is_initialized():  # accelerate leaves it to processes that it has not forked itself
        distributed.destroy_process_group()


def _run(environment: dict[str, str], num_threads: int, work: Callable[..., None], *arguments: Any) -> None:
    faulthandler.enable()  # a process that crashes tells where
    os.environ.clear()  # those of the first test that started a process
    os.environ |= environment
    torch.set_num_threads(num_threads)  # with others, sums have other bits
    work(*arguments)
