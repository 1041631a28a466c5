"""A component in one safetensors file with its config in the header, as `jova convert single_file` writes it."""

from pathlib import Path

from .given_paths import kind_of
from .json_text import NoJSONError, parse
from .model_info import count_values, read_metadata


CONFIG_KEY = "config"  # of the header


def class_in_header(path: Path) -> str:
    """The class of the component that a file holds with its config; empty for every other path."""
    if path.suffix != ".safetensors" or kind_of(path) != "file":
        return ""
    try:
        config = parse(read_metadata(path).get(CONFIG_KEY, ""))
    except (NoJSONError, ValueError):  # others may have something else under this name
        return ""
    name = config.get("_class_name") if isinstance(config, dict) else None
    return name if isinstance(name, str) else ""


def describe_one_file(path: Path) -> str:
    """Describe such a file, and say what reads it."""
    name = class_in_header(path)
    return (
        f"component {name} in one file: {count_values([path]):,} parameters\n"
        f"`{name}.from_single_file` loads it, `jova convert single_file` makes a folder of it"
    )


def check_no_component(kind: str, path: Path) -> None:
    """Refuse to convert what is of diffusers or of this package already.

    Args:
        kind: Of the conversion.
        path: Its source.
    """
    if name := class_in_header(path):
        raise ValueError(
            f"`SOURCE` of `{kind}` must be as its authors released it, got a {name} in the layout of diffusers, with "
            f"its config in the header of `{path}`; make a folder of it by `jova convert single_file`, or load it by "
            f"`{name}.from_single_file`"
        )
