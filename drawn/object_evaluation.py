"""Measures of generated sounding objects: is it the right thing, does it sound like it, do both happen at once.

Shapes and spectra are compared with those of some clips of each kind, the nearest of which tells the kind; backgrounds
and levels do not count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from diffusers_jova.drawn.avatars import AvatarClip, make_clip
from diffusers_jova.drawn.portraits import PALETTE
from diffusers_jova.drawn.sounding_objects import SOUNDING_OBJECTS
from diffusers_jova.drawn.speaker_evaluation import probe_colours
from diffusers_jova.evaluation.fidelity import Frames
from diffusers_jova.evaluation.spectrogram import log_mel
from diffusers_jova.training.data.envelope_sync import envelope


FloatArray = npt.NDArray[np.floating]

TEMPLATE_SEEDS = range(20_000_000, 20_000_016)
MOVING = ("dog", "lamp", "ball")  # their main change of shape or brightness is their state; bells swing, rain falls
LOUD_PERCENTILE = 60


def evaluate_object(frames: Frames, waveform: FloatArray, reference: AvatarClip) -> dict[str, float]:
    """Measure one generated sounding object against the clip that its prompt comes from.

    Args:
        frames: uint8 [F, H, W, 3].
        waveform: [samples] in [-1, 1], at the reference's sampling rate.
        reference: Source of the prompt.

    Returns:
        1 or 0 for what is right or wrong, and the size of the correlation of what moves with what is heard; NaN where
        that does not apply.
    """
    if reference.subject not in SOUNDING_OBJECTS:
        raise ValueError(f"`reference` must be one of {', '.join(SOUNDING_OBJECTS)}, got a {reference.subject}")
    rates = (reference.frame_rate, reference.sampling_rate)
    shape = shape_of(frames)
    shapes, spectra = _templates(frames.shape[1], frames.shape[2], *rates, len(frames))
    corner = np.median(probe_colours(frames)["background"], axis=0)
    loudness = envelope(waveform, len(frames), *rates)
    return {
        "shape_correct": float(_nearest(shape, shapes) == reference.subject),
        "sound_correct": float(_nearest(spectrum_of(waveform, reference.sampling_rate), spectra) == reference.subject),
        "background_correct": float(
            _nearest(corner, {colour.name: [np.array(colour.rgb)] for colour in PALETTE["background"]})
            == reference.background.name
        ),
        "movement_correlation": movement_correlation(frames, loudness)
        if reference.subject in MOVING
        else float("nan"),
    }


def shape_of(frames: Frames) -> npt.NDArray[np.float64]:
    """How much of the time each pixel differs from the background, [H, W] in [0, 1]."""
    background = np.median(frames[:, :4].reshape(-1, 3), axis=0)
    return np.minimum(np.abs(frames - background).sum(-1) / 120, 1).mean(0)


def spectrum_of(waveform: FloatArray, sampling_rate: int) -> npt.NDArray[np.float64]:
    """Mean natural log-mel of the louder moments, less its level, [80]."""
    mel = log_mel(waveform, sampling_rate).astype(np.float64)
    level = mel.mean(1)
    spectrum = mel[level >= np.percentile(level, LOUD_PERCENTILE)].mean(0)
    return spectrum - spectrum.mean()


def movement_correlation(frames: Frames, loudness: FloatArray) -> float:
    """Correlate the picture's main change with the envelope [F], in [0, 1]: the change has no sign of its own."""
    pixels = frames.reshape(len(frames), -1).astype(np.float32)
    course = np.linalg.svd(pixels - pixels.mean(0), full_matrices=False)[0][:, 0]
    loudness = loudness - loudness.mean()
    scale = np.linalg.norm(course - course.mean()) * np.linalg.norm(loudness)
    return float(abs(((course - course.mean()) * loudness).sum()) / scale) if scale > 1e-9 else 0.0


def _nearest(value: FloatArray, options: Mapping[str, Sequence[FloatArray]]) -> str:
    """The name under which the option stands that is nearest to `value`."""
    return min(options, key=lambda name: min(float(((value - option) ** 2).sum()) for option in options[name]))


@lru_cache(maxsize=4)
def _templates(
    height: int, width: int, frame_rate: float, sampling_rate: int, num_frames: int
) -> tuple[Mapping[str, Sequence[FloatArray]], Mapping[str, Sequence[FloatArray]]]:
    """Shapes and spectra of each kind: pitches differ within a kind, so that a mean would be none of them."""
    shapes: dict[str, list[FloatArray]] = {}
    spectra: dict[str, list[FloatArray]] = {}
    for kind in SOUNDING_OBJECTS:
        clips = [
            make_clip(
                seed,
                subject=kind,
                height=height,
                width=width,
                frame_rate=frame_rate,
                sampling_rate=sampling_rate,
                num_frames=num_frames,
            )
            for seed in TEMPLATE_SEEDS
        ]
        shapes[kind] = [shape_of(clip.frames) for clip in clips]
        spectra[kind] = [spectrum_of(clip.waveform, sampling_rate) for clip in clips]
    return shapes, spectra
