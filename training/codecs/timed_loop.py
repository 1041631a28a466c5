"""A training loop that ends when its steps or its minutes are spent, and resumes exactly where it was stopped.

Every step seeds torch with (seed, step) and tells the trainee its number, so nothing random has to be stored. With a
limit in steps a resumed run repeats the uninterrupted one bit for bit; with a limit in minutes the learning rate
follows the clock, so the numbers of a second run differ.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from diffusers_jova.finite import is_finite
from diffusers_jova.origin import check_origin
from diffusers_jova.whole_files import explained_full_disk, written_whole


RHYTHM = ("checkpoint_s", "log_s")  # of a schedule: decides nothing


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """When a training ends and how fast it learns on the way; the run ends at the first limit that is reached.

    Attributes:
        steps: Limit in steps; `None` for no such limit.
        minutes: Limit in minutes of training, checkpoints and earlier runs included; `None` for no such limit.
        learning_rate: Reached after `warmup_steps`, then lowered along a cosine to `final_share` of it.
        warmup_steps: Steps of linear warm-up.
        final_share: Last learning rate as a share of the highest.
        ema_decay: Of the averaged weights, which are the ones that are saved.
        gradient_clip: Largest norm of the gradient.
        checkpoint_s: Seconds between checkpoints.
        log_s: Seconds between printed lines.
        seed: Of everything random.
    """

    steps: int | None = None
    minutes: float | None = None
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    final_share: float = 0.02
    ema_decay: float = 0.999
    gradient_clip: float = 1.0
    checkpoint_s: float = 60.0
    log_s: float = 10.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps is None and self.minutes is None:
            raise ValueError("`steps` or `minutes` must be a number, got neither; set at least one limit")

    def progress(self, step: int, elapsed_s: float) -> float:
        """Share of the run that is over, in [0, 1]."""
        shares = [0.0]
        if self.steps is not None:
            shares.append(step / self.steps)
        if self.minutes is not None:
            shares.append(elapsed_s / (60 * self.minutes))
        return min(1.0, max(shares))

    def learning_rate_at(self, step: int, progress: float) -> float:
        """Learning rate: warm-up, then a cosine over the progress."""
        warmup = min(1.0, (step + 1) / max(1, self.warmup_steps))
        cosine = 0.5 * (1 + math.cos(math.pi * progress))
        return self.learning_rate * warmup * (self.final_share + (1 - self.final_share) * cosine)


class Trainee(Protocol):
    """What is trained: `modules["model"]` is what is averaged and saved, the others only help."""

    modules: dict[str, nn.Module]
    optimizers: dict[str, torch.optim.Optimizer]

    def train_step(self, step: int, progress: float) -> Mapping[str, Tensor]:
        """Take one optimisation step; returns scalars to print."""
        ...


def run(trainee: Trainee, schedule: Schedule, checkpoint: Path, settings: Mapping[str, object]) -> dict[str, float]:
    """Train until the schedule's end and leave the averaged weights in `trainee.modules["model"]`.

    Args:
        trainee: What to train.
        schedule: When to stop.
        checkpoint: File to resume from if it exists; rewritten on the way.
        settings: What must be the same for a checkpoint to be continued.

    Returns:
        Steps and seconds taken, and the last values that were printed.

    Raises:
        OriginError: If the checkpoint was made with other settings.
        FloatingPointError: If the loss or a weight stops being a number; no checkpoint is written then.
        FullDiskError: If a checkpoint does not fit on the disk.
    """
    average = copy.deepcopy(trainee.modules["model"]).eval().requires_grad_(False)
    step, earlier_s = _load(trainee, average, checkpoint, settings)
    started = saved = logged = time.monotonic()
    progress = schedule.progress(step, earlier_s)
    last: dict[str, float] = {}
    while progress < 1:
        _set_learning_rate(trainee, schedule.learning_rate_at(step, progress))
        torch.manual_seed(schedule.seed * 1_000_003 + step)
        scalars = trainee.train_step(step, progress)
        step += 1
        update_average(average, trainee.modules["model"], min(schedule.ema_decay, step / (10 + step)))
        now = time.monotonic()
        progress = schedule.progress(step, earlier_s + now - started)
        if now - logged > schedule.log_s or progress >= 1:
            last = _report(step, earlier_s + now - started, scalars, checkpoint)
            logged = now
        if now - saved > schedule.checkpoint_s or progress >= 1:
            check_weights(trainee, step, checkpoint)
            _save(trainee, average, checkpoint, settings, step, earlier_s + now - started)
            saved = now
    trainee.modules["model"].load_state_dict(average.state_dict())
    return {"steps": step, "seconds": round(earlier_s + time.monotonic() - started, 1), **last}


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the averaged weights a step of (1 - decay) towards the model's; buffers are copied."""
    torch._foreach_lerp_(list(average.parameters()), [p.detach() for p in model.parameters()], 1 - decay)
    for kept, current in zip(average.buffers(), model.buffers(), strict=True):
        kept.copy_(current)


