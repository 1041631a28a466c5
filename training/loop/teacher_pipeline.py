"""What a student learns of the pipeline that its teacher lies in: guidance, noise levels, and the negative prompt."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusers_jova.denoising import TextConditions
from diffusers_jova.few_steps import FewSteps
from diffusers_jova.guidance import Guidance
from diffusers_jova.hub_access import explained_hub
from diffusers_jova.pipeline_jova import JoVAPipeline
from diffusers_jova.saved_pipeline import COMPONENTS, TEXT, model_defaults
from diffusers_jova.scheduling_flow_match_av import FlowMatchAudioVideoScheduler
from diffusers_jova.training.data.dataset import Batch
from diffusers_jova.training.loop.conditioning import SPOKEN_TEXT, TEXTS
from diffusers_jova.training.loop.config import TrainConfig
from diffusers_jova.training.loop.tasks import tasks_of
from jova_cli.given_paths import kind_of
from jova_cli.model_info import INDEX, read_index
from jova_cli.shipped import find_model


class TeacherPipeline:
    """The pipeline of a teacher, of which nothing but configs is loaded until its negative prompt is needed.

    Args:
        config: The run's settings.
        empty_prompt: Gives the embedding of the empty prompt as a batch of one, if it is asked for.
        device: Where the transformer is.

    Attributes:
        few_steps: How the student will be asked.
        guidance: Of each modality of the teacher.

    Raises:
        ValueError: There is no such pipeline, it is a student itself, or what it does cannot be learned.
    """

    def __init__(self, config: TrainConfig, empty_prompt: Callable[[], Batch], device: torch.device) -> None:
        self.source = teacher_source(config)
        self.index = index_of(self.source)
        self.empty_prompt, self.device = empty_prompt, device
        for place in (config.model, self.source):
            check_no_student(place)
        own = model_defaults(self.source)
        self.defaults = own.override(
            guidance_scale=config.teacher_guidance_scale,
            audio_guidance_scale=config.teacher_audio_guidance_scale,
            audio_speaker_scale=1.0,  # records hold no voices of speakers
        )
        self.guidance: dict[str, Guidance] = self.defaults.guidance()
        if any(task.has_voice for task in tasks_of(config)) and own.audio_negative_prompt:
            raise ValueError(
                "`tasks` must be without voice for a student of a pipeline with an `audio_negative_prompt`, which "
                f"records do not hold behind a voice, got {own.audio_negative_prompt!r}; leave voice out"
            )
        assert config.student_steps is not None
        walked = FlowMatchAudioVideoScheduler.from_scheduler(self.load("scheduler").scheduler).config
        self.few_steps = FewSteps(
            num_inference_steps=config.student_steps, shift=walked["shift"], audio_shift=walked["audio_shift"]
        )
        steps = range(config.teacher_steps)
        asked = [g.weights(step, config.teacher_steps) for g in self.guidance.values() for step in steps]
        if any(not branch.text for weights in asked for branch in weights):
            self.negative_arguments(1)  # now, while no transformer takes memory

    def load(self, *names: str, **options: Any) -> JoVAPipeline:
        """Load some components, as a pipeline without the others."""
        with explained_hub("pipeline", self.source):
            others = {name: None for name in COMPONENTS if name not in names}
            return JoVAPipeline.from_pretrained(self.source, **others, **options)

    def describe(self) -> str:
        """Say in one line by what the student is taught."""
        scales = ", ".join(
            f"{name} {guidance.guidance_scale:g}"
            + (f" and coupling {guidance.coupling_scale:g}" if guidance.coupling_scale != 1 else "")
            for name, guidance in self.guidance.items()
        )
        return f"a student of {self.few_steps} learns from `{self.source}` with guidance {scales}"

    def fingerprint(self) -> dict[str, Any]:
        """What of it a run that continues must find again."""
        names = ("negative_prompt", "audio_negative_prompt")
        return {
            "guidance": {name: repr(guidance) for name, guidance in self.guidance.items()},
            "negative prompts": [getattr(self.defaults, name) for name in names],
            "skipped layer": self.index.get("negative_skip_layer"),
            "few steps": self.few_steps.to_dict(),
        }

    @property
    def negative_options(self) -> dict[str, Any]:
        """Arguments of the transformer in predictions without the prompt, besides its text."""
        layer = self.index.get("negative_skip_layer")
        return {} if layer is None else {"skip_layers": [layer]}

    def negative_arguments(self, batch_size: int) -> dict[str, Any]:
        """Text arguments of the transformer in predictions without the prompt."""
        return {name: repeated(value, batch_size) for name, value in self._negative.items()}

    @cached_property
    def _negative(self) -> dict[str, Any]:
        """The same for a batch of one: of records where the negative prompt is empty, else from the text encoders."""
        if self.defaults.negative_prompt or self.defaults.audio_negative_prompt:
            return self._encoded()
        return self._recorded()

    def _recorded(self) -> dict[str, Any]:
        """The same of the empty prompt of the records."""
        batch = self.empty_prompt()
        found = {argument: batch.get(name) for name, argument in TEXTS.items()}
        if batch.get(next(iter(SPOKEN_TEXT))) is not None:
            found |= {f"audio_{argument}": batch[name] for name, argument in SPOKEN_TEXT.items()}
        return {name: self._ready(value) for name, value in found.items()}

    @torch.no_grad()
    def _encoded(self) -> dict[str, Any]:
        """The same of a negative prompt that is not empty, by text encoders that go when it is done."""
        names = [name for name in TEXT if (self.index.get(name) or [None])[0] is not None]
        dtype = torch.float32 if self.device.type == "cpu" else torch.bfloat16
        pipeline = self.load(*names, dtype=dtype).to(self.device)
        pipeline.defaults = self.defaults
        _, negative, audio_negative = pipeline.encode_prompt("")
        assert negative is not None
        text = TextConditions(negative, negative, audio_negative)
        return {name: self._ready(value) for name, value in text.text_arguments([False], torch.float32).items()}

    def _ready(self, value: Any) -> Any:
        """A text or a mask where the transformer is; features in float32, as Conditioning gives them."""
        if not isinstance(value, Tensor):
            return value
        value = value.detach().to(self.device)
        return value.float() if value.is_floating_point() else value


class ValuelessTeacherPipeline(TeacherPipeline):
    """One whose negative prompt has the length of those of the records, so that no text encoder is loaded."""

    def _encoded(self) -> dict[str, Any]:
        return self._recorded()


def repeated(value: Any, batch_size: int) -> Any:
    """An argument for a batch of one, a tensor or a list, for all samples of a batch."""
    if isinstance(value, Tensor):
        return value.expand(batch_size, *value.shape[1:])
    return value * batch_size if isinstance(value, list) else value


def teacher_source(config: TrainConfig) -> str:
    """Folder or Hub id of the pipeline that a teacher lies in.

    Raises:
        ValueError: It lies in none.
    """
    source = find_model(config.pipeline or config.model)
    folder = Path(source)
    if config.pipeline is None and folder.name == "transformer" and (folder.parent / INDEX).is_file():
        return str(folder.parent)
    if kind_of(folder) and kind_of(folder / INDEX) != "file":
        raise ValueError(
            "`model` must be a saved pipeline to teach a student, with its guidance and its noise levels, got "
            f"`{source}`; name one, or add it as `pipeline`"
        )
    return source


def index_of(source: str) -> dict[str, Any]:
    """What the index of a pipeline says, of this machine or of the Hub."""
    with explained_hub("pipeline", source):
        return read_index(Path(source)) if kind_of(source) else dict(JoVAPipeline.load_config(source))


def check_no_student(model: str) -> None:
    """Refuse a teacher that is a student.

    Args:
        model: Folder of a pipeline or of its transformer, or its Hub id.

    Raises:
        ValueError: It is one.
    """
    folder = Path(find_model(model))
    folder = folder.parent if folder.name == "transformer" else folder
    if kind_of(folder) and kind_of(folder / INDEX) != "file":
        return
    if (record := index_of(str(folder)).get("few_steps")) is not None:
        raise ValueError(
            f"the teacher must be a model of many steps, got `{model}`, a student of "
            f"{FewSteps.from_dict(record, 'the config of a pipeline')}; name the model that it was made of"
        )
