"""Clips measured one after the other, in several processes, or on Ray; what is known is not measured again."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from tqdm.auto import tqdm

from diffusers_jova.evaluation.clip_list import ListedClip
from diffusers_jova.evaluation.measured import Measured
from diffusers_jova.evaluation.measured_clips import MeasuredClips
from diffusers_jova.evaluation.meter import Meter, first_sentence, is_of_network
from diffusers_jova.evaluation.protocols import SOUNDING, SPOKEN
from diffusers_jova.evaluation.report import Row
from diffusers_jova.training.data.sharing import choose_run, run_here
from jova_cli.file_arguments import of_this_file
from jova_cli.media_files import TAKE_TRUNCATED
from jova_cli.parser import one_line
from jova_cli.progress import followed


UNREADABLE = (ValueError, OSError)

Keys = Mapping[str, str | None]  # of what is wanted of a clip, by the group of measures


class Task(NamedTuple):
    """What is to be measured of a clip.

    Attributes:
        number: Of the clip.
        clip: To measure.
        groups: Of measures.
    """

    number: int
    clip: ListedClip
    groups: Sequence[str]


class Answer(NamedTuple):
    """What became of a task.

    Attributes:
        number: Of the clip.
        measured: By the group of measures.
        error: Why the clip cannot be read; empty if it can.
    """

    number: int
    measured: Mapping[str, Measured]
    error: str = ""


@dataclass(frozen=True)
class Measurer:
    """Measures clips, one at a time; can be sent to other processes, where it loads its own networks.

    Attributes:
        meter: Takes the measures.
        device: Where its networks run.
    """

    meter: Meter
    device: str

    def __call__(self, task: Task) -> Answer:
        """Measure one clip."""
        try:
            return Answer(task.number, self._meter.measure(task.clip, task.groups))
        except UNREADABLE as error:
            told = one_line(error).replace(TAKE_TRUNCATED, "")  # what is cut off is no whole clip to judge
            return Answer(task.number, {}, of_this_file(told))
        except Exception as error:  # of the network that looks for mouths, or a full memory
            if self.meter.is_strict or not is_of_network(error):
                raise
            return Answer(task.number, {}, first_sentence(error))

    @cached_property
    def _meter(self) -> Meter:
        return self.meter if self.device == self.meter.device else replace(self.meter, device=self.device)


def measure_all(
    clips: Sequence[ListedClip],
    keys: Sequence[Keys],
    meter: Meter,
    known: MeasuredClips,
    num_processes: int = 1,
    use_ray: bool = False,
) -> list[Row]:
    """Measure what is not known of clips, which is kept as it comes; one that cannot be read is a row that says why.

    Args:
        clips: To measure.
        keys: Of each.
        meter: Takes the measures, and knows what is missing; other processes load their own networks.
        known: What was measured before, and takes what is measured now.
        num_processes: Processes, or Ray actors, that share the work.
        use_ray: Whether a Ray cluster does it.
    """
    rows = [_row_of(clip) for clip in clips]
    found = [{group: one for group, key in of_clip.items() if (one := known.find(key))} for of_clip in keys]
    tasks = [
        Task(number, clip, pending)
        for number, clip in enumerate(clips)
        if not clip.fault and (pending := [group for group in keys[number] if group not in found[number]])
    ]
    num_processes = max(1, min(num_processes, len(tasks)))
    run = choose_run(num_processes, use_ray and bool(tasks))
    worker = Measurer(meter if run is run_here else replace(meter), meter.device)

    def kept() -> Iterator[Answer]:
        for answer in run(tasks, worker, num_processes):
            for group, measured in answer.measured.items():
                known.add(keys[answer.number][group], clips[answer.number], group, measured)
            if answer.error:
                tell(clips[answer.number].name, answer.error)
            yield answer

    for answer in followed(kept(), len(tasks), "measuring") if len(tasks) > 1 else kept():
        rows[answer.number].error = answer.error
        found[answer.number] |= answer.measured
    for row, of_clip, measured in zip(rows, keys, found, strict=True):
        if not row.error:
            for group in of_clip:
                row.add(group, measured[group])
    return rows


def tell(name: str, error: str) -> None:
    """Say why a clip cannot be read."""
    tqdm.write(f"{name}: {error}", file=sys.stderr)


def _row_of(clip: ListedClip) -> Row:
    """A clip in the report, of which nothing is measured yet."""
    kinds = tuple(kind for kind, is_one in ((SPOKEN, clip.transcript), (SOUNDING, clip.captions.heard)) if is_one)
    is_own = clip.sample.audio is None or clip.sample.video is None
    sound = None if is_own else clip.sample.audio
    return Row(clip.name, clip.sample.source, kinds=kinds, sound=sound, error=clip.fault)
