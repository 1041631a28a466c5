"""What a saved pipeline consists of: classes, numbers of parameters, and the terms of its weights.

The licence of a component is the first of: its entry in `component_licenses` of the front matter of the folder's
README.md, `license` in the front matter of a README.md in the component's own folder, `license` of the folder's
README.md.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub.repocard import metadata_load
from safetensors import safe_open


NOT_STATED = "not stated"
BYTES_PER_VALUE = {"fp32": 4, "bf16": 2, "fp8": 1}  # fp8 is that of weights under layerwise casting


@dataclass(frozen=True)
class ComponentInfo:
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
    path = folder / "model_index.json"
    try:
        index: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(
            f"the model must be a folder with a `model_index.json`, got {folder}; "
            "name the folder that `save_pretrained` of a pipeline wrote"
        ) from error
    if index.get("_class_name") != "JoVAPipeline":
        raise ValueError(f"the model must be a saved JoVAPipeline, got {index.get('_class_name')} in {folder}")
    return index


def describe_components(folder: Path) -> list[ComponentInfo]:
    """Describe every component of a saved pipeline without loading it.

    Raises:
        ValueError: If the folder holds no JoVAPipeline.
    """
    entries = {name: value for name, value in read_index(folder).items() if isinstance(value, list)}
    return [
        describe_component(folder, name, entry[1])
        for name, entry in entries.items()
        if not name.startswith("_") and len(entry) == 2 and entry[1] is not None
    ]


def describe_component(folder: Path, name: str, class_name: str) -> ComponentInfo:
    """Describe one component of a saved pipeline."""
    num_parameters = count_values((folder / name).glob("*.safetensors"))
    return ComponentInfo(name, class_name, num_parameters, licence_of(folder, name) if num_parameters else "")


def count_values(files: Iterable[Path]) -> int:
    """Count the values of all tensors in safetensors files, from their headers."""
    total = 0
    for file in files:
        with safe_open(file, framework="pt") as stored:
            total += sum(math.prod(stored.get_slice(name).get_shape()) for name in stored.keys())  # noqa: SIM118
    return total


def licence_of(folder: Path, name: str) -> str:
    """Licence of a component's weights as the model folder states it."""
    whole = front_matter(folder)
    of_components = whole.get("component_licenses") or {}
    return str(of_components.get(name) or stated(front_matter(folder / name)) or stated(whole) or NOT_STATED)


def stated(card: dict[str, Any]) -> str | None:
    """Licence of a front matter: its tag, or the name behind the tag `other`; None without one."""
    tag = card.get("license")
    return card.get("license_name") or tag if tag == "other" else tag


def front_matter(folder: Path) -> dict[str, Any]:
    """Front matter of a folder's README.md; empty without one."""
    card = folder / "README.md"
    return dict(metadata_load(card) or {}) if card.is_file() else {}


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
