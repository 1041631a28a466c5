"""A prepared folder of random clips and a transformer of a few thousand weights, for the tests of training."""

import json
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState, GradientState
from safetensors.torch import load_file

from diffusers_jova.training.data.record import EMPTY_PROMPT, write_record
from diffusers_jova.training.loop.config import TrainConfig, from_values
from tests.tiny_pipeline import build_dual_tower


MODEL = {
    "in_channels": 8,
    "out_channels": 2,
    "audio_in_channels": 6,
    "num_layers": 1,
    "num_single_layers": 1,
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "text_dim": 10,
    "text_dim_2": None,
    "rope_axes_dim": [4, 2, 2],
    "position_table_sizes": [4, 4, 4],
    "audio_position_table_size": 16,
}
WAN_MODEL = {  # as many weights, for the same latents and text
    "_class_name": "JoVAWanTransformer3DModel",
    "in_channels": 8,
    "out_channels": 2,
    "audio_in_channels": 6,
    "num_layers": 2,
    "num_attention_heads": 3,
    "attention_head_dim": 8,
    "ffn_dim": 64,
    "freq_dim": 32,
    "text_dim": 10,
    "rope_axes_dim": [4, 2, 2],
}
MODELS = {"jova": MODEL, "wan": WAN_MODEL}
HEADER = {
    "num_frames": 9,
    "height": 32,
    "width": 32,
    "frame_rate": 32.0,
    "sampling_rate": 16000,
    "audio_latent_rate_hz": 31.25,
    "spatial_factor": 8,
    "temporal_factor": 4,
}
EVERYTHING_RANDOM = {
    "ema_decay": 0.9,
    "coupling": "mixed",
    "image_probability": 0.5,
    "prefix_probability": 0.5,
    "uncoupled_probability": 0.3,
    "caption_dropout": 0.5,
    "gradient_accumulation_steps": 2,
    "batch_size": 2,
    "learning_rate_schedule": "cosine",
    "warmup_steps": 2,
}


def dual_tower(fusion: str, **overrides: Any) -> dict[str, Any]:
    """Config of the tiny towers, as a `.json` file of `model` holds it."""
    config = dict(build_dual_tower(fusion, **overrides).config)
    return {name: value for name, value in config.items() if not name.startswith("_")} | {
        "_class_name": "JoVADualTowerTransformer3DModel"
    }


def forget_accelerate() -> None:
    """Accelerate keeps its settings for the life of a process; this begins a new life."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def write_clips(
    folder: Path,
    num_clips: int = 8,
    without_audio: tuple[int, ...] = (),
    without_video: tuple[int, ...] = (),
    channels: tuple[int, int, int] = (2, 6, 10),
    num_recordings: int = 0,
    **header: Any,
) -> Path:
    """Clips of 3 x 4 x 4 video latents and 8 audio latents, each with one mouth; channels of video, audio and text.

    They are of so many recordings in turn, and have more in their headers.
    """
    video_channels, audio_channels, text_dim = channels
    generator = torch.Generator().manual_seed(0)
    for index in range(num_clips):
        record = {
            "video_latents": torch.randn(video_channels, 3, 4, 4, generator=generator),
            "audio_latents": torch.randn(8, audio_channels, generator=generator),
            "prompt_embeds": torch.randn(2 + index % 3, text_dim, generator=generator),
            "mouth_boxes": torch.tensor([10.0, 14.0, 20.0, 22.0]).expand(1, 9, 4),
        }
        record["image_latents"] = record["video_latents"][:, :1]
        absent = ["audio_latents"] if index in without_audio else []
        absent += ["video_latents", "image_latents", "mouth_boxes"] if index in without_video else []
        record = {name: tensor for name, tensor in record.items() if name not in absent}
        source = {"source": f"recording-{index % num_recordings}.mp4"} if num_recordings else {}
        write_record(folder / f"clip-{index:03d}.safetensors", record, HEADER | header | source)
    write_record(folder / EMPTY_PROMPT, {"prompt_embeds": torch.zeros(1, text_dim)}, {})
    return folder


def tiny_config(folder: Path, transformer: dict[str, Any] = MODEL, **values: Any) -> TrainConfig:
    """A run of six steps on eight clips; writes what it reads below ``folder``."""
    model = folder / "model.json"
    model.write_text(json.dumps(transformer))
    data = folder / "prepared"
    if not data.exists():
        write_clips(data)
    defaults = {
        "model": str(model),
        "data": str(data),
        "output_dir": str(folder / "run"),
        "steps": 6,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "mixed_precision": "no",
        "checkpoint_every": 3,
        "log_every": 2,
        "tensorboard": False,
    }
    return from_values(defaults | values)


def result(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")


def different(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> list[str]:
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


def losses(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "samples_per_second"} for line in lines]
