"""Measure a long clip of a drawn speaker: ten sentences in half a minute, from windows of the model's own length.

    python -m diffusers_jova.recipes.long_clip_evidence

The first window is given a portrait, all others only what they begin with and the prompt. Measured are the
sync of every window, clicks where windows meet, the drift of colours while the mouth rests, the words of every
sentence, and the memory. Windows are kept in a work folder, so that the command goes on where it was interrupted. The
exit code is 1 if a goal is missed.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import PIL.Image

from diffusers_jova import JoVAPipeline, JoVAPrompt
from diffusers_jova.drawn.avatars import AvatarClip, without_look
from diffusers_jova.drawn.speaker_evaluation import aperture_from_frames, correct_colours, probe_colours
from diffusers_jova.drawn.speech import WORDS
from diffusers_jova.drawn.sync_net import load_sync_net, sync_score
from diffusers_jova.drawn.word_retrieval import retrieve_words
from diffusers_jova.long_clip import LongClip, ScriptLine
from diffusers_jova.media import write_video
from diffusers_jova.pictures import to_uint8_frames
from diffusers_jova.recipes.evidence import device_name, load_pipeline, work_name
from diffusers_jova.recipes.generation import FIRST_SEED, held_out_clips
from diffusers_jova.recipes.model_card import markdown_table, provenance
from diffusers_jova.whole_files import write_json
from diffusers_jova.window_folder import WindowFolder
from jova_cli.parser import Parser
from jova_cli.shipped import model_folder


NUM_SENTENCES, WORDS_PER_SENTENCE, SENTENCE_S = 10, 4, 3.0
FIRST_LONG_SEED = FIRST_SEED + 500_000
CLICK_S = 0.005  # in which the energy of a click is told
REST_PERCENTILE = 30  # of the opening of the mouth, below which it counts as resting
GIGA = 1e9

Frames = npt.NDArray[np.uint8]
Sound = npt.NDArray[np.float32]


class Goal(NamedTuple):
    """A measure and what it should be at least, or at most; with neither it is shown without a goal."""

    measure: str
    label: str
    least: float | None = None
    most: float | None = None

    def is_met(self, value: float) -> bool:
        """Whether a value is as it should be."""
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)


# fmt: off
GOALS = (
    Goal("sync_within_one_frame", "windows with a sync offset within one frame",                       least=1.0),
    Goal("click",                 "loudest joint, second difference over its 99th percentile elsewhere", most=1.0),
    Goal("colour_drift",          "largest drift of colours from the first window, of 255, mean of parts", most=2.0),
    Goal("part_drift",            "the same of the part that drifts most"),
    Goal("sentences_found",       "sentences all of whose words are found, in order",                  least=1.0),
    Goal("memory_growth",         "peak memory of the whole clip over that of its first third",          most=1.05),
)
# fmt: on


def script(speaker: AvatarClip, generator: np.random.Generator, *, describes_look: bool) -> list[ScriptLine]:
    """Ten sentences of random words, one every three seconds.

    Args:
        speaker: Who says them.
        generator: Of the words.
        describes_look: Whether the prompts do; otherwise only the portrait shows it, to the first window alone.
    """
    caption = speaker.video_caption if describes_look else without_look(speaker.video_caption)
    sentences = [generator.choice(WORDS, WORDS_PER_SENTENCE, replace=False) for _ in range(NUM_SENTENCES)]
    return [
        ScriptLine(SENTENCE_S * index, JoVAPrompt(caption, speaker.audio_caption, " ".join(words)))
        for index, words in enumerate(sentences)
    ]


def long_clip(
    pipeline: JoVAPipeline, speaker: AvatarClip, seed: int, *, tries: int = 1, describes_look: bool = True
) -> LongClip:
    """The clip that is measured."""
    rate, factor = pipeline.defaults.frame_rate, pipeline.temporal_factor
    return LongClip(
        pipeline=pipeline,
        lines=script(speaker, np.random.default_rng(seed), describes_look=describes_look),
        num_frames=factor * round(SENTENCE_S * NUM_SENTENCES * rate / factor) + 1,
        seed=seed,
        tries=tries,
        arguments={"image": PIL.Image.fromarray(speaker.frames[0])},
    )


# 1. Measures


def windows_of(clip: LongClip, frames: Frames, sound: Sound) -> Iterator[tuple[Frames, Sound]]:
    """The parts of a clip that its windows made."""
    for window in clip.windows:
        samples = slice(clip.sample_at(window.first_frame), clip.sample_at(window.end_frame))
        yield frames[window.first_frame : window.end_frame], sound[samples]


def click(sound: Sound, fades: Sequence[slice], sampling_rate: int) -> float:
    """Largest energy of the second difference of a sound [S] in its fades, over the 99th percentile elsewhere."""
    length = round(CLICK_S * sampling_rate)
    power = np.square(np.diff(sound.astype(np.float64), 2))
    energies = power[: len(power) // length * length].reshape(-1, length).sum(1)
    in_fade = np.zeros(len(energies), bool)
    for fade in fades:
        in_fade[fade.start // length : -(-fade.stop // length)] = True
    return float(energies[in_fade].max() / np.percentile(energies[~in_fade], 99))


def resting_colours(frames: Frames, parts: Sequence[str]) -> dict[str, npt.NDArray[np.float64]]:
    """Mean colour of each part in the frames whose mouth rests; an open one reaches into what is looked at."""
    aperture = aperture_from_frames(frames)
    seen = probe_colours(frames)
    rests = aperture <= np.percentile(aperture, REST_PERCENTILE)
    return {part: seen[part][rests].mean(0) for part in parts}


def colour_drift(windows: Sequence[Frames], parts: Sequence[str]) -> dict[str, list[float]]:
    """How far each part's colour is from that of the first window, averaged over channels, 0..255, by window."""
    colours = [resting_colours(frames, parts) for frames in windows]
    return {part: [float(np.abs(of[part] - colours[0][part]).mean()) for of in colours] for part in parts}


