"""How good speech sounds, by networks that were taught people's opinions, or their likeness of voices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diffusers_jova.evaluation.measured import Measured
from diffusers_jova.evaluation.sound_level import why_unheard
from diffusers_jova.media import mix_channels, read_audio, resample


FloatArray = npt.NDArray[np.floating]

RATE_HZ = 16000  # of both networks
MIN_VOICE_S = 1.0  # less tells no voice
MIN_OPINION_S = 1.0  # repeated to 9 s, a syllable is a sound that nobody makes
PAUSE_MS, PAD_MS = 100, 30  # of Silero's own detector: a longer pause is no speech, and what is added on either side


def measure_speech(audio: FloatArray | None, sampling_rate: int) -> Measured:
    """Share of speech in sound [channels, samples], and opinion scores from 1 to 5 by DNSMOS, package `speechmos`.

    Args:
        audio: Of the clip; None for a silent file. A clip of less than 9 s is repeated, as DNSMOS does; one of
            less than a second has no scores.
        sampling_rate: Samples per second.

    Raises:
        ImportError: If `speechmos` or `faster-whisper` is not installed.
    """
    from speechmos import dnsmos

    if audio is None or why_unheard(audio):
        return Measured({} if audio is None else {"speech_share": 0.0}, why_unheard(audio))
    sound = _mono(audio, sampling_rate)
    share = speech_share(sound)
    if len(sound) < MIN_OPINION_S * RATE_HZ:
        too_short = f"less than {MIN_OPINION_S:g} s of sound, which is too short for an opinion on it"
        return Measured({"speech_share": share}, too_short)
    scores = dnsmos.run(sound, RATE_HZ)
    names = {"ovrl_mos": "overall", "sig_mos": "signal", "bak_mos": "background", "p808_mos": "p808"}
    values = {f"dnsmos_{name}": float(scores[key]) for key, name in names.items()}
    return Measured({"speech_share": share, **values})


def speech_share(sound: FloatArray) -> float:
    """Share of sound [samples] of `RATE_HZ` in which Silero's detector, inside `faster-whisper`, hears speech.

    Raises:
        ImportError: If `faster-whisper` is not installed.
    """
    from faster_whisper.vad import VadOptions, get_speech_timestamps

    options = VadOptions(min_silence_duration_ms=PAUSE_MS, speech_pad_ms=PAD_MS)
    parts = get_speech_timestamps(np.asarray(sound, np.float32), options)
    return sum(part["end"] - part["start"] for part in parts) / max(len(sound), 1)


class VoiceComparer:
    """Compares voices by the encoder of the package `resemblyzer`, whose weights come inside it.

    Raises:
        ImportError: If it is not installed.
    """

    def __init__(self) -> None:
        from resemblyzer import VoiceEncoder

        self._encoder: Any = VoiceEncoder("cpu", verbose=False)
        self._known: dict[Path, FloatArray] = {}

    def know(self, reference: Path) -> FloatArray:
        """The voice of a file as a unit vector [256].

        Raises:
            ValueError: If the file cannot be read, or no voice is heard in it.
        """
        if reference not in self._known:
            voice = self._embed(*read_voice(reference))
            if voice is None:
                raise ValueError(
                    f"`{reference}` must be sound in which somebody speaks for {MIN_VOICE_S:g} s or more, got less; "
                    "give another voice"
                )
            self._known[reference] = voice
        return self._known[reference]

    def measure(self, audio: FloatArray | None, sampling_rate: int, reference: Path) -> Measured:
        """Cosine between the voice of sound [channels, samples] and that of a file.

        Args:
            audio: Of the clip; None for a silent file.
            sampling_rate: Samples per second.
            reference: Sound of the voice that should be heard.

        Raises:
            ValueError: If no voice is heard in the reference.
        """
        known = self.know(reference)
        if audio is None or why_unheard(audio):
            return Measured({}, why_unheard(audio))
        voice = self._embed(audio, sampling_rate)
        if voice is None:
            return Measured({}, f"less than {MIN_VOICE_S:g} s of a voice")
        return Measured({"voice_similarity": float(voice @ known)})

    def _embed(self, audio: FloatArray, sampling_rate: int) -> FloatArray | None:
        """The voice of sound as a unit vector [256]; None where too little is left without its pauses."""
        from resemblyzer import preprocess_wav

        spoken = preprocess_wav(_mono(audio, sampling_rate))
        if len(spoken) < MIN_VOICE_S * RATE_HZ:
            return None
        return np.asarray(self._encoder.embed_utterance(spoken))


def read_voice(path: Path) -> tuple[FloatArray, int]:
    """Read sound [channels, samples] of a voice, and its sampling rate.

    Raises:
        ValueError: If the file cannot be read, or is too quiet or too short for a voice.
    """
    audio, sampling_rate = read_audio(path)
    duration_s = audio.shape[1] / sampling_rate
    if duration_s < MIN_VOICE_S or why_unheard(audio):
        raise ValueError(
            f"`{path}` must be sound of a voice, {MIN_VOICE_S:g} s or more, got "
            f"{why_unheard(audio) or f'{duration_s:.2g} s'}; give another voice"
        )
    return audio, sampling_rate


def _mono(audio: FloatArray, sampling_rate: int) -> FloatArray:
    """Sound as both networks take it: one channel [samples] within full scale."""
    return np.clip(resample(mix_channels(audio, 1), sampling_rate, RATE_HZ)[0], -1, 1)
