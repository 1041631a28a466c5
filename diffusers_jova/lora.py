"""JoVALoraLoaderMixin: LoRA adapters of the transformer in a pipeline, in each of the layouts that tools write.

=========  =================================================  ==========================================
layout     keys                                               scale (alpha / rank)
=========  =================================================  ==========================================
diffusers  transformer.<module>.lora_{A,B}.weight             peft's config in the header; without: 1
peft       base_model.model.<module>.lora_{A,B}.weight        adapter_config.json, or <module>.alpha
comfy      diffusion_model.<module>.lora_{down,up}.weight,    <module>.alpha, or a config in the header;
           or lora_{A,B}.weight                               without: 1
=========  =================================================  ==========================================

lora_A is lora_down [rank, in], lora_B is lora_up [out, rank]. Adapters for a plain Wan model name its layers as Wan
does; here they change the video tower of a `JoVAWanTransformer3DModel`.
"""

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from math import sqrt
from pathlib import Path
from typing import Any, Protocol

from diffusers.loaders.lora_pipeline import CogVideoXLoraLoaderMixin
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from torch import Tensor, nn

from .adapter_layers import check_mergeable
from .registration import fetch_state_dict


PREFIXES = {"diffusers": "transformer.", "peft": "base_model.model.", "comfy": "diffusion_model."}
PEFT_CONFIG = "adapter_config.json"
MATRIX_A, MATRIX_B, ALPHA = "lora_A.weight", "lora_B.weight", "alpha"
PARTS = {  # of a module, by their names in the files
    MATRIX_A: MATRIX_A,
    MATRIX_B: MATRIX_B,
    "lora_down.weight": MATRIX_A,
    "lora_up.weight": MATRIX_B,
    ALPHA: ALPHA,
}
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")
MOST_LISTED = 12

# fmt: off
WAN_LAYERS = {  # Wan      JoVAWanTransformer3DModel
    "self_attn.q":         "attn1.video.to_q",
    "self_attn.k":         "attn1.video.to_k",
    "self_attn.v":         "attn1.video.to_v",
    "self_attn.o":         "attn1.video.to_out.0",
    "cross_attn.q":        "attn2.video.to_q",
    "cross_attn.k":        "attn2.video.to_k",
    "cross_attn.v":        "attn2.video.to_v",
    "cross_attn.o":        "attn2.video.to_out.0",
    "ffn.0":               "ffn.video.net.0.proj",
    "ffn.2":               "ffn.video.net.2",
}
# fmt: on


class Shaped(Protocol):
    """A tensor, or the description of one."""

    @property
    def shape(self) -> Sequence[int]:
        """Sizes of its dimensions."""


# 1. Keys


def layout_of(names: Collection[str]) -> str:
    """Recognise a layout by the prefix that all keys share.

    Raises:
        ValueError: They share none.
    """
    for layout, prefix in PREFIXES.items():
        if names and all(name.startswith(prefix) for name in names):
            return layout
    prefix = max(PREFIXES.values(), key=lambda prefix: sum(name.startswith(prefix) for name in names))
    raise ValueError(
        f"adapter keys must all start with one of {', '.join(PREFIXES.values())}, "
        f"got {listed(name for name in names if not name.startswith(prefix))}; "
        "adapters of text encoders are not supported"
    )


def bare_names(names: Collection[str]) -> dict[str, str]:
    """Map the keys of a layout to `<module>.lora_A.weight`, `<module>.lora_B.weight` and `<module>.alpha`.

    Raises:
        ValueError: Some keys are of another kind, or two keys mean the same.
    """
    prefix = PREFIXES[layout_of(names)]
    pattern = re.compile(rf"(.+)\.({'|'.join(map(re.escape, PARTS))})")
    found = {name: pattern.fullmatch(name.removeprefix(prefix)) for name in names}
    if unknown := [name for name, match in found.items() if match is None]:
        raise ValueError(
            f"adapter keys must end in one of {', '.join(PARTS)}, got {listed(unknown)}; "
            "save the adapter as a plain LoRA"
        )
    bare = {name: f"{match[1]}.{PARTS[match[2]]}" for name, match in found.items() if match is not None}
    if twice := [name for name, count in Counter(bare.values()).items() if count > 1]:
        raise ValueError(f"adapter must hold each matrix once, got two of {listed(twice)}")
    return bare


