"""Writing a converted model: checked first, streamed tensor by tensor, moved into place at the end."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor
from transformers import PreTrainedModel

from diffusers_jova.conversion.checkpoint import DTYPES, Checkpoint, Source
from diffusers_jova.conversion.rules import Move, listed
from diffusers_jova.finite import is_finite
from diffusers_jova.whole_files import NOTHING_WRITTEN, explained_full_disk, written_whole


NAMES = {dtype: name for name, dtype in DTYPES.items()}
FLOAT8 = {torch.float8_e4m3fn, torch.float8_e5m2}
GB = 1e9
MB = 1e6
SHARD_GB = 5.0

DIFFUSERS_STEM = "diffusion_pytorch_model"

Model = Any  # a module with diffusers' `save_config`, or with a config of transformers


@dataclass(frozen=True)
class Options:
    """What a person chooses about the files.

    Attributes:
        dtype: Storage type of floating-point tensors; `None` keeps the source's.
        shard_gb: Largest size of one file, in 10^9 bytes.
        audio_channels: Channels of the audio latents that a new audio tower is built for.
        layout: Layout of an adapter file.
        skip_unknown: Whether an adapter is converted without what our transformers have no place for.
        tower: Video tower that an adapter of a plain video model changes; None for the first.
        alpha: Of all modules of an adapter; None for what its file states.
        reverse: Whether a converted folder is written back under its original names.
        towers_only: Whether Ovi's towers are converted without their fusion.
        components: Folders whose sub-folders complete a transformer to a pipeline; none writes the transformer alone.
    """

    dtype: torch.dtype | None = None
    shard_gb: float = SHARD_GB
    audio_channels: int = 20
    layout: str = "diffusers"
    skip_unknown: bool = False
    tower: str | None = None
    alpha: float | None = None
    reverse: bool = False
    towers_only: bool = False
    components: Sequence[Path] = ()


@dataclass(frozen=True)
class Parameter:
    """One tensor of the output; `make` computes it when its turn comes."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    make: Callable[[], Tensor]

    @property
    def num_bytes(self) -> int:
        """Size in the file."""
        return prod(self.shape) * self.dtype.itemsize


def parameters(moves: Sequence[Move], checkpoint: Checkpoint) -> list[Parameter]:
    """Work out name, shape and dtype of every output tensor on the meta device; nothing is read."""
    found = []
    for move in moves:
        sources = [checkpoint[name] for name in move.sources]
        like = move.transform(*(source.like() for source in sources))

        def make(move: Move = move) -> Tensor:
            return move.transform(*(checkpoint[name].read() for name in move.sources))

        found += [Parameter(target, tuple(like.shape), like.dtype, make) for target in move.targets]
    return found


def unchanged(checkpoint: Checkpoint) -> list[Parameter]:
    """Offer the tensors of a checkpoint as they are."""
    return [Parameter(name, source.shape, source.dtype, source.read) for name, source in checkpoint.items()]


def shape_of(found: Sequence[Parameter], name: str, num_dims: int) -> tuple[int, ...]:
    """Return the shape of one parameter, from which a size of the model is read.

    Raises:
        ValueError: It is missing, or has another number of dimensions.
    """
    shape = next((parameter.shape for parameter in found if parameter.name == name), None)
    if shape is None or len(shape) != num_dims or 0 in shape:
        stated = "none" if shape is None else list(shape)
        raise ValueError(
            f"checkpoint must hold `{name}` with {num_dims} dimensions, got {stated}; "
            "check that the file belongs to this kind of conversion"
        )
    return shape


def as_checkpoint(found: Sequence[Parameter]) -> dict[str, Source]:
    """Offer computed parameters as the source of another table."""
    return {parameter.name: Source(parameter.shape, parameter.dtype, parameter.make) for parameter in found}


