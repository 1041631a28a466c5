"""Ctrl-C for processes that tests start."""

import sys


HEED = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"


def heeding_interrupts(words: list[str]) -> list[str]:
    """A command that heeds Ctrl-C, which those of a job in the background of a shell ignore.

    Not by `preexec_fn`, which runs python in a fork: a lock that another thread held then is never opened there.
    """
    return [sys.executable, "-c", HEED, *words]
