"""Convert other people's weights into folders for `from_pretrained`, and adapters between layouts.

Kinds: `wan`, `ovi`, `nava` (transformers), `mmaudio` (audio VAE and vocoder), `lora` (adapters), `single_file` (a
component folder into one file, and back). Everything is checked before anything is written, and an interrupted run
leaves no output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError

from diffusers_jova.cli import Parser, one_line
from diffusers_jova.conversion import components, lora, mmaudio, nava, ovi, single_file, wan
from diffusers_jova.conversion.output import SHARD_GB, Options
from diffusers_jova.conversion.source import local_path


KINDS: dict[str, Callable[[Path, Path, Options], None]] = {
    "wan": wan.convert,
    "ovi": ovi.convert,
    "nava": nava.convert,
    "mmaudio": mmaudio.convert,
    "lora": lora.convert,
    "single_file": single_file.convert,
}
REVERSIBLE = ("wan", "nava")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def parser() -> Parser:
    """Describe the command line."""
    described = Parser(description=__doc__)
    described.add_argument("kind", choices=KINDS)
    described.add_argument("source", help="file, folder, hub id `owner/name`, or one file of it `owner/name:path`")
    described.add_argument("output", type=Path, help="new folder or file")
    described.add_argument("--dtype", choices=DTYPES, help="storage type; the source's if not given")
    described.add_argument("--shard-gb", type=float, default=SHARD_GB, help="largest file, in 10^9 bytes")
    described.add_argument("--audio-channels", type=int, default=20, help="wan: channels of the audio latents")
    described.add_argument(
        "--components",
        nargs="+",
        default=[],
        help="wan, ovi, nava: write a whole pipeline, with tokenizer, text_encoder, vae, audio_vae, vocoder from "
        "here: sub-folders, or the files of Wan's and NAVA's releases",
    )
    described.add_argument("--reverse", action="store_true", help="wan, nava: back to the original names, one file")
    described.add_argument("--to", choices=lora.LAYOUTS, default="diffusers", help="lora: layout to write")
    return described


def main(argv: Sequence[str] | None = None) -> None:
    """Run one conversion; a mistake in the arguments or the files ends in a message and exit code 2."""
    command = parser()
    args = command.parse_args(argv)
    try:
        options = Options(
            dtype=DTYPES.get(args.dtype),
            shard_gb=args.shard_gb,
            audio_channels=args.audio_channels,
            layout=args.to,
            reverse=args.reverse,
            components=[local_path(folder, components.FILES) for folder in args.components],
        )
        if args.shard_gb <= 0:
            raise ValueError(f"`--shard-gb` must be positive, got {args.shard_gb:g}")
        if args.reverse and args.kind not in REVERSIBLE:
            raise ValueError(f"`--reverse` must go with {' or '.join(REVERSIBLE)}, got {args.kind}")
        KINDS[args.kind](local_path(args.source), args.output, options)
    except (ValueError, OSError, SafetensorError) as error:
        command.error(one_line(error))
    print(f"wrote {args.output}")
