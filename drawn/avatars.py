"""The synthetic corpus: talking cartoon speakers and sounding objects, with exact mouth boxes and captions.

Frame f shows the interval from f / frame_rate to (f + 1) / frame_rate, so its picture stands for the instant
(f + 0.5) / frame_rate: the clock by which the transformer places video latents. Everything follows from the seed.
Regenerating a clip costs about as much as reading it, so training draws clips by `iterate_clips` and stores none;
`python -m diffusers_jova.drawn.avatars FOLDER` writes mp4 files and a manifest.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from diffusers_jova.drawn.portraits import PALETTE, Canvas, Colour, Identity, Pose, draw_speaker, random_identity
from diffusers_jova.drawn.sounding_objects import SOUNDING_OBJECTS, soundtrack, states
from diffusers_jova.drawn.speech import WORDS, Utterance, speak
from diffusers_jova.drawn.visemes import mouth_track


CLIPS_PER_CHUNK = 16
SPEAKER_SHARE = 0.85  # the rest are sounding objects
SAMPLE_MULTIPLE = 512  # samples per audio latent
LOOK = re.compile(r" with [^.]* shirt,| on a [^.]* background")  # what a video caption says of colours and clothes
AUDIO_CAPTIONS = {
    "man": "a male voice speaking",
    "woman": "a female voice speaking",
    "child": "a child's voice speaking",
}


@dataclass(frozen=True, kw_only=True)
class AvatarClip:
    """One clip with everything that is known about it.

    Attributes:
        frames: uint8 [F, H, W, 3].
        waveform: float32 [samples] in [-1, 1].
        mouth_boxes: float32 [1, F, 4], xyxy in pixels, NaN where there is no speaker.
        aperture: float32 [F], how far the mouth is open, or the visible state of a sounding object; 0..1.
        video_caption: What is seen.
        audio_caption: What is heard.
        transcript: What is said; empty for sounding objects.
        subject: "speaker" or a key of `SOUNDING_OBJECTS`.
        background: The colour behind the subject.
        identity: Who speaks; `None` for sounding objects.
        frame_rate: Frames per second.
        sampling_rate: Of the waveform, in Hz.
        seed: What the clip was made from.
    """

    frames: npt.NDArray[np.uint8]
    waveform: npt.NDArray[np.float32]
    mouth_boxes: npt.NDArray[np.float32]
    aperture: npt.NDArray[np.float32]
    video_caption: str
    audio_caption: str
    transcript: str
    subject: str
    background: Colour
    identity: Identity | None
    frame_rate: float
    sampling_rate: int
    seed: int

    @property
    def caption(self) -> str:
        """The three captions in one prompt."""
        speech = f"<S>{self.transcript}<E> " if self.transcript else ""
        return f"{self.video_caption} {speech}<AUDCAP>{self.audio_caption}<ENDAUDCAP>"


def without_look(caption: str) -> str:
    """A caption that leaves colours and clothes to a portrait: "A cartoon man speaks.", and what is said and heard."""
    return LOOK.sub("", caption)


class Geometry(NamedTuple):
    """Size of a clip in space and time."""

    num_frames: int = 33
    frame_rate: float = 16
    height: int = 64
    width: int = 64
    sampling_rate: int = 16000

    @property
    def num_samples(self) -> int:
        """Samples of sound: as long as the picture, cut to whole audio latents."""
        exact = self.num_frames / self.frame_rate * self.sampling_rate
        return int(exact) // SAMPLE_MULTIPLE * SAMPLE_MULTIPLE

    @property
    def duration_s(self) -> float:
        """Duration of the sound."""
        return self.num_samples / self.sampling_rate


def make_clip(
    seed: int,
    *,
    speech: str = "formant",
    num_frames: int = 33,
    frame_rate: float = 16,
    height: int = 64,
    width: int = 64,
    sampling_rate: int = 16000,
    subject: str | None = None,
    identity: Identity | None = None,
    words: Sequence[str] | None = None,
    motion: float = 1.0,
) -> AvatarClip:
    """Make one clip.

    Args:
        seed: Everything that the other arguments leave open follows from it.
        speech: "formant" (built in) or "espeak" (needs the extra `espeak`).
        num_frames: Frames of the clip.
        frame_rate: Frames per second.
        height: In pixels, at least 64.
        width: In pixels, at least 64.
        sampling_rate: Of the sound, in Hz.
        subject: "speaker" or a key of `SOUNDING_OBJECTS`; drawn from the seed if `None`.
        identity: Who speaks; drawn from the palette if `None`.
        words: What is said; two or three words if `None`.
        motion: Scale of the head's movement; 0 holds the head still.

    Raises:
        ValueError: If an argument is out of range, or a word is not in the lexicon of the formant voice.
    """
    geometry = Geometry(num_frames, frame_rate, height, width, sampling_rate)
    _check_inputs(geometry, speech, subject)
    choice, scene, voice = (np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(3))
    drawn = _random_subject(choice)
    if subject is None:
        subject = "speaker" if identity is not None or words is not None else drawn
    if subject != "speaker":
        return _object_clip(seed, subject, geometry, scene)
    identity = random_identity(scene) if identity is None else identity
    words = _random_words(choice) if words is None else words
    utterance = _utterance(words, identity.voice, speech, geometry, voice)
    return _speaker_clip(seed, identity, words, utterance, geometry, motion, scene)


def _check_inputs(geometry: Geometry, speech: str, subject: str | None) -> None:
    if min(geometry.height, geometry.width) < 64:
        raise ValueError(
            f"`height` and `width` must be at least 64, got {geometry.height} and {geometry.width}; use 64"
        )
    if geometry.num_samples == 0:
        raise ValueError(
            f"`num_frames` must last at least {SAMPLE_MULTIPLE} samples, got {geometry.num_frames}; use more frames"
        )
    if speech not in ("formant", "espeak"):
        raise ValueError(f'`speech` must be "formant" or "espeak", got {speech!r}')
    if subject not in (None, "speaker", *SOUNDING_OBJECTS):
        raise ValueError(f"`subject` must be one of speaker, {', '.join(SOUNDING_OBJECTS)}, got {subject!r}")


def _random_subject(generator: np.random.Generator) -> str:
    thing = tuple(SOUNDING_OBJECTS)[generator.integers(len(SOUNDING_OBJECTS))]
    return "speaker" if generator.random() < SPEAKER_SHARE else thing


def _random_words(generator: np.random.Generator) -> tuple[str, ...]:
    return tuple(WORDS[index] for index in generator.integers(len(WORDS), size=generator.integers(2, 4)))


def _utterance(
    words: Sequence[str], voice: str, speech: str, geometry: Geometry, generator: np.random.Generator
) -> Utterance:
    limit_s = geometry.duration_s - 0.2
    if speech == "formant":
        return speak(words, voice, generator, sampling_rate=geometry.sampling_rate, max_duration_s=limit_s)
    from diffusers_jova.drawn import espeak  # optional: needs a package that the rest does without

    return espeak.speak(words, voice, generator, sampling_rate=geometry.sampling_rate, max_duration_s=limit_s)


# 1. Speakers


def _speaker_clip(
    seed: int,
    identity: Identity,
    words: Sequence[str],
    utterance: Utterance,
    geometry: Geometry,
    motion: float,
    generator: np.random.Generator,
) -> AvatarClip:
    room = geometry.num_samples - len(utterance.waveform)
    onset = int(generator.uniform(0.05, 0.95) * max(room, 0))
    waveform = np.zeros(geometry.num_samples, np.float32)
    waveform[onset : onset + len(utterance.waveform)] = utterance.waveform[: geometry.num_samples - onset]
    onset_s = onset / geometry.sampling_rate
    mouth = mouth_track(utterance.phones, onset_s, geometry.num_frames, geometry.frame_rate)
    frames, boxes = _draw_frames(identity, mouth, _poses(geometry, motion, generator), geometry)
    return AvatarClip(
        frames=frames,
        waveform=waveform,
        mouth_boxes=boxes,
        aperture=mouth[:, 0].astype(np.float32),
        video_caption=identity.caption,
        audio_caption=AUDIO_CAPTIONS[identity.voice],
        transcript=" ".join(words),
        subject="speaker",
        background=identity.background,
        identity=identity,
        frame_rate=geometry.frame_rate,
        sampling_rate=geometry.sampling_rate,
        seed=seed,
    )


def _draw_frames(
    identity: Identity, mouth: npt.NDArray[np.float64], poses: list[Pose], geometry: Geometry
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    frames = np.empty((geometry.num_frames, geometry.height, geometry.width, 3), np.uint8)
    boxes = np.empty((1, geometry.num_frames, 4), np.float32)
    for index, pose in enumerate(poses):
        canvas = Canvas(geometry.height, geometry.width, identity.background.rgb)
        boxes[0, index] = draw_speaker(canvas, identity, pose, mouth[index])
        frames[index] = canvas.finished()
    return frames, boxes


def _poses(geometry: Geometry, motion: float, generator: np.random.Generator) -> list[Pose]:
    """A slowly moving head, wandering eyes, and a blink now and then."""
    num_knots = 3 + int(geometry.duration_s / 0.7)
    knots = generator.uniform(-1, 1, (num_knots, 5)) * (2.6 * motion, 1.3 * motion, motion, 1.0, 1.0)
    times = np.linspace(0, num_knots - 1, geometry.num_frames)
    whole = np.minimum(times.astype(int), num_knots - 2)
    ease = 0.5 - 0.5 * np.cos(np.pi * (times - whole))
    tracks = knots[whole] + ease[:, None] * (knots[whole + 1] - knots[whole])
    blinks_s = generator.uniform(0, 2.0) + np.arange(0, geometry.duration_s, 2.0)
    middles = (np.arange(geometry.num_frames) + 0.5) / geometry.frame_rate
    closeness = np.abs(middles[:, None] - blinks_s[None]).min(1)
    eyes_open = (closeness > 0.07).astype(float)
    return [Pose(*row) for row in np.column_stack([tracks, eyes_open]).tolist()]


# 2. Sounding objects


def _object_clip(seed: int, subject: str, geometry: Geometry, generator: np.random.Generator) -> AvatarClip:
    thing = SOUNDING_OBJECTS[subject]
    options = PALETTE["background"]
    background = options[generator.integers(len(options))]
    events_s = thing.schedule(geometry.duration_s, generator)
    state = states(thing, events_s, geometry.num_frames, geometry.frame_rate)
    frames = np.empty((geometry.num_frames, geometry.height, geometry.width, 3), np.uint8)
    for index, value in enumerate(state.tolist()):
        canvas = Canvas(geometry.height, geometry.width, background.rgb)
        thing.draw(canvas, value, (index + 0.5) / geometry.frame_rate)
        frames[index] = canvas.finished()
    return AvatarClip(
        frames=frames,
        waveform=soundtrack(thing, events_s, geometry.num_samples, geometry.sampling_rate, generator),
        mouth_boxes=np.full((1, geometry.num_frames, 4), np.nan, np.float32),
        aperture=state.astype(np.float32),
        video_caption=f"{thing.picture_caption} on a {background.name} background.",
        audio_caption=thing.audio_caption,
        transcript="",
        subject=subject,
        background=background,
        identity=None,
        frame_rate=geometry.frame_rate,
        sampling_rate=geometry.sampling_rate,
        seed=seed,
    )


# 3. Many clips


class ClipBatch(NamedTuple):
    """Clips of one geometry, stacked: frames [N, F, H, W, 3], waveforms [N, samples], boxes [N, 1, F, 4], [N, F]."""

    frames: npt.NDArray[np.uint8]
    waveforms: npt.NDArray[np.float32]
    mouth_boxes: npt.NDArray[np.float32]
    aperture: npt.NDArray[np.float32]
    captions: list[str]


def stack_clips(clips: Iterable[AvatarClip]) -> ClipBatch:
    """Stack clips of one geometry into arrays."""
    clips = list(clips)
    return ClipBatch(
        frames=np.stack([clip.frames for clip in clips]),
        waveforms=np.stack([clip.waveform for clip in clips]),
        mouth_boxes=np.stack([clip.mouth_boxes for clip in clips]),
        aperture=np.stack([clip.aperture for clip in clips]),
        captions=[clip.caption for clip in clips],
    )


def iterate_clips(seeds: Iterable[int], *, num_processes: int = 1, **options: Any) -> Iterator[AvatarClip]:
    """Clips of `seeds`, in order, made by several processes; `options` are those of `make_clip`.

    Processes run ahead of the consumer by a few chunks only, so that any number of clips fits in memory. They start
    afresh: a script that asks for more than one needs the usual `if __name__ == "__main__":`.
    """
    if num_processes <= 1:
        yield from (make_clip(seed, **options) for seed in seeds)
        return
    remaining = iter(seeds)
    chunks = iter(lambda: tuple(islice(remaining, CLIPS_PER_CHUNK)), ())
    with ProcessPoolExecutor(num_processes, mp_context=get_context("spawn")) as pool:
        work = (pool.submit(_make_chunk, chunk, options) for chunk in chunks)
        ahead = deque(islice(work, 3 * num_processes))
        while ahead:
            yield from ahead.popleft().result()
            ahead.extend(islice(work, 1))


def _make_chunk(seeds: Sequence[int], options: dict[str, Any]) -> list[AvatarClip]:
    return [make_clip(seed, **options) for seed in seeds]


def write_shards(
    folder: str | Path, seeds: Sequence[int], *, clips_per_shard: int = 256, num_processes: int = 1, **options: Any
) -> list[Path]:
    """Write clips as uncompressed `.npz` files of `ClipBatch` arrays; `options` are those of `make_clip`.

    Shards that are there already are kept: choose a new folder for other options.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for first in range(0, len(seeds), clips_per_shard):
        some = seeds[first : first + clips_per_shard]
        path = folder / f"seeds-{some[0]:07d}-{some[-1]:07d}.npz"
        if not path.exists():
            batch = stack_clips(iterate_clips(some, num_processes=num_processes, **options))
            unfinished = path.with_suffix(".partial.npz")
            np.savez(unfinished, **batch._asdict())
            unfinished.replace(path)
        paths.append(path)
    return paths


