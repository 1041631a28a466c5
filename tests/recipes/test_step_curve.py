"""The curve over steps: what is compared with what, which steps it chooses, and that the card tells it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffusers_jova import FlowMatchAudioVideoScheduler
from diffusers_jova.recipes import jova_tiny, step_curve
from diffusers_jova.recipes.generation import Generated, held_out_clips
from diffusers_jova.recipes.step_curve import MANY, Setting, chosen, compare
from jova_cli.shipped import model_folder
from tests.places import CARDS
from tests.tiny_pipeline import DEFAULTS, build_tiny_pipeline


def figures(psnr_db: float, mel_distance: float) -> dict[str, dict[str, float]]:
    return {"psnr_db": {"mean": psnr_db}, "mel_distance": {"mean": mel_distance}}


def test_the_fewest_steps_are_chosen_that_lose_little_beside_the_codecs_in_picture_and_in_sound() -> None:
    codecs = figures(34.0, 0.2)  # half of it: 40.02 dB and 0.1 nats
    curve = {
        Setting("euler", 4): figures(20.0, 0.9),
        Setting("unipc", 4): figures(41.0, 0.11),  # loses sound
        Setting("unipc", 6): figures(40.0, 0.09),  # loses picture
        Setting("euler", 8): figures(40.1, 0.1),
        Setting("unipc", 8): figures(40.1, 0.09),
        Setting("unipc", 12): figures(50.0, 0.05),
    }
    assert chosen(curve, codecs) == ("unipc", 8)
    del curve[Setting("unipc", 8)]
    assert chosen(curve, codecs) == ("euler", 8)
    with pytest.raises(ValueError, match=r"must hold one that comes within 40\.0 dB and 0\.100 nats, got none"):
        chosen({Setting("euler", 4): figures(20.0, 0.9)}, codecs)


def test_clips_are_compared_with_those_of_many_steps() -> None:
    pipeline = build_tiny_pipeline(defaults={**DEFAULTS, "height": 64, "width": 64, "num_frames": 17})
    references = held_out_clips(pipeline, range(11_000_000, 11_000_002), subject="speaker", speech="formant")
    many = [Generated(clip.frames, clip.waveform, 1.0) for clip in references]
    made = [Generated(np.minimum(clip.frames, 254) + 1, clip.waveform / np.e, 1.0) for clip in references]
    found = compare(made, many, references, "formant")
    assert 47 < found["psnr_db"]["mean"] < 49  # one of 255 apart nearly everywhere
    assert 0 < found["mel_distance"]["mean"] <= 1  # a factor of e is 1 nat, but at the floor
    assert found["word_top1"]["mean"] == 1


def test_the_command_writes_the_curve_and_the_section_of_the_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    size: dict[str, Any] = {"height": 64, "width": 64, "num_frames": 17}
    build_tiny_pipeline(defaults={**DEFAULTS, **size}).save_pretrained(tmp_path / "model")
    (tmp_path / "README.md").write_text("# Model\n<!-- steps -->\n<!-- /steps -->\n")
    monkeypatch.setattr(step_curve, "MANY", Setting("euler", 3))
    monkeypatch.setattr(step_curve, "SHARE", 1000.0)  # the codecs are random
    monkeypatch.setattr(step_curve, "SETTINGS", (Setting("euler", 1), Setting("unipc", 2)))
    places = ["--output", str(tmp_path / "steps.json"), "--work", str(tmp_path / "work")]
    step_curve.main(["--model", str(tmp_path / "model"), "--clips", "2", "--speech", "formant", *places])
    assert "| UniPC, 2" in capsys.readouterr().out
    report = json.loads((tmp_path / "steps.json").read_text())
    settings = [(row["solver"], row["steps"]) for row in report["curve"]]
    assert settings == [("euler", 1), ("unipc", 2), ("euler", 3)]
    one, two, three = (row["measures"] for row in report["curve"])
    assert one["psnr_db"]["mean"] != two["psnr_db"]["mean"]
    assert "psnr_db" not in three
    assert "## Steps" in (tmp_path / "README.md").read_text()
    with pytest.raises(SystemExit):
        step_curve.main(["--clips", "1"])
    assert "`--clips` must be at least 2" in capsys.readouterr().err


def test_a_curve_without_steps_that_are_near_enough_is_written_without_a_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measures = {name: {"mean": 0.5, "standard_error": 0.1} for name, _ in step_curve.MEASURES}
    monkeypatch.setattr(step_curve, "load_pipeline", lambda *_: build_tiny_pipeline())
    monkeypatch.setattr(step_curve, "fingerprint", lambda *_: "model")
    monkeypatch.setattr(step_curve, "held_out_clips", lambda *_, **_options: [])
    monkeypatch.setattr(step_curve, "work_name", lambda *_: "work")
    monkeypatch.setattr(step_curve, "make", lambda *_, **_options: [])
    monkeypatch.setattr(step_curve, "measure", lambda *_: [])
    monkeypatch.setattr(step_curve, "summarize", lambda _: measures)
    monkeypatch.setattr(step_curve, "compare", lambda *_: measures)
    monkeypatch.setattr(step_curve, "codec_losses", lambda *_, **_options: measures)
    card = tmp_path / "README.md"
    card.write_text("# Model\n<!-- steps -->\n<!-- /steps -->\n")
    words = ["--clips", "2", "--output", str(tmp_path / "steps.json"), "--work", str(tmp_path / "work")]
    assert step_curve.main(words) == 1
    said = capsys.readouterr().out
    assert "none comes within 6.5 dB and 0.250 nats." in said
    assert "(chosen)" not in said
    report = json.loads((tmp_path / "steps.json").read_text())
    assert report["chosen"] is None
    assert len(report["curve"]) == len(step_curve.SETTINGS) + 1
    assert "none comes within" in card.read_text()
    near = {
        **measures,
        "psnr_db": {"mean": 50.0, "standard_error": 1.0},
        "mel_distance": {"mean": 0.1, "standard_error": 0.01},
    }
    monkeypatch.setattr(step_curve, "compare", lambda *_: near)
    assert step_curve.main(words) == 0
    said = capsys.readouterr().out
    assert "The default is the fewest steps that lose at most 0.5 times" in said
    assert said.count("(chosen)") == 1


def test_the_shipped_default_is_what_the_curve_of_the_card_chooses() -> None:
    report = json.loads((CARDS / "jova-tiny" / "steps.json").read_text())
    curve = {Setting(row["solver"], row["steps"]): row["measures"] for row in report["curve"]}
    del curve[MANY]
    best = chosen(curve, report["codecs"])
    shipped = model_folder("jova-tiny")
    index = json.loads((shipped / "model_index.json").read_text())
    scheduler = FlowMatchAudioVideoScheduler.from_pretrained(shipped / "scheduler")
    assert (scheduler.config.solver, index["defaults"]["num_inference_steps"]) == best
    assert (jova_tiny.SOLVER, jova_tiny.DEFAULTS["num_inference_steps"]) == best
    assert (
        f"{step_curve.SOLVER_NAMES[best.solver]}, {best.steps} (chosen)"
        in (CARDS / "jova-tiny" / "README.md").read_text()
    )
