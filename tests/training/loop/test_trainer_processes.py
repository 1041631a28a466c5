"""Several processes take the steps of one, begin and end together, and share weights that some steps do not use."""

import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.multiprocessing import ProcessRaisedException

from diffusers_jova.training.data.dataset import PrecomputedDataset, write_record
from diffusers_jova.training.loop.distribution import start_accelerator
from diffusers_jova.training.loop.model import check_meetings, check_towers, load_transformer
from diffusers_jova.training.loop.preemption import PreemptedError
from diffusers_jova.training.loop.trainer import Trainer
from tests.processes import launch
from tests.tiny_pipeline import NAVA_SHARING, WAN_TRANSFORMER_CONFIG
from tests.tiny_training import (
    EVERYTHING_RANDOM,
    HEADER,
    MODEL,
    different,
    dual_tower,
    forget_accelerate,
    losses,
    result,
    tiny_config,
    write_clips,
)


def train_in_two_processes(config: Any) -> None:
    forget_accelerate()
    Trainer(config).train()


def test_two_processes_take_the_steps_of_one_with_twice_the_accumulation(tmp_path: Path) -> None:
    settings = EVERYTHING_RANDOM | {"steps": 3}
    Trainer(tiny_config(tmp_path, **settings)).train()
    split = settings | {"gradient_accumulation_steps": 1, "distribution": "ddp"}
    config = tiny_config(tmp_path, output_dir=str(tmp_path / "two"), **split)
    launch(train_in_two_processes, config)
    one, two = result(tmp_path / "run"), result(tmp_path / "two")
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-4, atol=1e-6)  # sums in another order
    assert losses(tmp_path / "two")[-1]["loss/video"] == pytest.approx(
        losses(tmp_path / "run")[-1]["loss/video"], rel=1e-4
    )


def train_with_a_disk_of_its_own(config: Any, other_output_dir: str) -> None:
    forget_accelerate()
    Trainer(config if torch.distributed.get_rank() == 0 else replace(config, output_dir=other_output_dir)).train()


def test_all_processes_continue_from_the_checkpoint_that_the_first_one_sees(tmp_path: Path) -> None:
    settings = {"batch_size": 2, "distribution": "ddp"}
    launch(train_in_two_processes, tiny_config(tmp_path, **settings))
    first, other = tmp_path / "first", tmp_path / "other"
    shutil.copytree(tmp_path / "run" / "checkpoint-00000003", first / "checkpoint-00000003")
    config = tiny_config(tmp_path, output_dir=str(first), **settings)
    message = "`output_dir` must be on a disk that all machines share, got `.*`, where 1 of 2 processes find `check"
    with pytest.raises(ProcessRaisedException, match=message):
        launch(train_with_a_disk_of_its_own, config, str(other))
    shutil.copytree(tmp_path / "run", other)  # with a newer checkpoint, from which the second would go on alone
    launch(train_with_a_disk_of_its_own, config, str(other))
    assert different(result(tmp_path / "run"), result(first)) == []


def train_until_the_second_process_is_told_to_end(config: Any) -> None:
    forget_accelerate()

    def tell(_: Trainer, step: int) -> None:
        if step == 1 and torch.distributed.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(PreemptedError, match="ended by SIGTERM after step 2"):
        Trainer(config, on_validate=tell).train()


def test_processes_end_together_when_one_of_them_is_told_to(tmp_path: Path) -> None:
    settings = {"batch_size": 2, "distribution": "ddp", "validate_every": 1, "validation_prompts": ["a"]}
    config = tiny_config(tmp_path, **settings)
    launch(train_until_the_second_process_is_told_to_end, config)
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-00000002"]
    launch(train_in_two_processes, replace(config, validate_every=None))
    assert (tmp_path / "run" / "transformer").exists()


def test_processes_wait_for_each_other_as_long_as_a_large_checkpoint_takes(tmp_path: Path) -> None:
    seconds = 4e11 / 2e8  # of the paper's joint stage, at 200 MB/s
    assert start_accelerator(tiny_config(tmp_path)).init_handler.timeout.total_seconds() > seconds


