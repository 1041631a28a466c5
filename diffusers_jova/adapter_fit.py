"""Whether an adapter fits into a transformer: every change has its layer and its size, and arrives completely."""

import re
from collections.abc import Collection, Mapping
from typing import Any

from diffusers.utils import logging
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from .adapter_file import Adapter
from .adapter_keys import DIFF, DIFF_BIAS, LOHA, MAGNITUDE, MATRIX_A, MATRIX_B, check_known, listed
from .mova_adapter import HEAD_DIM, TOWERS


logger = logging.get_logger(__name__)


def linear_layers(model: nn.Module) -> dict[str, Any]:
    """Layers that adapters change, by their names in a model that may be compiled or have adapters already."""
    layers = {}
    for name, module in model.named_modules():
        layer = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
        if isinstance(layer, nn.Linear):
            layers[name.replace("_orig_mod.", "").removesuffix(".base_layer")] = layer
    return layers


def fitting(adapter: Adapter, model: nn.Module, skip_unknown: bool) -> Adapter:
    """Refuse what the model has no place for, or leave it out and say so.

    Args:
        adapter: What was read.
        model: The transformer.
        skip_unknown: Leave it out.

    Raises:
        ValueError: There is such, or nothing else.
    """
    layers = linear_layers(model)
    check_tower(adapter, layers)
    adapter = adapter.with_paired_heads(getattr(model, "config", {}).get("attention_head_dim", HEAD_DIM))
    strange = [module for module in adapter.modules() if module not in layers]
    if not skip_unknown:
        check_known(adapter.unknown, bool(adapter.tensors))
    if strange and not skip_unknown:
        others = "" if len(strange) == len(adapter.modules()) else ", or leave them out with `skip_unknown`"
        raise ValueError(
            f"adapter must change linear layers of this {type(model).__name__}, got {listed(strange)}, which it does "
            f"not have; load it into the model that it was trained for{others}"
        )
    kept = adapter.without(strange)
    if not kept.tensors:
        raise ValueError(
            f"adapter must change linear layers of this {type(model).__name__}, got {listed(strange) or 'none'}; "
            "load it into the model that it was trained for"
        )
    if num_left_out := len(adapter.tensors) - len(kept.tensors) + len(adapter.unknown):
        total = len(adapter.tensors) + len(adapter.unknown)
        left_out = listed([*adapter.unknown, *strange])
        logger.warning(f"{num_left_out} of {total} tensors of the adapter have no place and are left out: {left_out}")
    for module in kept.modules():
        check_shapes(module, kept.of_module(module), layers[module])
    warn_of_untold_scale(kept)
    return kept


def check_tower(adapter: Adapter, layers: Collection[str]) -> None:
    """Refuse an adapter of a plain video model for two video towers, unless it is said which it means.

    Raises:
        ValueError: It is not.
    """
    if adapter.untold and any(f".{TOWERS[1]}." in name for name in layers):
        raise ValueError(
            f"`tower` must be {' or '.join(map(repr, TOWERS))} for an adapter of one video model in a transformer of "
            f"two, got none for {listed(adapter.untold)}; `{TOWERS[0]}` is the one for high noise (`jova convert lora "
            "--tower`)"
        )


def check_shapes(module: str, parts: Mapping[str, Tensor], layer: Any) -> None:
    """Refuse a change of another size than its layer's.

    Raises:
        ValueError: Sizes differ.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in parts.items()}
    wanted: tuple[int, ...] = (layer.out_features, layer.in_features)
    found = shapes.get(DIFF, wanted)
    if MATRIX_A in parts:
        found = (shapes[MATRIX_B][0], shapes[MATRIX_A][1])
    elif LOHA[0] in parts:
        found = (shapes[LOHA[0]][0], shapes[LOHA[1]][1])
    if found == wanted and DIFF_BIAS in parts:
        wanted, found = wanted[:1], shapes[DIFF_BIAS]
    if found != wanted:
        raise ValueError(
            f"the change of `{module}` must be of shape {list(wanted)}, got {list(found)}; "
            "load the adapter into the model that it was trained for"
        )


def check_arrived(model: Any, adapter_name: str, tensors: Mapping[str, Tensor]) -> None:
    """Take an adapter out again of which peft made other weights than the file holds, and say which.

    Raises:
        ValueError: It did.
    """
    own = re.compile(rf"(.+\.lo\w+)\.{re.escape(adapter_name)}(\.\w+)?")  # lora_A, lokr_w1, lora_magnitude_vector
    found = [own.fullmatch(name.replace("_orig_mod.", "")) for name, _ in model.named_parameters()]
    made = {match[1] + ("" if MAGNITUDE in match[1] else match[2] or "") for match in found if match}
    if wrong := made ^ {*tensors}:
        model.delete_adapters(adapter_name)
        raise ValueError(
            f"adapter must fit what peft makes of its config completely, got {listed(sorted(wrong))} in one of them "
            "alone; save it as a plain LoRA"
        )


def warn_of_untold_scale(adapter: Adapter) -> None:
    """Say in one line that nothing tells by what the modules of an adapter are scaled."""
    if untold := [*adapter.without_alpha()]:
        others = f" and {len(untold) - 1} more" if len(untold) > 1 else ""
        logger.warning(
            f"the adapter does not say its alpha for `{untold[0]}`{others}: a scale of 1 is taken, that of an alpha "
            "equal to the rank; if it was trained with another, give `alpha` (`jova convert lora --alpha`), or weigh "
            "it by alpha / rank"
        )
