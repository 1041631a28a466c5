"""What a filter would drop of a data set, and how its measures are spread, before anything is encoded."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffusers_jova.training.data.clip import BrokenFileError, SkippedClipError
from diffusers_jova.training.data.clip_filter import ClipFilter, MeasuredClip, applies
from diffusers_jova.training.data.manifest import Sample
from diffusers_jova.training.data.preparation import Preparer
from diffusers_jova.training.data.sharing import choose_run
from diffusers_jova.training.data.summary import Status, names_apart
from diffusers_jova.whole_files import write_json
from jova_cli.clip_filters import Rule, measures
from jova_cli.file_arguments import as_options
from jova_cli.progress import followed


REPORT = Path("filter_report.json")  # inside the cache
MAX_BINS = 8
BAR = 30  # characters of the fullest bin
NO_NUMBER = "no number"  # where no reason is given


class Surveyed(NamedTuple):
    """What was measured of a sample.

    Attributes:
        sample: Measured.
        clips: Its clips, in the order of time.
        status: Whether it could be read.
        note: Why it has no clips.
    """

    sample: Sample
    clips: Sequence[MeasuredClip]
    status: Status = "done"
    note: str = ""


class Surveyor(Preparer):
    """Measures samples as a `Preparer` would, and encodes nothing."""

    def __call__(self, sample: Sample) -> Surveyed:  # type: ignore[override]
        """Measure one sample."""
        try:
            self.refuse_untold(sample)
            return Surveyed(sample, self.measure(sample))
        except SkippedClipError as error:
            return Surveyed(sample, (), "skipped", error.told)
        except BrokenFileError as error:
            return Surveyed(sample, (), "broken", as_options(str(error)))


class Spread(NamedTuple):
    """How a measure is spread over clips.

    Attributes:
        numbers: Finite, of the clips that can be judged.
        edges: Of the bins, one more than there are; empty without numbers.
        counts: Clips in each bin.
        unjudged: Clips that it could say something of and does not, for each reason.
        num_apart: Clips to which it does not apply.
    """

    numbers: list[float]
    edges: list[float]
    counts: list[int]
    unjudged: Counter[str]
    num_apart: int


def survey(
    samples: Sequence[Sample], surveyor: Surveyor, num_processes: int = 1, use_ray: bool = False
) -> FilterReport:
    """Measure samples with a progress bar, as `prepare` goes through them."""
    surveyor.output.mkdir(parents=True, exist_ok=True)
    surveyed = choose_run(num_processes, use_ray)(samples, surveyor, num_processes)
    assert surveyor.clip_filter is not None
    measured = followed(surveyed, len(samples), "measuring", unit="file")
    found = sorted(measured, key=lambda each: str(each.sample.source))
    return FilterReport(found, surveyor.clip_filter)


class FilterReport:
    """The measures of a data set against a filter.

    Args:
        surveyed: What was measured.
        clip_filter: Whose rules count what they would drop.
    """

    def __init__(self, surveyed: Sequence[Surveyed], clip_filter: ClipFilter) -> None:
        self._filter = clip_filter
        self._left_out = [each for each in surveyed if each.status != "done"]
        self._clips = [(each.sample, clip) for each in surveyed for clip in each.clips]
        self._breaches = [clip_filter.breaches(sample, clip) for sample, clip in self._clips]
        self._names = names_apart(str(each.sample.source) for each in surveyed)

    @property
    def measures(self) -> list[str]:
        """Those that were taken."""
        return [name for name, measure in measures().items() if measure.group in self._filter.meter.groups]

    @property
    def num_dropped(self) -> int:
        """Clips that break a rule."""
        return sum(map(bool, self._breaches))

    def dropped_by(self, rule: Rule) -> int:
        """Clips that break one rule."""
        return sum(any(breach.measure == rule.measure for breach in breaches) for breaches in self._breaches)

    def spread(self, name: str) -> Spread:
        """How a measure is spread over the clips."""
        group = measures()[name].group
        numbers, unjudged, num_apart = [], Counter[str](), 0
        for sample, clip in self._clips:
            value = clip.values.get(name)
            if value is not None:
                numbers.append(value)
            elif applies(name, sample):
                unjudged[clip.reasons.get(group) or NO_NUMBER] += 1
            else:
                num_apart += 1
        edges, counts = bins(numbers)
        return Spread(numbers, edges, counts, unjudged, num_apart)

    def as_json(self) -> dict[str, Any]:
        """All of it, as JSON holds it."""
        return {
            "filter": self._filter.as_json(),
            "num_clips": len(self._clips),
            "num_dropped": self.num_dropped,
            "dropped_by": {rule.measure: self.dropped_by(rule) for rule in self._filter.rules},
            "measures": {name: self._spread_as_json(name) for name in self.measures},
            "clips": [
                {
                    "file": str(sample.source),
                    **clip._asdict(),
                    "dropped_for": [breach._asdict() for breach in breaches],
                }
                for (sample, clip), breaches in zip(self._clips, self._breaches, strict=True)
            ],
            "left_out": [
                {"file": str(each.sample.source), "status": each.status, "note": each.note} for each in self._left_out
            ],
        }

    def _spread_as_json(self, name: str) -> dict[str, Any]:
        measure, spread = measures()[name], self.spread(name)
        return {
            "label": measure.label,
            "unit": measure.unit,
            "num_judged": len(spread.numbers),
            "edges": spread.edges,
            "counts": spread.counts,
            **quartiles(spread.numbers),
            "cannot_judge": dict(spread.unjudged),
            "does_not_apply": spread.num_apart,
        }

    def write(self, folder: Path) -> None:
        """Write it into the folder of the records."""
        write_json(folder / REPORT, self.as_json(), allow_nan=False)

    def describe(self) -> str:
        """Histograms of all measures, and what the rules would drop."""
        rules = {rule.measure: rule for rule in self._filter.rules}
        lines = []
        for name in self.measures:
            lines += [*self._describe_spread(name), *([self._describe_rule(rules[name])] if name in rules else []), ""]
        lines += [f"{each.status} {self._names[str(each.sample.source)]}: {each.note}" for each in self._left_out]
        seconds = sum(clip.duration_s for _, clip in self._clips)
        if not rules:
            return "\n".join([*lines, f"{len(self._clips)} clips, {seconds:.1f} s; no `--filter` was given"])
        lost = sum(
            clip.duration_s for (_, clip), breaches in zip(self._clips, self._breaches, strict=True) if breaches
        )
        unjudged = "also" if self._filter.drops_unjudged else "not"
        return "\n".join(
            [
                *lines,
                f"the filter would drop {self.num_dropped} of {len(self._clips)} clips, {lost:.1f} of {seconds:.1f} "
                f"s; {unjudged} those that a measure cannot judge (`--unjudged`)",
            ]
        )

    def _describe_rule(self, rule: Rule) -> str:
        source = f" ({rule.source})" if rule.source else ""
        return f"  {rule}{source} would drop {self.dropped_by(rule)} of {len(self._clips)} clips"

    def _describe_spread(self, name: str) -> list[str]:
        measure, spread = measures()[name], self.spread(name)
        unit = f", {measure.unit}" if measure.unit else ""
        lines = [f"{name} ({measure.label}{unit}): {len(spread.numbers)} clips"]
        fullest = max(spread.counts, default=0)
        ends = [f"{edge:.4g}" for edge in spread.edges]
        width = max(map(len, ends), default=0)
        for low, high, count in zip(ends, ends[1:], spread.counts, strict=False):
            bar = "#" * math.ceil(BAR * count / fullest)
            lines.append(f"  {low:>{width}} .. {high:>{width}}  {bar:{BAR}} {count}")
        lines += [f"  cannot be judged in {count}: {reason}" for reason, count in spread.unjudged.most_common()]
        return lines + ([f"  does not apply to {spread.num_apart}"] if spread.num_apart else [])


def bins(numbers: Sequence[float]) -> tuple[list[float], list[int]]:
    """Edges and counts of a histogram; one bin where all numbers are the same, none without numbers."""
    if not numbers:
        return [], []
    low, high = min(numbers), max(numbers)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        return [low, high], [len(numbers)]
    num_bins = min(MAX_BINS, 1 + math.ceil(math.log2(len(numbers))))  # Sturges 1926
    counts, edges = np.histogram(numbers, num_bins)
    return edges.tolist(), counts.tolist()


def quartiles(numbers: Sequence[float]) -> Mapping[str, float | None]:
    """Least, quartiles and largest of numbers; None without."""
    names = ("min", "q1", "median", "q3", "max")
    found = np.quantile(numbers, [0, 0.25, 0.5, 0.75, 1]).tolist() if numbers else [None] * len(names)
    return dict(zip(names, found, strict=True))
