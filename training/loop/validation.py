"""Clips made during training, with the weights of the moment, so that an ear and an eye can follow a run."""

from __future__ import annotations

import warnings
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import DistributedType

from diffusers_jova import JoVAPipeline
from diffusers_jova.clip_call import call_arguments, read_credentials, tell
from diffusers_jova.training.loop.config import TrainConfig
from diffusers_jova.training.loop.distribution import is_first_process
from diffusers_jova.training.loop.trainer import Trainer
from diffusers_jova.training.loop.validation_measures import ValidationMeasures
from jova_cli.generate import add_clip_arguments, check_clip, default_arguments
from jova_cli.given_paths import kind_of
from jova_cli.parser import one_line
from jova_cli.prompt_list import check_list, read_rows
from jova_cli.shipped import check_source, find_model


FOLDER = "validation"  # within the output folder
OF_THE_TRAINING = ("lora", "model", "device")  # columns of a list that have no say here


class ValidationClips:
    """Makes clips of a run, each always from the same noise: what a `Trainer` calls every few steps.

    Args:
        config: Of the run. Its `pipeline`, or `model`, has what encodes prompts and decodes latents.

    Raises:
        ValueError: There is none, or a row of the list is wrong.
    """

    def __init__(self, config: TrainConfig) -> None:
        pipeline = config.pipeline or config.model
        source = Path(find_model(pipeline))
        check_source("pipeline", str(source))
        if kind_of(source) and kind_of(source / "model_index.json") != "file":
            raise ValueError(
                f"`pipeline` must be a saved pipeline to make validation clips, got `{source}`; "
                "name one, or set `validate_every: null`"
            )
        self.source = str(source)
        self.clips = validation_clips(config, self.source)
        self.pipeline: Any = None
        self.told: set[str] = set()
        self.measures = None
        if config.validation_measures and is_first_process():
            self.measures = ValidationMeasures(config, Path(config.output_dir) / FOLDER, self.clips, self._tell)

    def __call__(self, trainer: Trainer, step: int) -> dict[str, float]:
        """Writes `validation/step-<step>-<clip>.mp4` below the output folder; where it cannot, the run goes on.

        Under FSDP an error while a clip is made ends the run: the other processes wait in the middle of a model.

        Returns:
            What `ValidationMeasures` say of the clips, in the main process; empty in others.
        """
        is_sharded = trainer.accelerator.distributed_type == DistributedType.FSDP  # then every process must take part
        if not (trainer.accelerator.is_main_process or is_sharded):
            return {}
        failure = agreed_failure(trainer, partial(self._prepare, trainer))
        made: dict[Path, Namespace] = {}
        for args in self.clips:
            if failure is None:
                path = args.output.with_name(f"step-{step:08d}-{args.output.name}")
                clip = self._make_clip(args) if is_sharded else None
                failure = agreed_failure(trainer, partial(self._write_clip, trainer, path, args, clip))
                made |= {path: args} if failure is None else {}
        self._move(torch.device("cpu"))
        trainer.transformer.train()
        values = self._measure(step, made) if trainer.accelerator.is_main_process else {}
        if failure is not None:
            warnings.warn(f"validation failed at step {step}, the run goes on: {failure}", stacklevel=2)
        return values

    def _prepare(self, trainer: Trainer) -> None:
        """Loads what the pipeline has besides the transformer and brings it to the device."""
        if self.pipeline is None:
            self.pipeline = JoVAPipeline.from_pretrained(self.source, transformer=trainer.transformer)
            self.pipeline.set_progress_bar_config(disable=True)
            if trainer.few_steps is not None:
                self.pipeline.take_few_steps(trainer.few_steps)
        trainer.transformer.eval()
        self._move(trainer.device)

    def _make_clip(self, args: Namespace) -> Any:
        """Makes one clip."""
        generator = torch.Generator().manual_seed(args.seed)
        return self.pipeline(**call_arguments(args, self._tell), generator=generator)

    def _tell(self, line: str) -> None:
        """Say once what of given files is left out."""
        if line not in self.told:
            self.told.add(line)
            tell(line)

    def _measure(self, step: int, made: dict[Path, Namespace]) -> dict[str, float]:
        """Measure the clips of a step; where that fails, the run goes on."""
        try:
            return self.measures(made) if self.measures is not None and made else {}
        except Exception as error:
            reason = f"{type(error).__name__}: {one_line(error)}"
            warnings.warn(f"validation clips of step {step} are not measured, the run goes on: {reason}", stacklevel=3)
            return {}

    def _write_clip(self, trainer: Trainer, path: Path, args: Namespace, clip: Any) -> None:
        """Writes one clip, which is made here unless it is given; the main process writes."""
        clip = self._make_clip(args) if clip is None else clip
        if trainer.accelerator.is_main_process:
            path.parent.mkdir(parents=True, exist_ok=True)
            clip.save(path, metadata=not args.no_metadata, credentials=read_credentials(args))

    def _move(self, device: torch.device) -> None:
        """Brings everything but the transformer to a device: training needs the memory."""
        if self.pipeline is None:
            return
        for name, component in self.pipeline.components.items():
            if isinstance(component, torch.nn.Module) and name != "transformer":
                component.to(device)


def validation_clips(config: TrainConfig, pipeline: str) -> list[Namespace]:
    """The words of a single call for each clip, with a seed.

    Args:
        config: Of the run.
        pipeline: Folder or Hub id of what makes them.

    Raises:
        ValueError: A row of the list is wrong.
    """
    common = default_arguments()
    common.model, common.output = pipeline, Path(config.output_dir) / FOLDER
    common.steps = config.validation_steps if config.student_steps is None else None  # a student has its own

    def whole(**own: Any) -> Namespace:
        return Namespace(**{**vars(common), **own})

    if config.validation_list is None:
        names = (f"{index:02d}.mp4" for index in range(len(config.validation_prompts)))
        said = zip(names, config.validation_prompts, strict=True)
        clips = [whole(prompt=prompt, output=common.output / name) for name, prompt in said]
    else:
        common.prompts = Path(config.validation_list)
        check_list(common.prompts, None, "validation_list")
        rows, refused = read_rows(
            common, add_clip_arguments, lambda args: check_clip(whole(**vars(args))), "validation_list"
        )
        for line in refused:
            own = [name for name in OF_THE_TRAINING if f"got `{name}`" in line.reason]
            why = "; a validation makes its clips by what is trained, where it is trained" if own else ""
            raise ValueError(line.reason + why)
        clips = [whole(**vars(row.args)) for row in rows]
    for index, args in enumerate(clips):
        if args.seed is None:
            args.seed = config.seed + index
    return clips


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
