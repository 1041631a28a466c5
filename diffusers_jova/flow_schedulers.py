"""Which plain schedulers of diffusers predict our velocity, how one walks a schedule, and what it says of ours."""

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from diffusers import (
    FlowMapEulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    FlowMatchLCMScheduler,
    LTXEulerAncestralRFScheduler,
)
from diffusers.utils import logging

from .number_arguments import positive_number


logger = logging.get_logger(__name__)


# schedulers that predict flow without saying so in their config
FLOW_MATCH_CLASSES = (
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    FlowMatchLCMScheduler,
    FlowMapEulerDiscreteScheduler,
    LTXEulerAncestralRFScheduler,
)
FLOW_OPTIONS = {"prediction_type", "use_flow_sigmas", "flow_shift"}  # of those that can be told to
EULER_OPTIONS = set(inspect.signature(FlowMatchEulerDiscreteScheduler).parameters)
UNREAD_OPTIONS = (  # of plain schedulers: what lays out other levels than a shift, or adds noise
    "use_dynamic_shifting",
    "invert_sigmas",
    "shift_terminal",
    "scale_factors",
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "stochastic_sampling",
)
OWN_SCHEDULER = "build ours with `FlowMatchAudioVideoScheduler.from_config(pipe.scheduler.config)`"


def check_predicts_flow(scheduler: Any) -> None:
    """Refuse schedulers whose model output is not our velocity, or whose schedule needs the resolution."""
    config, name, options = scheduler.config, type(scheduler).__name__, constructor_arguments(scheduler)
    if not isinstance(scheduler, FLOW_MATCH_CLASSES):
        if not options >= FLOW_OPTIONS:  # other classes keep these entries of a config without heeding them
            raise ValueError(
                f"`scheduler` must step by a velocity noise - data, got a {name}; {OWN_SCHEDULER}, or derive your own "
                "from it, or from `FlowMatchEulerDiscreteScheduler`"
            )
        if config["prediction_type"] != "flow_prediction" or not config["use_flow_sigmas"]:
            raise ValueError(
                f"`scheduler` must predict flow, got a {name} with prediction_type={config['prediction_type']!r} and "
                f"use_flow_sigmas={config['use_flow_sigmas']}; build it with "
                f'`{name}.from_config(pipe.scheduler.config, prediction_type="flow_prediction", use_flow_sigmas=True)`'
            )
    for option, neutral in (("use_dynamic_shifting", False), ("invert_sigmas", False), ("scale_factors", None)):
        if config.get(option):
            rebuilt = f"rebuild it with `{name}.from_config(pipe.scheduler.config, {option}={neutral})`"
            raise ValueError(
                f"`{option}` must be {neutral} for two modalities, got {config[option]} in a {name}; "
                f"{rebuilt if option in options else OWN_SCHEDULER}"
            )
    if lacking := [part for part in ("step_index", "set_begin_index") if not hasattr(scheduler, part)]:
        raise ValueError(
            f"`scheduler` must have `step_index` and `set_begin_index`, as those of diffusers, got a {name} without "
            f"`{'` and `'.join(lacking)}`; {OWN_SCHEDULER}, or derive your own from one that has them"
        )


def lay_out_levels(
    scheduler: Any, num_inference_steps: int, even: np.ndarray, device: str | torch.device | None = None
) -> None:
    """Let a plain flow scheduler lay out its levels, each shifted once.

    Left to themselves, those of `FLOW_MATCH_CLASSES` shift twice: their even levels end at `sigma_min`, which is the
    least level after the shift. Pipelines of diffusers give them even levels instead, and so do we; the others shift
    once by themselves.

    Args:
        scheduler: Of diffusers; an own copy.
        num_inference_steps: N.
        even: Even levels from 1 on before any shift, [N], the final 0 left out.
        device: Where its timesteps live.
    """
    levels = even.tolist()
    if isinstance(scheduler, LTXEulerAncestralRFScheduler):  # shifts nothing that it is given
        plain = FlowMatchEulerDiscreteScheduler(
            **{name: scheduler.config[name] for name in EULER_OPTIONS if name in scheduler.config}
        )
        plain.set_timesteps(sigmas=levels, device=device)
        scheduler.set_timesteps(sigmas=plain.sigmas, device=device)
    elif isinstance(scheduler, FlowMatchHeunDiscreteScheduler):  # takes none
        scheduler.sigma_max, scheduler.sigma_min = levels[0], levels[-1]
        scheduler.set_timesteps(num_inference_steps, device=device)
    elif isinstance(scheduler, FLOW_MATCH_CLASSES):
        scheduler.set_timesteps(sigmas=levels, device=device)
    else:
        scheduler.set_timesteps(num_inference_steps, device=device)


def declared_shift(scheduler: Any) -> float:
    """Shift of a flow scheduler's schedule."""
    return float(scheduler.config.get(shift_name(scheduler), 1.0))  # that of LTX reads one without declaring it


def with_shift(scheduler: Any, shift: float) -> Any:
    """Build a flow scheduler once more with another shift."""
    config = {**scheduler.config, shift_name(scheduler): shift}
    known = constructor_arguments(scheduler)
    built = type(scheduler)(**{key: value for key, value in config.items() if key in known})
    built.register_to_config(**{key: value for key, value in config.items() if key not in known})
    return built


def shift_name(scheduler: Any) -> str:
    """What the config of a flow scheduler calls its shift."""
    return "shift" if isinstance(scheduler, FLOW_MATCH_CLASSES) else "flow_shift"


def constructor_arguments(scheduler: Any) -> set[str]:
    """Names of what the class of a scheduler is configured by."""
    return set(inspect.signature(type(scheduler)).parameters)


def read_plain_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the config of a plain scheduler says of our schedules: empty where it is of another kind, or names none."""
    shift = config.get("shift", config.get("flow_shift") if config.get("use_flow_sigmas") else None)
    if shift is None:
        if "beta_schedule" in config:
            logger.warning(
                "nothing is taken from the config of a scheduler that does not predict flow: ours begins with its own "
                "defaults, without a shift and with Euler's solver"
            )
        return {}
    shift = positive_number("shift", shift, "1 leaves the schedule uniform")
    if unread := [option for option in UNREAD_OPTIONS if config.get(option)]:
        logger.warning(
            "not taken from the config of a plain scheduler: %s; our levels are shifted by %g at every size, and by "
            "nothing else",
            ", ".join(unread),
            shift,
        )
    # a config that is not of a file rarely names its class; UniPC's alone has a corrector
    is_unipc = str(config.get("_class_name", "UniPC" if "disable_corrector" in config else "")).startswith("UniPC")
    other = str(config.get("_class_name", "a DPM-Solver" if "algorithm_type" in config else ""))
    if other and not is_unipc and other != "FlowMatchEulerDiscreteScheduler":
        logger.warning(f"{other} is not taken from the config of a plain scheduler: ours steps by Euler's solver")
    audio_shift = shift * config.get("_audio_shift_ratio", 1.0)
    return {"shift": shift, "audio_shift": audio_shift, "solver": "unipc" if is_unipc else "euler"}
