"""How far long work is: a bar on a terminal, a line a minute where the output goes into a file."""

import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar


Item = TypeVar("Item")
LINE_EVERY_S = 60.0  # in a file


def is_seen() -> bool:
    """Whether somebody sees a bar move."""
    return sys.stderr is not None and sys.stderr.isatty()


def hide_bars_in_files() -> None:
    """Keep the bars of all libraries out of a file, where each movement is a part of one endless line.

    tqdm, which draws them, looks at this once, when it is imported.
    """
    if not is_seen():
        os.environ.setdefault("TQDM_DISABLE", "1")


def followed(
    items: Iterable[Item], total: int | None, doing: str, unit: str = "clip", line_every_s: float = LINE_EVERY_S
) -> Iterator[Item]:
    """Hand on items as they come, and show on stderr how many there are.

    Args:
        items: That take their time.
        total: How many come; None where nobody knows.
        doing: What is done to each, as "preparing".
        unit: What each is.
        line_every_s: Seconds between lines in a file.
    """
    if is_seen():
        from tqdm.auto import tqdm  # here: the words of a command need nothing but the standard library

        yield from tqdm(items, total=total, desc=doing, unit=unit)
        return
    told_at = time.monotonic()
    for number, item in enumerate(items, 1):
        yield item
        if (now := time.monotonic()) >= told_at + line_every_s:
            told_at = now
            of_all = "" if total is None else f" of {total}"
            print(f"{doing}: {unit} {number}{of_all} is done", file=sys.stderr, flush=True)
