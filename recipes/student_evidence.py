"""Measure students of few steps beside their teacher, on prompts and seeds that none has seen.

    python -m diffusers_jova.recipes.student_evidence --model jova-tiny --student student_of_4/ student_of_2/

Each clip is compared with that of the teacher of the same prompt and seed in many guided steps of Euler, as
`step_curve.py` compares them: pictures by PSNR, sounds by the distance of their log-mels, sync and words as in `make
evidence`. The teacher in as many steps as the student, by either solver, is what the student must surpass; without
guidance it costs as much. Clips are kept in a work folder, so that the command goes on where it was interrupted. The
figures are written as JSON and into the model card beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from diffusers_jova.drawn.avatars import AvatarClip
from diffusers_jova.evaluation.summary import summarize
from diffusers_jova.generation_defaults import GenerationDefaults
from diffusers_jova.pipeline_jova import JoVAPipeline
from diffusers_jova.recipes.evidence import SOLVER_NAMES, add_arguments, load_pipeline, measure, work_name
from diffusers_jova.recipes.generation import FIRST_SEED, Generated, generate, held_out_clips, num_predictions
from diffusers_jova.recipes.model_card import fill_section, markdown_table, provenance
from diffusers_jova.recipes.step_curve import HEADER, MEASURES, Figures, Setting, compare, figure, make
from diffusers_jova.training.loop.config import load_yaml
from diffusers_jova.whole_files import write_json
from jova_cli.adapter_info import check_adapter, find_adapter
from jova_cli.parser import Parser
from jova_cli.shipped import model_folder


MANY_STEPS = 48
UNGUIDED: dict[str, Any] = {"guidance_scale": 1.0, "coupling_scale": 1.0}


class Row(NamedTuple):
    """What a way to make clips costs, in predictions of the transformer for each, and what it gives."""

    predictions: int
    measures: Figures


def main(argv: Sequence[str] | None = None) -> None:
    """Make the clips of both, measure and report."""
    parser = Parser(description=__doc__)
    parser.add_argument("--model", type=model_folder, default="jova-tiny", help="folder of the teacher's pipeline")
    parser.add_argument("--student", type=Path, nargs="+", required=True, help="folders or files of the adapters")
    parser.add_argument("--clips", type=int, default=16, help="speakers")
    parser.add_argument("--output", type=Path, default=Path("model_cards/jova-tiny/student.json"))
    add_arguments(parser, "runs/student_evidence")
    args = parser.parse_args(argv)
    if args.clips < 2:
        parser.error(f"`--clips` must be at least 2, for a standard error, got {args.clips}")
    try:
        for student in args.student:
            check_adapter("--student", student)
        training = [settings_of(student) for student in args.student]
        curve = measure_both(args.model, args.student, args.clips, args.speech, args.work, args.batch_size)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    rows = [{"who": who, **row._asdict()} for who, row in curve.items()]
    origin = {**provenance(), "training": training if len(training) > 1 else training[0]}
    report = {**origin, "clips": args.clips, "first_seed": FIRST_SEED, "curve": rows}
    write_json(args.output, report)
    card = args.output.with_name("README.md")
    if card.exists():
        fill_section(card, "student", describe(report))
    print(describe(report))


def settings_of(student: Path) -> dict[str, Any]:
    """What its training says of a student; empty where its file lies alone."""
    config = student / "config.yaml"
    if not config.is_file():
        return {}
    settings = load_yaml(config)
    return {name: getattr(settings, name) for name in ("steps", "batch_size", "teacher_steps")}


def load_students(pipeline: JoVAPipeline, students: Sequence[Path]) -> dict[int, str]:
    """Load students and leave them switched off.

    Returns:
        The name of each among the adapters, in their order, by its number of steps.

    Raises:
        ValueError: An adapter is no student, or has as many steps as another.
    """
    names: dict[int, str] = {}
    for number, student in enumerate(students):
        name = f"student_{number}"
        pipeline.load_lora_weights(student, adapter_name=name)
        pipeline.set_adapters(name)
        if (few_steps := pipeline.few_steps) is None:
            raise ValueError(f"`--student` must be an adapter that `jova distill` made, got `{student}`; name another")
        if few_steps.num_inference_steps in names:
            raise ValueError(
                f"`--student` must be students of other steps than each other, got another of {few_steps}: "
                f"`{student}`; measure it alone"
            )
        names[few_steps.num_inference_steps] = name
    pipeline.disable_lora()
    return names


def measure_both(
    model: Path, students: Sequence[Path], num_clips: int, speech: str, work: Path, batch_size: int
) -> dict[str, Row]:
    """Predictions and figures of the teacher, in as many steps as the students and in more, and of the students.

    Raises:
        ValueError: An adapter is no student, or has as many steps as another.
    """
    pipeline = load_pipeline(model)
    guided = pipeline.defaults
    own = Setting(pipeline.scheduler.config["solver"], guided.num_inference_steps)
    names = load_students(pipeline, students)
    seeds = range(FIRST_SEED, FIRST_SEED + num_clips)
    references: list[AvatarClip] = held_out_clips(pipeline, seeds, subject="speaker", speech=speech)
    place = work / work_name(model, {"speech": speech})
    many = make(pipeline, Setting("euler", MANY_STEPS), references, place, batch_size=batch_size)
    rows: dict[str, Row] = {}

    def add(who: str, setting: Setting, settings: GenerationDefaults, made: Sequence[Generated]) -> None:
        settings = settings.override(num_inference_steps=setting.steps)
        figures = compare(made, many, references, speech)
        rows[f"{who}, {SOLVER_NAMES[setting.solver]} {setting.steps}"] = Row(num_predictions(settings), figures)

    # 1. The teacher
    few = [Setting(solver, steps) for steps in names for solver in SOLVER_NAMES]
    for setting in few:
        made = make(pipeline, setting, references, place / "alone", batch_size=batch_size, **UNGUIDED)
        add("teacher without guidance", setting, guided.override(**UNGUIDED), made)
    for setting in dict.fromkeys([*few, own]):
        add("teacher", setting, guided, make(pipeline, setting, references, place, batch_size=batch_size))

    # 2. The students
    pipeline.enable_lora()
    for (steps, name), student in zip(names.items(), students, strict=True):
        pipeline.set_adapters(name)
        pipeline.use_few_steps()
        file = find_adapter(student) or student
        version = (steps, file.stat().st_size, file.stat().st_mtime_ns)
        kept = work / work_name(model, {"speech": speech, "student": version})
        made = generate(pipeline, references, kept / "student", batch_size=batch_size)
        add("student", Setting("euler", steps), pipeline.defaults, made)

    # 3. What all are compared with
    alone = summarize(measure([(clip.frames, clip.waveform) for clip in many], references, speech))
    rows[f"teacher, Euler {MANY_STEPS}"] = Row(num_predictions(guided.override(num_inference_steps=MANY_STEPS)), alone)
    return rows


def learning(training: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> str:
    """How long students learned, as the section begins; empty where one does not say."""
    each = [training] if isinstance(training, Mapping) else training
    if not all(each):
        return ""
    spans = [f"{own['steps']} steps of {own['batch_size']} clips" for own in each]
    teachers = [f"{own['teacher_steps']} steps" for own in each]
    who = "The student" if len(each) == 1 else "Each student"
    if len({*spans}) == len({*teachers}) == 1:
        return f"{who} learned for {spans[0]}, from a teacher of {teachers[0]}. "
    return f"The students learned for {', '.join(spans)}, from teachers of {', '.join(teachers)}. "


def describe(report: Mapping[str, Any]) -> str:
    """The section of the model card."""
    rows = [
        [row["who"], str(row["predictions"]), *(figure(row["measures"], name, form) for name, form in MEASURES)]
        for row in report["curve"]
    ]
    return "\n\n".join(
        (
            "## A student of few steps",
            learning(report["training"])
            + f"{report['clips']} held-out prompts and seeds, each beside the teacher's clip of the same seed "
            f"in {MANY_STEPS} guided Euler steps; predictions of the transformer for a clip; +- is one standard "
            f"error over clips. Measured on {report['date'][:10]} at commit {report['commit']} by `python -m "
            f"diffusers_jova.recipes.student_evidence --student STUDENT --clips {report['clips']}`.",
            markdown_table(["who, steps", "predictions", *HEADER], rows),
        )
    )


if __name__ == "__main__":
    main()
