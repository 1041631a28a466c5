"""Shards of synthetic clips on disk, and one array at a time back from them.

Every process makes and writes whole shards, so that no picture travels between processes: 13 to 16 ms per clip and
core, 0.54 MB per clip.
"""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diffusers_jova.domain import words_of
from diffusers_jova.drawn.avatars import AUDIO_CAPTIONS, make_clip, write_shards
from diffusers_jova.drawn.portraits import HAIR_STYLES, PALETTE, Identity
from diffusers_jova.drawn.sounding_objects import SOUNDING_OBJECTS
from diffusers_jova.drawn.speech import WORDS
from diffusers_jova.origin import OriginError, keep_origin
from jova_cli.parser import Parser, one_line


CLIPS_PER_SHARD = 256
HELD_OUT_SEED = 10_000_000  # training seeds count from 0 and stay far below


def make_shards_aside(folder: Path, seeds: range, num_processes: int, speech: str) -> None:
    """Make the clips of `seeds` from a fresh interpreter: workers of this one would load all that trains.

    Raises:
        OriginError: As `make_shards`.
    """
    keep_origin(folder, full_options({"speech": speech}))
    numbers = ["--first-seed", str(seeds[0]), "--clips", str(len(seeds)), "--processes", str(num_processes)]
    command = [sys.executable, "-m", "diffusers_jova.drawn.corpus", str(folder), "--speech", speech, *numbers]
    subprocess.run(command, check=True)


def make_shards(folder: str | Path, seeds: Sequence[int], *, num_processes: int = 1, **options: Any) -> list[Path]:
    """Make the clips of `seeds` unless their shards are there.

    Args:
        folder: Where the shards lie.
        seeds: One clip each.
        num_processes: Processes that make clips.
        options: Those of `diffusers_jova.drawn.avatars.make_clip`.

    Returns:
        The shards, in the order of the seeds.

    Raises:
        OriginError: If the folder holds clips of other options; shards are named by their seeds alone.
    """
    keep_origin(Path(folder), full_options(options))
    chunks = [seeds[first : first + CLIPS_PER_SHARD] for first in range(0, len(seeds), CLIPS_PER_SHARD)]
    write = partial(write_shards, folder, clips_per_shard=CLIPS_PER_SHARD, **options)
    if num_processes <= 1:
        return [path for chunk in chunks for path in write(seeds=chunk)]
    with get_context("spawn").Pool(num_processes) as pool:
        return [path for paths in pool.imap(write, chunks) for path in paths]


def caption_words() -> list[str]:
    """All words of the captions and transcripts of the corpus, for the `domain` of a pipeline that learned from it."""
    first: dict[str, Any] = {part: colours[0] for part, colours in PALETTE.items()}
    speakers = [Identity(voice=voice, has_glasses=True, **first) for voice in AUDIO_CAPTIONS]
    speakers += [Identity(voice="man", hair_style=style, **first) for style in HAIR_STYLES]
    colours = [colour.name for part in PALETTE.values() for colour in part]
    things = [f"{thing.picture_caption} {thing.audio_caption}" for thing in SOUNDING_OBJECTS.values()]
    texts = [*(speaker.caption for speaker in speakers), *AUDIO_CAPTIONS.values(), *colours, *things, *WORDS]
    return sorted(words_of(" ".join(texts)))


def full_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of `diffusers_jova.drawn.avatars.make_clip`, with its defaults where nothing is given."""
    bound = inspect.signature(make_clip).bind(0, **options)
    bound.apply_defaults()
    return {name: value for name, value in bound.arguments.items() if name != "seed"}


def read_array(shards: Sequence[Path], name: str) -> npt.NDArray[Any]:
    """Read one field of `diffusers_jova.drawn.avatars.ClipBatch` of all clips; the first dimension counts clips."""
    parts = []
    for shard in shards:
        with np.load(shard) as arrays:
            parts.append(arrays[name])
    return np.concatenate(parts)


def main(argv: Sequence[str] | None = None) -> None:
    """Make clips unless they are there."""
    parser = Parser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the shards lie")
    parser.add_argument("--clips", type=int, required=True, help="how many clips")
    parser.add_argument("--first-seed", type=int, default=0, help="seed of the first clip; the others follow")
    parser.add_argument("--speech", choices=("formant", "espeak"), default="formant", help="who speaks")
    parser.add_argument("--processes", type=int, default=1, help="processes that make clips")
    args = parser.parse_args(argv)
    seeds = range(args.first_seed, args.first_seed + args.clips)
    try:
        shards = make_shards(args.folder, seeds, num_processes=args.processes, speech=args.speech)
    except OriginError as error:
        parser.error(one_line(error))
    print(f"{args.clips} clips in {len(shards)} shards in {args.folder}")


if __name__ == "__main__":
    main()
