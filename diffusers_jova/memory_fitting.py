"""JoVAMemoryMixin: a loaded pipeline made to fit into a memory, and a refusal that says what would fit."""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from inspect import signature
from typing import Any

import torch
from diffusers.utils import logging
from diffusers.utils.torch_utils import unwrap_module
from torch import nn

from jova_cli.clip_limits import GivenLengths, check_largest_size, check_length, check_size
from jova_cli.latent_lengths import check_frames_fill_rows, check_whole_frames, whole_frames

from .call_stages import CallStages, PlannedCall
from .component_outline import outline_of_loaded
from .cost_estimate import GIGA
from .devices import choose_device, device_named
from .generation_defaults import GenerationDefaults
from .memory_plan import MemoryEstimate, MemoryPlan, Sizes
from .number_arguments import positive_number
from .pipeline_checks import check_frame_rate, check_modality_names, check_names
from .sound_cache import JoVACacheConfig
from .transformer_jova import MODALITIES


logger = logging.get_logger(__name__)

SHARES = (2, 4)  # of the frames, or of the sides, that are tried where a clip does not fit
MANAGERS = ("group_offloading", "layerwise_casting")  # hooks of diffusers that move or cast weights
GIVEN = ("image", "last_image", "keyframes", "audio", "video", "reference_audio")  # arguments that give media


class JoVAMemoryMixin:
    """Lets a pipeline choose how it uses the memory of its device.

    Attributes:
        memory_plan: What was chosen; None where nothing was.
    """

    components: dict[str, Any]
    transformer: Any
    vae: Any
    defaults: GenerationDefaults
    video_codec: Any
    temporal_factor: Any
    clip_limits: Any
    memory_plan: MemoryPlan | None = None

    def fit_memory(
        self,
        gigabytes: float,
        *,
        device: str | torch.device | None = None,
        modalities: Sequence[str] = MODALITIES,
        given: Collection[str] = (),
        continued: Collection[str] = (),
        reference_s: float = 0.0,
        num_clips: int = 1,
        **settings: Any,
    ) -> MemoryPlan:
        """Choose the fastest way to make a clip that fits into a memory, and take it for all calls that follow.

        `memory_plan.py` tells the ways and their order. They are diffusers' own: offloading, group offloading with
        streams, layerwise casting, tiles. What weights in 4 or 8 bits spare is counted, but those are chosen when a
        pipeline is loaded (`quantization_config`).

        Args:
            gigabytes: Memory of the device, 10^9 bytes each. A card of 24 GB has 24 * 2^30, so some is left for what
                is not counted: the context of CUDA, and what kernels allocate within.
            device: Where the pipeline computes; the fastest there is if None.
            modalities: Of the clip.
            given: Arguments that will give media: of "image", "last_image", "keyframes", "audio", "video",
                "reference_audio"; audio and video as long as the clip.
            continued: Of them, "audio" and "video" that are shorter than the clip, which goes on with them; both in
                the windows of a `LongClip`.
            reference_s: Seconds of a reference voice.
            num_clips: Of one call.
            settings: Of the largest clip, as `GenerationDefaults` names them; the model's own if not given.

        Returns:
            What was chosen; `str` of it is one line.

        Raises:
            ValueError: If nothing fits, with what would; if something manages the memory already; or if what is
                given leaves nothing to generate.
        """
        gigabytes = positive_number("gigabytes", gigabytes, "24, say")
        self.defaults.check_names("settings of `fit_memory`", settings)
        self.check_unmanaged()
        check_modality_names(modalities)
        call = PlannedCall(
            settings=self.defaults.override(**settings),
            modalities=tuple(modalities),
            given=checked_given(given),
            continued=checked_continued(continued, given),
            reference_s=reference_s,
            num_clips=num_clips,
            cache=cache_of(self.transformer),
            device=choose_device(None) if device is None else device_named("device", device),
        )
        self.check_planned(call)
        parts = {name: part for name, part in self.components.items() if isinstance(part, nn.Module)}
        sizes = {name: Sizes.of(unwrap_module(part)) for name, part in parts.items()}

        def estimate(call: PlannedCall) -> MemoryEstimate:
            return MemoryEstimate(outline_of(self), call, sizes)

        plan = fitting_plan(estimate, call, gigabytes)
        self.take_plan(plan, call.device)
        return plan

    def check_planned(self, call: PlannedCall) -> None:
        """Refuse a clip that no call makes, for its rate, length or size.

        Raises:
            ValueError: Naming the setting.
        """
        settings, has_video = call.settings, "video" in call.modalities
        check_frame_rate(settings.frame_rate)
        limits = self.clip_limits(call.modalities, settings.frame_rate)
        if limits is not None:
            check_length(settings.num_frames, settings.frame_rate, limits.num_frames, GivenLengths())
        check_whole_frames(settings.num_frames, self.temporal_factor)
        if has_video or self.vae is not None:
            patch_size = self.transformer.config.patch_size
            check_size(settings, self.video_codec.spatial_factor, patch_size)
            check_frames_fill_rows(settings.num_frames, self.temporal_factor, patch_size[0])
        if has_video and limits is not None:
            check_largest_size(settings, limits, self.defaults)

    @property
    def makes_branches_apart(self) -> bool:
        """Whether the plan makes the predictions of guidance one after the other."""
        return self.memory_plan is not None and self.memory_plan.branches_apart

    def take_plan(self, plan: MemoryPlan, device: torch.device) -> None:
        """Use memory as a plan says from now on, and say so."""
        plan.apply(self, device)
        self.memory_plan = plan
        logger.info(f"memory: {plan}")

    def check_unmanaged(self) -> None:
        """Refuse a pipeline whose weights somebody moves or casts already.

        Raises:
            ValueError: Naming the component.
        """
        for name, part in self.components.items():
            if isinstance(part, nn.Module) and is_managed(part):
                raise ValueError(
                    "`fit_memory` must be called on a pipeline whose weights nothing moves or casts yet, got one "
                    f"whose `{name}` is offloaded or cast; load it anew"
                )


