"""Formant synthesis: words to a phoneme timeline, a phoneme timeline to a waveform.

A cascade of five resonators (Klatt, 1980) shapes glottal pulses and breath, a band shapes the noise of fricatives and
plosive bursts. The targets of neighbouring phonemes blend (co-articulation), so each word has its own spectrum over
time. Phonemes carry ARPABET labels; "SIL" is silence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


FloatArray = npt.NDArray[np.floating]

CONTROL_RATE_HZ = 1000  # of the tracks of formants and gains
FORMANT_BLEND_S = 0.055
GAIN_BLEND_S = 0.014
PEAK = 0.7


class TimedPhone(NamedTuple):
    """One phoneme of an utterance; times in seconds from its start."""

    start_s: float
    end_s: float
    label: str


class Utterance(NamedTuple):
    """What was said: waveform [samples] in [-1, 1] and the phonemes it consists of."""

    waveform: FloatArray
    phones: tuple[TimedPhone, ...]


class Voice(NamedTuple):
    """What makes a speaker: mean pitch and the scale of the vocal tract's resonances."""

    pitch_hz: float
    formant_scale: float


class Segment(NamedTuple):
    """A stretch of constant targets; a phoneme is one segment, diphthongs and plosives are two or three."""

    duration_s: float
    formants_hz: tuple[int, int, int]
    voicing: float = 0.0
    breath: float = 0.0
    noise: float = 0.0
    noise_centre_hz: int = 4000
    noise_width_hz: int = 2000


VOICES = {"man": Voice(112, 1.0), "woman": Voice(205, 1.16), "child": Voice(285, 1.30)}

LEXICON = {
    "hello": "HH AX L OW", "blue": "B L UW", "red": "R EH D", "moon": "M UW N", "apple": "AE P AX L",
    "banana": "B AX N AE N AX", "papa": "P AA P AX", "mama": "M AA M AX", "one": "W AH N", "two": "T UW",
    "three": "TH R IY", "four": "F AO R", "five": "F AY V", "six": "S IH K S", "seven": "S EH V AX N",
    "eight": "EY T", "nine": "N AY N", "zero": "Z IY R OW", "yes": "Y EH S", "no": "N OW", "wow": "W AW",
    "coffee": "K AO F IY", "robot": "R OW B AA T", "music": "M Y UW Z IH K",
}  # fmt: skip
WORDS = tuple(LEXICON)


def _vowel(duration_s: float, *targets: tuple[int, int, int]) -> tuple[Segment, ...]:
    return tuple(Segment(duration_s / len(targets), target, voicing=1.0) for target in targets)


def _plosive(
    closure: Segment, burst_noise: float, centre_hz: int, width_hz: int, breath: float
) -> tuple[Segment, ...]:
    locus = closure.formants_hz
    burst = Segment(0.014, locus, closure.voicing, breath, burst_noise, centre_hz, width_hz)
    return closure, burst, Segment(0.012 + 0.04 * breath, locus, 2 * closure.voicing, breath)


