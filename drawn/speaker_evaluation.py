"""Measures that need nobody's weights: sync, words, colours and their drift, fidelity.

They know the synthetic corpus: its mouths, its palette, its voices. Each separates true from mismatched pairs; the
figures stand in `model_cards/jova-tiny`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from diffusers_jova.drawn.avatars import AvatarClip
from diffusers_jova.drawn.portraits import PALETTE, Identity
from diffusers_jova.drawn.sync_net import load_sync_net, sync_score
from diffusers_jova.drawn.word_retrieval import retrieve_words
from diffusers_jova.evaluation.fidelity import Frames, mel_error, mouth_psnr_db, psnr_db
from diffusers_jova.training.data.envelope_sync import envelope, envelope_sync


FloatArray = npt.NDArray[np.floating]

# fmt: off
PROBES = {  # rows, columns of a 64 x 64 picture in which a part of the median frame is looked at
    "background": (slice(2, 7), slice(2, 7)),
    "skin":       (slice(44, 49), slice(27, 38)),
    "hair":       (slice(12, 19), slice(28, 37)),
    "shirt":      (slice(59, 64), slice(28, 37)),
}
# fmt: on


# 1. The mouth's aperture


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
