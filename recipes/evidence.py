"""Measure a trained pipeline on prompts and seeds that it has not seen; hold the figures against the goals.

    python -m diffusers_jova.recipes.evidence --model runs/jova-tiny/pipeline

Three tasks: from the prompt alone, from a given voice, from a given portrait. The same measures on the drawn clips, on
their pictures with the sound of another clip, and on the clips after a pass through the codecs show what the figures
mean. Clips are kept in a work folder, so that the command goes on where it was interrupted. The figures are written as
JSON, examples beside it, and the table into the model card there. The exit code is 1 if a goal is missed.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from diffusers_jova import JoVAPipeline
from diffusers_jova.drawn.avatars import AvatarClip, without_look
from diffusers_jova.drawn.object_evaluation import evaluate_object
from diffusers_jova.drawn.sounding_objects import SOUNDING_OBJECTS
from diffusers_jova.drawn.speaker_evaluation import evaluate_clip, evaluate_reconstruction
from diffusers_jova.evaluation.contact_sheet import save_contact_sheet
from diffusers_jova.evaluation.fidelity import Frames
from diffusers_jova.evaluation.summary import summarize
from diffusers_jova.evaluation.viewing import enlarge
from diffusers_jova.media import write_video
from diffusers_jova.provenance import basic_record
from diffusers_jova.recipes.foreign_ear import LABELS, ForeignEar
from diffusers_jova.recipes.generation import (
    BATCH_SIZE,
    FIRST_SEED,
    Generated,
    code_digest,
    fingerprint,
    generate,
    held_out_clips,
)
from diffusers_jova.recipes.model_card import fill_section, markdown_table, provenance
from diffusers_jova.training.loop.config import parse_overrides
from diffusers_jova.whole_files import write_json
from jova_cli.parser import Parser, one_line
from jova_cli.shipped import model_folder


Pair = tuple[Frames, npt.NDArray[np.floating]]
Measures = dict[str, float]

FIRST_OBJECT_SEED = FIRST_SEED + 100_000
SOLVER_NAMES = {"euler": "Euler", "unipc": "UniPC"}
EXAMPLES = {"text": 4, "audio": 1, "image": 1}  # clips shown of each task


class Goal(NamedTuple):
    """One line of the table: a measure of a task and the least that it should reach; None is shown without a goal."""

    task: str
    measure: str
    label: str
    least: float | None = None
    is_share: bool = True


# fmt: off
GOALS = (
    Goal("text",  "sync_within_one_frame", "prompt: sync offset within one frame", 0.95),
    Goal("text",  "envelope_correlation",  "prompt: correlation of mouth and envelope", 0.85, is_share=False),
    Goal("text",  "lse_c",                 "prompt: LSE-C", is_share=False),
    Goal("text",  "lse_d",                 "prompt: LSE-D", is_share=False),
    Goal("text",  "word_top1",             "prompt: transcript found among ten", 0.80),
    Goal("text",  "background_correct",    "prompt: background right", 0.95),
    Goal("text",  "skin_correct",          "prompt: skin right", 0.95),
    Goal("text",  "hair_correct",          "prompt: hair right", 0.95),
    Goal("text",  "shirt_correct",         "prompt: shirt right", 0.95),
    Goal("audio", "sync_within_one_frame", "given voice: sync offset within one frame", 0.95),
    Goal("audio", "envelope_correlation",  "given voice: correlation of mouth and envelope", 0.85, is_share=False),
    Goal("image", "identity_correct",      "given portrait, not described: all its colours kept", 0.95),
    Goal("image", "sync_within_one_frame", "given portrait, not described: sync offset within one frame"),
    Goal("plain", "identity_correct",      "the same without the portrait: all its colours hit"),
)
OBJECT_LABELS = {
    "shape_correct": "the right thing is seen",
    "sound_correct": "the right thing is heard",
    "background_correct": "background right",
    "movement_correlation": "correlation of movement and envelope (dog, lamp, ball)",
}
# fmt: on
REFERENCES = {"ground_truth": "drawn clips", "mismatched": "wrong sound", "codecs": "codecs alone"}


# 1. Measuring


def measure(pairs: Sequence[Pair], references: Sequence[AvatarClip], synthesizer: str) -> list[Measures]:
    """Measure speakers, each against the reference of its prompt.

    Args:
        pairs: Frames and waveform of each clip.
        references: One per clip.
        synthesizer: Who renders the transcripts for the retrieval of words.
    """
    return [
        evaluate_clip(*pair, reference, synthesizer=synthesizer)
        for pair, reference in zip(pairs, references, strict=True)
    ]


def mismatch(clips: Sequence[AvatarClip], distance: int = 1) -> list[Pair]:
    """Pair every picture with the sound of the clip that comes `distance` later."""
    others = [*clips[distance:], *clips[:distance]]
    return [(clip.frames, other.waveform) for clip, other in zip(clips, others, strict=True)]


class Measurement(NamedTuple):
    """What was made and measured: by task, the clips, and the summary of their measures."""

    clips: dict[str, list[Generated]]
    summaries: dict[str, dict[str, dict[str, float]]]


def measure_tasks(
    pipeline: JoVAPipeline,
    references: Sequence[AvatarClip],
    work: Path,
    *,
    synthesizer: str,
    batch_size: int = BATCH_SIZE,
    ear: ForeignEar | None = None,
    **arguments: Any,
) -> Measurement:
    """Make and measure all tasks, and measure the references themselves; `arguments` are of the pipeline's call.

    An `ear` hears what comes from prompts, and the references.
    """
    clips = {}
    for task in ("text", "audio", "image", "plain", "codecs"):
        given = {} if task == "codecs" else arguments
        clips[task] = generate(pipeline, references, work / task, task=task, batch_size=batch_size, **given)
    pairs: dict[str, list[Pair]] = {
        "ground_truth": [(clip.frames, clip.waveform) for clip in references],
        "mismatched": mismatch(references),
        **{task: [(clip.frames, clip.waveform) for clip in made] for task, made in clips.items()},
    }
    rows = {task: measure(of_task, references, synthesizer) for task, of_task in pairs.items()}
    for row, (frames, waveform), reference in zip(rows["codecs"], pairs["codecs"], references, strict=True):
        row.update(evaluate_reconstruction(frames, waveform, reference))
    if ear is not None:
        for task in ("text", *REFERENCES):
            heard = ear.measure([waveform for _, waveform in pairs[task]], references)
            for row, figures in zip(rows[task], heard, strict=True):
                row.update(figures)
    return Measurement(clips, {task: summarize(of_task) for task, of_task in rows.items()})


def measure_objects(
    pipeline: JoVAPipeline, num_per_kind: int, work: Path, batch_size: int = BATCH_SIZE, **arguments: Any
) -> dict[str, dict[str, dict[str, float]]]:
    """Make and measure sounding objects of all kinds, and measure the drawn ones."""
    references = []
    for index, kind in enumerate(SOUNDING_OBJECTS):
        first = FIRST_OBJECT_SEED + index * num_per_kind
        references += held_out_clips(pipeline, range(first, first + num_per_kind), subject=kind)
    made = generate(pipeline, references, work / "objects", batch_size=batch_size, **arguments)
    pairs: dict[str, list[Pair]] = {
        "text": [(clip.frames, clip.waveform) for clip in made],
        "ground_truth": [(clip.frames, clip.waveform) for clip in references],
        "mismatched": mismatch(references, num_per_kind),  # the next kind
    }
    return {
        task: summarize([evaluate_object(*pair, clip) for pair, clip in zip(of_task, references, strict=True)])
        for task, of_task in pairs.items()
    }


# 2. Reporting


def judge(summaries: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Hold the figures against the goals: what each goal is, what was reached, and whether that is enough."""
    verdicts = []
    for goal in GOALS:
        if goal.least is not None:
            reached = summaries[goal.task].get(goal.measure, {"mean": float("nan")})["mean"]
            verdict = {"task": goal.task, "measure": goal.measure, "goal": goal.least, "reached": reached}
            verdicts.append(verdict | {"is_met": bool(reached >= goal.least)})
    return verdicts


