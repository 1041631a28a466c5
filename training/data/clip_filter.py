"""Which clips of a recording become records: what is measured of each, kept between runs, against ranges."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from diffusers_jova.clip_folder import append_line
from diffusers_jova.training.data.clip import Clip
from diffusers_jova.training.data.manifest import Sample
from jova_cli.clip_filters import GROUPS, Rule, measures


MEASURED = Path("measured.jsonl")  # inside the cache
OF_STILLS = {"black_share", "sharpness", "face_share", "face_size"}  # measures that need one frame and no sound
OF_SOUNDS = {"sound", "words", "speech", "clap", "audiobox"}  # groups that need no picture


class Judged(NamedTuple):
    """What one group of measures says of a clip.

    Attributes:
        values: By the measure; None where it cannot be judged.
        reason: Why something cannot be judged; empty if all is.
        is_final: Whether measuring the same again could say no more.
    """

    values: Mapping[str, float | None]
    reason: str = ""
    is_final: bool = True


class ClipMeter(Protocol):
    """Takes the measures of clips; can be sent to other processes."""

    @property
    def groups(self) -> Sequence[str]:
        """Of the measures that are taken."""

    def version(self, group: str) -> str:
        """Changes with the numbers of a group."""

    def on(self, device: str) -> ClipMeter:
        """The same with its networks on a device."""

    def __call__(self, sample: Sample, clip: Clip, frame_rate: float) -> Mapping[str, Judged]:
        """What each group says of a clip of a sample, at so many frames per second."""


class MeasuredClip(NamedTuple):
    """What is known of a clip.

    Attributes:
        start_s: Where it begins in its file, in seconds.
        duration_s: Its seconds.
        values: By the measure; None where it cannot be judged.
        reasons: Why not, by the group.
    """

    start_s: float
    duration_s: float
    values: dict[str, float | None]
    reasons: dict[str, str]


class MeasuredRecording(NamedTuple):
    """What is known of the clips of a file.

    Attributes:
        length_s: Seconds of the file.
        clips: In the order of time.
    """

    length_s: float
    clips: list[MeasuredClip]


class Breach(NamedTuple):
    """A rule that a clip breaks.

    Attributes:
        measure: That it is about.
        value: Of the clip; None where it cannot be judged.
        range: That it must lie in.
        reason: Why it cannot be judged.
    """

    measure: str
    value: float | None
    range: str
    reason: str = ""

    def __str__(self) -> str:
        if self.value is None:
            return f"{self.measure} cannot be judged ({self.reason or 'no number'})"
        return f"{self.measure} is {self.value:.4g}, not {self.range}"


class DroppedClip(NamedTuple):
    """A clip that a filter leaves out.

    Attributes:
        start_s: Where it begins in its file, in seconds.
        duration_s: Its seconds.
        breaches: The rules that it breaks.
    """

    start_s: float
    duration_s: float
    breaches: Sequence[Breach]

    def as_json(self) -> dict[str, Any]:
        """All of it, as JSON holds it."""
        return {**self._asdict(), "breaches": [breach._asdict() for breach in self.breaches]}


@dataclass(frozen=True)
class ClipFilter:
    """Ranges that the measures of a clip must lie in.

    A clip of which a measure says nothing although it could (no face is seen, nobody speaks) is kept, or dropped on
    request; one to which a measure does not apply (the loudness of a still image) is kept.

    Attributes:
        rules: The ranges.
        meter: Takes the measures.
        drops_unjudged: Whether a clip that a measure cannot judge is dropped.
    """

    rules: tuple[Rule, ...]
    meter: ClipMeter
    drops_unjudged: bool = False

    def breaches(self, sample: Sample, clip: MeasuredClip) -> list[Breach]:
        """The rules that a clip of a sample breaks."""
        return [breach for rule in self.rules if (breach := self._check(rule, sample, clip)) is not None]

    def _check(self, rule: Rule, sample: Sample, clip: MeasuredClip) -> Breach | None:
        value = clip.values.get(rule.measure)
        if value is not None:
            return None if rule.allows(value) else Breach(rule.measure, value, rule.range)
        if not self.drops_unjudged or not applies(rule.measure, sample):
            return None
        return Breach(rule.measure, None, rule.range, clip.reasons.get(measures()[rule.measure].group, ""))

    def measure(self, sample: Sample, clip: Clip, frame_rate: float) -> tuple[MeasuredClip, Mapping[str, bool]]:
        """Measure a clip; also tells, by the group, whether the numbers are final."""
        judged = self.meter(sample, clip, frame_rate)
        values = {name: value for of_group in judged.values() for name, value in of_group.values.items()}
        reasons = {group: of_group.reason for group, of_group in judged.items() if of_group.reason}
        measured = MeasuredClip(clip.start_s, clip.bucket.num_frames / frame_rate, values, reasons)
        return measured, {group: of_group.is_final for group, of_group in judged.items()}

    def as_json(self) -> dict[str, Any]:
        """The rules, as the summary of a data set holds them."""
        rules = {rule.measure: rule.range for rule in self.rules}
        sources = {rule.measure: rule.source for rule in self.rules if rule.source}
        unjudged = "drop" if self.drops_unjudged else "keep"
        return {"rules": rules, "unjudged": unjudged, **({"sources": sources} if sources else {})}


def applies(measure: str, sample: Sample) -> bool:
    """Whether a measure could say something of the clips of a sample."""
    if sample.is_still:
        return measure in OF_STILLS
    return sample.video is not None or measures()[measure].group in OF_SOUNDS


@dataclass
class MeasuredClips:
    """What was measured of the clips of files, a line of a file for each group of measures, so that nothing is twice.

    Attributes:
        path: Of the file.
    """

    path: Path
    _known: dict[str, tuple[float, list[Any]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Read what was measured before; half a line of a killed run tells nothing."""
        lines = self.path.read_text(encoding="utf-8", errors="replace").split("\n") if self.path.is_file() else []
        for line in lines:
            try:
                row = json.loads(line)
                clips = [
                    [float(clip["start_s"]), float(clip["duration_s"]), dict(clip["values"]), str(clip["reason"])]
                    for clip in row["clips"]
                ]
                self._known[str(row["key"])] = float(row["length_s"]), clips
            except (ValueError, TypeError, KeyError, RecursionError):
                continue

    def find(self, digest: str, meter: ClipMeter) -> MeasuredRecording | None:
        """The clips of a file; None if one of the groups was not measured.

        Args:
            digest: Changes with the file, and with what cuts it.
            meter: Of the groups.
        """
        found = [self._known.get(_key(group, meter, digest)) for group in meter.groups]
        whole = [of_group for of_group in found if of_group is not None]
        if not whole or len(whole) < len(found):
            return None
        length_s, first = whole[0]
        clips = [MeasuredClip(start_s, duration_s, {}, {}) for start_s, duration_s, _, _ in first]
        for group, (_, of_group) in zip(meter.groups, whole, strict=True):
            for clip, (_, _, values, reason) in zip(clips, of_group, strict=True):
                clip.values.update(values)
                clip.reasons.update({group: reason} if reason else {})
        return MeasuredRecording(length_s, clips)

    def add(self, digest: str, meter: ClipMeter, source: Path, measured: MeasuredRecording, lasting: set[str]) -> None:
        """Remember all clips of a file, and write down the groups that are final.

        Args:
            digest: Changes with the file, and with what cuts it.
            meter: That measured them.
            source: The file, for a reader.
            measured: Of the file.
            lasting: Groups of which measuring again could say no more.
        """
        for group in meter.groups:
            key = _key(group, meter, digest)
            names = [name for name, measure in measures().items() if measure.group == group]
            rows = [
                [c.start_s, c.duration_s, {n: c.values[n] for n in names if n in c.values}, c.reasons.get(group, "")]
                for c in measured.clips
            ]
            self._known[key] = measured.length_s, rows
            if group in lasting:
                fields = ("start_s", "duration_s", "values", "reason")
                named = [dict(zip(fields, row, strict=True)) for row in rows]
                line = {"key": key, "file": str(source), "group": group, "length_s": measured.length_s}
                append_line(self.path, {**line, "clips": named})


def _key(group: str, meter: ClipMeter, digest: str) -> str:
    assert group in GROUPS
    return f"{group} {meter.version(group)} {digest}"
