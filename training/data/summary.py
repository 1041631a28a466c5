"""What became of the samples of a data set, as a file beside the records and in a few lines."""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from diffusers_jova.prompt import JoVAPrompt
from diffusers_jova.training.data.clip_filter import DroppedClip
from diffusers_jova.training.data.manifest import Sample, describe_unplaced, is_listed
from diffusers_jova.whole_files import write_text
from jova_cli.media_files import is_still
from jova_cli.tables import some


Status = Literal["kept", "done", "skipped", "broken"]
SUMMARY = Path("prepare.json")  # inside the cache
MAX_LISTED = 20  # files or clips that are told one by one
LOW_SHARE = 0.5  # of the frames with a mouth
MANY_JUMPS = 3  # in one clip
MUCH_CUT = 0.1  # of the faces of a clip
WITHOUT_PROMPT = "whose prompt is empty"
UNSAYABLE = "whose words the model cannot say"
EMPTY_PROMPT_REASON = "the prompt is empty, nothing is written and no words were heard; give a caption"
LEFT_OUT = {  # clips of a file whose others are kept, and why
    WITHOUT_PROMPT: EMPTY_PROMPT_REASON,
    UNSAYABLE: "the words hold characters that the model cannot say; write them in others",
}


class Outcome(NamedTuple):
    """What became of one sample.

    Attributes:
        source: Its file.
        status: Whether its records are new, were there already, or are not made.
        note: Why they are not made, or how their shape differs from the file's; empty where there is nothing to say.
        num_records: Records that the sample has.
        num_silent: Those of them without sound.
        mouths: What is known of the mouths of each record with a picture, the fields of a `MouthQuality`.
        length_s: Seconds of the file; 0 where it could not be read, or was not, since it has no caption.
        used_s: Seconds of it that the records hold.
        unused_s: Seconds of it that they do not hold, for each reason.
        num_unsaid: Records with sound of which a model that reads what is said reads nothing.
        num_speaking: Records with sound that show a mouth in at least `LOW_SHARE` of their frames.
        num_wordless: Those of them of which nobody knows what is said.
        dropped: Clips that the filter left out.
    """

    source: str
    status: Status
    note: str = ""
    num_records: int = 0
    num_silent: int = 0
    mouths: Sequence[Mapping[str, Any]] = ()
    length_s: float = 0.0
    used_s: float = 0.0
    unused_s: Mapping[str, float] = {}
    num_unsaid: int = 0
    num_speaking: int = 0
    num_wordless: int = 0
    dropped: Sequence[DroppedClip] = ()

    def as_json(self) -> dict[str, Any]:
        """All of it, as JSON holds it."""
        return {**self._asdict(), "dropped": [clip.as_json() for clip in self.dropped]}


def write_summary(output: Path, origin: Mapping[str, Any], outcomes: Sequence[Outcome]) -> None:
    """Write what the records were made with, and the outcomes, beside the records."""
    summary = {**origin, "clips": [outcome.as_json() for outcome in sorted(outcomes, key=by_source)]}
    write_text(output / SUMMARY, json.dumps(summary, indent=1, default=str))


