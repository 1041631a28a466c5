"""Adapter files of any tool, read into modules of our transformers, ranks and scales.

A module's scale is alpha / rank. Alpha stands beside the matrices, in peft's config (in the header of the file, or
beside it), or as a number in the header; an adapter that says nothing has a scale of 1. lora_A is lora_down
[rank, in], lora_B is lora_up [out, rank].
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from torch import Tensor

from jova_cli.adapter_info import check_no_record, file_of_folder, kinds_of_files
from jova_cli.shipped import check_source

from .adapter_keys import (
    ALPHA,
    BIAS_B,
    DIFF,
    DIFF_BIAS,
    LOHA,
    LOKR,
    MAGNITUDE,
    MATRIX_A,
    MATRIX_B,
    PREFIXES,
    bare_names,
    has_halved_heads,
    is_of_one_tower,
    listed,
    module_name,
    prefix_of_all,
    split_name,
)
from .adapter_ranks import checked_config, module_alpha, module_ranks, parse_config, plain_config, without_padding
from .few_steps import FewSteps
from .finite import is_finite
from .hub_access import check_named, explained_damage, explained_hub
from .mova_adapter import TOWERS, checked_tower, paired_tensors, unwrapped, with_given_alpha
from .number_arguments import is_finite_number
from .registration import bake_lokr_alpha, fetch_state_dict


PEFT_CONFIG = "adapter_config.json"
HEADER_ALPHAS = ("ss_network_alpha", "network_alpha", "lora_alpha", "alpha")  # of musubi and kohya, and of others
COMFY_PARTS = {MATRIX_A: "lora_down.weight", MATRIX_B: "lora_up.weight"}  # others have the same names
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")


class AdapterTensors(dict[str, Tensor]):
    """Tensors of an adapter by name, as `lora_state_dict` reads them, with what its file says besides.

    Handed to `load_lora_weights` as they are, they load as the file does; a copy of the tensors alone says neither.

    Attributes:
        config: peft's fields, with the scale of every module; None where the file tells none.
        few_steps: How a student of few steps is asked; None for other adapters.
    """

    config: Mapping[str, Any] | None = None
    few_steps: FewSteps | None = None


@dataclass(frozen=True)
class Adapter:
    """An adapter under our names.

    Attributes:
        tensors: Tensors by `<module>.<part>`, without alphas.
        alphas: Alpha of each module that has one.
        unknown: Keys of the file that mean no part of a module.
        halved: Modules whose outputs are heads of two halves, as MOVA's bridge has them.
        untold: Modules of a plain video model, where nothing says which of two video towers is meant.
        few_steps: How a student of few steps is asked; None for other adapters.
    """

    tensors: Mapping[str, Tensor]
    alphas: Mapping[str, float]
    unknown: Sequence[str] = ()
    halved: Collection[str] = ()
    untold: Collection[str] = ()
    few_steps: FewSteps | None = None

    def of_module(self, module: str) -> dict[str, Tensor]:
        """Tensors of a module, by part."""
        return {part: tensor for name, tensor in self.tensors.items() for m, part in [split_name(name)] if m == module}

    def without(self, modules: Collection[str]) -> "Adapter":
        """The same adapter without the changes of some modules."""
        kept = {name: tensor for name, tensor in self.tensors.items() if split_name(name)[0] not in modules}
        return replace(self, tensors=kept)

    def with_paired_heads(self, head_dim: int) -> "Adapter":
        """The same adapter for heads of `head_dim` channels that rotate pairs of them, as ours do."""
        return replace(self, tensors=paired_tensors(self.tensors, self.halved, head_dim), halved=())

    def without_alpha(self) -> list[str]:
        """Modules whose matrices nothing scales; a difference of whole weights has no scale."""
        scaled = (MATRIX_A, LOHA[0], *LOKR)
        modules = {module: None for module, part in map(split_name, self.tensors) if part in scaled}
        return [module for module in modules if module not in self.alphas]

    def modules(self) -> list[str]:
        """Modules that the adapter changes."""
        return list(dict.fromkeys(split_name(name)[0] for name in self.tensors))


# 1. Files


def read_adapter(
    source: Any,
    config: Mapping[str, Any] | None = None,
    tower: str | None = None,
    alpha: float | None = None,
    **options: Any,
) -> Adapter:
    """Read an adapter of any tool.

    Args:
        source: Folder, file, hub id, or tensors in memory.
        config: peft's config, where it is known; else it is looked for.
        tower: Video tower that an adapter of a plain video model changes, `"video"` or `"video_low"`.
        alpha: Of all modules, whatever the file states.
        options: What `load_lora_weights` takes to find the file.

    Raises:
        ValueError: The file holds no adapter of a transformer, or does not say its scale where it must.
    """
    raw, stored, header = fetch(source, **options)
    names, unknown = bare_names(raw)
    tensors = {new: raw[old] for old, new in names.items()}
    check_finite(tensors)
    tensors = {name: tensor for name, tensor in tensors.items() if not is_idle(name, tensor)}
    alphas = {split_name(name)[0]: read_alpha(name, t) for name, t in tensors.items() if name.endswith(f".{ALPHA}")}
    tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith(f".{ALPHA}")}
    ranks = module_ranks(tensors, alphas)
    config = config or stored_config(source, prefix_of_all(raw), stored, bool(alphas), options)
    if config:
        tensors = without_padding(tensors, config)
        ranks = module_ranks(tensors, alphas)
        alphas = {module: module_alpha(config, module, rank) for module, rank in ranks.items()} | alphas
    elif (stated := header_alpha(header)) is not None:
        alphas = dict.fromkeys(ranks, stated) | alphas
    alphas = with_given_alpha(alphas, ranks, alpha)
    owner = checked_tower(tower, ranks) or TOWERS[0]
    return Adapter(
        {
            f"{module_name(module, owner)}.{part}": t
            for name, t in tensors.items()
            for module, part in [split_name(name)]
        },
        {module_name(module, owner): alpha for module, alpha in alphas.items()},
        unknown,
        halved={module_name(module) for module in ranks if has_halved_heads(module)},
        untold=[module_name(m, owner) for m in ranks if is_of_one_tower(m)] if tower is None else (),
        few_steps=FewSteps.from_header(header),
    )


def fetch(source: Any, **options: Any) -> tuple[dict[str, Tensor], Mapping[str, Any] | None, dict[str, str]]:
    """Read the tensors of an adapter, peft's config in its header, and the whole header.

    Args:
        source: Folder, file, hub id, or tensors in memory.
        options: What `load_lora_weights` takes; those that do not help to find the file are left unread.
    """
    check_adapter_source(source)
    given = options.get("use_safetensors")
    if isinstance(source, str | Path) and options.get("weight_name") is None:
        options["weight_name"] = file_name_in(Path(source) / (options.get("subfolder") or ""), given)
    if isinstance(source, str):
        check_named("adapter", source, options.get("weight_name"))
    if isinstance(file := local_path(source, options), str | Path):
        check_no_record("adapter", Path(file))
    explained = explained_hub("adapter", source) if isinstance(source, str) else nullcontext()
    with explained, explained_damage("an adapter", file):
        tensors, config, header = fetch_state_dict(
            source,
            **{name: options.get(name) for name in (*HUB_OPTIONS, "proxies", "weight_name")},
            use_safetensors=True if given is None else given,
            allow_pickle=given is None,
            user_agent={"file_type": "attn_procs_weights", "framework": "pytorch"},
            return_file_metadata=True,
        )
    if isinstance(source, AdapterTensors):
        config, header = source.config, source.few_steps and source.few_steps.to_header()
    tensors, beside = unwrapped(tensors)
    return tensors, config, {**(header or {}), **beside}


def check_adapter_source(source: Any) -> None:
    """Refuse what is no place and no tensors, and a name that is neither on this machine nor one of the hub."""
    if not isinstance(source, str | Path | Mapping):
        raise ValueError(
            f"`adapter` must be a folder, a file, a hub name or a dict of tensors, got {source!r}; name the file that "
            "training wrote"
        )
    if isinstance(source, str) and "/" not in source:  # no name of a repository: the hub would be asked in vain
        check_source("adapter", source)


def file_name_in(folder: Path, use_safetensors: bool | None) -> str | None:
    """Name of the file of a local folder that holds its adapter; None where the path is another.

    Raises:
        FileNotFoundError: The folder has no file of the kind.
        ValueError: It has several.
    """
    if not folder.is_dir():
        return None
    if found := file_of_folder(folder, "adapter", use_safetensors=use_safetensors):
        return found.name
    kinds = " or ".join(suffix for suffixes in kinds_of_files(use_safetensors) for suffix in suffixes)
    raise FileNotFoundError(
        f"`adapter` must be a folder with a {kinds} file, got no file named so in {folder}; name another"
    )


def local_path(source: Any, options: Mapping[str, Any]) -> Any:
    """The file that is read of a folder on this machine; every other source as it is."""
    if not isinstance(source, str | Path) or not Path(source).is_dir():
        return source
    name = options.get("weight_name") or ""
    places = (Path(source) / name, Path(source) / (options.get("subfolder") or "") / name)  # as diffusers looks for it
    return next((place for place in places if place.is_file()), source)


def stored_config(
    source: Any, prefix: str | None, stored: Mapping[str, Any] | None, has_alphas: bool, options: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Find peft's config: in the header of the file, else beside it; None where there is none.

    Raises:
        ValueError: peft wrote the weights, and nothing says their scale.
    """
    if stored:
        fields = {name.removeprefix(PREFIXES["diffusers"]): value for name, value in stored.items()}
        return checked_config(fields, "lora_adapter_metadata")
    is_of_peft = prefix == PREFIXES["peft"]
    config = read_peft_config(source, **options) if is_of_peft or not has_alphas else None
    if config is None and is_of_peft and not has_alphas:
        raise ValueError(
            f"weights that peft saved must lie beside their {PEFT_CONFIG}, which holds the scale, got none; "
            "name the folder of both"
        )
    return config


