"""What an evaluation says: a row for each clip, means, differences; as JSON for programs, as a table for people."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from diffusers_jova.evaluation.measured import Measured, Vector
from diffusers_jova.evaluation.measures import MEASURES, PARTLY, VERSIONS, WAYS, Measure
from diffusers_jova.evaluation.protocols import PROTOCOLS, Line, lines_of, table_of
from diffusers_jova.evaluation.set_distance import SetDistance, set_distances
from diffusers_jova.evaluation.set_score import SetScore, set_scores
from diffusers_jova.evaluation.summary import Difference, compare, summarize
from jova_cli import __version__


FORMAT, FORMAT_VERSION = "jova-evaluation", 1
MARKS = {"higher": "more", "lower": "less", "zero": "near 0", "": "-"}  # which is better


@dataclass
class Row:
    """A clip in the report.

    Attributes:
        name: Within its folder.
        file: That was measured.
        sound: Another file, whose sound was measured in place of its own; None for its own.
        values: By the measure; None where it cannot be judged.
        reasons: By the group of measures, why.
        texts: What should be said, and what is heard.
        curves: Tracks to draw.
        missing: By the group of measures, why a package that this clip needs lacks.
        error: Why the clip cannot be read; empty if it can.
        vectors: Embeddings of the clip, or of its frames, of which a set of clips is compared with another.
        kinds: Of clips, `spoken` and `sounding`, by what was asked for.
    """

    name: str
    file: Path
    values: dict[str, float | None] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    curves: dict[str, Sequence[float | None]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    error: str = ""
    vectors: dict[str, Vector] = field(default_factory=dict)
    kinds: tuple[str, ...] = ()
    sound: Path | None = None

    def add(self, group: str, measured: Measured) -> None:
        """Take in what a group of measures says; what is not finite cannot be judged."""
        names = [measure.name for measure in MEASURES if measure.group == group]
        for name in names:
            value = measured.values.get(name)
            self.values[name] = value if value is not None and math.isfinite(value) else None
        finite = {name: vector for name, vector in measured.vectors.items() if np.isfinite(vector).all()}
        is_strange = len(finite) < len(measured.vectors)
        if measured.reason or is_strange:
            self.reasons[group] = measured.reason or "the network answers with NaN or infinity"
        if measured.missing:
            self.missing[group] = measured.missing
        self.texts |= measured.texts
        self.curves |= measured.curves
        self.vectors |= finite


@dataclass
class Report:
    """An evaluation.

    Attributes:
        sources: What was evaluated.
        rows: Of its clips.
        against: What it was compared with; empty for nothing.
        other_rows: Of those clips.
        protocol: By which the numbers are told as well, of `PROTOCOLS`; empty for none.
        settings: What decided the numbers besides the clips.
    """

    sources: list[str]
    rows: list[Row]
    against: str = ""
    other_rows: list[Row] = field(default_factory=list)
    protocol: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    _sets: dict[str, list[SetDistance]] = field(default_factory=dict, repr=False)

    @property
    def missing(self) -> list[str]:
        """What was left out of clips that needed a package, in sentences."""
        rows = [*self.rows, *self.other_rows]
        counts = Counter((group, reason) for row in rows for group, reason in row.missing.items())
        return [left_out(group, count, len(rows), reason) for (group, reason), count in counts.items()]

    @property
    def measures(self) -> list[Measure]:
        """Those that a clip has a number of."""
        rows = [*self.rows, *self.other_rows]
        return [measure for measure in MEASURES if any(row.values.get(measure.name) is not None for row in rows)]

    @property
    def is_paired(self) -> bool:
        """Whether clips of both sides have the same names: half of those of the smaller side, or more.

        Fewer are names that two folders happen to share, and would leave out all the other clips.
        """
        return 0 < self.num_of_smaller_side <= 2 * self.num_pairs

    @property
    def num_pairs(self) -> int:
        """Names of clips that can be read on both sides."""
        ours, theirs = self._names
        return len(ours & theirs)

    @property
    def num_of_smaller_side(self) -> int:
        """Names of clips that can be read on the side that has fewer."""
        return min(map(len, self._names))

    @property
    def _names(self) -> tuple[set[str], set[str]]:
        ours, theirs = ({row.name for row in rows if not row.error} for rows in (self.rows, self.other_rows))
        return ours, theirs

    @property
    def num_alone(self) -> int:
        """Clips that can be read and have no partner."""
        return sum(not row.error for row in [*self.rows, *self.other_rows]) - 2 * self.num_pairs

    def differences(self) -> dict[str, Difference]:
        """The first side less the other, by the measure; distances of numbers that should be near zero."""
        found = {}
        for measure in self.measures if self.against else []:
            ours, theirs = (_comparable(rows, measure) for rows in (self.rows, self.other_rows))
            if (difference := compare(ours, theirs, is_paired=self.is_paired)) is not None:
                found[measure.name] = difference
        return found

    def as_json(self) -> dict[str, Any]:
        """All of it, as JSON holds it."""
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "package": f"diffusers_jova {__version__}",
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "sources": self.sources,
            "settings": dict(self.settings),
            "measures": {
                measure.name: {
                    "group": measure.group,
                    "version": VERSIONS[measure.group],
                    "label": measure.label,
                    "unit": measure.unit,
                    "better": measure.better or None,
                    "source": measure.source,
                    "cannot_see": measure.blind,
                    "way": WAYS.get(measure.name),
                }
                for measure in MEASURES
            },
            "left_out": self.missing,
            **self._by_protocol(),
            "rows": [_json_row(row) for row in self.rows],
            "summary": _summary(self.rows),
            "set_scores": [score._asdict() for score in set_scores(self.rows)],
            **self._comparison(),
        }

    def protocol_lines(self) -> list[Line]:
        """The numbers of the first side by the protocol; none without one."""
        if not self.protocol:
            return []
        return lines_of(
            PROTOCOLS[self.protocol], self.rows, lambda clips: [*self.sets(clips), *set_scores(self.rows, clips)]
        )

    def sets(self, clips: str = "") -> list[SetDistance]:
        """Distances of both sides as sets, of all clips or of a kind; none without another side."""
        if clips and all(clips in row.kinds for row in (*self.rows, *self.other_rows)):
            return self.sets()
        if clips not in self._sets:
            self._sets[clips] = set_distances(self.rows, self.other_rows, clips) if self.against else []
        return self._sets[clips]

    def sets_table(self) -> str:
        """Those distances for people; empty without any."""
        if not (found := self.sets()):
            return ""
        header = ["distance of sets", "way", "less is nearer [95 %]", "clips"]
        lines = [[one.label, one.way or "-", _with_ends(one), _sizes(one)] for one in found]
        warnings = dict.fromkeys(one.warning for one in found if one.warning)
        return "\n".join(["", columns([header, *lines]), *warnings, ""])

    def scores_table(self) -> str:
        """Numbers of each side as a set for people; empty without any."""
        sides = [set_scores(rows) for rows in (self.rows, self.other_rows)]
        if not any(sides):
            return ""
        header = ["number of a set", "way", "better", "value [95 %]", "clips"]
        lines = [
            [f"{one.label}{side}", one.way or "-", MARKS[one.better], _with_ends(one), f"{one.num_clips}"]
            for side, found in zip(("", ", against"), sides, strict=True)
            for one in found
        ]
        warnings = dict.fromkeys(one.warning for found in sides for one in found if one.warning)
        return "\n".join(["", columns([header, *lines]), *warnings, ""])

    def protocol_table(self) -> str:
        """Those numbers for people; empty without a protocol."""
        if not self.protocol:
            return ""
        heading = f"protocol {self.protocol}, {PROTOCOLS[self.protocol].source}"
        return f"{heading}\n{columns(table_of(self.protocol_lines()))}\n\n"

    def _by_protocol(self) -> dict[str, Any]:
        if not self.protocol:
            return {}
        lines = [line._asdict() | {"way": line.way or None} for line in self.protocol_lines()]
        source = PROTOCOLS[self.protocol].source
        return {"protocol": {"name": self.protocol, "source": source, "numbers": lines}}

    def _comparison(self) -> dict[str, Any]:
        if not self.against:
            return {}
        differences = {name: difference._asdict() for name, difference in self.differences().items()}
        return {
            "against": {
                "source": self.against,
                "paired": self.is_paired,
                "rows": [_json_row(row) for row in self.other_rows],
                "summary": _summary(self.other_rows),
                "set_scores": [score._asdict() for score in set_scores(self.other_rows)],
                "differences": differences,
                "sets": [distance._asdict() for distance in self.sets()],
            }
        }

    def table(self) -> str:
        """Means of all clips, and how they differ from the other side's."""
        summary, other = (_summary(rows) for rows in (self.rows, self.other_rows))
        differences = self.differences()
        header = ["measure", "unit", "better", "mean +- s.e.", "clips"]
        if self.against:
            header += ["against", "difference [95 %]", ""]
        lines = [header]
        for measure in self.measures:
            cells = [measure.label, measure.unit or "-", MARKS[measure.better], *_figures(summary.get(measure.name))]
            if self.against:
                cells += [_figures(other.get(measure.name))[0], *_difference(measure, differences.get(measure.name))]
            lines.append(cells)
        return columns(lines)


