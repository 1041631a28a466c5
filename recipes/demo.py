"""Show what a model does: the work of `jova demo`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import torch
from PIL import Image

from diffusers_jova import JoVAPipeline, JoVAPrompt
from diffusers_jova.domain import PICTURES
from diffusers_jova.drawn.avatars import make_clip, without_look
from diffusers_jova.evaluation.contact_sheet import save_contact_sheet
from diffusers_jova.evaluation.viewing import enlarge
from diffusers_jova.generation_defaults import GenerationDefaults
from diffusers_jova.media import read_video, to_uint8_frames, write_video
from diffusers_jova.recipes.evidence import load_pipeline
from diffusers_jova.recipes.generation import FIRST_SEED
from jova_cli.demo import outputs, parse
from jova_cli.parser import Parser, one_line


SPEAKER_SEED, PORTRAIT_SEED = FIRST_SEED + 10, FIRST_SEED + 8  # of speakers that no training has seen
WORDS = ("hello", "coffee")


class Scene(NamedTuple):
    """What a clip is to show, in words and, where given, by its first frame."""

    name: str
    prompt: str | JoVAPrompt
    image: Image.Image | None = None


def avatar_scenes(defaults: GenerationDefaults) -> list[Scene]:
    """A speaker described in words, and another one in a portrait alone, of the size that the model makes."""
    scenes = []
    for name, seed in (("from text", SPEAKER_SEED), ("from text and a portrait", PORTRAIT_SEED)):
        drawn = make_clip(
            seed, subject="speaker", words=WORDS, height=max(defaults.height, 64), width=max(defaults.width, 64)
        )
        caption, image = drawn.video_caption, None
        if seed == PORTRAIT_SEED:
            caption, image = without_look(caption), Image.fromarray(drawn.frames[0])
        scenes.append(Scene(name, JoVAPrompt(caption, drawn.audio_caption, drawn.transcript), image))
    return scenes


def make(pipeline: JoVAPipeline, scene: Scene, seed: int, path: Path) -> None:
    """Make one clip and write it, large enough to see."""
    print(f"{path}: {scene.name}", flush=True)
    generator = torch.Generator().manual_seed(seed)
    made: Any = pipeline(scene.prompt, image=scene.image, generator=generator, output_type="np")
    frames = enlarge(to_uint8_frames(made.frames[0]))
    write_video(path, frames, made.frame_rate, made.audio[0], made.sampling_rate, provenance=made.record())


def check_lengths(path: Path, defaults: GenerationDefaults) -> None:
    """Insist that picture and sound of a file last as long as was asked for, to less than one frame."""
    wanted_s = defaults.num_frames / defaults.frame_rate
    with av.open(str(path)) as container:
        for stream in (container.streams.video[0], container.streams.audio[0]):
            duration_s = float((stream.duration or 0) * (stream.time_base or Fraction(1)))
            if abs(duration_s - wanted_s) >= 1 / defaults.frame_rate:
                raise ValueError(f"the {stream.type} of {path} must last {wanted_s:.3f} s, got {duration_s:.3f} s")


def main(argv: Sequence[str] | None = None) -> None:
    """Make the clips, check them, and put them on one sheet."""
    parser, args = parse(argv)
    parser.run(execute, args)


def execute(parser: Parser, args: argparse.Namespace) -> None:
    """Make what the words ask for, and say how long it took."""
    started = time.monotonic()
    try:
        make_demo(args)
    except (ValueError, FloatingPointError, OSError) as error:
        parser.error(one_line(error))
    *clips, sheet = map(str, outputs(args))
    print(f"wrote {', '.join(clips)} and {sheet} in {time.monotonic() - started:.0f} s")


def make_demo(args: argparse.Namespace) -> None:
    """Make the clips, check them, and put them on one sheet."""
    pipeline = load_pipeline(args.model)
    pipeline.told_strangers.add(PICTURES)  # the portrait is of a speaker that it knows
    scenes = avatar_scenes(pipeline.defaults)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    *paths, sheet = outputs(args)
    for seed, (scene, path) in enumerate(zip(scenes, paths, strict=True)):
        make(pipeline, scene, seed, path)
        check_lengths(path, pipeline.defaults)
    clips = [(clip.frames, clip.audio[0]) for clip in map(read_video, paths) if clip.audio is not None]
    save_contact_sheet(sheet, clips, [scene.name for scene in scenes])


if __name__ == "__main__":
    main()
