"""Time a training step with the mouth loss beside one without it, in the same run.

    python -m benchmarks.mouth_loss [--model transformer.json] [--batch-size N] [--repeats N]

Both steps are forward, loss, backward and optimizer of jova-tiny's transformer on the same batch; without it, no mask
is sent or used. The two kinds alternate, so that other load on the machine hits both; the fastest step of each counts,
and beside it the median of the ratios of neighbours.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusers_jova.training.loop.model import load_transformer
from diffusers_jova.training.loop.objective import jova_loss


MODEL = Path(__file__).parents[1] / "training" / "configs" / "jova_tiny_transformer.json"
NUM_FRAMES, SIZE, NUM_AUDIO_LATENTS, NUM_TEXT = 9, 8, 64, 40


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the seconds of both steps and their ratio as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(MODEL), help="transformer: a .json of arguments or a saved folder")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    step = training_step(args.model, args.batch_size, device)
    for with_mouth in (True, False):
        step(with_mouth)  # warm up
    pairs = []
    for repeat in range(args.repeats):
        order = (True, False) if repeat % 2 == 0 else (False, True)
        seconds = {with_mouth: timed(step, with_mouth, device) for with_mouth in order}
        pairs.append((seconds[True], seconds[False]))
    with_s, without_s = (min(column) for column in zip(*pairs, strict=True))
    median = statistics.median(with_it / without for with_it, without in pairs)
    times = {"device": str(device), "with_s": with_s, "without_s": without_s}
    print(json.dumps(times | {"ratio_of_fastest": with_s / without_s, "median_ratio": median}, indent=1))


def training_step(model: str, batch_size: int, device: torch.device) -> Callable[[bool], None]:
    """Builds a step that is told whether to use the mouth loss."""
    torch.manual_seed(0)
    transformer: Any = load_transformer(model).to(device).train()
    optimizer = torch.optim.AdamW(transformer.parameters(), lr=1e-4, fused=device.type == "cuda")
    config = transformer.config
    sizes = (NUM_FRAMES, SIZE, SIZE)
    noisy = torch.randn(batch_size, config.in_channels, *sizes, device=device)
    audio = torch.randn(batch_size, NUM_AUDIO_LATENTS, config.audio_in_channels, device=device)
    text = torch.randn(batch_size, NUM_TEXT, config.text_dim, device=device)
    target = torch.randn(batch_size, config.out_channels, *sizes, device=device)
    stored_mask = torch.zeros(batch_size, 1, *sizes, dtype=torch.bool)
    stored_mask[..., 5:7, 3:6] = True
    timestep = torch.rand(batch_size, device=device) * 1000

    def step(with_mouth: bool) -> None:
        mask: Tensor | None = stored_mask.to(device).float() if with_mouth else None
        with torch.autocast(device.type, torch.bfloat16):
            velocity, audio_velocity = transformer(
                noisy, audio, text, timestep, frame_rate=16.0, audio_latent_rate_hz=31.25, return_dict=False
            )
        jova_loss(velocity, audio_velocity, target, audio, mask).total.mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def timed(step: Callable[[bool], None], with_mouth: bool, device: torch.device) -> float:
    """Measures one step: processor seconds on a CPU, which other load does not lengthen, else wall seconds."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = clock()
    step(with_mouth)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - started


if __name__ == "__main__":
    main()