def test_two_processes_train_clips_of_which_some_lack_a_whole_branch(tmp_path: Path) -> None:
    data = write_clips(tmp_path / "prepared")
    for index in range(4):  # of a length of their own: no clip with a picture can share their batch
        record = {"audio_latents": torch.randn(5, 6), "prompt_embeds": torch.randn(3, 10)}
        write_record(data / f"sound-{index}.safetensors", record, HEADER)
    config = tiny_config(tmp_path, batch_size=2, distribution="ddp")
    launch(train_in_two_processes, config)
    assert (tmp_path / "run" / "transformer").exists()
    with pytest.raises(ValueError, match="every clip for `stage: video` must have video"):
        Trainer(tiny_config(tmp_path, stage="video"))
    with pytest.raises(ValueError, match="every clip must have video where nothing else is trained"):
        Trainer(tiny_config(tmp_path, audio_learning_rate=0))


SPEAKERS = WAN_TRANSFORMER_CONFIG | NAVA_SHARING | {"_class_name": "JoVAWanTransformer3DModel"}


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        (MODEL | {"fusion": "cross_linear"}, {"uncoupled_probability": 0.5}),  # cross terms are for coupled samples
        (MODEL | {"fusion": "cross_linear"}, {"stage": "video"}),
        (SPEAKERS, {}),  # here are none
        (dual_tower("bridge"), {"uncoupled_probability": 0.5}),
        (dual_tower("aligned"), {"uncoupled_probability": 0.5}),
        (dual_tower("text_cross"), {"uncoupled_probability": 0.5}),
        (dual_tower("aligned"), {"stage": "video"}),
        (dual_tower("bridge", boundary=0.5), {}),  # of two video towers one works
        (dual_tower("bridge", boundary=0.5), {"train": "lora", "stage": "video"}),
    ],
    ids=["cross", "cross-video", "nava", "bridge", "aligned", "text", "aligned-video", "experts", "experts-lora"],
)
def test_two_processes_train_a_model_with_weights_that_some_steps_do_not_use(
    tmp_path: Path, model: dict[str, Any], settings: dict[str, Any]
) -> None:
    if "ffn_dim" in model:
        write_clips(tmp_path / "prepared", channels=(16, 4, 16))
    config = tiny_config(tmp_path, model, distribution="ddp", **{"batch_size": 2} | settings)
    launch(train_in_two_processes, config)
    assert (tmp_path / "run" / "metrics.jsonl").exists()
    assert len([*(tmp_path / "run").glob("checkpoint-00000006")]) == 1


def test_two_processes_take_the_steps_of_one_where_each_works_on_a_tower_of_its_own(tmp_path: Path) -> None:
    write_clips(tmp_path / "prepared", channels=(16, 4, 16))
    model = dual_tower("bridge", boundary=0.5)
    settings = {"steps": 3, "batch_size": 2, "gradient_accumulation_steps": 4}
    Trainer(tiny_config(tmp_path, model, **settings)).train()
    split = settings | {"gradient_accumulation_steps": 2, "distribution": "ddp"}
    launch(train_in_two_processes, tiny_config(tmp_path, model, output_dir=str(tmp_path / "two"), **split))
    one, two = result(tmp_path / "run"), result(tmp_path / "two")
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-4, atol=1e-6)  # sums in another order


def test_what_two_video_towers_cannot_share_is_refused(tmp_path: Path) -> None:
    write_clips(tmp_path / "prepared", without_video=(3,), channels=(16, 4, 16))
    model = dual_tower("bridge", boundary=0.5)
    with pytest.raises(ValueError, match=r"clips without video must have a length of their own .* `.*clip-003.*` bes"):
        Trainer(tiny_config(tmp_path, model))
    Trainer(tiny_config(tmp_path, dual_tower("bridge")))
    config = tiny_config(tmp_path, model, distribution="fsdp")
    transformer = load_transformer(config.model)
    with pytest.raises(ValueError, match="`distribution` must be ddp or none for a `model` with a `boundary`"):
        check_towers([PrecomputedDataset(config.data)], transformer, config)


@pytest.mark.parametrize("model", [MODEL | {"fusion": "cross_linear"}, dual_tower("text_cross")])
def test_a_coupling_that_steps_leave_out_is_not_sharded(tmp_path: Path, model: dict[str, Any]) -> None:
    config = tiny_config(tmp_path, model, distribution="fsdp", uncoupled_probability=0.5)
    transformer = load_transformer(config.model)
    with pytest.raises(ValueError, match=r"`uncoupled_probability` must be 0 where a sharded run .*, got 0.5 with"):
        check_meetings(transformer, config)
    check_meetings(transformer, replace(config, uncoupled_probability=0))
    check_meetings(transformer, replace(config, distribution="ddp"))
    check_meetings(load_transformer(tiny_config(tmp_path).model), config)