def header_alpha(header: Mapping[str, str]) -> float | None:
    """Read the one alpha of all modules that the header states; None where it states none.

    Raises:
        ValueError: It is no number, or there are two that differ.
    """
    stated = {name: header[name] for name in HEADER_ALPHAS if header.get(name) not in (None, "", "None")}
    try:
        values = {float(value) for value in stated.values()}
    except ValueError:
        values = set()
    if stated and (len(values) != 1 or not is_finite_number(min(values))):
        raise ValueError(
            f"the header of an adapter must state one number as alpha, got {stated}; save it with one alpha per module"
        )
    return values.pop() if values else None


def read_alpha(name: str, tensor: Tensor) -> float:
    """Read the one number that scales a module."""
    if tensor.numel() != 1:
        raise ValueError(f"`{name}` must be one number, got shape {list(tensor.shape)}; save the adapter anew")
    return float(tensor)


def is_idle(name: str, tensor: Tensor) -> bool:
    """Tell whether a difference is zero everywhere, as tools write it for norms that they did not change."""
    return split_name(name)[1] in (DIFF, DIFF_BIAS) and not tensor.any()


def check_finite(tensors: Mapping[str, Tensor]) -> None:
    """Refuse weights that would turn every clip into noise or black frames.

    Raises:
        ValueError: Some hold NaN or infinity.
    """
    broken = [name for name, tensor in tensors.items() if not is_finite(tensor)]
    if broken:
        raise ValueError(
            f"weights of an adapter must be finite, got NaN or infinity in {listed(broken)}; "
            "its training diverged, or its conversion overflowed: take an earlier checkpoint"
        )


