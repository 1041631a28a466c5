"""The paper's ablations in small, and what couples two towers best: the same data, steps and batches for every arm.

    python -m diffusers_jova.recipes.ablations --output runs/ablations --steps 120 --seeds 3
    python -m diffusers_jova.recipes.ablations --compare towers --output runs/towers --steps 120 --seeds 3

JoVA (arXiv:2512.13677v1), Tab. 3, 4 and 5: the weight of the mouth loss, the alignment of the two time axes, how the
branches meet. `--compare towers` asks the last question of two towers of Wan blocks, which are JoVA's with joint
attention, MOVA's with a bridge, UniAVGen's with aligned attention and Ovi's where the attention to text reads more.

Each arm is a stage 2 of `jova train` on the records of jova-tiny that differs from the first arm in one setting,
measured on held-out prompts as the shipped model is. All begin with the two branches that stage 1 left (the towers'
own is trained here, unless `--branches` is given); where the setting changes what the audio branch computes alone,
that branch is trained anew first. An arm that has its result file is skipped, an interrupted one continues from its
checkpoint; both are refused if they were made with other settings, records, branches or codecs. `--parallel 2` trains
two arms at a time.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from argparse import Namespace
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from threading import Event
from typing import Any

import torch

from diffusers_jova.origin import OriginError, check_origin, digest_components, read_origin
from diffusers_jova.recipes.ablation_arms import (
    ARMS,
    arm_config,
    begin_arm,
    check_branches,
    digest_decoders,
    run_arm,
    steps_within,
    times_of_steps,
    train_audio_branch,
    write_start,
)
from diffusers_jova.recipes.ablation_tables import COMPARISONS, Comparison, aggregate, describe
from diffusers_jova.recipes.jova_tiny import train_stage_1
from diffusers_jova.recipes.model_card import fill_section, find_section, provenance
from diffusers_jova.training.loop.config import load_yaml, parse_overrides
from diffusers_jova.training.train import checked_input, worded_errors
from diffusers_jova.whole_files import write_json
from jova_cli.parser import Parser, one_line
from jova_cli.shipped import CONFIGS, model_folder


Run = tuple[str, int]  # arm and seed
JOVA_TINY = Path("runs/jova-tiny")
CARD = Path("model_cards/jova-tiny")
# what `make ablations` gives, and what says only where and how fast
OF_MAKE = ("compare", "output", "report", "steps", "minutes_per_arm", "parallel", "only")


# 1. All arms


def run_parallel(commands: Sequence[Sequence[str]], num_parallel: int) -> None:
    """Run commands of this module as processes of their own, a few at a time.

    Raises:
        subprocess.CalledProcessError: If one fails; those that run are finished first, the others are not begun.
    """
    failed = Event()

    def start(command: Sequence[str]) -> None:
        if failed.is_set():
            return
        try:
            subprocess.run([sys.executable, "-m", "diffusers_jova.recipes.ablations", *command], check=True)
        except BaseException:
            failed.set()
            raise

    with ThreadPoolExecutor(num_parallel) as pool:
        for future in [pool.submit(start, command) for command in commands]:
            future.result()


def make_starts(args: Namespace, names: Collection[str]) -> dict[str, list[Path]]:
    """What each arm begins with: the transformer of stage 1, and an audio branch of its own where it needs one."""
    starts = {name: [args.branches] for name in names}
    for name in names:
        if ARMS[name].trains_audio_branch:
            audio = args.output / f"audio-{name}"
            train_audio_branch(name, args.branches, args.data, args.audio_config, audio)
            starts[name].append(audio / "transformer")
    return starts


def find_branches(args: Namespace) -> Path:
    """The transformer of stage 1: given, of jova-tiny, or trained here."""
    if args.branches is not None:
        return Path(args.branches)
    if (model := COMPARISONS[args.compare].stage_1) is None:
        return JOVA_TINY / "start"
    return train_stage_1(args.data, args.output / "stage-1", [f"model={CONFIGS / model}"])


def find_steps(args: Namespace, settings: Mapping[str, Any]) -> int:
    """Steps of every arm: as asked for, or what fits into the minutes, which is found once per output folder."""
    if args.steps:
        return int(args.steps)
    budget = args.output / "budget.json"
    base = COMPARISONS[args.compare].base
    trial = arm_config(base, 0, args.output / "trial", settings, args.config)
    origin = {"minutes": args.minutes_per_arm, "settings": trial.settings_of_result()}
    origin["start"] = digest_components([args.branches])
    if budget.exists():
        found = json.loads(budget.read_text())
        check_origin(found, origin, budget)
        return int(found["steps"])
    write_start(base, args.branches, folder=Path(trial.model))
    steps = steps_within(args.minutes_per_arm, trial)
    write_json(budget, {"steps": steps, **origin})
    return steps


def _shortened(preset: Path, steps: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Warm-up, averaging and checkpoints in proportion to a shorter run, unless they are given."""
    full = load_yaml(preset, {"output_dir": "runs", **settings})
    share = min(steps / full.steps, 1.0)
    own: dict[str, Any] = {
        "warmup_steps": round(full.warmup_steps * share),
        "checkpoint_every": max(round(full.checkpoint_every * share), 1),
    }
    if not torch.cuda.is_available():
        own["compile"] = False  # two minutes that a CPU does not get back
    if full.ema_decay is not None:
        own["ema_decay"] = 1 - min((1 - full.ema_decay) / share, 0.05)  # the same part of the run
    return {name: value for name, value in own.items() if name not in settings}


