"""What the package brings along, by name: models, presets of training, configs of transformers.

A path that is not there from the working folder is looked up in the package, where a clone has it: so
`training/configs/jova_tiny_transformer.json` is the same file in a clone and after `pip install`.
"""

import os
import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from .given_paths import WEIGHT_FILES, check_file, kind_of, lacking_folder
from .parser import did_you_mean


HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
ROOMS = ("training", "model_cards")  # that hold files which a command line may name


def find_package() -> Path:
    """Folder of `diffusers_jova`, which is not imported."""
    spec = find_spec("diffusers_jova")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def find_room(name: str) -> Path:
    """Folder of a room: below the package where it is installed or linked, else beside it as in every clone."""
    below = PACKAGE / name
    return below if below.is_dir() else PACKAGE.parent / name


PACKAGE = find_package()
WEIGHTS = PACKAGE / "weights"
TRAINING = find_room("training")
CONFIGS = TRAINING / "configs"
CONFIG = (TRAINING / "loop" / "config.py", "TrainConfig")  # in diffusers_jova.training.loop


def find_model(name: str | os.PathLike[str]) -> str:
    """Folder or file of what ships under a name; what exists here, and any other name, stays as it is."""
    if kind_of(name):
        return str(name)
    shipped = WEIGHTS / name
    if shipped.parent == WEIGHTS and kind_of(shipped / "model_index.json") == "file":
        return str(shipped)
    return str(find_place(Path(name)) or name)


def model_name(source: str) -> str:
    """What a model that ships is called; where another lies, as it was given."""
    return Path(source).name if Path(source).parent == WEIGHTS else source


def model_folder(name: str | os.PathLike[str]) -> Path:
    """The same as a path, for what reads the files of a saved model itself."""
    return Path(find_model(name))


def find_place(path: Path) -> Path | None:
    """File or folder of the package that lies at `path` in a clone; None if there is none."""
    if path.is_absolute() or len(path.parts) < 2 or path.parts[0] not in ROOMS or ".." in path.parts:
        return None
    place = find_room(path.parts[0]).joinpath(*path.parts[1:])
    return place if kind_of(place) else None


def find_file(path: Path) -> Path | None:
    """The same of files alone."""
    place = find_place(path)
    return place if place is not None and kind_of(place) == "file" else None


def model_names() -> list[str]:
    """Names of the models that ship."""
    return sorted(index.parent.name for index in WEIGHTS.glob("*/model_index.json"))


def preset_names() -> list[str]:
    """Names of the presets of `jova train`."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml") if not path.stem.startswith("codecs_"))


def launch_names() -> list[str]:
    """Names of the settings of `accelerate launch`."""
    return sorted(f"accelerate/{path.stem}" for path in CONFIGS.glob("accelerate/*.yaml"))


def find_preset(what: str, name: str, known: Sequence[str]) -> Path:
    """File of a preset for its name or path; a file of that name here comes first.

    Args:
        what: The option that names it, for the message.
        name: Its name, or the path of any YAML file.
        known: Names that it may have.

    Raises:
        ValueError: If there is none; the message names the nearest, or lists the names.
    """
    if kind_of(name) == "file":
        check_file(what, Path(name))
        return Path(name)
    if name in known:
        return CONFIGS / f"{name}.yaml"
    if file := find_file(Path(name)):
        return file
    advice = did_you_mean(name, known, "`jova presets` tells what they are for")
    raise ValueError(f"`{what}` must be an existing YAML file or one of {', '.join(known)}, got {name}; {advice}")


def check_source(option: str, source: str) -> None:
    """Refuse what is neither on this machine nor a hub name."""
    is_of_training = source.endswith(WEIGHT_FILES) or Path(source).name.startswith("checkpoint-")
    if is_of_training and (lacking := lacking_folder(source)):
        raise ValueError(f"`{option}` must be an existing path or a hub name, got {source}, {lacking}; name another")
    if not kind_of(source) and not HUB_NAME.fullmatch(source):
        raise ValueError(
            f"`{option}` must be an existing path or a hub name owner/name, got {source}; {advice_on_name(source)}"
        )


def advice_on_name(source: str) -> str:
    """What may have been meant by a name under which no model lies here."""
    if find_place(Path("model_cards", source, "transformer")) is not None:
        config = f"model_cards/{source}/transformer/config.json"
        return f"this name is that of configs without weights: `model={config}` of `jova train` makes a model of them"
    preset = Path("training/configs", source).with_suffix(".json")
    if find_place(preset) is not None:
        return f"the config of this name is `{preset}`"
    return did_you_mean(source, model_names(), "check the spelling")
