"""Validation clips in numbers: those of `jova evaluate`, taken once, absent where none is; the run keeps its bits."""

import json
import math
import random
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from diffusers_jova.evaluation import evaluate, meter
from diffusers_jova.evaluation.measured import Measured
from diffusers_jova.evaluation.measures import MEASURES
from diffusers_jova.training.data.record import EMPTY_PROMPT, write_record
from diffusers_jova.training.loop.config import Measures, from_values
from diffusers_jova.training.loop.lora import ADAPTER_FILE
from diffusers_jova.training.loop.trainer import Trainer
from diffusers_jova.training.loop.validation_measures import CLIPS, FOLDER, JUDGED
from diffusers_jova.training.train import assemble, run
from jova_cli.evaluate import GROUPS, NETWORKS
from jova_cli.training_settings import check_files, read_settings
from tests.prepared_clips import save_speech_model
from tests.processes import launch
from tests.tiny_pipeline import DEFAULTS, build_tiny_pipeline
from tests.tiny_training import different, forget_accelerate, result, tiny_config, write_clips


VALIDATED = {"validate_every": 1, "validation_prompts": ["a", "says <S>hello blue moon<E>"], "validation_steps": 1}
KINDS: dict[str, dict[str, Any]] = {
    "train": {},
    "train-lora": {"train": "lora", "lora_rank": 2, "lora_alpha": 2.0},
    "distill": {"train": "lora", "lora_rank": 2, "lora_alpha": 2.0, "student_steps": 2, "teacher_steps": 4},
}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, tiny_pipeline_folder: Path) -> dict[str, Any]:
    """Of a run of two steps, whose clips have texts as its pipeline encodes them."""
    data = write_clips(tmp_path_factory.mktemp("data") / "prepared", channels=(16, 4, 16))
    empty = build_tiny_pipeline().encode_texts([""], DEFAULTS["max_sequence_length"]).features[0]
    write_record(data / EMPTY_PROMPT, {"prompt_embeds": empty}, {})
    return {"model": str(tiny_pipeline_folder), "data": str(data), "ema_decay": 0.9, "steps": 2, "log_every": 1}


def lines_of(folder: Path) -> list[dict[str, float]]:
    lines: list[dict[str, float]] = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return lines


def measured(folder: Path) -> list[dict[str, float]]:
    return [line for line in lines_of(folder) if any(name.startswith(JUDGED) for name in line)]


def trained(folder: Path) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
    """What a run ends with: its last weights, and its losses."""
    adapter = folder / ADAPTER_FILE
    weights = load_file(adapter) if adapter.exists() else result(folder)
    reports = [line for line in lines_of(folder) if "loss/video" in line]
    return weights, [{name: v for name, v in line.items() if name != "samples_per_second"} for line in reports]


def drawing(*_sound: object) -> Measured:
    """Measures of the sound by something that draws random numbers."""
    return Measured({"silence_share": float(torch.rand(()) + random.random() + np.random.default_rng().random())})


@pytest.mark.parametrize("kind", KINDS)
def test_clips_are_measured_and_the_run_ends_with_the_same_bits(
    tmp_path: Path, settings: dict[str, Any], kind: str
) -> None:
    found = []
    steps = () if kind == "distill" else ("validation_steps",)  # a student has its own
    validated = {name: VALIDATED[name] for name in ("validate_every", "validation_prompts", *steps)}
    for name, measures in (("plain", {}), ("measured", validated)):
        (tmp_path / name).mkdir()
        run(tiny_config(tmp_path / name, **settings, **KINDS[kind], **measures))
        found.append(trained(tmp_path / name / "run"))
    assert different(found[0][0], found[1][0]) == []
    assert found[0][1] == found[1][1]
    lines = measured(tmp_path / "measured" / "run")
    assert [line["step"] for line in lines] == [1, 2]
    assert lines[0][f"{JUDGED}clipped_share"] == 2
    assert 0 <= lines[0][f"{CLIPS}clipped_share"] <= 1
    assert lines[0][f"{CLIPS}sharpness"] > 0


def test_what_measures_draw_at_random_is_not_taken_from_the_run(
    tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meter, "measure_sound", drawing)
    trainer = assemble(tiny_config(tmp_path, **settings, **VALIDATED))
    states = []

    def seen(trainer: Trainer, step: int) -> Any:
        assert validate is not None
        torch.manual_seed(step)
        before = torch.get_rng_state()
        values = validate(trainer, step)
        states.append(torch.equal(before, torch.get_rng_state()))
        assert trainer.transformer.training
        return values

    validate, trainer.on_validate = trainer.on_validate, seen
    trainer.train()
    assert states == [True, True]
    assert [line[f"{JUDGED}silence_share"] for line in measured(tmp_path / "run")] == [2, 2]


