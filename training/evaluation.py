"""Measures that need nobody's weights: sync, words, colours and their drift, fidelity.

They know the synthetic corpus: its mouths, its palette, its voices. Each separates true from mismatched pairs; the
figures stand in `model_cards/jova-tiny`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from training.avatars import AvatarClip
from training.portraits import PALETTE, Identity
from training.spectrogram import log_mel
from training.sync_net import load_sync_net, sync_score
from training.word_retrieval import retrieve_words


Frames = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.floating]

ENVELOPE_FLOOR = 1e-2
MAX_LAG = 6  # frames

# fmt: off
PROBES = {  # rows, columns of a 64 x 64 picture in which a part of the median frame is looked at
    "background": (slice(2, 7), slice(2, 7)),
    "skin":       (slice(44, 49), slice(27, 38)),
    "hair":       (slice(12, 19), slice(28, 37)),
    "shirt":      (slice(59, 64), slice(28, 37)),
}
# fmt: on


# 1. Sync of the mouth's aperture with the sound's envelope


class EnvelopeSync(NamedTuple):
    """Correlation of aperture and envelope at lag 0, and the lag, in frames, of its maximum (positive: late lips)."""

    correlation: float
    lag: int


def aperture_from_frames(frames: Frames) -> npt.NDArray[np.float64]:
    """How far the mouth is open in each frame of uint8 [F, H, W, 3]: root of its height above rest, in px of 64; [F].

    The inside of a mouth is dark and reddish; a row of pixels counts by its three most mouth-like ones.
    """
    height, width = frames.shape[1:3]
    side = min(height, width)
    top, left = height - side, (width - side) // 2
    rows = slice(top + round(0.54 * side), top + round(0.83 * side))
    columns = slice(left + round(0.28 * side), left + round(0.72 * side))
    red, green, _ = np.moveaxis(frames[:, rows, columns].astype(np.float32), -1, 0)
    likeness = np.clip((170 - red) / 100, 0, 1) * np.clip((red - green - 8) / 25, 0, 1)
    heights = np.sort(likeness, axis=2)[:, :, -3:].mean(2).sum(1) * (64 / side)
    return np.sqrt(np.maximum(heights - np.percentile(heights, 10), 0)).astype(np.float64)


def envelope(waveform: FloatArray, num_frames: int, frame_rate: float, sampling_rate: int) -> npt.NDArray[np.float64]:
    """Logarithm of the RMS of [samples] over the interval of each frame, [F]; silence beyond the end."""
    edges = np.round(np.arange(num_frames + 1) / frame_rate * sampling_rate).astype(int)
    power = np.concatenate([[0.0], np.cumsum(np.asarray(waveform, np.float64) ** 2)])
    sums = np.diff(power[np.minimum(edges, len(waveform))])
    return np.log(np.sqrt(np.maximum(sums, 0) / np.diff(edges)) + ENVELOPE_FLOOR)


def envelope_sync(aperture: FloatArray, loudness: FloatArray, max_lag: int = MAX_LAG) -> EnvelopeSync:
    """Correlate aperture [F] with envelope [F] at all lags; a constant track correlates 0."""
    count = len(aperture)
    correlations = []
    for lag in range(-max_lag, max_lag + 1):
        late, early = max(lag, 0), max(-lag, 0)
        length = count - abs(lag)
        correlations.append(_correlation(aperture[late : late + length], loudness[early : early + length]))
    return EnvelopeSync(correlations[max_lag], int(np.argmax(correlations)) - max_lag)


def _correlation(a: FloatArray, b: FloatArray) -> float:
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt((a**2).sum() * (b**2).sum())
    return float((a * b).sum() / scale) if scale > 1e-9 else 0.0


# 2. Identity


def probe_colours(frames: Frames) -> dict[str, npt.NDArray[np.float64]]:
    """Colour of each part over time, RGB, [F, 3]."""
    height, width = frames.shape[1:3]
    side = min(height, width)
    top, left, scale = height - side, (width - side) // 2, side / 64
    colours = {}
    for part, (rows, columns) in PROBES.items():
        y1, y2 = (top + round(scale * row) for row in (rows.start, rows.stop))
        x1, x2 = (left + round(scale * column) for column in (columns.start, columns.stop))
        colours[part] = np.median(frames[:, y1:y2, x1:x2].reshape(len(frames), -1, 3), axis=1)
    return colours


def correct_colours(frames: Frames, identity: Identity) -> dict[str, bool]:
    """Whether each visible part is nearer to its own colour than to any other of the palette."""
    seen = probe_colours(frames)
    return {
        part: _nearest(np.median(seen[part], axis=0), {own.rgb, *(colour.rgb for colour in PALETTE[part])}) == own.rgb
        for part, own in identity.colours.items()
    }


def _nearest(colour: FloatArray, options: set[tuple[int, int, int]]) -> tuple[int, int, int]:
    return min(sorted(options), key=lambda option: float(((colour - option) ** 2).sum()))


def colour_errors(frames: Frames, identity: Identity) -> dict[str, float]:
    """Mean absolute difference (0..255) between each visible part and its true colour; less is better."""
    seen = probe_colours(frames)
    return {
        part: float(np.abs(np.median(seen[part], axis=0) - own.rgb).mean()) for part, own in identity.colours.items()
    }


def colour_drift(frames: Frames, parts: Sequence[str] = tuple(PROBES)) -> float:
    """Standard deviation of the probes' colours over time (0..255), averaged over parts and channels."""
    seen = probe_colours(frames)
    return float(np.mean([seen[part].std(0) for part in parts]))


