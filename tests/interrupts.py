"""Ctrl-C for processes that tests start."""

import signal


def heed_interrupts() -> None:
    """Let a process that is about to start heed Ctrl-C, which those of a job in the background of a shell ignore."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
