"""The arms of the ablations: what each changes, and one run of it from its start to its measures."""

from __future__ import annotations

import inspect
import json
import statistics
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from diffusers_jova import JoVAPipeline
from diffusers_jova.evaluation.summary import summarize
from diffusers_jova.origin import check_origin, digest_components, keep_origin, read_origin
from diffusers_jova.recipes.evidence import load_pipeline, measure
from diffusers_jova.recipes.generation import BATCH_SIZE, FIRST_SEED, generate, held_out_clips
from diffusers_jova.recipes.jova_tiny import assemble, start_training, wait_for
from diffusers_jova.training.loop.branches import copy_branch
from diffusers_jova.training.loop.config import TrainConfig, load_yaml
from diffusers_jova.training.loop.microbatches import MicroBatches
from diffusers_jova.training.loop.model import TRANSFORMERS, load_transformer
from diffusers_jova.training.loop.trainer import Trainer
from diffusers_jova.training.train import checked_input
from diffusers_jova.whole_files import write_json
from jova_cli.training_info import last_report


FIRST_ABLATION_SEED = FIRST_SEED + 200_000
CALIBRATION_STEPS, TIMED_ROUNDS = 20, 10
DECODERS = (  # parts of a pipeline that have a say in an arm's clips
    *("vae", "audio_vae", "vocoder", "scheduler"),
    *("tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2"),
)


class Arm(NamedTuple):
    """One arm: the settings of its run, and the configuration of its transformer, that differ.

    `trains_audio_branch` says that the audio branch of stage 1 computes something else in this arm.
    """

    settings: Mapping[str, Any] = {}
    model: Mapping[str, Any] = {}
    trains_audio_branch: bool = False


# fmt: off
ARMS = {
    "base":              Arm(),  # lambda 5, aligned by time, joint attention
    "lambda-0":          Arm({"mouth_weight": 0.0}),
    "lambda-2":          Arm({"mouth_weight": 2.0}),
    "lambda-8":          Arm({"mouth_weight": 8.0}),
    "unaligned":         Arm(model={"temporal_alignment": "none"}, trains_audio_branch=True),
    "cross":             Arm(model={"fusion": "cross"}),
    "cross-linear":      Arm(model={"fusion": "cross_linear"}),
    # of the two towers of Wan blocks of `jova_tiny_towers.json`
    "towers-joint":      Arm(model={"_class_name": "JoVAWanTransformer3DModel"}),
    "towers-bridge":     Arm(model={"fusion": "bridge", "fusion_layers": None}),
    "towers-aligned":    Arm(model={"fusion": "aligned", "fusion_layers": None}),
    "towers-text-cross": Arm(model={"fusion": "text_cross", "fusion_layers": None}),
}
LAST_PROJECTION = {"bridge": "to_out", "text_cross": "to_v"}  # of fusions that do not begin silent by themselves
# fmt: on


def arm_config(name: str, seed: int, folder: Path, settings: Mapping[str, Any], preset: Path) -> TrainConfig:
    """Settings of one run.

    Args:
        name: A key of `ARMS`.
        seed: Of data order and noise.
        folder: Of the run.
        settings: What all arms share and differs from the preset; `data` is one of them.
        preset: Settings of all arms.
    """
    own = {"model": str(folder / "start"), "output_dir": str(folder), "seed": seed}
    return load_yaml(preset, {**settings, **ARMS[name].settings, **own})


def train_audio_branch(name: str, branches: Path, data: Path, preset: Path, folder: Path) -> None:
    """Run stage 1 of the audio branch as an arm computes it, unless it is done.

    Args:
        name: A key of `ARMS`.
        branches: Saved transformer of stage 1, whose architecture the arm varies.
        data: Prepared clips.
        preset: Settings of the run.
        folder: Of the run.
    """
    model = folder / "model.json"
    places = {"model": str(model), "data": str(data), "output_dir": str(folder)}
    settings = load_yaml(preset, places).settings_of_result()
    keep_origin(folder, {**settings, "branches": digest_components([branches]), "data": read_origin(data)})
    if (folder / "transformer").is_dir():
        return
    model.write_text(json.dumps({**json.loads((branches / "config.json").read_text()), **ARMS[name].model}))
    wait_for(start_training(preset, [f"{name}={place}" for name, place in places.items()]))


