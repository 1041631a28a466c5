"""What adapters of MOVA leave open: their scale, the order of rows of the bridge, and which expert they change.

=====================  ==============================================================================
written by             file
=====================  ==============================================================================
accelerate trainer     a folder with `lora_weights.pt`; its `lora_config.pt` states alpha 16, always
trainer, low memory    matrices in `lora_state_dict`, beside them rank and alpha
DiffSynth              one file per expert, under the names of a plain video model; a scale of 1
=====================  ==============================================================================

Letters in shapes: H heads, K head dimension.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from torch import Tensor

from .adapter_keys import (
    BIAS_B,
    DIFF,
    DIFF_BIAS,
    LOHA,
    LOKR,
    MAGNITUDE,
    MATRIX_B,
    MOVA_EXPERTS,
    is_of_mova,
    is_of_one_tower,
    listed,
    split_name,
)
from .number_arguments import positive_number
from .temporal_rope import paired_rows


WRAPPING = "lora_state_dict"
HEAD_DIM = 128  # of MOVA's, where no model tells it
TOWERS = tuple(MOVA_EXPERTS.values())  # that an adapter of a plain video model may mean
ROW_PARTS = (MATRIX_B, BIAS_B, MAGNITUDE, DIFF, DIFF_BIAS, LOHA[0], LOHA[2])  # which have a row per output


def unwrapped(content: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Matrices that MOVA's trainer for little memory nests, and what stands beside them as a header has it."""
    if not isinstance(content.get(WRAPPING), Mapping):
        return dict(content), {}
    alpha = content.get("alpha")
    return dict(content[WRAPPING]), {} if alpha is None else {"alpha": str(alpha)}


def with_given_alpha(alphas: Mapping[str, float], modules: Iterable[str], given: float | None) -> dict[str, float]:
    """Alphas of a file, or the one that a caller gives.

    Raises:
        ValueError: None is given, and the file is of a trainer of MOVA and states none.
    """
    if given is not None:
        return dict.fromkeys(modules, positive_number("alpha", given, "it is divided by the rank"))
    if lost := [module for module in modules if is_of_mova(module) and module not in alphas]:
        raise ValueError(
            f"`alpha` must be given for an adapter of MOVA's trainers, whose file does not state it, got none for "
            f"{listed(lost)}; give that of its training (`jova convert lora --alpha`): the one in `lora_config.pt` is "
            "always 16"
        )
    return dict(alphas)


def checked_tower(tower: str | None, modules: Collection[str]) -> str | None:
    """Refuse a video tower that there is not, or one for an adapter that names its modules itself.

    Raises:
        ValueError: It is.
    """
    if tower is not None and tower not in TOWERS:
        raise ValueError(
            f"`tower` must be {' or '.join(map(repr, TOWERS))}, got {tower!r}; leave it out for one tower"
        )
    if tower is not None and not any(map(is_of_one_tower, modules)):
        raise ValueError(
            f"`tower` must go with an adapter of a plain video model, got {tower!r} for {listed(modules)}, which say "
            "what they change; leave it out"
        )
    return tower


def paired_tensors(tensors: Mapping[str, Tensor], halved: Collection[str], head_dim: int) -> dict[str, Tensor]:
    """Tensors of an adapter for heads that rotate pairs of channels, as ours do.

    Args:
        tensors: By `<module>.<part>`.
        halved: Modules whose outputs are heads of two halves.
        head_dim: K.

    Raises:
        ValueError: Outputs are no whole heads, or their rows are not at hand one by one.
    """
    paired = dict(tensors)
    for name, tensor in tensors.items():
        module, part = split_name(name)
        if module not in halved:
            continue
        if part in LOKR:
            raise ValueError(f"the change of `{module}` must be no LoKr, got `{part}`; save it as a plain LoRA")
        if part in ROW_PARTS:
            paired[name] = paired_heads(module, tensor, head_dim)
    return paired


def paired_heads(module: str, rows: Tensor, head_dim: int) -> Tensor:
    """Rows of a module whose heads are two halves, for heads of pairs.

    Raises:
        ValueError: They are no whole heads.
    """
    if len(rows) % head_dim:
        raise ValueError(
            f"`{module}` must have whole heads of {head_dim} outputs, got {len(rows)}; load the adapter into "
            "the model that it was trained for"
        )
    return paired_rows(rows, head_dim)
