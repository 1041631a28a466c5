"""A folder that holds another network, or a part of one, is refused in one sentence before any clip is measured."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel

from diffusers_jova.evaluation.clap import Clap
from diffusers_jova.evaluation.evaluate import main
from tests.evaluation.speaking import write_speaker
from tests.tiny_networks import save_clap


RAN = Path("code-of-a-pickle-ran")


class Code:
    """A pickle that runs code."""

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (RAN,)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_clap(tmp_path / "clap")


def refusal(folder: Path) -> str:
    with pytest.raises(ValueError, match="must be the folder of a CLAP that transformers reads, got") as raised:
        Clap(folder)
    told = str(raised.value)
    assert "\n" not in told
    assert told.endswith("download one, such as laion/clap-htsat-fused")
    return told


def test_another_network_is_named(tmp_path: Path) -> None:
    CLIPModel(
        CLIPConfig(text_config={"num_hidden_layers": 0}, vision_config={"num_hidden_layers": 0})
    ).save_pretrained(tmp_path / "other")
    assert "got another network, clip, in `" in refusal(tmp_path / "other")


def test_weights_that_are_not_there_are_not_random(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["audio_projection.linear1.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert "no weights for audio_projection.linear1.weight" in refusal(folder)


def test_weights_of_another_size_and_no_numbers_are_refused(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    bias = weights["audio_projection.linear1.bias"]
    save_file(weights | {"audio_projection.linear1.bias": bias / 0}, folder / "model.safetensors", {"format": "pt"})
    assert "NaN or infinity in audio_projection.linear1.bias" in refusal(folder)
    save_file(weights | {"audio_projection.linear1.bias": bias[:5]}, folder / "model.safetensors", {"format": "pt"})
    assert "got an error (" in refusal(folder)


def test_damaged_files_and_what_is_no_model_are_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"half")
    assert "got an error (" in refusal(folder)
    (folder / "processor_config.json").unlink()
    (folder / "config.json").write_text("{}")
    assert "got an error (" in refusal(folder)
    (tmp_path / "empty").mkdir()
    assert "got an error (" in refusal(tmp_path / "empty")


def test_code_that_a_pickle_names_is_not_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Code()}, folder / "pytorch_model.bin", pickle_module=pickle)
    refusal(folder)
    assert not RAN.exists()
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "clap"


def test_the_command_refuses_before_the_first_clip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = write_speaker(tmp_path / "said", "clip", seed=0)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(SystemExit):
        main([str(clip), "--output", str(tmp_path / "report"), "--clap", str(tmp_path / "other")])
    told = capsys.readouterr().err
    assert "`--clap` must be the folder of a CLAP that transformers reads, got another network, clip, in" in told
    assert "measuring" not in told
    with pytest.raises(SystemExit):
        main([str(clip), "--output", str(tmp_path / "report"), "--clap", str(tmp_path / "none")])
    assert "`--clap` must be an existing folder" in capsys.readouterr().err
