"""Measure what a trained pipeline loses with fewer denoising steps, and which are the fewest that lose nothing.

    python -m diffusers_jova.recipes.step_curve

Each clip is compared with the one of the same prompt and seed in many Euler steps: pictures by PSNR, sounds by the
distance of their log-mels. Sync and words are measured as in `make evidence`; they stay when the others have fallen
long since. The steps to choose are the fewest, by either solver, that lose half of what the codecs lose on a drawn
clip, or less, in picture and in sound. Clips are kept in a work folder, so that the command goes on where it was
interrupted. The figures are written as JSON and into the model card beside it. The exit code is 1 if all
steps lose more.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from diffusers_jova import FlowMatchAudioVideoScheduler, JoVAPipeline
from diffusers_jova.drawn.avatars import AvatarClip
from diffusers_jova.drawn.speaker_evaluation import evaluate_reconstruction
from diffusers_jova.evaluation.fidelity import mel_error, psnr_db
from diffusers_jova.evaluation.summary import summarize
from diffusers_jova.recipes.evidence import SOLVER_NAMES, add_arguments, load_pipeline, measure, work_name
from diffusers_jova.recipes.generation import FIRST_SEED, Generated, fingerprint, generate, held_out_clips
from diffusers_jova.recipes.model_card import fill_section, markdown_table, provenance
from diffusers_jova.whole_files import write_json
from jova_cli.parser import Parser
from jova_cli.shipped import model_folder


class Setting(NamedTuple):
    """One way to walk from noise to data."""

    solver: str
    steps: int


MANY = Setting("euler", 96)
SHARE = 0.5  # of what the codecs lose that steps may lose: of the root mean square of pixels, of nats
SETTINGS = (
    *(Setting("euler", steps) for steps in (2, 4, 8, 16, 24)),
    *(Setting("unipc", steps) for steps in (2, 4, 6, 8, 10, 12)),
)
MEASURES = (  # columns of a table, and how their figures are written
    ("psnr_db", ".1f"),
    ("mel_distance", ".3f"),
    ("sync_within_one_frame", ".0%"),
    ("envelope_correlation", ".3f"),
    ("word_top1", ".0%"),
)
HEADER = ("pictures, dB", "sound, nats", "sync within one frame", "mouth and envelope", "words")
Figures = dict[str, dict[str, float]]


# 1. Measuring


def make(
    pipeline: JoVAPipeline, setting: Setting, references: Sequence[AvatarClip], work: Path, **options: Any
) -> list[Generated]:
    """The clips of one setting, of which `work` keeps those that were made."""
    config = pipeline.scheduler.config
    pipeline.scheduler = FlowMatchAudioVideoScheduler.from_config(config, solver=setting.solver)
    folder = work / f"{setting.solver}-{setting.steps:03d}"
    return generate(pipeline, references, folder, num_inference_steps=setting.steps, **options)


def compare(
    made: Sequence[Generated], many: Sequence[Generated], references: Sequence[AvatarClip], synthesizer: str
) -> Figures:
    """Summaries of all measures of the clips of one setting."""
    rows = measure([(clip.frames, clip.waveform) for clip in made], references, synthesizer)
    for row, clip, fine, reference in zip(rows, made, many, references, strict=True):
        row["psnr_db"] = psnr_db(clip.frames, fine.frames)
        row["mel_distance"] = mel_error(clip.waveform, fine.waveform, reference.sampling_rate)
    return summarize(rows)


def codec_losses(pipeline: JoVAPipeline, references: Sequence[AvatarClip], work: Path, **options: Any) -> Figures:
    """What the codecs lose on the drawn clips themselves, by the same two measures."""
    made = generate(pipeline, references, work / "codecs", task="codecs", **options)
    rows = [
        evaluate_reconstruction(clip.frames, clip.waveform, one) for clip, one in zip(made, references, strict=True)
    ]
    return summarize([{"psnr_db": row["psnr_db"], "mel_distance": row["mel_error"]} for row in rows])


def limits(codecs: Figures) -> tuple[float, float]:
    """Least dB of the pictures and most nats of the sound of steps that lose little beside the codecs."""
    return codecs["psnr_db"]["mean"] - 20 * math.log10(SHARE), codecs["mel_distance"]["mean"] * SHARE


def chosen(curve: Mapping[Setting, Figures], codecs: Figures) -> Setting:
    """The fewest steps that lose little beside the codecs, in picture and in sound; of two solvers the nearer one.

    Raises:
        ValueError: None of them does.
    """
    least, most = limits(codecs)
    near = [
        setting
        for setting, figures in curve.items()
        if figures["psnr_db"]["mean"] >= least and figures["mel_distance"]["mean"] <= most
    ]
    if not near:
        raise ValueError(f"`SETTINGS` must hold one that comes within {least:.1f} dB and {most:.3f} nats, got none")
    return min(near, key=lambda setting: (setting.steps, curve[setting]["mel_distance"]["mean"]))


# 2. Reporting


def describe(report: Mapping[str, Any]) -> str:
    """The section of the model card."""
    choice, codecs = report["chosen"], report["codecs"]
    rows = [
        [
            f"{SOLVER_NAMES[row['solver']]}, {row['steps']}{' (chosen)' if row['setting'] == choice else ''}",
            *(figure(row["measures"], name, form) for name, form in MEASURES),
        ]
        for row in report["curve"]
    ]
    least, most = limits(codecs)
    rule = f"the fewest steps that lose at most {SHARE:g} times what the codecs lose on a drawn clip (the last line)"
    missed = f"The default should be {rule}, in both; none comes within {least:.1f} dB and {most:.3f} nats. "
    verdict = f"The default is {rule}, in both. " if choice else missed
    rows.append(["codecs alone", figure(codecs, "psnr_db", ".1f"), figure(codecs, "mel_distance", ".3f"), *"---"])
    return "\n\n".join(
        (
            "## Steps",
            f"{report['clips']} held-out prompts and seeds, each beside the clip of the same seed in {MANY.steps} "
            "Euler steps: PSNR of the pictures, mean difference of the log-mels of the sound; +- is one standard "
            f"error over clips. {verdict}"
            f"Measured on {report['date'][:10]} at commit {report['commit']}; "
            f"`python -m diffusers_jova.recipes.step_curve --clips {report['clips']}` repeats it.",
            markdown_table(["solver, steps", *HEADER], rows),
        )
    )


def figure(measures: Mapping[str, Any], name: str, form: str) -> str:
    """Mean and standard error of one measure; of a clip beside itself there is none."""
    if name not in measures:
        return "-"
    summary = measures[name]
    return f"{summary['mean']:{form}} +- {summary['standard_error']:{form}}"


# 3. The command


def begin(
    parser: Parser, argv: Sequence[str] | None, section: str, work: str
) -> tuple[argparse.Namespace, JoVAPipeline]:
    """Read the words of a measurement that fills a section of the card, and load its model.

    Args:
        parser: Of the command.
        argv: The words; None for those of the process.
        section: Of the card, and name of the JSON beside it.
        work: Name of the folder of clips.
    """
    parser.add_argument("--model", type=model_folder, default="jova-tiny", help="folder of a saved JoVAPipeline")
    parser.add_argument("--clips", type=int, default=16, help="speakers")
    parser.add_argument("--output", type=Path, default=Path(f"model_cards/jova-tiny/{section}.json"))
    add_arguments(parser, f"runs/{work}")
    args = parser.parse_args(argv)
    if args.clips < 2:
        parser.error(f"`--clips` must be at least 2, for a standard error, got {args.clips}")
    try:
        return args, load_pipeline(args.model)
    except ValueError as error:
        parser.error(str(error))


def main(argv: Sequence[str] | None = None) -> int:
    """Make the clips of every setting, measure and report; the exit code is 1 if no setting can be chosen."""
    args, pipeline = begin(Parser(description=__doc__), argv, "steps", "step_curve")

    # 1. Generate and measure
    origin = {**provenance(), "model": fingerprint(args.model, {})}
    work = args.work / work_name(args.model, {"speech": args.speech})
    references = held_out_clips(
        pipeline, range(FIRST_SEED, FIRST_SEED + args.clips), subject="speaker", speech=args.speech
    )
    options = {"batch_size": args.batch_size}
    many = make(pipeline, MANY, references, work, **options)
    curve = {
        setting: compare(make(pipeline, setting, references, work, **options), many, references, args.speech)
        for setting in SETTINGS
    }

    # 2. Report
    alone = summarize(measure([(clip.frames, clip.waveform) for clip in many], references, args.speech))
    rows = [
        {"setting": list(setting), **setting._asdict(), "measures": measures}
        for setting, measures in {**curve, MANY: alone}.items()
    ]
    codecs = codec_losses(pipeline, references, work, **options)
    try:
        choice = list(chosen(curve, codecs))
    except ValueError:  # the table tells it
        choice = None
    report = {
        **origin,
        "clips": args.clips,
        "first_seed": FIRST_SEED,
        "chosen": choice,
        "codecs": codecs,
        "curve": rows,
    }
    write_json(args.output, report)
    card = args.output.with_name("README.md")
    if card.exists():
        fill_section(card, "steps", describe(report))
    print(describe(report))
    return int(choice is None)


if __name__ == "__main__":
    raise SystemExit(main())