def time_arms(args: Namespace, starts: Mapping[str, Sequence[Path]], settings: Mapping[str, Any]) -> dict[str, float]:
    """Seconds of a training step of each arm, which take turns."""
    configs = {name: arm_config(name, 0, args.output / "times" / name, settings, args.config) for name in starts}
    for name, config in configs.items():
        write_start(name, *starts[name], folder=Path(config.model))
    return times_of_steps(configs)


def write_report(
    path: Path,
    comparison: Comparison,
    files: Mapping[Run, Path],
    results: Mapping[Run, Mapping[str, Any]],
    times: Mapping[str, float],
    command: str = "",
) -> None:
    """Write what all runs measured, and the tables into the section of the model card beside it that has its name.

    Args:
        path: Of the report.
        comparison: What is tabulated.
        files: Of the results.
        results: Of all arms and seeds.
        times: Seconds of a training step of each arm; empty where none were taken.
        command: Repeats the runs; empty where `make ablations` does.
    """
    arms = {
        name: aggregate([result for (arm, _), result in results.items() if arm == name]) for name in comparison.arms
    }
    for name, seconds in times.items():
        arms[name] |= {"step_s": seconds, "relative_time": seconds / times[comparison.base]}
    origin = provenance()
    write_json(path, {**origin, "arms": arms, "runs": {file.stem: results[run] for run, file in files.items()}})
    table = describe(comparison, arms, origin, command, own_section=path.stem == comparison.name)
    if (card := path.with_name("README.md")).exists():
        fill_section(card, path.stem, table)
    print(table)


# 2. The command


def build_parser() -> Parser:
    """What the command takes."""
    parser = Parser(description=__doc__)
    parser.add_argument("--compare", choices=tuple(COMPARISONS), default="ablations", help="which arms")
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--data", type=Path, default=JOVA_TINY / "records", help="prepared clips")
    parser.add_argument(
        "--codecs",
        type=model_folder,
        default=JOVA_TINY / "codecs",
        help="codecs, a pipeline or what ships under a name",
    )
    parser.add_argument(
        "--branches",
        type=Path,
        help="transformer of stage 1; without it that of jova-tiny, and for `towers` one that is trained here",
    )
    parser.add_argument("--config", type=Path, default=CONFIGS / "jova_tiny.yaml", help="preset of all arms")
    parser.add_argument(
        "--audio-config", type=Path, default=CONFIGS / "jova_tiny_audio.yaml", help="preset of the audio branch alone"
    )
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--steps", type=int, help="steps of every arm")
    budget.add_argument("--minutes-per-arm", type=float, help="time of the first arm; all take as many steps")
    parser.add_argument("--seeds", type=int, default=3, help="runs per arm")
    parser.add_argument("--clips", type=int, default=24, help="held-out prompts per run")
    parser.add_argument("--speech", choices=("espeak", "formant"), default="espeak", help="voice of the training set")
    parser.add_argument("--parallel", type=int, default=1, help="arms at a time")
    parser.add_argument(
        "--report",
        type=Path,
        help="JSON file to write, whose name is that of the section that its tables fill in the README.md beside it; "
        "without it in model_cards/jova-tiny",
    )
    parser.add_argument("--only", nargs=2, metavar=("ARM", "SEED"), help="one run, without a table")
    parser.add_argument("overrides", nargs="*", metavar="name=value", help="settings of all arms")
    return parser


