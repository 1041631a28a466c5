"""What is said in a sound, and when, written down by a speech recognition model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from diffusers_jova.media import mix_channels, resample
from diffusers_jova.training.data.subtitles import Speech
from jova_cli.parser import one_line


WHISPER_RATE_HZ = 16000


class Transcriber:
    """Speech recognition by a local model of transformers, such as Whisper.

    Args:
        model: Its folder.
        device: Where it runs.

    Raises:
        ValueError: If the folder holds no such model.
    """

    def __init__(self, model: Path, device: str = "cpu") -> None:
        from transformers import pipeline

        try:
            self._pipeline = pipeline("automatic-speech-recognition", model=str(model), device=device)
        except (OSError, ValueError, KeyError) as error:
            reason = one_line(error).partition(" See the original errors")[0]  # behind which tracebacks follow
            raise ValueError(
                f"`{model}` must hold a speech recognition model that transformers reads, got an error ({reason}); "
                "download one, such as Whisper"
            ) from error
        self._times = _kind_of_times(self._pipeline)

    def __call__(self, audio: np.ndarray, sampling_rate: int) -> list[Speech]:
        """Write down what is said in sound [channels, samples]: words where the model knows their times, else more.

        A text whose beginning or end the model leaves open reaches to its neighbour, or to the end of the sound.
        """
        sound = resample(mix_channels(audio, 1), sampling_rate, WHISPER_RATE_HZ)[0]
        options = {} if self._times is None else {"return_timestamps": self._times}
        heard = self._pipeline({"raw": sound, "sampling_rate": WHISPER_RATE_HZ}, **options)
        return timed_speech(heard, len(sound) / WHISPER_RATE_HZ)


def timed_speech(heard: dict[str, Any], duration_s: float) -> list[Speech]:
    """Read the texts and times that a pipeline of transformers returns.

    Args:
        heard: `text`, and `chunks` of `text` and `timestamp` where the model knows times.
        duration_s: Of the sound, in seconds.
    """
    chunks = heard.get("chunks") or [{"text": heard["text"], "timestamp": (0.0, duration_s)}]
    starts_s = [chunk["timestamp"][0] for chunk in chunks]
    ends_s = [chunk["timestamp"][1] for chunk in chunks]
    speech = []
    for number, chunk in enumerate(chunks):
        start_s = next((end for end in reversed(ends_s[:number]) if end is not None), 0.0)
        start_s = start_s if starts_s[number] is None else starts_s[number]
        end_s = next((start for start in starts_s[number + 1 :] if start is not None), duration_s)
        end_s = end_s if ends_s[number] is None else ends_s[number]
        speech.append(Speech(chunk["text"].strip(), float(start_s), float(max(start_s, end_s))))
    return [part for part in speech if part.text]


def _kind_of_times(pipeline: Any) -> str | bool | None:
    """What a pipeline's model knows: times of words, times of sentences, or none."""
    if pipeline.type.startswith("ctc"):
        return "word"
    if pipeline.type == "seq2seq_whisper":
        return "word" if getattr(pipeline.model.generation_config, "alignment_heads", None) else True
    return None
