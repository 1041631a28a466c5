"""What networks say of drawn clips' speech that have never heard these voices: the words of Whisper, DNSMOS's opinion.

They come with the extra `evaluate`. Their figures mean something beside those of the drawn clips alone: the voices of
espeak-ng are hard to understand by themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

import numpy as np
import numpy.typing as npt

from diffusers_jova.drawn.avatars import AvatarClip
from diffusers_jova.evaluation.speech_quality import measure_speech
from diffusers_jova.evaluation.spoken_words import ENGLISH, Hear, SmallWhisper, plain_words


LABELS = {"words_heard": "words that Whisper tiny.en hears", "dnsmos": "DNSMOS, overall, 1 to 5"}


class ForeignEar:
    """Hears clips.

    Args:
        hear: Writes down what is said; None takes Whisper tiny.en.

    Raises:
        ImportError: If the extra `evaluate` is not installed.
    """

    def __init__(self, hear: Hear | None = None) -> None:
        for name in ("jiwer", "speechmos.dnsmos"):
            import_module(name)
        self._hear = SmallWhisper() if hear is None else hear

    def measure(
        self, sounds: Sequence[npt.NDArray[np.floating]], clips: Sequence[AvatarClip]
    ) -> list[dict[str, float]]:
        """Share of the words that are heard, and the opinion; a silent clip has no opinion.

        Args:
            sounds: Waveforms [samples].
            clips: What each should say, and at which rate it is sampled.
        """
        rows = []
        for sound, clip in zip(sounds, clips, strict=True):
            row = {"words_heard": words_heard(clip.transcript, self._hear(sound[None], clip.sampling_rate))}
            if (opinion := measure_speech(sound[None], clip.sampling_rate).values.get("dnsmos_overall")) is not None:
                row["dnsmos"] = opinion
            rows.append(row)
        return rows


def words_heard(wanted: str, heard: str) -> float:
    """Share of the wanted words that are heard, in their order.

    Args:
        wanted: What should be said.
        heard: What was written down.
    """
    import jiwer

    words, others = plain_words(wanted, ENGLISH), plain_words(heard, ENGLISH)
    if not others:
        return 0.0
    return float(jiwer.process_words(words, others).hits / len(words.split()))