def outline_of(pipeline: Any) -> Any:
    """A loaded pipeline once more without weights, with its settings."""
    parts = pipeline.components
    names = signature(type(pipeline)).parameters.keys() - parts.keys()
    settings = {name: pipeline.config[name] for name in names if name in pipeline.config}
    outlines = {name: outline_of_loaded(part) for name, part in parts.items() if isinstance(part, nn.Module)}
    outlines |= {"scheduler": pipeline.scheduler}
    return type(pipeline)(**{name: outlines.get(name) for name in parts}, **settings)


def is_managed(part: nn.Module) -> bool:
    """Whether hooks move or cast the weights of a module."""
    hooks = [getattr(module, "_diffusers_hook", None) for module in part.modules()]
    return hasattr(part, "_hf_hook") or any(
        hook is not None and any(hook.get_hook(name) is not None for name in MANAGERS) for hook in hooks
    )


def cache_of(transformer: Any) -> JoVACacheConfig | None:
    """The cache that minds the sound, where a transformer has it; what others keep is not counted."""
    config = transformer._cache_config
    if config is not None and not isinstance(config, JoVACacheConfig):
        logger.warning(f"the memory of a {type(config).__name__} is not counted; leave some for it")
    return config if isinstance(config, JoVACacheConfig) else None


def checked_given(given: Collection[str]) -> frozenset[str]:
    """Names of arguments that give media.

    Raises:
        ValueError: One is none.
    """
    check_names("given", given, GIVEN)
    for name in given:
        if name not in GIVEN:
            raise ValueError(f"`given` must name arguments of {', '.join(GIVEN)}, got {name!r}; leave it out")
    return frozenset(given)


def checked_continued(continued: Collection[str], given: Collection[str]) -> frozenset[str]:
    """Names of given media that the clip goes on with.

    Raises:
        ValueError: One is not given, or has no time.
    """
    check_names("continued", continued, MODALITIES)
    for name in continued:
        if name not in given or name not in MODALITIES:
            raise ValueError(f"`continued` must name audio or video that `given` names, got {name!r}; leave it out")
    return frozenset(continued)


def fitting_plan(
    build: Callable[[PlannedCall], MemoryEstimate], call: PlannedCall, gigabytes: float, name: str = "gigabytes"
) -> MemoryPlan:
    """The first plan of a call that fits.

    Args:
        build: Makes the estimate of a call.
        call: What it is about.
        gigabytes: That there are.
        name: Of the argument that says so.

    Raises:
        ValueError: If none fits, with what would.
    """
    estimate, budget_bytes = build(call), gigabytes * GIGA
    least_bytes = min(map(estimate.least_bytes, estimate.plans()))  # known without counting
    if least_bytes > budget_bytes:
        raise ValueError(
            f"`{name}` must be at least {gigabytes_up(least_bytes):g} for the weights of this model alone, got "
            f"{gigabytes:g}; use a smaller model"
        )
    if (plan := estimate.first_fitting(budget_bytes)) is not None:
        return plan
    smallest, settings = estimate.smallest(), call.settings
    raise ValueError(
        f"`{name}` must be at least {gigabytes_up(estimate.peak_bytes(smallest)):g} for {settings.num_frames} frames "
        f"of {settings.width}x{settings.height} pixels by the smallest plan ({smallest}), got {gigabytes:g}; "
        f"{smaller_clips(build, estimate, budget_bytes)}"
    )


def gigabytes_up(num_bytes: float) -> float:
    """Bytes as gigabytes that they fit into, with three decimals."""
    return math.ceil(num_bytes / GIGA * 1000) / 1000


def smaller_clips(
    build: Callable[[PlannedCall], MemoryEstimate], estimate: MemoryEstimate, budget_bytes: float
) -> str:
    """What whoever asked for too much can do: clips of fewer frames, or smaller ones, that do fit."""
    plan = estimate.smallest()
    call, stages = estimate.call, estimate.stages

    def fits(change: Mapping[str, int]) -> bool:
        smaller = replace(call, settings=call.settings.override(**change))
        return build(smaller).peak_bytes(plan) <= budget_bytes

    fewer = next(filter(fits, fewer_frames(stages)), None)
    smaller = next(filter(fits, smaller_sizes(stages)), None)
    words = [] if fewer is None else ["{num_frames} frames".format(**fewer)]
    words += [] if smaller is None else ["{width}x{height} pixels".format(**smaller)]
    return f"use {' or '.join(words)}" if words else "use fewer frames and a smaller size together"


def fewer_frames(stages: CallStages) -> Iterator[dict[str, int]]:
    """Shorter clips."""
    factor = stages.video_codec.temporal_factor if "video" in stages.call.modalities else 1
    for share in SHARES:
        if (num_frames := whole_frames(stages.settings.num_frames // share, factor)) > 1:
            yield {"num_frames": num_frames}


def smaller_sizes(stages: CallStages) -> Iterator[dict[str, int]]:
    """Smaller frames, where there are any."""
    if "video" not in stages.call.modalities:
        return
    settings = stages.settings
    multiple = stages.video_codec.spatial_factor * stages.pipeline.transformer.config.patch_size[-1]
    for share in SHARES:
        yield {name: max(1, getattr(settings, name) // share // multiple) * multiple for name in ("width", "height")}
