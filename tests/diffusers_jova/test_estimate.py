import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from diffusers import DEISMultistepScheduler, FlowMatchHeunDiscreteScheduler
from huggingface_hub import constants
from safetensors.torch import save_file

from diffusers_jova.call_stages import PlannedCall
from diffusers_jova.clip_call import plan_memory, planned_call
from diffusers_jova.few_steps import FewSteps
from diffusers_jova.media_reading import Sound
from diffusers_jova.provenance import read_provenance
from diffusers_jova.saved_pipeline import SavedPipeline
from jova_cli.generate import parse
from jova_cli.main import main
from tests.tiny_pipeline import build_spoken_pipeline


SOUND = ("--num-frames", "5", "--modalities", "audio", "--steps", "1")  # a video VAE takes longer to count


def test_a_clip_is_described_before_anything_is_loaded(
    tiny_pipeline_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["estimate", str(tiny_pipeline_folder), *SOUND, "--memory", "1", "--rate", "0.001"])
    said = capsys.readouterr()
    assert "counted for cuda, bfloat16, codecs in float32" in said.err
    lines = said.out.splitlines()
    assert lines[0] == "all weights on the device:"
    assert lines[1].split("  ")[0] == "stage"
    for name, line in zip(("text encoding", "denoising", "sound decoding", "whole call"), lines[2:], strict=True):
        assert line.startswith(name)
        assert line.endswith("seconds")


