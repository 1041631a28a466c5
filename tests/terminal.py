"""A process that a test starts on a terminal, where bars are drawn."""

import os
import subprocess
import termios
from types import TracebackType
from typing import Any


class OnTerminal(subprocess.Popen[bytes]):
    """A process whose stderr is a terminal.

    Args:
        command: Its words.
        options: Of `subprocess.Popen`.
    """

    def __init__(self, command: list[str], **options: Any) -> None:
        self.terminal, its_end = os.openpty()
        termios.tcsetwinsize(self.terminal, (24, 80))  # a bar needs room
        environment = {name: value for name, value in os.environ.items() if name != "TQDM_DISABLE"}
        try:
            super().__init__(command, stderr=its_end, env=environment, **options)
        finally:
            os.close(its_end)

    def read(self) -> bytes:
        """What is said next; nothing once the process has ended."""
        try:
            return os.read(self.terminal, 4096)
        except OSError:  # its end is closed
            return b""

    def read_until(self, words: bytes) -> bytes:
        """What is said until some words are."""
        said = b""
        while words not in said:
            more = self.read()
            assert more, said.decode()
            said += more
        return said

    def read_all(self) -> bytes:
        """What is said until the process ends."""
        said = b""
        while more := self.read():
            said += more
        return said

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.kill()
        super().__exit__(kind, error, trace)
        os.close(self.terminal)
