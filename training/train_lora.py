"""Train an avatar adapter: prepared clips in, one file that `JoVAPipeline.load_lora_weights` reads out.

    python -m diffusers_jova.training.prepare clips/ prepared/ --model MODEL
    python -m diffusers_jova.training.train_lora prepared/ adapter/ --model MODEL --targets attention

The adapter learns who speaks and how; dropped captions, and `prior_data=`, clips of the base model's own kind, keep it
from forgetting everything else. Running the same command again continues an interrupted run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from diffusers_jova.cli import Parser
from diffusers_jova.training.loop.config import CONFIGS, load_yaml, parse_overrides
from diffusers_jova.training.loop.lora import TARGETS
from diffusers_jova.training.train import checked_input, run, worded_errors


PRESET = CONFIGS / "lora.yaml"


def main(argv: Sequence[str] | None = None) -> None:
    """Train the adapter and say how to use it."""
    parser = Parser(description=__doc__)
    parser.add_argument("data", help="folder written by training.prepare")
    parser.add_argument("output_dir", help="folder of the adapter, its checkpoints and its log")
    parser.add_argument("--model", required=True, help="pipeline or transformer to adapt, a folder or a Hub id")
    parser.add_argument("--targets", choices=sorted(TARGETS), help="what the adapter reaches")
    parser.add_argument("--config", type=Path, default=PRESET, help="YAML preset; default: configs/lora.yaml")
    parser.add_argument("overrides", nargs="*", metavar="name=value", help="settings that differ from the preset")
    args = parser.parse_intermixed_args(argv)
    values = {"model": args.model, "data": args.data, "output_dir": args.output_dir}
    values |= {"lora_targets": args.targets} if args.targets else {}
    with worded_errors(parser):
        with checked_input():
            config = load_yaml(args.config, values | parse_overrides(args.overrides))
            if config.train != "lora":
                raise ValueError(f"`train` must be lora, got {config.train} in `{args.config}`; use training.train")
        run(config)


if __name__ == "__main__":
    main()
