"""The words of `jova generate`."""

import argparse
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from .model_info import read_index
from .parser import DTYPES, Parser, dtype_name
from .shipped import check_source, find_model


WORK = "diffusers_jova.generate"
MODALITIES = ("video", "audio")  # as in diffusers_jova.transformer_jova
FITS = ("cover", "contain", "stretch")  # as in diffusers_jova.pictures
PARTS = ("video_caption", "audio_caption", "transcript")  # of a prompt
LARGEST_SEED = 2**32 - 1


class Adapter(NamedTuple):
    """A LoRA adapter: file, folder or hub name, and its scale."""

    source: str
    scale: float


def parse(argv: Sequence[str] | None = None) -> tuple[Parser, argparse.Namespace]:
    """Read the words, and refuse what cannot work."""
    parser = Parser(prog="jova generate", description="Make one clip of video with sound.")
    add_arguments(parser)
    return parser, parser.parse_checked(argv, check)


def add_arguments(parser: Parser) -> None:
    """Add what a person changes by hand; what is left out comes from the model."""
    add = parser.add_argument
    add_model_arguments(parser)
    add("--output", type=Path, required=True, help="file to write: .mp4, or .wav for sound alone")
    add("--prompt", help="what is to be seen, heard and said, in one text")
    for name, what in zip(PARTS, ("seen", "heard", "said"), strict=True):
        add(f"--{name.replace('_', '-')}", default="", help=f"what is to be {what}, in place of --prompt")
    add("--negative-prompt", help="what guidance moves away from")
    add("--image", type=Path, help="the first frame")
    add("--audio", type=Path, help="sound that drives the picture; with a longer --num-frames it goes on")
    add("--video", type=Path, help="video to add sound to; --num-frames cuts it, or lets it go on with its sound")
    add("--start", type=float, help="seconds to leave out at the beginning of --audio and --video")
    add("--duration", type=float, help="seconds to take of --audio and --video")
    add("--audio-track", type=int, help="sound track of the files, counted from 0; the default one if not given")
    add("--allow-truncated", action="store_true", help="take what is there of files that lack their end")
    add("--fit", choices=FITS, default=FITS[0], help="image or video of another shape: crop, fill with black, or bend")
    add("--modalities", nargs="+", choices=MODALITIES, default=list(MODALITIES), help="what to generate")
    add("--seed", type=int, help="the same seed makes the same clip; drawn if not given")
    add("--steps", type=int, help="denoising steps")
    add("--guidance-scale", type=float, help="how strongly the prompt guides; 1 is off")
    add("--audio-guidance-scale", type=float, help="the same for the sound alone")
    add("--height", type=int, help="pixels")
    add("--width", type=int, help="pixels")
    add("--num-frames", type=int, help="frames, 4k + 1")
    add("--frame-rate", type=float, help="frames per second")


def add_model_arguments(parser: Parser) -> None:
    """Add which model runs, with which adapters, where and how: what stays the same from clip to clip."""
    add = parser.add_argument
    add(
        "--model",
        type=find_model,
        default=find_model("jova-tiny"),
        help="folder of a saved pipeline, or its hub name owner/name; jova-tiny if not given",
    )
    add("--lora", type=parse_adapter, action="append", default=[], metavar="PATH[:SCALE]", help="may be repeated")
    add("--skip-unknown", action="store_true", help="leave out what adapters hold for other models, and say how much")
    add("--device", help="cuda, mps or cpu; the fastest there is if not given")
    add(
        "--dtype",
        type=dtype_name,
        choices=DTYPES,
        help="of transformer and text encoders; bfloat16 on a GPU, float32 elsewhere",
    )
    add("--cpu-offload", action="store_true", help="keep on the GPU only what is working")


def default_arguments() -> argparse.Namespace:
    """What the words are where none is given, for a caller that has no command line; `output` is a name alone."""
    parser = Parser()
    add_arguments(parser)
    return parser.parse_args(["--output", "clip.mp4"])


def parse_adapter(text: str) -> Adapter:
    """Split PATH[:SCALE]; a path may hold colons itself."""
    source, colon, scale = text.rpartition(":")
    try:
        return Adapter(source, float(scale)) if colon else Adapter(text, 1.0)
    except ValueError:
        return Adapter(text, 1.0)


def check(args: argparse.Namespace) -> None:
    """Refuse what shows to be wrong before anything is loaded."""
    check_output(args.output, has_video="video" in args.modalities)
    check_prompt(args)
    check_numbers(args)
    check_model(args)
    for option in ("image", "audio", "video"):
        path = getattr(args, option)
        if path is not None and not path.is_file():
            raise ValueError(f"`--{option}` must be an existing file, got {path}")


def check_model(args: argparse.Namespace) -> None:
    """Refuse a model or an adapter that is not there."""
    check_source("--model", args.model)
    if Path(args.model).exists():
        read_index(Path(args.model))
    if args.skip_unknown and not args.lora:
        raise ValueError("`--skip-unknown` must go with `--lora`, got no adapter")
    for adapter in args.lora:
        if not math.isfinite(adapter.scale):
            raise ValueError(f"`--lora` must have a finite scale, got {adapter.scale}; 1 is the adapter as trained")
        check_source("--lora", adapter.source)


def check_prompt(args: argparse.Namespace) -> None:
    """Insist on one prompt, whole or in its parts."""
    has_parts = any(getattr(args, name) for name in PARTS)
    if has_parts == (args.prompt is not None):
        raise ValueError(
            "the prompt must be given either by `--prompt` or by `--video-caption`, `--audio-caption` and "
            f"`--transcript`, got {'both' if has_parts else 'neither'}"
        )


def check_numbers(args: argparse.Namespace) -> None:
    """Refuse numbers that no model takes."""
    for option in ("steps", "height", "width", "num_frames"):
        value = getattr(args, option)
        if value is not None and value < 1:
            raise ValueError(f"`--{option.replace('_', '-')}` must be at least 1, got {value}")
    for option in ("start", "duration", "audio_track"):
        if getattr(args, option) is not None and args.audio is None and args.video is None:
            raise ValueError(f"`--{option.replace('_', '-')}` must be used with `--audio` or `--video`, got neither")
    if args.seed is not None and not 0 <= args.seed <= LARGEST_SEED:
        raise ValueError(f"`--seed` must be from 0 to {LARGEST_SEED}, got {args.seed}")


def check_output(path: Path, has_video: bool) -> None:
    """Refuse a file that cannot be written, before any work is done for it."""
    suffix = ".mp4" if has_video else ".wav"
    if path.suffix.lower() != suffix:
        raise ValueError(f"`--output` must end in {suffix} for this clip, got {path}; use {path.with_suffix(suffix)}")
    try:
        if path.is_dir():
            raise IsADirectoryError("it is a folder")
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(
            f"`--output` must be a file that can be written, got {path} ({reason}); choose another or make its folder"
        ) from error
