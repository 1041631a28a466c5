"""Measure what an avatar adapter does: eight clips of a new speaker in, her looks on new sentences out.

    python -m diffusers_jova.recipes.lora_evidence --model runs/jova-tiny/pipeline

Draws the clips, prepares them, trains the adapter by the commands that anyone would use, and generates new sentences
of the new speaker with and without it. Her colours lie outside the training palette: a part counts as hers if it is
nearer to her colour than to any of the palette. What is done is not done again. The exit code is 1 if the adapter does
not raise the identity or loses more than a twentieth of the sync.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusers_jova import JoVAPipeline
from diffusers_jova.drawn.avatars import AvatarClip, write_corpus
from diffusers_jova.drawn.portraits import Colour, Identity
from diffusers_jova.evaluation.contact_sheet import save_contact_sheet
from diffusers_jova.evaluation.summary import summarize
from diffusers_jova.evaluation.viewing import enlarge
from diffusers_jova.media import write_video
from diffusers_jova.provenance import basic_record
from diffusers_jova.recipes.evidence import (
    add_arguments,
    add_report_only,
    device_name,
    load_pipeline,
    measure,
    work_name,
)
from diffusers_jova.recipes.generation import FIRST_SEED, Generated, fingerprint, generate, held_out_clips
from diffusers_jova.recipes.model_card import fill_section, markdown_table, provenance
from diffusers_jova.training import prepare, train_lora
from diffusers_jova.training.loop.config import load_yaml, parse_overrides
from diffusers_jova.training.loop.lora import ADAPTER_FILE
from diffusers_jova.whole_files import write_json
from jova_cli.parser import Parser
from jova_cli.shipped import CONFIGS, model_folder


FIRST_LORA_SEED = FIRST_SEED + 300_000
NUM_TRAINING_CLIPS = 8
LARGEST_SYNC_LOSS = 0.05
NEW_AVATAR = Identity(
    voice="woman",
    background=Colour("olive", (120, 125, 60)),
    skin=Colour("lilac", (190, 160, 220)),
    hair=Colour("teal", (20, 140, 140)),
    shirt=Colour("crimson", (150, 20, 50)),
    hair_style="long",
)
# fmt: off
COLUMNS = {  # measure: heading, and whether it is a share
    "identity_correct":      ("all colours hers", True),
    "background_correct":    ("background", True),
    "skin_correct":          ("skin", True),
    "hair_correct":          ("hair", True),
    "shirt_correct":         ("shirt", True),
    "colour_error":          ("colour error (0-255)", False),
    "sync_within_one_frame": ("sync within one frame", True),
    "envelope_correlation":  ("mouth and envelope", False),
    "word_top1":             ("words, top-1 of 10", True),
}
# fmt: on


def train_adapter(
    model: Path, work: Path, geometry: Mapping[str, Any], config: Path, overrides: Sequence[str]
) -> Path:
    """Draw, prepare and train, as far as it is not done; returns the folder of the adapter.

    Args:
        model: Saved pipeline.
        work: Folder of clips, records and adapter.
        geometry: Options of `make_clip`: the size and rates of the model's clips, and who speaks.
        config: Preset of the training.
        overrides: Words `name=value` that differ from it.
    """
    clips, records, adapter = work / "clips", work / "records", work / "adapter"
    if (adapter / ADAPTER_FILE).exists():
        return adapter
    if not (clips / "manifest.jsonl").exists():
        seeds = range(FIRST_LORA_SEED, FIRST_LORA_SEED + NUM_TRAINING_CLIPS)
        write_corpus(clips, seeds, identity=NEW_AVATAR, **geometry)
    prepare.main([str(clips), str(records), "--model", str(model)])
    train_lora.main([str(records), str(adapter), "--model", str(model), "--config", str(config), *overrides])
    return adapter


def measure_adapter(
    pipeline: JoVAPipeline,
    adapter: Path,
    references: Sequence[AvatarClip],
    work: Path,
    *,
    synthesizer: str,
    batch_size: int,
) -> tuple[dict[str, list[Generated]], dict[str, dict[str, dict[str, float]]]]:
    """Generate without and with the adapter, on the same sentences and seeds, and measure both and the drawn clips."""
    clips = {"without": generate(pipeline, references, work / "without", batch_size=batch_size)}
    pipeline.load_lora_weights(adapter, weight_name=ADAPTER_FILE)
    clips["with"] = generate(pipeline, references, work / "with", batch_size=batch_size)
    pairs = {name: [(clip.frames, clip.waveform) for clip in made] for name, made in clips.items()}
    pairs["ground_truth"] = [(clip.frames, clip.waveform) for clip in references]
    return clips, {name: summarize(measure(made, references, synthesizer)) for name, made in pairs.items()}


def judge(summaries: Mapping[str, Any]) -> dict[str, bool]:
    """Whether the adapter raises the identity, and keeps the sync but for a twentieth."""
    without, with_adapter = (
        {name: summaries[row][name]["mean"] for name in ("identity_correct", "sync_within_one_frame")}
        for row in ("without", "with")
    )
    least_sync = (1 - LARGEST_SYNC_LOSS) * without["sync_within_one_frame"]
    return {
        "raises_identity": with_adapter["identity_correct"] > without["identity_correct"],
        "keeps_sync": with_adapter["sync_within_one_frame"] >= least_sync,
    }


def describe(report: Mapping[str, Any]) -> str:
    """The section of the model card."""
    labels = {"without": "without the adapter", "with": "with the adapter", "ground_truth": "drawn clips"}
    rows = [
        [label, *(_figure(report["summaries"][name].get(measure), share) for measure, (_, share) in COLUMNS.items())]
        for name, label in labels.items()
    ]
    return "\n\n".join(
        (
            "## A new avatar by LoRA",
            f"{NUM_TRAINING_CLIPS} clips of a speaker whose colours lie outside the training palette, "
            f"{report['steps']:,} steps of {report['samples_per_step']} samples; {report['clips']} new sentences, the "
            "same seeds with and without the adapter. A part is hers if it is nearer to her colour than to any of the "
            f"palette; +- is one standard error over clips. Measured on {report['date'][:10]} at commit "
            f"{report['commit']}; `python -m diffusers_jova.recipes.lora_evidence` repeats it.",
            markdown_table(["", *(heading for heading, _ in COLUMNS.values())], rows),
            "![Frames and waveforms of new sentences without and with the adapter](lora.png)",
        )
    )


def _figure(summary: Mapping[str, float] | None, is_share: bool) -> str:
    if summary is None:
        return "-"
    scale, digits, unit = (100, 1, " %") if is_share else (1, 2, "")
    return f"{scale * summary['mean']:.{digits}f} +- {scale * summary['standard_error']:.{digits}f}{unit}"


def write_examples(clips: Mapping[str, Sequence[Generated]], references: Sequence[AvatarClip], folder: Path) -> None:
    """Write `lora.png`, two sentences without and with the adapter, and one mp4 with it."""
    chosen = [(name, row) for row in range(min(2, len(references))) for name in ("without", "with")]
    pairs = [(clips[name][row].frames, clips[name][row].waveform) for name, row in chosen]
    save_contact_sheet(folder / "lora.png", pairs, [f"{name}: {references[row].caption}" for name, row in chosen])
    frames, waveform, _ = clips["with"][0]
    (folder / "samples").mkdir(exist_ok=True)
    rates = (references[0].frame_rate, waveform, references[0].sampling_rate)
    write_video(folder / "samples" / "lora.mp4", enlarge(frames), *rates, provenance=basic_record())


def main(argv: Sequence[str] | None = None) -> int:
    """Train, generate, measure, report."""
    parser = Parser(description=__doc__)
    parser.add_argument("--model", type=model_folder, default="jova-tiny", help="folder of a saved JoVAPipeline")
    parser.add_argument("--clips", type=int, default=32, help="new sentences")
    parser.add_argument("--output", type=Path, default=Path("model_cards/jova-tiny/lora.json"))
    parser.add_argument("--config", type=Path, default=CONFIGS / "jova_tiny_lora.yaml", help="preset of the adapter")
    add_arguments(parser, "runs/lora-evidence")
    add_report_only(parser)
    parser.add_argument("overrides", nargs="*", metavar="name=value", help="settings of the training")
    args = parser.parse_intermixed_args(argv)
    try:
        pipeline, overrides = load_pipeline(args.model), parse_overrides(args.overrides)
        settings = load_yaml(
            args.config, {**overrides, "model": str(args.model), "data": "records", "output_dir": "adapter"}
        )
    except ValueError as error:
        parser.error(str(error))

    # 1. The adapter, the clips, the figures
    origin = {**provenance(), "model": fingerprint(args.model, {}), "device": device_name()}
    work = args.work / work_name(args.model, {"speech": args.speech, **settings.settings_of_result()})
    first = FIRST_LORA_SEED + NUM_TRAINING_CLIPS
    references = held_out_clips(pipeline, range(first, first + args.clips), identity=NEW_AVATAR, speech=args.speech)
    defaults = pipeline.defaults
    geometry = {name: getattr(defaults, name) for name in ("num_frames", "frame_rate", "height", "width")}
    geometry |= {"sampling_rate": pipeline.audio_codec.sampling_rate, "speech": args.speech}
    adapter = train_adapter(args.model, work, geometry, args.config, args.overrides)
    clips, summaries = measure_adapter(
        pipeline, adapter, references, work, synthesizer=args.speech, batch_size=args.batch_size
    )

    # 2. The report
    verdict = judge(summaries)
    report = {
        **origin,
        "clips": args.clips,
        "steps": settings.steps,
        "samples_per_step": settings.batch_size * settings.gradient_accumulation_steps,
        "verdict": verdict,
        "summaries": summaries,
    }
    write_json(args.output, report)
    write_examples(clips, references, args.output.parent)
    card = args.output.with_name("README.md")
    if card.exists():
        fill_section(card, "lora", describe(report))
    print(describe(report))
    print(", ".join(f"{name}: {is_met}" for name, is_met in verdict.items()))
    return int(not all(verdict.values()) and not args.report_only)


if __name__ == "__main__":
    raise SystemExit(main())
