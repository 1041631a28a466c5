"""Clips made during training, with the weights of the moment, so that an ear and an eye can follow a run."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import DistributedType

from diffusers_jova import JoVAPipeline
from diffusers_jova.training.loop.trainer import Trainer
from jova_cli.given_paths import kind_of
from jova_cli.parser import one_line
from jova_cli.shipped import check_source, find_model


class ValidationClips:
    """Makes one clip per validation prompt, always from the same noise: what a `Trainer` calls every few steps.

    Args:
        pipeline: Folder or Hub id of the pipeline whose other components encode prompts and decode latents.
        prompts: What the clips show.
        num_inference_steps: Denoising steps; a student of few steps has its own.
        seed: Seed of the noise of the first clip.
    """

    def __init__(self, pipeline: str, prompts: tuple[str, ...], num_inference_steps: int, seed: int) -> None:
        source = Path(find_model(pipeline))
        check_source("pipeline", str(source))
        if kind_of(source) and kind_of(source / "model_index.json") != "file":
            raise ValueError(
                f"`pipeline` must be a saved pipeline to make validation clips, got `{source}`; "
                "name one, or set `validate_every: null`"
            )
        self.source, self.prompts = str(source), prompts
        self.num_inference_steps, self.seed = num_inference_steps, seed
        self.pipeline: Any = None

    def __call__(self, trainer: Trainer, step: int) -> None:
        """Writes `validation/step-<step>-<prompt>.mp4` below the output folder; where it cannot, the run goes on.

        Under FSDP an error while a clip is made ends the run: the other processes wait in the middle of a model.
        """
        is_sharded = trainer.accelerator.distributed_type == DistributedType.FSDP  # then every process must take part
        if not (trainer.accelerator.is_main_process or is_sharded):
            return
        failure = agreed_failure(trainer, partial(self._prepare, trainer))
        for index in range(len(self.prompts)):
            if failure is None:
                clip = self._make_clip(index) if is_sharded else None
                failure = agreed_failure(trainer, partial(self._write_clip, trainer, step, index, clip))
        if failure is not None:
            warnings.warn(f"validation failed at step {step}, the run goes on: {failure}", stacklevel=2)
        self._move(torch.device("cpu"))
        trainer.transformer.train()

    def _prepare(self, trainer: Trainer) -> None:
        """Loads what the pipeline has besides the transformer and brings it to the device."""
        if self.pipeline is None:
            self.pipeline = JoVAPipeline.from_pretrained(self.source, transformer=trainer.transformer)
            self.pipeline.set_progress_bar_config(disable=True)
            if trainer.few_steps is not None:
                self.pipeline.take_few_steps(trainer.few_steps)
                self.num_inference_steps = trainer.few_steps.num_inference_steps
        trainer.transformer.eval()
        self._move(trainer.device)

    def _make_clip(self, index: int) -> Any:
        """Makes the clip of one prompt."""
        generator = torch.Generator().manual_seed(self.seed + index)
        return self.pipeline(self.prompts[index], num_inference_steps=self.num_inference_steps, generator=generator)

    def _write_clip(self, trainer: Trainer, step: int, index: int, clip: Any) -> None:
        """Writes the clip of one prompt, which is made here unless it is given; the main process writes."""
        clip = self._make_clip(index) if clip is None else clip
        if trainer.accelerator.is_main_process:
            clip.save(self._path(trainer.output_dir, step, index))

    def _move(self, device: torch.device) -> None:
        """Brings everything but the transformer to a device: training needs the memory."""
        if self.pipeline is None:
            return
        for name, component in self.pipeline.components.items():
            if isinstance(component, torch.nn.Module) and name != "transformer":
                component.to(device)

    def _path(self, output_dir: Path, step: int, index: int) -> Path:
        path = output_dir / "validation" / f"step-{step:08d}-{index:02d}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def agreed_failure(trainer: Trainer, part: Callable[[], None]) -> str | None:
    """Run a part of a validation; returns what went wrong, here or under FSDP in any process, or None."""
    failure = None
    try:
        part()
    except Exception as error:
        failure = f"{type(error).__name__}: {one_line(error)}"
    if trainer.accelerator.distributed_type == DistributedType.FSDP:
        failures = torch.tensor(float(failure is not None), device=trainer.device)
        if trainer.accelerator.reduce(failures) > 0:
            failure = failure or "in another process"
    return failure
