"""A model in the words of `jova evaluate`: its clips of a list of prompts are made first, as `jova generate` does."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .generate import add_arguments, add_sharing_arguments, check, check_adapters, parse_adapter
from .given_paths import kind_of
from .long_clips import add_long_arguments
from .parser import Parser
from .shipped import find_model
from .tables import some


CLIPS = "clips"  # folder within the report's, for what the model makes


def is_model(source: Path) -> bool:
    """Whether a word names a saved pipeline, on this machine or in the package, and not clips."""
    folder = Path(find_model(source))
    return kind_of(folder) == "folder" and kind_of(folder / "model_index.json") == "file"


def check_model(args: argparse.Namespace) -> argparse.Namespace | None:
    """The words of `jova generate` that make the clips; None where all sources are clips.

    Raises:
        ValueError: If a model stands beside clips or without prompts, or what it should make cannot be.
    """
    models = [str(source) for source in args.clips if is_model(source)]
    if not models:
        for option in ("lora", "seed"):
            if getattr(args, option) not in (None, []):
                raise ValueError(f"`--{option}` must go with a model, got clips; leave it out, or name a model")
        return None
    if len(args.clips) > 1:
        raise ValueError(
            f"a model must be evaluated alone, got {some(list(map(str, args.clips)))}; evaluate each, and compare "
            f"their clips by `--against REPORT/{CLIPS}`"
        )
    if args.prompts is None:
        raise ValueError(
            f"`--prompts` must say what the model {models[0]} makes, got none; give a list of `jova generate "
            "--prompts`, or a benchmark's folder"
        )
    adapters = list(map(parse_adapter, args.lora))
    check_adapters(adapters)
    generation = parse_generation(generation_words(args))
    if not generation.rows:
        raise ValueError(
            f"`--prompts` must hold a row of which a clip can be made, got {args.prompts} without; "
            f"{generation.refused[0].reason if generation.refused else 'write one'}"
        )
    if adapters and (own := sum(row.args.lora != adapters for row in generation.rows)):
        told = (
            f"{own} of {len(generation.rows)} rows of {args.prompts} have adapters of their own in place of `--lora`"
        )
        print(told, file=sys.stderr)
    return generation


def generation_words(args: argparse.Namespace) -> list[str]:
    """The same wishes as words of `jova generate`."""
    words = ["--model", str(args.clips[0]), "--prompts", str(args.prompts), "--output", str(args.output / CLIPS)]
    words += ["--benchmark", args.benchmark] if args.benchmark is not None else []
    words += ["--device", args.device] if args.device is not None else []
    words += ["--seed", str(args.seed)] if args.seed is not None else []
    words += ["--ray", "--num-processes", str(args.num_processes)] if args.ray else []
    return words + [word for adapter in args.lora for word in ("--lora", adapter)]


def parse_generation(words: Sequence[str]) -> argparse.Namespace:
    """Read words of `jova generate`, and the rows of its list.

    Raises:
        ValueError: If they cannot work.
    """
    parser = Parser(prog="jova evaluate")
    for add in (add_arguments, add_long_arguments, add_sharing_arguments):
        add(parser)
    args = parser.parse_args(words)
    check(args)
    return args
