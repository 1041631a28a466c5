"""The paper's ablations in small: the same data, steps and batches for every arm, several seeds, one table.

    python -m diffusers_jova.recipes.ablations --output runs/ablations --steps 120 --seeds 3

JoVA (arXiv:2512.13677v1), Tab. 3, 4 and 5: the weight of the mouth loss, the alignment of the two time axes, how the
branches meet. Each arm is a stage 2 of `jova train` on the records of jova-tiny that differs from the first arm in
one setting, measured on held-out prompts as the shipped model is. All begin with the two branches that stage 1 left;
where the setting changes what the audio branch computes alone, that branch is trained anew first. An arm that has its
result file is skipped, an interrupted one continues from its checkpoint; both are refused if they were made with other
settings, records, branches or codecs. `--parallel 2` trains two arms at a time.
"""

from __future__ import annotations

import json
import subprocess
import sys
from argparse import Namespace
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, product
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import torch

from diffusers_jova.origin import OriginError, check_origin, digest_components, read_origin
from diffusers_jova.recipes.ablation_arms import (
    ARMS,
    arm_config,
    begin_arm,
    digest_decoders,
    run_arm,
    steps_within,
    train_audio_branch,
    write_start,
)
from diffusers_jova.recipes.model_card import fill_section, markdown_table, provenance
from diffusers_jova.training.loop.config import load_yaml, parse_overrides
from diffusers_jova.training.train import checked_input, worded_errors
from diffusers_jova.whole_files import write_json
from jova_cli.parser import Parser, one_line
from jova_cli.shipped import CONFIGS


Run = tuple[str, int]  # arm and seed


# fmt: off
TABLES = {  # the paper's table: rows of label and arm
    "Weight of the mouth loss (Tab. 3)": {"0": "lambda-0", "2": "lambda-2", "5": "base", "8": "lambda-8"},
    "Alignment of the time axes (Tab. 4)": {"none": "unaligned", "by time": "base"},
    "How the branches meet (Tab. 5)": {
        "cross-attention": "cross",
        "cross-attention, linear": "cross-linear",
        "joint attention": "base",
    },
}
COLUMNS = {  # measure: heading
    "sync_within_one_frame": "sync within one frame",
    "lse_c":                 "LSE-C",
    "lse_d":                 "LSE-D",
    "envelope_correlation":  "mouth and envelope",
    "word_top1":             "words, top-1 of 10",
    "identity_correct":      "colours all right",
}
# fmt: on


# 1. All arms


