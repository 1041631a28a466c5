"""What kinds of sound are heard in a clip, by an AST with the user's weights; the divergence of two clips comes of it.

Gong et al. (arXiv:2104.01778): a transformer that was trained on the 527 classes of AudioSet.

Letters: C classes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from transformers import ASTFeatureExtractor, ASTForAudioClassification

from diffusers_jova.evaluation.given_network import Wanted, read_network
from diffusers_jova.evaluation.measured import Measured
from diffusers_jova.evaluation.sound_level import at_public_peak, why_unheard
from diffusers_jova.media import mix_channels, resample


FloatArray = npt.NDArray[np.floating]

WANTED = Wanted(
    "--classifier",
    {"audio-spectrogram-transformer": ASTForAudioClassification},
    "an AST",
    "MIT/ast-finetuned-audioset-10-10-0.4593",
)
WINDOW_S, STEP_S = 10.0, 5.0  # as Verse-Bench looks at a sound
NUM_TOLD = 3


class SoundClassifier:
    """Sounds as log-probabilities of classes.

    Args:
        folder: Of an `ASTForAudioClassification` of transformers, with its feature extractor.
        device: Where it runs.

    Raises:
        ValueError: If the folder holds another network.
    """

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        self._network = read_network(folder, WANTED, device)
        self._extractor = WANTED.read(
            folder, lambda path: ASTFeatureExtractor.from_pretrained(path, local_files_only=True)
        )

    def __call__(self, audio: FloatArray, sampling_rate: int) -> FloatArray:
        """Log-softmax of the mean logits over windows of a sound [channels, samples] at a peak of -1 dB, [C]."""
        rate_hz = self._extractor.sampling_rate
        sound = at_public_peak(resample(mix_channels(audio, 1), sampling_rate, rate_hz)[0].astype(np.float64))
        logits = []
        for window in windows_of(sound, round(WINDOW_S * rate_hz), round(STEP_S * rate_hz)):
            features = self._extractor(window.astype(np.float32), sampling_rate=rate_hz, return_tensors="pt")
            with torch.inference_mode():
                logits.append(self._network(**features.to(self._network.device)).logits[0].cpu().double())
        return np.asarray(torch.stack(logits).mean(0).log_softmax(-1).numpy())

    def name(self, number: int) -> str:
        """Of a class."""
        return str(self._network.config.id2label.get(number, number))


def windows_of(sound: FloatArray, window: int, step: int) -> list[FloatArray]:
    """Parts of sound [samples] of a window each, a step apart, the last one filled up with zeros."""
    parts = [sound[start : start + window] for start in range(0, max(step, len(sound) - step), step)]
    return [np.pad(part, (0, window - len(part))) for part in parts]


def measure_classes(audio: FloatArray | None, sampling_rate: int, classifier: SoundClassifier) -> Measured:
    """Tell the likeliest class of sound [channels, samples]; None for a silent file."""
    if audio is None or why_unheard(audio):
        return Measured({}, why_unheard(audio))
    logs = classifier(audio, sampling_rate)
    likeliest = np.argsort(-logs)[:NUM_TOLD]
    told = ", ".join(f"{classifier.name(int(number))} {np.exp(logs[number]):.2f}" for number in likeliest)
    values = {"class_share": float(np.exp(logs[likeliest[0]]))}
    return Measured(values, texts={"classes": told}, vectors={"classes": logs.round(8).tolist()})
