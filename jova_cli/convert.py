"""The words of `jova convert`."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from .given_paths import WEIGHT_FILES, check_new, check_readable, kind_of
from .model_info import INDEX, read_header
from .one_file import check_no_component
from .parser import DTYPES, NOTHING_WRITTEN, Parser, dtype_name
from .shipped import HUB_NAME, find_model


WORK = "diffusers_jova.conversion.convert"
DESCRIPTION = """Convert other people's weights into folders for `from_pretrained`, and adapters between layouts.

Kinds: `wan`, `ovi`, `nava`, `mova` (transformers; of MOVA the folder of its release, both experts), `uniavgen` (its
transformer and its encoder of spoken text), `mmaudio` (audio VAE and vocoder), `lora` (adapters), `single_file` (a
component folder into one file, and back). What no weights tell, the heads, is read in the `config.json` beside them.
Everything is checked before anything is written, and an interrupted run leaves no output."""
PIPELINES = ("wan", "ovi", "nava", "mova", "uniavgen")
KINDS = (*PIPELINES, "mmaudio", "lora", "single_file")
REVERSIBLE = PIPELINES
LAYOUTS = ("diffusers", "peft", "comfy")
TOWERS = ("video", "video_low")
HUB_SOURCE = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(:(?P<file>[\w./-]+))?")
CHARACTERS = ".txt"  # the list of UniAVGen's release
SHARD_GB = 5.0
AUDIO_CHANNELS = 20


def parse(argv: Sequence[str] | None = None) -> tuple[Parser, argparse.Namespace]:
    """Read the words, and refuse what cannot work."""
    parser = Parser(lambda _: NOTHING_WRITTEN, prog="jova convert", description=DESCRIPTION)
    add = parser.add_argument
    add("kind", choices=KINDS)
    add("source", type=find_model, help="file, folder, hub id `owner/name`, or one file of it `owner/name:path`")
    add("output", type=Path, help="new folder or file")
    add("--dtype", type=dtype_name, choices=DTYPES, help="storage type; the source's if not given")
    add("--shard-gb", type=float, help=f"all but lora: largest file, in 10^9 bytes; {SHARD_GB:g} if not given")
    add("--audio-channels", type=int, help=f"wan: channels of the audio latents; {AUDIO_CHANNELS} if not given")
    add(
        "--components",
        nargs="+",
        default=[],
        help=f"{', '.join(PIPELINES)}: write a whole pipeline, with tokenizer, text_encoder, vae, audio_vae, vocoder "
        "from here: sub-folders, or the files of Wan's, NAVA's, MOVA's and UniAVGen's releases, of the last with "
        "vocab.txt of its code",
    )
    add("--towers-only", action="store_true", help="ovi: leave the fusion out, for a joint attention to be trained")
    add(
        "--reverse",
        action="store_true",
        help=f"{', '.join(REVERSIBLE)}: back to the original names, one file, of MOVA its folders",
    )
    add("--to", choices=LAYOUTS, help=f"lora: layout to write, {LAYOUTS[0]} if not given; every known one is read")
    add("--skip-unknown", action="store_true", help="lora: leave out what no model has a place for, and say how much")
    add(
        "--tower",
        choices=TOWERS,
        help="lora of one video model: the tower for high noise or for low noise that it is for",
    )
    add("--alpha", type=float, help="lora: alpha of all its modules; MOVA's trainers do not state it in their files")
    args = parser.parse_checked(argv, check)
    for name, default in (("shard_gb", SHARD_GB), ("audio_channels", AUDIO_CHANNELS), ("to", LAYOUTS[0])):
        if getattr(args, name) is None:
            setattr(args, name, default)
    return parser, args


def check(args: argparse.Namespace) -> None:
    """Refuse options that cannot work, and those that the kind does not read, then files that are not there."""
    check_options(args)
    check_convertible("SOURCE", args.source)
    if args.kind == "single_file" and kind_of(Path(args.source) / INDEX) == "file":
        raise ValueError(
            f"`SOURCE` must be the folder of one component, got the pipeline `{args.source}`; name a sub-folder, such "
            f"as {Path(args.source) / 'transformer'}"
        )
    if args.kind != "single_file" and not args.reverse:
        check_no_component(args.kind, Path(args.source))
    for folder in args.components:
        check_convertible("--components", folder)
    check_new("OUTPUT", args.output)


def check_options(args: argparse.Namespace) -> None:
    """Refuse options that cannot work, and those that the kind does not read."""
    if args.shard_gb is not None and not 0 < args.shard_gb < float("inf"):  # written so that NaN fails as well
        raise ValueError(f"`--shard-gb` must be positive and finite, got {args.shard_gb:g}")
    if args.audio_channels is not None and args.audio_channels < 1:
        raise ValueError(f"`--audio-channels` must be at least 1, got {args.audio_channels}")
    if args.alpha is not None and not 0 < abs(args.alpha) < float("inf"):
        raise ValueError(f"`--alpha` must be finite and not 0, got {args.alpha:g}")
    if args.reverse and args.kind not in REVERSIBLE:
        raise ValueError(f"`--reverse` must go with {', '.join(REVERSIBLE)}, got {args.kind}")
    for option, is_given, kinds in (
        ("--skip-unknown", args.skip_unknown, ("lora",)),
        ("--to", args.to is not None, ("lora",)),
        ("--tower", args.tower is not None, ("lora",)),
        ("--alpha", args.alpha is not None, ("lora",)),
        ("--towers-only", args.towers_only, ("ovi",)),
        ("--components", bool(args.components), PIPELINES),
        ("--audio-channels", args.audio_channels is not None, ("wan",)),
        ("--shard-gb", args.shard_gb is not None, tuple(kind for kind in KINDS if kind != "lora")),
    ):
        if is_given and args.kind not in kinds:
            raise ValueError(f"`{option}` must go with {', '.join(kinds)}, got {args.kind}; leave it out")
        if is_given and option == "--shard-gb" and args.kind == "single_file" and is_folder(args.source):
            raise ValueError(
                f"`{option}` must be left out where a folder becomes one file, got {args.shard_gb:g}; leave it out"
            )
        if is_given and args.reverse:  # original names, of what is there
            raise ValueError(f"`{option}` must go without `--reverse`, got both; leave one out")


def check_convertible(option: str, source: str) -> None:
    """Refuse what is neither here nor a name on the hub, and a file or a folder that holds no weights."""
    path, kind = Path(source), kind_of(source)
    if not kind:
        if HUB_SOURCE.fullmatch(source) is None:
            advice = "check the spelling, or download it first"
            rule = "must be an existing path or a hub id `owner/name[:file]`"
            raise ValueError(f"`{option}` {rule}, got `{source}`; {advice}")
        return
    check_readable(option, path, "download it first")
    suffixes = (*WEIGHT_FILES, *([CHARACTERS] if option == "--components" else []))
    if kind == "file" and path.suffix not in suffixes:
        known = ", ".join(suffixes)
        raise ValueError(f"`{option}` must be a folder or one of {known}, got `{source}`; choose another")
    if kind == "file" and path.suffix == ".safetensors":
        read_header(path)


def is_folder(source: str) -> bool:
    """Whether a source is a folder, or all of a repository on the hub."""
    return kind_of(source) == "folder" or (not kind_of(source) and HUB_NAME.fullmatch(source) is not None)
