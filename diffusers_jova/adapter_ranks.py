"""Ranks and alphas of an adapter's modules, from its tensors and from peft's config; a scale is alpha / rank."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from math import sqrt
from typing import Any, Protocol

from torch import Tensor

from jova_cli.json_text import parse_object

from .adapter_keys import BIAS_B, DIFF, DIFF_BIAS, LOHA, LOKR, MAGNITUDE, MATRIX_A, MATRIX_B, listed, split_name
from .number_arguments import is_finite_number


class Shaped(Protocol):
    """A tensor, or the description of one."""

    @property
    def shape(self) -> Sequence[int]:
        """Sizes of its dimensions."""


def module_ranks(tensors: Mapping[str, Shaped], modules: Iterable[str] = ()) -> dict[str, int]:
    """Rank of every module, from the tensors under bare names.

    Args:
        tensors: Descriptions suffice.
        modules: Further modules that the adapter speaks of, in its alphas say.

    Raises:
        ValueError: A module lacks a part of its change, or the two matrices of its LoRA have different ranks.
    """
    parts: dict[str, dict[str, Shaped]] = {module: {} for module in modules}
    for name, tensor in tensors.items():
        module, part = split_name(name)
        parts.setdefault(module, {})[part] = tensor
    if halves := [module for module, found in parts.items() if not is_whole(found)]:
        raise ValueError(
            f"adapter must hold both matrices of every module, got one or none for {listed(sorted(halves))}; "
            "the file is incomplete, get it again"
        )
    flat = [name for name, t in tensors.items() if split_name(name)[1] in (MATRIX_A, MATRIX_B) and len(t.shape) < 2]
    if flat:
        raise ValueError(
            f"matrices of an adapter must have a row per rank or output, got vectors for {listed(flat)}; "
            "save the adapter as a plain LoRA"
        )
    for module, found in parts.items():
        if MATRIX_A in found and found[MATRIX_A].shape[0] != found[MATRIX_B].shape[1]:
            rank, other = found[MATRIX_A].shape[0], found[MATRIX_B].shape[1]
            raise ValueError(f"both matrices of `{module}` must have one rank, got {rank} and {other}")
    return {module: rank_of(found) for module, found in parts.items()}


def is_whole(parts: Collection[str]) -> bool:
    """Tell whether the parts of a module make up a change of one kind."""
    if any(part in LOHA for part in parts):
        return all(part in parts for part in LOHA)
    if any(part in LOKR for part in parts):
        return all(w in parts or (f"{w}_a" in parts and f"{w}_b" in parts) for w in ("lokr_w1", "lokr_w2"))
    if any(part in parts for part in (MATRIX_A, MATRIX_B, BIAS_B, MAGNITUDE)):
        return MATRIX_A in parts and MATRIX_B in parts
    return DIFF in parts or DIFF_BIAS in parts


def rank_of(parts: Mapping[str, Shaped]) -> int:
    """Rank of a module's change as its config counts it; 1 where it has none."""
    if MATRIX_A in parts:
        return parts[MATRIX_A].shape[0]
    return parts[LOHA[0]].shape[1] if LOHA[0] in parts else 1


def module_alpha(config: Mapping[str, Any], module: str, rank: int) -> float:
    """Look up a module's alpha as peft does, such that its scale is alpha / rank, rank-stabilised or not."""
    alpha = next(
        (value for key, value in (config.get("alpha_pattern") or {}).items() if matches(key, module)),
        config["lora_alpha"],
    )
    return float(alpha * sqrt(rank)) if config.get("use_rslora") else float(alpha)


def without_padding(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Cut the zeros with which `enable_lora_hotswap` fills up matrices: a config has the rank without them.

    Args:
        tensors: Of an adapter, by `<module>.<part>`.
        config: peft's, whose alphas are to be divided by its ranks.
    """
    cut = dict(tensors)
    for name, matrix in tensors.items():
        module, part = split_name(name)
        if part != MATRIX_A:
            continue
        patterns = (config.get("rank_pattern") or {}).items()
        rank = next((value for key, value in patterns if matches(key, module)), config.get("r", len(matrix)))
        other = tensors[f"{module}.{MATRIX_B}"]
        if not (matrix[rank:].any() or other[:, rank:].any()):
            cut |= {name: matrix[:rank], f"{module}.{MATRIX_B}": other[:, :rank]}
    return cut


def matches(pattern: str, module: str) -> bool:
    """Tell whether a key of peft's patterns means the module: it may give the last parts only."""
    return re.fullmatch(rf"(.*\.)?({pattern})", module) is not None


def plain_config(ranks: Mapping[str, int], alphas: Mapping[str, float]) -> dict[str, Any]:
    """Build peft's fields from ranks and alphas; a module without alpha has a scale of 1."""
    alphas = {module: alphas.get(module, float(rank)) for module, rank in ranks.items()}
    rank, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
    return {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {module: value for module, value in ranks.items() if value != rank},
        "alpha_pattern": {module: value for module, value in alphas.items() if value != alpha},
        "target_modules": sorted(ranks),
    }


def parse_config(text: str, origin: str, prefix: str = "") -> dict[str, Any]:
    """Read peft's config.

    Args:
        text: JSON.
        origin: Where it stands, for messages.
        prefix: What may stand in front of its names.

    Raises:
        ValueError: It is no JSON object with a scale.
    """
    config = parse_object(text, f"`{origin}`", "save it anew")
    fields = {name.removeprefix(prefix): value for name, value in config.items()}
    return checked_config(fields, origin)


def checked_config(fields: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """Insist on peft's config of a LoRA, or of a LoHa or LoKr, which call alpha by another name.

    Raises:
        ValueError: It has no scale.
    """
    fields = {"lora_alpha": fields.get("alpha"), **fields}
    for alpha in (fields["lora_alpha"], *(fields.get("alpha_pattern") or {}).values()):
        if not is_finite_number(alpha):
            raise ValueError(f"`{origin}` must be the config of a LoRA with a `lora_alpha`, got {alpha}; save it anew")
    return fields
