"""The training loop: one branch alone or both together, whole or as an adapter, on what accelerate starts.

A step depends on nothing but the weights, the seed and its number: a run that was killed continues bit for bit, and R
processes take the steps of one process with R times the accumulation.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import DistributedType
from accelerate.utils import broadcast_object_list
from diffusers.training_utils import EMAModel
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor

from diffusers_jova.few_steps import FewSteps
from diffusers_jova.folder_lock import held_alone
from diffusers_jova.training.data.manifest import is_clip
from diffusers_jova.training.loop.block_swap import BlockSwap, check_swap
from diffusers_jova.training.loop.branches import check_frozen, digest_of_kept, frozen_checksums, idles
from diffusers_jova.training.loop.checkpoints import (
    CHECKPOINT_NAMES,
    check_fingerprint,
    latest_checkpoint,
    load_checkpoint,
    pack,
    rotate,
    save_checkpoint,
    unpack,
)
from diffusers_jova.training.loop.conditioning import Conditioning, ModelInputs
from diffusers_jova.training.loop.config import TrainConfig
from diffusers_jova.training.loop.distillation import begin_distillation
from diffusers_jova.training.loop.distribution import shard_by_block, start_accelerator
from diffusers_jova.training.loop.lora import adapter_digest, adapter_header
from diffusers_jova.training.loop.metrics import LossMeter, MetricsLog, check_tensorboard
from diffusers_jova.training.loop.microbatches import MicroBatches, seed_of
from diffusers_jova.training.loop.model import (
    describe_start,
    gather_weights,
    prepare_transformer,
    save_result,
)
from diffusers_jova.training.loop.objective import LossTerms
from diffusers_jova.training.loop.optimization import (
    Part,
    build_optimizer,
    continued_course,
    learning_rate_factor,
    new_course,
)
from diffusers_jova.training.loop.phases import Phases
from diffusers_jova.training.loop.preemption import NAMES, PreemptedError, Preemption
from diffusers_jova.training.loop.publish import complete_pipeline
from diffusers_jova.training.loop.run_clips import RunClips
from diffusers_jova.training.loop.step import build_conditioning, step_loss
from diffusers_jova.training.loop.teacher_pipeline import TeacherPipeline
from diffusers_jova.training.loop.validation_loss import ValidationLoss, shared_records, undropped
from diffusers_jova.whole_files import clear_leftovers
from jova_cli.given_paths import check_output_folder, kind_of
from jova_cli.tables import some


KEPT_WEIGHTS = "digest of the weights of the model that no checkpoint holds"
NOT_IN_OLDER = ("preparation", KEPT_WEIGHTS)  # checkpoints
DIGESTS = {  # of what a run began with, and what to say of others
    "adapter begun from": "`init_adapter` is another one, or one of both runs has none",
    "clips": "`data` holds other clips (an adapter goes on with them in an `output_dir` of their own, by "
    "`init_adapter`)",
    "preparation": "the clips were prepared with other settings, or for another model",
    KEPT_WEIGHTS: "the weights of `model` are others",
}


class Trainer:
    """Trains a transformer on prepared clips and leaves the result in `output_dir`.

    What does not fit together is refused at construction, which also loads the newest checkpoint, if there is one.

    Args:
        config: The run's settings.
        on_validate: Called with the trainer and the step every `validate_every` steps, under the averaged weights; the
            numbers that it returns in the main process are logged.
    """

    def __init__(
        self, config: TrainConfig, on_validate: Callable[[Trainer, int], Mapping[str, float] | None] | None = None
    ) -> None:
        self.config, self.on_validate = config, on_validate
        self.output_dir = Path(config.output_dir)
        check_output_dir(config)
        check_tensorboard(config)
        self.accelerator = start_accelerator(config)
        if self.accelerator.is_main_process and self.output_dir.is_dir():
            with held_alone(self.output_dir, "output_dir"):  # while a run trains there, nothing is loaded for another
                clear_leftovers(self.output_dir, CHECKPOINT_NAMES)
        # DeepSpeed keeps its optimizer to itself
        self.can_continue = self.accelerator.distributed_type != DistributedType.DEEPSPEED
        self.device = self.accelerator.device
        self.clips = RunClips.read(config, self.device if config.dataset_on_device else None)
        self.dataset, self.held_out = self.clips.own, self.clips.held_out
        self.clips.check_settings(config)
        self._tell_clips()

        self.teacher = self.phases = None
        if config.student_steps is not None:
            self.teacher = TeacherPipeline(config, self.dataset.empty_prompt, self.device)
            self.phases = Phases.of(self.teacher.few_steps, config.teacher_steps, self.device)
        torch.manual_seed(config.seed)  # the same weights in every process
        self.transformer: Any = prepare_transformer(config)
        self.clips.check_model(self.transformer, config)
        if self.accelerator.ddp_handler is not None:  # it waits for every gradient unless it looks for the absent ones
            idle = bool(self.clips.lacking) or idles(self.transformer, config)
            self.accelerator.ddp_handler.find_unused_parameters = idle
        self.kept_weights = digest_of_kept(self.transformer, config)
        self.start = describe_start(self.transformer, config)
        self.distillation = begin_distillation(
            config, self.teacher, self.phases, self.transformer, self.device, self.accelerator.autocast
        )
        optimizer = build_optimizer(self.transformer, config, self.device)
        self.swap = None
        if config.blocks_to_swap:
            check_swap(self.device)
            self.swap = BlockSwap(self.transformer, config.blocks_to_swap, self.device)
        shard_by_block(self.accelerator, self.transformer)
        self.model, self.optimizer = self.accelerator.prepare(
            self.transformer, optimizer, device_placement=[self.swap is None, True]
        )
        self.trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.frozen = frozen_checksums(self.transformer)
        self.shards = [local_shard(parameter) for parameter in self.trained]
        self.ema = EMAModel(self.shards, decay=config.ema_decay, foreach=True) if config.ema_decay else None
        self.conditioning = self._conditioning(config)
        self.validation_loss = None
        if self.held_out is not None:
            self.validation_loss = ValidationLoss(self.held_out, self._conditioning(undropped(config)))
        self.meter = LossMeter(config, self.device)
        self.step, self.course = 0, new_course(config)
        self.init_adapter = adapter_digest(config)
        self._resume()

    def train(self) -> Path:
        """Run to the last step; returns the folder of the result.

        Raises:
            FolderInUseError: If another run writes there.
        """
        with held_alone(self.output_dir, "output_dir") if self.accelerator.is_main_process else nullcontext():
            return self._train()

    def _train(self) -> Path:
        config, accelerator = self.config, self.accelerator
        batches = MicroBatches(
            config, self.dataset, self.clips.prior, accelerator.process_index, accelerator.num_processes, self.step
        )
        log, clock, stops, preempted = self._start_log(), Clock(self.step), False, False
        self._tell_beginning()
        with Preemption(accelerator.num_processes) as preemption:
            while self.step < config.steps and not stops:
                self.take_step(batches)
                if self.step == clock.first_step:
                    self._tell_first_step(clock)
                preempted = preemption.is_agreed()
                is_last = self.step == config.steps
                saves = is_last or preempted or self.step % config.checkpoint_every == 0
                if saves or self.step % config.log_every == 0:
                    stops = self._report(log, clock) or preempted
                if saves or stops:
                    self._save_checkpoint()
                if not preempted:
                    with clock.paused():
                        self._validate(log)
        path = self._finish(log)
        if preempted and self.step < config.steps:
            found = latest_checkpoint(self.output_dir)
            remedy = f"run the same command again to continue from `{found}`"
            if not self.can_continue:
                remedy = f"DeepSpeed cannot continue, start anew with the weights of `{found}`"
            name = NAMES[signal.Signals(preemption.signal)]
            raise PreemptedError(f"the run was ended by {name} after step {self.step}; {remedy}", preemption.signal)
        return path

    def take_step(self, batches: MicroBatches) -> None:
        """Take one optimizer step; the host never waits for the device here."""
        accelerator = self.accelerator
        factor = learning_rate_factor(self.step, self.config, self.course)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        for micro in range(self.config.gradient_accumulation_steps):
            with accelerator.accumulate(self.model):
                inputs = self._inputs(batches, micro)
                terms = self.loss(inputs)
                accelerator.backward(terms.total.mean())
                self.meter.add(terms, inputs)
                if accelerator.sync_gradients:
                    norm = accelerator.clip_grad_norm_(self.trained, self.config.max_grad_norm)
                    self.meter.add_gradient_norm(norm.full_tensor() if isinstance(norm, DTensor) else norm)
                self.optimizer.step()
                self.optimizer.zero_grad()
        if self.ema is not None:
            self.ema.step(self.shards)
        self.step += 1

    def loss(self, inputs: ModelInputs) -> LossTerms:
        """Predict the velocities of a micro-batch and compare them with the true ones, or with the teacher's."""
        return step_loss(self.model, inputs, self.config, self.distillation, self.step)

    def _tell_beginning(self) -> None:
        """Say what goes into the steps, of which the first may take minutes."""
        config = self.config
        if self.step == config.steps:
            return
        if self.step == 0:
            self._tell(self.start)
        if self.teacher is not None:
            self._tell(self.teacher.describe())
        if config.validation_prompts and config.validate_every is None:
            self._tell("`validation_prompts` are not used without `validate_every`")
        if config.warmup_steps > config.steps / 2:
            self._tell(f"the learning rate rises in {config.warmup_steps} of {config.steps} steps (`warmup_steps`)")
        num_trained, num_all = (sum(map(num_numbers, weights)) for weights in (self.trained, self.model.parameters()))
        num_clips = config.batch_size * config.gradient_accumulation_steps * self.accelerator.num_processes
        self._tell(
            f"step {self.step + 1} of {config.steps} begins: {num_clips} clips a step, {num_trained:,} of {num_all:,} "
            f"weights are trained, on {self.device}"
        )

    def _tell_first_step(self, clock: Clock) -> None:
        """Say how long the first step took; here alone the host waits for it."""
        float(self.meter.gradient_norm.sum())
        self._tell(f"step {self.step} is done after {clock.elapsed_s:.1f} s")

    def _tell(self, line: str) -> None:
        """Print a line, also into a file at once."""
        self.accelerator.print(line, flush=True)

    def _validate(self, log: MetricsLog | None) -> None:
        """Measure the averaged weights on held-out clips, and hand them to `on_validate`, where a step is due."""
        if not self.config.validate_every or self.step % self.config.validate_every:
            return
        with self.averaged_weights():
            if self.validation_loss is not None:
                values = self.validation_loss(self)
                self._check_finite(values, "the loss on `validation_data`")
                if log is not None:
                    log.write_validation(self.step, values)
            if self.on_validate is not None:
                measured = self.on_validate(self, self.step)
                if log is not None and measured:
                    log.write_clips(self.step, measured)

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Put the averaged weights in place of the trained ones for a while."""
        if self.ema is None:
            yield
            return
        self.ema.store(self.shards)
        self.ema.copy_to(self.shards)
        try:
            yield
        finally:
            self.ema.restore(self.shards)

    def _tell_clips(self) -> None:
        """Say what is trained on, and where a loss has nothing to act on."""
        config, trained, prior = self.config, self.clips.trained, self.clips.prior
        wants_mouths = config.mouth_weight > 0 and config.stage != "audio"
        for name, wanted in (("mouth", wants_mouths), ("face mask", config.face_mask_weight > 0)):
            headers = (header for dataset in trained for header in dataset.headers)
            if wanted and not any(header.has_mouth() for header in headers):
                self._tell(f"no clip in {config.data} has mouth boxes: the {name} loss will be 0")
        against = "" if prior is None else f", against forgetting on {prior.describe()}"
        held_out = "" if self.held_out is None else f", validation on {self.held_out.describe()}"
        self._tell(f"training on {self.dataset.describe()}{against}{held_out}")
        if self.held_out is not None and (shared := shared_records(self.held_out, trained)):
            self._tell(
                f"{len(shared)} of {len(self.held_out)} clips in `{config.validation_data}` are trained on as well "
                f"({shared[0]}): their loss tells nothing of others"
            )
        for dataset in (dataset for dataset in trained if dataset.is_unfinished):
            self._tell(
                f"`jova prepare` has not finished `{dataset.root}`: the run goes without the clips that are missing; "
                "prepare the rest first"
            )

    @property
    def few_steps(self) -> FewSteps | None:
        """How the result is to be asked, where it is a student of few steps."""
        return None if self.teacher is None else self.teacher.few_steps

    def _inputs(self, batches: MicroBatches, micro: int) -> ModelInputs:
        """Load and prepare the micro-batch of this process; its seed also decides the dropout."""
        part = micro * self.accelerator.num_processes + self.accelerator.process_index
        seed = seed_of(self.config.seed, self.step, part)
        torch.manual_seed(seed)
        return self.conditioning(batches.next(self.step), seed, self.step)

    def _conditioning(self, config: TrainConfig) -> Conditioning:
        """What turns clips into what the model sees, with the settings of this run or others."""
        return build_conditioning(config, self.dataset, self.transformer, self.device, self.phases)

    def _report(self, log: MetricsLog | None, clock: Clock) -> bool:
        """Write the means since the last report; returns whether the time is up, the same in every process."""
        config, accelerator = self.config, self.accelerator
        limit_s = math.inf if config.stop_after_minutes is None else 60 * config.stop_after_minutes
        steps_per_second = clock.steps_per_second(self.step)
        is_over = torch.tensor([float(clock.elapsed_s > limit_s)], device=self.device)
        sums = accelerator.reduce(torch.cat([self.meter.take(), is_over]))
        values = self.meter.read(sums[:-1])
        self._check_finite(values, "the loss")
        if log is not None:
            size = config.batch_size * config.gradient_accumulation_steps * accelerator.num_processes
            factor = learning_rate_factor(self.step - 1, config, self.course)
            values |= {"learning_rate": config.learning_rate * factor, "samples_per_second": steps_per_second * size}
            log.write(self.step, values)
        return bool(sums[-1] > 0)

    def _check_finite(self, values: Mapping[str, float], what: str) -> None:
        """Refuse to go on where the weights are lost."""
        if broken := [name for name, value in values.items() if not math.isfinite(value)]:
            raise FloatingPointError(
                f"{what} must be finite, got NaN or infinity at step {self.step} in {', '.join(broken)}; lower "
                "`learning_rate` or `max_grad_norm` and start again, the run continues from its last checkpoint; "
                "delete that one if it diverged before it was written"
            )

    def _start_log(self) -> MetricsLog | None:
        """Open the files of the run, in the main process only."""
        if not self.accelerator.is_main_process:
            return None
        self.output_dir.mkdir(parents=True, exist_ok=True)
        if self.step and (changes := self.config.changes_from(self.output_dir / "config.yaml")):
            self._tell(f"from step {self.step + 1} on {'; '.join(changes)}")
        self.config.save(self.output_dir / "config.yaml")
        return MetricsLog(self.output_dir, self.step, self.config.tensorboard)

    def _save_checkpoint(self) -> None:
        """Write trained weights, their averages and the optimizer; gathering them takes all processes."""
        parts = {"model": gather_weights(self.transformer, only_trained=True)}
        if self.ema is not None:
            with self.averaged_weights():
                parts["ema"] = gather_weights(self.transformer, only_trained=True)
        values: dict[str, Any] = {}
        if self.can_continue:
            options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
            optimizer: Any = get_optimizer_state_dict(self.transformer, self.optimizer.optimizer, options=options)
            parts["optimizer"], values = pack(optimizer.get("state", {}))  # empty in all processes but the main one
        if self.accelerator.is_main_process:
            scaler = self.accelerator.scaler
            state = {
                "fingerprint": self._fingerprint(),
                "course": self.course,
                "warmup_steps": self.config.warmup_steps,
                "optimizer": values,
                "scaler": scaler and scaler.state_dict(),
            }
            is_adapter = self.config.train == "lora"
            header = adapter_header(self.transformer, self.config, self.few_steps) if is_adapter else None
            path = save_checkpoint(self.output_dir, self.step, parts, state, header)
            rotate(self.output_dir, path, self.config.keep_checkpoints)
        self.accelerator.wait_for_everyone()

    def _resume(self) -> None:
        """Continue from the newest checkpoint, if the run may and there is one."""
        path = self._agreed_checkpoint() if self.config.resume else None
        if path is None:
            return
        parts, state = load_checkpoint(path)
        fingerprint = self._fingerprint()
        unsaid = self.config.unsaid_settings() | {name: fingerprint[name] for name in NOT_IN_OLDER}
        check_fingerprint(unsaid | state["fingerprint"], fingerprint, path, DIGESTS)
        if state["step"] > self.config.steps:
            raise ValueError(
                f"`steps` must be at least {state['step']} to continue from `{path}`, got {self.config.steps}; "
                "raise it, choose another `output_dir`, or start afresh with `resume=false`"
            )
        if "optimizer" not in parts or not self.can_continue:
            raise ValueError(
                f"`{path}` must not come from or go to DeepSpeed to be continued; use `distribution: fsdp`, or start "
                "afresh with `resume=false`"
            )
        options = StateDictOptions(full_state_dict=True, strict=False)
        if self.ema is not None:
            set_model_state_dict(self.transformer, parts["ema"], options=options)
            torch._foreach_copy_(self.ema.shadow_params, [shard.data for shard in self.shards])
            self.ema.optimization_step = state["step"]
        set_model_state_dict(self.transformer, parts["model"], options=options)
        groups = get_optimizer_state_dict(self.transformer, self.optimizer.optimizer)["param_groups"]
        optimizer = {"state": unpack(parts["optimizer"], state["optimizer"]), "param_groups": groups}
        set_optimizer_state_dict(self.transformer, self.optimizer.optimizer, optimizer, options=options)
        if self.accelerator.scaler is not None:  # fp16 only
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step = state["step"]
        course = [Part(*part) for part in state.get("course", ())]  # older checkpoints have none
        warmup_steps = state.get("warmup_steps", state["fingerprint"].get("warmup_steps"))  # there in older ones
        self.course = continued_course(course, self.step, self.config, warmup_steps)
        self._tell(f"continuing from {path} at step {self.step}")
        self._tell_warmup(warmup_steps)
        if self.course != course and self.step < self.config.steps:
            rate = self.config.learning_rate * learning_rate_factor(self.step, self.config, self.course)
            self._tell(f"the learning rate goes on at {rate:.3g}, of {self.config.learning_rate:g} (`learning_rate`)")

    def _tell_warmup(self, before: int) -> None:
        """Say that a warm-up of another length than before lies ahead, as after a first run of few steps."""
        warmup_steps = self.config.warmup_steps
        if warmup_steps != before and self.step < max(before, warmup_steps):
            self._tell(
                f"`warmup_steps` is {warmup_steps}, {before} until now: the learning rate "
                + (f"rises until step {warmup_steps}" if self.step < warmup_steps else "rises no more")
            )

    def _agreed_checkpoint(self) -> Path | None:
        """Find the checkpoint to continue from: the newest that the main process sees, which alone writes them."""
        found = latest_checkpoint(self.output_dir)
        (name,) = broadcast_object_list([found and found.name])
        if name is None:
            return None
        path, num_processes = self.output_dir / name, self.accelerator.num_processes
        is_here = torch.tensor(float(path.is_dir()), device=self.device)
        num_here = round(float(self.accelerator.reduce(is_here)))
        if num_here < num_processes:
            raise ValueError(
                f"`output_dir` must be on a disk that all machines share, got `{self.output_dir}`, where "
                f"{num_here} of {num_processes} processes find `{name}`; name a folder that all of them see"
            )
        return path

    def _fingerprint(self) -> dict[str, Any]:
        """List what must be the same for a run to continue."""
        config = self.config
        values = {name: getattr(config, name) for name in config.decisive_fields()}
        shards = config.gradient_accumulation_steps * self.accelerator.num_processes
        clips = [header.path.name for header in self.dataset.headers]
        if self.teacher is not None:
            values["teacher"] = self.teacher.fingerprint()
        return values | {
            "adapter begun from": self.init_adapter,
            KEPT_WEIGHTS: self.kept_weights,
            "global batch size": config.batch_size * shards,
            "model": {name: value for name, value in self.transformer.config.items() if not name.startswith("_")},
            "clips": seed_of(*clips),
            "number of clips": len(clips),
            "preparation": [dataset.preparation for dataset in self.clips.trained],
        }

    def _finish(self, log: MetricsLog | None) -> Path:
        """Check that what was frozen is untouched and save the averaged weights, if the run is complete."""
        check_frozen(self.transformer, self.frozen)
        path = self.output_dir
        if self.step == self.config.steps:
            with self.averaged_weights():
                path = save_result(self.transformer, self.config, self.accelerator, self.few_steps)
            if self.teacher is not None and self.config.train == "full" and self.accelerator.is_main_process:
                complete_pipeline(self.output_dir, self.teacher)
        if log is not None:
            log.close()
        self.accelerator.end_training()
        return path


class Clock:
    """Time of a run: since its start, and per step since the last reading.

    Attributes:
        first_step: Of the run; one that continues begins behind a later one than 0.
    """

    def __init__(self, step: int) -> None:
        self.started = self.read_at = time.monotonic()
        self.first_step, self.read_step = step + 1, step

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    def steps_per_second(self, step: int) -> float:
        """Steps per second since the last reading."""
        now = time.monotonic()
        rate = (step - self.read_step) / (now - self.read_at)
        self.read_at, self.read_step = now, step
        return rate

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out of the steps' time what is done meanwhile; the time since the start goes on."""
        began = time.monotonic()
        yield
        self.read_at += time.monotonic() - began