def found_words(clip: LongClip, sound: Sound, voice: str, synthesizer: str) -> list[list[bool]]:
    """Of each line and each of its windows, whether its words are found among ten in what this window adds."""
    found: list[list[bool]] = [[] for _ in clip.lines]
    for index, window in enumerate(clip.windows):
        prompt = clip.lines[window.line].prompt
        assert isinstance(prompt, JoVAPrompt)
        words = prompt.transcript.split()
        first, last = (round(len(words) * share) for share in window.share)
        if first == last:
            continue
        begin = clip.sample_at(window.first_frame + window.num_overlap) if index else 0
        added = sound[begin : clip.sample_at(window.end_frame)]
        said = " ".join(words[first:last])
        rate = clip.pipeline.sampling_rate
        retrieved = retrieve_words(added, said, voice, synthesizer=synthesizer, sampling_rate=rate, seed=index)
        found[window.line].append(retrieved.is_correct)
    return found


def peak_bytes() -> int:
    """Most memory that this process has had."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure(clip: LongClip, speaker: AvatarClip, kept: WindowFolder | None, synthesizer: str) -> dict[str, object]:
    """Make a clip and measure it; adds its `frames` and `sound`. Memory counts where all windows are made."""
    pieces, memory = [], []
    is_made = kept is None or kept.num_kept == 0
    for piece in clip.pieces(kept):
        assert piece.audio is not None
        pieces.append((to_uint8_frames(piece.frames), piece.audio.mean(0).numpy()))
        memory.append(peak_bytes())
    frames, sound = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
    rate, sampling_rate = clip.frame_rate, clip.pipeline.sampling_rate
    windows = list(windows_of(clip, frames, sound))
    offsets = [sync_score(load_sync_net(), *window, rate, sampling_rate).offset for window in windows]
    identity = speaker.identity
    assert identity is not None
    drift = colour_drift([part for part, _ in windows], tuple(identity.colours))
    found = found_words(clip, sound, identity.voice, synthesizer)
    return {
        "frames": frames,
        "sound": sound,
        "sync_offsets": offsets,
        "sync_within_one_frame": float(np.mean(np.abs(offsets) <= 1)),
        "click": click(sound, clip.fades, sampling_rate),
        "drift_by_part": drift,
        "colour_drift": max(float(np.mean(of_window)) for of_window in zip(*drift.values(), strict=True)),
        "part_drift": max(max(of_part) for of_part in drift.values()),
        "identity_kept": float(np.mean([all(correct_colours(part, identity).values()) for part, _ in windows])),
        "words_found": found,
        "sentences_found": float(np.mean([all(line) for line in found])),
        "windows_found": float(np.mean([one for line in found for one in line])),
        "memory_growth": memory[-1] / memory[len(memory) // 3] if is_made else None,
        "peak_bytes": memory[-1],
    }


# 2. The command


def values_of(goal: Goal, reports: Sequence[dict[str, object]]) -> list[float]:
    """What the clips reached where it was measured."""
    return [float(report[goal.measure]) for report in reports if report[goal.measure] is not None]  # type: ignore[arg-type]


def table(reports: Sequence[dict[str, object]]) -> str:
    """Goals and figures, in Markdown."""
    rows = []
    for goal in GOALS:
        values = values_of(goal, reports)
        limits = {">=": goal.least, "<=": goal.most}
        wanted = " ".join(f"{sign} {limit:g}" for sign, limit in limits.items() if limit is not None) or "-"
        verdict = "-" if wanted == "-" or not values else "yes" if all(map(goal.is_met, values)) else "**no**"
        rows.append([goal.label, wanted, ", ".join(f"{value:.3g}" for value in values) or "-", verdict])
    return markdown_table(["", "goal", "reached, by clip", "met"], rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Generate, measure, report."""
    parser = Parser(description=__doc__)
    parser.add_argument("--model", type=model_folder, default="jova-tiny", help="folder of a saved JoVAPipeline")
    parser.add_argument("--clips", type=int, default=2, help="speakers, each with a script of their own")
    parser.add_argument("--output", type=Path, default=Path("runs/long_clip.json"))
    parser.add_argument("--work", type=Path, default=Path("runs/long_clip"), help="folder that keeps the windows")
    parser.add_argument("--speech", choices=("espeak", "formant"), default="espeak", help="voice of the training set")
    parser.add_argument("--tries", type=int, default=1, help="of a window that ends amid words")
    parser.add_argument("--portrait-alone", action="store_true", help="let no prompt describe the looks")
    args = parser.parse_args(argv)
    pipeline = load_pipeline(args.model)
    origin = {**provenance(), "device": device_name()}
    choices = {"tries": args.tries, "describes_look": not args.portrait_alone}
    work = args.work / work_name(args.model, {"speech": args.speech, **choices})
    reports: list[dict[str, object]] = []
    for seed in range(FIRST_LONG_SEED, FIRST_LONG_SEED + args.clips):
        (speaker,) = held_out_clips(pipeline, [seed], subject="speaker", speech=args.speech)
        clip = long_clip(pipeline, speaker, seed, **choices)
        (work / str(seed)).mkdir(parents=True, exist_ok=True)
        report = measure(clip, speaker, WindowFolder(work / str(seed)), args.speech)
        frames, sound = report.pop("frames"), report.pop("sound")
        rates = (clip.frame_rate, sound, pipeline.sampling_rate)
        write_video(work / f"{seed}.mp4", frames, *rates, provenance=clip.record)  # type: ignore[arg-type]
        reports.append({"seed": seed, "caption": speaker.video_caption, **report})
        print(reports[-1])
    write_json(args.output, {**origin, **choices, "clips": reports})
    print(table(reports))
    return int(not all(goal.is_met(value) for goal in GOALS for value in values_of(goal, reports)))


if __name__ == "__main__":
    raise SystemExit(main())