# 3. Fidelity to a reference


def psnr_db(frames: Frames, reference: Frames) -> float:
    """Peak signal-to-noise ratio of pictures, in dB; infinite if they are equal."""
    error = ((frames.astype(np.float64) - reference) ** 2).mean()
    return float(10 * np.log10(255**2 / error)) if error > 0 else float("inf")


def mouth_psnr_db(frames: Frames, reference: Frames, boxes: FloatArray) -> float:
    """The same inside the mouth boxes [P, F, 4] (xyxy pixels, NaN none) only; NaN without any."""
    height, width = frames.shape[1:3]
    y, x = np.mgrid[:height, :width] + 0.5
    corners = boxes[..., None, None]
    inside = (x > corners[:, :, 0]) & (x < corners[:, :, 2]) & (y > corners[:, :, 1]) & (y < corners[:, :, 3])
    is_mouth = inside.any(0)
    return psnr_db(frames[is_mouth], reference[is_mouth]) if is_mouth.any() else float("nan")


def mel_error(waveform: FloatArray, reference: FloatArray, sampling_rate: int = 16000) -> float:
    """Mean absolute difference of natural log-mels, over the common length."""
    length = min(len(waveform), len(reference))
    difference = log_mel(waveform[:length], sampling_rate) - log_mel(reference[:length], sampling_rate)
    return float(np.abs(difference).mean())


def evaluate_reconstruction(frames: Frames, waveform: FloatArray, clip: AvatarClip) -> dict[str, float]:
    """Fidelity of what a codec makes of a clip."""
    return {
        "psnr_db": psnr_db(frames, clip.frames),
        "mouth_psnr_db": mouth_psnr_db(frames, clip.frames, clip.mouth_boxes),
        "mel_error": mel_error(waveform, clip.waveform, clip.sampling_rate),
    }


# 4. Clips that were generated for a prompt


def evaluate_clip(
    frames: Frames, waveform: FloatArray, reference: AvatarClip, *, synthesizer: str = "formant"
) -> dict[str, float]:
    """Measure one generated speaker against the clip that its prompt comes from.

    Args:
        frames: uint8 [F, H, W, 3].
        waveform: [samples] in [-1, 1], at the reference's sampling rate.
        reference: Source of the prompt: its identity and transcript say what should be there.
        synthesizer: Who renders the transcripts for the retrieval of words; the voice of the training set.

    Returns:
        One number per measure; those that are true or false are 1 or 0, those that do not apply are NaN.
    """
    identity = reference.identity
    if identity is None:
        raise ValueError(f"`reference` must be a speaker, got a {reference.subject}; choose speakers")
    rates = (reference.frame_rate, reference.sampling_rate)
    by_net = sync_score(load_sync_net(), frames, waveform, *rates)
    by_envelope = envelope_sync(aperture_from_frames(frames), envelope(waveform, len(frames), *rates))
    words = retrieve_words(
        waveform,
        reference.transcript,
        identity.voice,
        synthesizer=synthesizer,
        sampling_rate=reference.sampling_rate,
        seed=reference.seed,
    )
    colours = correct_colours(frames, identity)
    return {
        "sync_offset_frames": float(by_net.offset),
        "sync_within_one_frame": float(abs(by_net.offset) <= 1),
        "lse_c": by_net.lse_c,
        "lse_d": by_net.lse_d,
        "envelope_correlation": by_envelope.correlation,
        "envelope_lag_within_one_frame": float(abs(by_envelope.lag) <= 1),
        "word_top1": float(words.is_correct),
        "word_error": words.word_error,
        **{f"{part}_correct": float(colours[part]) if part in colours else float("nan") for part in PROBES},
        "identity_correct": float(all(colours.values())),
        "colour_error": float(np.mean(list(colour_errors(frames, identity).values()))),
        "colour_drift": colour_drift(frames, tuple(colours)),
    }
