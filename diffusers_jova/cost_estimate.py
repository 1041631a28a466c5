"""What a clip takes at least, memory and time, before it is begun, so that what this machine hardly ends is refused.

It is estimated from sizes and one measured product, at once and on the loaded pipeline, to ask before a clip that is
far too large. `call_stages.py` counts what a call holds and computes, exactly and slower, for `jova estimate` and
`fit_memory`; `clip_times.py` tells more, once a clip was made.
"""

import math
import os
import time
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import torch

from .generation_defaults import GenerationDefaults
from .prediction_plan import PredictionPlan
from .scheduling_flow_match_av import FlowMatchAudioVideoScheduler
from .sound_cache import JoVACacheConfig, kept_bytes, num_full_steps
from .transformer_jova import MODALITIES


LONGEST_S = 24 * 3600.0  # of a run that nobody has to confirm
GIGA = 1e9
ROWS_KEPT = 12  # widths of a row that a block holds at once: residual, norm, projections, hidden layer
PRODUCT_ROWS = 512  # of the product of matrices that is timed
NUM_PRODUCTS = 5  # of which the fastest counts, since what is told is a least time
SCHEDULE_BYTES = 32  # per step: two schedules, of sigmas and timesteps
UNITS = (("years", 365 * 86400), ("days", 86400), ("hours", 3600), ("minutes", 60))


class Estimate(NamedTuple):
    """What a run takes at least.

    Attributes:
        memory_bytes: Of weights, rows and frames together.
        seconds: Of all steps.
    """

    memory_bytes: float
    seconds: float


def schedule_of(pipeline: Any, settings: GenerationDefaults) -> tuple[int, int]:
    """How often a call asks for velocities, and how often in a step of the solver.

    Args:
        pipeline: With a scheduler, or without, where one that asks once in a step is meant.
        settings: Of the call.

    Raises:
        ValueError: No call takes the scheduler.
    """
    if pipeline.scheduler is None:
        return settings.num_inference_steps, 1
    scheduler = FlowMatchAudioVideoScheduler.from_scheduler(pipeline.scheduler)
    return scheduler.num_evaluations(settings.num_inference_steps), scheduler.order


def num_predictions(settings: GenerationDefaults, modalities: Sequence[str]) -> int:
    """How often the transformer is asked in a step on which guidance holds, without given voices."""
    runs = PredictionPlan(names=modalities, generated=modalities).runs(
        settings.guidance(), settings.num_inference_steps
    )
    return max(len(run.rows_read) for run in runs)


def estimate(
    pipeline: Any,
    settings: GenerationDefaults,
    modalities: Sequence[str],
    whole: Collection[str] = (),
    reference_s: float = 0.0,
) -> Estimate:
    """Estimate what one clip takes at least.

    Args:
        pipeline: A loaded `JoVAPipeline`.
        settings: Of the call.
        modalities: What takes part.
        whole: Those that are given for the whole clip, of which nothing is left to generate.
        reference_s: Seconds of a reference voice, which the sound reads in front of its own.
    """
    transformer, device = pipeline.transformer, pipeline._execution_device
    steps, order = schedule_of(pipeline, settings)
    sizes = RowSizes.of(pipeline, settings, modalities, reference_s)
    generated = [name for name in modalities if name not in whole]
    plan = PredictionPlan(names=modalities, generated=generated, order=order)
    cache = transformer._cache_config
    is_sparing = isinstance(cache, JoVACacheConfig) and {*modalities} == {*MODALITIES} and "audio" in generated
    num_processes = 1 if pipeline.branch_sharing is None else pipeline.branch_sharing.num_processes
    operations = most_rows = kept = 0.0
    for run in plan.runs(settings.guidance(), steps):
        if not (asked := run.rows_read.values()):  # zero velocity; or all is given, which a call refuses
            continue
        share = math.ceil(len(asked) / num_processes) / len(asked)
        num_full = num_full_steps(cache, steps, run.steps) if is_sparing else len(run.steps)
        num_sparing = len(run.steps) - num_full
        operations += share * num_full * sum(sizes.operations(names, names) for names in asked)
        operations += share * num_sparing * sum(sizes.operations({*names} & {"audio"}, names) for names in asked)
        groups = plan.groups(run.rows_read, is_sequential=False)
        most_rows = max(most_rows, *(share * len(group.branches) * sizes.num_rows(group.names) for group in groups))
        if num_sparing and cache.lies_on(device):
            num_reading = math.ceil(share * sum(plan.reads_other("audio", branch) for branch in run.rows_read))
            kept = max(kept, kept_bytes(transformer, cache, sizes.grid, num_text_rows=0, num_predictions=num_reading))
    modules = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    stored = stored_bytes(modules, is_offloaded=transformer.device.type != device.type)
    rows_bytes = most_rows * sizes.dim * ROWS_KEPT * transformer.dtype.itemsize
    num_pixels = settings.num_frames * settings.height * settings.width if "video" in modalities else 0
    frames_bytes = num_pixels * 3 * (4 + 4 + 1)  # decoded, brought to [0, 1], and as they are written
    seconds = operations / operations_per_second(device, transformer.dtype, sizes.dim)
    return Estimate(stored + kept + rows_bytes + frames_bytes + SCHEDULE_BYTES * steps, seconds)


class RowSizes(NamedTuple):
    """Rows of a clip, and what the transformer does with each.

    Attributes:
        by_modality: Number of rows.
        grid: Latent frames, height and width of the video.
        dim: Width of a row.
        num_layers: Blocks.
        num_weights: Of both modalities.
    """

    by_modality: dict[str, float]
    grid: Sequence[int]
    dim: int
    num_layers: int
    num_weights: int

    @classmethod
    def of(
        cls, pipeline: Any, settings: GenerationDefaults, modalities: Sequence[str], reference_s: float
    ) -> "RowSizes":
        """Those of a call; arguments as in `estimate`."""
        transformer, grid, rows = pipeline.transformer, [0, 0, 0], {}
        config = transformer.config
        if "video" in modalities:
            _, *grid = pipeline.video_codec.latent_shape(settings.num_frames, settings.height, settings.width)
            rows["video"] = math.prod(grid) / math.prod(config.patch_size)
        if "audio" in modalities:
            seconds = settings.num_frames / settings.frame_rate + reference_s
            rows["audio"] = pipeline.audio_codec.num_latents_for(seconds)
        dim = config.num_attention_heads * config.attention_head_dim
        num_weights = sum(weight.numel() for weight in transformer.parameters())
        return cls(rows, grid, dim, config.num_layers + config.get("num_single_layers", 0), num_weights)

    def num_rows(self, names: Collection[str]) -> float:
        """Of some modalities."""
        return sum(self.by_modality[name] for name in names)

    def operations(self, computed: Collection[str], read: Collection[str]) -> float:
        """Of one prediction: a row passes the half of the weights that its modality has, and meets all that it reads.

        Args:
            computed: Modalities whose rows are computed.
            read: Modalities whose rows they meet in each layer.
        """
        return self.num_rows(computed) * (self.num_weights + 4 * self.num_rows(read) * self.dim * self.num_layers)


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
    count = seconds / unit
    return f"{count:,.1f} {name}" if count >= 0.1 or not count else f"{count:.1g} {name}"
