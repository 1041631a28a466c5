"""Measure what the cache that minds the sound spares and what it costs.

    python -m benchmarks.sound_cache [--clips N] [--steps N] [--solver euler|unipc] [--reference-steps N]

jova-tiny generates every clip with and without caches, and with more steps as a second reference. How near latents and
waveform come to a reference is their signal-to-noise ratio in dB; medians over the clips count. Speed is by counted
operations of the transformer: products of matrices and attention. The same count is made of real sizes, without
weights, beside the memory that the cache keeps there.
"""

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from benchmarks.random_transformer import Preset, presets, random_inputs, random_transformer
from diffusers_jova import FlowMatchAudioVideoScheduler, JoVACacheConfig, JoVAPipeline, JoVAPrompt
from diffusers_jova.scheduling_flow_match_av import SOLVERS
from diffusers_jova.sound_cache import kept_bytes, num_full_steps


NUM_STEPS_OF_SIZES = 50
SIZES = ("5B x 2", "12B x 2", "Ovi", "UniAVGen", "MOVA")
FIRST_SEED = 1000
BATCH_SIZE = 4  # clips at a time, which share the choices of an adaptive schedule
SPOKEN = ("hello blue moon", "good morning", "red lamp", "yellow sun")
LOOKS = (
    "tan skin and spiky red hair, wearing a navy shirt, speaks on a mint background",
    "pale skin and short black hair, wearing a yellow shirt, speaks on a blue background",
    "brown skin and long blond hair, wearing a white shirt, speaks on a pink background",
    "green skin and short purple hair, wearing an orange shirt, speaks on a grey background",
)
SPEAKERS = (("woman", "a female voice speaking"), ("man", "a male voice speaking"))
MEASURES = ("video", "audio", "waveform")


class Run(NamedTuple):
    """One way to generate.

    Args:
        name: In the table.
        cache: Of the transformer.
    """

    name: str
    cache: JoVACacheConfig


RUNS = (
    Run("video_interval=2", cache=JoVACacheConfig(video_interval=2)),
    Run("video_interval=3", cache=JoVACacheConfig(video_interval=3)),
    Run("video_interval=3, float8", cache=JoVACacheConfig(video_interval=3, storage_dtype=torch.float8_e4m3fn)),
    Run("video_interval=4", cache=JoVACacheConfig(video_interval=4)),
    Run(
        "video_interval=8, video_threshold=.08, audio_threshold=.2",
        cache=JoVACacheConfig(video_interval=8, video_threshold=0.08, audio_threshold=0.2),
    ),
)


