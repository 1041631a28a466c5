"""SIGTERM and Ctrl-C: a run is to end, and all of its processes notice it together."""

from __future__ import annotations

import signal
import sys
import threading
from typing import Any

import torch

from diffusers_jova.training.loop.distribution import LONGEST_WAIT


NAMES = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}


class PreemptedError(RuntimeError):
    """A run ended by a signal, after it wrote a checkpoint; the message says how it goes on.

    Attributes:
        signal: Its number.
    """

    def __init__(self, message: str, number: int = signal.SIGTERM) -> None:
        super().__init__(message)
        self.signal = number


class Preemption:
    """Notices SIGTERM, which a machine sends that is about to be taken away, and Ctrl-C, while it is entered.

    A second Ctrl-C ends the run at once, without a checkpoint of its last step.

    Args:
        num_processes: Of the run; they ask each other on the CPU, so that no host waits for its device.
    """

    def __init__(self, num_processes: int) -> None:
        self.is_announced, self.signal = False, int(signal.SIGTERM)  # where another process is told
        self.earlier: dict[signal.Signals, Any] = {}
        is_alone = num_processes == 1
        self.group = None if is_alone else torch.distributed.new_group(backend="gloo", timeout=LONGEST_WAIT)
        self.can_listen = threading.current_thread() is threading.main_thread()  # Python gives signals to no other

    def __enter__(self) -> Preemption:
        if self.can_listen:
            self.earlier = {number: signal.signal(number, self._notice) for number in NAMES}
        return self

    def __exit__(self, *_: object) -> None:
        if self.can_listen:
            for number, handler in self.earlier.items():
                signal.signal(number, handler or signal.SIG_DFL)

    def _notice(self, number: int, _: object) -> None:
        self.is_announced, self.signal = True, number
        if number == signal.SIGINT:
            signal.signal(number, self.earlier[signal.SIGINT] or signal.SIG_DFL)
            print("ending after this step; Ctrl-C again ends at once", file=sys.stderr, flush=True)

    def is_agreed(self) -> bool:
        """Whether any process has noticed it by now, the same in every process."""
        if self.group is None:
            return self.is_announced
        flag = torch.tensor(float(self.is_announced))
        torch.distributed.all_reduce(flag, group=self.group)
        return bool(flag > 0)