def test_what_cannot_be_judged_is_absent_counted_and_told_once(
    tmp_path: Path, settings: dict[str, Any], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"output": "talk/seen.mp4", "video_caption": "a"}, {"output": "heard.wav", "audio_caption": "rain"}]
    rows[1]["modalities"] = ["audio"]  # type: ignore[assignment]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(meter, "measure_sound", lambda *_: Measured({"silence_share": math.nan, "clipped_share": 0.5}))
    listed = {"validate_every": 1, "validation_list": str(tmp_path / "list.jsonl"), "validation_steps": 1}
    run(tiny_config(tmp_path, **settings, **listed, validation_measures=["picture", "sound", "timing"]))
    lines = measured(tmp_path / "run")
    assert len(lines) == 2
    for line in lines:
        assert all(math.isfinite(value) for value in line.values())
        counts = {name.removeprefix(JUDGED): value for name, value in line.items() if name.startswith(JUDGED)}
        assert (counts["black_share"], counts["clipped_share"], counts["silence_share"]) == (1, 2, 0)
        judged = {name for name, count in counts.items() if count}
        means = {name.removeprefix(CLIPS) for name in line if name.startswith(CLIPS)}
        assert {name for name in means if not name.endswith("_distance")} == judged
        length = line[f"{CLIPS}length_difference_ms"]
        assert line[f"{CLIPS}length_difference_ms_distance"] == abs(length)
    said = capfd.readouterr()
    assert said.err.count("validation: picture leaves numbers out, first those of step-00000001-heard: no pic") == 1
    assert said.err.count("no picture") == 2  # of two groups
    assert "step       2  validation clips: length_difference_ms " in said.out


