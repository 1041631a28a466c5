"""LoRA adapters between three layouts: diffusers' file, peft's folder, and the file that ComfyUI-style tools read.

=========  =========================================  ==========================================
layout     keys                                       scale (alpha / rank)
=========  =========================================  ==========================================
diffusers  transformer.<module>.lora_{A,B}.weight     peft's config in the header; without: 1
peft       base_model.model.<module>.lora_{A,B}.weight  adapter_config.json
comfy      diffusion_model.<module>.lora_{down,up}.weight  <module>.alpha; without: 1
=========  =========================================  ==========================================

lora_A is lora_down [rank, in], lora_B is lora_up [out, rank]; they are moved, never changed.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import isclose, sqrt
from pathlib import Path
from typing import Any

import torch

from conversion.checkpoint import Checkpoint, Source, open_checkpoint, open_safetensors, read_metadata
from conversion.output import (
    Options,
    Parameter,
    as_checkpoint,
    cast,
    constant,
    new_file,
    new_folder,
    parameters,
    write_safetensors,
)
from conversion.rules import Rule, compile_pattern, inverse, listed, plan, prefixed
from conversion.wan import BLOCK, owned


CONFIG_KEY = "lora_adapter_metadata"  # diffusers' name of the header entry
DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
PEFT_FILES = ("adapter_model.safetensors", "adapter_config.json")
ALPHA_ROUNDING = 1e-6  # files store alpha in float32
LAYOUTS = ("diffusers", "peft", "comfy")

# fmt: off
MATRICES = (
    Rule("{path}.lora_A.weight",        "{path}.lora_A.weight"),
    Rule("{path}.lora_B.weight",        "{path}.lora_B.weight"),
)
COMFY_MATRICES = (
    Rule("{path}.lora_down.weight",     "{path}.lora_A.weight"),
    Rule("{path}.lora_up.weight",       "{path}.lora_B.weight"),
)
COMFY_ALPHA = Rule("{path}.alpha",      "{path}.alpha")
# fmt: on
PREFIXES = {"diffusers": "transformer.", "peft": "base_model.model.", "comfy": "diffusion_model."}


@dataclass(frozen=True)
class Adapter:
    """Matrices under `<module>.lora_{A,B}.weight` and the fields of peft's `LoraConfig`."""

    matrices: Mapping[str, Source]
    config: Mapping[str, Any]

    def ranks(self) -> dict[str, int]:
        """Rank of every module."""
        ending = ".lora_A.weight"
        return {
            name.removesuffix(ending): source.shape[0]
            for name, source in self.matrices.items()
            if name.endswith(ending)
        }

    def alphas(self) -> dict[str, float]:
        """Alpha of every module such that its scale is alpha / rank."""
        return {module: module_alpha(self.config, module, rank) for module, rank in self.ranks().items()}


def module_alpha(config: Mapping[str, Any], module: str, rank: int) -> float:
    """Look up a module's alpha as peft does; a rank-stabilised one is turned into the plain kind."""
    alpha = next(
        (value for key, value in (config.get("alpha_pattern") or {}).items() if matches(key, module)),
        config["lora_alpha"],
    )
    return float(alpha * sqrt(rank)) if config.get("use_rslora") else float(alpha)


def matches(pattern: str, module: str) -> bool:
    """Tell whether a key of peft's patterns means the module: it may give the last parts only."""
    return re.fullmatch(rf"(.*\.)?({pattern})", module) is not None


def layout_of(checkpoint: Checkpoint) -> str:
    """Recognise a layout by the prefix that all keys share."""
    for layout, prefix in PREFIXES.items():
        if checkpoint and all(name.startswith(prefix) for name in checkpoint):
            return layout
    raise ValueError(
        f"adapter keys must all start with one of {', '.join(PREFIXES.values())}, got {listed(checkpoint)}; "
        "adapters of text encoders are not supported"
    )


def table(layout: str, checkpoint: Checkpoint) -> list[Rule]:
    """Table from a layout's keys to bare ones; ComfyUI-style files may use either pair of names."""
    rules = list(MATRICES)
    if layout == "comfy":
        if any(".lora_down." in name for name in checkpoint):
            rules = list(COMFY_MATRICES)
        if any(name.endswith(".alpha") for name in checkpoint):
            rules.append(COMFY_ALPHA)
    return prefixed(rules, PREFIXES[layout], "")


def read(path: Path) -> Adapter:
    """Read an adapter in any of the layouts: a file, a peft folder, or a folder with diffusers' file name."""
    file = adapter_file(path)
    checkpoint = open_safetensors(file) if file.suffix == ".safetensors" else open_checkpoint(file)
    layout = layout_of(checkpoint)
    bare = as_checkpoint(parameters(plan(checkpoint, table(layout, checkpoint)), checkpoint))
    refuse_halves(bare)
    if any(re.match(r"blocks\.\d+\.(self_attn|cross_attn|ffn)\.", name) for name in bare):
        bare = of_video_tower(bare)
    matrices = {name: source for name, source in bare.items() if not name.endswith(".alpha")}
    alphas = {
        name.removesuffix(".alpha"): float(source.read()) for name, source in bare.items() if name.endswith(".alpha")
    }
    return with_alphas(Adapter(matrices, stored_config(file, layout) or inferred_config(matrices, {})), alphas)


