"""FSDP2 through accelerate on two CPU processes. Accelerate starts it on accelerators only; a shim says otherwise."""

import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator, DistributedType, FullyShardedDataParallelPlugin
from accelerate.state import PartialState
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor

from diffusers_jova.pipeline_output import JoVAPipelineOutput
from diffusers_jova.training.loop import trainer as trainer_module
from diffusers_jova.training.loop.trainer import Trainer
from diffusers_jova.training.train import assemble
from tests.processes import launch
from tests.tiny_training import MODEL, dual_tower, forget_accelerate, tiny_config, write_clips


TASKS = {"joint": 1, "voice": 1, "continuation": 1, "video_to_audio": 1, "audio_to_video": 1}


def block_of(config: Any) -> str:
    is_dual = config.model.endswith(".json") and "DualTower" in Path(config.model).read_text()
    return "JoVADualTowerTransformerBlock" if is_dual else "JoVATransformerBlock"


def sharded_accelerator(config: Any) -> Accelerator:
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=[block_of(config)],
        cpu_ram_efficient_loading=False,
        state_dict_type="FULL_STATE_DICT",
    )
    # which a run of the test's own process has left in the environment
    os.environ["ACCELERATE_GRADIENT_ACCUMULATION_STEPS"] = str(config.gradient_accumulation_steps)
    accelerator = Accelerator(fsdp_plugin=plugin, mixed_precision=config.mixed_precision)
    PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    accelerator.state.__dict__.update(distributed_type=DistributedType.FSDP, fsdp_plugin=plugin)
    return accelerator


def train_sharded(config: Any) -> None:
    warnings.simplefilter("ignore")  # about in-place operations on views, of which there are none
    forget_accelerate()
    trainer_module.start_accelerator = sharded_accelerator
    trainer = Trainer(config)
    trainer.train()
    assert all(isinstance(parameter, DTensor) for parameter in trainer.trained)


def train_while_one_process_cannot_write(config: Any) -> None:
    warnings.simplefilter("ignore")
    forget_accelerate()
    trainer_module.start_accelerator = sharded_accelerator
    save, calls = JoVAPipelineOutput.save, []

    def full_disk(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == 1:
            raise OSError("no space left")
        save(*arguments)

    JoVAPipelineOutput.save = full_disk  # which the main process alone calls
    assemble(config).train()


def test_a_validation_that_fails_in_one_of_the_processes_ends_in_all_and_the_run_goes_on(
    tmp_path: Path, tiny_pipeline_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    forget_accelerate()
    data = write_clips(tmp_path / "prepared", channels=(16, 4, 16))
    settings = {"model": str(tiny_pipeline_folder), "data": str(data), "steps": 2, "distribution": "fsdp"}
    settings |= {"validate_every": 1, "validation_prompts": ["a", "b"], "validation_steps": 1}
    config = tiny_config(tmp_path, batch_size=2, **settings)
    launch(train_while_one_process_cannot_write, config)
    clips = sorted(path.name for path in (tmp_path / "run" / "validation").iterdir())
    assert clips == [f"step-0000000{step}-0{prompt}.mp4" for step, prompt in ((2, 0), (2, 1))]
    assert (tmp_path / "run" / "transformer").exists()


def test_sharded_training_takes_the_same_steps_and_resumes_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    forget_accelerate()
    settings = {"ema_decay": 0.9, "batch_size": 2, "distribution": "fsdp"}
    check_sharded(tmp_path, MODEL, settings)


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        (dual_tower("bridge", boundary=0.5), {"experts": "alternate"}),
        (dual_tower("aligned"), {"tasks": TASKS, "face_mask_weight": 0.1, "image_probability": 1.0}),
    ],
    ids=["experts", "tasks"],
)
def test_sharded_towers_that_a_step_leaves_out_are_left_out_by_all_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: dict[str, Any], settings: dict[str, Any]
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    forget_accelerate()
    write_clips(tmp_path / "prepared", channels=(16, 4, 16), num_recordings=2)
    check_sharded(tmp_path, model, {"batch_size": 2, "distribution": "fsdp", **settings})


def check_sharded(tmp_path: Path, model: dict[str, Any], settings: dict[str, Any]) -> None:
    """Two processes take the steps of one with twice the accumulation, and go on from a checkpoint bit for bit."""
    launch(train_sharded, tiny_config(tmp_path, model, **settings))

    shutil.copytree(tmp_path / "run" / "checkpoint-00000003", tmp_path / "again" / "checkpoint-00000003")
    again = tiny_config(tmp_path, model, output_dir=str(tmp_path / "again"), **settings)
    launch(train_sharded, again)

    alone = settings | {"gradient_accumulation_steps": 2, "distribution": "none"}
    Trainer(tiny_config(tmp_path, model, output_dir=str(tmp_path / "alone"), **alone)).train()
    forget_accelerate()

    name = "transformer/diffusion_pytorch_model.safetensors"
    sharded, resumed, single = (load_file(tmp_path / run / name) for run in ("run", "again", "alone"))
    assert [name for name in sharded if not torch.equal(sharded[name], resumed[name])] == []
    for name in single:
        torch.testing.assert_close(sharded[name], single[name], rtol=1e-4, atol=1e-6)  # sums in another order
