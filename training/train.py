"""Train a JoVA transformer on prepared clips: the work of `jova train`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from accelerate.utils import parse_flag_from_env
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from diffusers_jova.folder_lock import FolderInUseError
from diffusers_jova.training.assumed_clip import assumed_clip
from diffusers_jova.training.estimate import describe
from diffusers_jova.training.loop.config import TrainConfig, load_yaml, parse_overrides
from diffusers_jova.training.loop.distribution import is_first_process
from diffusers_jova.training.loop.preemption import PreemptedError
from diffusers_jova.training.loop.publish import UploadError, prepare_repository, push_to_hub, write_model_card
from diffusers_jova.training.loop.trainer import Trainer
from diffusers_jova.training.loop.validation import ValidationClips
from diffusers_jova.training.memory_choice import allowed, fit_training
from diffusers_jova.whole_files import FullDiskError
from jova_cli.clip_limits import Bucket
from jova_cli.parser import Parser, one_line
from jova_cli.progress import is_seen
from jova_cli.train import parse


class GPUMemoryError(RuntimeError):
    """A run that does not fit into the GPU's memory; the message says what to change."""


class InputError(ValueError):
    """Settings, clips or weights that do not fit together, found before the first step."""


RUN_ERRORS = (
    InputError,
    GPUMemoryError,
    FloatingPointError,
    FullDiskError,
    FolderInUseError,
    UploadError,
)  # that say what to do


@contextmanager
def checked_input() -> Iterator[None]:
    """Mark what is raised while a run is put together as a mistake in its input."""
    try:
        yield
    except (OSError, ValueError, ImportError) as error:
        raise InputError(one_line(error)) from error


@contextmanager
def explained_out_of_memory(config: TrainConfig) -> Iterator[None]:
    """Say what to change where a run does not fit into the GPU's memory."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise GPUMemoryError(
            f"the run must fit into the GPU's memory, got {one_line(error)!r}; try in this order: "
            f"{', '.join(memory_savers(config))}; the run continues from its last checkpoint, but for `resume=false`"
        ) from error


def memory_savers(config: TrainConfig) -> list[str]:
    """List what takes less memory and is not set yet, the cheapest first."""
    samples = config.batch_size * config.gradient_accumulation_steps
    is_whole = config.distribution in ("none", "ddp")  # bitsandbytes does not shard
    more = config.blocks_to_swap + 10
    can_swap = allowed(config, gradient_checkpointing=True, blocks_to_swap=more) is not None
    can_quantize = config.quantize == "none" and allowed(config, quantize="nf4") is not None
    savers = (
        (not config.gradient_checkpointing, "`gradient_checkpointing=true`"),
        (config.batch_size > 1, f"`batch_size=1 gradient_accumulation_steps={samples}`"),
        (can_swap, f"`blocks_to_swap={more}`, say"),
        (can_quantize, "`quantize=nf4 resume=false`" + (" without blocks that wait" if can_swap else "")),
        (config.optimizer == "adamw" and is_whole, "`optimizer=adamw_8bit resume=false`"),
        (True, "clips prepared with smaller `--buckets`"),
    )
    return [words for helps, words in savers if helps]


@contextmanager
def worded_errors(parser: Parser) -> Iterator[None]:
    """End a command with one sentence where an error says what to do; all others keep their traceback."""
    try:
        yield
    except PreemptedError as error:
        parser.exit(128 + error.signal, f"{parser.prog}: {one_line(error)}\n")  # as shells report it
    except RUN_ERRORS as error:
        parser.error(one_line(error))


def main(argv: Sequence[str] | None = None) -> None:
    """Read the preset and the overrides, train, and say where the result is."""
    parser, args = parse(argv)
    parser.run(execute, args)


def execute(parser: Parser, args: argparse.Namespace) -> None:
    """Train as the words say, or tell what that would take."""
    with worded_errors(parser):
        with checked_input():
            config = load_yaml(args.config, args.own | parse_overrides(args.overrides), tell)
            if args.estimate:
                estimate(config, args)
                return
            check_adapted(config)
            config = fitted(config, args)
        run(config)


def check_adapted(config: TrainConfig) -> None:
    """Refuse an adapter of random weights, which nobody has afterwards.

    Raises:
        ValueError: It would be one.
    """
    if config.train == "lora" and config.model.endswith(".json"):
        raise ValueError(
            f"`model` must have trained weights for an adapter, got the config `{config.model}`; name a pipeline, or "
            "set `train=full`"
        )


def estimate(config: TrainConfig, args: argparse.Namespace) -> None:
    """Tell what a run takes; clips whose size is given need not be there."""
    clips = nullcontext(config) if args.bucket is None else assumed_clip(config, Bucket.parse(args.bucket))
    with clips as settings:
        tell(describe(fitted(settings, args), args))


def fitted(config: TrainConfig, args: argparse.Namespace) -> TrainConfig:
    """The settings, and with them what fits the run into the memory that the words name."""
    if args.memory is None:
        return config
    config, chosen = fit_training(config, args.memory, device_of(args))
    tell(chosen)
    return config


def device_of(args: argparse.Namespace) -> torch.device:
    """Kind of device that is meant by words: of an estimate the one that they name, else the one that trains."""
    if args.estimate:
        return torch.device(args.device)
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.cuda.is_available()
    return torch.device("cpu" if on_cpu else "cuda")


def tell(line: str) -> None:
    """Say something once, however many processes were started."""
    if is_first_process():
        print(line)


def keep_bars_on_the_terminal() -> None:
    """Let libraries draw bars while they load where somebody sees them, and once."""
    if not (is_seen() and is_first_process()):
        diffusers_logging.disable_progress_bar()
        transformers_logging.disable_progress_bar()


def run(config: TrainConfig) -> None:
    """Train, describe the result and upload it if the configuration asks for that."""
    keep_bars_on_the_terminal()
    with explained_out_of_memory(config):
        with checked_input():
            trainer = assemble(config)
        path = trainer.train()
    if trainer.accelerator.is_main_process:
        print(f"{trainer.step} of {config.steps} steps are done in {path}")
        if trainer.step == config.steps:
            print(f"{write_model_card(path, config, trainer.teacher)} says how to load the result")
            if config.push_to_hub is not None:
                print(f"uploaded to {push_to_hub(path, config.push_to_hub)}")


def assemble(config: TrainConfig) -> Trainer:
    """Put the run together; what does not fit is an error here, before the first step."""
    on_validate = None
    if config.validate_every is not None and (config.validation_prompts or config.validation_list):
        on_validate = ValidationClips(config)
    trainer = Trainer(config, on_validate)
    if config.push_to_hub is not None and trainer.accelerator.is_main_process:
        prepare_repository(config.push_to_hub, config.hub_private_repo)
    return trainer


if __name__ == "__main__":
    main()
