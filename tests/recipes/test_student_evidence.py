"""A student beside its teacher: who is measured, and against what."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from diffusers_jova.few_steps import FewSteps
from diffusers_jova.recipes import student_evidence
from diffusers_jova.training.loop.config import load_yaml
from jova_cli.shipped import find_preset, preset_names
from tests.tiny_pipeline import DEFAULTS, build_tiny_pipeline


@pytest.mark.slow
def test_the_command_measures_the_student_and_the_teacher_in_as_many_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    size = {"height": 64, "width": 64, "num_frames": 17}
    build_tiny_pipeline(defaults={**DEFAULTS, **size}).save_pretrained(tmp_path / "model")
    name = "transformer.transformer_blocks.0.attn.video.to_q"
    tensors = {f"{name}.lora_A.weight": torch.randn(2, 24), f"{name}.lora_B.weight": torch.randn(24, 2)}
    few_steps = FewSteps(num_inference_steps=1, shift=1.0, audio_shift=1.0)
    for file, header in (("student", few_steps.to_header()), ("other", {})):
        save_file(tensors, tmp_path / f"{file}.safetensors", metadata=header)
    monkeypatch.setattr(student_evidence, "MANY_STEPS", 3)
    places = ["--output", str(tmp_path / "figures.json"), "--work", str(tmp_path / "work")]
    words = ["--model", str(tmp_path / "model"), "--clips", "2", "--speech", "formant", *places]
    (tmp_path / "README.md").write_text("# Model\n<!-- student -->\n<!-- /student -->\n")
    student_evidence.main([*words, "--student", str(tmp_path / "student.safetensors")])
    assert "| student, Euler 1 | 1 |" in capsys.readouterr().out
    assert "## A student of few steps\n\n2 held-out prompts" in (tmp_path / "README.md").read_text()
    curve = json.loads((tmp_path / "figures.json").read_text())["curve"]
    assert {row["who"]: row["predictions"] for row in curve} == {
        "teacher without guidance, Euler 1": 1,
        "teacher without guidance, UniPC 1": 1,
        "teacher, Euler 1": 2,
        "teacher, UniPC 1": 2,
        "teacher, Euler 2": 4,
        "student, Euler 1": 1,
        "teacher, Euler 3": 6,
    }
    report = {row["who"]: row["measures"] for row in curve}
    assert report["teacher without guidance, Euler 1"]["psnr_db"] != report["teacher, Euler 1"]["psnr_db"]
    assert report["student, Euler 1"]["psnr_db"]["mean"] != report["teacher, Euler 1"]["psnr_db"]["mean"]
    with pytest.raises(SystemExit):
        student_evidence.main([*words, "--student", str(tmp_path / "other.safetensors")])
    assert "`--student` must be an adapter that `jova distill` made" in capsys.readouterr().err


@pytest.mark.slow
def test_several_students_are_measured_in_one_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = {"height": 64, "width": 64, "num_frames": 17}
    build_tiny_pipeline(defaults={**DEFAULTS, **size}).save_pretrained(tmp_path / "model")
    name = "transformer.transformer_blocks.0.attn.video.to_q"
    students = [tmp_path / f"{file}.safetensors" for file in ("two", "one", "another")]
    for file, steps in zip(students, (2, 1, 1), strict=True):
        tensors = {f"{name}.lora_A.weight": torch.randn(2, 24), f"{name}.lora_B.weight": torch.randn(24, 2)}
        save_file(tensors, file, metadata=FewSteps(num_inference_steps=steps, shift=1.0, audio_shift=1.0).to_header())
    monkeypatch.setattr(student_evidence, "MANY_STEPS", 3)
    rows = student_evidence.measure_both(tmp_path / "model", students[:2], 2, "formant", tmp_path / "work", 1)
    assert [who for who in rows if who.startswith("student")] == ["student, Euler 2", "student, Euler 1"]
    assert [rows[f"student, Euler {steps}"].predictions for steps in (2, 1)] == [2, 1]
    alone = student_evidence.measure_both(tmp_path / "model", students[1:2], 2, "formant", tmp_path / "alone", 1)
    for who, row in alone.items():
        assert row == rows[who], who
    with pytest.raises(ValueError, match=r"students of other steps than each other, got another of .*another"):
        student_evidence.measure_both(tmp_path / "model", students, 2, "formant", tmp_path / "work", 1)


def test_the_card_tells_how_long_a_student_learned(tmp_path: Path) -> None:
    assert student_evidence.settings_of(tmp_path) == {}
    settings = {"steps": 7, "batch_size": 2, "teacher_steps": 24}
    own = {"model": "m", "data": "d", "output_dir": str(tmp_path), "student_steps": 4}
    load_yaml(find_preset("--config", "jova_tiny_distill", preset_names()), settings | own).save(
        tmp_path / "config.yaml"
    )
    assert student_evidence.settings_of(tmp_path) == settings
    report = {"training": settings, "clips": 2, "date": "2026-11-28T00:00", "commit": "abc", "curve": []}
    assert "learned for 7 steps of 2 clips, from a teacher of 24 steps. 2 held-out" in student_evidence.describe(
        report
    )
    both = student_evidence.describe({**report, "training": [settings, settings]})
    assert "Each student learned for 7 steps of 2 clips, from a teacher of 24 steps. 2 held-out" in both
    unlike = student_evidence.describe({**report, "training": [settings, {**settings, "steps": 9}]})
    assert "learned for 7 steps of 2 clips, 9 steps of 2 clips, from teachers of 24 steps, 24 steps. " in unlike
    assert "learned" not in student_evidence.describe({**report, "training": [settings, {}]})
