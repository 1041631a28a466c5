"""SIGTERM: the sign that a machine is about to be taken away, noticed by all processes of a run together."""

from __future__ import annotations

import signal
import threading

import torch

from diffusers_jova.training.loop.distribution import LONGEST_WAIT


class PreemptedError(RuntimeError):
    """A run ended by SIGTERM, after it wrote a checkpoint; the message says how it goes on."""


class Preemption:
    """Notices SIGTERM while it is entered: a machine that is about to be taken away sends it.

    Args:
        num_processes: Of the run; they ask each other on the CPU, so that no host waits for its device.
    """

    def __init__(self, num_processes: int) -> None:
        self.is_announced = False
        is_alone = num_processes == 1
        self.group = None if is_alone else torch.distributed.new_group(backend="gloo", timeout=LONGEST_WAIT)
        self.can_listen = threading.current_thread() is threading.main_thread()  # Python gives signals to no other

    def __enter__(self) -> Preemption:
        if self.can_listen:
            self.earlier = signal.signal(signal.SIGTERM, self._notice)
        return self

    def __exit__(self, *_: object) -> None:
        if self.can_listen:
            signal.signal(signal.SIGTERM, self.earlier or signal.SIG_DFL)

    def _notice(self, *_: object) -> None:
        self.is_announced = True

    def is_agreed(self) -> bool:
        """Whether any process has noticed it by now, the same in every process."""
        if self.group is None:
            return self.is_announced
        flag = torch.tensor(float(self.is_announced))
        torch.distributed.all_reduce(flag, group=self.group)
        return bool(flag > 0)
