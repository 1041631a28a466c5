"""`jova info`: the words and the work, which only reads."""

import argparse
import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .adapter_info import describe_adapter, find_adapter
from .clip_info import CLIP_SUFFIXES, read_provenance
from .given_paths import WEIGHT_FILES, kind_of
from .json_text import read_object, readable
from .model_clips import describe_clips, describe_steps
from .model_info import ABSENT, INDEX, MERGED, describe_component, info_table, merged_line, read_index
from .one_file import class_in_header, describe_one_file
from .parser import Parser, one_line
from .shipped import HUB_NAME, advice_on_name, model_folder
from .training_info import describe_prepared, describe_training, is_prepared, is_training


WORK = "jova_cli.info"
OWN_SCHEDULER = "FlowMatchAudioVideoScheduler"
DESCRIPTION = """Print what a file or a folder holds, without loading it:

    a model           its parts and the longest clip that it makes
    a clip            how it was generated (.mp4, .mov, .mkv, .webm, .wav)
    an adapter        rank, alpha, what it changes (.safetensors, or its folder)
    a training        how far it is, and its settings
    prepared clips    how many, of which sizes, for which model"""
READABLE = (
    "a saved pipeline or a component of one, a generated clip (.mp4, .mov, .mkv, .webm, .wav), an adapter "
    "(.safetensors; `jova convert lora` writes a pickled one anew), the folder of a training, or one of prepared clips"
)


class Kind(NamedTuple):
    """Something that can be described.

    Attributes:
        is_it: Whether a path holds it.
        describe: Says what it holds.
    """

    is_it: Callable[[Path], bool]
    describe: Callable[[Path], str]


def parse(argv: Sequence[str] | None = None) -> tuple[Parser, argparse.Namespace]:
    """Read the words, and refuse what nothing is known of."""
    parser = Parser(prog="jova info", description=DESCRIPTION)
    parser.add_argument("path", type=model_folder, help="file or folder, or jova-tiny")
    return parser, parser.parse_checked(argv, check)


def check(args: argparse.Namespace) -> None:
    """Refuse what cannot be described."""
    args.kinds = kinds_of(args.path)


def kinds_of(path: Path) -> list[Kind]:
    """What a path holds; the folder of a training holds an adapter as well.

    Raises:
        ValueError: If it is none of what can be described.
    """
    if found := [kind for kind in KINDS if kind.is_it(path)]:
        return found
    kind = kind_of(path)
    if kind == "file" and is_prepared(path.parent):
        raise ValueError(f"the path must be {READABLE}, got `{path}` in one of prepared clips; name `{path.parent}`")
    if kind:
        raise ValueError(f"the path must be {READABLE}, got the {kind} `{path}`, which is none; name one of these")
    if HUB_NAME.fullmatch(str(path)) and path.suffix.lower() not in (*CLIP_SUFFIXES, *WEIGHT_FILES):
        advice = f"a repository of the hub comes by `hf download {path} --local-dir {path.name}`"
    else:
        advice = advice_on_name(str(path))
    raise ValueError(f"the path must be {READABLE}, got `{path}`, which is not there; {advice}")


def is_clip(path: Path) -> bool:
    """Whether it is a clip, as its name says."""
    return kind_of(path) != "folder" and path.suffix.lower() in CLIP_SUFFIXES


def describe_model(folder: Path) -> str:
    """Describe a saved pipeline."""
    index = read_index(folder)
    config = folder / "transformer" / "config.json"
    merged = read_object(config).get(MERGED) if config.is_file() else None
    told = [merged_line(merged)] if merged else []
    named = [name for name, value in index.items() if isinstance(value, list) and not name.startswith("_")]
    if missing := [name for name in named if index[name] != ABSENT and not (folder / name).is_dir()]:
        lacking = f"missing here: {', '.join(missing)}; save or fetch the folder anew"
        return "\n\n".join([info_table(folder), *told, lacking])
    clips = [describe_clips(folder), describe_steps(folder), *refusals_of_scheduler(folder, index)]
    return "\n\n".join([info_table(folder), *told, "\n".join(clips)])


def refusals_of_scheduler(folder: Path, index: Mapping[str, Any]) -> list[str]:
    """What a call says of the scheduler of a saved pipeline; only one that is not ours is asked, which loads torch."""
    _, class_name = index.get("scheduler") or ABSENT
    if class_name in (None, OWN_SCHEDULER):
        return []
    try:
        importlib.import_module("diffusers_jova.saved_pipeline").SavedPipeline(folder).scheduler()
    except (ValueError, OSError) as error:
        return [f"no call takes its scheduler: {one_line(error)}"]
    return []


def describe_part(folder: Path) -> str:
    """Describe a component that lies alone."""
    values = read_object(folder / "config.json")
    name = values.get("_class_name") or ", ".join(map(str, values.get("architectures") or ["not stated"]))
    found = describe_component(folder.absolute().parent, folder.absolute().name, name)
    if not found.num_parameters:
        return f"component {name}: no weights here in .safetensors files"
    return f"component {name}: {found.num_parameters:,} parameters, licence of the weights {found.licence}"


KINDS = (
    Kind(lambda path: kind_of(path / INDEX) == "file", describe_model),
    Kind(is_clip, lambda path: readable(read_provenance(path), indent=2)),
    Kind(is_training, describe_training),
    Kind(lambda path: find_adapter(path) is not None, lambda path: describe_adapter(find_adapter(path) or path)),
    Kind(is_prepared, describe_prepared),
    Kind(lambda path: bool(class_in_header(path)), describe_one_file),
    Kind(lambda path: kind_of(path / "config.json") == "file" and kind_of(path / INDEX) != "file", describe_part),
)


def execute(parser: Parser, args: argparse.Namespace) -> None:
    """Print what the path holds."""
    try:
        print("\n\n".join(kind.describe(args.path) for kind in args.kinds))
    except (ValueError, OSError) as error:
        parser.error(one_line(error))
