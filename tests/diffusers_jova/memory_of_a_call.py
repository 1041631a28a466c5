"""A process that prints, as JSON, what a call was estimated to hold and what it held: `python -m`, a kind, a way."""

import gc
import json
import sys
from pathlib import Path
from typing import Any

import torch

from diffusers_jova import JoVAPipeline
from diffusers_jova.call_stages import PlannedCall
from diffusers_jova.memory_fitting import outline_of
from diffusers_jova.memory_plan import MemoryEstimate, MemoryPlan
from tests.tiny_pipeline import (
    DEFAULTS,
    build_dual_tower,
    build_tiny_pipeline,
    build_transformer,
    build_wan_transformer,
)


TOLERANCE = 0.15  # of an estimate, of what is measured: kernels have workspaces, and allocators round
WIDTH = {"num_attention_heads": 4, "attention_head_dim": 64, "rope_axes_dim": (24, 20, 20)}
TABLES = {"position_table_sizes": (32, 64, 64), "audio_position_table_size": 512}
KINDS = {
    "jova": lambda: build_transformer(**WIDTH, **TABLES, num_layers=2, num_single_layers=3),
    "wan": lambda: build_wan_transformer(**WIDTH, num_layers=3, ffn_dim=1024),
    "aligned": lambda: build_dual_tower(
        "aligned",
        **WIDTH | {"num_attention_heads": 2},
        audio_rope_axes_dim=(64, 0, 0),
        ffn_dim=1024,
        audio_ffn_dim=512,
    ),
}
# Latents come back: what a convolution of a video VAE needs besides its output is the kernel's affair
CALL: dict[str, Any] = {"prompt": "a dog!!", "output_type": "latent"}


def build_roomy_pipeline(kind: str) -> JoVAPipeline:
    """A pipeline whose call holds far more than the libraries around it: 80 MB of a step and 15 to 80 of weights."""
    tiny = build_tiny_pipeline()
    defaults = {**DEFAULTS, "height": 256, "width": 256, "num_frames": 33, "num_inference_steps": 1}
    parts = {**tiny.components, "transformer": KINDS[kind]()}
    return JoVAPipeline(**parts, defaults={**defaults, "max_sequence_length": 8})


def memory(name: str) -> int:
    """Bytes of this process that Linux tells, `VmRSS` now or `VmHWM` at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def main() -> None:
    """Estimate, make one clip, and print both numbers of bytes."""
    torch.set_num_threads(1)
    plan = MemoryPlan(branches_apart=sys.argv[2] == "apart")
    small: dict[str, Any] = {**CALL, "num_frames": 5, "num_inference_steps": 1, "height": 32, "width": 32}
    warm = build_tiny_pipeline()
    warm(**small)  # libraries load what they need
    outline = build_roomy_pipeline(sys.argv[1])
    peaks = MemoryEstimate(outline_of(outline), PlannedCall(settings=outline.defaults)).peaks(plan)
    estimated = max(peak for stage, peak in peaks if "decoding" not in stage.name)
    del outline
    gc.collect()
    start = memory("VmRSS")
    pipeline = build_roomy_pipeline(sys.argv[1])
    pipeline.memory_plan = plan
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest so far
    pipeline(**CALL, generator=torch.Generator().manual_seed(0))
    print(json.dumps({"estimated": estimated, "measured": memory("VmHWM") - start}))


if __name__ == "__main__":
    main()
