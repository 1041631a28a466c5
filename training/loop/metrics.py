"""What a run reports: losses per modality and noise level, summed on the device, and the files that hold them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusers_jova.evaluation.measures import MEASURES
from diffusers_jova.training.loop.checkpoints import kept_by_run
from diffusers_jova.training.loop.conditioning import ModelInputs
from diffusers_jova.training.loop.config import TrainConfig
from diffusers_jova.training.loop.objective import LossTerms, effective_mouth_weight, mouth_fraction
from diffusers_jova.training.loop.validation_measures import CLIPS
from diffusers_jova.whole_files import explained_full_disk, write_text


NUM_BUCKETS = 5  # of the noise level
TERMS = ("video", "audio", "mouth", "face")


class LossMeter:
    """Sums of the losses since the last reading, by noise level; nothing here waits for the device but `read`.

    Args:
        config: The run's settings.
        device: Where the losses are.
    """

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self.config = config
        self.sums = torch.zeros(2, len(TERMS), NUM_BUCKETS, device=device)  # losses, counts
        self.mouth = torch.zeros(2, device=device)  # masked fraction, number of micro-batches with a mouth
        self.gradient_norm = torch.zeros(2, device=device)  # sum, steps

    @torch.no_grad()
    def add(self, terms: LossTerms, inputs: ModelInputs) -> None:
        """Add the losses of one micro-batch."""
        has_video, has_audio = inputs.has_video.view(len(terms.total), -1), inputs.has_audio.view(len(terms.total), -1)
        shows_mouth = torch.zeros_like(inputs.sigma, dtype=torch.bool)
        if inputs.mouth_mask is not None:
            shows_mouth = inputs.mouth_mask.flatten(1).any(1) & has_video.any(1)
            fraction = mouth_fraction(inputs.mouth_mask)
            self.mouth += torch.stack([fraction, (fraction > 0).float()])
        shows_face = torch.zeros_like(shows_mouth) if inputs.face_mask is None else inputs.face_mask.flatten(1).any(1)
        rows = zip(
            (terms.video, terms.audio, terms.mouth, terms.face),
            (has_video.any(1), has_audio.any(1), shows_mouth, shows_face),
            (inputs.sigma, inputs.audio_sigma, inputs.sigma, inputs.sigma),
            strict=True,
        )
        for row, (loss, counts, sigma) in enumerate(rows):
            bucket = (sigma * NUM_BUCKETS).long().clamp(max=NUM_BUCKETS - 1)
            values = torch.stack([loss.detach() * counts, counts.float()])
            self.sums[:, row].index_add_(1, bucket, values)

    def add_gradient_norm(self, norm: Tensor | float) -> None:
        """Add the gradient's norm of one step, before clipping.

        A norm that is no number in fp16 does not count: gradient scaling skips such a step.
        """
        norm = torch.as_tensor(norm, device=self.gradient_norm.device)
        is_taken = (
            norm.isfinite() if self.config.mixed_precision == "fp16" else torch.ones_like(norm, dtype=torch.bool)
        )
        self.gradient_norm += torch.stack([norm.where(is_taken, 0.0), is_taken.to(norm)])

    def take(self) -> Tensor:
        """Hand out all sums as one vector, to be summed over processes, and start anew."""
        sums = torch.cat([self.sums.flatten(), self.mouth, self.gradient_norm])
        for tensor in (self.sums, self.mouth, self.gradient_norm):
            tensor.zero_()
        return sums

    def read(self, sums: Tensor) -> dict[str, float]:
        """Compute means from the sums of `take`; here the host waits for the device."""
        sums = sums.double().cpu()
        losses, counts = sums[:-4].view(2, len(TERMS), NUM_BUCKETS)
        fraction = sums[-4] / sums[-3].clamp(min=1)
        values: dict[str, float] = {}
        for row, term in enumerate(TERMS):
            if counts[row].sum() > 0:
                values[f"loss/{term}"] = float(losses[row].sum() / counts[row].sum())
            for bucket in range(NUM_BUCKETS):
                if counts[row, bucket] > 0:
                    name = f"sigma_{bucket / NUM_BUCKETS:.1f}_{(bucket + 1) / NUM_BUCKETS:.1f}"
                    values[f"loss_{term}/{name}"] = float(losses[row, bucket] / counts[row, bucket])
        weight = effective_mouth_weight(fraction, self.config.mouth_weight, self.config.mouth_reduction)
        values |= {"mouth_fraction": float(fraction), "effective_mouth_weight": float(weight)}
        return values | {"gradient_norm": float(sums[-2] / sums[-1].clamp(min=1))}


def check_tensorboard(config: TrainConfig) -> None:
    """Refuse to write files of a package that is not there, before anything is loaded for it."""
    if config.tensorboard and find_spec("tensorboard") is None:
        raise ImportError(
            "`tensorboard` must be false without the package tensorboard; set it, or install the extra `train`"
        )


class MetricsLog:
    """Writes values to `metrics.jsonl` and TensorBoard and prints the losses.

    Args:
        output_dir: Folder of both.
        start: Step at which the run continues; what an interrupted run wrote beyond it is dropped.
        tensorboard: Whether to write TensorBoard files.
    """

    def __init__(self, output_dir: Path, start: int, tensorboard: bool) -> None:
        self.path = output_dir / "metrics.jsonl"
        if self.path.exists():
            lines = [line for line in self.path.read_text().splitlines() if _step(line) <= start]
            write_text(self.path, "".join(f"{line}\n" for line in lines), kept_by_run(self.path.parent))
        self.writer: Any = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(output_dir / "tensorboard"), purge_step=start + 1)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Write the values of one step."""
        self._add(step, values)
        print(f"step {step:7d}  {_shown(values, 'loss/')}  {values['samples_per_second']:.1f} samples/s", flush=True)

    def write_validation(self, step: int, values: dict[str, float]) -> None:
        """Write the losses on held-out clips."""
        self._add(step, values)
        print(f"step {step:7d}  validation: {_shown(values, 'validation_loss/')}", flush=True)

    def write_clips(self, step: int, values: Mapping[str, float]) -> None:
        """Write the measures of validation clips, and show of each group the first that some can be judged by."""
        self._add(step, values)
        shown: dict[str, str] = {}
        for measure in MEASURES:
            if f"{CLIPS}{measure.name}" in values:
                shown.setdefault(measure.group, f"{measure.name} {values[f'{CLIPS}{measure.name}']:.4g}")
        print(f"step {step:7d}  validation clips: {'  '.join(shown.values()) or 'none can be judged'}", flush=True)

    def _add(self, step: int, values: Mapping[str, float]) -> None:
        """Append values to both files."""
        with explained_full_disk(self.path, kept_by_run(self.path.parent)), self.path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        if self.writer is not None:
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Finish the TensorBoard files."""
        if self.writer is not None:
            self.writer.close()


def _shown(values: Mapping[str, float], prefix: str) -> str:
    """The values of a prefix in a line."""
    return "  ".join(
        f"{name.removeprefix(prefix)} {value:.4f}" for name, value in values.items() if name.startswith(prefix)
    )


def _step(line: str) -> float:
    """Read the step of a line; a line that a kill cut short belongs to no step that is kept."""
    try:
        return float(json.loads(line)["step"])
    except ValueError:
        return float("inf")
