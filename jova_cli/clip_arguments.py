"""The words that decide how files become clips, for `jova prepare` and `jova preview`."""

import argparse
from pathlib import Path

from .clip_limits import Bucket
from .file_arguments import FITS, add_file_arguments, check_file_arguments
from .given_paths import check_file, check_folder, check_output_folder, check_readable
from .model_clips import config_of, read_geometry
from .model_info import read_index
from .number_options import MAX_RATE_HZ, check_between
from .optional_packages import check_installed, of_extra
from .parser import Parser
from .room_modules import import_alone
from .shipped import TRAINING, model_folder


MANIFEST = TRAINING / "data" / "manifest.py"
MIN_LUFS = -70.0  # what ITU-R BS.1770 takes for silence
CUTS = ("first", "all", "pauses")


def add_clip_arguments(parser: Parser) -> None:
    """Add source, model and what makes clips of the files."""
    add = parser.add_argument
    add("source", type=Path, help="manifest (.jsonl, .csv) or folder of clips and still images, captions beside them")
    add("--model", type=model_folder, required=True, help="folder of a saved JoVAPipeline, or jova-tiny")
    add("--buckets", nargs="+", help="sizes FRAMESxHEIGHTxWIDTH; the model's own by default; 1xHxW for stills")
    add("--frame-rate", type=float, help="frames per second; the model's own by default")
    add(
        "--cut",
        choices=CUTS,
        default="first",
        help="one clip of a file, all, or those between pauses; between words where their times are known",
    )
    add_file_arguments(parser)
    add("--centre-crop", action="store_true", help="crop at the centre, wherever the face is")
    add("--whisper", type=Path, help="folder of a speech recognition model, where nobody wrote what is said")
    add("--upscale", action="store_true", help="accept files smaller than their bucket")
    add("--loudness-lufs", type=float, help="normalise the sound to this loudness, such as -23")
    add("--require-mouth", action="store_true", help="skip clips with a mouth in less than half of it")
    add("--require-sound", action="store_true", help="skip clips without sound")
    add("--require-words", action="store_true", help="skip clips of which nobody wrote, or heard, what is said")
    add("--min-sync", type=float, help="skip clips whose mouth and sound correlate less, such as 0.5")
    add(
        "--no-mouth",
        action="store_true",
        help="look for no mouths, as in a set without speakers; given boxes are kept",
    )
    add("--face-landmarker-path", type=Path, help="MediaPipe's face_landmarker.task, to find mouths")


def count_files(folder: Path, pattern: str) -> int:
    """Number of files in a folder, which may not be there."""
    return sum(1 for _ in folder.glob(pattern))


def check_data_set(args: argparse.Namespace, *, captions_required: bool) -> None:
    """Refuse a set of clips that cannot be read.

    Args:
        args: The words.
        captions_required: Refuse a set in which no clip has a caption.
    """
    import_alone(MANIFEST).read_samples(args.source, captions_required=captions_required)


def check_clip_arguments(args: argparse.Namespace) -> None:
    """Refuse what is not there or cannot be read, and numbers that no clip can have."""
    check_file_arguments(args.audio_track)
    if args.centre_crop and args.fit != FITS[0]:
        raise ValueError(
            f"`--centre-crop` must go with `--fit {FITS[0]}`, got `--fit {args.fit}`, which crops nothing"
        )
    check_between("--frame-rate", args.frame_rate, 1 / MAX_RATE_HZ, MAX_RATE_HZ, "24, say")
    check_between("--loudness-lufs", args.loudness_lufs, MIN_LUFS, 0, "-23, say")
    check_between("--min-sync", args.min_sync, -1, 1, "0.5, say")
    check_readable("source", args.source, "give a manifest or a folder of clips")
    read_index(args.model)
    check_loudness(args)
    check_buckets(args)
    if args.whisper is not None:
        check_folder("--whisper", args.whisper, "download a model first")
    if args.face_landmarker_path is not None:
        check_file("--face-landmarker-path", args.face_landmarker_path)
        check_installed("--face-landmarker-path", "mediapipe", "run `pip install mediapipe`")
    check_output_folder("output", args.output)


def check_loudness(args: argparse.Namespace) -> None:
    """Refuse a loudness that the model would undo, or that nothing measures."""
    peak = config_of(args.model, "audio_vae").get("peak")
    if args.loudness_lufs is not None and peak is not None:
        raise ValueError(
            "`--loudness-lufs` must be left out for a model whose `audio_vae` brings every sound to a peak of "
            f"{peak:g}, got {args.loudness_lufs:g}; leave it out"
        )
    if args.loudness_lufs is not None:
        check_installed("--loudness-lufs", "pyloudnorm", of_extra("loudness"))


def check_buckets(args: argparse.Namespace) -> None:
    """Refuse sizes that the model cannot take."""
    geometry = read_geometry(args.model)
    for bucket in map(Bucket.parse, args.buckets or ()):
        if geometry is not None:  # else the work says what the model lacks
            bucket.check(geometry.temporal_factor, geometry.spatial_factor * geometry.patch_size[-1])
