"""What a scheduler of two modalities does to one of them: noise on it, a step of its solver, and what it refuses.

Letters: B batch, C channels, F latent frames, H and W latent height and width, L audio latents.
Video is [B, C, F, H, W] and audio [B, L, C] throughout.
"""

import inspect
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from numbers import Real
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from .flow_matching import add_noise, check_axes, check_same_shape


Generators: TypeAlias = torch.Generator | Sequence[torch.Generator] | None
PREFIXES = {"video": "", "audio": "audio_"}  # of a modality's arguments


def uniforms(batch_size: int, count: int, generator: Generators) -> Tensor:
    """Draw [B, count] uniform numbers in float64, row by row if there is a generator per sample."""
    check_generators(generator)
    generators = [generator] if generator is None or isinstance(generator, torch.Generator) else list(generator)
    if len(generators) not in (1, batch_size):
        raise ValueError(f"`generator` must be one, or {batch_size} (one per sample), got {len(generators)}")
    rows = batch_size // len(generators)
    draws = [torch.rand(rows, count, generator=g, device=g.device if g else "cpu").cpu() for g in generators]
    return torch.cat(draws).double()


def check_generators(generator: Any) -> None:
    """Refuse what draws nothing, such as a seed."""
    several = generator if isinstance(generator, list | tuple) else [generator]
    if generator is not None and not (several and all(isinstance(one, torch.Generator) for one in several)):
        raise ValueError(
            f"`generator` must be a `torch.Generator` or a list of them, got {generator!r}; "
            "`torch.Generator().manual_seed(0)`, say"
        )


def noised(modality: str, data: Tensor | None, noise: Tensor | None, sigma: Tensor | float) -> Tensor | None:
    """Add noise to one modality, if it is there."""
    if data is None and noise is None:
        return None
    if data is None or noise is None:
        missing = "sample" if data is None else "noise"
        raise ValueError(f"a modality must come with both its sample and its noise, got no {missing}")
    if isinstance(data, Tensor):
        check_axes(f"{PREFIXES[modality]}sample", data, modality)
    return add_noise(data, noise, sigma)


def check_one_timestep(timestep: Any) -> None:
    """Refuse what is not one number, such as the timesteps [B] that a model takes.

    Raises:
        ValueError: It is none.
    """
    shape = timestep.shape if isinstance(timestep, Tensor | np.ndarray) else None
    is_number = isinstance(timestep, Real) and not isinstance(timestep, bool)
    if not (is_number if shape is None else math.prod(shape) == 1):
        got = repr(timestep) if shape is None else list(shape)
        raise ValueError(
            f"`timestep` must be one entry of `scheduler.timesteps`, got {got}; give the same for all samples"
        )


def check_step(solver: Any, modality: str, index: int, velocity: Tensor | None, sample: Tensor | None) -> None:
    """Refuse step ``index`` of one modality that its solver cannot take."""
    if velocity is None and sample is None:
        return
    if velocity is None or sample is None:
        missing = "model output" if velocity is None else "sample"
        raise ValueError(f"a modality must come with both its model output and its sample, got no {missing}")
    check_same_shape(f"{PREFIXES[modality]}model_output", velocity, sample)
    check_axes(f"{PREFIXES[modality]}sample", sample, modality)
    if solver.step_index not in (None, index):
        raise ValueError(f"a modality must take every step, got step {index} where {solver.step_index} was next")


@contextmanager
def all_or_nothing(*solvers: Any) -> Iterator[None]:
    """Put solvers back to where they stood if a step breaks off."""
    before = [
        {name: list(value) if isinstance(value, list) else value for name, value in vars(solver).items()}
        for solver in solvers
    ]
    try:
        yield
    except BaseException:
        for solver, state in zip(solvers, before, strict=True):
            vars(solver).clear()
            vars(solver).update(state)
        raise


def solver_step(
    solver: Any, index: int, velocity: Tensor | None, sample: Tensor | None, generator: Generators
) -> Tensor | None:
    """Let a diffusers scheduler take step ``index`` for one modality, if it is there."""
    if velocity is None or sample is None:
        return None
    if solver.step_index is None:
        solver.set_begin_index(index)
    stochastic = "generator" in inspect.signature(solver.step).parameters
    if stochastic:
        check_generators(generator)
    options = {"generator": generator} if stochastic else {}
    stepped = solver.step(velocity.float(), solver.timesteps[index], sample.float(), return_dict=False, **options)[0]
    return stepped.to(sample.dtype)