def read_peft_config(source: Any, weight_name: str | None = None, **options: Any) -> dict[str, Any] | None:
    """Read the config beside the weights that peft saved; None where there is none.

    Args:
        source: Folder, file, hub id, or tensors in memory.
        weight_name: File of the folder or repository.
        options: What `load_lora_weights` takes to find the file on the hub.
    """
    if isinstance(source, Mapping):
        return None
    place = Path(weight_name or PEFT_CONFIG).parent / PEFT_CONFIG
    path = Path(source)
    if path.exists():
        path = path.parent / PEFT_CONFIG if path.is_file() else path / (options.get("subfolder") or "") / place
    else:
        given = {name: options[name] for name in HUB_OPTIONS if options.get(name) is not None}
        try:
            path = Path(hf_hub_download(str(source), place.as_posix(), **given))
        except (EntryNotFoundError, LocalEntryNotFoundError):
            return None
    return parse_config(path.read_text(), str(path)) if path.is_file() else None


# 2. What peft loads


def for_peft(
    adapter: Adapter, widths: Mapping[str, int] | None = None
) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """Write every change as what peft loads: LoRA matrices with their config, or LoKr's factors.

    Args:
        adapter: Any kind of changes.
        widths: Number of inputs of each module, for those of which the bias alone changes.

    Returns:
        Tensors by `<module>.<part>`, and the fields of `LoraConfig`; None for LoKr, whose config follows from shapes.

    Raises:
        ValueError: The adapter mixes kinds of changes that peft does not mix.
    """
    if any(split_name(name)[1] in LOKR for name in adapter.tensors):
        return lokr_factors(adapter), None
    pairs: dict[str, Tensor] = {}
    alphas: dict[str, float] = {}
    for module in adapter.modules():
        parts = adapter.of_module(module)
        if not parts.keys() - {DIFF_BIAS}:
            if widths is None:
                raise ValueError(
                    f"the change of `{module}` must be one of its weight too, got one of its bias alone; load the "
                    "adapter into its model"
                )
            parts[DIFF] = torch.zeros(1, widths[module]).expand(len(parts[DIFF_BIAS]), -1)
        pair, alphas[module] = lora_pair(module, parts, adapter.alphas.get(module))
        pairs |= {f"{module}.{part}": tensor for part, tensor in pair.items()}
    ranks = module_ranks(pairs)
    check_dora(pairs, ranks)
    if has_bias := any(name.endswith(BIAS_B) for name in pairs):  # then of all modules
        zeros = {f"{m}.{BIAS_B}": torch.zeros(len(pairs[f"{m}.{MATRIX_B}"])) for m in ranks}
        pairs |= {name: zero for name, zero in zeros.items() if name not in pairs}
    has_magnitudes = any(name.endswith(MAGNITUDE) for name in pairs)
    config = plain_config(ranks, alphas) | ({"lora_bias": True} if has_bias else {})
    pairs = dict(sorted(pairs.items(), key=lambda item: not item[0].endswith(MATRIX_A)))  # by which diffusers knows it
    return pairs, config | ({"use_dora": True} if has_magnitudes else {})


