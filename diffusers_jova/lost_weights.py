"""Weights that a checkpoint did not hold: diffusers leaves them without values, transformers at random."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedModel


def check_weights(name: str, component: nn.Module, given: Sequence[str] = ()) -> None:
    """Refuse weights that a checkpoint did not hold; those that are offloaded have their values elsewhere.

    A component all of whose weights are on the meta device was built without a checkpoint, for its shapes.

    Args:
        name: Of the component.
        component: As it was loaded.
        given: Fields of its config that the caller gave in place of the checkpoint's.

    Raises:
        ValueError: Naming the first of these weights.
    """
    lost = next(lost_weights(component), None)
    if lost is not None and any(weight.device.type != "meta" for weight in component.parameters()):
        fields = "`, `".join(given)
        otherwise = f", or leave out `{fields}`, which may ask for weights that were not saved" if given else ""
        raise ValueError(
            f"weights of `{name}` must all be in its checkpoint, got none for `{lost}`; download or save it anew"
            f"{otherwise}"
        )


def lost_weights(component: nn.Module) -> Iterator[str]:
    """Names of weights on the meta device that no hook of accelerate brings back."""
    for path, module in component.named_modules():
        if not hasattr(module, "_hf_hook"):
            own = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
            yield from (f"{path}.{weight}".lstrip(".") for weight, tensor in own if tensor.device.type == "meta")


def check_text_weights(components: Mapping[str, Any]) -> None:
    """Refuse text encoders whose checkpoint lacked weights, which transformers filled at random.

    Args:
        components: Text encoders of a pipeline, by name, as transformers has loaded them.

    Raises:
        ValueError: Naming the first of these weights.
    """
    for name, encoder in components.items():
        if isinstance(encoder, PreTrainedModel) and (random := random_weights(encoder)):
            raise ValueError(
                f"weights of `{name}` must all be in its checkpoint, got none for `{random[0]}`"
                f"{f' and {len(random) - 1} others' if len(random) > 1 else ''}; download or save it anew"
            )


def random_weights(encoder: PreTrainedModel) -> list[str]:
    """Names of weights that no checkpoint gave, of an encoder that has not changed since it was loaded.

    transformers marks those that it has read; goes when its loading tells of the others. What is quantised or spread
    over devices has lost the mark.
    """
    marks = {name: hasattr(weight, "_is_hf_initialized") for name, weight in encoder.named_parameters()}
    is_changed = any(hasattr(module, "_hf_hook") for module in encoder.modules())
    if is_changed or getattr(encoder, "hf_quantizer", None) is not None or not any(marks.values()):
        return []
    needless = [re.compile(pattern) for pattern in encoder._keys_to_ignore_on_load_missing or ()]
    return [name for name, mark in marks.items() if not mark and not any(rule.search(name) for rule in needless)]