def read_shard(path: str | Path) -> ClipBatch:
    """Read what `write_shards` wrote."""
    with np.load(path) as arrays:
        contents = {name: arrays[name] for name in ClipBatch._fields}
    return ClipBatch(**{**contents, "captions": contents["captions"].tolist()})


def write_corpus(folder: str | Path, seeds: Iterable[int], *, num_processes: int = 1, **options: Any) -> Path:
    """Write clips as mp4 files with a manifest; `options` are those of `make_clip`.

    Returns:
        The path of the manifest: one JSON object per line, with the names of the columns that `prepare` reads.
    """
    from diffusers_jova.media import write_video

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for clip in iterate_clips(seeds, num_processes=num_processes, **options):
        name = f"{clip.subject}-{clip.seed:07d}"
        write_video(folder / f"{name}.mp4", clip.frames, clip.frame_rate, clip.waveform, clip.sampling_rate)
        rows.append(json.dumps({"video": f"{name}.mp4", **_sidecar(clip)}))
    manifest = folder / "manifest.jsonl"
    manifest.write_text("\n".join(rows) + "\n")
    return manifest


def _sidecar(clip: AvatarClip) -> dict[str, Any]:
    """Captions and mouth boxes for JSON: boxes to a hundredth of a pixel, `None` where there is no mouth."""
    boxes = [
        [None if np.isnan(box).any() else [round(value, 2) for value in box.tolist()] for box in person]
        for person in clip.mouth_boxes
    ]
    return {
        "video_caption": clip.video_caption,
        "audio_caption": clip.audio_caption,
        "transcript": clip.transcript,
        "mouth_boxes": boxes,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Write a folder of clips."""
    parser = argparse.ArgumentParser(
        description="Write drawn clips as mp4 files with a manifest: each seed another speaker, or a sound's source."
    )
    parser.add_argument("folder", type=Path, help="folder to write to")
    parser.add_argument("--clips", type=int, default=64, help="how many clips")
    parser.add_argument("--first-seed", type=int, default=0, help="seed of the first clip; the others follow")
    parser.add_argument("--size", type=int, default=64, help="height and width in pixels")
    parser.add_argument("--speech", choices=("formant", "espeak"), default="formant", help="who speaks")
    parser.add_argument("--processes", type=int, default=1, help="processes that make clips")
    args = parser.parse_args(argv)
    seeds = range(args.first_seed, args.first_seed + args.clips)
    options = {"speech": args.speech, "height": args.size, "width": args.size}
    manifest = write_corpus(args.folder, seeds, num_processes=args.processes, **options)
    print(f"wrote {args.clips} clips and {manifest}")


if __name__ == "__main__":
    main()