# Formants in Hz of an adult male voice; durations in seconds; gains relative to a vowel.
# fmt: off
PHONES: dict[str, tuple[Segment, ...]] = {
    "SIL": (Segment(0.05, (500, 1500, 2500)),),
    "IY": _vowel(0.17, (280, 2250, 2950)),
    "IH": _vowel(0.12, (400, 1920, 2560)),
    "EH": _vowel(0.15, (550, 1770, 2490)),
    "AE": _vowel(0.18, (700, 1650, 2450)),
    "AA": _vowel(0.18, (740, 1100, 2540)),
    "AO": _vowel(0.17, (590, 860, 2540)),
    "AH": _vowel(0.15, (640, 1190, 2550)),
    "AX": _vowel(0.09, (500, 1400, 2500)),
    "UW": _vowel(0.19, (310, 870, 2250)),
    "EY": _vowel(0.20, (500, 1900, 2550), (330, 2250, 2700)),
    "AY": _vowel(0.23, (720, 1200, 2550), (380, 2000, 2600)),
    "AW": _vowel(0.24, (720, 1230, 2550), (400, 850, 2300)),
    "OW": _vowel(0.21, (540, 1000, 2350), (380, 760, 2250)),
    "W": (Segment(0.08, (290, 610, 2150), 0.55),),
    "Y": (Segment(0.07, (260, 2200, 3020), 0.5),),
    "R": (Segment(0.08, (310, 1060, 1380), 0.6),),
    "L": (Segment(0.08, (340, 1050, 2880), 0.55),),
    "M": (Segment(0.09, (250, 1000, 2200), 0.35),),
    "N": (Segment(0.08, (250, 1600, 2600), 0.35),),
    "HH": (Segment(0.08, (500, 1500, 2500), 0.0, breath=0.5),),
    "F": (Segment(0.11, (340, 1100, 2080), noise=0.09, noise_centre_hz=5200, noise_width_hz=5000),),
    "V": (Segment(0.08, (240, 1100, 2080), 0.25, noise=0.05, noise_centre_hz=5200, noise_width_hz=5000),),
    "TH": (Segment(0.10, (320, 1290, 2540), noise=0.07, noise_centre_hz=6800, noise_width_hz=2600),),
    "S": (Segment(0.12, (320, 1390, 2530), noise=0.24, noise_centre_hz=5800, noise_width_hz=1800),),
    "Z": (Segment(0.09, (260, 1390, 2530), 0.22, noise=0.15, noise_centre_hz=5800, noise_width_hz=1800),),
    "P": _plosive(Segment(0.06, (320, 900, 2150)), 0.16, 900, 1500, breath=0.5),
    "T": _plosive(Segment(0.05, (320, 1750, 2650)), 0.45, 4600, 2500, breath=0.5),
    "K": _plosive(Segment(0.06, (300, 1990, 2550)), 0.40, 2100, 1100, breath=0.5),
    "B": _plosive(Segment(0.06, (220, 900, 2150), 0.08), 0.12, 700, 1200, breath=0.05),
    "D": _plosive(Segment(0.05, (220, 1750, 2650), 0.08), 0.25, 4200, 2500, breath=0.05),
}
# fmt: on


def pronounce(words: Sequence[str], generator: np.random.Generator) -> tuple[str, ...]:
    """Phoneme labels of a sentence, with a silence between some of the words.

    Raises:
        ValueError: If a word is not in the lexicon.
    """
    unknown = [word for word in words if word not in LEXICON]
    if unknown:
        raise ValueError(
            f"`words` must be from the lexicon ({', '.join(WORDS)}), got {unknown[0]!r}; "
            'use `speech="espeak"` for other words'
        )
    labels: list[str] = []
    for word in words:
        if labels and generator.random() < 0.7:
            labels.append("SIL")
        labels += LEXICON[word].split()
    return tuple(labels)


def speak(
    words: Sequence[str],
    voice: str,
    generator: np.random.Generator,
    *,
    sampling_rate: int = 16000,
    max_duration_s: float | None = None,
) -> Utterance:
    """Say words of the lexicon with one of the built-in voices.

    Args:
        words: What to say, from `WORDS`.
        voice: A key of `VOICES`.
        generator: Source of the variation between renderings: tempo, pitch, vocal tract, noise.
        sampling_rate: Of the waveform, in Hz.
        max_duration_s: Speaks faster where the utterance would last longer.
    """
    labels = pronounce(words, generator)
    tempo = generator.uniform(0.88, 1.15)
    natural_s = tempo * sum(segment.duration_s for label in labels for segment in PHONES[label])
    if max_duration_s is not None:
        tempo *= min(1.0, max_duration_s / (natural_s + 0.02 * len(labels)))
    stretches = tempo * generator.uniform(0.9, 1.1, len(labels))
    phones = _timeline(labels, stretches)
    pitch_hz, formant_scale = VOICES[voice]
    drawn = Voice(pitch_hz * generator.uniform(0.88, 1.14), formant_scale * generator.uniform(0.97, 1.03))
    tracks = _tracks(labels, stretches, drawn.formant_scale)
    waveform = _synthesize(
        tracks, _pitch_track(len(tracks.voicing), drawn.pitch_hz, generator), sampling_rate, generator
    )
    return Utterance(waveform, phones)


