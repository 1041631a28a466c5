"""Validation clips in numbers, by the measures of `jova evaluate`, so that steps, and runs, can be compared."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from diffusers_jova.evaluation.clip_list import ListedClip, as_asked
from diffusers_jova.evaluation.measured_clips import MeasuredClips
from diffusers_jova.evaluation.measures import MEASURES, PARTLY
from diffusers_jova.evaluation.measuring import measure_all
from diffusers_jova.evaluation.meter import Meter
from diffusers_jova.evaluation.report import Row, left_out
from diffusers_jova.training.data.manifest import AUDIO_SUFFIXES, Sample, read_clip
from diffusers_jova.training.loop.config import TrainConfig
from jova_cli.evaluate import NETWORKS, as_settings


FOLDER = "validation-report"  # within the output folder; `jova evaluate` with this `--output` measures nothing again
CLIPS, JUDGED = "validation_clips/", "validation_judged/"  # begin the names of means, and of numbers of clips


class ValidationMeasures:
    """Measures the clips of a validation on the CPU, by numbers that the run does not depend on.

    Args:
        config: Of the run.
        folder: Of the clips.
        clips: The words of each.
        tell: Told in one line what is left out of clips, and why.

    Raises:
        ImportError: If a package that measures need is not installed.
        ValueError: If no clip has what a measure compares it with, or a setting names another network.
    """

    def __init__(
        self, config: TrainConfig, folder: Path, clips: Sequence[Namespace], tell: Callable[[str], None]
    ) -> None:
        whisper = config.validation_whisper
        self.groups: Sequence[str] = config.validation_measures
        self.folder, self.tell = folder.absolute(), tell
        self.meter = Meter(
            None if whisper is None else Path(whisper),
            config.validation_language,
            **given_networks(config),
            is_strict=True,
        )
        self.report = Path(config.output_dir) / FOLDER
        self.known = MeasuredClips(self.report, self.meter)
        self.told: set[tuple[str, str]] = set()
        planned = [self._listed(_planned(args.output), args) for args in clips]
        self._check_use(planned)
        self._load(planned)

    def __call__(self, clips: Mapping[Path, Namespace]) -> dict[str, float]:
        """Measure files, given with their words.

        Returns:
            `validation_judged/<measure>`, how many clips can be judged, and if any can, `validation_clips/<measure>`,
            their mean. The mean of a number that should be near zero hides what lies on either side of it:
            `validation_clips/<measure>_distance` is that of the distances.
        """
        self.report.mkdir(parents=True, exist_ok=True)
        with torch.random.fork_rng(devices=[]):  # networks may draw
            rows = [self._measure(self._listed(read_clip(path), args)) for path, args in clips.items()]
        values: dict[str, float] = {}
        for measure in (measure for measure in MEASURES if measure.group in self.groups):
            numbers = [number for row in rows if (number := row.values.get(measure.name)) is not None]
            values[f"{JUDGED}{measure.name}"] = len(numbers)
            if numbers:
                values[f"{CLIPS}{measure.name}"] = fmean(numbers)
            if numbers and measure.better == "zero":
                values[f"{CLIPS}{measure.name}_distance"] = fmean(map(abs, numbers))
        return values

    def _measure(self, clip: ListedClip) -> Row:
        """Measure a clip, and tell a reason why it cannot be judged the first time that it occurs."""
        keys = {group: self.known.key(clip, group) for group in self.groups}
        (row,) = measure_all([clip], [keys], self.meter, self.known)
        for group, reason in row.reasons.items():
            if group not in row.missing and (group, reason) not in self.told:
                self.told.add((group, reason))
                told = as_settings(reason)
                self.tell(f"validation: {group} leaves numbers out, first those of {row.name}: {told}")
        return row

    def _listed(self, sample: Sample, args: Namespace) -> ListedClip:
        """A clip as `jova evaluate` would list it."""
        name = sample.source.absolute().relative_to(self.folder).with_suffix("").as_posix()
        files = {key: (path := getattr(args, key)) and str(path) for key in ("reference_audio", "image")}
        return as_asked(name, sample, {**vars(args), **files})

    def _check_use(self, planned: Sequence[ListedClip]) -> None:
        """Refuse measures that compare every clip with nothing."""
        lacking = {
            "words": ("a `transcript`", not any(clip.transcript for clip in planned)),
            "voice": ("a `reference_audio`", not any(clip.reference_voice for clip in planned)),
            "clap": ("a caption", not any(any(clip.captions) for clip in planned)),
        }
        for group, (what, is_lacking) in lacking.items():
            if group in self.groups and is_lacking:
                raise ValueError(
                    f"`validation_measures` must leave `{group}` out where no validation clip has {what}, got "
                    f"{list(self.groups)}; leave it out, or give one in a row of `validation_list`"
                )

    def _load(self, planned: Sequence[ListedClip]) -> None:
        """Load what the measures need: an error where a whole group lacks it, a line where a number does."""
        in_need = {group: sum(self.meter.needs_package(group, clip) for clip in planned) for group in self.groups}
        try:
            self.meter.read_given()
        except ValueError as error:
            raise ValueError(as_settings(str(error))) from error
        self.meter.load(group for group, count in in_need.items() if count)
        for group, reason in self.meter.missing.items():
            if group not in PARTLY:
                raise ImportError(
                    f"`validation_measures` must be those whose packages are installed, got `{group}`: {reason}; "
                    "leave it out, or install what `jova evaluate --help` says"
                )
            self.tell(f"validation: {left_out(group, in_need[group], len(planned), reason)}")


def given_networks(config: TrainConfig) -> dict[str, Any]:
    """The networks that the settings name, by the option of `jova evaluate` that takes each."""
    named = {option: getattr(config, f"validation_{option}", None) for option in NETWORKS.values()}
    return {option: Path(path) for option, path in named.items() if path is not None}


def _planned(path: Path) -> Sample:
    """The files of a clip that is not made yet."""
    return Sample(audio=path) if path.suffix.lower() in AUDIO_SUFFIXES else Sample(video=path)
