"""Tracks of a clip to draw: how loud it is, and how far a mouth opens."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from diffusers_jova.evaluation.clip_signals import PictureTracks, Signals
from diffusers_jova.evaluation.measured import Measured
from diffusers_jova.training.data.envelope_sync import envelope


FloatArray = npt.NDArray[np.floating]
Curve = list[float | None]  # at evenly spaced times, between 0 and 1; None where nothing is seen

MAX_POINTS = 240  # of a curve; more cannot be seen


def sync_curves(
    picture: PictureTracks, opening: FloatArray | None, waveform: FloatArray | None, sampling_rate: int
) -> dict[str, Curve]:
    """A mouth and the loudness at the same times.

    Args:
        picture: Whose frames the times are.
        opening: Of the mouth, [F]; NaN where it is not seen, None for no mouth.
        waveform: [samples]; None for a silent file.
        sampling_rate: Of the sound, in Hz.
    """
    step = -(-len(picture.luma) // MAX_POINTS)
    curves = {}
    if opening is not None:
        curves["mouth"] = _unit(opening[::step])
    if waveform is not None:
        curves["loudness"] = _unit(envelope(waveform, len(picture.luma), picture.frame_rate, sampling_rate)[::step])
    return curves


def with_sound_curve(measured: Mapping[str, Measured], signals: Signals) -> dict[str, Measured]:
    """What groups of measures say, the first with the loudness of the clip where none has it beside a mouth."""
    told, waveform = dict(measured), signals.waveform
    if not told or waveform is None or not waveform.size or any("loudness" in one.curves for one in told.values()):
        return told
    num_points = min(MAX_POINTS, len(waveform))
    rate = num_points * signals.sampling_rate / len(waveform)  # points per second
    first = next(iter(told))
    curve = _unit(envelope(waveform, num_points, rate, signals.sampling_rate))
    return told | {first: told[first]._replace(curves={**told[first].curves, "sound": curve})}


def _unit(track: FloatArray) -> Curve:
    seen = track[np.isfinite(track)]
    low, high = (float(seen.min()), float(seen.max())) if len(seen) else (0.0, 1.0)
    scale = max(high - low, 1e-9)
    return [round((float(value) - low) / scale, 3) if np.isfinite(value) else None for value in track]
