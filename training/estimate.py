"""What a training takes, before anything is loaded: the work of `--estimate` of the commands that train."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch

from diffusers_jova.cost_estimate import operations_per_second
from diffusers_jova.devices import choose_device
from diffusers_jova.estimate import TERA, in_measured_words, table, work
from diffusers_jova.training.loop.config import TrainConfig
from diffusers_jova.training.loop.lora import DTYPES
from diffusers_jova.training.loop.valueless_run import Kind, MicroBatchTake, ValuelessRun, num_bytes
from jova_cli.model_info import format_bytes


FLOAT32_BYTES = 4  # in which weights are loaded


@dataclass(frozen=True)
class TrainingStage:
    """A part of a run.

    Attributes:
        name: What it does.
        peak_bytes: On the device at most.
        operations: In a step; 0 for what comes once, or computes no products.
    """

    name: str
    peak_bytes: int
    operations: float = 0.0


class TrainingEstimate:
    """What one process of a run takes, counted.

    Args:
        config: The run's settings.
        device: Kind of device that is meant; none needs to be here.

    Raises:
        ValueError: If settings, clips or model do not fit together.
    """

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        self.run = ValuelessRun(config, device)

    @cached_property
    def takes(self) -> list[tuple[Kind, MicroBatchTake]]:
        """What micro-batches of each kind take."""
        return [(kind, self.run.count(kind, self.config.gradient_checkpointing)) for kind in self.run.kinds()]

    @cached_property
    def largest(self) -> tuple[Kind, MicroBatchTake]:
        """The kind of micro-batch that holds most."""
        return max(self.takes, key=lambda taken: taken[1].peak_bytes)

    @cached_property
    def other_way(self) -> MicroBatchTake:
        """What the largest takes with checkpointing if the run has none, and the other way round."""
        return self.run.count(self.largest[0], not self.config.gradient_checkpointing)

    @property
    def step_operations(self) -> float:
        """Multiplications and additions of a step, in the mean of its kinds."""
        of_micro_batch = sum(kind.share * take.operations for kind, take in self.takes)
        return self.config.gradient_accumulation_steps * of_micro_batch

    @property
    def loading_bytes(self) -> int:
        """Bytes of the host that the transformer takes before it is cast."""
        return FLOAT32_BYTES * sum(weight.numel() for weight in self.run.loaded)

    @property
    def checkpoint_bytes(self) -> int:
        """Bytes of the host that a checkpoint takes while it is written: what is trained, once more."""
        trained = sum(map(num_bytes, self.run.trained))
        return self.run.part_bytes["optimizer states"] + trained + self.run.part_bytes["averaged weights"]

    def parts(self) -> dict[str, int]:
        """Bytes of what is on the device, which are not all there at once: gradients come while activations go."""
        found = {name: size for name, size in self.run.part_bytes.items() if size > 0}
        return {**found, "activations": self.largest[1].activation_bytes}

    def stages(self) -> list[TrainingStage]:
        """The parts of a run in their order; where a host computes, with what it does besides."""
        steps = [
            TrainingStage("forward and backward", self.largest[1].peak_bytes, self.step_operations),
            TrainingStage("optimizer step", self.run.step_bytes),
        ]
        if self.device.type != "cpu":
            return steps
        checkpoint = TrainingStage("checkpoint", self.run.held_bytes + self.checkpoint_bytes)
        return [TrainingStage("loading", self.loading_bytes), *steps, checkpoint]

    @property
    def peak_bytes(self) -> int:
        """On the device at most."""
        return max(stage.peak_bytes for stage in self.stages())


def describe(config: TrainConfig, args: argparse.Namespace) -> str:
    """The tables of a run.

    Args:
        config: The run's settings.
        args: Words of the command, with `device`, `rate` and `measure_rate`.
    """
    estimate = TrainingEstimate(config, torch.device(args.device))
    rate = args.rate and args.rate * TERA
    if args.measure_rate:
        rate = operations_per_second(
            choose_device(None), DTYPES[config.mixed_precision], width_of(estimate.run.transformer.config)
        )
    lines = [heading(estimate), part_table(estimate), "", stage_table(estimate, rate), *notes(estimate)]
    return "\n".join([*lines, *([in_measured_words(rate, args.device)] if args.measure_rate and rate else [])])


def width_of(values: Mapping[str, int]) -> int:
    """Width of a row of a transformer."""
    return values["num_attention_heads"] * values["attention_head_dim"]


def heading(estimate: TrainingEstimate) -> str:
    """What is estimated, in one line."""
    config, kind = estimate.config, estimate.largest[0]
    shapes = kind.dataset.layouts[kind.bucket].latents
    latents = " and ".join(
        f"{name} latents [{', '.join(map(str, shape))}]"
        for name in ("video", "audio")
        if (shape := shapes[f"{name}_latents"]) is not None and config.stage in (name, "joint")
    )
    return (
        f"batch_size={config.batch_size} of {latents}, "
        f"gradient_checkpointing={str(config.gradient_checkpointing).lower()}, in one process on {estimate.device}:"
    )


def part_table(estimate: TrainingEstimate) -> str:
    """Lines of what is on the device."""
    rows = [["part", "memory"], *([name, format_bytes(size)] for name, size in estimate.parts().items())]
    words = "without" if estimate.config.gradient_checkpointing else "with"
    rows.append([f"activations {words} checkpointing", format_bytes(estimate.other_way.activation_bytes)])
    return table(rows)


def stage_table(estimate: TrainingEstimate, rate: float | None) -> str:
    """Lines of the stages: the memory that each holds, weights included, and what a step computes.

    Args:
        estimate: Of the run.
        rate: Operations per second; None tells no times.
    """
    rows = [["stage", "peak memory", "operations", "time at least"]]
    for stage in estimate.stages():
        rows.append([stage.name, format_bytes(stage.peak_bytes), *(work(int(stage.operations), rate))])
        if not stage.operations:
            rows[-1][2:] = ["", ""]
    steps = estimate.config.steps
    total = work(int(steps * estimate.step_operations), rate)
    rows.append([f"{steps} steps", format_bytes(estimate.peak_bytes), *total])
    return table([row if rate else row[:-1] for row in rows])


def notes(estimate: TrainingEstimate) -> list[str]:
    """Lines on what the tables leave out."""
    config, run = estimate.config, estimate.run
    lines = []
    if estimate.device.type != "cpu":
        lines.append(
            f"in the host's memory: {format_bytes(estimate.loading_bytes)} while the transformer is loaded, "
            f"{format_bytes(estimate.checkpoint_bytes)} while a checkpoint is written"
        )
    if config.distribution in ("fsdp", "deepspeed"):
        names = ("weights", "adapter", "optimizer states", "averaged weights", "gradients")
        shared = sum(run.part_bytes.get(name, 0) for name in names)
        lines.append(
            f"`distribution: {config.distribution}` divides {format_bytes(shared)} of weights, gradients and states "
            "among its processes (deepspeed not the weights); activations are each one's own"
        )
    return lines + [f"not counted: {words}" for words in left_out(config)]


def left_out(config: TrainConfig) -> list[str]:
    """What the settings ask for that no estimate counts."""
    found = {
        "validation clips, whose pipeline comes to the device": config.validation_prompts or config.validation_list,
        "what `compile` spares": config.compile,
        "the clips that `dataset_on_device` keeps there": config.dataset_on_device,
    }
    return [words for words, is_left_out in found.items() if is_left_out]
