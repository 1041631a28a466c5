"""The command `jova assemble`: component folders, in the layouts of their libraries, joined into a pipeline's folder.

Only configs are read; that the parts fit is seen from them.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from diffusers import __version__ as diffusers_version
from transformers import AutoConfig

from diffusers_jova.audio_codec import JoVAAudioCodec
from diffusers_jova.component_fit import check_components, check_kinds, check_reference_length, check_skip_layer
from diffusers_jova.component_outline import build_outline
from diffusers_jova.conversion.components import LIBRARIES, TRUSTED, WAVEFORM_VAES, class_of, transformers_class
from diffusers_jova.conversion.output import new_folder
from diffusers_jova.conversion.rules import listed
from diffusers_jova.pipeline_jova import JoVAPipeline
from diffusers_jova.scheduling_flow_match_av import PRESETS, FlowMatchAudioVideoScheduler
from jova_cli.assemble import NAMES
from jova_cli.json_text import read_object
from jova_cli.model_info import CARD, licence_lines, licence_of_files, pair_of
from jova_cli.parser import Parser, one_line


INDEX = "model_index.json"
OWN = {
    *("JoVATransformer3DModel", "JoVAWanTransformer3DModel", "JoVADualTowerTransformer3DModel"),
    *("JoVAAutoencoderKLDAC", "JoVALogMel", "JoVASpokenTextEncoder"),
    "FlowMatchAudioVideoScheduler",
}
ENCODERS = {"t5": "T5EncoderModel", "umt5": "UMT5EncoderModel", "qwen2": "Qwen2Model"}  # the half that a prompt needs
SECOND = ("tokenizer_2", "text_encoder_2", "spoken_tokenizer", "spoken_text_encoder")  # a model may have none
SCHEDULER = "scheduler"
VOCODER = "vocoder"  # a waveform VAE has none
SETTINGS = (
    *("prompt_template", "pads_text_with_zeros", "speaker_token", "defaults", "domain"),
    *("one_way_coupling", "fills_image_with_grey", "starts_white", "negative_skip_layer"),
    *("needs_image", "max_reference_s", "few_steps"),
)
WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.h5", "*.msgpack", "*.ckpt", "*.onnx", "*.gguf")


def execute(parser: Parser, args: argparse.Namespace) -> None:
    """Write the folder that the words describe, and say what is in it."""
    try:
        found = without_idle_vocoder(locate(args.named, args.folders), args.named)
        index = build_index(found, args.folders)
        check_fit(found, index)
        with new_folder(args.output) as folder:
            write(folder, found, index)
    except (ValueError, OSError) as error:
        parser.error(one_line(error))
    for name, path in found.items():
        print(f"{name}: {index[name][1]} from {path}")
    if not any((args.output / "transformer").glob("*.safetensors")):
        print("the transformer has a config and no weights: `jova prepare` works with it, generating does not")


def locate(named: Mapping[str, Path], folders: Sequence[Path]) -> dict[str, Path]:
    """Find the folder of every component: the one that is named, else the first that has it.

    Raises:
        ValueError: If one is missing; further text encoders, the scheduler and the vocoder may be.
    """
    found = {}
    for name in NAMES:
        places = [folder / name for folder in folders if (folder / name).is_dir()]
        if path := named.get(name, places[0] if places else None):
            found[name] = path
    optional = (*SECOND, SCHEDULER, VOCODER) if "audio_vae" in found else (*SECOND, SCHEDULER)
    missing = [name for name in NAMES if name not in found and name not in optional]
    if missing:
        raise ValueError(
            f"a pipeline must have {listed([name for name in NAMES if name not in optional])}, got no "
            f"{listed(missing)}; name its folder as {missing[0]}=FOLDER"
        )
    return found


def without_idle_vocoder(found: Mapping[str, Path], named: Mapping[str, Path]) -> dict[str, Path]:
    """Leave out the vocoder of a folder whose audio VAE another one replaces that decodes to a waveform."""
    is_idle = VOCODER not in named and entry("audio_vae", found["audio_vae"])[1] in WAVEFORM_VAES
    return {name: path for name, path in found.items() if not (is_idle and name == VOCODER)}


def build_index(found: Mapping[str, Path], folders: Iterable[Path]) -> dict[str, Any]:
    """Say what `model_index.json` says: the class of every component, and the settings of the first pipeline given."""
    stored = (read_object(folder / INDEX) for folder in folders if (folder / INDEX).is_file())
    settings = next((values for values in stored if values.get("_class_name") == "JoVAPipeline"), {})
    index: dict[str, Any] = {"_class_name": "JoVAPipeline", "_diffusers_version": diffusers_version}
    index |= {name: entry(name, found[name]) if name in found else [None, None] for name in NAMES}
    check_student(found["transformer"], settings)
    index[SCHEDULER] = index[SCHEDULER] if SCHEDULER in found else ["diffusers_jova", "FlowMatchAudioVideoScheduler"]
    return index | {name: settings[name] for name in SETTINGS if name in settings}


def check_student(transformer: Path, settings: Mapping[str, Any]) -> None:
    """Refuse a student of few steps with the settings of another model, and another model with those of a student.

    Raises:
        ValueError: They do not belong together.
    """
    beside = transformer.parent / INDEX
    own = (read_object(beside) if beside.is_file() else {}).get("few_steps")
    if own != settings.get("few_steps"):
        raise ValueError(
            "a student of few steps must go with the settings and the scheduler of its own pipeline, got those of "
            f"another for `{transformer}`; name the folder of its pipeline first"
        )


def entry(name: str, path: Path) -> list[str]:
    """Library and class of a component, by the index of the pipeline that it lies in, else by its own config."""
    index = path.parent / INDEX
    stored = (read_object(index) if index.is_file() else {}).get(path.name)
    if "tokenizer" in name:
        if other := class_of(path / "config.json", "_class_name"):
            raise ValueError(f"`{name}` must be a tokenizer, got {other} in `{path}`; name the folder of a tokenizer")
        cls = class_of(path / "tokenizer_config.json", "tokenizer_class") or "AutoTokenizer"
        library = "transformers"
    elif name.startswith("text_encoder"):
        kind = class_of(path / "config.json", "model_type")
        library, cls = "transformers", ENCODERS.get(kind, "AutoModel" if kind else "")
    else:
        file = "scheduler_config.json" if name == SCHEDULER else "config.json"
        cls, library = class_of(path / file, "_class_name"), "diffusers"
        if not cls:
            cls, library = transformers_class(path / file), "transformers"
        library = "diffusers_jova" if cls in OWN else LIBRARIES.get(cls, library)
    if stored:
        library, cls = pair_of(path.name, stored, index)
    if not cls or library not in {*TRUSTED, "diffusers_jova"}:
        raise ValueError(
            f"`{path}` must be a component of diffusers, transformers or this package, with the class in its config, "
            f"got {(library + '.' + cls) if cls else 'no class'}; name a folder that `save_pretrained` wrote"
        )
    return [library, cls]


def check_fit(found: Mapping[str, Path], index: Mapping[str, Any]) -> None:
    """Refuse components that do not fit each other, by their configs.

    Raises:
        ValueError: Naming one that is missing, or the two numbers that differ.
    """
    transformer = read_object(found["transformer"] / "config.json")
    for name, field in (("text_encoder", "text_dim"), ("text_encoder_2", "text_dim_2"), ("spoken_text_encoder", "")):
        if transformer.get(field) is not None and name not in found:
            raise ValueError(f"`{name}` must be given to this transformer, got none; name it as {name}=FOLDER")
        tokenizer = name.replace("text_encoder", "tokenizer")
        if (name in found) != (tokenizer in found):
            raise ValueError(f"`{name}` and `{tokenizer}` must be given together, got one; name the other as well")
    models = [name for name in ("transformer", "vae", "audio_vae", VOCODER, "spoken_text_encoder") if name in found]
    parts: dict[str, Any] = {name: build_outline(index[name], found[name]) for name in models}
    check_kinds(parts, JoVAPipeline._get_signature_types())
    encoders = [name for name in ("text_encoder", "text_encoder_2") if name in found]
    parts |= {name: SimpleNamespace(config=AutoConfig.from_pretrained(found[name])) for name in encoders}
    check_components(parts)
    check_skip_layer(parts["transformer"], index.get("negative_skip_layer"))
    check_reference_length(parts["transformer"], index.get("max_reference_s"))
    JoVAAudioCodec(parts.get("audio_vae"), parts.get(VOCODER))  # refuses one that needs a vocoder alone


def write(folder: Path, found: Mapping[str, Path], index: Mapping[str, Any]) -> None:
    """Copy the components into a new folder, each with one set of weights; the index comes last."""
    for name, path in found.items():
        print(f"copying {name}", flush=True)
        shutil.copytree(path, folder / name, ignore=shutil.ignore_patterns(*unneeded(name, path)))
    if SCHEDULER not in found:
        FlowMatchAudioVideoScheduler(**PRESETS["jova"]).save_pretrained(folder / SCHEDULER)
    if lines := licence_lines({name: licence_of_files(path) for name, path in found.items()}):
        (folder / CARD).write_text("\n".join(["---", *lines, "---", ""]))
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def unneeded(name: str, path: Path) -> tuple[str, ...]:
    """Patterns of files that stay behind: a tokenizer's weights, and other formats beside safetensors."""
    if "tokenizer" in name:
        return (*WEIGHTS, ".git")
    return (*WEIGHTS[1:], ".git") if any(path.glob(WEIGHTS[0])) else (".git",)
