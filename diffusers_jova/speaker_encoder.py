"""A voice as `speaker_embeds`: the vector of a speaker encoder, from a recording.

NAVA (ernie-research/NAVA @ 1681170) reads voices of ReDimNet "M", of the train type "ft_mix" on "vb2+vox2+cnc": the
recording at 16 kHz, the mean of its channels, its first 30 s, and the vector as the network makes it, neither brought
to a length nor to a mean. So does `SpeakerEncoder`; rates are converted by `media.resample`, whose filter is longer
than torchaudio's, and the many channels of surround sound are mixed to stereo first.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import torch
from diffusers.utils import logging
from torch import Tensor

from .given_media import unpack_audio
from .media_arrays import Audio, is_silence, mix_channels, resample, to_unit_floats
from .media_reading import Sound, Video, read_audio
from .redimnet import ReDimNet, stored_name
from .redimnet_config import ADVICE, SAMPLING_RATE_HZ, ReDimNetConfig, read_config
from .speaker_mels import STORED, SpeakerMels
from .torch_files import check_weights, load_pickle


logger = logging.get_logger(__name__)

SHORTEST_S, LONGEST_S = 0.5, 30.0  # less hardly holds a word; NAVA hears no more
MARGIN_S = 1.0  # longer than the filter of any resampling
COUNTERS = "num_batches_tracked"  # of torch, which no vector depends on


class SpeakerEncoder:
    """Computes the vector of the voice in a recording, by a public checkpoint of ReDimNet.

    Args:
        config: Of the checkpoint.
        network: With its weights.
        device: Where it runs.
    """

    def __init__(self, config: ReDimNetConfig, network: ReDimNet, device: str | torch.device = "cpu") -> None:
        self.config = config
        self.network = network.to(device).eval().requires_grad_(False)
        self.mels = SpeakerMels(config.spectrum).to(device)
        self.device = torch.device(device)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], device: str | torch.device = "cpu") -> SpeakerEncoder:
        """Read a checkpoint as it is published; nothing that the file names is executed.

        Args:
            path: A .pt file with `model_config` and `state_dict`.
            device: Where the network runs.

        Raises:
            ValueError: If the file cannot be read so, is another network's, or needs what is not here.
        """
        path = Path(path)
        config, state = read_checkpoint(path)
        network = empty_network(config, path)
        mels = SpeakerMels(config.spectrum)
        if strange := mels.differing({name: tensor for name, tensor in state.items() if name.startswith(STORED)}):
            raise ValueError(
                f"`{path}` must hold the spectrogram of its `model_config`, got another {strange[0]}; {ADVICE}"
            )
        weights = {name: tensor for name, tensor in state.items() if not name.startswith(STORED)}
        weights = {name: tensor for name, tensor in weights.items() if not name.endswith(COUNTERS)}
        wanted = {name: stored_name(name, config) for name in network.state_dict() if not name.endswith(COUNTERS)}
        check_weights(
            path,
            weights,
            {stored: network.state_dict()[name] for name, stored in wanted.items()},
            "the ReDimNet that its `model_config` describes",
            ADVICE,
        )
        network = network.to_empty(device="cpu")
        network.load_state_dict({name: weights[stored] for name, stored in wanted.items()}, strict=False)
        return cls(config, network, device)

    @torch.inference_mode()
    def __call__(
        self, voice: str | os.PathLike[str] | Audio | Sound | Video, sampling_rate: int | None = None
    ) -> Tensor:
        """The vector of a voice, [1, D], on the CPU.

        Args:
            voice: A file that libav can read; what `media.read_audio` returns; or an array [S], [channels, S] of
                numbers as `media.to_float_audio` takes them. Of more than 30 s the first are heard.
            sampling_rate: Samples per second of an array.

        Raises:
            ValueError: If it holds no sound that a voice can be told from, and for what `media` refuses.
            FloatingPointError: If the network made NaN or infinity of it.
        """
        if isinstance(voice, str | os.PathLike):
            voice = read_audio(voice)
        sound, rate = unpack_audio(voice, sampling_rate, "voice")
        waveform = torch.from_numpy(heard(to_unit_floats("voice", sound), rate)).to(self.device)
        vector = self.network(self.mels(waveform[None])).float().cpu()
        if not vector.isfinite().all():
            raise FloatingPointError(
                "the vector of `voice` must be finite, got NaN or infinity; check the recording and the checkpoint"
            )
        return vector

    @property
    def dim(self) -> int:
        """Numbers of a vector."""
        return self.config.dim


def heard(sound: np.ndarray, rate: int) -> np.ndarray:
    """What of a sound, [S] or [channels, S], the network hears: float32 [samples at 16 kHz].

    Raises:
        ValueError: If nothing of it can be heard.
    """
    sound = np.atleast_2d(sound)
    if sound.ndim != 2 or len(sound) > sound.shape[1]:
        raise ValueError(f"`voice` must be [S] or [channels, S], got {list(sound.shape)}; give one recording")
    lasts_s = sound.shape[1] / rate
    some = sound[:, : math.ceil((LONGEST_S + MARGIN_S) * rate)]  # an hour is not resampled for its beginning
    mono = resample(mix_channels(some, 1), rate, SAMPLING_RATE_HZ)[0, : int(LONGEST_S * SAMPLING_RATE_HZ)]
    if lasts_s < SHORTEST_S:
        raise ValueError(
            f"`voice` must last {SHORTEST_S:g} s or longer for a voice to be told, got {lasts_s:.3f} s; give a "
            "recording of some seconds"
        )
    if lasts_s > LONGEST_S:
        logger.warning(f"`voice` lasts {lasts_s:.1f} s, of which the first {LONGEST_S:g} s are heard")
    if is_silence(mono):
        raise ValueError(
            "`voice` must hold a voice, got silence in what its channels have in common; use another recording"
        )
    return np.ascontiguousarray(mono)


def read_checkpoint(path: Path) -> tuple[ReDimNetConfig, dict[str, Tensor]]:
    """Config and tensors of a public checkpoint.

    Raises:
        ValueError: If it holds something else.
    """
    content = load_pickle(path)
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict) or "model_config" not in content:
        raise ValueError(f"`{path}` must hold `model_config` and `state_dict`, got a file without; {ADVICE}")
    if strange := [name for name, tensor in state.items() if not isinstance(tensor, Tensor)]:
        raise ValueError(f"`{path}` must hold tensors in `state_dict`, got {strange[0]!r} that is none; {ADVICE}")
    try:
        return read_config(content["model_config"]), state
    except ValueError as error:
        raise ValueError(f"`{path}`: {error}") from error


def empty_network(config: ReDimNetConfig, path: Path) -> ReDimNet:
    """The network of a config, without memory for its weights.

    Raises:
        ValueError: If its sizes contradict each other.
    """
    try:
        with torch.device("meta"):
            return ReDimNet(config)
    except (ValueError, RuntimeError, TypeError, ZeroDivisionError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"`{path}` must hold a `model_config` that a network can be built of, got {reason}; {ADVICE}"
        ) from error