def module_names(modules: Iterable[str]) -> dict[str, str]:
    """Map the modules of an adapter to those of the transformer: the same, but for the layers of a plain Wan model.

    Raises:
        ValueError: An adapter of a Wan model changes other layers than the linear ones of its blocks.
    """
    modules = list(modules)
    wan = re.compile(r"(blocks\.\d+)\.((?:self_attn|cross_attn)\..+|ffn\.\d+)")
    found = {module: wan.fullmatch(module) for module in modules}
    if not any(found.values()):
        return {module: module for module in modules}
    if unknown := [module for module, match in found.items() if match is None or match[2] not in WAN_LAYERS]:
        raise ValueError(f"adapter of a Wan model must change linear layers of its blocks, got {listed(unknown)}")
    return {module: f"{match[1]}.{WAN_LAYERS[match[2]]}" for module, match in found.items() if match is not None}


def listed(names: Iterable[str]) -> str:
    """Join names for a message; long lists end in their length."""
    names = list(names)
    shown = ", ".join(f"`{name}`" for name in names[:MOST_LISTED])
    return shown if len(names) <= MOST_LISTED else f"{shown} and {len(names) - MOST_LISTED} more"


# 2. Ranks and scales


def module_ranks(tensors: Mapping[str, Shaped]) -> dict[str, int]:
    """Rank of every module, from the tensors under bare names.

    Raises:
        ValueError: A module lacks one of its two matrices, or they have different ranks.
    """
    modules = dict.fromkeys(name.rsplit(".lora_", 1)[0].removesuffix(f".{ALPHA}") for name in tensors)
    if halves := [m for m in modules if f"{m}.{MATRIX_A}" not in tensors or f"{m}.{MATRIX_B}" not in tensors]:
        raise ValueError(
            f"adapter must hold both matrices of every module, got one or none for {listed(sorted(halves))}"
        )
    if flat := [name for name, tensor in tensors.items() if not name.endswith(f".{ALPHA}") and len(tensor.shape) < 2]:
        raise ValueError(
            f"matrices of an adapter must have a row per rank or output, got vectors for {listed(flat)}; "
            "save the adapter as a plain LoRA"
        )
    ranks = {module: tensors[f"{module}.{MATRIX_A}"].shape[0] for module in modules}
    for module, rank in ranks.items():
        other = tensors[f"{module}.{MATRIX_B}"].shape[1]
        if rank != other:
            raise ValueError(f"both matrices of `{module}` must have one rank, got {rank} and {other}")
    return ranks


def module_alpha(config: Mapping[str, Any], module: str, rank: int) -> float:
    """Look up a module's alpha as peft does, such that its scale is alpha / rank, rank-stabilised or not."""
    alpha = next(
        (value for key, value in (config.get("alpha_pattern") or {}).items() if matches(key, module)),
        config["lora_alpha"],
    )
    return float(alpha * sqrt(rank)) if config.get("use_rslora") else float(alpha)


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
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"`{origin}` must be JSON, got {error}") from error
    fields = {name.removeprefix(prefix): value for name, value in config.items()} if isinstance(config, dict) else {}
    if not isinstance(fields.get("lora_alpha"), int | float):
        raise ValueError(f"`{origin}` must be the config of a LoRA with a `lora_alpha`, got none")
    return fields


# 3. The pipeline's loader


