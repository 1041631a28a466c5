"""The notebook runs, cell by cell, and every clip in it shows itself; it is kept without what it showed."""

import ast
import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from diffusers_jova.provenance import read_provenance
from tests.places import ROOT
from tests.tiny_pipeline import DEFAULTS, build_tiny_pipeline
from tests.tiny_training import write_clips


NOTEBOOK = ROOT / "examples" / "quickstart.ipynb"
FEW_STEPS = "\nSTEPS = 1\n"  # behind the cell of parameters


def cells() -> list[dict[str, Any]]:
    return json.loads(NOTEBOOK.read_text())["cells"]


def run_cell(code: str, namespace: dict[str, Any]) -> Any:
    """Run a cell as a notebook does, whose last line is shown if it is an expression."""
    *lines, last = ast.parse(code, str(NOTEBOOK)).body
    exec(compile(ast.Module([*lines], []), str(NOTEBOOK), "exec"), namespace)
    if isinstance(last, ast.Expr):
        return eval(compile(ast.Expression(last.value), str(NOTEBOOK), "eval"), namespace)
    exec(compile(ast.Module([last], []), str(NOTEBOOK), "exec"), namespace)
    return None


def test_a_loop_of_ones_own_trains(
    tmp_path: Path, tiny_pipeline_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_clips(tmp_path, channels=(16, 4, 16))
    example = runpy.run_path(str(ROOT / "examples" / "custom_loop.py"))
    example["main"](str(tmp_path), str(tiny_pipeline_folder), 2)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["step 0", "step 1"]
    assert all(float(value) > 0 for line in lines for value in re.findall(r"[a-z]+ (\d\.\d+)", line))


def test_a_denoising_loop_of_ones_own_comes_to_what_the_pipeline_does(
    tmp_path: Path, tiny_pipeline_folder: Path
) -> None:
    example = runpy.run_path(str(ROOT / "examples" / "own_sampling.py"))
    pipeline = build_tiny_pipeline(defaults={**DEFAULTS, "guidance_scale": 3.0, "coupling_scale": 2.0})
    defaults, generator = pipeline.defaults, torch.Generator().manual_seed(0)
    shape = pipeline.video_codec.latent_shape(defaults.num_frames, defaults.height, defaults.width)
    num_latents = pipeline.audio_codec.num_latents_for(defaults.num_frames / defaults.frame_rate)
    video = torch.randn(1, *shape, generator=generator)
    audio = torch.randn(1, num_latents, pipeline.transformer.config.audio_in_channels, generator=generator)
    expected = pipeline("a dog", latents=video, audio_latents=audio, output_type="latent")
    made = example["denoise"](pipeline, "a dog", video, audio)
    for found, wanted in zip(made, (expected.frames, expected.audio), strict=True):
        assert (found - wanted).norm() < 1e-5 * wanted.norm()
    example["main"](str(tiny_pipeline_folder), "a dog", str(tmp_path / "clip.mp4"))
    assert (tmp_path / "clip.mp4").is_file()


def test_the_notebook_keeps_no_outputs() -> None:
    for cell in cells():
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None), cell["id"]


def test_every_cell_of_the_notebook_runs_and_its_clips_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = build_tiny_pipeline(defaults={**DEFAULTS, "num_frames": 33, "max_sequence_length": 128})
    pipeline.save_pretrained(tmp_path / "jova-tiny")  # comes before the model of the same name
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("diffusers_jova.training.loop.distribution.lacks_bfloat16", lambda: True)  # hours by `bf16`
    namespace: dict[str, Any] = {"__name__": "__main__"}
    shown = []
    for cell in cells():
        if cell["cell_type"] != "code":
            continue
        code = "".join(cell["source"])
        code += FEW_STEPS if "parameters" in cell["metadata"].get("tags", ()) else ""
        value = run_cell(code, namespace)
        if hasattr(value, "_repr_html_"):
            shown.append(re.findall(r'<video [^>]*src="data:video/mp4;base64,', value._repr_html_()))
    assert [len(players) for players in shown] == [1, 1, 1, 1]  # text, portrait, voice, adapter
    assert yaml.safe_load(Path("adapter/config.yaml").read_text())["mixed_precision"] == "no"
    assert [x["name"] for x in read_provenance("lilac.mp4")["adapters"]] == ["adapter"]
