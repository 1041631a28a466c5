"""Reading checkpoints without trusting them: headers first, tensors one at a time, no code from pickles."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from diffusers_jova.torch_files import read_pickle
from jova_cli.given_paths import PICKLES
from jova_cli.json_text import read_object


DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


REMAP_BYTES = 2**24


@dataclass(frozen=True)
class Source:
    """One tensor of a checkpoint that has not been read yet."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]

    def like(self) -> Tensor:
        """Stand in for the tensor on the meta device."""
        return torch.empty(self.shape, dtype=self.dtype, device="meta")


Checkpoint = Mapping[str, Source]


def open_checkpoint(path: Path) -> dict[str, Source]:
    """List the tensors of a file or of a folder of safetensors shards.

    A folder in diffusers' layout is entered through its `transformer` sub-folder.
    """
    if path.is_dir():
        folder = path / "transformer" if (path / "transformer").is_dir() else path
        return open_shards(folder)
    if not path.is_file():
        raise ValueError(f"`SOURCE` must be an existing file or folder, got `{path}`")
    if path.suffix == ".safetensors":
        return open_safetensors(path)
    if path.suffix in PICKLES:
        return from_state_dict(read_pickle(path))
    raise ValueError(f"`SOURCE` must end in .safetensors, {', '.join(sorted(PICKLES))}, got `{path.name}`")


def open_shards(folder: Path) -> dict[str, Source]:
    """List the tensors of all shards that the index names, or of the only safetensors file."""
    indices = sorted(folder.glob("*.safetensors.index.json"))
    names = shard_names(indices[0]) if indices else sorted(path.name for path in folder.glob("*.safetensors"))
    if len(indices) > 1 or (not indices and len(names) != 1):
        raise ValueError(
            f"`{folder}` must hold one index or one .safetensors file, got {len(indices)} and {len(names)}; "
            "name the file itself"
        )
    sources: dict[str, Source] = {}
    for name in names:
        shard = open_safetensors(folder / name)
        if again := sources.keys() & shard.keys():
            raise ValueError(f"shards must not repeat tensors, got `{min(again)}` again in `{name}`")
        sources |= shard
    return sources


def shard_names(index: Path) -> list[str]:
    """Read the file names of an index; only names inside its own folder are accepted."""
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise ValueError(
            f"`{index}` must hold a `weight_map`, got {type(weight_map).__name__}; download it again with its shards"
        )
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if Path(name).name != name or "\\" in name:
            raise ValueError(f"`weight_map` of `{index.name}` must name files in its own folder, got `{name}`")
    return names


def open_safetensors(path: Path) -> dict[str, Source]:
    """List the tensors of a safetensors file; truncated or malformed files are refused."""
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            mapped = MappedFile(path)
            return {name: lazy(mapped, name, part.get_shape(), part.get_dtype()) for name, part in slices.items()}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"`{path}` must be a complete safetensors file, got {error}; download it again") from error


class MappedFile:
    """A safetensors file, mapped anew after every 16 MiB that were read.

    What was read of a mapping counts as memory as long as it lasts; opening the file for every tensor would parse its
    header thousands of times.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.mapping: Any = None
        self.num_bytes = 0

    def read(self, name: str) -> Tensor:
        """Map one tensor; the file stays mapped as long as it lives."""
        if self.mapping is None or self.num_bytes > REMAP_BYTES:
            self.mapping, self.num_bytes = safe_open(self.path, framework="pt"), 0
        tensor = self.mapping.get_tensor(name)
        self.num_bytes += tensor.nbytes
        return tensor


def lazy(file: MappedFile, name: str, shape: list[int], dtype: str) -> Source:
    """Describe a tensor that is read from its file on demand."""
    if dtype not in DTYPES:
        raise ValueError(f"dtype of `{name}` must be one of {', '.join(DTYPES)}, got {dtype}")
    return Source(tuple(shape), DTYPES[dtype], partial(file.read, name))


def read_metadata(path: Path) -> dict[str, str]:
    """Read the free-form header entries of a safetensors file."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"`{path}` must be a complete safetensors file, got {error}; download it again") from error


def from_state_dict(state_dict: Mapping[str, Tensor]) -> dict[str, Source]:
    """Offer tensors in memory as a checkpoint."""
    return {
        name: Source(tuple(tensor.shape), tensor.dtype, lambda tensor=tensor: tensor)  # type: ignore[misc]
        for name, tensor in state_dict.items()
    }


def dequantized(checkpoint: Checkpoint) -> dict[str, Source]:
    """Merge 8-bit weights with their scales, `<name>_scale` per row or `scale_weight` per tensor, into bfloat16.

    8-bit weights without a scale stay as they are: they were cast, and are cast back when written.
    """
    scales = {}
    for name in checkpoint:
        beside = f"{name.removesuffix('weight')}scale_weight" if name.endswith(".weight") else ""
        scale = next((key for key in (f"{name}_scale", beside) if key in checkpoint), None)
        if scale is not None:
            scales[name] = scale
    left = checkpoint.keys() - scales.keys() - set(scales.values()) - {"scaled_fp8"}  # ComfyUI's marker
    return {
        name: merged(source, checkpoint[scales[name]]) if name in scales else source
        for name, source in checkpoint.items()
        if name in left or name in scales
    }


def merged(quantized: Source, scale: Source) -> Source:
    """Describe the product of an 8-bit weight [out, in] and its scale, [out], [out, 1] or a single number."""
    if scale.shape not in {(), (1,), (1, 1), quantized.shape[:1], (*quantized.shape[:1], 1)}:
        raise ValueError(
            f"scale of an 8-bit weight {list(quantized.shape)} must be one number or one per row, "
            f"got {list(scale.shape)}"
        )

    def read() -> Tensor:
        factor = scale.read().float()
        rows = factor[:, None] if factor.numel() > 1 and factor.ndim == 1 else factor
        return (quantized.read().float() * rows).to(torch.bfloat16)

    return Source(quantized.shape, torch.bfloat16, read)
