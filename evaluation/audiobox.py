"""How sound is enjoyed, used and made, by AudioBox-aesthetics, a package and weights of the user.

Tjandra et al. (arXiv:2502.05139): four opinions from 1 to 10. The package `audiobox_aesthetics` and its weights are
under CC-BY-4.0; of the package its network alone is imported, which needs neither torchaudio nor submitit.
"""

from __future__ import annotations

import io
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diffusers_jova.evaluation.given_network import Wanted
from diffusers_jova.evaluation.measured import Measured
from diffusers_jova.evaluation.sound_level import why_unheard
from diffusers_jova.media import mix_channels, resample


FloatArray = npt.NDArray[np.floating]

WANTED = Wanted("--audiobox", {}, "AudioBox-aesthetics", "facebook/audiobox-aesthetics")
RATE_HZ = 16000
WINDOW = 10 * RATE_HZ  # samples
AXES = ("CE", "CU", "PC", "PQ")


class AudioBox:
    """The four opinions.

    Args:
        folder: With its `config.json` and `model.safetensors`.
        device: Where it runs.

    Raises:
        ImportError: If `audiobox_aesthetics` is not installed.
        ValueError: If the folder holds another network.
    """

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        from audiobox_aesthetics.model.aes import AesMultiOutput

        def read(path: Path) -> Any:
            with warnings.catch_warnings(), redirect_stdout(io.StringIO()):  # the package prints, and is told of
                warnings.simplefilter("ignore")
                return AesMultiOutput.from_pretrained(str(path), strict=True, local_files_only=True)

        network = WANTED.read(folder, read)
        self._scales: dict[str, Any] = network.target_transform or {}
        if lacking := [axis for axis in AXES if axis not in self._scales]:
            raise WANTED.refusal(folder, f"no scale of {', '.join(lacking)}")
        self._network, self._device = network.to(device).eval(), device

    def __call__(self, audio: FloatArray, sampling_rate: int) -> dict[str, float]:
        """Opinions of a sound [channels, samples], means over windows of 10 s by how much of them it fills."""
        sound = resample(mix_channels(audio, 1), sampling_rate, RATE_HZ)[0]
        windows = [torch.from_numpy(part).float() for part in np.split(sound, range(WINDOW, len(sound), WINDOW))]
        weights = np.array([len(window) for window in windows], np.float64)
        opinions = [self._opinions(window) for window in windows]
        return {
            axis: float(np.average([opinion[axis] for opinion in opinions], weights=weights))
            * self._scales[axis]["std"]
            + self._scales[axis]["mean"]
            for axis in AXES
        }

    def _opinions(self, window: Tensor) -> dict[str, float]:
        wav = torch.zeros(1, 1, WINDOW)
        wav[..., : len(window)] = window
        mask = torch.arange(WINDOW)[None, None] < len(window)
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = self._network({"wav": wav.to(self._device), "mask": mask.to(self._device)})
        return {axis: float(found[axis]) for axis in AXES}


def measure_audiobox(audio: FloatArray | None, sampling_rate: int, network: AudioBox) -> Measured:
    """Measure sound [channels, samples]; None for a silent file."""
    if audio is None or why_unheard(audio):
        return Measured({}, why_unheard(audio))
    return Measured({f"audiobox_{axis.lower()}": value for axis, value in network(audio, sampling_rate).items()})