def check_output_dir(config: TrainConfig) -> None:
    """Refuse a place for the result that is a file, lies below one, or holds the clips."""
    path = Path(config.output_dir).resolve()
    if config.init_adapter is not None and path in (begun := Path(config.init_adapter).resolve(), begun.parent):
        raise ValueError(
            f"`output_dir` must be another folder than that of `init_adapter`, got `{config.output_dir}`, where the "
            "result would take its place; name a new one"
        )
    if path == Path(config.data).resolve() or any(kind_of(place) == "file" for place in (path, *path.parents)):
        raise ValueError(f"`output_dir` must be a folder of its own, got `{config.output_dir}`; name another")
    check_output_folder("output_dir", path)
    if path.is_dir() and (clips := sorted(file.name for file in path.iterdir() if is_clip(file))):
        raise ValueError(
            f"`output_dir` must be a folder of its own, got `{config.output_dir}`, which holds clips ({some(clips)}); "
            "name another"
        )


def num_numbers(weight: nn.Parameter) -> int:
    """How many numbers a weight holds, of those in 4 bits, of which a byte holds two, as well."""
    packed = getattr(weight, "quant_state", None)
    return weight.numel() if packed is None else packed.shape.numel()


def local_shard(parameter: nn.Parameter) -> nn.Parameter:
    """Give the part of a parameter that lies in this process, sharing its memory: all of it unless it is sharded."""
    shard: Any = parameter.detach()
    return nn.Parameter(shard.to_local()) if isinstance(shard, DTensor) else parameter