def to_diffusers(
    state_dict: Mapping[str, Tensor], config: Mapping[str, Any] | None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return tensors and metadata of an adapter in diffusers' layout.

    Args:
        state_dict: Tensors in any layout.
        config: peft's config of the adapter; alphas beside the matrices win over it.
    """
    bare = {new: state_dict[old] for old, new in bare_names(state_dict).items()}
    ranks = module_ranks(bare)
    alphas = {module: module_alpha(config, module, rank) for module, rank in ranks.items()} if config else {}
    alphas |= {module: float(bare[f"{module}.{ALPHA}"]) for module in ranks if f"{module}.{ALPHA}" in bare}
    names = module_names(ranks)
    matrices = {f"{new}.{part}": bare[f"{old}.{part}"] for old, new in names.items() for part in (MATRIX_A, MATRIX_B)}
    metadata = plain_config(
        {names[module]: rank for module, rank in ranks.items()},
        {names[module]: alpha for module, alpha in alphas.items()},
    )
    prefix = PREFIXES["diffusers"]
    return (
        {f"{prefix}{name}": tensor for name, tensor in matrices.items()},
        {f"{prefix}{name}": value for name, value in metadata.items()},
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


def fetch(source: Any, **options: Any) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """Read the tensors of an adapter and the metadata in its header.

    Args:
        source: Folder, file, hub id, or tensors in memory.
        options: What `load_lora_weights` takes; those that do not help to find the file are left unread.

    Raises:
        ValueError: The adapter is a DoRA whose magnitudes the loaders of diffusers would drop without a word.
    """
    given = options.get("use_safetensors")
    state_dict, metadata = fetch_state_dict(
        source,
        **{name: options.get(name) for name in (*HUB_OPTIONS, "proxies", "weight_name")},
        use_safetensors=True if given is None else given,
        allow_pickle=given is None,
        user_agent={"file_type": "attn_procs_weights", "framework": "pytorch"},
    )
    if dropped := [name for name in state_dict if "dora_scale" in name]:
        raise ValueError(
            f"adapter must be a plain LoRA, or a DoRA as peft names it, got {listed(dropped)}; save it as a plain LoRA"
        )
    return state_dict, metadata


class JoVALoraLoaderMixin(CogVideoXLoraLoaderMixin):
    """Load, save, weigh and fuse LoRA adapters of the transformer.

    The methods are those of every diffusers pipeline whose adapters sit in one `transformer`: `load_lora_weights`,
    `save_lora_weights`, `set_adapters`, `fuse_lora`, `unfuse_lora`, `delete_adapters`.
    """

    _lora_loadable_modules = ["transformer"]
    transformer_name = "transformer"

    @classmethod
    def lora_state_dict(cls, pretrained_model_name_or_path_or_dict: Any, **kwargs: Any) -> Any:
        """Read an adapter in any layout of the module's table, into diffusers' layout.

        Returns:
            Tensors by name, and with `return_lora_metadata` also peft's config.

        Raises:
            ValueError: The file holds something that is no plain LoRA of the transformer.
        """
        with_metadata = kwargs.pop("return_lora_metadata", False)
        source = pretrained_model_name_or_path_or_dict
        state_dict, metadata = fetch(source, **kwargs)
        if any(name.startswith(PREFIXES["peft"]) for name in state_dict):
            config = read_peft_config(source, **kwargs)
            if config is None and not any(name.endswith(f".{ALPHA}") for name in state_dict):
                raise ValueError(
                    f"weights that peft saved must lie beside their {PEFT_CONFIG}, which holds the scale, got none; "
                    "name the folder of both"
                )
            state_dict, metadata = to_diffusers(state_dict, config)
        elif any(name.startswith(PREFIXES["comfy"]) for name in state_dict):
            prefix = PREFIXES["diffusers"]
            config = {name.removeprefix(prefix): value for name, value in (metadata or {}).items()}
            state_dict, metadata = to_diffusers(state_dict, config if "lora_alpha" in config else None)
        return (state_dict, metadata) if with_metadata else state_dict

    @classmethod
    def load_lora_into_transformer(
        cls, state_dict: Mapping[str, Tensor], transformer: nn.Module, *args: Any, **kwargs: Any
    ) -> None:
        """Lay an adapter over the transformer.

        Raises:
            ValueError: It changes modules that the transformer does not have.
        """
        present = {name.replace("_orig_mod.", "") for name, _ in transformer.named_modules()}  # compiled or not
        prefix = PREFIXES["diffusers"]
        names = [name.removeprefix(prefix) for name in state_dict if name.startswith(prefix)]
        changed = {re.split(r"\.(?:lora|lokr)[._]", name)[0] for name in names}
        if unknown := sorted(changed - present):
            raise ValueError(
                f"adapter must change modules of this {type(transformer).__name__}, got {listed(unknown)}, which it "
                "does not have; load it into the model that it was trained for"
            )
        super().load_lora_into_transformer(state_dict, transformer, *args, **kwargs)

    def unfuse_lora(self, components: Sequence[str] = ("transformer",), **kwargs: Any) -> None:
        """Take merged adapters out of the weights.

        Raises:
            ValueError: The weights are stored in 8 bits.
        """
        check_mergeable(self.transformer, "unfuse_lora", "load the model again")
        super().unfuse_lora(components=list(components), **kwargs)