def result_table(summaries: Mapping[str, Any]) -> str:
    """Table of goals, figures and references, in Markdown."""
    rows = []
    for goal in GOALS:
        wanted = "-" if goal.least is None else f">= {_number(goal.least, goal.is_share)}"
        reached = summaries[goal.task].get(goal.measure)
        verdict = "-" if goal.least is None else "yes" if reached and reached["mean"] >= goal.least else "**no**"
        others = [summaries[name].get(goal.measure) for name in REFERENCES]
        cells = [_figure(reached, goal.is_share), *(_figure(other, goal.is_share, False) for other in others)]
        rows.append([goal.label, wanted, cells[0], verdict, *cells[1:]])
    return markdown_table(["", "goal", "reached", "met", *REFERENCES.values()], rows)


def object_table(summaries: Mapping[str, Any]) -> str:
    """Table of the sounding objects, in Markdown."""
    rows = []
    for name, label in OBJECT_LABELS.items():
        is_share = name.endswith("_correct")
        figures = [summaries[task].get(name) for task in ("text", "ground_truth", "mismatched")]
        rows.append(
            [label, _figure(figures[0], is_share), *(_figure(value, is_share, False) for value in figures[1:])]
        )
    return markdown_table(["sounding objects", "reached", "drawn clips", "wrong sound"], rows)


