"""What is said in a sound, written down by a speech recognition model."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from diffusers_jova.media import mix_channels, resample


WHISPER_RATE_HZ = 16000


class Transcriber:
    """Speech recognition by a local model of transformers, such as Whisper.

    Args:
        model: Its folder.
        device: Where it runs.
    """

    def __init__(self, model: Path, device: str = "cpu") -> None:
        from transformers import pipeline

        self._pipeline = pipeline("automatic-speech-recognition", model=str(model), device=device)

    def __call__(self, audio: np.ndarray, sampling_rate: int) -> str:
        """Write down what is said in sound [channels, samples]."""
        sound = resample(mix_channels(audio, 1), sampling_rate, WHISPER_RATE_HZ)[0]
        return self._pipeline({"raw": sound, "sampling_rate": WHISPER_RATE_HZ})["text"].strip()