def for_comfy(adapter: Adapter) -> dict[str, Tensor]:
    """Write every change under the names that ComfyUI's own loader of adapters knows.

    Args:
        adapter: Any kind of changes.

    Returns:
        Tensors by `diffusion_model.<module>.<part>`, alphas among them. A bias of lora_B is a change of the bias;
        magnitudes of a DoRA are left out, see `merge_dora`.
    """
    tensors: dict[str, Tensor] = {}
    for module in adapter.modules():
        parts, alpha = adapter.of_module(module), adapter.alphas.get(module)
        if (bias := parts.pop(BIAS_B, None)) is not None:
            scale = 1.0 if alpha is None else alpha / len(parts[MATRIX_A])
            parts[DIFF_BIAS] = bias.float() * scale + parts.get(DIFF_BIAS, torch.zeros(()))
        parts.pop(MAGNITUDE, None)
        if alpha is not None:
            parts[ALPHA] = torch.tensor(alpha)
        tensors |= {f"{PREFIXES['comfy']}{module}.{COMFY_PARTS.get(part, part)}": t for part, t in parts.items()}
    return tensors


def merge_dora(weight: Tensor, change: Tensor, magnitude: Tensor) -> Tensor:
    """Merge a DoRA into a weight: the rows of weight and change take the lengths that the adapter learned.

    arXiv:2402.09353v6, Eq. 5, per output as in peft:  W' = m (W + BA) / |W + BA|

    Args:
        weight: W, [out, in].
        change: BA with its scale, same shape.
        magnitude: m, one per output, [out] in any shape.
    """
    merged = weight + change
    return merged * (magnitude.reshape(-1, 1).to(merged) / merged.norm(dim=1, keepdim=True))