def test_words_are_compared_with_the_transcript_and_evaluate_measures_nothing_again(
    tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[int] = []

    def listener(*_: object) -> Any:
        return lambda _audio, _rate: heard.append(1) or "hello, blue"

    monkeypatch.setattr(meter, "make_listener", listener)
    monkeypatch.setattr("diffusers_jova.evaluation.spoken_words.why_unheard", lambda _audio: "")
    groups = ["words", "picture"]
    run(tiny_config(tmp_path, **settings, **VALIDATED, validation_measures=groups))
    for line in measured(tmp_path / "run"):
        assert line[f"{JUDGED}word_error_rate"] == 1  # the other prompt says nothing
        assert line[f"{CLIPS}word_error_rate"] == pytest.approx(1 / 3)
    assert len(heard) == 2
    report = tmp_path / "run" / FOLDER
    kept = (report / "measured.jsonl").read_text()
    assert len(kept.splitlines()) == 2 * 2 * len(groups)
    evaluate.main([str(tmp_path / "run" / "validation"), "--output", str(report), "--measures", *groups])
    assert (report / "measured.jsonl").read_text() == kept
    assert len(heard) == 2
    rows = json.loads((report / "report.json").read_text())["rows"]
    assert [row["clip"] for row in rows] == [f"step-0000000{step}-0{clip}" for step in (1, 2) for clip in (0, 1)]


def test_a_recogniser_of_transformers_and_another_language_are_taken(tmp_path: Path, settings: dict[str, Any]) -> None:
    model = save_speech_model(tmp_path / "whisper")
    words = {"validation_measures": ["words"], "validation_whisper": str(model), "validation_language": "fr"}
    config = tiny_config(tmp_path, **settings, **VALIDATED, **words)
    trainer = assemble(config)
    validate: Any = trainer.on_validate
    meter = validate.measures.meter
    assert meter.settings("words")["language"] == "fr"
    assert meter.device == "cpu"
    meter.hear = lambda *_: "hello"
    trainer.train()
    assert [line[f"{JUDGED}character_error_rate"] for line in measured(tmp_path / "run")] == [1, 1]
    with pytest.raises(ValueError, match="`validation_whisper` must be an existing folder, got"):
        check_files({"validation_whisper": str(tmp_path / "nowhere")})


def test_weights_of_syncnet_are_read_before_the_first_step(tmp_path: Path, settings: dict[str, Any]) -> None:
    weights = tmp_path / "other.model"
    torch.save({"weight": torch.zeros(1)}, weights)
    lips = {"validation_measures": ["syncnet"], "validation_syncnet": str(weights)}
    with pytest.raises(ValueError, match="must be the weights of SyncNet, got another network's"):
        assemble(tiny_config(tmp_path, **settings, **VALIDATED, **lips))
    with pytest.raises(ValueError, match="`validation_syncnet` must be an existing file, got"):
        check_files({"validation_syncnet": str(tmp_path / "nowhere")})


def test_a_package_that_lacks_is_said_before_anything_is_loaded(
    tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "jiwer", None)
    monkeypatch.setitem(sys.modules, "pyloudnorm", None)
    monkeypatch.setattr("diffusers_jova.training.train.Trainer", lambda *_: pytest.fail("weights are loaded"))
    message = r"`validation_measures` must be those whose packages are installed, got `words`: .*jiwer.*; leave it out"
    with pytest.raises(ValueError, match=message):
        run(tiny_config(tmp_path, **settings, **VALIDATED, validation_measures=["words"]))
    with pytest.raises(pytest.fail.Exception, match="weights are loaded"):
        run(tiny_config(tmp_path, **settings, **VALIDATED))
    assert capsys.readouterr().err.count("validation: loudness is left out of 2 of 2 clips: ") == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"validation_measures": ["lips"]},
            r"`validation_measures` must be one of sync, syncnet, .*, got 'lips'",
        ),
        ({"validation_measures": "sync"}, r"`validation_measures` must be a list, got 'sync'"),
        ({"validation_measures": ["sync", "sync"]}, "`validation_measures` must name each group once, got"),
        ({"validation_measures": ["sync"], "validate_every": None}, "`validation_measures` are taken of clips that"),
        ({"validation_measures": ["sync"], "validation_prompts": []}, "`validate_every` needs `validation_prompts`"),
        ({"validation_syncnet": "here"}, "`validation_syncnet` is read where `validation_measures` has `syncnet`"),
        ({"validation_measures": ["syncnet"]}, "`validation_syncnet` must be given where"),
        ({"validation_whisper": "here"}, "`validation_whisper` is read where `validation_measures` has `words`"),
        ({"validation_language": "zh"}, "`validation_language` is read where `validation_measures` has `words`"),
        (
            {"validation_measures": ["words"], "validation_language": "English"},
            "`validation_language` must be a code of two or three small letters, got 'English'; write en, say",
        ),
        (
            {"validation_measures": ["words"], "validation_language": "zh"},
            "`validation_language` must be en for the small recogniser, got 'zh'; set `validation_whisper`",
        ),
        (
            {"validation_measures": ["words"], "validation_prompts": ["a"]},
            "`validation_measures` must leave `words` out where no validation clip has a `transcript`, got",
        ),
        (
            {"validation_measures": ["voice"]},
            "`validation_measures` must leave `voice` out where no validation clip has a `reference_audio`, got",
        ),
    ],
)
def test_measures_that_would_say_nothing_are_refused(
    tmp_path: Path, settings: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run(tiny_config(tmp_path, **settings | VALIDATED | changes))


def test_measures_that_fail_take_no_step_and_no_clip_from_the_run(
    tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Measured:
        raise RuntimeError("no memory for a network")

    monkeypatch.setattr(meter, "measure_sound", fail)
    message = "validation clips of step . are not measured, the run goes on: RuntimeError: no memory for a network"
    with pytest.warns(UserWarning, match=message):
        run(tiny_config(tmp_path, **settings, **VALIDATED))
    assert len(list((tmp_path / "run" / "validation").iterdir())) == 4
    assert measured(tmp_path / "run") == []


def run_in_a_group(config: Any) -> None:
    forget_accelerate()
    run(config)


def test_of_several_processes_one_measures_each_clip_once(tmp_path: Path, settings: dict[str, Any]) -> None:
    launch(run_in_a_group, tiny_config(tmp_path, **settings, **VALIDATED, distribution="ddp", batch_size=2))
    assert [line["step"] for line in measured(tmp_path / "run")] == [1, 2]
    kept = [json.loads(line) for line in (tmp_path / "run" / FOLDER / "measured.jsonl").read_text().splitlines()]
    clips = [f"step-0000000{step}-0{clip}" for step in (1, 2) for clip in (0, 1)]
    assert sorted((row["clip"], row["group"]) for row in kept) == [(c, g) for c in clips for g in ("picture", "sound")]


def test_a_run_that_continues_has_each_step_once_in_both_logs(tmp_path: Path, settings: dict[str, Any]) -> None:
    own = settings | VALIDATED | {"tensorboard": True, "checkpoint_every": 2}
    trainer = assemble(tiny_config(tmp_path, **own | {"steps": 5}))
    validate = trainer.on_validate

    def break_off(trainer: Trainer, step: int) -> Any:
        assert validate is not None
        values = validate(trainer, step)
        if step == 3:
            trainer._start_log = None  # type: ignore[assignment]
            raise KeyboardInterrupt
        return values

    trainer.on_validate = break_off
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    forget_accelerate()
    run(tiny_config(tmp_path, **own | {"steps": 4}))
    assert [line["step"] for line in measured(tmp_path / "run")] == [1, 2, 3, 4]
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    for name in (f"{JUDGED}sharpness", f"{CLIPS}sharpness", "loss/video"):
        assert [event.step for event in events.Scalars(name)] == [1, 2, 3, 4], name


def test_the_measures_are_those_of_evaluate() -> None:
    (setting,) = (setting for setting in read_settings() if setting.name == "validation_measures")
    judging = {measure.group for measure in MEASURES}  # others compare sets of clips
    groups = [group for group in GROUPS if group in judging]
    assert set(get_args(Measures)) == set(groups)
    assert all(f"`{group}`" in setting.purpose for group in groups)
    for group in groups:
        values = {"model": "a.json", "data": "b", "output_dir": "c", "validate_every": 1, "validation_prompts": ["a"]}
        values |= {f"validation_{NETWORKS[group]}": "weights"} if group in NETWORKS else {}
        assert from_values(values | {"validation_measures": [group]}).validation_measures == (group,)
