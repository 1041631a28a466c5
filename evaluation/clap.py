"""Whether a clip sounds as its caption says, by CLAP with the user's weights.

Elizalde et al. (arXiv:2206.04769), Wu et al. (arXiv:2211.06687): two towers bring sound and text to one space. Scores
of different weights must not be compared with each other.

Letters: D numbers of an embedding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import ClapModel, ClapProcessor

from diffusers_jova.evaluation.clip_list import Captions
from diffusers_jova.evaluation.given_network import Wanted, as_numbers, read_network, unit
from diffusers_jova.evaluation.measured import Measured
from diffusers_jova.evaluation.sound_level import at_public_peak, why_unheard
from diffusers_jova.media import mix_channels, resample


FloatArray = npt.NDArray[np.floating]

WANTED = Wanted("--clap", {"clap": ClapModel}, "a CLAP", "laion/clap-htsat-fused")
MAX_TOKENS = 77  # of a text: that many its authors trained it with
LEVELS = 32767  # of 16-bit sound, to which Verse-Bench rounds


class Clap:
    """Sounds and texts as unit vectors.

    Args:
        folder: Of a `ClapModel` of transformers, with its processor.
        device: Where it runs.

    Raises:
        ValueError: If the folder holds another network.
    """

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        self._network = read_network(folder, WANTED, device)
        self._processor = WANTED.read(folder, lambda path: ClapProcessor.from_pretrained(path, local_files_only=True))
        self._extractor: Any = self._processor.feature_extractor

    def embed_sound(self, audio: FloatArray, sampling_rate: int) -> FloatArray:
        """Embed all of a sound [channels, samples]: the direction of the mean of windows that cover it evenly, [D]."""
        sound = self._mono(audio, sampling_rate)
        longest = self._extractor.nb_max_samples
        starts = np.rint(np.linspace(0, max(0, len(sound) - longest), -(-len(sound) // longest))).astype(int)
        return unit(np.mean([self._embed(sound[start : start + longest]) for start in starts], axis=0))

    def embed_sound_as_verse_bench(self, audio: FloatArray, sampling_rate: int) -> FloatArray:
        """Embed a sound [channels, samples] at a peak of -1 dB, in 16 bits; of a long one three random windows, [D].

        Deviates from Verse-Bench: the same windows every time.
        """
        return self._embed(np.trunc(at_public_peak(self._mono(audio, sampling_rate)) * LEVELS) / LEVELS)

    def embed_text(self, text: str) -> tuple[FloatArray, int]:
        """Embed a text, [D]; and how many of its tokens were beyond what the network reads."""
        num_tokens = len(self._processor.tokenizer(text)["input_ids"])
        tokens = self._processor.tokenizer([text], truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        with torch.inference_mode():
            found = self._network.get_text_features(**tokens.to(self._network.device))
        return as_numbers(found.pooler_output)[0], max(0, num_tokens - MAX_TOKENS)

    def _mono(self, audio: FloatArray, sampling_rate: int) -> FloatArray:
        return resample(mix_channels(audio, 1), sampling_rate, self._extractor.sampling_rate)[0]

    def _embed(self, sound: FloatArray) -> FloatArray:
        """Embed sound [samples] alone, so that its neighbours in a batch decide nothing, [D]."""
        rate_hz = self._extractor.sampling_rate
        with fixed_numpy_draws():
            features = self._extractor(np.asarray(sound, np.float64), sampling_rate=rate_hz, return_tensors="pt")
        with torch.inference_mode():
            found = self._network.get_audio_features(**features.to(self._network.device))
        return as_numbers(found.pooler_output)[0]


@contextmanager
def fixed_numpy_draws() -> Iterator[None]:
    """What draws from numpy's own generator inside draws the same every time, and takes nothing from others."""
    state = np.random.get_state()
    np.random.seed(0)
    try:
        yield
    finally:
        np.random.set_state(state)


def measure_clap(audio: FloatArray | None, sampling_rate: int, captions: Captions, clap: Clap) -> Measured:
    """Cosines between sound [channels, samples] and what should be heard.

    Args:
        audio: Of the clip; None for a silent file.
        sampling_rate: Samples per second.
        captions: Of which that of the sound counts; where there is none, that of the picture.
        clap: With its weights.
    """
    if audio is None or why_unheard(audio):
        return Measured({}, why_unheard(audio))
    sounds = {
        "clap": clap.embed_sound(audio, sampling_rate),
        "clap_verse_bench": clap.embed_sound_as_verse_bench(audio, sampling_rate),
    }
    measured = Measured({}, vectors={name: vector.round(8).tolist() for name, vector in sounds.items()})
    text = captions.heard or captions.seen
    if not text:
        return measured._replace(reason="nobody wrote what should be heard")
    wanted, num_lost = clap.embed_text(text)
    told = text if captions.heard else f"{text} (of the picture: nobody wrote what should be heard)"
    told += f" (without its last {num_lost} tokens)" if num_lost else ""
    values = {"clap_score": float(sounds["clap"] @ wanted)}
    values["clap_score_verse_bench"] = float(sounds["clap_verse_bench"] @ wanted)
    return measured._replace(values=values, texts={"clap": told})
