"""A transformer in one safetensors file with its config in the header, as `jova convert single_file` writes it."""

import json
import tempfile
from pathlib import Path
from typing import Any, Self

import diffusers
from diffusers.loaders import FromOriginalModelMixin
from diffusers.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError, safe_open
from torch import Tensor

from jova_cli.json_text import ANEW, parse_object, shown


CONFIG_KEY = "config"
KINDS = {  # first bytes of other files, what they are, and what to do
    b"GGUF": (
        "a GGUF file",
        "pass `config`, the folder of its config.json, with `quantization_config=GGUFQuantizationConfig(...)`",
    ),
    b"PK\x03\x04": ("a PyTorch file", "pass `config`, the folder of its config.json"),
    b"\x80\x02": ("a pickle", "pass `config`, the folder of its config.json"),
}


def local_file(path: str | Path) -> Path:
    """Absolute path of a file on this machine that may be a safetensors file.

    Raises:
        ValueError: It is an address, is missing, is a folder, or is a file of another kind.
    """
    if isinstance(path, str) and "://" in path:
        raise ValueError(
            f"a single file must lie on this machine, got `{path}`; download it first, with "
            "`huggingface_hub.hf_hub_download`, say"
        )
    file = Path(path).absolute()
    if file.is_dir():
        raise ValueError(f"`{file}` must be one file, got a folder; load it with `from_pretrained`")
    if not file.is_file():
        raise ValueError(f"`{file}` must be a file, got nothing there; check its path")
    with file.open("rb") as opened:
        start = opened.read(4)
    for magic, (kind, advice) in KINDS.items():
        if start.startswith(magic):
            raise ValueError(
                f"`{file}` must be a safetensors file with its config in the header, got {kind}; {advice}"
            )
    return file


def read_config(path: Path) -> dict[str, Any]:
    """Read the config in the header of a safetensors file; no tensor is read.

    Raises:
        ValueError: The file is none, is damaged, or carries no config of a component.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"`{path}` must be a complete safetensors file, got {error}; download it again") from error
    if CONFIG_KEY not in header:
        raise ValueError(
            f"`{path}` must carry its config in the header (`{CONFIG_KEY}`), got none; "
            "`jova convert single_file` writes such a file from a model folder, "
            "and other conversions make a folder of a released file"
        )
    return parse_config(header[CONFIG_KEY], path)


def parse_config(text: str, origin: Path) -> dict[str, Any]:
    """Check that a config is a JSON object that names its class.

    Raises:
        ValueError: It is none.
    """
    config = parse_object(text, f"config of `{origin}`")
    if not isinstance(config.get("_class_name"), str):
        found = shown(config.get("_class_name"))
        raise ValueError(f"config of `{origin}` must name its class in `_class_name`, got {found}; {ANEW}")
    return config


class JoVASingleFileMixin(FromOriginalModelMixin):
    """Adds `from_single_file` for files that say themselves what they are; nothing is looked up on the hub."""

    @classmethod
    def from_single_file(
        cls, pretrained_model_link_or_path_or_dict: str | Path | dict[str, Tensor], **kwargs: Any
    ) -> Self:
        """Load the model from one file, as `from_pretrained` loads it from a folder.

        Args:
            pretrained_model_link_or_path_or_dict: Path of a safetensors file with a config in its header. With
                `config`, everything that diffusers' own `from_single_file` takes.
            kwargs: What `from_pretrained` takes: `dtype`, `quantization_config`, `device_map` and so on.

        Raises:
            ValueError: The file is none on this machine, is of another kind or damaged, carries no config or that of
                another class, or lacks tensors.
        """
        if kwargs.get("config") is not None:
            return super().from_single_file(pretrained_model_link_or_path_or_dict, **kwargs)
        if isinstance(pretrained_model_link_or_path_or_dict, dict):
            raise ValueError("tensors in memory must come with `config`, got none; name the folder of a config.json")
        path = local_file(pretrained_model_link_or_path_or_dict)
        config = read_config(path)
        if config["_class_name"] != cls.__name__:
            raise ValueError(
                f"`{path}` must hold a {cls.__name__}, got a {config['_class_name']}; load it with that class"
            )
        with tempfile.TemporaryDirectory() as folder:  # the layout that `from_pretrained` reads
            Path(folder, CONFIG_NAME).write_text(json.dumps(config))
            Path(folder, SAFETENSORS_WEIGHTS_NAME).symlink_to(path)
            model, loaded = cls.from_pretrained(folder, output_loading_info=True, **kwargs)
        refuse_other_tensors(path, missing=loaded["missing_keys"], unknown=loaded["unexpected_keys"])
        model.register_to_config(_name_or_path=str(path))
        return model


def refuse_other_tensors(path: Path, missing: list[str], unknown: list[str]) -> None:
    """Raise when a file did not hold exactly the tensors of its model."""
    if missing or unknown:
        raise ValueError(
            f"`{path}` must hold exactly the tensors of its config, got {len(missing)} too few "
            f"({', '.join(sorted(missing)[:3])}) and {len(unknown)} too many ({', '.join(sorted(unknown)[:3])}); "
            "write it again with `jova convert single_file`"
        )


def load_single_file(path: str | Path, **kwargs: Any) -> JoVASingleFileMixin:
    """Load the model of one file with the class that its header names; arguments as in `from_single_file`.

    Raises:
        ValueError: The file is no such export, or names another class.
    """
    name = read_config(local_file(path))["_class_name"]
    model = getattr(diffusers, name, None)  # where `register` puts our classes
    if not isinstance(model, type) or not issubclass(model, JoVASingleFileMixin):
        raise ValueError(f"`{path}` must hold a transformer of this package, got a {name}; load it with that class")
    return model.from_single_file(path, **kwargs)
