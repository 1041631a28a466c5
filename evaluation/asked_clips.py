"""What clips were asked for by a benchmark's files, for clips that anybody made, by their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from diffusers_jova.evaluation.clip_list import ListedClip, as_asked, plain_name
from jova_cli.benchmark_lists import FORMATS
from jova_cli.parser import one_line
from jova_cli.tables import some


class Asked(NamedTuple):
    """The prompts of a benchmark.

    Attributes:
        rows: Cells of `jova generate --prompts`, by the name of the clip without its suffix.
        refused: Why others cannot be read.
    """

    rows: Mapping[str, Mapping[str, Any]]
    refused: Sequence[str] = ()


def read_asked(path: Path, benchmark: str) -> Asked:
    """Read the prompts of a benchmark, of `benchmark_lists.FORMATS`.

    Raises:
        ValueError: If the files as a whole are not those of the benchmark.
    """
    rows: dict[str, Mapping[str, Any]] = {}
    refused = []
    for line, read in FORMATS[benchmark](path):
        try:
            row = read()
            if (name := plain_name(Path(row["output"]).stem)) in rows:
                raise ValueError(f"another prompt for {name}, which is left out")
            rows[name] = row
        except (ValueError, OSError) as error:
            refused.append(f"{path}, line {line}: {one_line(error)}")
    return Asked(rows, refused)


def ask(clips: Sequence[ListedClip], asked: Asked) -> list[ListedClip]:
    """Clips with what a benchmark asked for in place of what stands beside them; one without a prompt as it is."""
    own = [asked.rows.get(_asked_name(clip)) for clip in clips]
    return [
        clip if row is None or clip.fault else as_asked(clip.name, _alone(clip), row)
        for clip, row in zip(clips, own, strict=True)
    ]


def describe_asked(clips: Sequence[ListedClip], asked: Asked) -> str:
    """Say which prompts have no clip, which clips no prompt, and which prompts cannot be read; a line each."""
    made = set(map(_asked_name, clips))
    strange = [clip.name for clip in clips if not clip.fault and _asked_name(clip) not in asked.rows]
    wanting = [name for name in asked.rows if name not in made]
    lines = list(asked.refused)
    lines += [f"{len(wanting)} of {len(asked.rows)} prompts have no clip: {some(wanting)}"] if wanting else []
    lines += [f"{len(strange)} of {len(clips)} clips have no prompt: {some(strange)}"] if strange else []
    return "".join(f"{line}\n" for line in lines)


def _asked_name(clip: ListedClip) -> str:
    """Under which a benchmark asks for a clip."""
    return plain_name(clip.sample.source.stem)


def _alone(clip: ListedClip) -> Any:
    """The files of a clip without what stands beside it."""
    words = dict.fromkeys(("caption", "video_caption", "audio_caption", "transcript"), "")
    return replace(clip.sample, **words, subtitles=None, reference_image=None)  # type: ignore[arg-type]
