"""LoRA adapters between three layouts: diffusers' file, peft's folder, and the file that ComfyUI-style tools read.

The layouts are those of `diffusers_jova.lora`; matrices are moved, never changed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from diffusers_jova.conversion.checkpoint import Source, open_checkpoint, open_safetensors, read_metadata
from diffusers_jova.conversion.output import (
    Options,
    Parameter,
    cast,
    constant,
    new_file,
    new_folder,
    parameters,
    write_safetensors,
)
from diffusers_jova.conversion.rules import Rule, plan, prefixed
from diffusers_jova.lora import (
    ALPHA,
    PEFT_CONFIG,
    PREFIXES,
    bare_names,
    layout_of,
    module_alpha,
    module_names,
    module_ranks,
    parse_config,
    plain_config,
)


CONFIG_KEY = "lora_adapter_metadata"  # diffusers' name of the header entry
DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
PEFT_FILE = "adapter_model.safetensors"
ALPHA_ROUNDING = 1e-6  # files store alpha in float32
LAYOUTS = tuple(PREFIXES)

# fmt: off
MATRICES = (
    Rule("{path}.lora_A.weight",        "{path}.lora_A.weight"),
    Rule("{path}.lora_B.weight",        "{path}.lora_B.weight"),
)
COMFY_MATRICES = (
    Rule("{path}.lora_A.weight",        "{path}.lora_down.weight"),
    Rule("{path}.lora_B.weight",        "{path}.lora_up.weight"),
)
# fmt: on


@dataclass(frozen=True)
class Adapter:
    """Matrices under `<module>.lora_{A,B}.weight` and the fields of peft's `LoraConfig`."""

    matrices: Mapping[str, Source]
    config: Mapping[str, Any]

    def alphas(self) -> dict[str, float]:
        """Alpha of every module such that its scale is alpha / rank."""
        ranks = module_ranks(self.matrices)
        return {module: module_alpha(self.config, module, rank) for module, rank in ranks.items()}


def read(path: Path) -> Adapter:
    """Read an adapter in any of the layouts: a file, a peft folder, or a folder with diffusers' file name."""
    file = adapter_file(path)
    checkpoint = open_safetensors(file) if file.suffix == ".safetensors" else open_checkpoint(file)
    bare = {new: checkpoint[old] for old, new in bare_names(checkpoint).items()}
    ranks = module_ranks(bare)
    alphas = {module: read_alpha(bare[f"{module}.{ALPHA}"]) for module in ranks if f"{module}.{ALPHA}" in bare}
    matrices = {name: source for name, source in bare.items() if not name.endswith(f".{ALPHA}")}
    config = stored_config(file, layout_of(checkpoint), alphas) or plain_config(ranks, alphas)
    return for_our_model(with_alphas(Adapter(matrices, config), alphas))


def read_alpha(source: Source) -> float:
    """Read the one number that scales a module."""
    if math.prod(source.shape) != 1:
        raise ValueError(
            f"alpha of a module must be one number, got a tensor of shape {list(source.shape)}; "
            "save the adapter as a plain LoRA"
        )
    return float(source.read())


def for_our_model(adapter: Adapter) -> Adapter:
    """Point an adapter made for a plain Wan model at the video tower of a `JoVAWanTransformer3DModel`."""
    ranks = module_ranks(adapter.matrices)
    names = module_names(ranks)
    if all(old == new for old, new in names.items()):
        return adapter
    parts = ("lora_A.weight", "lora_B.weight")
    matrices = {f"{new}.{part}": adapter.matrices[f"{old}.{part}"] for old, new in names.items() for part in parts}
    alphas = {names[module]: alpha for module, alpha in adapter.alphas().items()}
    return Adapter(matrices, plain_config({names[module]: rank for module, rank in ranks.items()}, alphas))


def with_alphas(adapter: Adapter, alphas: Mapping[str, float]) -> Adapter:
    """Let the alphas beside the matrices win over a config that says otherwise."""
    stated = adapter.alphas()
    if all(math.isclose(stated[module], alpha, rel_tol=ALPHA_ROUNDING) for module, alpha in alphas.items()):
        return adapter
    return Adapter(adapter.matrices, plain_config(module_ranks(adapter.matrices), {**stated, **alphas}))


def adapter_file(path: Path) -> Path:
    """Find the weights of an adapter folder."""
    if not path.is_dir():
        return path
    for name in (PEFT_FILE, DIFFUSERS_FILE):
        if (path / name).is_file():
            return path / name
    raise ValueError(f"`SOURCE` must hold {PEFT_FILE} or {DIFFUSERS_FILE}, got neither in `{path}`")


def stored_config(file: Path, layout: str, alphas: Mapping[str, float]) -> dict[str, Any] | None:
    """Read peft's config from the header, or beside the file; None where there is none."""
    beside = file.parent / PEFT_CONFIG
    if layout == "peft" and beside.is_file():
        return parse_config(beside.read_text(), str(beside))
    if layout == "peft" and not alphas:
        raise ValueError(f"`{file.name}` must lie beside its {PEFT_CONFIG}, which holds the scale; got none")
    header = read_metadata(file) if file.suffix == ".safetensors" else {}
    if CONFIG_KEY not in header:
        return None
    return parse_config(header[CONFIG_KEY], file.name, PREFIXES["diffusers"])


def keys_for(adapter: Adapter, layout: str) -> list[Parameter]:
    """Put the matrices under the keys of a layout, with one alpha per module where the layout has them."""
    rules = prefixed(COMFY_MATRICES if layout == "comfy" else MATRICES, "", PREFIXES[layout])
    found = parameters(plan(adapter.matrices, rules), adapter.matrices)
    if layout == "comfy":
        prefix = PREFIXES[layout]
        found += [constant(f"{prefix}{module}.{ALPHA}", torch.tensor(a)) for module, a in adapter.alphas().items()]
    return found


def header_for(adapter: Adapter) -> dict[str, str]:
    """Pack the config as diffusers does; ComfyUI-style readers ignore it, and it makes the way back exact."""
    packed = {f"{PREFIXES['diffusers']}{name}": value for name, value in adapter.config.items()}
    return {CONFIG_KEY: json.dumps(packed, indent=2, sort_keys=True)}


def convert(path: Path, output: Path, options: Options) -> None:
    """Write the adapter in `options.layout`: peft makes a folder, comfy a file, diffusers either."""
    adapter = read(path)
    found = cast(keys_for(adapter, options.layout), options.dtype, keep=(f".{ALPHA}",))
    is_file = output.suffix == ".safetensors"
    if is_file != (options.layout == "comfy") and options.layout != "diffusers":
        raise ValueError(f"`OUTPUT` of {options.layout} must be a {'folder' if is_file else '.safetensors file'}")
    if is_file:
        with new_file(output) as file:
            write_safetensors(file, found, header_for(adapter))
        return
    with new_folder(output) as folder:
        if options.layout == "peft":
            write_safetensors(folder / PEFT_FILE, found)
            (folder / PEFT_CONFIG).write_text(json.dumps(dict(adapter.config), indent=2, sort_keys=True) + "\n")
        else:
            write_safetensors(folder / DIFFUSERS_FILE, found, header_for(adapter))
