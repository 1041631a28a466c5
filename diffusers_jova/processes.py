"""The processes that share a run: those of `torchrun` or `accelerate launch`, or one alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
from accelerate import PartialState
from diffusers.models._modeling_parallel import ContextParallelConfig
from torch import distributed

from .context_parallel import check_heads, num_common_heads
from .pipeline_jova import JoVAPipeline


T = TypeVar("T")
LONGEST_RUN = timedelta(days=365)  # how long a process that is done waits for those that are not


class Processes(NamedTuple):
    """One of several processes.

    Attributes:
        rank: Which one this is; 0 plans, writes and reports.
        num_processes: How many there are.
        device: Where this one computes; None leaves it to the user.
        share_clips: Whether all work on each clip, or each on its own.
        share_guidance: Whether on a clip they share the predictions of guidance, or the rows of each prediction.
    """

    rank: int = 0
    num_processes: int = 1
    device: str | None = None
    share_clips: bool = False
    share_guidance: bool = False

    @property
    def is_main(self) -> bool:
        """Whether this is the one that reports."""
        return self.rank == 0

    def place(self, device: str | None) -> str | None:
        """The device of this process where the user names none, or a kind alone."""
        return self.device if self.num_processes > 1 and device in (None, "cuda") else device

    def from_main(self, function: Callable[[], T]) -> T:
        """What a function returns in the main process, for all; what it raises there ends the others as well."""
        answer: list[Any] = [None, None]
        if self.is_main:
            try:
                answer[0] = function()
            except (ValueError, OSError) as error:
                answer[1] = error
        if self.num_processes > 1:
            distributed.broadcast_object_list(answer)
        if answer[1] is not None:
            raise answer[1] if self.is_main else SystemExit  # the first that fails ends all: let the main one speak
        return answer[0]

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """The items that this process works on."""
        if self.num_processes == 1 or self.share_clips:
            return items
        with PartialState().split_between_processes(list(items)) as own:
            return own

    def gather(self, items: Sequence[T]) -> list[T]:
        """The items of all processes, for all; where all work on the same they are those of one."""
        if self.num_processes == 1 or self.share_clips:
            return list(items)
        parts: list[Any] = [None] * self.num_processes
        distributed.all_gather_object(parts, list(items))
        return [item for part in parts for item in part]

    def share_clip(self, pipeline: JoVAPipeline) -> None:
        """Let all processes work on each clip of a pipeline, if they are to."""
        if self.share_guidance:
            pipeline.share_guidance()
        elif self.share_clips:
            config = ContextParallelConfig(ulysses_degree=self.num_processes)
            check_heads(config, num_common_heads(pipeline.transformer.config), "--context-parallel")
            pipeline.transformer.enable_parallelism(config=config)


ALONE = Processes()


@contextmanager
def joined_processes(device: str | None, share_clips: bool, share_guidance: bool = False) -> Iterator[Processes]:
    """Meet the other processes of the run, if it has any.

    Args:
        device: That the user asks for; `"cpu"` or none with a GPU connects CPUs.
        share_clips: Whether all processes work on each clip, or each on its own.
        share_guidance: Whether they share the predictions of guidance there, or the rows of each.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    on_cpu = device == "cpu" or not torch.cuda.is_available()
    options: dict[str, Any] = {"backend": "gloo"} if on_cpu or not share_clips else {}
    if not share_clips:  # they exchange a plan and a report, with all of the work between them
        options["timeout"] = LONGEST_RUN
    state = PartialState(cpu=on_cpu, **options)
    try:
        yield Processes(state.process_index, state.num_processes, str(state.device), share_clips, share_guidance)
    finally:
        state.destroy_process_group()
