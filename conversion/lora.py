"""LoRA adapters between three layouts: diffusers' file, peft's folder, and the file that ComfyUI-style tools read.

Files of every tool that `diffusers_jova.adapter_keys` lists are read; matrices are moved, never changed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from diffusers_jova.adapter_file import PEFT_CONFIG, check_finite, header_alpha
from diffusers_jova.adapter_keys import (
    ALPHA,
    MATRIX_A,
    MATRIX_B,
    PREFIXES,
    WAN_BLOCK,
    bare_names,
    check_known,
    has_halved_heads,
    is_of_mova,
    is_of_one_tower,
    listed,
    module_name,
    prefix_of_all,
    split_name,
)
from diffusers_jova.adapter_ranks import module_alpha, module_ranks, parse_config, plain_config
from diffusers_jova.conversion.checkpoint import (
    Checkpoint,
    Source,
    from_state_dict,
    open_checkpoint,
    open_safetensors,
    read_metadata,
)
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
from diffusers_jova.conversion.source_config import HEAD_DIM
from diffusers_jova.mova_adapter import TOWERS, checked_tower, paired_heads, unwrapped, with_given_alpha
from diffusers_jova.torch_files import load_pickle, state_dict_of
from jova_cli.adapter_info import check_no_record, file_of_folder
from jova_cli.given_paths import PICKLES


CONFIG_KEY = "lora_adapter_metadata"  # diffusers' name of the header entry
DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
PEFT_FILE = "adapter_model.safetensors"
ALPHA_ROUNDING = 1e-6  # files store alpha in float32
LAYOUTS = tuple(PREFIXES)
PAIR = (MATRIX_A, MATRIX_B)

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


def read(path: Path, skip_unknown: bool = False, tower: str | None = None, alpha: float | None = None) -> Adapter:
    """Read an adapter of any tool: a file, a peft folder, or a folder with a file name of diffusers or MOVA.

    Args:
        path: Where it lies.
        skip_unknown: Leave out what is no part of a plain LoRA of our transformers, and say so.
        tower: Video tower that an adapter of a plain video model changes, `"video"` or `"video_low"`.
        alpha: Of all modules, whatever the file states.
    """
    file = adapter_file(path)
    checkpoint, header = open_adapter(file)
    bare = plain_names(checkpoint, skip_unknown)
    sources = {new: checkpoint[old] for old, new in bare.items()}
    matrices = {name: source for name, source in sources.items() if not name.endswith(f".{ALPHA}")}
    for name, source in matrices.items():
        check_finite({name: source.read()})
    alphas = {split_name(name)[0]: read_alpha(source) for name, source in sources.items() if name not in matrices}
    ranks = module_ranks(matrices, alphas)
    config = stored_config(file, prefix_of_all(checkpoint), alphas)
    if config is None:
        stated = header_alpha(header)
        known = ({} if stated is None else dict.fromkeys(ranks, stated)) | alphas
        config = plain_config(ranks, with_given_alpha(known, ranks, alpha))
    alphas = alphas if alpha is None else dict.fromkeys(ranks, alpha)
    adapter = with_alphas(Adapter(paired(matrices), config), alphas)
    return for_our_model(adapter, checked_tower(tower, ranks))


def open_adapter(file: Path) -> tuple[Checkpoint, dict[str, str]]:
    """List the tensors of a file, and what it states besides them."""
    if file.suffix == ".safetensors":
        return open_safetensors(file), read_metadata(file)
    if file.suffix not in PICKLES or not file.is_file():
        return open_checkpoint(file), {}
    content = load_pickle(file)
    content, header = unwrapped(content) if isinstance(content, dict) else (content, {})
    return from_state_dict(state_dict_of(content, file)), header


def paired(matrices: Mapping[str, Source]) -> dict[str, Source]:
    """Describe the same matrices for heads that rotate pairs of channels, which those of MOVA's bridge do not."""

    def with_paired_rows(module: str, source: Source) -> Source:
        return replace(source, read=lambda: paired_heads(module, source.read(), HEAD_DIM))

    found = dict(matrices)
    for name, source in matrices.items():
        module, part = split_name(name)
        if has_halved_heads(module) and part == MATRIX_B:
            found[name] = with_paired_rows(module, source)
    return found


