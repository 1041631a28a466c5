"""Whether picture and sound are as long, and whether what is seen first is heard first."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from diffusers_jova.evaluation.clip_signals import PictureTracks, Signals
from diffusers_jova.evaluation.measured import Measured
from diffusers_jova.evaluation.sound_level import SILENCE_DBFS, block_length, block_levels_dbfs


FloatArray = npt.NDArray[np.floating]

BLOCK_S = 0.01
RISE_DB = 30.0  # below the loudest block, what still counts as sound
QUIET_S = 0.1  # before an onset
MOVEMENT = 0.25  # of the strong changes of a clip, what counts as one
LEAST_MOVEMENT = 0.01  # of white, in a tile


def measure_timing(signals: Signals) -> Measured:
    """Compare the lengths of picture and sound, and their beginnings."""
    if signals.picture is None or signals.audio is None:
        return Measured({}, "no picture" if signals.picture is None else "no sound")
    length_ms = 1000 * (signals.audio.shape[1] / signals.sampling_rate - signals.picture.duration_s)
    heard_s = first_sound_s(signals.audio, signals.sampling_rate)
    seen_s = first_movement_s(signals.picture)
    values: dict[str, float | None] = {"length_difference_ms": length_ms, "onset_difference_ms": None}
    if heard_s is None:
        return Measured(values, "no sound begins within the clip")
    if seen_s is None:
        return Measured(values, "no movement begins within the clip")
    return Measured(values | {"onset_difference_ms": 1000 * (seen_s - heard_s)})


def first_sound_s(audio: FloatArray, sampling_rate: int) -> float | None:
    """When sound [channels, samples] begins after silence, in seconds; None where it is there at once, or never."""
    levels = block_levels_dbfs(audio, sampling_rate, BLOCK_S)
    loud = levels >= max(levels.max() - RISE_DB, SILENCE_DBFS)
    if not loud.any() or levels.max() < SILENCE_DBFS:
        return None
    first_s = int(loud.argmax()) * block_length(sampling_rate, BLOCK_S) / sampling_rate
    return first_s if first_s >= QUIET_S else None


def first_movement_s(picture: PictureTracks) -> float | None:
    """When a picture begins to move after it stood still, in seconds; None where it moves at once or never."""
    if len(picture.changes) < 2:
        return None
    strongest = picture.changes.max(1)  # [F - 1]
    moves = strongest >= max(MOVEMENT * float(np.percentile(strongest, 95)), LEAST_MOVEMENT)
    if not moves.any():
        return None
    first_s = (int(moves.argmax()) + 1) / picture.frame_rate
    return first_s if first_s >= QUIET_S + 1 / picture.frame_rate else None
