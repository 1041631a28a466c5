"""FSDP2 through accelerate on two CPU processes. Accelerate starts it on accelerators only; a shim says otherwise."""

import json
import os
import shutil
import warnings
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator, DistributedType, FullyShardedDataParallelPlugin
from accelerate.state import PartialState
from safetensors.torch import load_file
from torch import distributed
from torch.distributed.tensor import DTensor

from diffusers_jova.pipeline_output import JoVAPipelineOutput
from diffusers_jova.training.loop import trainer as trainer_module
from diffusers_jova.training.loop.config import TrainConfig
from diffusers_jova.training.loop.distribution import shard_by_block
from diffusers_jova.training.loop.lora import ADAPTER_FILE
from diffusers_jova.training.loop.trainer import Trainer
from diffusers_jova.training.loop.validation_measures import FOLDER, JUDGED
from diffusers_jova.training.prepare import main as prepare
from diffusers_jova.training.train import assemble
from tests.processes import launch
from tests.tiny_pipeline import (
    TRANSFORMER_CONFIG,
    build_dual_tower,
    build_spoken_pipeline,
    build_transformer,
    build_wan_transformer,
)
from tests.tiny_training import different, dual_tower, forget_accelerate, losses, result, tiny_config, write_clips
from tests.training.test_two_texts import OPTIONS, write_recording


TINY = {**TRANSFORMER_CONFIG, "_class_name": "JoVATransformer3DModel"}  # of the pipeline that is validated
TASKS = {"joint": 1, "voice": 1, "continuation": 1, "video_to_audio": 1, "audio_to_video": 1}
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # with the model and the settings of a run
    "jova": (TINY, {"steps": 2, "checkpoint_every": 1, "ema_decay": 0.9, "validate_every": 2}),
    "experts": (dual_tower("bridge", boundary=0.5), {"steps": 4, "checkpoint_every": 2, "experts": "alternate"}),
    "tasks": (dual_tower("aligned"), {"tasks": TASKS, "face_mask_weight": 0.1, "image_probability": 1.0}),
}


def sharded_accelerator(config: Any) -> Accelerator:
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
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

    def full_disk(*arguments: Any, **options: Any) -> None:
        calls.append(arguments)
        if len(calls) == 1:
            raise OSError("no space left")
        save(*arguments, **options)

    JoVAPipelineOutput.save = full_disk  # which the main process alone calls
    assemble(config).train()


def write_all(folder: Path, kinds: Iterable[str]) -> Path:
    for kind in kinds:
        (folder / kind).mkdir()
        write_clips(folder / kind / "prepared", channels=(16, 4, 16), num_recordings=2)
        write_clips(folder / kind / "others", num_clips=3, channels=(16, 4, 16))
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_pipeline_folder: Path) -> Path:
    """A folder of each kind, in which two processes have trained and gone on from a checkpoint, and a validated run.

    They do it one after the other: what torch finds out about how to shard an operation holds for all of them.
    """
    kinds = [kind for kind in KINDS if kind != "jova"]
    folder = write_all(tmp_path_factory.mktemp("sharded"), (*kinds, "validated"))
    settings = {"model": str(tiny_pipeline_folder), "batch_size": 2, "steps": 2, "distribution": "fsdp"}
    settings |= {"validate_every": 1, "validation_prompts": ["a", "b"], "validation_steps": 1}
    launch(
        train_all, [config_of(folder / kind, kind) for kind in kinds], tiny_config(folder / "validated", **settings)
    )
    return folder


@pytest.fixture
def folder_of(request: pytest.FixtureRequest, tmp_path: Path, kind: str) -> Path:
    """The folder of one kind; that of the default test is its own, and the slow ones share their processes."""
    if kind != "jova":
        return Path(request.getfixturevalue("runs"), kind)
    folder = write_all(tmp_path, [kind]) / kind
    launch(train_twice, config_of(folder, kind))
    return folder


def config_of(folder: Path, kind: str, **changes: Any) -> TrainConfig:
    model, settings = KINDS[kind]
    settings = {"validation_data": str(folder / "others"), "validate_every": 4} | settings
    return tiny_config(folder, model, **{"batch_size": 2, "distribution": "fsdp"} | settings | changes)


def train_twice(config: TrainConfig) -> None:
    train_sharded(config)
    again = Path(config.output_dir).with_name("again")
    if distributed.get_rank() == 0:
        name = f"checkpoint-{config.checkpoint_every:08d}"
        shutil.copytree(Path(config.output_dir, name), again / name)
    distributed.barrier()
    train_sharded(replace(config, output_dir=str(again)))


def train_all(kinds: list[TrainConfig], validated: TrainConfig) -> None:
    for config in kinds:
        train_twice(config)
    train_while_one_process_cannot_write(validated)