def prompt_of(index: int) -> JoVAPrompt:
    """One of 32 speakers and sentences."""
    (who, voice), look = SPEAKERS[index % 2], LOOKS[index // 2 % 4]
    return JoVAPrompt(video=f"A cartoon {who} with {look}.", audio=voice, transcript=SPOKEN[(index // 8 + index) % 4])


def generate(pipeline: JoVAPipeline, clips: Sequence[int], steps: int) -> tuple[Tensor, ...]:
    """Video latents, audio latents and waveforms of a batch of clips."""
    output: Any = pipeline(
        [prompt_of(index) for index in clips],
        num_inference_steps=steps,
        generator=[torch.Generator().manual_seed(FIRST_SEED + index) for index in clips],
        output_type="latent",
    )
    return output.frames, output.audio, pipeline.decode_audio_latents(output.audio)


def signal_to_noise_db(made: Tensor, reference: Tensor) -> list[float]:
    """Energy of a reference over that of the difference from it, any one shape [B, ...], in dB for each clip."""
    made, reference = made.float().flatten(1), reference.float().flatten(1)
    ratio = reference.square().sum(1) / (made - reference).square().sum(1)
    return list((10 * torch.log10(ratio)).tolist())


def attention_operations(query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any) -> int:
    """Operations of attention on a CPU, which torch does not count, from shapes [B, H, L, K]."""
    return int(sdpa_flop_count(query, key, value))


def operation_counter() -> FlopCounterMode:
    """Counts products of matrices and attention wherever they are computed.

    Goes when torch counts attention on a CPU:
    https://github.com/pytorch/pytorch/blob/v2.13.0/torch/utils/flop_counter.py
    """
    on_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return FlopCounterMode(display=False, custom_mapping={on_cpu: attention_operations})


@contextmanager
def counted_operations(transformer: nn.Module) -> Iterator[Callable[[], int]]:
    """Count the operations of the forwards of a transformer."""
    total, counter = 0, operation_counter()

    def begin(*_: Any) -> None:
        counter.__enter__()

    def end(*_: Any) -> None:
        nonlocal total
        counter.__exit__(None, None, None)
        total += counter.get_total_flops()

    handles = [transformer.register_forward_pre_hook(begin), transformer.register_forward_hook(end)]
    try:
        yield lambda: total
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def cached(transformer: Any, cache: JoVACacheConfig) -> Iterator[None]:
    """Enable a cache."""
    transformer.enable_cache(cache)
    try:
        yield
    finally:
        transformer.disable_cache()


def measure_clips(
    pipeline: JoVAPipeline, clips: Sequence[int], steps: int, reference_steps: int
) -> dict[str, list[list[float]]]:
    """For each run and each clip: speed, and nearness to the plain run and to one of many steps, in dB."""
    figures: dict[str, list[list[float]]] = {}
    for first in range(0, len(clips), BATCH_SIZE):
        batch = clips[first : first + BATCH_SIZE]
        with counted_operations(pipeline.transformer) as count:
            plain = generate(pipeline, batch, steps)
        plain_operations = count()
        fine = generate(pipeline, batch, reference_steps)
        rows_of_plain = [[1.0, *[math.inf] * len(MEASURES), *own] for own in nearness(plain, fine)]
        note(figures, f"{steps} steps", batch, rows_of_plain)
        for run in RUNS:
            with cached(pipeline.transformer, run.cache), counted_operations(pipeline.transformer) as count:
                made = generate(pipeline, batch, steps)
            speed = plain_operations / count()
            rows = [
                [speed, *one, *other] for one, other in zip(nearness(made, plain), nearness(made, fine), strict=True)
            ]
            note(figures, run.name, batch, rows)
    return figures


def note(figures: dict[str, list[list[float]]], name: str, clips: Sequence[int], rows: list[list[float]]) -> None:
    """Add the rows of a batch to those of a run, and say them, because a measurement takes long."""
    figures.setdefault(name, []).extend(rows)
    print(f"{name}, clips {clips[0]} to {clips[-1]}: {rows}", file=sys.stderr, flush=True)


def nearness(made: Sequence[Tensor], reference: Sequence[Tensor]) -> list[tuple[float, ...]]:
    """In dB for each clip: video latents, audio latents, waveform."""
    return list(zip(*(signal_to_noise_db(*pair) for pair in zip(made, reference, strict=True)), strict=True))


def summary(rows: Sequence[Sequence[float]]) -> dict[str, float]:
    """Medians over clips, and the lowest waveform."""
    names = ["speed", *(f"{name}_db" for name in MEASURES), *(f"{name}_of_many_steps_db" for name in MEASURES)]
    columns = list(zip(*rows, strict=True))
    medians = dict(zip(names, map(statistics.median, columns), strict=True))
    return {**medians, "lowest_waveform_db": min(columns[3])}


def measure_size(name: str, preset: Preset, clip_name: str, cache: JoVACacheConfig) -> dict[str, Any]:
    """Counted operations of a call of a real size with and without the cache, and what it keeps, without weights."""
    transformer = random_transformer(preset.config, "meta", torch.bfloat16).requires_grad_(False)
    clip = preset.clips[clip_name]
    inputs = random_inputs(transformer, clip, 2, "meta", torch.bfloat16)
    steps: list[int] = []
    with cached(transformer, cache), counted_operations(transformer) as count:
        for step in range(3):
            context = {"step_index": step, "sigma": 1 - step / 9, "num_inference_steps": 9}
            with transformer.cache_context("guided", **context):
                transformer(**inputs)
            steps.append(count() - sum(steps))
    _, full, audio = steps
    num_full = num_full_steps(cache, NUM_STEPS_OF_SIZES)
    num_text = clip.text * (1 if preset.config.get("text_dim_2") is None else 2)
    kept = {
        f"kept_{label}_gb": kept_bytes(transformer, config, clip.video, num_text, 2) / 1e9
        for label, config in (
            ("bfloat16", cache),
            ("float8", JoVACacheConfig(storage_dtype=torch.float8_e4m3fn)),
        )
    }
    return {
        "size": f"{name} {clip_name}",
        "audio_step_share": audio / full,
        "speed": NUM_STEPS_OF_SIZES * full / (num_full * full + (NUM_STEPS_OF_SIZES - num_full) * audio),
        **kept,
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows in Markdown."""
    lines = [list(rows[0]), ["---"] * len(rows[0])]
    lines += [[f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row.values()] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Prints both tables and writes them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--steps", type=int, default=24, help="of jova-tiny")
    parser.add_argument("--solver", choices=sorted(SOLVERS), default="euler")
    parser.add_argument("--reference-steps", type=int, default=100)
    parser.add_argument("--output", type=Path, default=Path("sound_cache.json"))
    args = parser.parse_args(argv)
    sizes = [
        measure_size(name, preset, clip, JoVACacheConfig())
        for name, preset in presets(is_toy=False).items()
        if name in SIZES
        for clip in preset.clips
    ]
    print(table(sizes), flush=True)
    pipeline = JoVAPipeline.from_pretrained("jova-tiny")
    pipeline.scheduler = FlowMatchAudioVideoScheduler.from_config(pipeline.scheduler.config, solver=args.solver)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.transformer.requires_grad_(False)
    figures = measure_clips(pipeline, range(args.clips), args.steps, args.reference_steps)
    clips = [{"run": name, **summary(rows)} for name, rows in figures.items()]
    print(table(clips))
    args.output.write_text(json.dumps({"sizes": sizes, "clips": clips}, indent=1) + "\n")


if __name__ == "__main__":
    main()