class _Tracks(NamedTuple):
    """Targets at `CONTROL_RATE_HZ`: formants [T, 3] in Hz, everything else [T]."""

    formants_hz: FloatArray
    voicing: FloatArray
    breath: FloatArray
    noise: FloatArray
    noise_centre_hz: FloatArray
    noise_width_hz: FloatArray


def _timeline(labels: Sequence[str], stretches: FloatArray) -> tuple[TimedPhone, ...]:
    natural = np.array([sum(segment.duration_s for segment in PHONES[label]) for label in labels])
    ends = np.cumsum(natural * stretches)
    starts = np.concatenate([[0.0], ends[:-1]])
    return tuple(TimedPhone(*times) for times in zip(starts.tolist(), ends.tolist(), labels, strict=True))


def _tracks(labels: Sequence[str], stretches: FloatArray, formant_scale: float) -> _Tracks:
    """Piecewise-constant targets of the segments, blended over time."""
    segments = [
        (segment, stretch) for label, stretch in zip(labels, stretches, strict=True) for segment in PHONES[label]
    ]
    ends = np.round(np.cumsum([s.duration_s * stretch for s, stretch in segments]) * CONTROL_RATE_HZ).astype(int)
    counts = np.diff(ends, prepend=0)
    table = np.array(
        [(*s.formants_hz, s.voicing, s.breath, s.noise, s.noise_centre_hz, s.noise_width_hz) for s, _ in segments]
    )
    tail = int(0.03 * CONTROL_RATE_HZ)  # room for the last gains to fade
    targets = np.pad(np.repeat(table, counts, axis=0), ((0, tail), (0, 0)), mode="edge")
    targets[-tail:, 3:6] = 0.0
    formants = np.exp(_blend(np.log(targets[:, :3]), FORMANT_BLEND_S)) * formant_scale
    gains = np.maximum(_blend(targets[:, 3:6], GAIN_BLEND_S), 0.0)
    return _Tracks(formants, gains[:, 0], gains[:, 1], gains[:, 2], targets[:, 6], targets[:, 7])


def _blend(tracks: FloatArray, width_s: float) -> FloatArray:
    """Smooth the columns of [T, K] with a Hann window."""
    radius = int(width_s * CONTROL_RATE_HZ / 2)
    window = np.hanning(2 * radius + 3)[1:-1]
    padded = np.pad(tracks, ((radius, radius), (0, 0)), mode="edge")
    return np.stack([np.convolve(column, window / window.sum(), "valid") for column in padded.T], axis=1)


def _pitch_track(length: int, pitch_hz: float, generator: np.random.Generator) -> FloatArray:
    """A sentence melody in Hz, [length]: declination, slow random movement, a little jitter."""
    progress = np.linspace(0.0, 1.0, length)
    knots = generator.normal(0.0, 0.06, 6)
    wander = np.interp(progress, np.linspace(0.0, 1.0, 6), knots)
    return pitch_hz * np.exp(0.14 - 0.3 * progress**1.3 + wander)


def _synthesize(
    tracks: _Tracks, pitch_hz: FloatArray, sampling_rate: int, generator: np.random.Generator
) -> FloatArray:
    """Excite the vocal tract and the noise band; the sum, [samples], peaks at `PEAK`."""
    num_samples = len(pitch_hz) * sampling_rate // CONTROL_RATE_HZ
    times = np.arange(num_samples) * (CONTROL_RATE_HZ / sampling_rate)

    def at_samples(track: FloatArray) -> FloatArray:
        return np.interp(times, np.arange(len(track)), track)

    hiss = generator.standard_normal((2, num_samples))
    pulses = _glottal_pulses(at_samples(pitch_hz), sampling_rate)
    breath = 0.25 * at_samples(tracks.breath) + 0.012 * at_samples(tracks.voicing)
    excitation = at_samples(tracks.voicing) * pulses + breath * hiss[0]
    friction = at_samples(tracks.noise) * hiss[1]
    waveform = _filtered(np.stack([excitation, friction]), tracks, sampling_rate)
    return (PEAK / max(np.abs(waveform).max(), 1e-6) * waveform).astype(np.float32)


