"""Measured numbers in model cards: tables between markers, so that no number is ever typed in."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from diffusers_jova.whole_files import write_text


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def find_section(card: Path, name: str) -> tuple[str, str]:
    """What stands before and after the markers `<!-- name -->` and `<!-- /name -->` of a card.

    Raises:
        ValueError: If the card lacks the markers.
    """
    page = card.read_text()
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if not (found := re.search(f"{re.escape(start)}.*?{re.escape(end)}", page, re.DOTALL)):
        raise ValueError(f"`{card}` must have a line {start!r} and a line {end!r}; add them where the table belongs")
    return page[: found.start()], page[found.end() :]


def fill_section(card: Path, name: str, text: str) -> None:
    """Put `text` between the markers of a section, in place of what stands there; errors as of `find_section`."""
    before, after = find_section(card, name)
    write_text(card, f"{before}<!-- {name} -->\n{text.strip()}\n<!-- /{name} -->{after}")


def provenance() -> dict[str, str]:
    """Commit of this code (with a `+` if its files differ) and the time, for a table's origin; cards are no code."""
    commit = _git("rev-parse", "--short", "HEAD") or "unknown"
    changed = (
        "+" if _git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":(top,exclude)model_cards") else ""
    )
    return {"commit": commit + changed, "date": datetime.now(UTC).isoformat(timespec="seconds")}


def _git(*arguments: str) -> str:
    root = Path(__file__).resolve().parent
    try:
        result = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return result.stdout.strip()