def lora_pair(module: str, parts: Mapping[str, Tensor], alpha: float | None) -> tuple[dict[str, Tensor], float]:
    """Write the change of one module as LoRA matrices, and alpha for them.

    Raises:
        ValueError: It is no change that LoRA matrices can be.
    """
    kinds = [kind for kind in (MATRIX_B, DIFF, LOHA[0]) if kind in parts]
    if len(kinds) > 1 or (DIFF_BIAS in parts and BIAS_B in parts):
        raise ValueError(
            f"the change of `{module}` must be of one kind, got {listed(parts)}; save the adapter as a plain LoRA"
        )
    if LOHA[0] in parts:
        pair = hadamard_pair(parts)
        rank, own_rank = len(pair[MATRIX_A]), parts[LOHA[0]].shape[1]
        alpha = float(rank) if alpha is None else alpha / own_rank * rank
    elif MATRIX_B in parts:
        pair = {name: parts[name] for name in (MATRIX_A, MATRIX_B, BIAS_B) if name in parts}
        alpha = float(len(pair[MATRIX_A])) if alpha is None else alpha
    else:
        pair = whole_pair(parts[DIFF]) if parts[DIFF].any() else idle_pair(parts[DIFF])
        alpha = float(len(pair[MATRIX_A]))
    if DIFF_BIAS in parts:  # peft scales it as well
        if alpha == 0:
            raise ValueError("alpha must not be 0 beside a change of the bias, got 0; save the adapter anew")
        pair[BIAS_B] = parts[DIFF_BIAS].float() * (len(pair[MATRIX_A]) / alpha)
    if MAGNITUDE in parts:
        pair[MAGNITUDE] = parts[MAGNITUDE].flatten()
    return pair, alpha


def whole_pair(change: Tensor) -> dict[str, Tensor]:
    """Write a whole change [out, in] of a weight as a product with the smaller identity."""
    rank = min(change.shape)
    one = torch.eye(rank, dtype=change.dtype)
    is_wide = change.shape[0] == rank
    return {MATRIX_A: change if is_wide else one, MATRIX_B: one if is_wide else change}


def idle_pair(change: Tensor) -> dict[str, Tensor]:
    """Write no change of a weight, beside one of its bias."""
    return {MATRIX_A: change.new_zeros(1, change.shape[1]), MATRIX_B: change.new_zeros(change.shape[0], 1)}


def hadamard_pair(parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Write LoHa's (a1 b1) * (a2 b2), of rank r each, as one product of rank r^2, or whole where that is smaller.

    FedPara (arXiv:2108.06098v3), Prop. 1: the rows of the factors multiply, every column with every other.
    """
    a1, b1, a2, b2 = (parts[name].float() for name in LOHA)
    if a1.shape[1] * a2.shape[1] >= min(len(a1), b1.shape[1]):
        return whole_pair((a1 @ b1) * (a2 @ b2))
    return {
        MATRIX_A: (b1[:, None] * b2[None]).flatten(0, 1),
        MATRIX_B: (a1[:, :, None] * a2[:, None]).flatten(1),
    }


def lokr_factors(adapter: Adapter) -> dict[str, Tensor]:
    """Factors of a LoKr with alpha in them.

    Raises:
        ValueError: The adapter holds other changes too, or a module lacks a factor.
    """
    if other := [name for name in adapter.tensors if split_name(name)[1] not in LOKR]:
        raise ValueError(f"a LoKr must hold factors alone, got {listed(other)}; save the adapter as a plain LoRA")
    factors = {**adapter.tensors}
    factors |= {f"{m}.{ALPHA}": torch.tensor(a) for m, a in adapter.alphas.items() if m in adapter.modules()}
    bake_lokr_alpha(factors)
    return factors


def check_dora(pairs: Mapping[str, Tensor], ranks: Mapping[str, int]) -> None:
    """Refuse magnitudes that peft cannot apply: of some modules only, or per column.

    Raises:
        ValueError: There are such.
    """
    found = {name: len(tensor) for name, tensor in pairs.items() if name.endswith(f".{MAGNITUDE}")}
    lengths = {f"{module}.{MAGNITUDE}": len(pairs[f"{module}.{MATRIX_B}"]) for module in ranks}
    if found and (wrong := [name for name in lengths if found.get(name) != lengths[name]]):
        raise ValueError(
            "magnitudes of a DoRA must be one per row of each changed weight, got none or others for "
            f"{listed(wrong)}; save the adapter as a plain LoRA"
        )
    if found and any(name.endswith(f".{BIAS_B}") for name in pairs):
        raise ValueError("a DoRA must not change biases as well; save the adapter as a plain LoRA")
