"""A component folder -> one safetensors file with the config in its header, and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from conversion.checkpoint import open_checkpoint, open_shards, read_metadata
from conversion.output import Options, cast, new_folder, parameters, write_single, write_weights
from conversion.rules import Rule, plan


CONFIG_KEY = "config"
EVERYTHING = [Rule("{path}", "{path}")]


def convert(path: Path, output: Path, options: Options) -> None:
    """Pack a folder into a file, or unpack a file into a folder."""
    if path.is_dir():
        pack(path, output, options)
    else:
        unpack(path, output, options)


def pack(folder: Path, output: Path, options: Options) -> None:
    """Write all shards of a component and its config into one file."""
    config = read_config(folder)
    checkpoint = open_shards(folder)
    found = parameters(plan(checkpoint, EVERYTHING), checkpoint)
    write_single(output, found, options.dtype, {CONFIG_KEY: json.dumps(config, sort_keys=True)})


def read_config(folder: Path) -> dict[str, Any]:
    """Read the config of a component folder."""
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"`SOURCE` must be a component folder with a config.json, got `{folder}`")
    return parse_config(path.read_text(), path)


def parse_config(text: str, origin: Path) -> dict[str, Any]:
    """Check that a config is a JSON object that names its class."""
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"config of `{origin}` must be JSON, got {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("_class_name"), str):
        raise ValueError(f"config of `{origin}` must name its class in `_class_name`, got {type(config).__name__}")
    return config


def unpack(path: Path, output: Path, options: Options) -> None:
    """Write a one-file component as a folder for `from_pretrained`."""
    checkpoint = open_checkpoint(path)
    metadata = read_metadata(path) if path.suffix == ".safetensors" else {}
    if CONFIG_KEY not in metadata:
        raise ValueError(
            f"`SOURCE` must carry its config in the header (`{CONFIG_KEY}`), got `{path.name}` without; "
            "use the conversion of its model family"
        )
    config = parse_config(metadata[CONFIG_KEY], path)
    found = cast(parameters(plan(checkpoint, EVERYTHING), checkpoint), options.dtype)
    with new_folder(output) as folder:
        write_weights(folder, found, options.shard_gb)
        (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
