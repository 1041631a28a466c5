import json
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.tiny_training import tiny_config, write_clips
from training.trainer import Trainer


def result(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")


def losses(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "samples_per_second"} for line in lines]


def assert_same_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def kill_at(config: Any, last_step: int) -> None:
    """Trains in a process that dies like a killed one as soon as it has done a step."""

    def die(_: Trainer, step: int) -> None:
        if step == last_step:
            os.kill(os.getpid(), signal.SIGKILL)

    Trainer(config, on_validate=die).train()


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


@pytest.mark.parametrize("on_device", [False, True])
def test_a_run_killed_between_checkpoints_ends_with_the_bits_of_an_uninterrupted_one(
    tmp_path: Path, on_device: bool
) -> None:
    settings = EVERYTHING_RANDOM | {"dataset_on_device": on_device}
    Trainer(tiny_config(tmp_path, output_dir=str(tmp_path / "whole"), **settings)).train()
    config = tiny_config(tmp_path, validate_every=1, validation_prompts=["a"], **settings)
    process = multiprocessing.get_context("fork").Process(target=kill_at, args=(config, 4))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (tmp_path / "run" / "transformer").exists()
    Trainer(config).train()
    assert_same_bits(result(tmp_path / "whole"), result(tmp_path / "run"))
    assert losses(tmp_path / "whole") == losses(tmp_path / "run")


def test_one_batch_is_overfitted(tmp_path: Path) -> None:
    write_clips(tmp_path / "prepared", num_clips=1)
    settings = {"steps": 150, "learning_rate": 1e-2, "caption_dropout": 0, "mouth_weight": 0, "log_every": 10}
    settings |= {"checkpoint_every": 1000, "dataset_on_device": True}
    Trainer(tiny_config(tmp_path, **settings)).train()
    first, *_, last = losses(tmp_path / "run")
    assert last["loss/video"] < 0.2 * first["loss/video"]
    assert last["loss/audio"] < 0.2 * first["loss/audio"]