def ear_table(summaries: Mapping[str, Any]) -> str:
    """Table of what other networks hear, in Markdown; empty where none was asked."""
    if "words_heard" not in summaries["text"]:
        return ""
    rows = [
        [label, *(_figure(summaries[task].get(name), name == "words_heard") for task in ("text", *REFERENCES))]
        for name, label in LABELS.items()
    ]
    return markdown_table(["a foreign ear, from prompts", "reached", *REFERENCES.values()], rows)


def _figure(summary: Mapping[str, float] | None, is_share: bool, has_error: bool = True) -> str:
    if summary is None:
        return "-"
    error = f" +- {_number(summary['standard_error'], is_share)}" if has_error else ""
    return _number(summary["mean"], is_share) + error


def of_coupling(scale: float | None) -> str:
    """What is said of coupling guidance behind that of text, with which it goes where it is None."""
    return " by text and coupling" if scale is None else "" if scale == 1 else f" by text and {scale:g} by coupling"


def _number(value: float, is_share: bool) -> str:
    return f"{100 * value:.1f} %" if is_share else f"{value:.3f}"


def describe(report: Mapping[str, Any]) -> str:
    """The section of the model card."""
    settings = report["settings"]
    steps = f"{settings['num_inference_steps']} {SOLVER_NAMES.get(settings['solver'], settings['solver'])} steps"
    coupling = of_coupling(settings.get("coupling_scale", 1))
    return "\n\n".join(
        (
            "## Evidence",
            f"Measured on {settings['clips']} held-out prompts and seeds ({steps}, guidance "
            f"{settings['guidance_scale']:g}{coupling}) on {report['date'][:10]} at commit {report['commit']}; "
            f"{report['seconds_per_clip']:.2f} s per clip on {report['device']}; +- is one standard error over clips. "
            "`make evidence` repeats it.",
            result_table(report["tasks"]),
            *filter(None, [ear_table(report["tasks"])]),
            object_table(report["objects"]),
            "![Frames and waveforms: from prompts, from a given voice, from a given portrait](evidence.png)",
        )
    )


def write_examples(clips: Mapping[str, Sequence[Generated]], references: Sequence[AvatarClip], folder: Path) -> None:
    """Write a contact sheet, `evidence.png`, and a few mp4 files under `samples`, enlarged for viewing."""
    chosen = [(task, row) for task, count in EXAMPLES.items() for row in range(min(count, len(references)))]
    pairs = [(clips[task][row].frames, clips[task][row].waveform) for task, row in chosen]
    captions = [references[row].caption for _, row in chosen]
    labels = [
        f"{task}: {without_look(caption) if task == 'image' else caption}"
        for (task, _), caption in zip(chosen, captions, strict=True)
    ]
    save_contact_sheet(folder / "evidence.png", pairs, labels)
    (folder / "samples").mkdir(exist_ok=True)
    for (task, row), (frames, waveform) in zip(chosen, pairs, strict=True):
        rates = (references[row].frame_rate, waveform, references[row].sampling_rate)
        write_video(folder / "samples" / f"{task}-{row}.mp4", enlarge(frames), *rates, provenance=basic_record())


