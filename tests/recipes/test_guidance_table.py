"""The table of guidance: what each way costs, and that the card tells it."""

import json
from pathlib import Path
from typing import Any

import pytest

from diffusers_jova.generation_defaults import GenerationDefaults
from diffusers_jova.recipes import guidance_table
from diffusers_jova.recipes.generation import num_predictions
from diffusers_jova.recipes.guidance_table import OWN, ways, with_coupling
from tests.tiny_pipeline import DEFAULTS, build_tiny_pipeline


def test_a_way_costs_the_predictions_that_its_steps_ask_for() -> None:
    own = GenerationDefaults(num_inference_steps=8, guidance_scale=1.5)
    costs = {way: num_predictions(own.override(**arguments)) for way, arguments in ways(1.5).items()}
    assert costs == {
        OWN: 16,
        "none": 8,
        "twice as far": 16,
        "on the first half of the steps": 12,
        "on the second half": 12,
        "on all but the first quarter": 14,
        "on the middle half": 12,
        "of text and coupling, merged": 16,
        "of text and coupling apart": 24,
        "projected (APG)": 16,
        "scaled (CFG-Zero*)": 16,
        "zero on the first step": 14,
        "scaled, zero on the first step (CFG-Zero*)": 14,
    }


def test_of_a_coupled_model_both_scales_change_together() -> None:
    own = GenerationDefaults(num_inference_steps=8, guidance_scale=1.5, coupling_scale=None)
    table = with_coupling(ways(1.5), 1.5)
    costs = {way: num_predictions(own.override(**arguments)) for way, arguments in table.items()}
    assert costs == {
        OWN: 16,
        "none": 8,
        "twice as far": 16,
        "on the first half of the steps": 12,
        "on the second half": 12,
        "on all but the first quarter": 14,
        "on the middle half": 12,
        "of text and coupling apart": 24,
        "projected (APG)": 16,
        "scaled (CFG-Zero*)": 16,
        "zero on the first step": 14,
        "scaled, zero on the first step (CFG-Zero*)": 14,
        "of text alone": 16,
        "of coupling alone": 16,
    }


def test_the_command_writes_the_table_and_the_section_of_the_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    size: dict[str, Any] = {"height": 64, "width": 64, "num_frames": 17}
    build_tiny_pipeline(defaults={**DEFAULTS, **size}).save_pretrained(tmp_path / "model")
    (tmp_path / "README.md").write_text("# Model\n<!-- guidance -->\n<!-- /guidance -->\n")
    monkeypatch.setattr(guidance_table, "ways", lambda _: {OWN: {}, "none": {"guidance_scale": 1.0}})
    places = ["--output", str(tmp_path / "guidance.json"), "--work", str(tmp_path / "work")]
    guidance_table.main(["--model", str(tmp_path / "model"), "--clips", "2", "--speech", "formant", *places])
    assert "| none | 2 |" in capsys.readouterr().out
    own, none = json.loads((tmp_path / "guidance.json").read_text())["table"]
    assert (own["predictions"], none["predictions"]) == (4, 2)
    assert "psnr_db" not in own["measures"]
    assert none["measures"]["psnr_db"]["mean"] > 0
    assert "## Guidance" in (tmp_path / "README.md").read_text()
    with pytest.raises(SystemExit):
        guidance_table.main(["--clips", "1"])
    assert "`--clips` must be at least 2" in capsys.readouterr().err
