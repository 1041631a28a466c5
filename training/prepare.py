"""Prepare a data set: encode video, sound and text of every clip once, into one safetensors record each.

A rerun skips what is done. A broken or unsuitable clip is reported and left out. A record is complete or not there.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from diffusers_jova.cli import Parser, choose_device, one_line
from diffusers_jova.media import exact_frame_rate
from diffusers_jova.shipped import model_folder
from diffusers_jova.training.data.clips import (
    Bucket,
    ClipSettings,
)
from diffusers_jova.training.data.encoder import fingerprint_model, model_defaults, video_factors
from diffusers_jova.training.data.manifest import Sample, read_samples
from diffusers_jova.training.data.preparation import DTYPES, Preparer, PrepareSettings, prepare
from diffusers_jova.training.data.summary import describe, describe_whole_captions, find_strangers


def check_detector(samples: Sequence[Sample], settings: PrepareSettings) -> None:
    """Fail before the work starts if a clip needs a detector and there is none."""
    if any(sample.video is not None and sample.mouth_boxes is None for sample in samples):
        settings.make_detector()


def add_clip_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that decide how files become clips."""
    parser.add_argument(
        "source", type=Path, help="manifest (.jsonl, .csv) or folder of clips with captions beside them"
    )
    parser.add_argument(
        "--model", type=model_folder, required=True, help="folder of a saved JoVAPipeline, or jova-tiny"
    )
    parser.add_argument("--buckets", nargs="+", help="sizes FRAMESxHEIGHTxWIDTH; the model's own by default")
    parser.add_argument("--frame-rate", type=float, help="frames per second; the model's own by default")
    parser.add_argument("--cut", choices=("first", "all"), default="first", help="beginning of a file, or all of it")
    parser.add_argument("--upscale", action="store_true", help="accept files smaller than their bucket")
    parser.add_argument("--loudness-lufs", type=float, help="normalise the sound to this loudness, such as -23")
    parser.add_argument("--require-mouth", action="store_true", help="skip clips with a mouth in less than half of it")
    parser.add_argument("--require-sound", action="store_true", help="skip clips without sound")
    parser.add_argument("--min-sync", type=float, help="skip clips whose mouth and sound correlate less, such as 0.5")
    parser.add_argument("--no-mouth", action="store_true", help="look for no mouths, as for a set without speakers")
    parser.add_argument("--face-landmarker-path", type=Path, help="MediaPipe's face_landmarker.task, to find mouths")


def clip_settings(args: argparse.Namespace) -> ClipSettings:
    """Build the settings of `add_clip_arguments`; what is not given comes from the model.

    Raises:
        ValueError: If a bucket does not fit the model, or the frame rate is no rate.
    """
    _, temporal_factor, size_multiple = video_factors(args.model)
    defaults = model_defaults(args.model)
    frame_rate = defaults.frame_rate if args.frame_rate is None else args.frame_rate
    exact_frame_rate(frame_rate)
    own = Bucket(defaults.num_frames, defaults.height, defaults.width)
    buckets = tuple(Bucket.parse(text) for text in args.buckets) if args.buckets else (own,)
    for bucket in buckets:
        bucket.check(temporal_factor, size_multiple)
    return ClipSettings(
        buckets=buckets,
        frame_rate=frame_rate,
        cut=args.cut,
        upscale=args.upscale,
        loudness_lufs=args.loudness_lufs,
        require_mouth=args.require_mouth,
        require_sound=args.require_sound,
        min_sync=args.min_sync,
    )


def check_work(args: argparse.Namespace) -> None:
    """Refuse a folder, a model, a device or a number that cannot work before any work is done."""
    if args.output.exists() and not args.output.is_dir():
        raise ValueError(f"`output` must be a folder, got the file `{args.output}`; name a folder")
    if args.whisper is not None and not args.whisper.is_dir():
        raise ValueError(f"`--whisper` must be the folder of a model, got `{args.whisper}`; download one first")
    if args.num_processes < 1:
        raise ValueError(f"`--num-processes` must be at least 1, got {args.num_processes}")
    choose_device(args.device)


def main(argv: Sequence[str] | None = None) -> None:
    """Prepare a data set."""
    parser = Parser(description=__doc__)
    add_clip_arguments(parser)
    parser.add_argument("output", type=Path, help="folder for the records; what is done there is not done again")
    parser.add_argument("--whisper", type=Path, help="folder of a speech recognition model, for missing transcripts")
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="bf16", help="number format of the records")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="for the encoders")
    parser.add_argument("--num-processes", type=int, default=1, help="processes (or Ray actors) to share the work")
    parser.add_argument("--ray", action="store_true", help="use a Ray cluster, or start a local one")
    args = parser.parse_args(argv)
    try:
        settings = PrepareSettings(
            clips=clip_settings(args),
            dtype=args.dtype,
            mouths=not args.no_mouth,
            face_landmarker=args.face_landmarker_path,
            whisper=args.whisper,
        )
        samples = read_samples(args.source, captions_required=args.whisper is None)
        check_detector(samples, settings)
        check_work(args)
        preparer = Preparer(args.model, args.output, settings, fingerprint_model(args.model), args.device)
        outcomes = prepare(samples, preparer, args.num_processes, args.ray)
    except torch.OutOfMemoryError as error:
        parser.error(
            f"a clip must fit into the GPU's memory, got {one_line(error)!r}; use smaller `--buckets` or fewer "
            "`--num-processes` per GPU, what is done stays done"
        )
    except (ValueError, OSError, ImportError) as error:
        parser.error(one_line(error))
    heard = "" if args.whisper is None else describe_whole_captions(samples)
    print(heard + describe(outcomes, find_strangers(samples, args.output), tells_mouths=settings.mouths))
    if not any(outcome.num_records for outcome in outcomes):
        parser.exit(1, f"no clip of `{args.source}` was kept\n")


if __name__ == "__main__":
    main()
