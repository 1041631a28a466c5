"""Which words were said: the sound is compared with renderings of the true and of wrong transcripts.

Dynamic time warping over cepstra finds the nearest rendering; no recogniser and nobody's weights are needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.fft import dct

from diffusers_jova.drawn import espeak, speech
from diffusers_jova.evaluation.spectrogram import LOG_FLOOR, log_mel


NUM_CANDIDATES = 10
NUM_RENDERINGS = 2  # of each candidate, because tempo and pauses vary
DYNAMIC_RANGE = 4.5  # of the natural log-mel below its peak; what lies deeper is mostly a vocoder's noise
SILENCE_SHARE = 0.2  # of the way from the quietest to the loudest frame


class Retrieval(NamedTuple):
    """The transcript that was found, whether it is the true one, and the share of its words that are wrong."""

    transcript: str
    is_correct: bool
    word_error: float


def retrieve_words(
    waveform: npt.NDArray[np.floating],
    transcript: str,
    voice: str,
    *,
    synthesizer: str = "formant",
    sampling_rate: int = 16000,
    seed: int = 0,
) -> Retrieval:
    """Choose the transcript that sounds most like `waveform` from the true one and nine random ones of its length.

    Args:
        waveform: [samples].
        transcript: What should be heard.
        voice: Of the renderings: man, woman or child.
        synthesizer: "formant" or "espeak": who renders.
        sampling_rate: In Hz.
        seed: Of the wrong transcripts and of the renderings.
    """
    generator = np.random.default_rng(seed)
    candidates = _candidates(transcript, generator)
    heard = cepstra(log_mel(waveform, sampling_rate))
    if len(heard) == 0:
        return Retrieval("", False, 1.0)
    speak = espeak.speak if synthesizer == "espeak" else speech.speak
    renderings = [
        cepstra(log_mel(speak(words.split(), voice, generator, sampling_rate=sampling_rate).waveform, sampling_rate))
        for words in candidates
        for _ in range(NUM_RENDERINGS)
    ]
    costs = alignment_costs(heard, renderings).reshape(len(candidates), NUM_RENDERINGS).min(1)
    found = candidates[int(costs.argmin())]
    wrong = sum(a != b for a, b in zip(found.split(), transcript.split(), strict=True))
    return Retrieval(found, found == transcript, wrong / len(found.split()))


def _candidates(transcript: str, generator: np.random.Generator) -> list[str]:
    """The true transcript first, then different random ones with as many words."""
    length = len(transcript.split())
    if length == 0:
        raise ValueError("`transcript` must have at least one word to be retrieved, got ''; skip clips without speech")
    num_candidates = min(NUM_CANDIDATES, len(speech.WORDS) ** length)
    candidates = [transcript]
    while len(candidates) < num_candidates:
        drawn = " ".join(speech.WORDS[index] for index in generator.integers(len(speech.WORDS), size=length))
        if drawn not in candidates:
            candidates.append(drawn)
    return candidates


def cepstra(log_mels: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Features of [T, 80]: silence trimmed at both ends, 13 cepstra and their slopes, [T', 26]; silence gives none."""
    audible = np.maximum(log_mels, log_mels.max() - DYNAMIC_RANGE).astype(np.float64)
    level = audible.mean(1)
    loud = np.flatnonzero(level > level.min() + SILENCE_SHARE * np.ptp(level))
    if log_mels.max() < LOG_FLOOR + 1 or len(loud) < 3:
        return np.zeros((0, 26))
    coefficients = dct(audible[loud[0] : loud[-1] + 1], norm="ortho", axis=1)[:, 1:14]
    coefficients -= coefficients.mean(0)
    scale = np.sqrt((coefficients**2).mean()) + 1e-9
    return np.concatenate([coefficients, 2 * np.gradient(coefficients, axis=0)], axis=1) / scale


def alignment_costs(
    features: npt.NDArray[np.float64], others: Sequence[npt.NDArray[np.float64]]
) -> npt.NDArray[np.float64]:
    """Mean step cost of the best monotonic alignment of [n, D] with each of several [m, D]; [len(others)]."""
    lengths = np.array([len(other) for other in others])
    n, longest = len(features), int(lengths.max())
    distances = np.full((len(others), n, longest), np.inf)
    for index, other in enumerate(others):
        squares = (features**2).sum(1)[:, None] + (other**2).sum(1) - 2 * features @ other.T
        distances[index, :, : len(other)] = np.sqrt(np.maximum(squares, 0))
    costs = np.full_like(distances, np.inf)
    before, last = np.full((2, len(others), n + 1), np.inf)  # costs on the two diagonals before, shifted by one row
    rows = np.arange(n)
    for diagonal in range(n + longest - 1):
        columns = diagonal - rows
        inside = (columns >= 0) & (columns < longest)
        step = np.minimum(np.minimum(last[:, 1:], last[:, :-1]), before[:, :-1])[:, inside]
        cost = distances[:, rows[inside], columns[inside]] + (step if diagonal else 0.0)
        before, last = last, np.full_like(last, np.inf)
        last[:, 1:][:, inside] = cost
        costs[:, rows[inside], columns[inside]] = cost
    return costs[np.arange(len(others)), n - 1, lengths - 1] / (n + lengths)
