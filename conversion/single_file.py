"""A component folder -> one safetensors file with the config in its header, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import ModelMixin
from diffusers.pipelines.ltx2 import vocoder

from diffusers_jova import single_file
from diffusers_jova.conversion.checkpoint import Checkpoint, open_checkpoint, open_shards
from diffusers_jova.conversion.output import (
    Model,
    Options,
    Parameter,
    cast,
    check_fits,
    new_folder,
    unchanged,
    write_single,
    write_weights,
)


VOCODERS = ("LTX2Vocoder", "LTX2VocoderWithBWE")  # which diffusers keeps with their pipeline


def convert(path: Path, output: Path, options: Options) -> None:
    """Pack a folder into a file, or unpack a file into a folder."""
    if path.is_dir():
        pack(path, output, options)
    else:
        unpack(path, output, options)


def pack(folder: Path, output: Path, options: Options) -> None:
    """Write all shards of a component and its config into one file.

    Raises:
        ValueError: The folder holds no component.
    """
    config = folder_config(folder)
    checkpoint = open_shards(folder)
    found = stored(checkpoint, config, options)
    write_single(output, found, None, {single_file.CONFIG_KEY: json.dumps(config, sort_keys=True)})


def stored(checkpoint: Checkpoint, config: Mapping[str, Any], options: Options) -> list[Parameter]:
    """Return all tensors in the storage type; modules that the class keeps in float32 keep their own.

    Raises:
        ValueError: They are not the tensors of the class in the config.
    """
    found = unchanged(checkpoint)
    model = build(config)
    check_fits(found, model)
    return cast(found, options.dtype, keep=model._keep_in_fp32_modules or ())


def build(config: Mapping[str, Any]) -> Model:
    """Build the model that a config describes, on the meta device."""
    name = config["_class_name"]
    cls: Any = getattr(vocoder if name in VOCODERS else diffusers, name, None)
    if ModelMixin not in getattr(cls, "__mro__", ()):
        raise ValueError(
            f"`_class_name` of a config must be a model of diffusers or of this package, got `{name}`; "
            "convert a folder that `save_pretrained` of such a model wrote"
        )
    try:
        with torch.device("meta"):
            return cls.from_config(dict(config))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"config must build a {name}, got {error}; use the config saved with the tensors") from error


def folder_config(folder: Path) -> dict[str, Any]:
    """Read the config of a component folder."""
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(
            f"`SOURCE` must be a component folder with a config.json, got `{folder}`; "
            "name the sub-folder of one component, such as transformer"
        )
    return single_file.parse_config(path.read_text(), path)


def unpack(path: Path, output: Path, options: Options) -> None:
    """Write a one-file component as a folder for `from_pretrained`."""
    checkpoint = open_checkpoint(path)
    config = single_file.read_config(path)
    found = stored(checkpoint, config, options)
    with new_folder(output) as folder:
        write_weights(folder, found, options.shard_gb)
        (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