def left_out(group: str, count: int, num_clips: int, reason: str) -> str:
    """Say which measures of how many clips lack a package."""
    return f"{PARTLY.get(group, group)} is left out of {count} of {num_clips} clips: {reason}"


def _summary(rows: Sequence[Row]) -> dict[str, dict[str, float | None]]:
    """Means, and of two clips or more standard errors and the mean distances of numbers that should be near zero.

    Errors to both sides of zero hide each other in a mean, and show themselves in a mean distance.
    """
    summary = summarize([row.values for row in rows])
    distances = summarize([_distances(row.values) for row in rows])
    return {
        name: {
            **figures,
            "standard_error": figures["standard_error"] if figures["count"] > 1 else None,
            **({"mean_distance": distances[name]["mean"]} if name in distances and figures["count"] > 1 else {}),
        }
        for name, figures in summary.items()
    }


def _distances(values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Of the numbers that should be near zero, the distances from it."""
    found = {measure.name: values.get(measure.name) for measure in MEASURES if measure.better == "zero"}
    return {name: None if value is None else abs(value) for name, value in found.items()}


def _comparable(rows: Iterable[Row], measure: Measure) -> dict[str, float]:
    values = {row.name: row.values.get(measure.name) for row in rows}
    return {name: measure.to_compare(value) for name, value in values.items() if value is not None}


def _json_row(row: Row) -> dict[str, Any]:
    return {
        "clip": row.name,
        "file": str(row.file),
        **({"sound": str(row.sound)} if row.sound is not None else {}),
        "error": row.error or None,
        "values": row.values,
        "cannot_judge": row.reasons,
        **({"texts": row.texts} if row.texts else {}),
    }


def _figures(summary: Mapping[str, float | None] | None) -> list[str]:
    if summary is None:
        return ["-", "0"]
    error, distance = summary["standard_error"], summary.get("mean_distance")
    told = ("" if error is None else f" +- {error:.2g}") + ("" if distance is None else f", |.| {distance:.3g}")
    return [f"{summary['mean']:.3g}{told}", f"{summary['count']}"]


def _with_ends(number: SetDistance | SetScore) -> str:
    interval = "[no interval]" if number.low is None else f"[{number.low:.3g}, {number.high:.3g}]"
    return f"{number.value:.3g} {interval}"


def _sizes(distance: SetDistance) -> str:
    pairs, others = distance.num_clips, distance.num_others
    return f"{pairs} pairs" if distance.are_pairs else f"{pairs} against {others}"


def _difference(measure: Measure, difference: Difference | None) -> list[str]:
    if difference is None:
        return ["-", ""]
    interval = "[too few clips]" if difference.low is None else f"[{difference.low:+.3g}, {difference.high:+.3g}]"
    distances = f"|.| {difference.mean:.3g} - {difference.other_mean:.3g} = " if measure.better == "zero" else ""
    return [f"{distances}{difference.difference:+.3g} {interval}", verdict(measure, difference)]


def verdict(measure: Measure, difference: Difference) -> str:
    """Whether the first side is better, as far as that is certain."""
    if not measure.better or not difference.is_certain:
        return ""
    return "better" if (difference.difference > 0) == (measure.better == "higher") else "worse"


def columns(lines: Sequence[Sequence[str]]) -> str:
    """Cells in columns that are as wide as they must be."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
