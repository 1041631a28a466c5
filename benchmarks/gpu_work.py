"""What `benchmarks.gpu` measures: blocks, whole denoising steps and training steps of the presets.

Each measurement is a function of the device that returns a row of figures, so that one that fails costs no other.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, cast

import torch
from torch import nn

import diffusers_jova
from benchmarks.block import bare_work, block_calls, compare, describe, milliseconds, overhead_shares, synchronize
from benchmarks.random_transformer import Clip, Preset, presets, random_inputs, random_transformer
from diffusers_jova.allocation_count import ValuelessRuns
from diffusers_jova.number_formats import cast_weights
from diffusers_jova.training.data.record import EMPTY_PROMPT, write_record
from diffusers_jova.training.loop.config import from_values
from diffusers_jova.training.loop.microbatches import MicroBatches
from diffusers_jova.training.loop.trainer import Trainer


Row: TypeAlias = dict[str, Any]
Measurements: TypeAlias = dict[str, Callable[[str], Row]]

# blocks that are also compiled: inductor takes some ten seconds for each
COMPILERS = {"cuda": "inductor", "cpu": "eager"}  # at toy sizes the graph is looked at, no kernel made
COMPILED = (("5B x 2", "720p"), ("12B x 2", "480p"), ("1.6B x 2", "480p"))
NUM_TIMED_STEPS = 3


def blocks(is_toy: bool) -> Measurements:
    """One joint block of each kind beside its bare work: forward of all clips, backward of the smaller, compiled."""
    rows: Measurements = {}
    for name, preset in presets(is_toy).items():
        for clip in preset.clips:
            for kind in kinds(preset):
                has_backward = clip != "720p"
                measurement = partial(time_block, preset, clip, kind, has_backward=has_backward)
                rows[f"{name} {clip} {kind}"] = measurement
    for name, clip in COMPILED:
        preset = presets(is_toy)[name]
        clip = next(iter(preset.clips)) if is_toy else clip
        for kind in reversed(kinds(preset)):  # most blocks are single-stream
            rows[f"{name} {clip} {kind} compiled"] = partial(time_compiled_block, preset, clip, kind)
    return rows


def kinds(preset: Preset) -> tuple[str, ...]:
    """Kinds of blocks that a transformer has; those of two towers are named after their fusion."""
    if "fusion" in preset.config and "audio_num_layers" in preset.config:
        return (preset.config["fusion"],)
    return ("dual-stream", "single-stream") if "num_single_layers" in preset.config else ("twin",)


def time_block(preset: Preset, clip: str, kind: str, device: str, has_backward: bool) -> Row:
    """Eager times, and what outside of the bare work takes them."""
    transformer = random_transformer(preset.of_depth_one(), device, torch.bfloat16)
    call = block_calls(transformer, random_inputs(transformer, preset.clips[clip], 1, device, torch.bfloat16))[kind]
    bare = bare_work(call)
    times = compare({"block": lambda: call.step(False), "bare": lambda: bare.step(False)}, 5, device)
    row = describe(call) | times | {"bare_tflops": bare.flops / times["bare_ms"] / 1e9}
    row["overhead_shares"] = overhead_shares(lambda: call.step(False), device)
    if has_backward:
        steps = {"forward_backward": lambda: call.step(True), "bare_forward_backward": lambda: bare.step(True)}
        row |= compare(steps, 3, device)
    return row


def time_compiled_block(preset: Preset, clip: str, kind: str, device: str) -> Row:
    """Times of the forward without and with `torch.compile`, and of the compilation."""
    transformer = random_transformer(preset.of_depth_one(), device, torch.bfloat16)
    call = block_calls(transformer, random_inputs(transformer, preset.clips[clip], 1, device, torch.bfloat16))[kind]
    bare, block = (
        bare_work(call),
        cast(nn.Module, torch.compile(call.block, fullgraph=True, backend=COMPILERS[device])),
    )
    compiled = call._replace(block=block)
    compile_ms = milliseconds(lambda: compiled.step(False), device)
    steps = {
        "block": lambda: call.step(False),
        "compiled": lambda: compiled.step(False),
        "bare": lambda: bare.step(False),
    }
    return describe(call) | compare(steps, 5, device) | {"compile_s": compile_ms / 1000}


def denoising(is_toy: bool) -> Measurements:
    """One prediction, and both of a guided step in one batch, of whole transformers; eager and compiled."""
    rows: Measurements = {}
    wholes = (("5B x 2", "720p"), ("5B x 2", "480p"), ("12B x 2", "480p"), ("UniAVGen", "736p"), ("MOVA", "360p"))
    for name, clip in wholes:
        preset = presets(is_toy)[name]
        shape = next(iter(preset.clips.values())) if is_toy else preset.clips[clip]
        rows[f"{name} {clip}"] = partial(time_denoising, preset, shape, is_compiled=False)
    for name, clip in (("5B x 2", "720p"), ("12B x 2", "480p")):
        preset = presets(is_toy)[name]
        shape = next(iter(preset.clips.values())) if is_toy else preset.clips[clip]
        rows[f"{name} {clip} compiled"] = partial(time_denoising, preset, shape, is_compiled=True)
    return rows


@torch.no_grad()
def time_denoising(preset: Preset, clip: Clip, device: str, is_compiled: bool) -> Row:
    """Times and peak memory on random bfloat16 weights."""
    transformer = random_transformer(preset.config, device, torch.bfloat16)
    weights = list(transformer.parameters())
    row: Row = {
        "parameters": sum(weight.numel() for weight in weights),
        "weights_gb": sum(weight.numel() * weight.element_size() for weight in weights) / 1e9,
    }
    if is_compiled:
        transformer.compile_repeated_blocks(fullgraph=True, backend=COMPILERS[device])
    for name, batch_size in (("step", 1),) if is_compiled else (("step", 1), ("guided_step", 2)):
        inputs = random_inputs(transformer, clip, batch_size, device, torch.bfloat16)
        row[f"first_{name}_ms"] = milliseconds(partial(transformer, **inputs), device)
        reset_peak(device)
        times = [milliseconds(partial(transformer, **inputs), device) for _ in range(NUM_TIMED_STEPS)]
        row[f"{name}_ms"] = statistics.median(times)
        row |= peak_gb(device, f"{name}_peak_gb")
        if not is_compiled:
            row[f"{name}_counted_gb"] = counted_gb(preset, clip, batch_size)
    outputs = transformer(**inputs)
    if not all(bool(part.isfinite().all()) for part in outputs):
        raise FloatingPointError("velocities must be finite, got NaN or infinity")
    return row


def counted_gb(preset: Preset, clip: Clip, batch_size: int) -> float:
    """What `jova estimate` counts for a forward: weights, and all that is made of them; to hold against the peak."""
    with torch.device("meta"):
        outline = getattr(diffusers_jova, preset.config["_class_name"]).from_config(preset.config)
    cast_weights(outline, torch.bfloat16)
    runs = ValuelessRuns([outline])
    counted = runs.count(lambda: outline(**random_inputs(outline, clip, batch_size, "cpu", torch.bfloat16)))
    return (sum(weight.nbytes for weight in outline.parameters()) + counted.peak_bytes) / 1e9


def training(is_toy: bool) -> Measurements:
    """Steps of the repository's own training loop: an adapter, then all weights."""
    preset = presets(is_toy)["1.6B x 2"]
    clip = next(iter(preset.clips.values()))
    return {f"1.6B x 2 {train}": partial(time_training, preset, clip, train) for train in ("lora", "full")}


