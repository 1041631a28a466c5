"""The words of `jova convert`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from .given_paths import check_new
from .parser import DTYPES, NOTHING_WRITTEN, Parser, dtype_name


WORK = "diffusers_jova.conversion.convert"
DESCRIPTION = """Convert other people's weights into folders for `from_pretrained`, and adapters between layouts.

Kinds: `wan`, `ovi`, `nava` (transformers), `mmaudio` (audio VAE and vocoder), `lora` (adapters), `single_file` (a
component folder into one file, and back). Everything is checked before anything is written, and an interrupted run
leaves no output."""
KINDS = ("wan", "ovi", "nava", "mmaudio", "lora", "single_file")
REVERSIBLE = ("wan", "nava")
LAYOUTS = ("diffusers", "peft", "comfy")
SHARD_GB = 5.0
AUDIO_CHANNELS = 20


def parse(argv: Sequence[str] | None = None) -> tuple[Parser, argparse.Namespace]:
    """Read the words, and refuse what cannot work."""
    parser = Parser(lambda _: NOTHING_WRITTEN, prog="jova convert", description=DESCRIPTION)
    add = parser.add_argument
    add("kind", choices=KINDS)
    add("source", help="file, folder, hub id `owner/name`, or one file of it `owner/name:path`")
    add("output", type=Path, help="new folder or file")
    add("--dtype", type=dtype_name, choices=DTYPES, help="storage type; the source's if not given")
    add("--shard-gb", type=float, default=SHARD_GB, help="largest file, in 10^9 bytes")
    add("--audio-channels", type=int, default=AUDIO_CHANNELS, help="wan: channels of the audio latents")
    add(
        "--components",
        nargs="+",
        default=[],
        help="wan, ovi, nava: write a whole pipeline, with tokenizer, text_encoder, vae, audio_vae, vocoder from "
        "here: sub-folders, or the files of Wan's and NAVA's releases",
    )
    add("--reverse", action="store_true", help="wan, nava: back to the original names, one file")
    add("--to", choices=LAYOUTS, default="diffusers", help="lora: layout to write; every known one is read")
    add("--skip-unknown", action="store_true", help="lora: leave out what no model has a place for, and say how much")
    return parser, parser.parse_checked(argv, check)


def check(args: argparse.Namespace) -> None:
    """Refuse options that cannot work."""
    check_new("OUTPUT", args.output)
    if not 0 < args.shard_gb < float("inf"):  # written so that NaN fails as well
        raise ValueError(f"`--shard-gb` must be positive and finite, got {args.shard_gb:g}")
    if args.skip_unknown and args.kind != "lora":
        raise ValueError(f"`--skip-unknown` must go with lora, got {args.kind}")
    for option, is_given, kinds in (
        ("--to", args.to != "diffusers", ("lora",)),
        ("--components", bool(args.components), ("wan", "ovi", "nava")),
        ("--audio-channels", args.audio_channels != AUDIO_CHANNELS, ("wan",)),
        ("--shard-gb", args.shard_gb != SHARD_GB, tuple(kind for kind in KINDS if kind != "lora")),
    ):
        if is_given and args.kind not in kinds:
            raise ValueError(f"`{option}` must go with {', '.join(kinds)}, got {args.kind}; leave it out")
    if args.reverse and args.components:
        raise ValueError("`--components` must go without `--reverse`, got both; leave one out")
    if args.reverse and args.kind not in REVERSIBLE:
        raise ValueError(f"`--reverse` must go with {' or '.join(REVERSIBLE)}, got {args.kind}")
