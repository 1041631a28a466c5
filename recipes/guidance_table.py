"""Measure what each way of guidance costs a trained pipeline, and what it changes.

    python -m diffusers_jova.recipes.guidance_table

Each clip is compared with the one of the same prompt and seed under the model's own guidance: pictures by PSNR, sounds
by the distance of their log-mels; sync and words are measured as in `make evidence`. What a way costs are the
predictions that its steps ask the transformer for. Clips are kept in a work folder, so that the command goes on where
it was interrupted. The figures are written as JSON and into the model card beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from diffusers_jova.evaluation.summary import summarize
from diffusers_jova.recipes.evidence import measure, of_coupling, work_name
from diffusers_jova.recipes.generation import FIRST_SEED, fingerprint, generate, held_out_clips, num_predictions
from diffusers_jova.recipes.model_card import fill_section, markdown_table, provenance
from diffusers_jova.recipes.step_curve import HEADER, MEASURES, begin, compare, figure
from diffusers_jova.whole_files import write_json
from jova_cli.parser import Parser


OWN = "as the model has it"
MERGED = "of text and coupling, merged"


def ways(scale: float) -> dict[str, dict[str, Any]]:
    """Arguments of the pipeline's call by what they do, of which the first are the model's own.

    Args:
        scale: Text guidance of the model.
    """
    return {
        OWN: {},
        "none": {"guidance_scale": 1.0},
        "twice as far": {"guidance_scale": 2 * scale - 1},
        "on the first half of the steps": {"guidance_interval": (0.0, 0.5)},
        "on the second half": {"guidance_interval": (0.5, 1.0)},
        "on all but the first quarter": {"guidance_interval": (0.25, 1.0)},
        "on the middle half": {"guidance_interval": (0.25, 0.75)},
        MERGED: {"coupling_scale": scale},
        "of text and coupling apart": {"coupling_scale": scale, "uncoupled_text": "kept"},
        "projected (APG)": {"apg_threshold": 0.0, "audio_apg_threshold": 0.0},
        "scaled (CFG-Zero*)": {"cfg_zero_star": True},
        "zero on the first step": {"zero_init_steps": 1},
        "scaled, zero on the first step (CFG-Zero*)": {"cfg_zero_star": True, "zero_init_steps": 1},
    }


def with_coupling(ways: Mapping[str, dict[str, Any]], scale: float) -> dict[str, dict[str, Any]]:
    """The same ways for a model whose own guidance is that of text and coupling, merged."""
    return {
        **{way: arguments for way, arguments in ways.items() if way != MERGED},
        "of text alone": {"coupling_scale": 1.0},
        "of coupling alone": {"guidance_scale": 1.0, "coupling_scale": scale, "uncoupled_text": "kept"},
    }


def describe(report: Mapping[str, Any]) -> str:
    """The section of the model card."""
    rows = [
        [row["way"], str(row["predictions"]), *(figure(row["measures"], name, form) for name, form in MEASURES)]
        for row in report["table"]
    ]
    scales = f"{report['guidance_scale']:g}{of_coupling(report['coupling_scale'])}"
    return "\n\n".join(
        (
            "## Guidance",
            f"{report['clips']} held-out prompts and seeds, each beside the clip of the same seed with the guidance "
            f"that the model has, {scales} on all of {report['steps']} steps; +- is one standard "
            f"error over clips. Measured on {report['date'][:10]} at commit {report['commit']}; "
            f"`python -m diffusers_jova.recipes.guidance_table --clips {report['clips']}` repeats it.",
            markdown_table(["guidance", "predictions", *HEADER], rows),
        )
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Make the clips of every way, measure and report."""
    args, pipeline = begin(Parser(description=__doc__), argv, "guidance", "guidance_table")

    # 1. Generate and measure
    origin = {**provenance(), "model": fingerprint(args.model, {})}
    work = args.work / work_name(args.model, {"speech": args.speech})
    seeds = range(FIRST_SEED, FIRST_SEED + args.clips)
    references = held_out_clips(pipeline, seeds, subject="speaker", speech=args.speech)
    defaults = pipeline.defaults
    table_of = ways(defaults.guidance_scale)
    if defaults.coupling_scale is None:
        table_of = with_coupling(table_of, defaults.guidance_scale)
    made = {
        way: generate(pipeline, references, work / f"{number:02d}", batch_size=args.batch_size, **arguments)
        for number, (way, arguments) in enumerate(table_of.items())
    }
    own = [(clip.frames, clip.waveform) for clip in made[OWN]]
    figures = {OWN: summarize(measure(own, references, args.speech))}
    figures |= {way: compare(clips, made[OWN], references, args.speech) for way, clips in made.items() if way != OWN}

    # 2. Report
    table = [
        {"way": way, "predictions": num_predictions(defaults.override(**arguments)), "measures": figures[way]}
        for way, arguments in table_of.items()
    ]
    report = {
        **origin,
        "clips": args.clips,
        "first_seed": FIRST_SEED,
        "guidance_scale": defaults.guidance_scale,
        "coupling_scale": defaults.coupling_scale,
        "steps": defaults.num_inference_steps,
        "table": table,
    }
    write_json(args.output, report)
    card = args.output.with_name("README.md")
    if card.exists():
        fill_section(card, "guidance", describe(report))
    print(describe(report))


if __name__ == "__main__":
    main()
