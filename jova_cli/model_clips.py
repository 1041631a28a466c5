"""Which clips a saved pipeline makes, and what it can at most, from its index and its configs."""

import ast
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .clip_limits import ClipLimits, clip_limits, rounded_down
from .json_text import read_object
from .model_info import INDEX, read_index
from .settings import read_settings
from .shipped import PACKAGE


DEFAULTS = (PACKAGE / "generation_defaults.py", "GenerationDefaults")
MEL_FRAMES_PER_LATENT = {"MMAudioVAE": 2, "AutoencoderKLLTX2Audio": 4, "JoVALogMel": 1}


def model_defaults(index: Mapping[str, Any]) -> dict[str, Any]:
    """What the pipeline of an index takes for arguments that are not given.

    Raises:
        ValueError: If it states a number that is none.
    """
    own = {setting.name: ast.literal_eval(setting.default) for setting in read_settings(*DEFAULTS)}
    stated = index.get("defaults") or {}
    if not isinstance(stated, dict):
        raise ValueError(f"`defaults` of a `{INDEX}` must hold `name: value` pairs, got {stated!r}; save it anew")
    values = own | stated
    for name in ("height", "width", "num_frames", "frame_rate", "num_inference_steps"):
        if type(values[name]) not in (int, float) or not 0 < values[name] < float("inf"):
            raise ValueError(f"`{name}` of the `defaults` must be a positive number, got {values[name]!r}; mend it")
    return values


def describe_clips(folder: Path) -> str:
    """Two lines: the clip that a saved pipeline makes unless it is told otherwise, and the longest."""
    values = model_defaults(read_index(folder))
    rate, num_frames = values["frame_rate"], values["num_frames"]
    own = f"makes {num_frames} frames of {values['width']}x{values['height']} pixels at {rate:g} per second, "
    own += f"{num_frames / rate:.2f} s, unless told otherwise"
    found = find_limits(folder, rate)
    if found is None:
        return f"{own}\nlongest clip: no limit but the memory, beyond {num_frames / rate:.2f} s it was not made for"
    limits, longest = found
    longest_s = rounded_down(longest / rate)
    size = f"sizes up to {limits.width}x{limits.height} pixels"
    return f"{own}\nlongest clip: {longest_s:.2f} s, {longest} frames at {rate:g} per second; {size}"


def find_limits(folder: Path, frame_rate: float) -> tuple[ClipLimits, int] | None:
    """Largest clip of a saved pipeline, and the frames of the longest one with sound; None without a limit.

    Raises:
        ValueError: If a config does not hold what its component takes.
    """
    if not all((folder / name / "config.json").is_file() for name in ("transformer", "vae")):
        return None
    transformer, vae = (read_object(folder / name / "config.json") for name in ("transformer", "vae"))
    try:
        temporal_factor = vae["scale_factor_temporal"]
        limits = clip_limits(transformer, temporal_factor, vae["scale_factor_spatial"])
        return limits and (limits, limits.longest(frame_rate, latent_rate_hz(folder), temporal_factor))
    except (TypeError, KeyError, ValueError, ArithmeticError) as error:
        raise ValueError(
            f"the configs of `transformer`, `vae` and `audio_vae` in `{folder}` must hold sizes and rates, got an "
            f"error ({error!r}); save or fetch them anew"
        ) from error


def latent_rate_hz(folder: Path) -> float | None:
    """Audio latents per second; None without an audio VAE whose class is known."""
    path = folder / "audio_vae" / "config.json"
    config = read_object(path) if path.is_file() else {}
    if "encoder_rates" in config:  # of a waveform VAE
        return float(config["sample_rate"] / math.prod(config["encoder_rates"]))
    per_latent = MEL_FRAMES_PER_LATENT.get(str(config.get("_class_name")))
    if per_latent is None:
        return None
    hop_length_samples = config["mel_hop_length"] if "mel_hop_length" in config else config["hop_length"]
    rate_hz: float = config["sample_rate"] / (hop_length_samples * per_latent)
    return rate_hz
