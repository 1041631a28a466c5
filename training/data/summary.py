"""What became of the samples of a data set, as a file beside the records and in a few lines."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from diffusers_jova.training.data.manifest import IMAGE_SUFFIXES, Sample, some
from diffusers_jova.whole_files import write_text


Status = Literal["kept", "done", "skipped", "broken"]
SUMMARY = Path("prepare.json")  # inside the cache
EMPTY_PROMPT_REASON = "the prompt is empty, nothing is written and no words were heard; give a caption"


class Outcome(NamedTuple):
    """What became of one sample.

    Attributes:
        source: Its file.
        status: Whether its records are new, were there already, or are not made.
        note: Why they are not made, or what a new record lost; empty where there is nothing to say.
        num_records: Records that the sample has.
        num_pictures: Those of them with a picture.
        num_mouths: Those of them in which a mouth is seen.
        num_silent: Those of the records without sound.
        num_empty: Clips that became no record because their prompt is empty; not known of an earlier run.
    """

    source: str
    status: Status
    note: str = ""
    num_records: int = 0
    num_pictures: int = 0
    num_mouths: int = 0
    num_silent: int = 0
    num_empty: int = 0


def write_summary(output: Path, origin: Mapping[str, Any], outcomes: Sequence[Outcome]) -> None:
    """Write what the records were made with, and the outcomes, beside the records."""
    summary = {**origin, "clips": [outcome._asdict() for outcome in sorted(outcomes)]}
    write_text(output / SUMMARY, json.dumps(summary, indent=1, default=str))


def find_strangers(samples: Sequence[Sample], output: Path) -> list[str]:
    """Name the records of other clips than `samples`, which training would read as well."""
    own = {sample.name for sample in samples}
    return [path.name for path in sorted(output.glob("*.safetensors")) if path.stem.rpartition("-")[0] not in own]


def describe(outcomes: Sequence[Outcome], strangers: Sequence[str] = (), *, tells_mouths: bool = True) -> str:
    """Say in a few lines what was kept and why the rest was not, and which records are of other clips."""
    counts = Counter(outcome.status for outcome in outcomes)
    records = sum(outcome.num_records for outcome in outcomes)
    lines = [f"{counts['kept']} clips prepared, {counts['done']} were up to date, {records} records"]
    if tells_mouths and any(outcome.num_pictures for outcome in outcomes):
        lines.append(describe_mouths(outcomes))
    is_still = {o.source: Path(o.source).suffix.lower() in IMAGE_SUFFIXES for o in outcomes}
    if stills := [Path(o.source).name for o in outcomes if o.num_records and is_still[o.source]]:
        lines.append(f"still images {len(stills)}: {some(stills)}; they train the picture alone")
    if silent := [Path(o.source).name for o in outcomes if o.num_silent and not is_still[o.source]]:
        lines.append(f"no sound in {len(silent)}: {some(silent)}; they train the picture alone")
    cropped = [f"{Path(o.source).name}, {o.note}" for o in outcomes if o.status == "kept" and o.note]
    if cropped:
        lines.append(f"cropped {len(cropped)}: {some(cropped)}; give `--buckets` of their shape to keep more")
    cut_off = [f"{Path(o.source).name}, {o.num_empty} clips" for o in outcomes if o.num_empty]
    if cut_off:
        lines.append(f"left out of {len(cut_off)}: {some(cut_off)}; {EMPTY_PROMPT_REASON}")
    reasons = Counter(outcome.note for outcome in outcomes if outcome.status == "skipped")
    sources = {outcome.note: Path(outcome.source).name for outcome in outcomes}
    lines += [f"skipped {count}: {reason} ({sources[reason]})" for reason, count in reasons.most_common()]
    lines += [f"broken {outcome.source}: {outcome.note}" for outcome in outcomes if outcome.status == "broken"]
    if strangers:
        lines.append(
            f"{len(strangers)} more records are of other clips and will be trained: {some(strangers)}; delete them if "
            "those clips were removed, moved or given another sound"
        )
    return "\n".join(lines)


def describe_whole_captions(samples: Sequence[Sample]) -> str:
    """Say which captions get no transcript, because they are whole prompts; empty if there are none."""
    whole = [sample.source.name for sample in samples if sample.caption]
    if not whole:
        return ""
    return (
        f"`--whisper` leaves {len(whole)} captions as they are: {some(whole)}; write them as `video_caption` "
        "to have the words added\n"
    )


def describe_mouths(outcomes: Sequence[Outcome]) -> str:
    """Say in how many clips a mouth is seen, and in which files it is missed."""
    num_mouths, num_pictures = sum(o.num_mouths for o in outcomes), sum(o.num_pictures for o in outcomes)
    missed = [
        Path(o.source).name + (f" ({o.num_pictures - o.num_mouths} of {o.num_pictures})" if o.num_mouths else "")
        for o in outcomes
        if o.num_mouths < o.num_pictures
    ]
    return f"a mouth in {num_mouths} of {num_pictures} clips" + (f"; none in {some(missed)}" if missed else "")
