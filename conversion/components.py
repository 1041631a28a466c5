"""The parts of a pipeline beside its transformer: copied from diffusers' layout, or converted from released files.

A diffusers repository, a converted MMAudio folder and a diffusers LTX-2 repository hold components in sub-folders. The
releases of Wan and NAVA hold them in files of their own, anywhere in the folder; MOVA's has its video VAE in
`video_vae`, UniAVGen's its vocoder in `code2wav_bigvgan_model`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffusers_jova.conversion.card import DAC, QWEN_VOCODER, RELEASED_PARTS, Licence, copied_licence
from diffusers_jova.conversion.checkpoint import Checkpoint, open_checkpoint
from diffusers_jova.conversion.dac import convert_dac
from diffusers_jova.conversion.ltx2_audio import convert_audio_vae, convert_vocoder, holds_ltx2
from diffusers_jova.conversion.output import Model, Options, Parameter, save_model
from diffusers_jova.conversion.rules import listed
from diffusers_jova.conversion.umt5 import convert_text_encoder
from diffusers_jova.conversion.wan_vae import convert_vae
from jova_cli.json_text import read_object
from jova_cli.model_info import pair_of


NAMES = ("tokenizer", "text_encoder", "vae", "audio_vae", "vocoder")
RELEASED = {  # glob patterns
    "tokenizer": ("google/umt5-xxl",),
    "text_encoder": ("models_t5_umt5-xxl-enc-*.pth",),
    "vae": ("Wan2.1_VAE.pth", "Wan2.2_VAE.pth", "video_vae"),  # the last a folder of MOVA's
    "audio_vae": ("ltx-2.3-*_audio_vae.safetensors", "vae_128d_48k.pth"),
    "vocoder": ("ltx-2.3-*_audio_vae.safetensors", "code2wav_bigvgan_model"),  # the same file; a folder of UniAVGen's
    "spoken_tokenizer": ("vocab.txt",),
}
FOREIGN = {"audio_vae": {"DAC"}}  # classes of sub-folders that are converted, not copied
CONVERTERS: Mapping[str, Callable[[Checkpoint], tuple[Model, list[Parameter]]]] = {
    "text_encoder": convert_text_encoder,
    "vae": convert_vae,
    "audio_vae": lambda checkpoint: (convert_audio_vae if holds_ltx2(checkpoint) else convert_dac)(checkpoint),
    "vocoder": convert_vocoder,
}
WAVEFORM_VAES = {"JoVAAutoencoderKLDAC", "AutoencoderKLKVAEAudio"}  # need no vocoder
FILES = (  # what a repository of the hub is asked for
    "model_index.json",
    "README.md",
    *(f"{name}/*" for name in RELEASED),
    *(f"*{pattern}*" for patterns in RELEASED.values() for pattern in patterns),
)
LIBRARIES = {  # others are diffusers'
    "LTX2Vocoder": "ltx2",
    "LTX2VocoderWithBWE": "ltx2",
    "JoVAAutoencoderKLDAC": "diffusers_jova",
    "JoVALogMel": "diffusers_jova",
    "JoVASpokenTextEncoder": "diffusers_jova",
}
LICENCES = {"code2wav_bigvgan_model": QWEN_VOCODER}  # of released folders that differ from `RELEASED_PARTS`
TRUSTED = {"diffusers", "transformers", "ltx2", "diffusers_jova"}  # a pipeline imports what its index names


@dataclass(frozen=True)
class Component:
    """A part of a pipeline that is ready to be written.

    Attributes:
        name: Its name in the pipeline.
        origin: Folder or file that it comes from.
        entry: Library and class, as `model_index.json` states them.
        licence: Terms of its weights.
        write: Writes it into a new folder.
    """

    name: str
    origin: Path
    entry: tuple[str, str]
    licence: Licence
    write: Callable[[Path], object]


def find_components(folders: Sequence[Path], options: Options, made: Sequence[Component] = ()) -> list[Component]:
    """Check every component in the first folder that has it; nothing is written.

    Args:
        folders: Where they lie.
        options: About their files.
        made: Components that the conversion brings itself.

    Raises:
        ValueError: A component is in none of the folders, or is not what its name says.
    """
    found = locate(folders, [name for name in NAMES if name not in {part.name for part in made}])
    parts = [
        converted(name, path, options) if path.is_file() or is_foreign(name, path) else copied(name, path)
        for name, path in found.items()
    ]
    parts += made
    audio_vae = next(part for part in parts if part.name == "audio_vae")
    if audio_vae.entry[1] in WAVEFORM_VAES:  # a vocoder beside another audio VAE is none for this one
        return [part for part in parts if part.name != "vocoder"]
    if "vocoder" not in found:
        raise ValueError(
            f"`--components` must hold a vocoder beside a {audio_vae.entry[1]}, which decodes to a spectrogram, got "
            f"no `vocoder`; add a folder that has it, or {RELEASED['vocoder'][0]}"
        )
    return parts


def is_foreign(name: str, path: Path) -> bool:
    """Whether a sub-folder holds a component in the layout of its own project."""
    return class_of(path / "config.json", "_class_name") in FOREIGN.get(name, ())


def locate(folders: Sequence[Path], names: Sequence[str] = NAMES) -> dict[str, Path]:
    """Find the folder or the released file of every component that is named.

    Raises:
        ValueError: A component is in none of the folders; a waveform VAE needs no vocoder.
    """
    found = {name: path for name in names if (path := first_place(folders, name))}
    missing = [name for name in names if name not in found]
    if missing and missing != ["vocoder"]:
        files = ", ".join(dict.fromkeys(pattern for name in missing for pattern in RELEASED[name]))
        raise ValueError(
            f"`--components` must hold {', '.join(names)} in sub-folders or as released, got no {listed(missing)} in "
            f"{listed(str(folder) for folder in folders)}; add a folder that has them, or {files}"
        )
    return found


def first_place(folders: Sequence[Path], name: str) -> Path | None:
    """Find a component in the first folder that has it; the others are not looked at."""
    return next((path for folder in folders if (path := place_in(folder, name))), None)


def place_in(folder: Path, name: str) -> Path | None:
    """Find a component in one folder: its sub-folder, else its released file."""
    if (folder / name).is_dir():
        return folder / name
    patterns = RELEASED[name]
    if folder.is_file():
        return folder if any(folder.match(pattern) for pattern in patterns) else None
    matches = sorted(path for pattern in patterns for path in folder.rglob(pattern))
    if len(matches) > 1:
        raise ValueError(f"`{folder}` must hold one {name}, got {listed(map(str, matches))}; name the file itself")
    return matches[0] if matches else None


def copied(name: str, path: Path) -> Component:
    """Describe a component that is in the layout of its library already, under its own name or a release's."""

    def write(folder: Path) -> None:
        shutil.copytree(path, folder)

    is_released = path.name != name
    licence = LICENCES.get(path.name, RELEASED_PARTS[name]) if is_released else copied_licence(name, path)
    named = released_tokenizer(path) if is_released and name == "tokenizer" else entry(name, path)
    return Component(name, path, named, licence, write)


