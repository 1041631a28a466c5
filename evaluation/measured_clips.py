"""What was measured, kept between runs: a line for each clip and group of measures, so that nothing is done twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from diffusers_jova.clip_folder import append_line
from diffusers_jova.evaluation.clip_list import ListedClip
from diffusers_jova.evaluation.measured import Measured
from diffusers_jova.evaluation.measures import VERSIONS
from diffusers_jova.evaluation.meter import Meter


FILE = "measured.jsonl"


class MeasuredClips:
    """The lines of a folder.

    Args:
        folder: Of the report.
        meter: Whose settings decide the numbers.
    """

    def __init__(self, folder: Path, meter: Meter) -> None:
        self._path, self._meter = folder / FILE, meter
        self._known: dict[str, Measured] = {}
        if self._path.is_file():
            for line in self._path.read_text(encoding="utf-8", errors="replace").split("\n"):
                self._take(line)

    def _take(self, line: str) -> None:
        """Remember a line; half a line of a killed run tells nothing."""
        try:
            row = json.loads(line)
            self._known[str(row["key"])] = Measured(**{name: row[name] for name in Measured._fields})
        except (ValueError, TypeError, KeyError, RecursionError):
            return

    def find(self, clip: ListedClip, group: str) -> Measured | None:
        """What is known of a clip as it is now; None if it must be measured."""
        return self._known.get(self._key(clip, group))

    def add(self, clip: ListedClip, group: str, measured: Measured) -> None:
        """Keep what was measured."""
        row: dict[str, Any] = {"key": self._key(clip, group), "clip": clip.name, "group": group}
        append_line(self._path, row | measured._asdict())

    def _key(self, clip: ListedClip, group: str) -> str:
        return f"{group} {VERSIONS[group]} {clip.digest(self._meter.settings(group))}"