def plain_names(names: Collection[str], skip_unknown: bool) -> dict[str, str]:
    """Map keys to bare names; what is no part of a plain LoRA of our transformers is refused, or left out.

    Raises:
        ValueError: There is such, and it should not be left out.
    """
    bare, unknown = bare_names(names)
    plain = (MATRIX_A, MATRIX_B, ALPHA)
    other = [old for old, new in bare.items() if split_name(new)[1] not in plain]
    named = {old: module_name(split_name(new)[0]) for old, new in bare.items()}
    foreign = [old for old, module in named.items() if WAN_BLOCK.fullmatch(module) or is_of_mova(module)]
    left_out = {*unknown, *other, *foreign}
    if not skip_unknown:
        check_known(unknown, bool(bare))
        if other:
            raise ValueError(
                f"adapter keys must end in one of {', '.join(plain)} to be converted, got {listed(other)}; load the "
                "adapter as it is, or leave them out with `--skip-unknown`"
            )
        if foreign:
            raise ValueError(
                f"adapter of Wan or MOVA must change linear layers that ours have too, got {listed(foreign)}; leave "
                "them out with `--skip-unknown`"
            )
    if left_out:
        print(f"{len(left_out)} of {len(names)} tensors have no place and are left out: {listed(sorted(left_out))}")
    return {old: new for old, new in bare.items() if old not in left_out}


def read_alpha(source: Source) -> float:
    """Read the one number that scales a module."""
    if math.prod(source.shape) != 1:
        raise ValueError(
            f"alpha of a module must be one number, got a tensor of shape {list(source.shape)}; "
            "save the adapter as a plain LoRA"
        )
    return float(source.read())


def for_our_model(adapter: Adapter, tower: str | None) -> Adapter:
    """Point an adapter made for a plain Wan model at a video tower of ours, one made for MOVA at both and the rest."""
    ranks = module_ranks(adapter.matrices)
    names = {module: module_name(module, tower or TOWERS[0]) for module in ranks}
    if all(old == new for old, new in names.items()):
        return adapter
    if tower is None and any(map(is_of_one_tower, names)):
        print(
            f"the adapter is of one video model and changes the tower `{TOWERS[0]}`; where there are two, this is the "
            f"one for high noise, and `--tower {TOWERS[1]}` the other"
        )
    matrices = {f"{new}.{part}": adapter.matrices[f"{old}.{part}"] for old, new in names.items() for part in PAIR}
    alphas = {names[module]: alpha for module, alpha in adapter.alphas().items()}
    return Adapter(matrices, plain_config({names[module]: rank for module, rank in ranks.items()}, alphas))


def with_alphas(adapter: Adapter, alphas: Mapping[str, float]) -> Adapter:
    """Let the alphas beside the matrices win over a config that says otherwise."""
    stated = adapter.alphas()
    if all(math.isclose(stated[module], alpha, rel_tol=ALPHA_ROUNDING) for module, alpha in alphas.items()):
        return adapter
    return Adapter(adapter.matrices, plain_config(module_ranks(adapter.matrices), {**stated, **alphas}))


def adapter_file(path: Path) -> Path:
    """Find the weights of an adapter folder, as `load_lora_weights` finds them."""
    file = file_of_folder(path, "SOURCE") if path.is_dir() else path
    if file is None:
        raise ValueError(
            f"`SOURCE` must be the folder of an adapter, got `{path}` without a file of weights; name the file"
        )
    check_no_record("SOURCE", file)
    return file


def stored_config(file: Path, prefix: str | None, alphas: Mapping[str, float]) -> dict[str, Any] | None:
    """Read peft's config from the header, or beside the file; None where there is none."""
    header = read_metadata(file) if file.suffix == ".safetensors" else {}
    if CONFIG_KEY in header:
        return parse_config(header[CONFIG_KEY], file.name, PREFIXES["diffusers"])
    beside, is_of_peft = file.parent / PEFT_CONFIG, prefix == PREFIXES["peft"]
    if beside.is_file() and (is_of_peft or not alphas):
        return parse_config(beside.read_text(), str(beside))
    if is_of_peft and not alphas:
        raise ValueError(f"`{file.name}` must lie beside its {PEFT_CONFIG}, which holds the scale; got none")
    return None


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
    adapter = read(path, options.skip_unknown, options.tower, options.alpha)
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