def find_runs(only: Sequence[str] | None, arms: Sequence[str], num_seeds: int) -> list[Run]:
    """All runs, each seed of all arms before the next, or the one that `--only` names."""
    if only is None:
        return [(name, seed) for seed in range(num_seeds) for name in arms]
    name, seed = only
    if name not in arms or not seed.isdecimal():
        raise ValueError(f"`--only` must be an arm and a seed, got {name} {seed}; the arms are {', '.join(arms)}")
    return [(name, int(seed))]


def find_report(args: Namespace) -> Path:
    """Where what all runs measured is written: as asked for, or beside the card of jova-tiny."""
    return args.report or CARD / f"{COMPARISONS[args.compare].name}.json"


def check_arguments(args: Namespace) -> tuple[list[Run], dict[str, Any]]:
    """Runs and their common settings; what would end a later run is refused now.

    Raises:
        ValueError: If a folder, a preset, an override or the card cannot be used.
    """
    comparison = COMPARISONS[args.compare]
    folders = {"data": args.data, "codecs": args.codecs}
    if args.branches is not None or comparison.stage_1 is None:
        folders["branches"] = find_branches(args)
    for name, folder in folders.items():
        if not folder.is_dir():
            raise ValueError(f"`--{name}` must be an existing folder, got `{folder}`; run `make jova-tiny`")
    if args.parallel < 1:
        raise ValueError(f"`--parallel` must be at least 1, got {args.parallel}; use 1 for one arm at a time")
    report = find_report(args)
    if not args.only and (card := report.with_name("README.md")).exists():
        find_section(card, report.stem)
    settings: dict[str, Any] = {"data": str(args.data), **parse_overrides(args.overrides)}
    runs = find_runs(args.only, comparison.arms, args.seeds)
    for name, seed in runs:
        arm_config(name, seed, args.output, settings, args.config)
    load_yaml(args.audio_config, {"data": str(args.data), "output_dir": str(args.output), "model": "model.json"})
    if "branches" in folders:
        # where jova-tiny's own are taken, arms without a `fusion` are told as joint attention
        meets = "joint" if comparison.stage_1 is None else None
        check_branches(folders["branches"], dict.fromkeys(name for name, _ in runs), meets)
    return runs, settings


def own_command(args: Namespace, words: Sequence[str]) -> str:
    """The command as it was, where it had words that `make ablations` does not give; else empty."""
    parser = build_parser()
    own = {name: value for name, value in vars(args).items() if name not in OF_MAKE and value}
    if all(value == parser.get_default(name) for name, value in own.items()):
        return ""
    return shlex.join(["python", "-m", "diffusers_jova.recipes.ablations", *words])


def run_arms(args: Namespace, words: Sequence[str]) -> None:
    """Train and measure the arms that are not done, write the tables.

    Args:
        args: What the command line says.
        words: Its words, for processes of its own.
    """
    with checked_input():
        runs, settings = check_arguments(args)
    command = own_command(args, words)
    args.branches = find_branches(args)
    starts = make_starts(args, {name for name, _ in runs})
    steps = find_steps(args, settings)
    with checked_input():
        settings |= {"steps": steps, **_shortened(args.config, steps, settings)}
    files = {run: args.output / f"{run[0]}-seed{run[1]}-{steps}.json" for run in runs}
    if args.parallel > 1:
        todo = [run for run in runs if not files[run].exists()]
        run_parallel([[*words, "--parallel", "1", "--only", name, str(seed)] for name, seed in todo], args.parallel)

    digests = {folder: digest_components([folder]) for folder in chain.from_iterable(starts.values())}
    components, results = digest_decoders(args.codecs), {}
    for (name, seed), file in files.items():
        config = arm_config(name, seed, args.output / file.stem, settings, args.config)
        origin = {"start": "-".join(digests[folder] for folder in starts[name]), "data": read_origin(args.data)}
        if not file.exists():
            begin_arm(name, starts[name], config, origin)
        origin["components"] = components
        results[name, seed] = run_arm(
            config, args.codecs, file, origin=origin, num_clips=args.clips, speech=args.speech
        )
        print(f"{name} seed {seed}: {results[name, seed]['measures']}", flush=True)
    if not args.only:
        comparison = COMPARISONS[args.compare]
        times = time_arms(args, starts, settings) if comparison.tells_cost else {}
        write_report(find_report(args), comparison, files, results, times, command)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; what is wrong with its input ends it with one sentence."""
    parser = build_parser()
    args = parser.parse_intermixed_args(argv)
    words = [str(word) for word in (argv if argv is not None else sys.argv[1:])]
    try:
        with worded_errors(parser):
            run_arms(args, words)
    except OriginError as error:
        parser.error(one_line(error))
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)  # the process has said why


if __name__ == "__main__":
    main()