def test_adapters_count_and_a_student_among_them_says_how_the_model_is_asked(
    tiny_pipeline_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["estimate", str(tiny_pipeline_folder), *SOUND[:-2]]
    record = FewSteps(num_inference_steps=1, shift=1.0, audio_shift=1.0)
    file = tmp_path / "student.safetensors"
    save_file({"transformer.a.lora_A.weight": torch.zeros(10**6)}, file, metadata=record.to_header())
    main([*words, "--steps", "1"])
    guided = capsys.readouterr().out
    main([*words, "--lora", str(file)])
    denoising, weighed = (
        {line.split("  ")[0]: [*filter(None, line.split("  "))] for line in said.splitlines()}
        for said in (guided, capsys.readouterr().out)
    )
    terms = [float(rows["denoising"][3].split()[0]) for rows in (denoising, weighed)]
    assert terms[1] < 0.7 * terms[0]  # one prediction of two
    assert denoising["denoising"][1] != weighed["denoising"][1]
    main([*words, "--steps", "1", "--lora", "anna/student"])
    said = capsys.readouterr()
    assert said.out == guided
    assert "what anna/student of the hub takes is not counted" in said.err


def with_scheduler(scheduler: Any, model: Path, folder: Path) -> Path:
    """A copy of a saved pipeline with another scheduler."""
    shutil.copytree(model, folder)
    scheduler.save_pretrained(folder / "scheduler")
    index = json.loads((folder / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", type(scheduler).__name__]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def test_a_scheduler_that_no_call_takes_is_told_before_one(
    tiny_pipeline_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = with_scheduler(DEISMultistepScheduler(), tiny_pipeline_folder, tmp_path / "model")
    with pytest.raises(SystemExit):
        main(["estimate", str(folder), *SOUND])
    refusal = "`scheduler` must predict flow, got a DEISMultistepScheduler"
    assert refusal in capsys.readouterr().err
    main(["info", str(folder)])
    assert f"no call takes its scheduler: {refusal}" in capsys.readouterr().out
    main(["info", str(tiny_pipeline_folder)])
    assert "no call" not in capsys.readouterr().out


def test_a_pipeline_that_steps_by_heun_is_told_the_operations_of_all_that_it_asks(
    tiny_pipeline_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = with_scheduler(FlowMatchHeunDiscreteScheduler(), tiny_pipeline_folder, tmp_path / "model")
    taken = {}
    for source in (tiny_pipeline_folder, folder):
        main(["estimate", str(source), *SOUND[:-1], "4"])
        (line,) = (row for row in capsys.readouterr().out.splitlines() if row.startswith("denoising"))
        taken[source] = float([*filter(None, line.split("  "))][3].split()[0])
    assert taken[folder] == pytest.approx(taken[tiny_pipeline_folder] * 7 / 4, rel=1e-3)


@pytest.fixture
def model_of_hub(tiny_pipeline_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a repository of which the cache of this machine has the configs, and no weights."""
    repository = tmp_path / "models--anna--model"
    snapshot = repository / "snapshots" / ("0" * 40)
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(snapshot.name)
    shutil.copytree(tiny_pipeline_folder, snapshot, ignore=shutil.ignore_patterns("*.safetensors", "tokenizer.json"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return "anna/model"


def test_a_model_of_the_hub_is_estimated_by_its_configs(
    model_of_hub: str, tiny_pipeline_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["estimate", str(tiny_pipeline_folder), *SOUND])
    here = capsys.readouterr().out
    main(["estimate", model_of_hub, *SOUND])
    assert capsys.readouterr().out == here
    with pytest.raises(SystemExit):
        main(["estimate", model_of_hub, "--num-frames", "100001"])
    assert "`num_frames` must be at most 61" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["estimate", "anna/other"])
    assert (
        "`model` must be a path on this machine or a repository of the hub, got anna/other" in capsys.readouterr().err
    )


def test_a_clip_of_a_model_of_the_hub_is_fit_into_memory_before_it_is_fetched(model_of_hub: str) -> None:
    _, args = parse(["--model", model_of_hub, "--prompt", "a dog", "--output", "dog.mp4", "--memory", "8"])
    assert str(plan_memory(args, torch.device("cpu"), torch.float32, {})) == "all weights on the device"


@pytest.mark.slow
def test_the_words_of_a_clip_take_a_plan_that_its_record_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "sound.wav"
    main(["generate", "--prompt", "a dog", "--output", str(path), "--device", "cpu", *SOUND, "--memory", "0.2"])
    assert "memory: all weights on the device" in capsys.readouterr().err.splitlines()
    plan = read_provenance(path)["settings"]["memory_plan"]
    assert plan == {"weights": "resident", "float8": False, "branches_apart": False, "tiles_video": False}


def test_a_clip_that_does_not_fit_is_refused_before_weights_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["generate", "--prompt", "a dog", "--device", "cpu", *SOUND]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--output", str(tmp_path / "sound.wav"), "--memory", "0.001"])
    assert ended.value.code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("jova generate: `--memory` must be at least 0.0")
    assert said.endswith("for the weights of this model alone, got 0.001; use a smaller model")


# 2. Media


def planned(folder: Path, arguments: dict[str, Any], *more: str, is_window: bool = False) -> PlannedCall:
    """The call of words; a clip of the tiny pipeline has 9 frames, 16 per second."""
    args = parse(["--model", str(folder), "--prompt", "a dog", "--output", "clip.mp4", *more])[1]
    return planned_call(SavedPipeline(folder), args, torch.device("cpu"), arguments, is_window)


def frames(number: int) -> np.ndarray:
    return np.zeros((number, 32, 32, 3), np.uint8)


def sound(num_frames: float) -> Sound:
    """As long as frames."""
    return Sound(np.zeros((1, round(num_frames * 1000)), np.float32), 16000)


@pytest.mark.parametrize(
    ("arguments", "more", "generated", "num_frames"),
    [
        ({"video": frames(9)}, (), ["audio"], 9),
        ({"video": frames(5)}, ("--num-frames", "9"), ["video", "audio"], 9),
        ({"video": frames(5), "audio": sound(5)}, ("--num-frames", "9"), ["video", "audio"], 9),
        ({"video": frames(5), "audio": sound(9)}, ("--num-frames", "9"), ["video"], 9),
        ({"video": frames(5), "audio": sound(12)}, (), ["video"], 13),  # goes on until the sound ends
        ({"video": frames(9), "audio": sound(5)}, (), ["audio"], 9),
        ({"audio": sound(10.5)}, (), ["video"], 13),  # is filled up with silence
        ({"audio": sound(7.5)}, ("--num-frames", "9"), ["video"], 9),
        ({"audio": sound(5)}, ("--num-frames", "9"), ["video", "audio"], 9),
    ],
)
def test_given_media_that_end_before_the_clip_leave_the_rest_of_it_to_generate(
    tiny_pipeline_folder: Path, arguments: dict[str, Any], more: Sequence[str], generated: list[str], num_frames: int
) -> None:
    call = planned(tiny_pipeline_folder, arguments, *more)
    assert call.generated == generated
    assert call.given == arguments.keys()
    assert call.settings.num_frames == num_frames


def test_media_of_the_whole_clip_leave_nothing_to_plan(tiny_pipeline_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"what is given must leave something to generate, got video and audio"):
        planned(tiny_pipeline_folder, {"video": frames(9), "audio": sound(9)})


def test_a_window_is_generated_and_reads_the_media_of_the_clip_or_the_voice_of_the_first(tmp_path: Path) -> None:
    build_spoken_pipeline().save_pretrained(tmp_path)
    picture = tmp_path / "picture.png"
    PIL.Image.new("RGB", (32, 32)).save(picture)
    words = ("--image", str(picture), "--num-frames", "9")
    window = planned(tmp_path, {"image": frames(1)}, *words, is_window=True)
    assert window.generated == ["video", "audio"]
    assert window.given == {"image", "video", "audio", "reference_audio"}
    assert window.reference_s == 9 / 16
    voiced = planned(tmp_path, {"image": frames(1), "reference_audio": sound(32)}, *words, is_window=True)
    assert voiced.reference_s == 2
    silent = planned(tmp_path, {"image": frames(1)}, *words, "--modalities", "video", is_window=True)
    assert silent.given == {"image", "video"}