def of_video_tower(bare: Checkpoint) -> dict[str, Source]:
    """Point an adapter made for a plain Wan model at the video tower of a `JoVAWanTransformer3DModel`."""
    renamed = {}
    for name, source in bare.items():
        module, ending = re.fullmatch(r"(.*?)(\.lora_[AB]\.weight|\.alpha)", name).groups()  # type: ignore[union-attr]
        renamed[video_module(module) + ending] = source
    return renamed


def video_module(module: str) -> str:
    """Translate a linear layer of Wan's original layout."""
    for rule in owned(prefixed(BLOCK, "blocks.{i}.", "blocks.{i}."), "video"):
        if match := compile_pattern(rule.sources[0].removesuffix(".{p}")).fullmatch(module):
            return rule.targets[0].removesuffix(".{p}").format(**match.groupdict())
    raise ValueError(f"adapter of a Wan model must change linear layers of its blocks, got `{module}`")


def with_alphas(adapter: Adapter, alphas: Mapping[str, float]) -> Adapter:
    """Let the alphas beside the matrices win over a config that says otherwise."""
    stated = adapter.alphas()
    if all(isclose(stated[module], alpha, rel_tol=ALPHA_ROUNDING) for module, alpha in alphas.items()):
        return adapter
    return Adapter(adapter.matrices, inferred_config(adapter.matrices, alphas))


def adapter_file(path: Path) -> Path:
    """Find the weights of an adapter folder."""
    if not path.is_dir():
        return path
    for name in (PEFT_FILES[0], DIFFUSERS_FILE):
        if (path / name).is_file():
            return path / name
    raise ValueError(f"`SOURCE` must hold {PEFT_FILES[0]} or {DIFFUSERS_FILE}, got neither in `{path}`")


def refuse_halves(bare: Checkpoint) -> None:
    """Raise when a module has only one of its two matrices, or matrices of different ranks."""
    modules = {name.rsplit(".lora_", 1)[0] for name in bare if ".lora_" in name}
    halves = [m for m in modules if f"{m}.lora_A.weight" not in bare or f"{m}.lora_B.weight" not in bare]
    if halves:
        raise ValueError(f"adapter must hold both matrices of every module, got one for {listed(sorted(halves))}")
    for module in modules:
        rank, other = bare[f"{module}.lora_A.weight"].shape[0], bare[f"{module}.lora_B.weight"].shape[1]
        if rank != other:
            raise ValueError(f"both matrices of `{module}` must have one rank, got {rank} and {other}")


def stored_config(file: Path, layout: str) -> dict[str, Any] | None:
    """Read peft's config from the header, or beside the file."""
    if layout == "peft":
        path = file.parent / PEFT_FILES[1]
        if not path.is_file():
            raise ValueError(f"`{file.name}` must lie beside its {PEFT_FILES[1]}, which holds the scale; got none")
        return json.loads(path.read_text())
    header = read_metadata(file) if file.suffix == ".safetensors" else {}
    if CONFIG_KEY not in header:
        return None
    prefix = PREFIXES["diffusers"]
    return {name.removeprefix(prefix): value for name, value in json.loads(header[CONFIG_KEY]).items()}


def inferred_config(matrices: Mapping[str, Source], alphas: Mapping[str, float]) -> dict[str, Any]:
    """Build peft's fields from the shapes and the alphas; a module without alpha has a scale of 1."""
    ranks = Adapter(matrices, {}).ranks()
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


def keys_for(adapter: Adapter, layout: str) -> list[Parameter]:
    """Put the matrices under the keys of a layout, with one alpha per module where the layout has them."""
    rules = inverse(prefixed(COMFY_MATRICES if layout == "comfy" else MATRICES, PREFIXES[layout], ""))
    found = parameters(plan(adapter.matrices, rules), adapter.matrices)
    if layout == "comfy":
        prefix = PREFIXES[layout]
        found += [constant(f"{prefix}{module}.alpha", torch.tensor(a)) for module, a in adapter.alphas().items()]
    return found


def header_for(adapter: Adapter) -> dict[str, str]:
    """Pack the config as diffusers does; ComfyUI-style readers ignore it, and it makes the way back exact."""
    packed = {f"{PREFIXES['diffusers']}{name}": value for name, value in adapter.config.items()}
    return {CONFIG_KEY: json.dumps(packed, indent=2, sort_keys=True)}


def convert(path: Path, output: Path, options: Options) -> None:
    """Write the adapter in `options.layout`: peft makes a folder, comfy a file, diffusers either."""
    adapter = read(path)
    found = cast(keys_for(adapter, options.layout), options.dtype, keep=(".alpha",))
    is_file = output.suffix == ".safetensors"
    if is_file != (options.layout == "comfy") and options.layout != "diffusers":
        raise ValueError(f"`OUTPUT` of {options.layout} must be a {'folder' if is_file else '.safetensors file'}")
    if is_file:
        with new_file(output) as file:
            write_safetensors(file, found, header_for(adapter))
        return
    with new_folder(output) as folder:
        if options.layout == "peft":
            write_safetensors(folder / PEFT_FILES[0], found)
            (folder / PEFT_FILES[1]).write_text(json.dumps(dict(adapter.config), indent=2, sort_keys=True) + "\n")
        else:
            write_safetensors(folder / DIFFUSERS_FILE, found, header_for(adapter))
