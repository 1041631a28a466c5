"""Train a JoVA transformer on prepared clips.

The preset gives the recipe, `name=value` words change single settings of it:

    python -m training.train --config training/configs/stage2_joint.yaml model=... data=... output_dir=...

Running the same command again continues an interrupted run. `accelerate launch` or `torchrun` start several processes.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from training.config import load_yaml, parse_overrides
from training.trainer import Trainer


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the preset and the overrides, trains, and says where the result is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="YAML preset, for example one of training/configs")
    parser.add_argument("overrides", nargs="*", metavar="name=value", help="settings that differ from the preset")
    args = parser.parse_args(argv)
    try:
        config = load_yaml(args.config, parse_overrides(args.overrides))
    except (OSError, ValueError) as error:
        parser.error(str(error))
    trainer = Trainer(config)
    path = trainer.train()
    if trainer.accelerator.is_main_process:
        print(f"{trainer.step} of {config.steps} steps are done; the result is in {path}")


if __name__ == "__main__":
    main()
