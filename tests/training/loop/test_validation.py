"""Validation clips: they are made, their failure costs the run nothing, an interruption ends it."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

import diffusers_jova
from diffusers_jova import media
from diffusers_jova.provenance import read_provenance
from diffusers_jova.training.loop.trainer import Trainer
from diffusers_jova.training.train import assemble, run
from tests.tiny_training import different, result, tiny_config, write_clips


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory, tiny_pipeline_folder: Path) -> tuple[dict[str, Any], Path]:
    """Settings of a run that makes no clips, and the folder of its result."""
    folder = tmp_path_factory.mktemp("quiet")
    data = write_clips(folder / "prepared", channels=(16, 4, 16))
    settings = {"model": str(tiny_pipeline_folder), "data": str(data), "ema_decay": 0.9, "steps": 2}
    Trainer(tiny_config(folder, **settings)).train()
    return settings, folder / "run"


VALIDATED = {"validate_every": 1, "validation_prompts": ["a", "b"], "validation_steps": 1}


def test_validation_without_a_pipeline_is_refused_before_the_first_step(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, validate_every=1, validation_prompts=["a"])
    with pytest.raises(ValueError, match="`pipeline` must be a saved pipeline to make validation clips"):
        run(config)


def test_validation_makes_clips_and_leaves_the_run_as_it_was(
    tmp_path: Path, quiet: tuple[dict[str, Any], Path]
) -> None:
    settings, without = quiet
    run(tiny_config(tmp_path, **settings, **VALIDATED))
    clips = sorted(path.name for path in (tmp_path / "run" / "validation").iterdir())
    assert clips == [f"step-0000000{step}-0{prompt}.mp4" for step in (1, 2) for prompt in (0, 1)]
    assert different(result(without), result(tmp_path / "run")) == []


def test_prompts_that_nothing_asks_for_are_told(
    tmp_path: Path, quiet: tuple[dict[str, Any], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    settings, _ = quiet
    run(tiny_config(tmp_path, **settings, validation_prompts=["a"]))
    assert "`validation_prompts` are not used without `validate_every`" in capsys.readouterr().out.splitlines()


def test_a_list_gives_portraits_voices_and_prompts_in_three_parts(
    tmp_path: Path, quiet: tuple[dict[str, Any], Path]
) -> None:
    settings, without = quiet
    PIL.Image.new("RGB", (64, 32), "navy").save(tmp_path / "ann.png")
    media.write_audio(tmp_path / "voice.wav", np.zeros(8000, np.float32), 16000)
    rows = [
        {"output": "ann/one.mp4", "image": "ann.png", "transcript": "hello", "num_frames": 5, "steps": 2},
        {"output": "two.mp4", "video_caption": "a man", "audio": "voice.wav", "seed": 7},
        {"output": "three.wav", "audio_caption": "rain", "modalities": ["audio"]},
    ]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        working = diffusers_jova.JoVAPipeline.__call__
        patch.setattr(diffusers_jova.JoVAPipeline, "__call__", lambda *a, **k: calls.append(k) or working(*a, **k))
        run(tiny_config(tmp_path, **settings, validate_every=2, validation_list=str(tmp_path / "list.jsonl")))
    clips = sorted(path.name for path in (tmp_path / "run" / "validation").iterdir())
    assert clips == ["ann", "step-00000002-three.wav", "step-00000002-two.mp4"]
    assert different(result(without), result(tmp_path / "run")) == []
    assert [call["prompt"].transcript for call in calls] == ["hello", "", ""]
    assert [call["num_inference_steps"] for call in calls] == [2, 30, 30]
    assert [call["generator"].initial_seed() for call in calls] == [0, 7, 2]
    record = read_provenance(tmp_path / "run" / "validation" / "ann" / "step-00000002-one.mp4")
    assert record["given"] == ["image"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a", "image": "nobody.png"}, r"line 1: `--image` must be an existing file, got .*nobody.png"),
        ({"prompt": "a", "model": "other"}, r"line 1: a column must be an option of a single clip, got `model`"),
        (
            {"prompt": "a", "lora": ["adapter"]},
            r"got `lora`; .*; a validation makes its clips by what is trained, where",
        ),
        (None, r"`validation_list` must be an existing .jsonl or .csv file, got .*list.jsonl"),
        ({}, r"line 1: the prompt must be given either by"),
    ],
)
def test_a_list_that_cannot_be_made_is_refused_before_the_first_step(
    tmp_path: Path, quiet: tuple[dict[str, Any], Path], row: dict[str, str] | None, message: str
) -> None:
    path = tmp_path / "list.jsonl"
    if row is not None:
        path.write_text(json.dumps(row) + "\n")
    with pytest.raises(ValueError, match=message):
        run(tiny_config(tmp_path, **quiet[0], validate_every=1, validation_list=str(path)))


@pytest.mark.parametrize(
    ("place", "error"),
    [
        ("JoVAPipeline.from_pretrained", OSError("no such folder")),
        ("JoVAPipeline.__call__", torch.OutOfMemoryError("CUDA out of memory.")),
        ("JoVAPipelineOutput.save", OSError(28, "No space left on device")),
    ],
    ids=["load", "memory", "disk"],
)
def test_a_validation_that_fails_is_announced_and_takes_no_step_from_the_run(
    tmp_path: Path,
    quiet: tuple[dict[str, Any], Path],
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    error: Exception,
) -> None:
    settings, without = quiet
    owner, name = place.split(".")
    working, calls = getattr(getattr(diffusers_jova, owner), name), []

    def fails_at_first(*arguments: object, **options: object) -> object:
        calls.append(options)
        if len(calls) == 1:
            raise error
        return working(*arguments, **options)

    monkeypatch.setattr(getattr(diffusers_jova, owner), name, fails_at_first)
    trainer = assemble(tiny_config(tmp_path, **settings, **VALIDATED))
    message = f"validation failed at step 1, the run goes on: .*{re.escape(str(error))}"
    with pytest.warns(UserWarning, match=message) as warned:
        trainer.train()
    assert len([warning for warning in warned if "validation failed" in str(warning.message)]) == 1
    assert trainer.transformer.training
    clips = sorted(path.name for path in (tmp_path / "run" / "validation").iterdir())
    assert clips == [f"step-00000002-0{prompt}.mp4" for prompt in (0, 1)]
    assert different(result(without), result(tmp_path / "run")) == []


def test_an_interruption_of_a_validation_ends_the_run(
    tmp_path: Path, tiny_pipeline_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(diffusers_jova.JoVAPipeline, "__call__", interrupt)
    data = write_clips(tmp_path / "prepared", channels=(16, 4, 16))
    settings = {"model": str(tiny_pipeline_folder), "data": str(data), "steps": 1, "validation_prompts": ["a"]}
    with pytest.raises(KeyboardInterrupt):
        run(tiny_config(tmp_path, validate_every=1, **settings))
