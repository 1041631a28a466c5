"""What a clip takes at least, memory and time, before it is begun, so that what this machine hardly ends is refused.

It is estimated from sizes and one measured product; `clip_times.py` tells more, once a clip was made.
"""

import math
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from .generation_defaults import GenerationDefaults
from .guidance import Branch, required_branches
from .sound_cache import JoVACacheConfig, kept_bytes, num_full_steps


LONGEST_S = 24 * 3600.0  # of a run that nobody has to confirm
GIGA = 1e9
ROWS_KEPT = 12  # widths of a row that a block holds at once: residual, norm, projections, hidden layer
PRODUCT_ROWS = 512  # of the product of matrices that is timed
NUM_PRODUCTS = 5  # of which the fastest counts, since what is told is a least time
SCHEDULE_BYTES = 32  # per step: two schedules, of sigmas and timesteps
ALL_STEPS = (0.0, 1.0)
UNITS = (("years", 365 * 86400), ("days", 86400), ("hours", 3600), ("minutes", 60))


class Estimate(NamedTuple):
    """What a run takes at least.

    Attributes:
        memory_bytes: Of weights, rows and frames together.
        seconds: Of all steps.
    """

    memory_bytes: float
    seconds: float


def predictions(settings: GenerationDefaults, modalities: Sequence[str]) -> list[Branch]:
    """What the transformer predicts in a step on which all guidance of the modalities holds, without given voices."""
    settings = replace(settings, guidance_interval=ALL_STEPS, coupling_interval=ALL_STEPS, audio_speaker_scale=1.0)
    guidance = settings.guidance()
    return required_branches(*(guidance[name].weights(0, 1) for name in modalities))


def num_predictions(settings: GenerationDefaults, modalities: Sequence[str]) -> int:
    """How many these are."""
    return len(predictions(settings, modalities))


def estimate(
    pipeline: Any, settings: GenerationDefaults, modalities: Sequence[str], reference_s: float = 0.0
) -> Estimate:
    """Estimate what one clip takes at least.

    Args:
        pipeline: A loaded `JoVAPipeline`.
        settings: Of the call.
        modalities: What takes part.
        reference_s: Seconds of a reference voice, which the sound reads in front of its own.
    """
    transformer = pipeline.transformer
    config = transformer.config
    num_video_rows, num_audio_rows, num_pixels = 0.0, 0, 0
    grid: Sequence[int] = (0, 0, 0)
    if "video" in modalities:
        _, *grid = pipeline.video_codec.latent_shape(settings.num_frames, settings.height, settings.width)
        num_video_rows = math.prod(grid) / math.prod(config.patch_size)
        num_pixels = settings.num_frames * settings.height * settings.width
    if "audio" in modalities:
        num_audio_rows = pipeline.audio_codec.num_latents_for(settings.num_frames / settings.frame_rate + reference_s)
    num_rows = num_video_rows + num_audio_rows
    dim = config.num_attention_heads * config.attention_head_dim
    num_layers = config.num_layers + config.get("num_single_layers", 0)
    device = pipeline._execution_device
    modules = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    stored = stored_bytes(modules, is_offloaded=transformer.device.type != device.type)
    num_weights = sum(weight.numel() for weight in transformer.parameters())
    # a row passes the half of the weights that its modality has, and meets every other row in each layer
    full, audio = (rows * (num_weights + 4 * num_rows * dim * num_layers) for rows in (num_rows, num_audio_rows))
    steps, cache = settings.num_inference_steps, transformer._cache_config
    is_sparing = isinstance(cache, JoVACacheConfig) and {"video", "audio"} <= set(modalities)
    num_full = num_full_steps(cache, steps) if is_sparing else steps
    branches, sharing = predictions(settings, modalities), pipeline.branch_sharing
    num_processes = 1 if sharing is None else sharing.num_processes
    num_own, num_coupled = (
        math.ceil(number / num_processes) for number in (len(branches), sum(branch.coupled for branch in branches))
    )
    operations = (num_full * full + (steps - num_full) * audio) * num_own
    kept = 0
    if is_sparing and num_full < steps and cache.lies_on(device):
        kept = kept_bytes(transformer, cache, grid, num_text_rows=0, num_predictions=num_coupled)
    rows_bytes = num_rows * dim * ROWS_KEPT * transformer.dtype.itemsize * num_own
    frames_bytes = num_pixels * 3 * (4 + 4 + 1)  # decoded, brought to [0, 1], and as they are written
    schedule_bytes = SCHEDULE_BYTES * steps
    seconds = operations / operations_per_second(device, transformer.dtype, dim)
    return Estimate(stored + kept + rows_bytes + frames_bytes + schedule_bytes, seconds)


def stored_bytes(modules: Sequence[torch.nn.Module], is_offloaded: bool) -> int:
    """Weights on the device at once: those of all modules, or of the largest where one at a time is there."""
    sizes = [sum(weight.numel() * weight.element_size() for weight in module.parameters()) for module in modules]
    return max(sizes) if is_offloaded else sum(sizes)


def operations_per_second(device: torch.device, dtype: torch.dtype, dim: int) -> float:
    """Multiplications and additions per second that a product of matrices of a model's width reaches on a device."""
    rows, weight = (torch.ones(size, dim, device=device, dtype=dtype) for size in (PRODUCT_ROWS, dim))
    seconds = []
    for _ in range(NUM_PRODUCTS):
        started = time.perf_counter()
        float((rows @ weight)[0, 0])  # waits for the device
        seconds.append(time.perf_counter() - started)
    return 2 * PRODUCT_ROWS * dim * dim / max(min(seconds), 1e-9)


def machine_memory_bytes(device: torch.device) -> float:
    """Memory of the device that a run takes place on; infinite where it does not say."""
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return float("inf")


def check_affordable(taken: Estimate, available_bytes: float, advice: str) -> None:
    """Refuse what this machine hardly ends.

    Args:
        taken: By the run.
        available_bytes: Memory of the device.
        advice: What whoever asked for it can do.

    Raises:
        ValueError: If it takes more memory than there is, or more than a day.
    """
    if taken.memory_bytes <= available_bytes and taken.seconds <= LONGEST_S:
        return
    raise ValueError(
        f"a clip must take no more than the {available_bytes / GIGA:,.1f} GB of memory here and a day, got, "
        f"estimated, {taken.memory_bytes / GIGA:,.1f} GB and {in_words(taken.seconds)} at least; {advice}"
    )


def in_words(seconds: float) -> str:
    """A time in the largest unit that it has at least one of."""
    name, unit = next(((name, unit) for name, unit in UNITS if seconds >= unit), ("seconds", 1))
    return f"{seconds / unit:,.1f} {name}"
