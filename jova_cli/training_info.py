"""What the folder of a training and a folder of prepared clips hold, without loading torch."""

import json
import math
import re
from collections import Counter
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from .adapter_info import FILES
from .given_paths import RECORDS
from .given_paths import SUMMARY as SUMMARY
from .given_paths import UNFINISHED as UNFINISHED
from .given_paths import is_prepared as is_prepared
from .json_text import read_object, readable
from .model_info import read_header, read_metadata
from .room_modules import import_alone
from .shipped import CONFIG


LOSS = re.compile("loss/")  # begins the names of losses
SETTINGS, METRICS = "config.yaml", "metrics.jsonl"
CHECKPOINT = re.compile(r"checkpoint-\d{8}")
RESULTS = (FILES[0], "transformer/config.json")  # of an adapter, of a transformer


def is_training(folder: Path) -> bool:
    """Whether a training wrote a folder."""
    return (folder / SETTINGS).is_file()


def describe_training(folder: Path) -> str:
    """Say how far a training is, and which of its settings are not the usual ones.

    Raises:
        ValueError: If its files hold something else than a training writes.
    """
    config = import_alone(CONFIG[0])
    values = config.read_values(folder / SETTINGS, {})
    kind = "an adapter" if values.get("train") == "lora" else f"a transformer ({values.get('stage')})"
    last = max((path for path in folder.iterdir() if CHECKPOINT.fullmatch(path.name)), default=None)
    step = 0 if last is None else read_object(last / "state.json").get("step")
    result = next((name for name in RESULTS if (folder / name).is_file()), None)
    if result and step != values.get("steps"):
        result += ", of an earlier end; the same command goes on"
    defaults = {field.name: field.default for field in fields(config.TrainConfig)}
    given = {name: value for name, value in values.items() if value != config.NEW_ADAPTER.get(name, MISSING)}
    shown = {name: value for name, value in given.items() if is_shown(value, defaults[name])}
    return "\n".join(
        [
            f"training of {kind}: step {step} of {values.get('steps')}",
            f"  last checkpoint: {last.name if last else 'none yet'}",
            f"  result: {result or 'none yet, the same command goes on'}",
            *last_losses(folder),
            f"settings that are not the default ({SETTINGS} holds all):",
            *(f"  {name}: {readable(value)}" for name, value in shown.items()),
        ]
    )


def is_shown(value: Any, default: Any) -> bool:
    """Whether a setting was chosen: it has no default, or another value."""
    return default is MISSING or value != (list(default) if isinstance(default, tuple) else default)


def last_report(folder: Path) -> dict[str, Any]:
    """The last line of the log of a training that tells of losses in training; empty without one."""
    path = folder / METRICS
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    reports = (json.loads(line) for line in reversed(lines))
    found: dict[str, Any] = next((report for report in reports if any(map(LOSS.match, report))), {})
    return found


def last_losses(folder: Path) -> list[str]:
    """The last report of the losses of a training, without what is no loss."""
    try:
        if not (values := last_report(folder)):
            return []
        losses = {name.removeprefix("loss/"): v for name, v in values.items() if name.startswith("loss/")}
        told = ", ".join(f"{name} {value:.4f}" for name, value in losses.items())
        return [f"  losses at step {values['step']}: {told}"]
    except (ValueError, KeyError, TypeError, AttributeError):
        return [f"  losses: the last line of {METRICS} is damaged"]


def describe_prepared(folder: Path) -> str:
    """Say what `jova prepare` has made: records, buckets, seconds, and for which model.

    Raises:
        ValueError: If a record or the summary is damaged.
    """
    summary = read_object(folder / SUMMARY) if (folder / SUMMARY).is_file() else {}
    buckets: Counter[str] = Counter()
    seconds, num_silent = 0.0, 0
    records = sorted(folder.glob(RECORDS))
    for record in records:
        shapes, said = read_header(record), read_metadata(record)
        buckets[bucket_of(record, shapes, said)] += 1
        seconds += number(record, said, "num_frames") / number(record, said, "frame_rate")
        num_silent += said.get("has_audio") == "0"
    lines = [
        f"prepared clips: {len(records)} records, {seconds:.1f} s",
        *(f"  {count} of {name}" for name, count in buckets.most_common()),
        f"  without sound: {num_silent}",
        f"  prepared for: {summary.get('model', 'not stated, the run was not finished')}",
    ]
    if rules := (summary.get("filter") or {}).get("rules"):
        lines.append(f"  filter: {' '.join(f'{name}={text}' for name, text in rules.items())}")
    left_out = [clip for clip in summary.get("clips", ()) if isinstance(clip, dict) and not clip.get("num_records")]
    if left_out:
        lines.append(f"  files left out: {len(left_out)}; {SUMMARY} says why")
    if (folder / UNFINISHED).is_file():
        lines.append("  not finished: the same `jova prepare` makes the rest")
    return "\n".join(lines)


def bucket_of(record: Path, shapes: dict[str, Any], said: dict[str, str]) -> str:
    """Size of a record's clip, as `--buckets` names it."""
    if "video_latents" not in shapes:
        return "sound alone"
    factor = int(number(record, said, "spatial_factor"))
    height, width = (size * factor for size in shapes["video_latents"]["shape"][-2:])
    return f"{int(number(record, said, 'num_frames'))}x{height}x{width}"


def number(record: Path, said: dict[str, str], name: str) -> float:
    """A number of a record's header, all of which are above 0."""
    try:
        found = float(said[name])
    except (KeyError, ValueError):
        found = 0.0
    if not 0 < found < math.inf:  # written so that NaN fails as well
        raise ValueError(
            f"`{name}` in the header of `{record}` must be a positive number, got {said.get(name)!r}; delete the "
            "record and run `jova prepare` again"
        )
    return found
