"""How a call fits into a memory: what each plan holds in each stage, and the first plan that fits.

A plan says where weights wait and what is done part by part, all by means of diffusers. Plans stand in one order, from
the fastest to the smallest. What changes no number comes first, except for moving weights at every step, which is
slower than anything else:

    weights             on the device while it works                          changes numbers
    resident            all                                                   no
    text_streamed       all but text encoders, which come layer by layer      no
    offloaded           one component at a time                               no
    resident, ...       these three once more, the transformer in float8      yes
    streamed            codecs; transformer and text encoders by layer        no
    streamed            the same, the transformer in float8                   yes

Within each, first as it is, then with the predictions of guidance one after the other, then with the video VAE in
tiles, whose seams are blended, then with both.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import nn

from .call_stages import DENOISING, ENCODING, TEXT, TEXT_ENCODERS, CallStages, PlannedCall, Stage
from .number_formats import cast_weights


Weights: TypeAlias = Literal["resident", "text_streamed", "offloaded", "streamed"]
FLOAT8 = torch.float8_e4m3fn
WORDS: Mapping[Weights, str] = {
    "resident": "all weights on the device",
    "text_streamed": "text encoders layer by layer on the device, all other weights there",
    "offloaded": "one component at a time on the device",
    "streamed": "transformer and text encoders layer by layer on the device",
}
ORDER: Sequence[tuple[Weights, bool]] = (  # weights, and whether the transformer is kept in float8
    ("resident", False),
    ("text_streamed", False),
    ("offloaded", False),
    ("resident", True),
    ("text_streamed", True),
    ("offloaded", True),
    ("streamed", False),
    ("streamed", True),
)
AT_HOME: Weights = "resident"  # the only way of a device whose memory is where weights wait
PARTS = ((False, False), (True, False), (False, True), (True, True))  # branches apart, video in tiles
HOST_DEVICES = ("cpu", "mps")
STREAMING_DEVICES = ("cuda", "xpu")  # with streams beside the one that computes


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """How a pipeline uses memory.

    Args:
        weights: Where they wait and when they come.
        float8: Whether the transformer is kept in float8, and cast layer by layer to compute.
        branches_apart: Whether the predictions of guidance are made one after the other.
        tiles_video: Whether the video VAE works tile by tile.
    """

    weights: Weights = "resident"
    float8: bool = False
    branches_apart: bool = False
    tiles_video: bool = False

    def __str__(self) -> str:
        parts = {
            "transformer in float8": self.float8,
            "predictions of guidance one after the other": self.branches_apart,
            "video VAE in tiles": self.tiles_video,
        }
        return ", ".join([WORDS[self.weights], *(words for words, holds in parts.items() if holds)])

    def streams(self, name: str) -> bool:
        """Whether a component comes layer by layer."""
        return (name in TEXT_ENCODERS and self.weights in ("text_streamed", "streamed")) or (
            name == "transformer" and self.weights == "streamed"
        )

    def apply(self, pipeline: Any, device: torch.device) -> None:
        """Let a loaded pipeline, which nothing manages yet, use memory so."""
        if self.float8:
            transformer = pipeline.transformer
            transformer.enable_layerwise_casting(storage_dtype=FLOAT8, compute_dtype=transformer.dtype)
        if self.tiles_video:
            pipeline.enable_vae_tiling()
        elif pipeline.memory_plan is not None and pipeline.memory_plan.tiles_video:  # not what a user enabled
            pipeline.disable_vae_tiling()
        if self.weights == "resident":
            pipeline.to(device)
        elif self.weights == "offloaded":
            pipeline.enable_model_cpu_offload(device=device)
        else:
            stay = [name for name in pipeline.components if not self.streams(name)]
            pipeline.enable_group_offload(
                onload_device=device,
                offload_type="leaf_level",
                use_stream=device.type in STREAMING_DEVICES,
                exclude_modules=stay,
            )


def plans_of(device: torch.device) -> Iterator[MemoryPlan]:
    """All plans that a device has, in their order."""
    for weights, float8 in ORDER:
        if device.type in HOST_DEVICES and (weights != AT_HOME or (float8 and device.type != "cpu")):
            continue
        for branches_apart, tiles_video in PARTS:
            yield MemoryPlan(weights=weights, float8=float8, branches_apart=branches_apart, tiles_video=tiles_video)


class Sizes(NamedTuple):
    """Bytes of the weights of a component.

    Attributes:
        whole: All of them.
        streamed: Those on the device while it comes layer by layer: a layer, the next, and what is in no layer.
        cast: Of the largest layer in the format that computes, where another is kept; else 0.
    """

    whole: int
    streamed: int
    cast: int = 0

    @classmethod
    def of(cls, module: nn.Module, compute_dtype: torch.dtype | None = None) -> "Sizes":
        """Measure a module.

        Args:
            module: Any; its weights may be on the meta device.
            compute_dtype: Of layers that are kept in float8; None where none are.
        """
        leaves = [part for part in module.modules() if not any(True for _ in part.children())]
        layers = [sum(weight.nbytes for weight in part.parameters()) for part in leaves]
        whole = sum(weight.nbytes for weight in [*module.parameters(), *module.buffers()])
        loose = whole - sum(weight.nbytes for part in leaves for weight in part.parameters())
        cast = 0
        if compute_dtype is not None:
            kept = [weight for weight in module.parameters() if weight.dtype == FLOAT8]
            cast = max((weight.numel() * compute_dtype.itemsize for weight in kept), default=0)
        neighbours = [sum(pair) for pair in pairwise(layers)] or [whole]
        return cls(whole, min(whole, max(neighbours) + max(loose, 0)), cast)


class MemoryEstimate:
    """What plans hold in the stages of a call.

    Args:
        pipeline: Without weights, in the formats that are loaded; its components leave the meta device.
        call: What it is about.
        sizes: Bytes of weights by component, where they are not those of `pipeline`: with adapters, say.
    """

    def __init__(self, pipeline: Any, call: PlannedCall, sizes: Mapping[str, Sizes] | None = None) -> None:
        parts = {name: part for name, part in pipeline.components.items() if isinstance(part, nn.Module)}
        self.transformer = pipeline.transformer
        self.sizes = {name: Sizes.of(part) for name, part in parts.items()} | dict(sizes or {})
        self.call = call
        self.stages = CallStages(pipeline, call)

    @cached_property
    def float8_sizes(self) -> Sizes:
        """Bytes of the transformer in float8, as diffusers casts it."""
        with torch.device("meta"):
            outline = type(self.transformer).from_config(self.transformer.config)
        cast_weights(outline, dtype := self.transformer.dtype)
        before = Sizes.of(outline)
        outline.enable_layerwise_casting(storage_dtype=FLOAT8, compute_dtype=dtype)
        adapters = self.sizes["transformer"].whole - before.whole  # are not cast
        sizes = Sizes.of(outline, dtype)
        return sizes._replace(whole=sizes.whole + adapters)

    def peaks(self, plan: MemoryPlan) -> list[tuple[Stage, int]]:
        """Every stage with the bytes that are on the device at most while it runs, weights included."""
        stages = self.stages.all(plan.branches_apart, plan.tiles_video)
        return [(stage, self.weight_bytes(plan, stage.name) + stage.held_bytes) for stage in stages]

    def peak_bytes(self, plan: MemoryPlan) -> int:
        """The highest of them."""
        return max(peak for _, peak in self.peaks(plan))

    def size_of(self, plan: MemoryPlan, name: str) -> Sizes:
        """Weights of a component, in the format that a plan keeps them in."""
        return self.float8_sizes if plan.float8 and name == "transformer" else self.sizes[name]

    def weight_bytes(self, plan: MemoryPlan, stage: str) -> int:
        """Bytes of weights on the device at most during a stage."""
        components = self.stages.components[stage]
        at_work = [self.size_of(plan, name) for name in components]
        cast = max((size.cast for size in at_work), default=0)
        if plan.weights == "offloaded":
            return max([*(size.whole for size in at_work), self.together(stage)]) + self.left_over(stage) + cast
        stay = sum(self.size_of(plan, name).whole for name in self.sizes if not plan.streams(name))
        streamed = [self.size_of(plan, name).streamed for name in components if plan.streams(name)]
        return stay + max(streamed, default=0) + cast

    def together(self, stage: str) -> int:
        """Bytes of text encoders that offloading has on the device at once: of two texts each goes to all of them."""
        if stage != TEXT or not self.stages.reads_negative_prompt:
            return 0
        return sum(self.sizes[name].whole for name in self.stages.components[stage])

    def left_over(self, stage: str) -> int:
        """Bytes of the codec that encoded what is given, which offloading leaves until the next codec comes."""
        encoders = self.stages.components.get(ENCODING, ())
        return self.sizes[encoders[-1]].whole if encoders and stage in (TEXT, DENOISING) else 0

    def least_bytes(self, plan: MemoryPlan) -> int:
        """What weights alone take by a plan."""
        return max(self.weight_bytes(plan, stage) for stage in self.stages.components)

    def first_fitting(self, budget_bytes: float) -> MemoryPlan | None:
        """The first plan in the order whose peak is no more; None where none is."""
        return next((plan for plan in self.plans() if self.peak_bytes(plan) <= budget_bytes), None)

    def plans(self) -> Iterator[MemoryPlan]:
        """Plans that differ for this call, in their order."""
        for plan in plans_of(self.call.device):
            is_idle = (plan.branches_apart and not self.stages.has_batches) or (plan.tiles_video and not self.can_tile)
            if not is_idle:
                yield plan

    @property
    def can_tile(self) -> bool:
        """Whether tiles of the video VAE would be smaller than its frames."""
        vae = self.stages.pipeline.vae
        return "vae" in self.sizes and hasattr(vae, "tile_sample_stride_height") and self.stages.is_tiled

    def smallest(self) -> MemoryPlan:
        """The plan with the lowest peak."""
        return min(self.plans(), key=self.peak_bytes)
