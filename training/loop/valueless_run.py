"""A training run without values: its own code on tensors that have shapes alone, to count what it takes.

Nothing is loaded but configs, headers of records, and one micro-batch of each length of clips. What is counted is what
`Trainer` does: the micro-batch, the teacher of a distillation, loss, backward, clipping, optimizer and averages.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields, replace
from itertools import cycle, islice, product
from typing import Any, NamedTuple

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map

from diffusers_jova.allocation_count import DEVICE, AllocationCounter
from diffusers_jova.training.data.dataset import Batch, PrecomputedDataset
from diffusers_jova.training.loop.block_swap import swapped_bytes
from diffusers_jova.training.loop.conditioning import ModelInputs
from diffusers_jova.training.loop.config import TrainConfig
from diffusers_jova.training.loop.distillation import begin_distillation
from diffusers_jova.training.loop.lora import DTYPES
from diffusers_jova.training.loop.model import make_trainable, outline_transformer
from diffusers_jova.training.loop.optimization import build_optimizer
from diffusers_jova.training.loop.phases import Phases
from diffusers_jova.training.loop.run_clips import RunClips
from diffusers_jova.training.loop.step import build_conditioning, step_loss
from diffusers_jova.training.loop.tasks import tasks_of, weights_of
from diffusers_jova.training.loop.teacher_pipeline import ValuelessTeacherPipeline
from diffusers_jova.training.loop.valueless_layers import AdamW8bitOutline, outline_nf4_
from diffusers_jova.transformer_jova_dual_tower import LOW_NOISE


class MicroBatchTake(NamedTuple):
    """What a micro-batch takes, forward and backward.

    Attributes:
        activation_bytes: Held at most besides weights, states and gradients.
        peak_bytes: Held at most with all of these.
        operations: Multiplications and additions.
    """

    activation_bytes: int
    peak_bytes: int
    operations: int


class Kind(NamedTuple):
    """Micro-batches of one shape.

    Attributes:
        share: Of all micro-batches of the run.
        config: Settings in which every micro-batch is such a one.
        dataset: That its clips come from.
        bucket: Of the data set.
        is_high: Whether of two video towers that for high noise works.
    """

    share: float
    config: TrainConfig
    dataset: PrecomputedDataset
    bucket: int
    is_high: bool = True


class ValuelessRun:
    """A run put together as `Trainer` does it, without values.

    Args:
        config: The run's settings.
        device: Kind of device that is meant; none needs to be here.

    Attributes:
        part_bytes: Of weights, teacher, optimizer states and averages, each by its name; gradients among them, which
            are there for a part of a step.
        loaded: Weights of the model, on the meta device.
        trained: Weights that the run trains.
        swapped_bytes: Of the weights that wait on the host when most are on the device.
        step_bytes: Held at most while the optimizer and the averages take their step.

    Raises:
        ValueError: If settings, clips or model do not fit together.
    """

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self.config = config
        clips = RunClips.read(config)
        clips.check_settings(config)
        self.datasets = clips.trained
        self.teacher = self.phases = None
        if config.student_steps is not None:
            self.teacher = ValuelessTeacherPipeline(config, self.datasets[0].empty_prompt, DEVICE)
            self.phases = Phases.of(self.teacher.few_steps, config.teacher_steps, DEVICE)
        self.transformer = outline_of_run(config)
        clips.check_model(self.transformer, config)
        with torch.device("meta"):
            self.loaded = list(outline_transformer(config.model).parameters())
        self.mode, self.counter = FakeTensorMode(allow_non_fake_inputs=True), AllocationCounter()
        self.part_bytes: dict[str, int] = {}
        with self.mode, self.counter:
            self._put_together(device)
            self.step_bytes = self._take_step()

    def _put_together(self, device: torch.device) -> None:
        """Make weights, teacher and optimizer, and note the bytes of each."""
        config = self.config
        self.transformer.to_empty(device=DEVICE)
        self.trained = [weight for weight in self.transformer.parameters() if weight.requires_grad]
        frozen = [weight for weight in self.transformer.parameters() if not weight.requires_grad]
        frozen += self.transformer.buffers()
        name = config.quantize if config.quantize != "none" else str(DTYPES[config.mixed_precision])[6:]
        is_lora = config.train == "lora"
        self.swapped_bytes = swapped_bytes(self.transformer, config.blocks_to_swap) if config.blocks_to_swap else 0
        self.part_bytes[f"frozen base in {name}" if is_lora else "frozen weights"] = (
            sum(map(num_bytes, frozen)) - self.swapped_bytes
        )
        self.part_bytes["adapter" if is_lora else "weights"] = sum(map(num_bytes, self.trained))
        before = self.counter.live_bytes
        self.distillation = begin_distillation(
            config, self.teacher, self.phases, self.transformer, DEVICE, lambda: autocast(config)
        )
        self.transformer.forward = in_format(self.transformer.forward, config)
        self.part_bytes["teacher"] = self.counter.live_bytes - before
        self.optimizer = (
            AdamW8bitOutline(self.trained, lr=config.learning_rate)
            if config.optimizer == "adamw_8bit"
            else build_optimizer(self.transformer, config, device)
        )
        before = self.counter.live_bytes
        self.ema = EMAModel(self.trained, decay=config.ema_decay, foreach=True) if config.ema_decay else None
        self.part_bytes["averaged weights"] = self.counter.live_bytes - before
        for weight in self.trained:
            weight.register_post_accumulate_grad_hook(lambda weight: self.counter.set_aside(weight.grad))

    def _take_step(self) -> int:
        """Take a step on gradients; returns the bytes held at most in one that has states already."""
        before = self.counter.live_bytes
        for _ in range(2):
            self._make_gradients()
            self.counter.restart()
            torch.nn.utils.clip_grad_norm_(self.trained, self.config.max_grad_norm)
            self.optimizer.step()
            if self.ema is not None:
                self.ema.step(self.trained)
            most_bytes = self.counter.most_bytes
            self.optimizer.zero_grad()
        self.part_bytes["optimizer states"] = self.counter.live_bytes - before
        self.part_bytes["gradients"] = sum(map(num_bytes, self.trained))
        return most_bytes - self.swapped_bytes

    def _make_gradients(self) -> None:
        for weight in self.trained:
            weight.grad = torch.zeros_like(weight)
            self.counter.set_aside(weight.grad)

    @property
    def held_bytes(self) -> int:
        """Held all the time."""
        return self.counter.live_bytes - self.swapped_bytes

    def kinds(self) -> Iterator[Kind]:
        """The shapes that micro-batches of the run have."""
        of_data = 1 - self.config.prior_probability
        for dataset, part in zip(self.datasets, (of_data, 1 - of_data), strict=False):
            for index, bucket in enumerate(dataset.buckets):
                of_bucket = part * len(bucket) / len(dataset)
                for (share, config), (of_tower, is_high) in product(settings_of_kinds(self.config), self.towers()):
                    yield Kind(share * of_tower * of_bucket, config, dataset, index, is_high)

    def towers(self) -> list[tuple[float, bool]]:
        """Whether the video tower for high noise works, each answer with its share; of two alike, one stands for both.

        Both are of one size, but may not both learn.
        """
        if self.transformer.config.get("boundary") is None or self.config.stage == "audio":
            return [(1.0, True)]
        if self.config.experts in ("high", "low"):
            return [(1.0, self.config.experts == "high")]
        if towers_learn_alike(self.transformer):
            return [(1.0, True)]
        share = 0.5
        if self.config.experts == "drawn":
            share = build_conditioning(
                self.config, self.datasets[0], self.transformer, DEVICE, self.phases
            ).share_of_high()
        return [(of_tower, is_high) for of_tower, is_high in ((share, True), (1 - share, False)) if of_tower > 0]

    def count(self, kind: Kind, checkpointing: bool) -> MicroBatchTake:
        """Run one micro-batch forward and backward.

        Args:
            kind: Its shape.
            checkpointing: Whether activations are computed anew in the backward pass.
        """
        if checkpointing:
            self.transformer.enable_gradient_checkpointing()
        else:
            self.transformer.disable_gradient_checkpointing()
        conditioning = build_conditioning(kind.config, self.datasets[0], self.transformer, DEVICE, self.phases)
        inputs = conditioning(batch_of(kind), seed=0)
        with self.mode, self.counter:
            if self.config.gradient_accumulation_steps > 1:  # the most is held by a micro-batch after the first
                self._make_gradients()
            held_bytes = self.counter.live_bytes
            self.counter.restart()
            self.counter.truth = kind.is_high
            step_loss(self.transformer, valueless(inputs), kind.config, self.distillation).total.mean().backward()
            take = MicroBatchTake(
                activation_bytes=self.counter.peak_bytes - held_bytes,
                peak_bytes=self.counter.most_bytes - self.swapped_bytes,
                operations=self.counter.operations,
            )
            self.optimizer.zero_grad()
        return take


def outline_of_run(config: TrainConfig) -> Any:
    """The transformer of a run, with the adapter and in the format that it has there, on the meta device."""
    with torch.device("meta"):
        transformer = outline_transformer(config.model)
        make_trainable(transformer, replace(config, quantize="none"))
        if config.quantize == "nf4":
            outline_nf4_(transformer)
    return transformer


def towers_learn_alike(transformer: nn.Module) -> bool:
    """Whether of two video towers the same weights are trained."""
    weights = dict(transformer.named_parameters())
    twins = {name: ".".join("video" if part == LOW_NOISE else part for part in name.split(".")) for name in weights}
    return all(weights[name].requires_grad == weights[twin].requires_grad for name, twin in twins.items())


def autocast(config: TrainConfig) -> AbstractContextManager[Any]:
    """The number format of the computation, as accelerate begins it."""
    return nullcontext() if config.mixed_precision == "no" else torch.autocast("cpu", DTYPES[config.mixed_precision])


def in_format(forward: Any, config: TrainConfig) -> Any:
    """A forward in the run's format whose outputs are float32, as accelerate makes it."""

    def formatted(**arguments: Any) -> Any:
        with autocast(config):
            output = forward(**arguments)
        return tree_map(lambda value: value.float() if isinstance(value, Tensor) else value, output)

    return formatted