def optimise(optimizers: Sequence[torch.optim.Optimizer], loss: Tensor, gradient_clip: float) -> Tensor:
    """Take one step of `optimizers` down `loss`; returns the gradient's norm before clipping."""
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    loss.backward()
    parameters = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    norm = nn.utils.clip_grad_norm_(parameters, gradient_clip)
    for optimizer in optimizers:
        optimizer.step()
    return norm


def adamw(module: nn.Module, betas: tuple[float, float] = (0.9, 0.99)) -> torch.optim.AdamW:
    """AdamW with decay on matrices and kernels only; the loop sets the learning rate."""
    decayed = [p for p in module.parameters() if p.requires_grad and p.ndim > 1]
    plain = [p for p in module.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=1.0, betas=betas)


def _set_learning_rate(trainee: Trainee, learning_rate: float) -> None:
    for optimizer in trainee.optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] = learning_rate


def check_weights(trainee: Trainee, step: int, checkpoint: Path) -> None:
    """Refuse to save weights that are no numbers, which no later step would mend."""
    parameters = [parameter for module in trainee.modules.values() for parameter in module.parameters()]
    if not all(map(is_finite, parameters)):
        raise FloatingPointError(_broken("weights", "NaN or infinity", step, checkpoint))


def _broken(what: str, found: str, step: int, checkpoint: Path) -> str:
    """What to do where numbers broke down: a checkpoint knows its learning rate, so a lower one begins anew."""
    begin = f", delete `{checkpoint}`" if checkpoint.exists() else ""
    return f"the {what} must be finite, got {found} at step {step}; lower `learning_rate`{begin} and start again"


def _report(step: int, elapsed_s: float, scalars: Mapping[str, Tensor], checkpoint: Path) -> dict[str, float]:
    values = {name: float(value.detach()) for name, value in scalars.items()}
    text = "  ".join(f"{name} {value:.4f}" for name, value in values.items())
    print(f"step {step:6d}  {elapsed_s:6.0f} s  {text}", flush=True)
    if not all(math.isfinite(value) for value in values.values()):
        raise FloatingPointError(_broken("loss", text, step, checkpoint))
    return values


def _named_parts(trainee: Trainee, average: nn.Module) -> dict[str, Tensor]:
    tensors = {f"average.{name}": value for name, value in average.state_dict().items()}
    for part, module in trainee.modules.items():
        tensors |= {f"module.{part}.{name}": value for name, value in module.state_dict().items()}
    for part, optimizer in trainee.optimizers.items():
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{part}.{index}.{name}": value for name, value in state.items()}
    return {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}


def _save(
    trainee: Trainee,
    average: nn.Module,
    checkpoint: Path,
    settings: Mapping[str, object],
    step: int,
    elapsed_s: float,
) -> None:
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    header = {"step": str(step), "elapsed_s": repr(elapsed_s), "settings": json.dumps(settings, sort_keys=True)}
    with explained_full_disk(checkpoint), written_whole(checkpoint) as partial:
        save_file(_named_parts(trainee, average), partial, metadata=header)


def _load(trainee: Trainee, average: nn.Module, checkpoint: Path, settings: Mapping[str, object]) -> tuple[int, float]:
    """Fill trainee and average from the checkpoint; returns steps and seconds done, zeros without one."""
    if not checkpoint.exists():
        return 0, 0.0
    with safe_open(checkpoint, framework="pt") as stored:
        header = stored.metadata()
        check_origin(json.loads(header["settings"]), settings, checkpoint)
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    average.load_state_dict(_below(tensors, "average."))
    for part, module in trainee.modules.items():
        module.load_state_dict(_below(tensors, f"module.{part}."))
    for part, optimizer in trainee.optimizers.items():
        _load_optimizer(optimizer, _below(tensors, f"optimizer.{part}."))
    print(f"resuming from {checkpoint} at step {header['step']}", flush=True)
    return int(header["step"]), float(header["elapsed_s"])


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, _, field = name.partition(".")
        state.setdefault(int(index), {})[field] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def decisive_settings(config: Any) -> dict[str, Any]:
    """What a resumed run has to share of a config with a `schedule`: all but the rhythm of saving and printing."""
    schedule = {name: value for name, value in asdict(config.schedule).items() if name not in RHYTHM}
    return {**asdict(config), "schedule": schedule}
