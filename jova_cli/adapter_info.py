"""What an adapter consists of, from the header of its file: rank, alpha, what it changes, and of which model."""

import struct
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from .given_paths import PICKLES, WEIGHT_FILES, is_prepared
from .json_text import parse_object, read_object, readable
from .model_info import format_bytes, front_matter, read_header, read_metadata
from .parser import one_line
from .room_modules import import_alone
from .shipped import PACKAGE
from .tables import some


MOVA_FILE = "lora_weights.pt"  # as MOVA's trainer for little memory names it
FILES = (
    "pytorch_lora_weights.safetensors",
    "adapter_model.safetensors",
    "pytorch_lora_weights.bin",
    "adapter_model.bin",
)  # of a folder, as diffusers and peft name them
BESIDE = ("optimizer", "scheduler", "scaler", "training_args", "rng_state", "random_states")  # of trainers, to go on
OF_CHECKPOINT = ("ema.safetensors", "model.safetensors")  # averages, where a training has them, are its result
PEFT_CONFIG = "adapter_config.json"
PEFT_METADATA = "lora_adapter_metadata"  # in a header, as diffusers writes it
BASES = ("ss_base_model_version", "modelspec.architecture")  # in a header, as trainers tell the base model
FEW_STEPS = "jova_few_steps"  # in a header, as `diffusers_jova.few_steps` writes it
SCALARS = {"F64": "<d", "F32": "<f", "F16": "<e"}  # how struct reads a number
RANK_AXES = {  # of the parts that tell the rank of a module
    "lora_A.weight": 0,
    "hada_w1_a": 1,
    "lokr_w1_a": 1,
    "lokr_w2_a": 1,
}


def check_adapter(option: str, path: Path) -> None:
    """Refuse a file that holds no tensors, a folder without such files or with several, and an unfinished training's.

    Args:
        option: That names it.
        path: That exists.
    """
    suffixes = " or ".join(WEIGHT_FILES)
    if path.is_dir() and not any(path.glob("*.safetensors")) and any(path.glob("checkpoint-*")):
        raise ValueError(
            f"`{option}` must be an adapter whose training has ended, got {path}; run the same `jova train-lora` "
            "again, it continues from its last checkpoint"
        )
    if path.is_dir() and not any(file.suffix in WEIGHT_FILES for file in path.iterdir()):
        raise ValueError(
            f"`{option}` must be the folder of an adapter, got {path} without a {suffixes} file; name that of a `jova "
            "train-lora` that has ended, or the file itself"
        )
    if path.is_dir():
        file_of_folder(path, option)
    if path.is_file() and path.name.startswith(BESIDE):
        raise ValueError(
            f"`{option}` must be an adapter, got {path}, which a training keeps to go on from; name its folder"
        )
    if path.is_file() and path.suffix not in WEIGHT_FILES:
        raise ValueError(f"`{option}` must be a {suffixes} file, or a folder with one, got {path}; name another")
    if path.is_file() and path.suffix == WEIGHT_FILES[0]:
        try:
            read_header(path)
        except ValueError as error:
            got = f"{path} ({one_line(error)})"
            raise ValueError(f"`{option}` must be an adapter, got {got}; name its file or folder") from error
        check_no_record(option, path)


def check_no_record(name: str, file: Path) -> None:
    """Refuse a file among prepared clips that holds one of them, and no adapter.

    Args:
        name: Argument that named it.
        file: That may be there.
    """
    is_among = file.suffix == WEIGHT_FILES[0] and file.is_file() and is_prepared(file.parent)
    if is_among and not is_adapter(file):
        raise _no_adapter(name, file, "is a prepared clip")


def _no_adapter(name: str, path: Path, what: str) -> ValueError:
    made = "name the folder that `jova train-lora` makes of such"
    return ValueError(f"`{name}` must be an adapter, got {path}, which {what}; {made}")


def find_adapter(path: Path) -> Path | None:
    """File of an adapter: `path` itself, or that of a folder; None where there is none, or several."""
    if path.is_dir():
        try:
            found = file_of_folder(path, "path")
        except ValueError:
            return None
        return found and find_adapter(found)
    return path if path.suffix.lower() == ".safetensors" and path.is_file() and is_adapter(path) else None


def file_of_folder(folder: Path, name: str, *, use_safetensors: bool | None = None) -> Path | None:
    """File of a folder that its adapter is in: of a usual name, of a checkpoint, or the only one; None without files.

    Args:
        folder: That exists.
        name: Argument that named it.
        use_safetensors: True takes safetensors alone, False pickled files alone, None these where there are no others.

    Raises:
        ValueError: If there are several, and nothing tells which is meant, or if they are prepared clips.
    """
    if not use_safetensors and (folder / MOVA_FILE).is_file():
        return folder / MOVA_FILE
    usual = (*FILES, *(OF_CHECKPOINT if (folder / "state.json").is_file() else ()))
    for suffixes in kinds_of_files(use_safetensors):
        found = sorted(file for file in folder.iterdir() if file.suffix in suffixes and not file.name.startswith("."))
        if of_adapter := [file for file in found if not file.name.startswith(BESIDE)]:
            found = of_adapter
        names = [file.name for file in found]
        if named := next((file for file in usual if file in names), None):
            return folder / named
        if found and is_prepared(folder):
            raise _no_adapter(name, folder, "holds prepared clips")
        if len(found) > 1:
            raise ValueError(
                f"`{name}` must be a folder of one adapter, got {folder} with {some(names)}; name the file"
            )
        if found:
            return found[0]
    return None


