"""The settings of a clip as a file: a row of `jova generate --prompts` that makes it again."""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .json_text import parse_object


MEDIA = (
    "image",
    "last_image",
    "audio",
    "video",
    "reference_audio",
)  # options that give files, of which the settings hold the names alone
# fmt: off
NAMES = (
    "video_caption", "audio_caption", "transcript", "prompt", "negative_prompt", *MEDIA, "reference_transcript",
    "seed", "num_frames", "width", "height", "frame_rate", "steps", "guidance_scale", "audio_guidance_scale", "fit",
    "modalities", "lora",
)
LISTS = ("modalities", "lora")
FILLED = ("num_frames", "width", "height", "frame_rate", "steps", "guidance_scale", *LISTS, "fit")  # never null
NUMBERS = (
    "seed", "num_frames", "width", "height", "frame_rate", "steps", "guidance_scale", "audio_guidance_scale",
)
# fmt: on
ADVICE = "choose the file beside the clip"


def write_settings(path: Path, args: argparse.Namespace, model: str, adapters: Sequence[str]) -> None:
    """Write what makes a clip again, as a list of one row; given files are looked for beside it.

    Args:
        path: File to write.
        args: The words of `jova generate`.
        model: Its name.
        adapters: Names of those in `args.lora`, without the place where they lie.
    """
    values = {name: getattr(args, name) for name in NAMES}
    values |= {name: values[name] and values[name].name for name in MEDIA}
    scales = [scale for _, scale in args.lora]
    values["lora"] = [f"{name}:{scale!r}" for name, scale in zip(adapters, scales, strict=True) if scale]
    # as given: a number of frames lets the model go on where the files are shorter
    values = {name: value for name, value in values.items() if value is not None or name not in FILLED}
    path.write_text(json.dumps({"model": model, **values}) + "\n", encoding="utf-8")


def read_settings(path: Path) -> dict[str, Any]:
    """Read what `write_settings` wrote.

    Raises:
        ValueError: If the file holds something else.
    """
    values = parse_object(path.read_bytes(), "the settings of a clip", ADVICE)
    if strangers := ", ".join(sorted(set(values) - {"model", *NAMES})):
        raise ValueError(f"the settings must be those of a clip, got {strangers}; {ADVICE}")
    for name, value in values.items():
        check_kind(name, value)
    return values


def check_kind(name: str, value: Any) -> None:
    """Refuse a value that no clip has under this name."""
    if name in LISTS:
        rule, fits = "a list of texts", isinstance(value, list) and all(isinstance(one, str) for one in value)
    elif name in NUMBERS:
        rule, fits = "a number", type(value) is int or (type(value) is float and math.isfinite(value))
    else:
        rule, fits = "a text", isinstance(value, str)
    if not fits and not (value is None and name not in FILLED):
        got = "null" if value is None else value if isinstance(value, float) else type(value).__name__
        raise ValueError(f"`{name}` must be {rule}, got {got}; {ADVICE}")
