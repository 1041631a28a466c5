"""What a clip must measure to be kept: sound, a mouth, and both in sync."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from diffusers_jova.media_arrays import SILENCE_PEAK
from diffusers_jova.training.data.clip import Clip, ClipSettings, SkippedClipError
from diffusers_jova.training.data.envelope_sync import envelope, envelope_sync, mouth_openings
from diffusers_jova.training.data.manifest import Sample


MIN_MOUTH_SHARE = 0.5  # of the frames, for `require_mouth`


class Requirement(NamedTuple):
    """What a clip must measure to be kept.

    Attributes:
        measure: Of a clip.
        minimum: What is enough.
        lacking: Says of clips with less what they are.
        what: Is measured.
        said: Sentence with the measure in it.
        told: What people are told in place of that; empty for the same.
    """

    measure: Callable[[Clip], float]
    minimum: float
    lacking: str
    what: str
    said: str
    told: str = ""


def requirements(
    settings: ClipSettings, sample: Sample, looks_for_mouths: bool = True, has_sound: bool = True
) -> list[Requirement]:
    """What the settings ask of every clip of a sample, in the order in which it is looked at.

    Args:
        settings: How files become clips.
        sample: The file.
        looks_for_mouths: Whether somebody looks for mouths where no boxes are given.
        has_sound: Whether it has a track of sound.
    """
    is_blind = sample.mouth_boxes is None and not looks_for_mouths
    blind = ", since no boxes are given and none are looked for" if is_blind else ""
    sync = functools.partial(sync_of, frame_rate=settings.frame_rate)
    asks_sync = settings.min_sync is not None  # silence is in sync with nothing
    option = " (`--require-sound`)" if settings.require_sound else " (`--min-sync`)" if asks_sync else ""
    silence, told = ("of silence", "the sound is silence") if has_sound else ("without sound", "no sound")
    asked = {
        Requirement(peak, SILENCE_PEAK, f"{silence}{option}", "its largest sample", "is {:.5f}", told): (
            settings.require_sound or asks_sync or sample.video is None
        ),
        Requirement(
            functools.partial(num_words, sample=sample),
            1,
            "without words (`--require-words`)",
            "what is known to be said",
            "is {:.0f} words",
        ): settings.require_words,
        Requirement(
            mouth_share,
            MIN_MOUTH_SHARE,
            f"with a mouth in less than {MIN_MOUTH_SHARE:.0%} of the frames (`--require-mouth`)",
            "a mouth",
            "is visible in {:.0%} of the frames" + blind,
        ): settings.require_mouth,
        Requirement(
            sync,
            settings.min_sync or 0.0,
            f"whose mouth and sound correlate by less than {settings.min_sync or 0:g} (`--min-sync`)",
            "mouth and sound",
            "correlate by {:.2f}" + blind,
        ): asks_sync,
    }
    return [requirement for requirement, is_asked in asked.items() if is_asked]


def required(
    clips: Iterator[Clip], asked: Sequence[Requirement], unused_s: dict[str, float], frame_rate: float
) -> Iterator[Clip]:
    """Keep the clips that are as required.

    Args:
        clips: Of one file.
        asked: What is required of each.
        unused_s: Is added the seconds of the others, for each reason.
        frame_rate: Frames per second.

    Raises:
        SkippedClipError: At the end, if none was, with the best of what was too low for each requirement.
    """
    low: dict[Requirement, list[float]] = {}
    is_any = False
    for clip in clips:
        for requirement in asked:
            measured = requirement.measure(clip)
            if measured < requirement.minimum:
                low.setdefault(requirement, []).append(measured)
                unused_s[requirement.lacking] += clip.bucket.num_frames / frame_rate
                break
        else:
            is_any = True
            yield clip
    if not is_any:
        reasons = [(f"{r.what} {r.said.format(max(scores))}", r.told, len(scores)) for r, scores in low.items()]
        said = _counted({said: num for said, _, num in reasons})
        raise SkippedClipError(
            said or "no clip was cut of it", _counted({told or said: num for said, told, num in reasons})
        )


def _counted(reasons: Mapping[str, int]) -> str:
    """Reasons, with the number of clips of each where there are several."""
    counted = [f"{reason} in {num} clip{'s' if num > 1 else ''}" for reason, num in reasons.items()]
    return ", ".join(counted if len(reasons) > 1 else reasons)


def peak(clip: Clip) -> float:
    """Largest sample of the sound as the file has it, without its sign; 0 without sound."""
    return 0.0 if clip.heard is None else float(np.abs(clip.heard.audio).max(initial=0))


def num_words(clip: Clip, sample: Sample) -> float:
    """How many words are known to be said in a clip; one at least where a whole caption may hold them."""
    words = sample.transcript if clip.words is None else clip.words
    return max(len(words.split()), int(bool(sample.caption)))


def mouth_share(clip: Clip) -> float:
    """Share of the frames that show a mouth."""
    return float(np.isfinite(clip.mouth_boxes).all(-1).any(0).mean())


def sync_of(clip: Clip, frame_rate: float) -> float:
    """Correlation of the opening of the best mouth with the loudness; 0 without a mouth or without sound.

    The opening is height / width of the box. Measured on 24 synthetic speakers with boxes of the face mesh: .79 on
    average for their own sound, .22 for that of another one, .59 and .54 at the percentiles 5 and 95 that face each
    other.
    """
    if clip.audio is None:
        return 0.0
    loudness = envelope(clip.audio.mean(axis=0), clip.bucket.num_frames, frame_rate, clip.sampling_rate)
    openings = [opening for opening in mouth_openings(clip.mouth_boxes) if np.isfinite(opening).any()]
    return max((envelope_sync(opening, loudness, 0).correlation for opening in openings), default=0.0)
