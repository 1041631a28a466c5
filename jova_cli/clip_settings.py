"""The settings of a clip as a file: a row of `jova generate --prompts` that makes it again."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .parser import one_line


MEDIA = ("image", "audio", "video")  # options that give files, of which the settings hold the names alone
# fmt: off
NAMES = (
    "video_caption", "audio_caption", "transcript", "prompt", "negative_prompt", *MEDIA, "seed", "num_frames", "width",
    "height", "frame_rate", "steps", "guidance_scale", "audio_guidance_scale", "fit", "modalities", "lora",
)
# fmt: on


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
    if args.num_frames is None:  # as given: a number lets the model go on where the files are shorter
        del values["num_frames"]
    path.write_text(json.dumps({"model": model, **values}) + "\n", encoding="utf-8")


def read_settings(path: Path) -> dict[str, Any]:
    """Read what `write_settings` wrote.

    Raises:
        ValueError: If the file holds something else.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"the settings must be a row of JSON, got {path.name} ({one_line(error)})") from error
    known = {"model", *NAMES}
    if not isinstance(values, dict) or not set(values) <= known:
        strangers = ", ".join(sorted(set(values) - known)) if isinstance(values, dict) else type(values).__name__
        raise ValueError(f"the settings must be those of a clip, got {strangers}; choose the file beside the clip")
    return values