def kinds_of_files(use_safetensors: bool | None) -> list[tuple[str, ...]]:
    """Suffixes of the files that may hold an adapter, those that are looked for first in front."""
    kinds = {True: WEIGHT_FILES[:1], False: PICKLES}
    return list(kinds.values()) if use_safetensors is None else [kinds[bool(use_safetensors)]]


def is_adapter(file: Path) -> bool:
    """Whether a safetensors file holds matrices of adapters, of whatever model."""
    keys = key_rules()
    matrices = {keys.MATRIX_A, keys.MATRIX_B, *keys.LOHA, *keys.LOKR}
    return any((match := keys.KEY.fullmatch(name)) and keys.PARTS[match[2]] in matrices for name in read_header(file))


def key_rules() -> ModuleType:
    """How keys of adapters are read."""
    return import_alone(PACKAGE / "adapter_keys.py")


def describe_adapter(file: Path) -> str:
    """Describe an adapter in a few lines.

    Raises:
        ValueError: If the file holds no adapter of a transformer.
    """
    keys = key_rules()
    branch_of = import_alone(PACKAGE / "weight_branches.py").branch_of
    tensors, metadata = read_header(file), read_metadata(file)
    bare, unknown = keys.bare_names(tensors)
    parts = {new: tensors[old] for old, new in bare.items()}
    modules = {keys.split_name(name)[0] for name in parts}
    known = {module for module in modules if keys.is_known(module)}
    branches = Counter(branch_of(keys.module_name(module)) for module in known)
    config = peft_config(file, metadata)
    size = file.stat().st_size
    lines = {
        "adapter": f"{file.name}, {len(parts)} tensors, {format_bytes(size)}",
        "base model": base_model(file, metadata, config),
        "rank": listed(ranks_of(parts, keys)),
        "alpha": listed(alphas_of(file, parts, config)) or "not stated: the scale is 1",
        "few steps": few_steps(file, metadata),
        "targets": f"{len(known)} modules: " + ", ".join(f"{n} {name}" for name, n in sorted(branches.items()))
        if known
        else "",
        "foreign": f"{keys.listed(sorted(modules - known))}, which no model here has" if modules - known else "",
        "incomplete": f"{keys.listed(halves)}, with one matrix of two" if (halves := keys.unpaired(parts)) else "",
        "not read": f"{len(unknown)} tensors of something else" if unknown else "",
    }
    return "\n".join(f"{name:<11} {said}" for name, said in lines.items() if said)


def few_steps(file: Path, metadata: Mapping[str, str]) -> str:
    """How a student of few steps is asked; empty for other adapters."""
    if FEW_STEPS not in metadata:
        return ""
    values = parse_object(metadata[FEW_STEPS], f"`{FEW_STEPS}` in the header of `{file}`")
    said = ", ".join(f"{name} {value}" for name, value in values.items())
    return f"{said}; solver euler, guidance 1, no negative prompt"


def listed(values: Iterable[float]) -> str:
    """Different numbers with how often each occurs, the most frequent first; the number alone where there is one."""
    counts = Counter(values).most_common()
    if len(counts) == 1:
        return f"{counts[0][0]:g}"
    return ", ".join(f"{value:g} ({count} modules)" for value, count in counts)


def ranks_of(parts: Mapping[str, Any], keys: ModuleType) -> list[int]:
    """The rank of each module that has one."""
    ranks = {}
    for name, entry in parts.items():
        module, part = keys.split_name(name)
        if part in RANK_AXES and len(entry["shape"]) > RANK_AXES[part]:
            ranks[module] = entry["shape"][RANK_AXES[part]]
    return list(ranks.values())


def alphas_of(file: Path, parts: Mapping[str, Any], config: Mapping[str, Any]) -> list[float]:
    """The alpha of each module that states one beside its matrices, else those of the adapter as a whole."""
    own = [read_scalar(file, entry) for name, entry in parts.items() if name.endswith(".alpha")]
    if own:
        return own
    alpha = config.get("lora_alpha")
    alphas = [float(alpha)] if isinstance(alpha, int | float) else []
    pattern = config.get("alpha_pattern")
    return alphas + [float(value) for value in pattern.values()] if isinstance(pattern, dict) else alphas


def read_scalar(file: Path, entry: Mapping[str, Any]) -> float:
    """Read the first number of a tensor."""
    code = SCALARS.get(entry["dtype"])
    width = struct.calcsize(code) if code else 2
    with file.open("rb") as stored:
        length = int.from_bytes(stored.read(8), "little")
        stored.seek(8 + length + entry["data_offsets"][0])
        found = stored.read(width)
    if code:
        return float(struct.unpack(code, found)[0])
    return float(struct.unpack("<f", b"\0\0" + found)[0])  # bfloat16 is the upper half of a float32


def peft_config(file: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Config of peft, from the header or beside the file; empty without one."""
    if PEFT_METADATA in metadata:
        values = parse_object(metadata[PEFT_METADATA], f"`{PEFT_METADATA}` in the header of `{file}`")
        return {name.removeprefix("transformer."): value for name, value in values.items()}
    beside = file.parent / PEFT_CONFIG
    return read_object(beside) if beside.is_file() else {}


def base_model(file: Path, metadata: Mapping[str, str], config: Mapping[str, Any]) -> str:
    """The model that an adapter says it is of: in its config, its header or its card; empty where none does."""
    told = [config.get("base_model_name_or_path"), *(metadata.get(name) for name in BASES)]
    told.append(front_matter(file.parent).get("base_model"))
    return next((value if isinstance(value, str) else readable(value) for value in told if value), "not stated")
