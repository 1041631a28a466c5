"""What a saved pipeline consists of: classes, numbers of parameters, and the terms of its weights.

The licence of a component is the first of: its entry in `component_licenses` of the front matter of the folder's
README.md, `license` in the front matter of a README.md in the component's own folder, `license` of the folder's
README.md.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .json_text import ANEW, parse_object, read_object, shown
from .tables import read_text


NOT_STATED = "not stated"
INDEX, CARD = "model_index.json", "README.md"
MERGED = "_merged_adapters"  # in the config of a transformer: name and scale of each that is in its weights
METADATA = "__metadata__"  # in the header of a safetensors file, beside its tensors
ABSENT = [None, None]  # in an index, of a component that a pipeline goes without
SAVED = "name the folder that `save_pretrained` of a pipeline wrote"
PLAIN = re.compile(r"[A-Za-z][\w.-]+")  # text that needs no quotes in YAML
FRONT_MATTER = re.compile(r"---\s*\n(.*?)^---\s*$", re.DOTALL | re.MULTILINE)
BYTES_PER_VALUE = {"fp32": 4, "bf16": 2, "fp8": 1}  # fp8 is that of weights under layerwise casting


class ComponentInfo(NamedTuple):
    """One component of a saved pipeline.

    Attributes:
        name: Its name in the pipeline, which is that of its folder.
        class_name: Its class.
        num_parameters: Values in its weight files; 0 for a tokenizer or a scheduler.
        licence: Of its weights; empty where it has none.
    """

    name: str
    class_name: str
    num_parameters: int
    licence: str


def read_index(folder: Path) -> dict[str, Any]:
    """Read the index of a saved JoVAPipeline.

    Raises:
        ValueError: If the folder holds none.
    """
    path = folder / INDEX
    try:
        index = read_object(path, SAVED)
    except OSError as error:
        raise ValueError(f"the model must be a folder with a `model_index.json`, got {folder}; {SAVED}") from error
    if index.get("_class_name") != "JoVAPipeline":
        found = shown(index.get("_class_name"))
        raise ValueError(f"the model must be a saved JoVAPipeline, got the class {found} in {folder}; {SAVED}")
    for name, value in index.items():
        if isinstance(value, list) and value != ABSENT and not name.startswith("_"):
            pair_of(name, value, path)
    return index


def check_saved(folder: Path, names: Iterable[str]) -> None:
    """Refuse a folder whose index or configs are no JSON objects, of which loaders would say nothing that helps.

    Args:
        folder: That is to be loaded.
        names: Components that are loaded from it.

    Raises:
        ValueError: Naming the file.
        FileNotFoundError: A component is not there.
    """
    index = read_object(folder / INDEX, SAVED)
    for name in names:
        if index.get(name, ABSENT) != ABSENT:
            pair_of(name, index[name], folder / INDEX)
            if not (folder / name).is_dir():
                raise FileNotFoundError(
                    f"`{folder}` must hold `{name}`, as its `{INDEX}` says, got no folder of that name; save or fetch "
                    "it anew"
                )
            for config in sorted((folder / name).glob("*config.json")):
                read_object(config)


def pair_of(name: str, value: object, index: Path) -> tuple[str, str]:
    """Check the value of an index that states library and class of a component.

    Raises:
        ValueError: If it states something else, or the name is none that a folder can have.
    """
    if not name.isidentifier() or not isinstance(value, list) or [type(part) for part in value] != [str, str]:
        raise ValueError(
            f"`{name}` in `{index}` must be a component with a library and a class, got {shown(value)}; take the "
            "component from elsewhere"
        )
    return value[0], value[1]


def describe_components(folder: Path) -> list[ComponentInfo]:
    """Describe every component of a saved pipeline without loading it.

    Raises:
        ValueError: If the folder holds no JoVAPipeline.
    """
    entries = {name: value for name, value in read_index(folder).items() if isinstance(value, list)}
    return [
        describe_component(folder, name, entry[1])
        for name, entry in entries.items()
        if not name.startswith("_") and entry[1] is not None
    ]


def describe_component(folder: Path, name: str, class_name: str) -> ComponentInfo:
    """Describe one component of a saved pipeline."""
    num_parameters = count_values((folder / name).glob("*.safetensors"))
    return ComponentInfo(name, class_name, num_parameters, licence_of(folder, name) if num_parameters else "")


def count_values(files: Iterable[Path]) -> int:
    """Count the values of all tensors in safetensors files, from their headers."""
    return sum(math.prod(entry["shape"]) for file in files for entry in read_header(file).values())


def merged_line(merged: Any) -> str:
    """The adapters that are in a model's weights, in one line.

    Args:
        merged: `MERGED` of the config of a transformer.

    Raises:
        ValueError: They are no list of names and scales.
    """
    if not (
        isinstance(merged, list) and all(isinstance(one, dict) and {"name", "scale"} <= one.keys() for one in merged)
    ):
        raise ValueError(f"`{MERGED}` must be a list of objects with `name` and `scale`, got {shown(merged)}; {ANEW}")
    named = ", ".join(f"{entry['name']} (scale {shown(entry['scale'])})" for entry in merged)
    return f"Adapters in the weights of the transformer: {named}"


def read_header(file: Path) -> dict[str, Any]:
    """Read what a safetensors file says of each of its tensors: 8 bytes hold the length of the JSON that follows.

    Raises:
        ValueError: If it is no such file.
    """
    tensors = {name: entry for name, entry in whole_header(file).items() if name != METADATA}
    for name, entry in tensors.items():
        shape = entry.get("shape") if isinstance(entry, dict) else None
        if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
            raise ValueError(
                f"header of `{file}` (safetensors) must hold the shape of every tensor, got {shown(entry)} for "
                f"`{name}`; {ANEW}"
            )
    check_whole(file, tensors)
    return tensors


def check_whole(file: Path, tensors: dict[str, Any]) -> None:
    """Refuse a safetensors file that ends before its last tensor does, as one whose download was cut off.

    Args:
        file: That the header is of.
        tensors: Its header.
    """
    ends = [entry["data_offsets"][1] for entry in tensors.values() if is_span(entry.get("data_offsets"))]
    with file.open("rb") as stored:
        begin = 8 + int.from_bytes(stored.read(8), "little")
    if ends and (missing := begin + max(ends) - file.stat().st_size) > 0:
        raise ValueError(
            f"`{file}` must be a complete safetensors file, got one that is {format_bytes(missing)} too short; {ANEW}"
        )


def is_span(offsets: Any) -> bool:
    """Whether these are the two ends of a tensor in its file."""
    return isinstance(offsets, list) and len(offsets) == 2 and all(type(end) is int for end in offsets)


def read_metadata(file: Path) -> dict[str, str]:
    """What else the header of a safetensors file says; empty where it says nothing.

    Raises:
        ValueError: If it is no such file.
    """
    values = whole_header(file).get(METADATA) or {}
    if not isinstance(values, dict):
        raise ValueError(f"`{METADATA}` in the header of `{file}` must be a JSON object, got {shown(values)}; {ANEW}")
    return {name: str(value) for name, value in values.items()}


def whole_header(file: Path) -> dict[str, Any]:
    """The header of a safetensors file; see `read_header`."""
    with file.open("rb") as stored:
        length = int.from_bytes(stored.read(8), "little")
        return parse_object(stored.read(min(length, file.stat().st_size)), f"header of `{file}` (safetensors)")


def licence_of(folder: Path, name: str) -> str:
    """Licence of a component's weights as the model folder states it."""
    whole = front_matter(folder)
    of_components = whole.get("component_licenses") or {}
    if not isinstance(of_components, dict):
        raise ValueError(
            f"`component_licenses` of `{folder / CARD}` must hold `component: licence` lines, got "
            f"{shown(of_components)}; write it so"
        )
    return str(of_components.get(name) or stated(front_matter(folder / name)) or stated(whole) or NOT_STATED)


