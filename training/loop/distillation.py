"""Distillation: a teacher of many guided steps, and what its student of few steps is to predict.

The teacher is the model as it was: without the adapter that is trained, or a frozen copy where all of it is. It takes
steps of Euler with the guidance of its pipeline, as a call of the pipeline does, so that guidance goes into the
student, as in the guided distillation of LCM (arXiv:2310.04378); guidance.py has the formulas. What is given of a
clip, or absent, stays at its level and does not move. `phases.py` has the formula of the student.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from peft.helpers import rescale_adapter_scale
from torch import Tensor

from diffusers_jova.flow_matching import expand_sigma
from diffusers_jova.guidance import Branch, Guidance, Weights, required_branches
from diffusers_jova.number_formats import cast_weights
from diffusers_jova.prediction_plan import PredictionPlan
from diffusers_jova.training.loop.conditioning import ModelInputs
from diffusers_jova.training.loop.config import TrainConfig
from diffusers_jova.training.loop.lora import DTYPES
from diffusers_jova.training.loop.phases import Phases, student_target
from diffusers_jova.training.loop.teacher_pipeline import TeacherPipeline
from diffusers_jova.transformer_jova import MODALITIES


PREFIXES = {"video": "", "audio": "audio_"}  # of the arguments of the transformer
TIMESTEPS = 1000  # at noise


class Distillation:
    """Computes what the student is to predict of a micro-batch.

    Args:
        config: The run's settings.
        pipeline: What the teacher's pipeline says of guidance and levels.
        phases: Levels of teacher and student.
        student: Velocities of the student by modality, of the transformer's arguments.
        teacher: The same of the teacher.
    """

    def __init__(
        self,
        config: TrainConfig,
        pipeline: TeacherPipeline,
        phases: Phases,
        student: Callable[..., Any],
        teacher: Callable[..., Any],
    ) -> None:
        self.pipeline, self.phases = pipeline, phases
        self.student, self.teacher = student, teacher
        self.jump = config.teacher_jump
        self.plans: dict[Any, GuidancePlan] = {}

    @torch.no_grad()
    def targets(self, inputs: ModelInputs) -> tuple[Tensor | None, Tensor | None]:
        """Velocities of video and audio that the student is to predict for a micro-batch, shaped as its targets.

        Every process asks for as many predictions, whatever it has drawn.
        """
        walk = Walk(inputs, self.phases)
        plan = self._plan(walk)
        for _ in range(self.jump):
            walk.step(self._guided(plan, walk))
        velocities: Mapping[str, Tensor | None] = {}
        if self.jump < self.phases.steps_per_phase:
            velocities = named(self.student(**walk.arguments()))
        found = {name: walk.target(name, velocities.get(name)) for name in walk.names}
        return found.get("video"), found.get("audio")

    def _plan(self, walk: Walk) -> GuidancePlan:
        """Guidance of the modalities and the coupling of a micro-batch."""
        coupled, has_voice = walk.fixed["coupled"], "audio_reference_hidden_states" in walk.fixed
        key = (walk.names, coupled, has_voice)
        if key not in self.plans:
            asked = PredictionPlan(
                names=walk.names,
                generated=walk.names,
                coupling=coupled,
                negative_coupling=True if has_voice else coupled,  # as `Media.couplings` has it
            )
            num_steps, device = self.phases.num_steps, walk.device
            self.plans[key] = GuidancePlan(asked, self.pipeline.guidance, num_steps, device)
        return self.plans[key]

    def _guided(self, plan: GuidancePlan, walk: Walk) -> dict[str, Tensor]:
        """Velocities of the teacher with guidance, by modality."""
        predictions: dict[str, dict[Branch, Tensor]] = {name: {} for name in walk.names}
        for branch in plan.branches:
            arguments = walk.arguments() | {"coupled": plan.asked.coupling_of(branch)}
            if not branch.text:
                arguments |= self.pipeline.negative_arguments(walk.batch_size) | walk.unsaid
                arguments |= self.pipeline.negative_options
            for name, velocity in named(self.teacher(**arguments)).items():
                if velocity is not None:
                    predictions[name][branch] = velocity
        return {
            name: plan.guide(name, predictions[name], walk.samples[name], walk.levels(name), walk.numbers[name])
            for name in walk.names
        }


class Walk:
    """A micro-batch on its way down the teacher's levels.

    Args:
        inputs: Where it begins.
        phases: The levels.

    Attributes:
        names: Modalities that are there.
        samples: Noisy latents of each, float32.
        numbers: Number of the level that each sample is at, [B], by modality.
        fixed: Arguments of the transformer that stay as they are.
        unsaid: What the sound reads behind a voice in predictions without the prompt.
    """

    def __init__(self, inputs: ModelInputs, phases: Phases) -> None:
        self.phases, self.inputs = phases, inputs
        targets = {"video": inputs.target, "audio": inputs.audio_target}
        sigmas = {"video": inputs.sigma, "audio": inputs.audio_sigma}
        self.moves = {"video": inputs.has_video, "audio": inputs.has_audio}
        self.names = tuple(name for name in MODALITIES if targets[name] is not None)
        self.fixed, self.unsaid = inputs.arguments, inputs.unsaid
        self.samples, self.channels = {}, None
        for name in self.names:
            self.samples[name] = self.fixed[f"{PREFIXES[name]}hidden_states"]
        if targets["video"] is not None:
            num_channels = targets["video"].shape[1]
            self.channels = self.samples["video"][:, num_channels:]
            self.samples["video"] = self.samples["video"][:, :num_channels]
        self.begun = {name: phases.number(name, sigmas[name]) for name in self.names}
        self.numbers = dict(self.begun)
        self.edges = {name: phases.edge(number) for name, number in self.begun.items()}
        self.moved = {name: torch.zeros_like(sample) for name, sample in self.samples.items()}

    @property
    def batch_size(self) -> int:
        """B."""
        return len(self.inputs.sigma)

    @property
    def device(self) -> torch.device:
        """Where everything is."""
        return self.inputs.sigma.device

    def levels(self, name: str, numbers: Tensor | None = None) -> Tensor:
        """Noise levels of a modality at numbers [B], by default those that it is at, [B] or per latent [B, N]."""
        start = self.fixed[f"{PREFIXES[name]}timestep"] / TIMESTEPS
        numbers = self.numbers[name] if numbers is None else numbers
        level = self.phases.levels[name][numbers]
        level = level if start.ndim == 1 else level[:, None].expand_as(start)
        return level.where(self.moves[name], start)

    def arguments(self) -> dict[str, Any]:
        """Arguments of the transformer at the levels that the samples are at."""
        arguments = dict(self.fixed)
        for name in self.names:
            latents = self.samples[name]
            if name == "video" and self.channels is not None:
                latents = torch.cat([latents, self.channels], dim=1)
            arguments[f"{PREFIXES[name]}hidden_states"] = latents
            arguments[f"{PREFIXES[name]}timestep"] = TIMESTEPS * self.levels(name)
        return arguments

    def step(self, velocities: Mapping[str, Tensor]) -> None:
        """Take one step of Euler towards the data, but not beyond the end of a phase.

        Args:
            velocities: Of each modality, [B, C, F, H, W] and [B, L, C].
        """
        for name, velocity in velocities.items():
            reached = torch.minimum(self.numbers[name] + 1, self.edges[name])
            sigma, lower = self.levels(name), self.levels(name, reached)
            change = expand_sigma(lower - sigma, velocity) * velocity
            self.moved[name] = self.moved[name] + change
            self.samples[name] = self.samples[name] + change
            self.numbers[name] = reached

    def target(self, name: str, velocity: Tensor | None) -> Tensor:
        """Velocity of a modality that the student is to predict where the walk began.

        Args:
            name: Modality.
            velocity: Of the student where it has arrived; None where that is the end of every phase.
        """
        begun, arrived, edge = (self.levels(name, n[name]) for n in (self.begun, self.numbers, self.edges))
        return student_target(self.moved[name], velocity, begun, arrived, edge)


class GuidancePlan:
    """Which predictions the teacher's steps need, the same for all of them, and how they become one velocity.

    Args:
        asked: What is asked of the model.
        guidance: Of each modality.
        num_steps: N of the teacher.
        device: Where the predictions are.
    """

    def __init__(
        self, asked: PredictionPlan, guidance: Mapping[str, Guidance], num_steps: int, device: torch.device
    ) -> None:
        self.asked, self.guidance = asked, guidance
        by_step = [asked.weights(guidance, step, num_steps) for step in range(num_steps)]
        self.kinds: dict[str, list[Weights]] = {}  # those that differ: guidance may hold on an interval of the steps
        self.kind_of_step: dict[str, Tensor] = {}
        for name in asked.generated:
            own = [weights[name] for weights in by_step]
            self.kinds[name] = [weights for step, weights in enumerate(own) if weights not in own[:step]]
            kinds = [self.kinds[name].index(weights) for weights in own]
            self.kind_of_step[name] = torch.tensor([*kinds, kinds[-1]], device=device)  # at the data nothing moves
        self.branches = required_branches(*(weights for kinds in self.kinds.values() for weights in kinds))

    def guide(
        self, name: str, predictions: Mapping[Branch, Tensor], sample: Tensor, sigma: Tensor, number: Tensor
    ) -> Tensor:
        """Make one velocity out of those of the branches, each sample by the guidance of its step.

        Args:
            name: Modality.
            predictions: Velocities of all branches, [B, C, F, H, W] or [B, L, C].
            sample: What they saw, same shape.
            sigma: Its noise level, [B] or per latent.
            number: Number of the step of each sample, [B].
        """
        first, *others = (
            self.guidance[name].guide(predictions, weights, sample, sigma) for weights in self.kinds[name]
        )
        kind = expand_sigma(self.kind_of_step[name][number], sample)
        for index, guided in enumerate(others, start=1):
            first = torch.where(kind == index, guided, first)
        return first


def named(velocities: tuple[Tensor | None, ...]) -> dict[str, Tensor | None]:
    """Outputs of the transformer by modality."""
    return dict(zip(MODALITIES, velocities, strict=False))


def without_adapter(transformer: Any, **arguments: Any) -> Any:
    """Velocities of a transformer without the adapter that is trained, to the bit: it counts 0 times."""
    with rescale_adapter_scale(transformer, 0):
        return transformer(**arguments, return_dict=False)


def frozen_copy(transformer: Any, config: TrainConfig, device: torch.device) -> Any:
    """The transformer as it is now, in the run's number format."""
    teacher = copy.deepcopy(transformer).requires_grad_(False).eval()
    cast_weights(teacher, DTYPES[config.mixed_precision])
    is_there = all(weight.device == device for weight in teacher.parameters())
    return teacher if is_there else teacher.to(device)  # which weights without values cannot


def begin_distillation(
    config: TrainConfig,
    pipeline: TeacherPipeline | None,
    phases: Phases | None,
    transformer: Any,
    device: torch.device,
    autocast: Callable[[], AbstractContextManager[Any]],
) -> Distillation | None:
    """Put student and teacher together, before the first step; None for a run without a teacher.

    Args:
        config: The run's settings.
        pipeline: That the teacher lies in; None without a teacher.
        phases: Levels of both; None without a teacher.
        transformer: To be trained, from `prepare_transformer`, in this process alone.
        device: Where a teacher of its own weights is needed.
        autocast: Begins the number format of the computation.
    """
    if pipeline is None or phases is None:
        return None
    if config.train == "lora":
        teacher = partial(without_adapter, transformer)
    else:
        teacher = partial(frozen_copy(transformer, config, device), return_dict=False)

    def taught(**arguments: Any) -> Any:
        with autocast():
            return teacher(**arguments)

    return Distillation(config, pipeline, phases, partial(transformer, return_dict=False), taught)
