"""What is said in a sound, and when, written down by a speech recognition model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from diffusers_jova.media import mix_channels, resample
from diffusers_jova.training.data.subtitles import Speech
from jova_cli.parser import one_line
from jova_cli.tables import some


WHISPER_RATE_HZ = 16000


class Transcriber:
    """Speech recognition by a local model of transformers, such as Whisper.

    Args:
        model: Its folder.
        device: Where it runs.
        language: What is spoken, for a Whisper of many languages, which guesses it otherwise; others take no notice.

    Raises:
        ValueError: If the folder holds no such model, or one that does not know the language.
    """

    def __init__(self, model: Path, device: str = "cpu", language: str | None = None) -> None:
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
        self._language = None if language is None else _spoken(self._pipeline, language, model)

    def __call__(self, audio: np.ndarray, sampling_rate: int) -> list[Speech]:
        """Write down what is said in sound [channels, samples]: words where the model knows their times, else more.

        A text whose beginning or end the model leaves open reaches to its neighbour, or to the end of the sound.
        """
        sound = resample(mix_channels(audio, 1), sampling_rate, WHISPER_RATE_HZ)[0]
        options: dict[str, Any] = {} if self._times is None else {"return_timestamps": self._times}
        if self._language is not None:
            options["generate_kwargs"] = {"language": self._language, "task": "transcribe"}
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


def _spoken(pipeline: Any, language: str, model: Path) -> str | None:
    """The code of a language for a Whisper of many; None for a model that can be told none.

    Raises:
        ValueError: If the model does not know the language.
    """
    from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

    config = getattr(pipeline.model, "generation_config", None)
    known = getattr(config, "lang_to_id", None)
    if pipeline.type != "seq2seq_whisper" or not getattr(config, "is_multilingual", False) or not known:
        return None
    codes = sorted(token.strip("<|>") for token in known)
    code = TO_LANGUAGE_CODE.get(language.lower(), language.lower())
    if code not in codes:
        raise ValueError(
            f"the language must be one of {some(codes, most=12)}, which the recogniser in `{model}` knows, got "
            f"{language}; give another"
        )
    return code


def _kind_of_times(pipeline: Any) -> str | bool | None:
    """What a pipeline's model knows: times of words, times of sentences, or none."""
    if pipeline.type.startswith("ctc"):
        return "word"
    if pipeline.type == "seq2seq_whisper":
        return "word" if getattr(pipeline.model.generation_config, "alignment_heads", None) else True
    return None
