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
            self._known[str(row["key"])] = Measured(**{name: row[name] for name in Measured._fields if name in row})
        except (ValueError, TypeError, KeyError, RecursionError):
            return

    def key(self, clip: ListedClip, group: str) -> str | None:
        """Of what a group says of a clip as it is now; None if a file is gone."""
        try:
            decisive = {**self._meter.settings(group), **self._meter.asked(group, clip)}
            return f"{group} {VERSIONS[group]} {clip.digest(decisive)}"
        except OSError:
            return None

    def find(self, key: str | None) -> Measured | None:
        """What was known at the beginning; None if it must be measured."""
        return None if key is None else self._known.get(key)

    def add(self, key: str | None, clip: ListedClip, group: str, measured: Measured) -> None:
        """Keep what was measured, unless another run may say more."""
        if key is not None and measured.is_final:
            row: dict[str, Any] = {"key": key, "clip": clip.name, "group": group}
            append_line(self._path, row | measured._asdict())