def aggregate(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation over seeds of each measure, with what the arm's runs have in common."""
    names = results[0]["measures"]
    values = {
        name: np.array([result["measures"][name] for result in results if name in result["measures"]])
        for name in names
    }
    return {
        "seeds": len(results),
        **{key: results[0]["settings"][key] for key in ("steps", "clips")},
        **{key: results[0][key] for key in ("samples", "parameters")},
        "mean": {name: float(column.mean()) for name, column in values.items()},
        "spread": {name: float(column.std(ddof=min(len(column) - 1, 1))) for name, column in values.items()},
    }


def describe(arms: Mapping[str, Mapping[str, Any]], origin: Mapping[str, str]) -> str:
    """The section of the model card: one table per table of the paper."""
    base = arms["base"]
    text = [
        "## Ablations",
        "The paper's Tables 3, 4 and 5 in small: every arm begins with the branches of stage 1 and sees the same "
        f"{base['samples']:,} samples of stage 2 ({base['steps']:,} steps); {base['seeds']} seeds of data order and "
        f"noise, {base['clips']} held-out prompts each; mean +- standard deviation over seeds. Without alignment, the "
        "audio branch of stage 1 was trained without it too. Tabulated on "
        f"{origin['date'][:10]} at commit {origin['commit']}; `make ablations` repeats it.",
    ]
    for title, rows in TABLES.items():
        lines = [[label, *(_figure(arms[arm], name) for name in COLUMNS)] for label, arm in rows.items()]
        text.append(markdown_table([title, *COLUMNS.values()], lines))
    return "\n\n".join(text)


def _figure(arm: Mapping[str, Any], name: str) -> str:
    return f"{arm['mean'][name]:.3f} +- {arm['spread'][name]:.3f}" if name in arm["mean"] else "-"


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


def find_steps(args: Namespace, settings: Mapping[str, Any]) -> int:
    """Steps of every arm: as asked for, or what fits into the minutes, which is found once per output folder."""
    if args.steps:
        return int(args.steps)
    budget = args.output / "budget.json"
    trial = arm_config("base", 0, args.output / "trial", settings, args.config)
    origin = {"minutes": args.minutes_per_arm, "settings": trial.settings_of_result()}
    origin["start"] = digest_components([args.branches])
    if budget.exists():
        found = json.loads(budget.read_text())
        check_origin(found, origin, budget)
        return int(found["steps"])
    write_start("base", args.branches, folder=Path(trial.model))
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


def write_report(path: Path, files: Mapping[Run, Path], results: Mapping[Run, Mapping[str, Any]]) -> None:
    """Write what all runs measured, and the tables into the model card beside it."""
    arms = {name: aggregate([result for (arm, _), result in results.items() if arm == name]) for name in ARMS}
    origin = provenance()
    write_json(path, {**origin, "arms": arms, "runs": {file.stem: results[run] for run, file in files.items()}})
    table = describe(arms, origin)
    if (card := path.with_name("README.md")).exists():
        fill_section(card, "ablations", table)
    print(table)


# 2. The command


def build_parser() -> Parser:
    """What the command takes."""
    parser = Parser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--data", type=Path, default=Path("runs/jova-tiny/records"), help="prepared clips")
    parser.add_argument("--codecs", type=Path, default=Path("runs/jova-tiny/codecs"), help="codecs, or a pipeline")
    parser.add_argument("--branches", type=Path, default=Path("runs/jova-tiny/start"), help="transformer of stage 1")
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
    parser.add_argument("--report", type=Path, default=Path("model_cards/jova-tiny/ablations.json"))
    parser.add_argument("--only", nargs=2, metavar=("ARM", "SEED"), help="one run, without a table")
    parser.add_argument("overrides", nargs="*", metavar="name=value", help="settings of all arms")
    return parser


def find_runs(only: Sequence[str] | None, num_seeds: int) -> list[Run]:
    """All runs, or the one that `--only` names."""
    if only is None:
        return list(product(ARMS, range(num_seeds)))
    name, seed = only
    if name not in ARMS or not seed.isdecimal():
        raise ValueError(f"`--only` must be an arm and a seed, got {name} {seed}; the arms are {', '.join(ARMS)}")
    return [(name, int(seed))]


def check_arguments(args: Namespace) -> tuple[list[Run], dict[str, Any]]:
    """Runs and their common settings; what would end a later run is refused now.

    Raises:
        ValueError: If a folder, a preset or an override cannot be used.
    """
    for name in ("data", "codecs", "branches"):
        if not (folder := getattr(args, name)).is_dir():
            raise ValueError(f"`--{name}` must be an existing folder, got `{folder}`; run `make jova-tiny`")
    if args.parallel < 1:
        raise ValueError(f"`--parallel` must be at least 1, got {args.parallel}; use 1 for one arm at a time")
    settings: dict[str, Any] = {"data": str(args.data), **parse_overrides(args.overrides)}
    runs = find_runs(args.only, args.seeds)
    for name, seed in runs:
        arm_config(name, seed, args.output, settings, args.config)
    load_yaml(args.audio_config, {"data": str(args.data), "output_dir": str(args.output), "model": "model.json"})
    return runs, settings


def run_arms(args: Namespace, words: Sequence[str]) -> None:
    """Train and measure the arms that are not done, write the tables.

    Args:
        args: What the command line says.
        words: Its words, for processes of its own.
    """
    with checked_input():
        runs, settings = check_arguments(args)
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
        write_report(args.report, files, results)


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