def valueless(inputs: ModelInputs) -> ModelInputs:
    """A micro-batch without values, made within the mode that is on."""
    made = {field.name: tree_map(without_value, getattr(inputs, field.name)) for field in fields(inputs)}
    return replace(inputs, **made)


def without_value(value: Any) -> Any:
    """A tensor of the same shape and format; anything else as it is."""
    return torch.empty_like(value) if isinstance(value, Tensor) else value


def batch_of(kind: Kind) -> Batch:
    """Clips of a kind, the first of their length; those with a voice where that is the task."""
    clips = kind.dataset.buckets[kind.bucket]
    if any(task.has_voice for task in tasks_of(kind.config)):
        clips = [clip for clip in clips if clip in kind.dataset.voices] or clips
    return kind.dataset.batch(list(islice(cycle(clips), kind.config.batch_size)))


def settings_of_kinds(config: TrainConfig) -> Iterator[tuple[float, TrainConfig]]:
    """Settings that leave nothing of a micro-batch's shape to chance, each with its share of a run."""
    chances: list[list[tuple[float, Mapping[str, Any]]]] = []
    if config.tasks is not None:
        total = sum(weights_of(config).values())
        chances.append([(w / total, {"tasks": {task: 1.0}}) for task, w in weights_of(config).items() if w > 0])
    for name in ("prefix_probability", "uncoupled_probability"):
        if 0 < (share := getattr(config, name)) < 1:
            chances.append([(share, {name: 1.0}), (1 - share, {name: 0.0})])
    for drawn in product(*chances):
        share, settings = 1.0, copy.copy(config)
        for part, values in drawn:
            share *= part
            for name, value in values.items():
                object.__setattr__(settings, name, value)  # not `replace`, which checks what users may write
        yield share, settings


def num_bytes(tensor: Tensor) -> int:
    """Bytes of a tensor's numbers."""
    return tensor.numel() * tensor.element_size()
