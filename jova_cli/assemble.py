"""The words of `jova assemble`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from .given_paths import check_new, kind_of
from .parser import NOTHING_WRITTEN, Parser, did_you_mean
from .shipped import model_folder


WORK = "diffusers_jova.conversion.assembly"
DESCRIPTION = """Join component folders into a pipeline; what does not fit is refused before anything is written.

    jova assemble new/ jova-tiny transformer=runs/joint/transformer
    jova assemble jova-1.6b/ transformer=model_cards/jova-1.6b/transformer vae=Wan2.1/vae mmaudio/ \\
        text_encoder=flan-t5-xxl tokenizer=flan-t5-xxl text_encoder_2=Qwen tokenizer_2=Qwen

A folder gives every component that it has as a sub-folder, and the settings of a pipeline if it is one; NAME=FOLDER
gives one component, and comes before the folders. A transformer may be a config without weights: enough for
`jova prepare`."""
NAMES = (
    "tokenizer",
    "text_encoder",
    "tokenizer_2",
    "text_encoder_2",
    "spoken_tokenizer",
    "spoken_text_encoder",
    "transformer",
    "vae",
    "audio_vae",
    "vocoder",
    "scheduler",
)


def parse(argv: Sequence[str] | None = None) -> tuple[Parser, argparse.Namespace]:
    """Read the words, and refuse what cannot work."""
    parser = Parser(lambda _: NOTHING_WRITTEN, prog="jova assemble", description=DESCRIPTION)
    parser.add_argument("output", type=Path, help="new folder")
    parser.add_argument("sources", nargs="+", metavar="FOLDER|NAME=FOLDER", help=f"NAME is one of {', '.join(NAMES)}")
    return parser, parser.parse_checked(argv, check)


def check(args: argparse.Namespace) -> None:
    """Turn the words into folders, and refuse those that are none."""
    check_new("output", args.output)
    args.named, args.folders = {}, []
    for word in args.sources:
        name, equals, path = word.partition("=")
        if name not in NAMES and kind_of(model_folder(word)) == "folder":  # a folder whose name has the sign
            name, equals = "", ""
        if equals and name not in NAMES:
            advice = did_you_mean(name, NAMES, f"correct the word `{word}`")
            raise ValueError(f"a component must be one of {', '.join(NAMES)}, got `{name}`; {advice}")
        if equals and name in args.named:
            raise ValueError(f"a component must be named once, got `{name}` several times; leave one out")
        folder = model_folder(path if equals else word)
        folder = shipped_parent(folder, path) if equals else folder
        if kind_of(folder) != "folder":
            is_file = kind_of(folder) == "file"
            advice = f"make a folder of it by `jova convert single_file {path if equals else word} FOLDER`"
            if folder.suffix == ".json":
                advice = "give the folder that holds it as `config.json`"
            raise ValueError(
                f"a component must be an existing folder, got `{word}`"
                + (f", which is a file; {advice}" if is_file else "; download it first")
            )
        if equals:
            args.named[name] = folder
        else:
            args.folders.append(folder)


def shipped_parent(folder: Path, path: str) -> Path:
    """The folder of a config that the package brings along, such as `model_cards/jova-1.6b/transformer`."""
    config = model_folder(Path(path) / "config.json")
    return config.parent if kind_of(folder) != "folder" and kind_of(config) == "file" else folder
