"""Which plain schedulers of diffusers predict our velocity, and how one of them gets another shift."""

import inspect
from typing import Any

from diffusers import (
    FlowMapEulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    FlowMatchLCMScheduler,
    LTXEulerAncestralRFScheduler,
)


# schedulers that predict flow without saying so in their config
FLOW_MATCH_CLASSES = (
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    FlowMatchLCMScheduler,
    FlowMapEulerDiscreteScheduler,
    LTXEulerAncestralRFScheduler,
)
FLOW_OPTIONS = {"prediction_type", "use_flow_sigmas", "flow_shift"}  # of those that can be told to
OWN_SCHEDULER = "build ours with `FlowMatchAudioVideoScheduler.from_config(pipe.scheduler.config)`"


def check_predicts_flow(scheduler: Any) -> None:
    """Refuse schedulers whose model output is not our velocity, or whose schedule needs the resolution."""
    config, name, options = scheduler.config, type(scheduler).__name__, constructor_arguments(scheduler)
    if not isinstance(scheduler, FLOW_MATCH_CLASSES):
        if not options >= FLOW_OPTIONS:  # other classes keep these entries of a config without heeding them
            raise ValueError(f"`scheduler` must step by a velocity noise - data, got a {name}; {OWN_SCHEDULER}")
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
