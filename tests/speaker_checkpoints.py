"""Checkpoints of ReDimNet with weights of a formula, so that another program can make the same."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusers_jova.redimnet import ReDimNet, stored_name
from diffusers_jova.redimnet_config import SAMPLING_RATE_HZ, read_config
from diffusers_jova.speaker_mels import SpeakerMels


SIZES: dict[str, Any] = {"F": 24, "C": 8, "embed_dim": 5, "hop_length": 240}
STAGES = [(1, 1, 1, [(3, 3)], 6), (2, 2, 2, [(3, 3)], None), (2, 1, 1, [(3, 3)], 4)]
CONFIGS: dict[str, dict[str, Any]] = {  # every kind of layer and spectrogram
    "conv+att": {
        **SIZES,
        "block_1d_type": "conv+att",
        "block_2d_type": "basic_resnet",
        "group_divisor": 4,
        "global_context_att": True,
        "stages_setup": STAGES,
    },
    "att": {**SIZES, "group_divisor": None, "out_channels": 32, "stages_setup": STAGES},
    "conv": {
        **SIZES,
        "block_1d_type": "conv",
        "block_2d_type": "basic_resnet_fwse",
        "group_divisor": 1,
        "emb_bn": True,
        "stages_setup": STAGES,
    },
    "fc": {
        **SIZES,
        "block_1d_type": "fc",
        "block_2d_type": "basic_resnet",
        "group_divisor": None,
        "feat_type": "tf",
        "spec_params": {"norm_signal": True, "do_spec_aug": True, "freq_start_bin": 8},
        "stages_setup": STAGES,
    },
    "levelled": {
        **SIZES,
        "group_divisor": 4,
        "spec_params": {"norm_signal": True, "do_preemph": False, "spec_norm": "mvn"},
        "stages_setup": STAGES,
    },
}


def weight(name: str, shape: tuple[int, ...]) -> Tensor:
    """A tensor whose values tell its public name, of a size that keeps the layers within their ranges."""
    waves = np.sin(np.arange(np.prod(shape, dtype=int)) * 1.7 + zlib.crc32(name.encode()) % 1000).reshape(shape)
    if name.endswith("running_var"):
        values = 1 + 0.5 * waves
    elif len(shape) > 1:
        values = waves if name.endswith(".w") else waves * (2 / np.prod(shape[1:])) ** 0.5
    else:
        values = 0.2 * waves + name.endswith("weight")
    return torch.from_numpy(np.asarray(values, np.float32))


def checkpoint(config: dict[str, Any]) -> dict[str, Any]:
    """What `torch.load` gives for a public checkpoint of a config."""
    read = read_config(config)
    state = {stored_name(name, read): tensor for name, tensor in ReDimNet(read).state_dict().items()}
    weights = {name: weight(name, tuple(tensor.shape)) for name, tensor in state.items() if tensor.is_floating_point()}
    return {"model_config": config, "state_dict": state | weights | SpeakerMels(read.spectrum).as_stored()}


def write_checkpoint(path: Path, kind: str = "conv+att", **changes: Any) -> Path:
    """Write the checkpoint of a kind, with other values in its config."""
    torch.save(checkpoint(CONFIGS[kind] | changes), path)
    return path


def voice(seconds: float = 2.0, pitch_hz: float = 140.0, rate: int = SAMPLING_RATE_HZ) -> np.ndarray:
    """Something like a voice, float32 [samples]."""
    times = np.arange(round(seconds * rate)) / rate
    phase = 2 * np.pi * (pitch_hz * times + 4 * np.sin(2 * np.pi * 3 * times) / 3)
    tones = sum(np.sin(number * phase) / number for number in range(1, 9))
    return (0.1 * tones * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * times))).astype(np.float32)