def time_training(preset: Preset, clip: Clip, train: str, device: str) -> Row:
    """Times and peak memory of optimizer steps on one clip, bfloat16, with gradient checkpointing."""
    with tempfile.TemporaryDirectory() as name:
        folder, start = Path(name), time.perf_counter()
        (folder / "model.json").write_text(json.dumps(preset.config))
        write_clip(folder / "prepared", preset.config, clip)
        values = {"model": str(folder / "model.json"), "data": str(folder / "prepared"), "tensorboard": False}
        values |= {"output_dir": str(folder / "run"), "train": train, "gradient_checkpointing": True}
        trainer = Trainer(from_values(values))
        if trainer.device.type != device:
            raise RuntimeError(f"accelerate must choose {device}, got {trainer.device}")
        batches = MicroBatches(trainer.config, trainer.dataset, None, 0, 1, 0)
        row: Row = {"start_s": time.perf_counter() - start}
        row["trained_parameters"] = sum(weight.numel() for weight in trainer.trained)
        row["first_step_ms"] = milliseconds(lambda: trainer.take_step(batches), device)
        reset_peak(device)
        row["step_ms"] = statistics.median(
            milliseconds(lambda: trainer.take_step(batches), device) for _ in range(NUM_TIMED_STEPS)
        )
        means = trainer.meter.read(trainer.meter.take())
        row |= {name: mean for name, mean in means.items() if name.startswith("loss/")}
        return row | peak_gb(device, "peak_gb")


def write_clip(folder: Path, config: dict[str, Any], clip: Clip) -> None:
    """Write one prepared clip of random latents with a mouth, and the empty prompt."""
    frames, height, width = clip.video
    text = {"prompt_embeds": config["text_dim"], "prompt_embeds_2": config.get("text_dim_2")}
    prompt = {name: torch.randn(clip.text, dim).bfloat16() for name, dim in text.items() if dim is not None}
    channels = (config.get("out_channels", 16), config.get("audio_in_channels", 20))
    video = torch.randn(channels[0], *clip.video)
    num_frames = 4 * (frames - 1) + 1
    box = torch.tensor([0.4 * 8 * width, 0.4 * 8 * height, 0.6 * 8 * width, 0.6 * 8 * height])
    record = prompt | {
        "video_latents": video,
        "image_latents": video[:, :1].clone(),
        "audio_latents": torch.randn(clip.audio, channels[1]),
        "mouth_boxes": box.expand(1, num_frames, 4).contiguous(),
    }
    header = {"num_frames": num_frames, "height": 8 * height, "width": 8 * width, "frame_rate": clip.frame_rate}
    header |= {"sampling_rate": 16000, "audio_latent_rate_hz": 31.25, "spatial_factor": 8, "temporal_factor": 4}
    write_record(folder / "clip.safetensors", record, header)
    empty = {name: features[:1].clone() for name, features in prompt.items()}
    write_record(folder / EMPTY_PROMPT, empty, {})


def reset_peak(device: str) -> None:
    """Forget the highest memory so far."""
    synchronize(device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()


def peak_gb(device: str, name: str) -> dict[str, float]:
    """Highest memory since `reset_peak`, of a GPU."""
    return {name: torch.cuda.max_memory_allocated() / 1e9} if device == "cuda" else {}