def write_start(name: str, branches: Path, audio: Path | None = None, *, folder: Path) -> None:
    """Save what an arm begins with: the branches of stage 1 in the arm's architecture.

    What is added between the branches is silent at first.

    Args:
        name: A key of `ARMS`.
        branches: Saved transformer of stage 1.
        audio: Saved transformer whose audio branch takes the place of that of `branches`.
        folder: To write.

    Raises:
        ValueError: If the arm lacks weights of `branches`, or adds some that are heard and no fusion of two towers.
    """
    start = build_start(name, branches)
    if audio is not None:
        copy_branch(load_transformer(str(audio)), start, "audio")
    start.save_pretrained(folder)


def build_start(name: str, branches: Path) -> Any:
    """The branches of stage 1 in the architecture of an arm; arguments and errors are those of `write_start`."""
    source = load_transformer(str(branches))
    start = build_transformer({**source.config, **ARMS[name].model})
    missing, unexpected = start.load_state_dict(source.state_dict(), strict=False)
    silence(start)
    heard = [key for key in missing if "fusion" not in key.split(".") and start.get_parameter(key).any()]
    if wrong := [*unexpected, *heard]:
        raise ValueError(
            f"{name} must keep the weights of stage 1 and add only zeros and fusions, got {', '.join(wrong)}; "
            "see `ARMS`"
        )
    return start


def check_branches(branches: Path, names: Collection[str], meets: str | None) -> None:
    """Refuse branches of stage 1 that an arm cannot begin with, before any is trained.

    Args:
        branches: Saved transformer of stage 1.
        names: Keys of `ARMS`.
        meets: Its `fusion`, which arms without one of their own keep; None does not ask.

    Raises:
        ValueError: If they have another `fusion`, or an arm would lose weights of theirs.
    """
    fusion = load_transformer(str(branches)).config.get("fusion")
    if meets is not None and fusion != meets:
        raise ValueError(
            f"`--branches` must be a transformer with `fusion` {meets}, which the first arm keeps, got {fusion} in "
            f"`{branches}`; take one of stage 1"
        )
    for name in names:
        build_start(name, branches)


def build_transformer(values: Mapping[str, Any]) -> Any:
    """Build the transformer that `_class_name` of a configuration names, of those values that it has."""
    (model_class,) = (kind for kind in TRANSFORMERS if kind.__name__ == values["_class_name"])
    parameters = inspect.signature(model_class).parameters
    return model_class(**{name: value for name, value in values.items() if name in parameters})


@torch.no_grad()
def silence(transformer: Any) -> None:
    """Make zeros of what a bridge, or the attention to text, adds to two towers; aligned attention begins so."""
    projection = LAST_PROJECTION.get(transformer.config.get("fusion", ""))
    for name, parameter in transformer.named_parameters():
        if "fusion" in (parts := name.split(".")) and projection in parts:
            parameter.zero_()