def describe_anew(output: Path, num_files: int, settings: Mapping[str, Any]) -> str:
    """Say that records of files are made anew, and which settings have changed since, as far as the summary knows.

    Args:
        output: Folder of the records.
        num_files: How many have records of other settings, captions or models.
        settings: Of this run.
    """
    try:
        before = flattened(json.loads((output / SUMMARY).read_text())["settings"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # none was written, or something else
        before = {}
    now = flattened(json.loads(json.dumps(settings, default=str)))
    changed = [
        f"`{name}` was {before[name]}, is {value}" for name, value in now.items() if before.get(name, value) != value
    ]
    reason = "; ".join(changed) or "the files, their captions or the model have changed"
    return f"{num_files} file{'s are' if num_files > 1 else ' is'} prepared anew: {reason}"


def flattened(settings: Mapping[str, Any]) -> dict[str, str]:
    """Settings by name, those of clips among them, as JSON writes their values."""
    rest = {name: value for name, value in settings.items() if name != "clips"}
    return {name: json.dumps(value) for name, value in {**rest, **settings["clips"]}.items()}


def find_strangers(samples: Sequence[Sample], output: Path) -> list[str]:
    """Name the records of other clips than `samples`, which training would read as well."""
    own = {sample.name for sample in samples}
    return [path.name for path in sorted(output.glob("*.safetensors")) if path.stem.rpartition("-")[0] not in own]


def describe(
    outcomes: Sequence[Outcome], strangers: Sequence[str] = (), with_boxes: Collection[str] | None = None
) -> str:
    """Say in a few lines what was kept and why the rest was not, and which records are of other clips.

    Args:
        outcomes: Of all samples.
        strangers: Records of other clips.
        with_boxes: Files whose mouths are known, where none were looked for; None tells of all.
    """
    counts = Counter(outcome.status for outcome in outcomes)
    records = sum(outcome.num_records for outcome in outcomes)
    names = names_apart(outcome.source for outcome in outcomes)
    lines = [f"{counts['kept']} files prepared, {counts['done']} were up to date, {records} records"]
    if any(outcome.length_s for outcome in outcomes):
        lines += describe_use(outcomes, names)
    of_mouths = [o for o in outcomes if o.mouths and (with_boxes is None or o.source in with_boxes)]
    if of_mouths:
        lines += describe_mouths(of_mouths, names)
    stands = {o.source: is_still(o.source) for o in outcomes}
    if stills := [names[o.source] for o in outcomes if o.num_records and stands[o.source]]:
        lines.append(f"still images {len(stills)}: {some(stills)}; they train the picture alone")
    without = [o for o in outcomes if o.num_silent and not stands[o.source]]
    if silent := [names[o.source] for o in without if o.num_silent == o.num_records]:
        lines.append(f"no sound in {len(silent)}: {some(silent)}; they train the picture alone")
    if partly := [
        f"{names[o.source]} ({o.num_silent} of {o.num_records})" for o in without if o.num_silent < o.num_records
    ]:
        lines.append(f"no sound in some clips of {len(partly)}: {some(partly)}; those train the picture alone")
    if unlike := [f"{names[o.source]}, {o.note}" for o in outcomes if o.num_records and o.note]:
        lines.append(f"of another shape {len(unlike)}: {some(unlike)}; give `--buckets` of theirs, or another `--fit`")
    if unsaid := [names[o.source] for o in outcomes if o.num_unsaid]:
        lines.append(
            f"no words for the sound in {len(unsaid)}: {some(unsaid)}; this model reads them from `transcript`, "
            "subtitles or `--whisper`, not from a whole `caption`"
        )
    elif wordless := [o for o in outcomes if o.num_wordless]:
        told = [f"{names[o.source]} ({o.num_wordless} of {o.num_speaking})" for o in sorted(wordless, key=by_source)]
        counted = f"{sum(o.num_wordless for o in wordless)} of {sum(o.num_speaking for o in outcomes)}"
        lines.append(
            f"a mouth and sound, but no words, in {counted} clips: {some(told)}; where somebody speaks, write what in "
            "subtitles (.srt, .vtt), or let `--whisper` listen"
        )
    for reason, advice in LEFT_OUT.items():
        if cut_off := [names[o.source] for o in outcomes if o.unused_s.get(reason)]:
            lines.append(f"left out of {len(cut_off)}: {some(cut_off)}; {advice}")
    lines += describe_dropped(outcomes, names)
    skipped: dict[str, list[str]] = defaultdict(list)  # their files for each reason
    for outcome in sorted((o for o in outcomes if o.status == "skipped"), key=by_source):
        skipped[outcome.note].append(names[outcome.source])
    most_first = sorted(skipped.items(), key=lambda item: -len(item[1]))
    lines += [f"skipped {len(files)}: {reason} ({some(files)})" for reason, files in most_first]
    lines += [f"broken {outcome.source}: {outcome.note}" for outcome in outcomes if outcome.status == "broken"]
    if strangers:
        lines.append(
            f"{len(strangers)} more records are of other clips and will be trained: {some(strangers)}; delete them if "
            "those clips were removed, moved or given another sound"
        )
    return "\n".join(lines)


def names_apart(sources: Iterable[str]) -> dict[str, str]:
    """Name each file without its folder, or where another has that name, below the folder that holds both."""
    paths = {source: Path(source) for source in sources}
    alike: dict[str, set[Path]] = defaultdict(set)
    for path in paths.values():
        alike[path.name].add(path)
    return {
        source: path.name
        if len(same := alike[path.name]) == 1
        else path.relative_to(os.path.commonpath([each.parent for each in same])).as_posix()
        for source, path in paths.items()
    }


def describe_found(source: Path, samples: Sequence[Sample]) -> str:
    """Say what is not read of a folder of clips, and what several share or have from elsewhere; empty if nothing."""
    return describe_unplaced(source, samples) + describe_sounds(samples) + describe_shared(source, samples)


def describe_sounds(samples: Sequence[Sample]) -> str:
    """Say which videos have their sound from another file; empty if there are none."""
    other = [f"{sample.audio.name} with {sample.source.name}" for sample in samples if sample.video and sample.audio]
    return f"the sound of {len(other)} is another file: {some(other)}\n" if other else ""


def describe_shared(source: Path, samples: Sequence[Sample]) -> str:
    """Say which clips of a folder have one name, and so the same captions and subtitles; empty if there are none."""
    if not source.is_dir() or is_listed(source):
        return ""
    named: dict[Path, list[str]] = defaultdict(list)
    for sample in samples:
        if sample.has_caption or sample.subtitles is not None:
            named[sample.source.with_suffix("")].append(sample.source.name)
    shared = [" and ".join(sorted(names)) for names in named.values() if len(names) > 1]
    if not shared:
        return ""
    return f"the same captions for {some(shared)}; remove one if they are the same recording\n"


def describe_whole_captions(samples: Sequence[Sample]) -> str:
    """Say which captions get no transcript, because they are whole prompts; empty if there are none."""
    whole = [sample.source.name for sample in samples if sample.caption]
    if not whole:
        return ""
    return (
        f"`--whisper` leaves {len(whole)} captions as they are: {some(whole)}; write them as `video_caption` "
        "to have the words added\n"
    )


def describe_unread(samples: Sequence[Sample], template: str, reads_transcripts: bool) -> str:
    """Say which parts of captions the model does not read; empty if it reads all.

    Args:
        samples: Of the data set.
        template: `prompt_template` of the pipeline.
        reads_transcripts: Whether its sound reads the transcripts.
    """
    unread: dict[str, list[str]] = defaultdict(list)
    for sample in samples:
        prompt = JoVAPrompt(sample.video_caption, sample.audio_caption, sample.transcript)
        for part in prompt.unread_parts(template):
            unread[part].append(sample.source.name)
    columns = {"audio": "audio_caption"} | ({} if reads_transcripts else {"transcript": "transcript"})
    return "".join(
        f"`{column}` of {len(unread[part])} is not read by this model: {some(unread[part])}\n"
        for part, column in columns.items()
        if part in unread
    )


def describe_use(outcomes: Sequence[Outcome], names: Mapping[str, str]) -> list[str]:
    """Say how many seconds are used, of each file if there are few, and why not the others."""
    used = sorted((outcome for outcome in outcomes if outcome.num_records), key=by_source)
    unused: Counter[str] = Counter()
    for outcome in used:
        unused.update(outcome.unused_s)
    if skipped_s := sum(outcome.length_s for outcome in outcomes if outcome.status == "skipped"):
        unused.update({"of recordings that are skipped": skipped_s})
    length_s = skipped_s + sum(outcome.length_s for outcome in used)
    lines = [describe_seconds("used", sum(outcome.used_s for outcome in used), length_s, unused)]
    partly = [outcome for outcome in used if outcome.unused_s]
    lines += [describe_seconds(f"  {names[o.source]}", o.used_s, o.length_s, o.unused_s) for o in partly[:MAX_LISTED]]
    if len(partly) > MAX_LISTED:
        lines.append(f"  ... {len(partly) - MAX_LISTED} more; {SUMMARY} beside the records has all")
    return lines


def describe_mouths(outcomes: Sequence[Outcome], names: Mapping[str, str]) -> list[str]:
    """Say in what share of the frames a mouth is seen, clip by clip, and which clips are worth a look."""
    seen = sorted(outcomes, key=by_source)
    shares = [[mouth["share"] for mouth in outcome.mouths] for outcome in seen]
    num_good = sum(share >= LOW_SHARE for of_file in shares for share in of_file)
    lines = [f"a mouth in at least half of the frames of {num_good} of {sum(map(len, shares))} clips:"]
    low_first = sorted(zip(shares, seen, strict=True), key=lambda pair: min(pair[0]) >= LOW_SHARE)
    lines += [f"  {names[o.source]} {_percent(of_file)}" for of_file, o in low_first[:MAX_LISTED]]
    if len(seen) > MAX_LISTED:
        lines.append(f"  ... {len(seen) - MAX_LISTED} more; {SUMMARY} beside the records has all")
    look = "; look at them with `jova preview`"
    for what, number, is_bad, advice in (
        ("boxes that jump", "num_jumps", lambda n: n >= MANY_JUMPS, look),
        ("several faces", "num_faces", lambda n: n > 1, "; the mouth loss takes each of them for a speaker"),
        ("faces that the crop cuts", "cut_share", lambda n: n > MUCH_CUT, "; give `--buckets` of their shape"),
    ):
        worst = {names[o.source]: max(mouth[number] for mouth in o.mouths) for o in seen}
        bad = [
            f"{name} ({n:.0%})" if number == "cut_share" else f"{name} ({n})" for name, n in worst.items() if is_bad(n)
        ]
        if bad:
            lines.append(f"{what} in {len(bad)}: {some(bad)}{advice}")
    return lines


def describe_dropped(outcomes: Sequence[Outcome], names: Mapping[str, str]) -> list[str]:
    """Say which clips the filter left out, and what was measured of them."""
    dropped = [(names[o.source], clip) for o in sorted(outcomes, key=by_source) for clip in o.dropped]
    if not dropped:
        return []
    seconds = sum(clip.duration_s for _, clip in dropped)
    lines = [f"`--filter` dropped {len(dropped)} clip{'s' * (len(dropped) != 1)}, {seconds:.1f} s:"]
    lines += [
        f"  {name} at {clip.start_s:.1f} s: {', '.join(map(str, clip.breaches))}"
        for name, clip in dropped[:MAX_LISTED]
    ]
    if len(dropped) > MAX_LISTED:
        lines.append(f"  ... {len(dropped) - MAX_LISTED} more; {SUMMARY} beside the records has all")
    return lines


def by_source(outcome: Outcome) -> str:
    """Sort outcomes by their files."""
    return outcome.source


def describe_seconds(name: str, used_s: float, length_s: float, unused_s: Mapping[str, float]) -> str:
    """Say how many of how many seconds are used, and why not the others."""
    reasons = sorted(unused_s.items(), key=lambda item: -item[1])
    listed = ", ".join(f"{seconds:.1f} s {reason}" for reason, seconds in reasons)
    return f"{name} {used_s:.1f} of {length_s:.1f} s" + (f"; not {listed}" if listed else "")


def _percent(shares: Sequence[float]) -> str:
    """Write shares as percentages; of many clips, the lowest, the middle and the highest."""
    if len(shares) <= MAX_LISTED:
        return ", ".join(f"{share:.0%}" for share in shares)
    low, middle, high = (f"{share:.0%}" for share in (min(shares), sorted(shares)[len(shares) // 2], max(shares)))
    if low == high:
        return f"{low} in each of {len(shares)} clips"
    return f"{low} to {high}, at most {middle} in half of {len(shares)} clips"