def _glottal_pulses(pitch_hz: FloatArray, sampling_rate: int, open_quotient: float = 0.6) -> FloatArray:
    """Derivative of the glottal flow t^2 - t^3 (Klatt and Klatt, 1990), [samples]; one pulse per period."""
    phase = np.cumsum(pitch_hz / sampling_rate) % 1.0 / open_quotient
    return np.where(phase < 1.0, 2 * phase - 3 * phase**2, 0.0)


def _filtered(sources: FloatArray, tracks: _Tracks, sampling_rate: int, window_samples: int = 256) -> FloatArray:
    """Sum, [samples], of two sources [2, samples], shaped by the vocal tract and by the noise band."""
    hop_length_samples = window_samples // 2
    num_samples = sources.shape[1]
    num_windows = num_samples // hop_length_samples + 1
    padded = np.pad(sources, ((0, 0), (hop_length_samples, 2 * window_samples)))
    starts = np.arange(num_windows) * hop_length_samples
    pieces = padded[:, starts[:, None] + np.arange(window_samples)]  # [2, windows, samples]
    spectra = np.fft.rfft(pieces * np.hanning(window_samples + 1)[:-1], 2 * window_samples)
    frames = np.minimum(starts * CONTROL_RATE_HZ // sampling_rate, len(tracks.voicing) - 1)
    frequencies_hz = np.fft.rfftfreq(2 * window_samples, 1 / sampling_rate)
    shaped = spectra[0] * _vocal_tract(tracks.formants_hz[frames], frequencies_hz, sampling_rate)
    shaped += spectra[1] * _noise_band(tracks.noise_centre_hz[frames], tracks.noise_width_hz[frames], frequencies_hz)
    output = np.zeros(num_samples + 3 * window_samples)
    for start, piece in zip(starts, np.fft.irfft(shaped), strict=True):
        output[start : start + 2 * window_samples] += piece
    return output[hop_length_samples : hop_length_samples + num_samples]


def _vocal_tract(
    formants_hz: FloatArray, frequencies_hz: FloatArray, sampling_rate: int
) -> npt.NDArray[np.complex128]:
    """Response [T, frequencies] of a cascade of resonators: the formants [T, 3] in Hz and two fixed ones above."""
    higher = np.array([3500.0, 4600.0]) * np.ones((len(formants_hz), 1))
    centres = np.concatenate([formants_hz, higher], axis=1)
    bandwidths = np.array([70.0, 90.0, 130.0, 250.0, 350.0]) * (0.6 + 0.4 * centres / centres[:, :1].clip(300) * 0.3)
    radius = np.exp(-np.pi * np.minimum(bandwidths, 500.0) / sampling_rate)
    first = 2 * radius * np.cos(2 * np.pi * centres / sampling_rate)  # y[n] = gain x[n] + first y[n-1] + second y[n-2]
    second = -(radius**2)
    delay = np.exp(-2j * np.pi * frequencies_hz / sampling_rate)
    delay_squared = delay**2
    feedback = np.ones((len(formants_hz), len(frequencies_hz)), np.complex128)
    for a, b in zip(first.T[..., None], second.T[..., None], strict=True):
        feedback *= 1 - a * delay - b * delay_squared
    return (1 - first - second).prod(1)[:, None] / feedback


def _noise_band(centre_hz: FloatArray, width_hz: FloatArray, frequencies_hz: FloatArray) -> FloatArray:
    """Gaussian bands [T, frequencies] around `centre_hz` [T]."""
    return np.exp(-0.5 * ((frequencies_hz - centre_hz[:, None]) / (0.5 * width_hz[:, None])) ** 2)