@pytest.mark.parametrize(
    "kind", [kind if kind == "jova" else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]
)
def test_sharded_training_takes_the_same_steps_and_resumes_with_the_same_bits(
    folder_of: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """As one process with twice the accumulation does; what a step leaves out is left out by all processes."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    forget_accelerate()
    alone = {"gradient_accumulation_steps": 2, "distribution": "none", "output_dir": str(tmp_path / "alone")}
    Trainer(config_of(folder_of, kind, **alone)).train()
    sharded, resumed, single = (
        result(folder) for folder in (folder_of / "run", folder_of / "again", tmp_path / "alone")
    )
    assert different(sharded, resumed) == []
    for name in single:
        torch.testing.assert_close(sharded[name], single[name], rtol=1e-4, atol=1e-6)  # sums in another order
    last = losses(tmp_path / "alone")[-1]  # of the other clips
    assert losses(folder_of / "run")[-1] == pytest.approx(last, rel=1e-4)


@pytest.mark.slow
def test_a_validation_that_fails_in_one_of_the_processes_ends_in_all_and_the_run_goes_on(runs: Path) -> None:
    clips = sorted(path.name for path in (runs / "validated" / "run" / "validation").iterdir())
    assert clips == [f"step-0000000{step}-0{prompt}.mp4" for step, prompt in ((2, 0), (2, 1))]
    assert (runs / "validated" / "run" / "transformer").exists()


@pytest.mark.slow
def test_clips_of_sharded_processes_are_measured_once(runs: Path) -> None:
    lines = [json.loads(line) for line in (runs / "validated" / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line[name]) for line in lines if (name := f"{JUDGED}sharpness") in line] == [(2, 2)]
    kept = (runs / "validated" / "run" / FOLDER / "measured.jsonl").read_text().splitlines()
    assert len(kept) == 2 * 2  # clips, groups


@pytest.mark.slow
def test_sharded_processes_make_the_student_that_one_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_pipeline_folder: Path
) -> None:
    """Each asks the model as often as the other, whatever levels it has drawn."""
    write_clips(tmp_path / "prepared", channels=(16, 4, 16))
    settings = {"model": str(tiny_pipeline_folder), "batch_size": 2, "steps": 3, "train": "lora", "lora_rank": 4}
    settings |= {"student_steps": 2, "teacher_steps": 4, "learning_rate": 1e-2}
    launch(train_sharded, tiny_config(tmp_path, **settings, distribution="fsdp"))
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    forget_accelerate()
    alone = {"gradient_accumulation_steps": 2, "output_dir": str(tmp_path / "one")}
    Trainer(tiny_config(tmp_path, **settings, **alone)).train()
    sharded, single = (load_file(tmp_path / name / ADAPTER_FILE) for name in ("run", "one"))
    for name in single:
        torch.testing.assert_close(sharded[name], single[name], rtol=1e-4, atol=1e-6)  # sums in another order


@pytest.mark.parametrize("build", [build_transformer, build_wan_transformer, build_dual_tower])
def test_the_blocks_that_are_sharded_are_those_of_the_model(build: Any) -> None:
    transformer = build()
    (block,) = type(transformer)._repeated_blocks
    for named, expected in ((None, [block]), ([block], [block])):
        plugin = SimpleNamespace(transformer_cls_names_to_wrap=named)
        shard_by_block(SimpleNamespace(state=SimpleNamespace(fsdp_plugin=plugin)), transformer)
        assert plugin.transformer_cls_names_to_wrap == expected
    plugin = SimpleNamespace(transformer_cls_names_to_wrap=["WanTransformerBlock"])
    with pytest.raises(ValueError, match=f"must name blocks of the model, {block}, got WanTransformerBlock; leave it"):
        shard_by_block(SimpleNamespace(state=SimpleNamespace(fsdp_plugin=plugin)), transformer)
    shard_by_block(SimpleNamespace(state=SimpleNamespace(fsdp_plugin=None)), transformer)


@pytest.mark.slow
@pytest.mark.parametrize("train", ["full", "lora"])
def test_sharded_processes_learn_words_of_unequal_length_as_one_process_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train: str
) -> None:
    """Each pads what is said, and what a voice says before it, to the longest of its own clips."""
    build_spoken_pipeline().save_pretrained(tmp_path / "model")
    source = write_recording(tmp_path / "source", ("Hello", "you", "there", "my", "good", "old", "friend"))
    words = ["--model", str(tmp_path / "model"), "--cut", "all", *OPTIONS]
    prepare([str(source), str(tmp_path / "prepared"), *words])
    settings = {"model": str(tmp_path / "model"), "batch_size": 1, "steps": 6, "tasks": TASKS, "mouth_weight": 0}
    settings |= {"image_probability": 1.0, "caption_dropout": 0.3, "gradient_checkpointing": True, "train": train}
    settings |= {"lora_rank": 4} if train == "lora" else {}
    settings |= {"prefix_max_fraction": 1.0}
    launch(train_sharded, tiny_config(tmp_path, **settings, distribution="fsdp"))
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    forget_accelerate()
    alone = {"gradient_accumulation_steps": 2, "output_dir": str(tmp_path / "one")}
    Trainer(tiny_config(tmp_path, **settings, **alone)).train()
    if train == "lora":
        sharded, single = (load_file(tmp_path / name / ADAPTER_FILE) for name in ("run", "one"))
    else:
        sharded, single = (result(tmp_path / name) for name in ("run", "one"))
    for name in single:
        torch.testing.assert_close(sharded[name], single[name], rtol=1e-4, atol=1e-6)  # sums in another order