def converted(name: str, path: Path, options: Options) -> Component:
    """Describe a component that is released in a layout of its own; it keeps its number format."""
    model, found = CONVERTERS[name](open_checkpoint(path))
    cls = type(model).__name__
    library = "transformers" if name == "text_encoder" else LIBRARIES.get(cls, "diffusers")
    licence = DAC if cls == "JoVAAutoencoderKLDAC" else RELEASED_PARTS[name]
    return Component(name, path, (library, cls), licence, lambda folder: save_model(folder, model, found, options))


def entry(name: str, path: Path) -> tuple[str, str]:
    """Return (library, class) of a component: from the index of the repository it lies in, or from its own config.

    Raises:
        ValueError: Neither says it, or the library is not one that a pipeline may import.
    """
    index, config = path.parent / "model_index.json", path / "config.json"
    stored = read_object(index) if index.is_file() else {}
    if name in stored:
        library, cls = pair_of(name, stored[name], index)
    else:
        cls, library = class_of(config, "_class_name"), "diffusers"
        if not cls:
            cls, library = transformers_class(config), "transformers"
        library = LIBRARIES.get(cls, library)
    if not cls:
        raise ValueError(
            f"`{path}` must be named in a model_index.json beside it or name its class in a config.json, got neither; "
            "name a folder that `save_pretrained` wrote"
        )
    if library not in TRUSTED:
        raise ValueError(
            f"library of `{path}` must be one of {', '.join(sorted(TRUSTED))}, got {library!r}; use another component"
        )
    return library, cls


def class_of(config: Path, field: str) -> str:
    """Read the name of a class from a field of a config; empty without a config or the field."""
    cls = read_object(config).get(field) if config.is_file() else None
    if cls is None:
        return ""
    if not isinstance(cls, str):
        raise ValueError(f"`{field}` in `{config}` must be the name of a class, got {cls!r}; download it again")
    return cls


def transformers_class(config: Path) -> str:
    """Read the class of a model of transformers from its config, where it is named in a list; empty without."""
    named = read_object(config).get("architectures") if config.is_file() else None
    return str(named[0]) if isinstance(named, list) and len(named) == 1 else ""


def released_tokenizer(path: Path) -> tuple[str, str]:
    """Return (library, class) of UMT5's tokenizer, which a release may keep without a config."""
    return "transformers", class_of(path / "tokenizer_config.json", "tokenizer_class") or "T5Tokenizer"
