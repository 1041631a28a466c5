"""The measures of clips that preparation has cut: of the pictures and the sound that a record holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from diffusers_jova.evaluation.clip_list import ListedClip, written_captions, written_words
from diffusers_jova.evaluation.clip_signals import PictureTracks, Signals, track_pictures
from diffusers_jova.evaluation.measures import VERSIONS
from diffusers_jova.evaluation.meter import Meter
from diffusers_jova.training.data.clip import Clip
from diffusers_jova.training.data.clip_filter import OF_SOUNDS, Judged
from diffusers_jova.training.data.manifest import Sample


PICTURE_GROUPS = {"sync", "picture"}  # of a still image
MOUTHS = {"sync", "syncnet"}  # groups that look at mouths


@dataclass(frozen=True)
class PreparedClipMeter:
    """Takes the measures of `jova evaluate` of clips of recordings, as a `ClipMeter` of preparation.

    Attributes:
        groups: Of the measures that are taken.
        whisper: Folder of the recogniser that hears the words; None takes the small one.
        device: Where that one runs.
        networks: Of the user, by the option of `jova evaluate` that names each; they run there, too.
    """

    groups: tuple[str, ...]
    whisper: Path | None = None
    device: str = "cpu"
    networks: Mapping[str, Path] = field(default_factory=dict)

    def on(self, device: str) -> PreparedClipMeter:
        """The same with its networks on a device."""
        return replace(self, device=device)

    def version(self, group: str) -> str:
        """Changes with the numbers of a group."""
        return f"{VERSIONS[group]} {json.dumps(self._meter.settings(group), sort_keys=True)}"

    def __call__(self, sample: Sample, clip: Clip, frame_rate: float) -> Mapping[str, Judged]:
        """What each group that can say something says of a clip at so many frames per second."""
        kinds = PICTURE_GROUPS if sample.is_still else OF_SOUNDS if clip.frames is None else self.groups
        groups = [group for group in self.groups if group in kinds]
        transcript = written_words(sample) if clip.words is None else clip.words
        listed = ListedClip(sample.source.stem, sample, transcript.strip(), captions=written_captions(sample))
        found = self._meter.measure_signals(listed, signals_of(clip, frame_rate), groups)
        return {
            group: Judged(finite(measured.values), measured.reason, is_final=not measured.missing)
            for group, measured in found.items()
        } | {group: Judged({}) for group in self.groups if group not in kinds}

    def missing(self) -> dict[str, str]:
        """What the groups lack, by the group; of mouths nothing is said, preparation finds them.

        Raises:
            ValueError: If `whisper` holds no recogniser, or an option names another network.
        """
        meter = self._made()
        meter.read_given()
        meter.load(set(self.groups) - MOUTHS)
        return meter.missing

    @cached_property
    def _meter(self) -> Meter:
        meter = self._made(is_strict=True)
        meter.load({"sound"} & set(self.groups))  # of which one number alone needs a package
        return meter

    def _made(self, is_strict: bool = False) -> Meter:
        networks: dict[str, Any] = dict(self.networks)
        return Meter(self.whisper, device=self.device, is_strict=is_strict, **networks)


def finite(values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Numbers, with None in place of those that are not finite."""
    return {name: value if value is not None and np.isfinite(value) else None for name, value in values.items()}


def signals_of(clip: Clip, frame_rate: float) -> Signals:
    """The tracks of a clip, with the mouths that were found and the sound as its file has it."""
    picture = _picture_of(clip, frame_rate)
    if clip.heard is None:
        return Signals(picture=picture, audio=None, sampling_rate=0)
    return Signals(picture=picture, audio=clip.heard.audio, sampling_rate=clip.heard.sampling_rate)


def _picture_of(clip: Clip, frame_rate: float) -> PictureTracks | None:
    if clip.frames is None:
        return None
    seen = np.asarray(np.isfinite(clip.mouth_boxes).all(-1)) if clip.seen is None else clip.seen
    boxes = np.where(seen[..., None], clip.mouth_boxes, np.nan)
    return replace(track_pictures(clip.frames, frame_rate), boxes=boxes, held=clip.frames)