def device_name() -> str:
    """What generates: the GPU's name, or the number of threads on a CPU."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    count = torch.get_num_threads()
    return f"{count} thread{'s' if count > 1 else ''} of a CPU ({platform.machine()})"


# 3. The command


def add_arguments(parser: argparse.ArgumentParser, work: str) -> None:
    """Add the arguments of every command that generates and measures."""
    parser.add_argument("--work", type=Path, default=Path(work), help="folder that keeps the clips between runs")
    parser.add_argument("--speech", choices=("espeak", "formant"), default="espeak", help="voice of the training set")
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE, help="clips generated at a time")


def add_report_only(parser: argparse.ArgumentParser) -> None:
    """Add the word that lets a command with goals report a miss without failing."""
    parser.add_argument("--report-only", action="store_true", help="exit with 0 although a goal is missed")


def work_name(model: Path, settings: Mapping[str, Any]) -> str:
    """Name of the folder of clips that a model makes by this code, on this device and with these settings."""
    return fingerprint(model, {"code": code_digest(), "device": device_name(), **settings})


def load_pipeline(model: Path, **components: Any) -> JoVAPipeline:
    """Load a saved pipeline onto the GPU, if there is one, with some components replaced.

    Raises:
        ValueError: If there is none.
    """
    if not (model / "model_index.json").is_file():
        raise ValueError(
            f"`model` must be the folder of a saved JoVAPipeline, got `{model}`; leave it out for jova-tiny"
        )
    pipeline = JoVAPipeline.from_pretrained(model, **components)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to("cuda" if torch.cuda.is_available() else "cpu")


def main(argv: Sequence[str] | None = None) -> int:
    """Generate, measure, report."""
    parser = Parser(description=__doc__)
    parser.add_argument("--model", type=model_folder, default="jova-tiny", help="folder of a saved JoVAPipeline")
    parser.add_argument("--clips", type=int, default=64, help="speakers; five eighths as many sounding objects on top")
    parser.add_argument("--output", type=Path, default=Path("model_cards/jova-tiny/evidence.json"))
    add_arguments(parser, "runs/evidence")
    add_report_only(parser)
    parser.add_argument("arguments", nargs="*", metavar="name=value", help="arguments of the pipeline's call")
    args = parser.parse_intermixed_args(argv)
    if args.clips < 2:
        parser.error(f"`--clips` must be at least 2, to pair a picture with another's sound, got {args.clips}")
    try:
        pipeline, arguments = load_pipeline(args.model), parse_overrides(args.arguments)
    except ValueError as error:
        parser.error(str(error))

    # 1. Generate and measure
    origin = {**provenance(), "model": fingerprint(args.model, {}), "device": device_name()}
    work = args.work / work_name(args.model, {"speech": args.speech, **arguments})
    seeds = range(FIRST_SEED, FIRST_SEED + args.clips)
    references = held_out_clips(pipeline, seeds, subject="speaker", speech=args.speech)
    options = {"batch_size": args.batch_size, **arguments}
    try:
        ear = ForeignEar()
    except ImportError as error:
        print(f"no foreign ear listens: {one_line(error)}; `pip install 'diffusers_jova[evaluate]'` brings it")
        ear = None
    measured = measure_tasks(pipeline, references, work, synthesizer=args.speech, ear=ear, **options)
    objects = measure_objects(pipeline, max(args.clips // 8, 1), work, **options)

    # 2. Report
    settings = pipeline.defaults.override(**arguments)
    report = {
        **origin,
        "seconds_per_clip": float(np.mean([clip.seconds for clip in measured.clips["text"]])),
        "settings": {
            "clips": args.clips,
            "first_seed": FIRST_SEED,
            "speech": args.speech,
            "solver": pipeline.scheduler.config.solver,
            "num_inference_steps": settings.num_inference_steps,
            "guidance_scale": settings.guidance_scale,
            "coupling_scale": settings.coupling_scale,
            **arguments,
        },
        "goals": judge(measured.summaries),
        "tasks": measured.summaries,
        "objects": objects,
    }
    write_json(args.output, report)
    write_examples(measured.clips, references, args.output.parent)
    card = args.output.with_name("README.md")
    if card.exists():
        fill_section(card, "evidence", describe(report))
    print(describe(report))
    is_missed = not all(verdict["is_met"] for verdict in judge(measured.summaries))
    return int(is_missed and not args.report_only)


if __name__ == "__main__":
    raise SystemExit(main())
