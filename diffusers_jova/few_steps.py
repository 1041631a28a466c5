"""FewSteps: how a student of few steps is asked, kept with its weights, and what is said where it is asked otherwise.

A student (`jova distill`) takes one straight step from level to level of its own schedule, and has the guidance of its
teacher in its weights: other levels, another solver or guidance on top give noise. An adapter holds the record in the
header of its file, a pipeline in its config.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.lora_base import LORA_WEIGHT_NAME_SAFE
from diffusers.utils import logging
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from .generation_defaults import GenerationDefaults
from .guidance import CONDITIONAL
from .number_arguments import positive_number, whole_number
from .scheduling_flow_match_av import FlowMatchAudioVideoScheduler
from .whole_files import share_as_folder, written_whole


logger = logging.get_logger(__name__)

HEADER = "jova_few_steps"  # of an adapter's file
EULER = ("euler", "FlowMatchEulerDiscreteScheduler")  # of ours, and of diffusers applied to each modality
UNGUIDED: Mapping[str, float | None] = {  # arguments of a call
    "guidance_scale": 1.0,
    "audio_guidance_scale": None,
    "coupling_scale": 1.0,
    "audio_coupling_scale": None,
    "audio_speaker_scale": 1.0,
    "zero_init_steps": 0,
    "audio_zero_init_steps": None,
}
LEVEL_TOLERANCE = 1e-6  # of float32 levels in [0, 1] that were computed by another way


@dataclass(frozen=True, kw_only=True)
class FewSteps:
    """What a student needs of a call.

    Args:
        num_inference_steps: Steps, each from a level of `scheduler` to the next, by the solver "euler".
        shift: Of the video levels.
        audio_shift: Of the audio levels.
    """

    num_inference_steps: int
    shift: float
    audio_shift: float

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "num_inference_steps", whole_number("num_inference_steps", self.num_inference_steps, least=1)
        )
        for name in ("shift", "audio_shift"):
            object.__setattr__(self, name, positive_number(name, getattr(self, name), "train the student again"))

    @classmethod
    def from_dict(cls, values: Any, where: str) -> "FewSteps":
        """Read a record.

        Args:
            values: As `to_dict` gives it.
            where: It stands, for the message.

        Raises:
            ValueError: It is none.
        """
        names = [field.name for field in fields(cls)]
        if not isinstance(values, Mapping) or {*values} != {*names}:
            raise ValueError(f"`few_steps` in {where} must hold {', '.join(names)}, got {values!r}; save it anew")
        return cls(**values)

    @classmethod
    def from_header(cls, header: Mapping[str, str]) -> "FewSteps | None":
        """Read the record in the header of an adapter; None where the adapter is no student."""
        if HEADER not in header:
            return None
        try:
            values = json.loads(header[HEADER])
        except json.JSONDecodeError:
            values = header[HEADER]
        return cls.from_dict(values, f"the header of an adapter, `{HEADER}`,")

    def to_dict(self) -> dict[str, Any]:
        """The record, as JSON holds it."""
        return asdict(self)

    def to_header(self) -> dict[str, str]:
        """The record, as the header of an adapter holds it."""
        return {HEADER: json.dumps(self.to_dict())}

    def __str__(self) -> str:
        steps = f"{self.num_inference_steps} step{'s' * (self.num_inference_steps > 1)}"
        return f"{steps} of Euler at shifts {self.shift:g} and {self.audio_shift:g} without guidance"

    @property
    def scheduler(self) -> FlowMatchAudioVideoScheduler:
        """The scheduler that a student walks with."""
        return FlowMatchAudioVideoScheduler(shift=self.shift, audio_shift=self.audio_shift, solver="euler")

    @property
    def defaults(self) -> dict[str, Any]:
        """Arguments of a call: as many steps, without guidance."""
        return {**UNGUIDED, "num_inference_steps": self.num_inference_steps}

    def difference(self, settings: GenerationDefaults, scheduler: FlowMatchAudioVideoScheduler) -> str:
        """Say what of a call is otherwise; empty where it is as it should be.

        Args:
            settings: Of the call.
            scheduler: With its timesteps set.
        """
        own = self.scheduler
        own.set_timesteps(self.num_inference_steps)
        said = []
        if len(scheduler.timesteps) != self.num_inference_steps:
            number = len(scheduler.timesteps)
            said.append(f"{number} step{'s' * (number > 1)}")
        elif not all(
            torch.allclose(walked.cpu(), wanted, rtol=0, atol=LEVEL_TOLERANCE)
            for walked, wanted in ((scheduler.sigmas, own.sigmas), (scheduler.audio_sigmas, own.audio_sigmas))
        ):
            said.append("other noise levels")
        if scheduler.config["solver"] not in EULER:
            said.append(f"the solver {scheduler.config['solver']}")
        num_steps = len(scheduler.timesteps)
        if any(guidance.zero_init_steps for guidance in settings.guidance().values()):
            said.append("first steps without velocity")
        guided = [
            name
            for name, guidance in settings.guidance().items()
            if any({*guidance.weights(step, num_steps)} - {CONDITIONAL} for step in range(num_steps))
        ]
        if guided:
            said.append(f"guidance of {' and '.join(guided)}")
        return ", ".join(said)


def finish_adapter(folder: str | Path, weight_name: str | None, few_steps: FewSteps | None) -> None:
    """Add what diffusers leaves out where it saves an adapter: a student's record, and readers besides its owner.

    Args:
        folder: That it was saved in.
        weight_name: Of its file; None for the usual one.
        few_steps: Of a student; None for other adapters.
    """
    file = Path(folder, weight_name or LORA_WEIGHT_NAME_SAFE)
    if few_steps is not None:
        write_record(file, few_steps)
    share_as_folder(file)  # which safetensors gives to its owner alone


def write_record(file: Path, few_steps: FewSteps) -> None:
    """Write the record of a student into the header of its adapter, a safetensors file."""
    with safe_open(file, framework="pt") as opened:
        header = opened.metadata() or {}
    tensors = load_file(file)
    with written_whole(file) as partial:
        save_file(tensors, partial, metadata={**header, **few_steps.to_header()})


@dataclass(frozen=True)
class SetAside:
    """What a pipeline asked before it took what a student wants.

    Args:
        few_steps: That it took.
        defaults: It had.
        scheduler: It had.
        taken: Scheduler that it took.
    """

    few_steps: FewSteps
    defaults: GenerationDefaults
    scheduler: Any
    taken: Any


class JoVAFewStepsMixin:
    """What a pipeline knows of students: adapters that are active, or its own transformer."""

    transformer: Any
    scheduler: Any
    config: Any
    handed_in: frozenset[str]
    defaults: GenerationDefaults
    before_few_steps: SetAside | None = None

    @property
    def few_steps(self) -> FewSteps | None:
        """How the active student wants to be asked; None without one.

        Raises:
            ValueError: Several are active that want different things.
        """
        found = self._students()
        if len({*found.values()}) > 1:
            raise ValueError(
                "students of few steps must be used one at a time, got "
                f"{', '.join(f'{name} ({few_steps})' for name, few_steps in found.items())}; use one of "
                "them, in Python by `set_adapters`"
            )
        return next(iter(found.values()), None)

    def use_few_steps(self) -> None:
        """Take the steps, the levels and the solver of the active student as defaults, and no guidance.

        Raises:
            ValueError: No student is active, or several that want different things.
        """
        if (few_steps := self.few_steps) is None:
            raise ValueError(
                "`use_few_steps` must be called with a student of few steps, got none; load an adapter that `jova "
                "distill` made"
            )
        self.take_few_steps(few_steps)

    def take_few_steps(self, few_steps: FewSteps) -> None:
        """Take what a student wants as defaults, until it is unloaded."""
        self.leave_few_steps()
        before, taken = (self.defaults, self.scheduler), few_steps.scheduler
        self.defaults, self.scheduler = replace(self.defaults, **few_steps.defaults), taken
        self.before_few_steps = SetAside(few_steps, *before, taken)

    def leave_few_steps(self) -> None:
        """Put back what `take_few_steps` set aside; what has been set since then stays."""
        if (before := self.before_few_steps) is None:
            return
        own = {
            name: getattr(before.defaults, name)
            for name, value in before.few_steps.defaults.items()
            if getattr(self.defaults, name) == value
        }
        self.defaults = replace(self.defaults, **own)
        if self.scheduler is before.taken:
            self.scheduler = before.scheduler
        self.before_few_steps = None

    def leave_few_steps_of_none(self) -> None:
        """The same where the student is no longer in the transformer."""
        loaded = [
            *self._own_student().values(),
            *getattr(self.transformer, "adapter_few_steps", {}).values(),
            *getattr(self.transformer, "fused_few_steps", {}).values(),
            *getattr(self.transformer, "unloaded_few_steps", ()),
        ]
        if self.before_few_steps is not None and self.before_few_steps.few_steps not in loaded:
            self.leave_few_steps()

    def _own_student(self) -> dict[str, FewSteps]:
        """The model that the pipeline was saved with, if it is a student, by what it is called."""
        own = None if "transformer" in self.handed_in else self.config.get("few_steps")
        return {} if own is None else {"the model": FewSteps.from_dict(own, "the config of a pipeline")}

    def _students(self) -> dict[str, FewSteps]:
        """The active students by name."""
        found = self._own_student()
        loaded = getattr(self.transformer, "adapter_few_steps", {})
        active = {name: loaded[name] for name in active_adapters(self.transformer) if name in loaded}
        merged = getattr(self.transformer, "fused_few_steps", {})
        for few_steps in getattr(self.transformer, "unloaded_few_steps", ()):
            found[f"an adapter in the weights ({len(found)})" if found else "an adapter in the weights"] = few_steps
        return found | {f"`{name}`": few_steps for name, few_steps in {**merged, **active}.items()}

    def warn_of_more_steps(self, settings: GenerationDefaults, scheduler: FlowMatchAudioVideoScheduler) -> None:
        """Say in one line where the active student is asked otherwise than it was made for, or none is active."""
        students, before = self._students(), self.before_few_steps
        if before is not None and not students and not before.few_steps.difference(settings, scheduler):
            logger.warning(
                f"the call takes {before.few_steps}, as `use_few_steps` has set, and no student is active: expect "
                "noise; call `leave_few_steps`, or activate the student"
            )
        for name, few_steps in students.items():
            if other := few_steps.difference(settings, scheduler):
                logger.warning(
                    f"{name} is a student made for {few_steps}, got {other}: expect noise; leave these out, in Python "
                    "after `pipe.use_few_steps()`"
                )


def active_adapters(transformer: nn.Module) -> list[str]:
    """Names of the adapters that change what a transformer computes: those of weight 0 do not."""
    layers = [module for module in transformer.modules() if isinstance(module, BaseTunerLayer)]
    names = {name: None for layer in layers if not layer.disable_adapters for name in layer.active_adapters}
    return [name for name in names if any(layer.scaling.get(name) for layer in layers)]