def constant(name: str, tensor: Tensor) -> Parameter:
    """Wrap a tensor that no checkpoint holds."""
    return Parameter(name, tuple(tensor.shape), tensor.dtype, lambda: tensor)


def cast(found: Sequence[Parameter], dtype: torch.dtype | None, keep: Sequence[str] = ()) -> list[Parameter]:
    """Store floating-point tensors as `dtype`.

    Args:
        found: Parameters to store.
        dtype: `None` keeps each tensor's own, with 8-bit floats as bfloat16 (they are a storage format of the source).
        keep: Parts of names whose tensors are not cast: the modules that a model keeps in float32.
    """

    def stored(parameter: Parameter) -> torch.dtype:
        if not parameter.dtype.is_floating_point:
            return parameter.dtype
        own = torch.bfloat16 if parameter.dtype in FLOAT8 else parameter.dtype
        return own if dtype is None or any(part in parameter.name for part in keep) else dtype

    return [replace(parameter, dtype=stored(parameter)) for parameter in found]


def check_fits(found: Sequence[Parameter], model: Model, tied: Sequence[str] = ()) -> None:
    """Compare names and shapes with a model (on the meta device, say).

    Args:
        found: Parameters to write.
        model: What they are for.
        tied: Names that a file of the model does not hold, because they are second names.

    Raises:
        ValueError: A tensor is missing, left over or of another shape.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name not in tied}
    shapes = {parameter.name: parameter.shape for parameter in found}
    problems = []
    if missing := sorted(wanted.keys() - shapes.keys()):
        problems.append(f"{len(missing)} missing: {listed(missing)}")
    if extra := sorted(shapes.keys() - wanted.keys()):
        problems.append(f"{len(extra)} left over: {listed(extra)}")
    for name in sorted(wanted.keys() & shapes.keys()):
        if wanted[name] != shapes[name]:
            problems.append(f"`{name}` of shape {list(shapes[name])} instead of {list(wanted[name])}")
    if problems:
        raise ValueError(
            f"tensors must fit `{type(model).__name__}`, got {'; '.join(problems[:8])}; nothing was written"
        )


@contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """Offer a new folder beside `output` that takes its name when the block ends without an error."""
    with new_file(output) as folder:
        folder.mkdir()
        yield folder


@contextmanager
def new_file(output: Path) -> Iterator[Path]:
    """Offer a place for a file beside `output` that takes its name when the block ends without an error."""
    refuse_existing(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    with explained_full_disk(output, NOTHING_WRITTEN), written_whole(output) as partial:
        yield partial
        refuse_existing(output)


def refuse_existing(output: Path) -> None:
    """Raise when the output is already there, or cannot be because a file stands where a folder must be."""
    if output.exists() or output.is_symlink():
        raise ValueError(f"`OUTPUT` must be a new path, got `{output}`, which exists; choose another")
    if files := [parent for parent in output.parents if parent.is_file()]:
        raise ValueError(f"`OUTPUT` must lie in a folder, got `{output}`, but `{files[0]}` is a file; choose another")


def shards(found: Sequence[Parameter], max_bytes: float) -> list[list[Parameter]]:
    """Split parameters into groups of at most `max_bytes`, in order; a larger tensor gets a group of its own."""
    groups: list[list[Parameter]] = [[]]
    size = 0
    for parameter in found:
        if groups[-1] and size + parameter.num_bytes > max_bytes:
            groups.append([])
            size = 0
        groups[-1].append(parameter)
        size += parameter.num_bytes
    return groups


def save_model(folder: Path, model: Model, found: Sequence[Parameter], options: Options) -> None:
    """Write a component folder; `config.json` comes last, so that an unfinished folder never loads."""
    folder.mkdir(exist_ok=True)
    is_transformers = isinstance(model, PreTrainedModel)
    write_weights(folder, found, options.shard_gb, "model" if is_transformers else DIFFUSERS_STEM)
    if is_transformers:
        model.config.save_pretrained(folder)
    else:
        model.save_config(folder)


def write_weights(folder: Path, found: Sequence[Parameter], shard_gb: float, stem: str = DIFFUSERS_STEM) -> None:
    """Write safetensors shards under the names that `from_pretrained` looks for; several of them get an index."""
    groups = shards(found, shard_gb * GB)
    progress = Progress(sum(parameter.num_bytes for parameter in found))
    if len(groups) == 1:
        write_safetensors(folder / f"{stem}.safetensors", groups[0], progress=progress)
        return
    weight_map: dict[str, str] = {}
    for number, group in enumerate(groups, start=1):
        name = f"{stem}-{number:05d}-of-{len(groups):05d}.safetensors"
        write_safetensors(folder / name, group, progress=progress)
        weight_map |= {parameter.name: name for parameter in group}
    index = {"metadata": {"total_size": progress.total}, "weight_map": weight_map}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def write_single(
    output: Path, found: Sequence[Parameter], dtype: torch.dtype | None, metadata: Mapping[str, str] | None = None
) -> None:
    """Write everything into one new safetensors file."""
    if output.suffix != ".safetensors":
        raise ValueError(f"`OUTPUT` must end in .safetensors, got `{output.name}`")
    found = cast(found, dtype)
    with new_file(output) as file:
        write_safetensors(file, found, metadata, Progress(sum(parameter.num_bytes for parameter in found)))


class Progress:
    """Prints how much has been written, once per twentieth."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.written = 0

    def add(self, num_bytes: int) -> None:
        """Count bytes that reached the file."""
        before, self.written = self.written, self.written + num_bytes
        if self.written * 20 // max(self.total, 1) > before * 20 // max(self.total, 1):
            print(f"{100 * self.written // self.total:3d} % of {self.total / MB:,.1f} MB written", flush=True)


