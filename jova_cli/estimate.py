"""The words of `jova estimate`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from .cache_words import cache_settings
from .generate import check_adapters, check_fits, parse_adapter
from .guidance_words import guidance_settings
from .model_clips import MODALITIES
from .model_info import read_index
from .number_options import MAX_RATE_HZ, MEMORY_GB, check_between, check_count
from .parser import DTYPES, Parser, dtype_name
from .shipped import check_source, find_model


WORK = "diffusers_jova.estimate"  # torch runs the model on tensors without values: no formula could keep up with it
DEVICES = ("cuda", "cpu")
GIVEN = ("image", "last_image", "keyframes", "audio", "video", "reference_audio")
FASTEST_TFLOPS = 1e6
LONGEST_REFERENCE_S = 3600.0
LARGEST_SCALE = 1e6
DESCRIPTION = """Print what a clip takes, before anything is loaded: memory and operations of every stage, and what
each way to use the memory holds.

    jova estimate MODEL --num-frames 81 --height 480 --width 832
    jova estimate MODEL --memory 24
    jova estimate MODEL --rate 400

The ways stand from the fastest to the smallest: all weights on the device; text encoders layer by layer; one component
at a time; these again with the transformer in float8; transformer and text encoders layer by layer; that in float8.
Each is tried as it is, then with the predictions of guidance one after the other, then with the video VAE in tiles,
then with both. `jova generate --memory GB` and `pipe.fit_memory(GB)` take the first that fits. A GB is 10^9 bytes, of
which a card of 24 GB has 25.8: the rest is for what is not counted, the context of CUDA and what kernels allocate
within.
Weights in 4 or 8 bits are chosen when a pipeline is loaded (`quantization_config`), not here."""


def parse(argv: Sequence[str] | None = None) -> tuple[Parser, argparse.Namespace]:
    """Read the words, and refuse what cannot work."""
    parser = Parser(prog="jova estimate", description=DESCRIPTION)
    add = parser.add_argument
    add("model", type=find_model, help="folder of a saved pipeline, its hub name owner/name, or jova-tiny")
    add(
        "--lora", type=parse_adapter, action="append", default=[], metavar="PATH[:SCALE]", help="as of `jova generate`"
    )
    add("--memory", type=float, metavar="GB", help="of the device: print the first way that fits, or refuse the clip")
    add("--device", choices=DEVICES, default=DEVICES[0], help="that is meant, cuda if not given; it need not be here")
    add("--dtype", type=dtype_name, choices=DTYPES, help="of all but codecs; if not given, bfloat16 on cuda")
    add("--cache", metavar="NAME=VALUE[,...]", help="as of `jova generate`")
    add("--rate", type=float, metavar="TFLOPS", help="10^12 operations per second that the device does, to tell times")
    add("--measure-rate", action="store_true", help="or measure them, by a product of matrices on the device at hand")
    add("--modalities", nargs="+", choices=MODALITIES, default=list(MODALITIES), help="what to generate")
    add("--given", nargs="+", choices=GIVEN, default=[], help="media that are given, as long as the clip")
    add("--reference-s", type=float, default=10.0, help="seconds of a given reference_audio; 10 if not given")
    add("--max-sequence-length", type=int, help="tokens of a prompt; the model's own if not given")
    add("--height", type=int, help="pixels; as all that follows, the model's own if not given")
    add("--width", type=int, help="pixels")
    add("--num-frames", type=int, help="frames, 4k + 1")
    add("--frame-rate", type=float, help="frames per second")
    add("--steps", type=int, help="denoising steps")
    add("--guidance-scale", type=float, help="how strongly the prompt guides; 1 is off")
    add("--audio-guidance-scale", type=float, help="the same for the sound alone")
    add("--guidance", metavar="NAME=VALUE[,...]", help="as of `jova generate`")
    add("--batch-size", type=int, default=1, help="clips at a time")
    return parser, parser.parse_checked(argv, check)


def check(args: argparse.Namespace) -> None:
    """Refuse a model that is nowhere, and numbers that mean nothing."""
    check_source("model", args.model)
    check_adapters(args.lora)
    check_between("--memory", args.memory, *MEMORY_GB, "24, say")
    check_between("--rate", args.rate, 1 / FASTEST_TFLOPS, FASTEST_TFLOPS, "400, say")
    check_between("--frame-rate", args.frame_rate, 1 / MAX_RATE_HZ, MAX_RATE_HZ, "24, say")
    check_between("--reference-s", args.reference_s, 0, LONGEST_REFERENCE_S, "10, say")
    if args.rate is not None and args.measure_rate:
        raise ValueError("`--rate` must be given without `--measure-rate`, got both; leave one out")
    for option in ("guidance_scale", "audio_guidance_scale"):
        check_between(
            f"--{option.replace('_', '-')}", getattr(args, option), -LARGEST_SCALE, LARGEST_SCALE, "1 for none"
        )
    for option in ("steps", "height", "width", "num_frames", "batch_size", "max_sequence_length"):
        if getattr(args, option) is not None:
            check_count(f"--{option.replace('_', '-')}", getattr(args, option))
    guidance_settings(args.guidance)
    if args.cache is not None:
        cache_settings(args.cache)
    if not set(args.modalities) - set(args.given):
        raise ValueError(
            f"`--given` must leave something to generate, got {' and '.join(args.given)} for `--modalities "
            f"{' '.join(args.modalities)}`; leave one out"
        )
    if Path(args.model).exists():
        check_call(args)


def check_call(args: argparse.Namespace) -> None:
    """Refuse a folder that holds no model, and a clip that its model does not make."""
    read_index(Path(args.model))
    check_fits(args)