def run_arm(
    config: TrainConfig,
    codecs: Path,
    result: Path,
    *,
    origin: Mapping[str, Any],
    num_clips: int,
    speech: str,
    batch_size: int = BATCH_SIZE,
) -> dict[str, Any]:
    """Train one arm, measure it on held-out prompts, write its result; a finished one is only read.

    Args:
        config: The run.
        codecs: Saved pipeline, or what `train_codecs` wrote: makes clips of what the arm generates.
        result: JSON file to write.
        origin: What the arm begins with and learns from, and the digest of the `components` that decode it.
        num_clips: Held-out prompts.
        speech: Voice of the training set.
        batch_size: Clips generated at a time.

    Raises:
        OriginError: If the finished result is one of other settings.
    """
    settings = config.settings_of_result() | {"clips": num_clips, "speech": speech, **origin}
    if result.exists():
        found = json.loads(result.read_text())
        check_origin(found["settings"], settings, result)
        return found
    folder = Path(config.output_dir)
    with checked_input():
        trainer = Trainer(config)
    trainer.train()
    pipeline = pipeline_with(codecs, load_transformer(str(folder / "transformer")))
    seeds = range(FIRST_ABLATION_SEED, FIRST_ABLATION_SEED + num_clips)
    references = held_out_clips(pipeline, seeds, subject="speaker", speech=speech)
    made = generate(pipeline, references, folder / f"clips-{origin['components']}", batch_size=batch_size)
    measures = summarize(measure([(clip.frames, clip.waveform) for clip in made], references, speech))
    values = {
        "settings": settings,
        "samples": config.steps * config.batch_size * config.gradient_accumulation_steps,
        "parameters": sum(parameter.numel() for parameter in pipeline.transformer.parameters()),
        "losses": last_report(folder),
        "measures": {name: summary["mean"] for name, summary in measures.items()},
    }
    write_json(result, values)
    return values


def begin_arm(name: str, starts: Sequence[Path], config: TrainConfig, origin: Mapping[str, Any]) -> None:
    """Make ready what an arm begins with, or refuse to continue one that began with something else.

    Args:
        name: A key of `ARMS`.
        starts: Saved transformer of stage 1 and, where the arm has one of its own, that of the audio branch.
        config: The run.
        origin: What the arm begins with and learns from.
    """
    keep_origin(Path(config.output_dir), {**config.settings_of_result(), **origin})
    write_start(name, *starts, folder=Path(config.model))


def digest_decoders(codecs: Path) -> str:
    """Digest what makes clips of what an arm generates; checkpoints and reports beside it do not count."""
    folders = [codecs / name for name in DECODERS]
    return digest_components([codecs, *(folder for folder in folders if folder.is_dir())])


def pipeline_with(codecs: Path, transformer: Any) -> JoVAPipeline:
    """Put a trained transformer among codecs."""
    if (codecs / "model_index.json").is_file():
        return load_pipeline(codecs, transformer=transformer)
    pipeline = assemble(codecs, transformer).to("cuda" if torch.cuda.is_available() else "cpu")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def steps_within(minutes: float, config: TrainConfig) -> int:
    """Find the steps that a run of this machine takes in a time, by a short run in `output_dir`."""
    short = {"steps": 2 * CALIBRATION_STEPS, "log_every": CALIBRATION_STEPS, "warmup_steps": 0, "resume": False}
    with checked_input():
        trainer = Trainer(TrainConfig(**{**vars(config), **short}))
    trainer.train()
    seconds_per_step = (
        config.batch_size
        * config.gradient_accumulation_steps
        / last_report(Path(config.output_dir))["samples_per_second"]
    )
    return max(round(60 * minutes / seconds_per_step), 1)


def times_of_steps(configs: Mapping[str, TrainConfig], rounds: int = TIMED_ROUNDS) -> dict[str, float]:
    """Seconds of a training step of each run, which take turns: the median of their rounds, after one that warms up.

    Args:
        configs: The runs, whose folders stay without a result.
        rounds: Steps of each.
    """
    trainers = {name: Trainer(TrainConfig(**{**vars(config), "resume": False})) for name, config in configs.items()}
    batches = {
        name: MicroBatches(trainer.config, trainer.dataset, None, 0, 1, 0) for name, trainer in trainers.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in trainers}
    for _ in range(rounds + 1):
        for name, trainer in trainers.items():
            started = time.perf_counter()
            trainer.take_step(batches[name])
            float(trainer.meter.gradient_norm.sum())  # a GPU has ended by then
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(taken[1:]) for name, taken in seconds.items()}
