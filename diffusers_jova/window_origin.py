"""What decides a clip that is made by windows: kept windows of another origin are none of its own."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from .pipeline_jova import JoVAPipeline
from .prompt import JoVAPrompt
from .provenance import active_adapters, name_of_source


OF_FILES = ("_class_name", "_diffusers_version", "_name_or_path", "_use_default_values")  # of a config: decide nothing
NUM_DIGESTED = 64  # weights of each tensor, in a digest of all


def call_origin(pipeline: JoVAPipeline, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What of a pipeline and of a call's arguments decides a clip, as JSON holds it.

    It has the same names for every call, or nothing would be compared.

    Args:
        pipeline: As it is: components, config, adapters, cache.
        arguments: Of its call.
    """
    names = {item.name for item in fields(pipeline.defaults)}
    settings = pipeline.defaults.override(**{name: arguments[name] for name in names & {*arguments}})
    others = {name: value for name, value in arguments.items() if name not in names}
    config = {name: value for name, value in pipeline.config.items() if name not in pipeline.components}
    return {
        "arguments": listed(others),
        "settings": {name: leaf(getattr(settings, name)) for name in sorted(names - {"num_frames"})},
        "model": name_of_source(pipeline.config.get("_name_or_path")),
        "config": {
            name: leaf(value) for name, value in sorted(config.items()) if name[0] != "_" and name != "defaults"
        },
        "scheduler": described_scheduler(pipeline.scheduler),
        "cache": described_cache(pipeline.transformer._cache_config),
        "adapters": active_adapters(pipeline),
        "weights": {
            name: digest_weights(part) if isinstance(part, torch.nn.Module) else type(part).__name__
            for name, part in sorted(pipeline.components.items())
        },
        "dtype": str(pipeline.transformer.dtype),
    }


def described(value: Any) -> Any:
    """A value as JSON holds it; of media a digest, of other objects the kind alone."""
    if isinstance(value, np.generic):
        item = value.item()
        return str(item) if isinstance(item, np.generic) else described(item)  # a long double stays one
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, torch.dtype | torch.device):
        return str(value)
    if isinstance(value, JoVAPrompt):
        return asdict(value)
    if isinstance(value, PIL.Image.Image):
        return described(np.asarray(value))
    if isinstance(value, Tensor):
        return described(value.detach().float().cpu().numpy())
    if isinstance(value, np.ndarray):
        return hashlib.sha256(f"{value.shape} {value.dtype}".encode() + value.tobytes()).hexdigest()[:16]
    if isinstance(value, Mapping):
        return {str(name): described(item) for name, item in value.items()}
    if isinstance(value, Sequence):
        return [described(item) for item in value]
    if hasattr(value, "__dataclass_fields__"):
        return {name: described(getattr(value, name)) for name in value.__dataclass_fields__}
    return type(value).__name__


def listed(values: Mapping[str, Any]) -> list[str]:
    """Values by their names in one list, which is compared as a whole: a name in one of two counts as a difference."""
    return [f"{name}={json.dumps(described(value))}" for name, value in sorted(values.items())]


def leaf(value: Any) -> Any:
    """A value as JSON holds it, without names within."""
    return listed(value) if isinstance(value, Mapping) else described(value)


def described_scheduler(scheduler: Any) -> list[str]:
    """The kind of a scheduler and what its config says."""
    own = {name: value for name, value in scheduler.config.items() if name not in OF_FILES}
    return [type(scheduler).__name__, *listed(own)]


def described_cache(config: Any) -> list[str] | None:
    """The kind of a cache between steps and its settings, of diffusers' kinds as well; None for none."""
    if config is None:
        return None
    return [type(config).__name__, *listed({item.name: getattr(config, item.name) for item in fields(config)})]


def digest_weights(module: torch.nn.Module) -> str:
    """Digest some of the weights of each tensor: weights that were trained on differ everywhere."""
    digest = hashlib.sha256()
    for name, weight in sorted(module.named_parameters()):
        flat = weight.detach().flatten()
        digest.update(f"{name} {list(weight.shape)} {weight.dtype}".encode())
        if not weight.is_meta:  # as offloading leaves it
            digest.update(flat[:: max(1, len(flat) // NUM_DIGESTED)].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
