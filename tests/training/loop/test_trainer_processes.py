"""Several processes take the steps of one, begin and end together, and share weights that some steps do not use."""

import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed

from diffusers_jova.training.data.dataset import PrecomputedDataset
from diffusers_jova.training.data.record import write_record
from diffusers_jova.training.loop.config import TrainConfig
from diffusers_jova.training.loop.distribution import start_accelerator
from diffusers_jova.training.loop.model import check_meetings, check_towers, load_transformer
from diffusers_jova.training.loop.preemption import PreemptedError
from diffusers_jova.training.loop.trainer import Trainer
from tests.processes import launch
from tests.tiny_pipeline import NAVA_SHARING, WAN_TRANSFORMER_CONFIG, build_tiny_pipeline, build_wan_transformer
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


def train_until_the_second_process_is_told_to_end_and_go_on(config: Any) -> None:
    forget_accelerate()

    def tell(_: Trainer, step: int) -> None:
        if step == 1 and distributed.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(PreemptedError, match="ended by SIGTERM after step 2"):
        Trainer(config, on_validate=tell).train()
    assert [path.name for path in Path(config.output_dir).glob("checkpoint-*")] == ["checkpoint-00000002"]
    train_in_two_processes(replace(config, validate_every=None))


def test_processes_end_together_when_one_of_them_is_told_to(tmp_path: Path) -> None:
    settings = {"batch_size": 2, "distribution": "ddp", "validate_every": 1, "validation_prompts": ["a"]}
    config = tiny_config(tmp_path, **settings)
    launch(train_until_the_second_process_is_told_to_end_and_go_on, config)
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
EXPERTS = dual_tower("bridge", boundary=0.5)
UNUSED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # models with weights that some steps do not use
    "cross": (MODEL | {"fusion": "cross_linear"}, {"uncoupled_probability": 0.5}),  # are for coupled samples
    "cross-video": (MODEL | {"fusion": "cross_linear"}, {"stage": "video"}),
    "nava": (SPEAKERS, {}),  # here are none
    "bridge": (dual_tower("bridge"), {"uncoupled_probability": 0.5}),
    "aligned": (dual_tower("aligned"), {"uncoupled_probability": 0.5}),
    "text": (dual_tower("text_cross"), {"uncoupled_probability": 0.5}),
    "aligned-video": (dual_tower("aligned"), {"stage": "video"}),
    "experts": (EXPERTS, {}),  # of two video towers one works
    "experts-lora": (EXPERTS, {"train": "lora", "stage": "video"}),
}
SPLIT: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # runs that one process takes with twice the accumulation
    "everything random": (MODEL, EVERYTHING_RANDOM | {"steps": 3, "gradient_accumulation_steps": 1}),
    "a tower each": (EXPERTS, {"steps": 3, "gradient_accumulation_steps": 2}),
    "a student": (SPEAKERS, {"steps": 3, "gradient_accumulation_steps": 1, "student_steps": 2, "teacher_steps": 4}),
}


def config_of(folder: Path, case: str, **changes: Any) -> TrainConfig:
    model, settings = (UNUSED | SPLIT)[case]
    if case in SPLIT and "student_steps" not in settings:
        settings = settings | {"validation_data": str(folder / case / "others"), "validate_every": 3}
    if "student_steps" in settings:
        settings = settings | {"model": str(folder / case / "teacher")}
    return tiny_config(folder / case, model, **{"batch_size": 2, "distribution": "ddp"} | settings | changes)


def train_one_after_the_other(configs: list[TrainConfig]) -> None:
    for config in configs:
        train_in_two_processes(config)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of each case, in which the same two processes have trained it."""
    folder = tmp_path_factory.mktemp("trained")
    for case, (model, settings) in (UNUSED | SPLIT).items():
        (folder / case).mkdir()
        if "ffn_dim" in model:
            write_clips(folder / case / "prepared", channels=(16, 4, 16))
        if case in SPLIT:
            channels = (16, 4, 16) if "ffn_dim" in model else (2, 6, 10)
            write_clips(folder / case / "others", num_clips=3, channels=channels)
        if "student_steps" in settings:
            build_tiny_pipeline(transformer=build_wan_transformer(**NAVA_SHARING)).save_pretrained(
                folder / case / "teacher"
            )
    launch(train_one_after_the_other, [config_of(folder, case) for case in UNUSED | SPLIT])
    return folder


@pytest.mark.parametrize("case", UNUSED)
def test_two_processes_train_a_model_with_weights_that_some_steps_do_not_use(trained: Path, case: str) -> None:
    assert (trained / case / "run" / "metrics.jsonl").exists()
    assert len([*(trained / case / "run").glob("checkpoint-00000006")]) == 1


@pytest.mark.parametrize("case", SPLIT)
def test_two_processes_take_the_steps_of_one_with_twice_the_accumulation(
    trained: Path, tmp_path: Path, case: str
) -> None:
    num_batches = 2 * SPLIT[case][1]["gradient_accumulation_steps"]
    alone = {"gradient_accumulation_steps": num_batches, "distribution": "none", "output_dir": str(tmp_path)}
    Trainer(config_of(trained, case, **alone)).train()
    one, two = result(tmp_path), result(trained / case / "run")
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-4, atol=1e-6)  # sums in another order
    single, shared = losses(tmp_path), losses(trained / case / "run")
    if "student_steps" not in SPLIT[case][1]:
        measured = single.pop()
        assert "validation_loss/video" in measured
        assert shared.pop() == pytest.approx(measured, rel=1e-4)  # each process has measured some of the other clips
    assert shared[-1]["loss/video"] == pytest.approx(single[-1]["loss/video"], rel=1e-4)


def train_with_a_disk_of_its_own(config: TrainConfig, whole_run: Path, other: Path) -> None:
    rank = distributed.get_rank()
    own = config if rank == 0 else replace(config, output_dir=str(other))
    message = "`output_dir` must be on a disk that all machines share, got `.*`, where 1 of 2 processes find `check"
    with pytest.raises(ValueError, match=message):
        train_in_two_processes(own)
    if rank == 0:
        shutil.copytree(whole_run, other)  # with a newer checkpoint, from which the second would go on alone
    distributed.barrier()
    train_in_two_processes(own)


def test_all_processes_continue_from_the_checkpoint_that_the_first_one_sees(trained: Path, tmp_path: Path) -> None:
    whole_run, first = trained / "cross" / "run", tmp_path / "first"
    shutil.copytree(whole_run / "checkpoint-00000003", first / "checkpoint-00000003")
    config = config_of(trained, "cross", output_dir=str(first))
    launch(train_with_a_disk_of_its_own, config, whole_run, tmp_path / "other")
    assert different(result(whole_run), result(first)) == []


def test_what_two_video_towers_cannot_share_is_refused(tmp_path: Path) -> None:
    write_clips(tmp_path / "prepared", without_video=(3,), channels=(16, 4, 16))
    with pytest.raises(ValueError, match=r"clips without video must have a length of their own .* `.*clip-003.*` bes"):
        Trainer(tiny_config(tmp_path, EXPERTS))
    Trainer(tiny_config(tmp_path, dual_tower("bridge")))
    config = tiny_config(tmp_path, EXPERTS, distribution="fsdp")
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
