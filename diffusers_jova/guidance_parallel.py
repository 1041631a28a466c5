"""Guidance on several devices: each makes some of its predictions, all get all of them.

The i-th prediction of a step comes from the i-th process, counted round. Every process goes on with the same bits,
so that processes which begin alike, with the same arguments and the same seed, end alike. Attention is left alone:
unlike context parallelism this asks nothing of heads or lengths, and it helps no further than there are predictions.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from diffusers.utils import logging
from torch import Tensor, distributed

from .guidance import Branch


logger = logging.get_logger(__name__)


class BranchSharing(NamedTuple):
    """Processes that share the predictions of a step.

    Args:
        group: Of `torch.distributed`; None for all of its processes.
    """

    group: distributed.ProcessGroup | None = None

    @property
    def num_processes(self) -> int:
        """Of the group."""
        return distributed.get_world_size(self.group)

    def own(self, branches: Sequence[Branch]) -> list[Branch]:
        """Those that this process makes, perhaps none."""
        return list(branches)[distributed.get_rank(self.group) :: self.num_processes]

    def exchange(
        self,
        wanted: Mapping[Branch, Sequence[str]],
        velocities: Mapping[str, Mapping[Branch, Tensor]],
        like: Mapping[str, Tensor],
    ) -> dict[str, dict[Branch, Tensor]]:
        """The predictions of all processes, float32.

        Args:
            wanted: All that the step needs, in the same order on all processes, with the modalities that need them.
            velocities: Those of `own`, by modality.
            like: A tensor per modality with the shape and on the device of its velocities.
        """
        found: dict[str, dict[Branch, Tensor]] = {name: {} for name in like}
        for name, sample in like.items():
            for index, branch in enumerate(wanted):
                if name not in wanted[branch]:
                    continue
                made = velocities[name].get(branch)
                velocity = torch.empty_like(sample, dtype=torch.float32) if made is None else made.float()
                velocity = velocity.contiguous()
                distributed.broadcast(velocity, group=self.group, group_src=index % self.num_processes)
                found[name][branch] = velocity
        return found

    def tell_idle(self, branches_by_step: Sequence[Sequence[Branch]]) -> None:
        """Say where processes have nothing to do on any step."""
        most = max(len(branches) for branches in branches_by_step)
        if self.num_processes > most:
            logger.warning(
                f"{self.num_processes - most} of {self.num_processes} processes wait: {most} is the most "
                "predictions of a step"
            )


class JoVAGuidanceParallelMixin:
    """Lets several processes share the predictions of guidance."""

    transformer: Any
    _branch_sharing: BranchSharing | None = None

    def share_guidance(self, group: distributed.ProcessGroup | None = None) -> None:
        """Share the predictions of guidance between processes, each of which has this pipeline.

        All of them are called with the same arguments and generators of the same seed, and return the same clip.

        Args:
            group: Of `torch.distributed`; None for all of its processes.

        Raises:
            ValueError: There are no processes.
        """
        if not (distributed.is_available() and distributed.is_initialized()):
            raise ValueError(
                "`torch.distributed` must be initialized to share guidance, got one process alone; start several by "
                "`torchrun` and call `torch.distributed.init_process_group`"
            )
        self._branch_sharing = BranchSharing(group)

    @property
    def branch_sharing(self) -> BranchSharing | None:
        """How a call shares the predictions of guidance; None where it makes all of them.

        Raises:
            ValueError: The same processes are to share the rows of each prediction.
        """
        if self._branch_sharing is not None and self.transformer._parallel_config is not None:
            raise ValueError(
                "guidance must be shared on a transformer without context parallelism, got both; leave out "
                "`share_guidance` or `enable_parallelism`"
            )
        return self._branch_sharing
