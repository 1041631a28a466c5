"""The noise levels that a model walks by itself, and a line about others."""

import logging
from typing import Any

import comfy.samplers
from torch import Tensor

from .package import jova


logger = logging.getLogger(__name__)

TOLERANCE = 1e-6  # of a noise level in float32


def own_sigmas(model: Any, steps: int) -> Tensor:
    """Noise levels of a schedule as the pipeline walks them, falling to 0, float32 [steps + 1].

    Args:
        model: Handle of a JoVA model, with its shifts.
        steps: Of the schedule; 0 takes the model's own number.
    """
    checkpoint, sampling = model.model.checkpoint, model.get_model_object("model_sampling")
    steps = steps or checkpoint.defaults.num_inference_steps
    if checkpoint.last_sigma is None:
        levels: Tensor = comfy.samplers.calculate_sigmas(sampling, "simple", steps)
        return levels
    scheduler = jova("scheduling_flow_match_av").FlowMatchAudioVideoScheduler(
        shift=sampling.shift, last_sigma=checkpoint.last_sigma
    )
    scheduler.set_timesteps(steps)
    own: Tensor = scheduler.sigmas
    return own


def warn_of_other_levels(model: Any, sigmas: Tensor) -> None:
    """Say so where the last step of a schedule does not begin where the model was made to begin it.

    Core's schedules step evenly, and have no place for a last step of its own.

    Args:
        model: Handle of a JoVA model, with its shifts.
        sigmas: Of the schedule.
    """
    if model.model.checkpoint.last_sigma is None or len(sigmas) < 2 or float(sigmas[-1]) > 0:
        return
    last = float(own_sigmas(model, len(sigmas) - 1)[-2])
    if abs(float(sigmas[-2]) - last) > TOLERANCE:
        logger.warning(
            f"the last step begins at a noise level of {float(sigmas[-2]):.4g}, where this model's own begins at "
            f"{last:.4g}; SIGMAS of JoVA Scheduler for SamplerCustomAdvanced are its own"
        )
