"""A process that prints, as JSON, what a training was estimated to hold and what it held: `python -m`, a case."""

import gc
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from diffusers_jova.scheduling_flow_match_av import FlowMatchAudioVideoScheduler
from diffusers_jova.training.data.record import EMPTY_PROMPT, write_record
from diffusers_jova.training.estimate import TrainingEstimate
from diffusers_jova.training.loop.config import TrainConfig
from diffusers_jova.training.loop.microbatches import MicroBatches
from diffusers_jova.training.loop.trainer import Trainer
from tests.diffusers_jova.memory_of_a_call import KINDS, memory
from tests.tiny_pipeline import DEFAULTS, build_tiny_pipeline
from tests.tiny_training import HEADER, MODEL, WAN_MODEL, forget_accelerate, tiny_config


WIDTH = {"num_attention_heads": 4, "attention_head_dim": 64, "rope_axes_dim": [24, 20, 20]}
TABLES = {"position_table_sizes": [32, 64, 64], "audio_position_table_size": 512}
MODELS: dict[str, dict[str, Any]] = {
    "jova": {**MODEL, **WIDTH, **TABLES, "num_layers": 2, "num_single_layers": 2},
    "wan": {**WAN_MODEL, **WIDTH, "num_layers": 4, "ffn_dim": 1024, "freq_dim": 256},
}
ADAPTER = {"train": "lora", "lora_rank": 64, "lora_targets": "attention_ff"}
STUDENT = {"student_steps": 2, "teacher_steps": 8, "density": "uniform", "caption_dropout": 0.0}
CASES: dict[str, tuple[str, dict[str, Any]]] = {  # model, settings
    "full": ("jova", {"ema_decay": 0.9}),
    "full, checkpointed, accumulated": ("wan", {"gradient_checkpointing": True, "gradient_accumulation_steps": 2}),
    "adapter": ("wan", ADAPTER),
    "adapter, checkpointed": ("jova", {**ADAPTER, "gradient_checkpointing": True, "ema_decay": 0.9}),
    "muon": ("jova", {"optimizer": "muon", "gradient_checkpointing": True}),
    "student": ("wan", {**ADAPTER, **STUDENT}),
    "whole student": ("jova", {**STUDENT, "gradient_checkpointing": True, "ema_decay": 0.9}),
    "beginnings given": ("jova", {**ADAPTER, "prefix_probability": 1.0}),
}


def write_roomy_clips(folder: Path, channels: tuple[int, int, int] = (2, 6, 10)) -> None:
    """Two clips of 9 x 32 x 32 video latents; channels of video, audio and text."""
    video, audio, text = channels
    for index in range(2):
        record = {"video_latents": torch.randn(video, 9, 32, 32), "audio_latents": torch.randn(64, audio)}
        record |= {"prompt_embeds": torch.randn(16, text), "image_latents": record["video_latents"][:, :1]}
        size = {"num_frames": 33, "height": 256, "width": 256}
        write_record(folder / f"clip-{index}.safetensors", record, HEADER | size)
    write_record(folder / EMPTY_PROMPT, {"prompt_embeds": torch.zeros(1, text)}, {})


def roomy_config(folder: Path, case: str, **values: Any) -> TrainConfig:
    """A run that holds far more than the libraries around it."""
    model, settings = CASES[case]
    folder.mkdir()
    common = {"batch_size": 1, "steps": 2, "mouth_weight": 0, **settings, **values}
    if "student_steps" not in settings:
        write_roomy_clips(folder / "prepared")
        return tiny_config(folder, MODELS[model], **common)
    write_roomy_clips(folder / "prepared", channels=(16, 4, 16))
    parts = {"transformer": KINDS[model](), "scheduler": FlowMatchAudioVideoScheduler()}
    pipeline = build_tiny_pipeline(**parts, defaults={**DEFAULTS, "guidance_scale": 3.0})
    pipeline.save_pretrained(folder / "teacher")
    return tiny_config(folder, **{**common, "model": str(folder / "teacher")})


def warm_config(folder: Path, case: str) -> TrainConfig:
    """A run of one step of a tiny transformer with the same settings."""
    folder.mkdir()
    settings = {name: value for name, value in CASES[case][1].items() if name not in STUDENT}
    return tiny_config(folder, **{**settings, "steps": 1})


def main() -> None:
    """Estimate, take steps, and print the numbers of bytes by stage."""
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp())
    Trainer(warm_config(folder / "warm", sys.argv[1])).train()  # libraries load what they need
    forget_accelerate()
    config = roomy_config(folder / "roomy", sys.argv[1])
    estimate = TrainingEstimate(config, torch.device("cpu"))
    estimated = {stage.name: stage.peak_bytes for stage in estimate.stages()}
    del estimate
    gc.collect()
    start = memory("VmRSS")
    trainer = Trainer(config)
    batches = MicroBatches(config, trainer.dataset, None, 0, 1, 0)
    trainer.take_step(batches)  # makes states
    trainer._start_log()
    measured = {}
    work = {"steps": lambda: trainer.take_step(batches), "checkpoint": trainer._save_checkpoint}
    for name, do in work.items():
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # forget the highest so far
        do()
        measured[name] = memory("VmHWM") - start
    estimated["steps"] = max(estimated["forward and backward"], estimated["optimizer step"])
    print(json.dumps({"estimated": estimated, "measured": measured}))


if __name__ == "__main__":
    main()