def write_safetensors(
    path: Path,
    found: Sequence[Parameter],
    metadata: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> None:
    """Stream parameters into a safetensors file; only one tensor is in memory at a time."""
    ordered = sorted(found, key=lambda parameter: -parameter.dtype.itemsize)  # keeps every tensor aligned
    with path.open("wb") as file:
        write_header(file, ordered, {"format": "pt", **(metadata or {})})
        for parameter in ordered:
            write_tensor(file, parameter)
            if progress is not None:
                progress.add(parameter.num_bytes)
        file.flush()
        os.fsync(file.fileno())


def write_header(file: BinaryIO, ordered: Sequence[Parameter], metadata: Mapping[str, str]) -> None:
    """Write the length and the JSON header, padded to 8 bytes."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    start = 0
    for parameter in ordered:
        end = start + parameter.num_bytes
        header[parameter.name] = {
            "dtype": NAMES[parameter.dtype],
            "shape": list(parameter.shape),
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(struct.pack("<Q", len(text)) + text)


def write_tensor(file: BinaryIO, parameter: Parameter) -> None:
    """Compute one tensor and write its bytes."""
    tensor = parameter.make()
    if tuple(tensor.shape) != parameter.shape:
        raise ValueError(f"`{parameter.name}` must be {list(parameter.shape)}, got {list(tensor.shape)} when read")
    stored = tensor.detach().to(parameter.dtype)
    check_range(parameter.name, tensor, stored)
    file.write(stored.contiguous().reshape(-1).view(torch.uint8).numpy().data)


def check_range(name: str, tensor: Tensor, stored: Tensor) -> None:
    """Refuse a number format in which finite weights become infinite.

    Raises:
        ValueError: They do.
    """
    if stored.dtype == tensor.dtype or not stored.is_floating_point() or stored.dtype in FLOAT8:
        return
    if not is_finite(stored) and is_finite(tensor):
        raise ValueError(
            f"`{name}` must stay finite as {NAMES[stored.dtype]}, got values up to {float(tensor.abs().max()):g}; "
            "choose `--dtype bfloat16`, which has the range of float32"
        )
