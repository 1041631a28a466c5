"""How good speech sounds, by networks that were taught people's opinions, or their likeness of voices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diffusers_jova.evaluation.measured import Measured
from diffusers_jova.media import mix_channels, read_audio, resample


FloatArray = npt.NDArray[np.floating]

RATE_HZ = 16000  # of both networks
SILENT_PEAK = 1e-4
MIN_VOICE_S = 1.0  # of a sound; less tells no voice


def measure_speech(audio: FloatArray | None, sampling_rate: int) -> Measured:
    """Opinion scores from 1 to 5 of sound [channels, samples], by DNSMOS of the package `speechmos`.

    Args:
        audio: Of the clip; None for a silent file. A clip of less than 9 s is repeated, as DNSMOS does.
        sampling_rate: Samples per second.

    Raises:
        ImportError: If `speechmos` is not installed.
    """
    from speechmos import dnsmos

    if audio is None or float(np.abs(audio).max(initial=0)) < SILENT_PEAK:
        return Measured({}, "no sound" if audio is None else "the sound is silence")
    scores = dnsmos.run(_mono(audio, sampling_rate), RATE_HZ)
    names = {"ovrl_mos": "overall", "sig_mos": "signal", "bak_mos": "background", "p808_mos": "p808"}
    return Measured({f"dnsmos_{name}": float(scores[key]) for key, name in names.items()})


class VoiceComparer:
    """Compares voices by the encoder of the package `resemblyzer`, whose weights come inside it.

    Raises:
        ImportError: If it is not installed.
    """

    def __init__(self) -> None:
        from resemblyzer import VoiceEncoder

        self._encoder: Any = VoiceEncoder("cpu", verbose=False)
        self._known: dict[Path, FloatArray] = {}

    def measure(self, audio: FloatArray | None, sampling_rate: int, reference: Path | None) -> Measured:
        """Cosine between the voice of sound [channels, samples] and that of a file.

        Args:
            audio: Of the clip; None for a silent file.
            sampling_rate: Samples per second.
            reference: Sound of the voice that should be heard; None where none was given.
        """
        if reference is None:
            return Measured({}, "no voice to compare with")
        if audio is None or float(np.abs(audio).max(initial=0)) < SILENT_PEAK:
            return Measured({}, "no sound" if audio is None else "the sound is silence")
        if audio.shape[1] < MIN_VOICE_S * sampling_rate:
            return Measured({}, f"less than {MIN_VOICE_S:g} s of sound")
        if reference not in self._known:
            self._known[reference] = self._embed(*read_audio(reference))
        return Measured({"voice_similarity": float(self._embed(audio, sampling_rate) @ self._known[reference])})

    def _embed(self, audio: FloatArray, sampling_rate: int) -> FloatArray:
        """The voice of sound as a unit vector [256]."""
        from resemblyzer import preprocess_wav

        return np.asarray(self._encoder.embed_utterance(preprocess_wav(_mono(audio, sampling_rate))))


def _mono(audio: FloatArray, sampling_rate: int) -> FloatArray:
    """Sound as both networks take it: one channel [samples] within full scale."""
    return np.clip(resample(mix_channels(audio, 1), sampling_rate, RATE_HZ)[0], -1, 1)