def licence_of_files(path: Path) -> str:
    """Licence of the weights of a component's folder, as the pipeline that it lies in states it, or it itself."""
    return licence_of(path.parent if (path.parent / INDEX).is_file() else path, path.name)


def licence_lines(stated: Mapping[str, str]) -> list[str]:
    """Lines of a card's front matter with the licences of components; none where none is stated.

    Args:
        stated: By component, from `licence_of`.
    """
    quoted = {
        name: licence if PLAIN.fullmatch(licence) else json.dumps(licence)  # which YAML reads as well
        for name, licence in stated.items()
    }
    lines = [f"  {name}: {quoted[name]}" for name, licence in stated.items() if licence != NOT_STATED]
    return ["component_licenses:", *lines] if lines else []


def stated(card: dict[str, Any]) -> str | None:
    """Licence of a front matter: its tag, or the name behind the tag `other`; None without one."""
    tag = card.get("license")
    return card.get("license_name") or tag if tag == "other" else tag


def front_matter(folder: Path) -> dict[str, Any]:
    """Front matter of a folder's README.md; empty without one."""
    card = folder / CARD
    found = FRONT_MATTER.match(read_text(card)) if card.is_file() else None
    if found is None:
        return {}
    import yaml  # here: a model without a card needs nothing but the standard library

    try:
        values = yaml.safe_load(found[1]) or {}
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # no YAML, no such date, or nested without end
        raise ValueError(f"the front matter of `{card}` must be valid YAML, got an error ({error})") from error
    if not isinstance(values, dict):
        raise ValueError(f"the front matter of `{card}` must hold `name: value` lines, got {type(values).__name__}")
    return values


def info_table(folder: Path) -> str:
    """Components of a saved pipeline as lines of text, with the memory of their weights by number format."""
    components = describe_components(folder)
    total = ComponentInfo("total", "", sum(entry.num_parameters for entry in components), "")
    header = ["component", "class", "parameters", *BYTES_PER_VALUE, "licence of the weights"]
    rows = [header, *(table_row(entry) for entry in [*components, total])]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    return "\n".join(format_row(row, widths) for row in rows)


def table_row(component: ComponentInfo) -> list[str]:
    """Cells of one component."""
    count = component.num_parameters
    numbers = [f"{count:,}", *(format_bytes(count * size) for size in BYTES_PER_VALUE.values())] if count else [""] * 4
    return [component.name, component.class_name, *numbers, component.licence]


def format_row(row: list[str], widths: list[int]) -> str:
    """Cells beside each other, words to the left and numbers to the right."""
    is_number = [False, False, True, *(True for _ in BYTES_PER_VALUE), False]
    cells = zip(row, widths, is_number, strict=True)
    return "  ".join(cell.rjust(width) if right else cell.ljust(width) for cell, width, right in cells).rstrip()


def format_bytes(count: float) -> str:
    """Bytes in the unit that leaves one to three digits before the point."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000
    return f"{count:.1f} {unit}"
