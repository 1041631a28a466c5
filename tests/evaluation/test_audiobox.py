"""The package's network hears a sound in windows that count by how full they are; without the package it is told."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from diffusers_jova.evaluation.audiobox import AXES, RATE_HZ, AudioBox, measure_audiobox
from diffusers_jova.evaluation.evaluate import main
from diffusers_jova.media import write_audio


class MeanOfHeard:
    """A network whose opinion is the mean of the samples that are no padding, in the package's form."""

    target_transform: Any = {axis: {"mean": 5.0, "std": 2.0} for axis in AXES}

    @classmethod
    def from_pretrained(cls, folder: str, *, strict: bool, local_files_only: bool) -> MeanOfHeard:
        assert strict
        assert local_files_only
        print("Loading weights from local directory")
        if not (Path(folder) / "model.safetensors").is_file():
            raise RuntimeError("Missing key(s) in state_dict")
        return cls()

    def to(self, _device: str) -> MeanOfHeard:
        return self

    def eval(self) -> MeanOfHeard:
        return self

    def __call__(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        wav, mask = batch["wav"], batch["mask"]
        assert wav.shape == mask.shape == (1, 1, 10 * RATE_HZ)
        mean = (wav * mask).sum((1, 2)) / mask.sum((1, 2))
        return {axis: mean * (number + 1) for number, axis in enumerate(AXES)}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(sys.modules, "audiobox_aesthetics", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "audiobox_aesthetics.model", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "audiobox_aesthetics.model.aes", SimpleNamespace(AesMultiOutput=MeanOfHeard))
    (tmp_path / "network").mkdir()
    (tmp_path / "network" / "model.safetensors").write_bytes(b"weights")
    return tmp_path / "network"


def test_windows_count_by_how_much_of_them_the_sound_fills(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sound = np.concatenate([np.full(10 * RATE_HZ, 0.1), np.full(5 * RATE_HZ, 0.4)]).astype(np.float32)[None]
    values = measure_audiobox(sound, RATE_HZ, AudioBox(folder)).values
    assert values["audiobox_ce"] == pytest.approx(5 + 2 * (0.1 * 10 + 0.4 * 5) / 15)
    assert values["audiobox_pq"] == pytest.approx(5 + 2 * 4 * (0.1 * 10 + 0.4 * 5) / 15)
    assert capsys.readouterr().out == ""
    stereo = np.concatenate([sound, 0 * sound])
    assert measure_audiobox(stereo, RATE_HZ, AudioBox(folder)).values["audiobox_ce"] == pytest.approx(5.2)
    assert measure_audiobox(None, 0, AudioBox(folder)).reason == "no sound"
    cancelled = measure_audiobox(np.concatenate([sound, -sound]), RATE_HZ, AudioBox(folder))
    assert (cancelled.values, cancelled.reason) == ({}, "the channels cancel each other")


def test_another_network_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MeanOfHeard, "target_transform", None)
    with pytest.raises(ValueError, match=r"must be the folder of AudioBox-aesthetics, got no scale of CE, CU, PC, PQ"):
        AudioBox(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="got an error"):
        AudioBox(folder)


def test_without_the_package_the_group_is_left_out_and_the_rest_is_measured(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_audio(tmp_path / "hum.wav", np.full((1, RATE_HZ), 0.1, np.float32), RATE_HZ)
    words = [str(tmp_path / "hum.wav"), "--output", str(tmp_path / "report"), "--measures", "audiobox", "sound"]
    main([*words, "--audiobox", str(folder)])
    (row,) = json.loads((tmp_path / "report" / "report.json").read_text())["rows"]
    assert row["values"]["audiobox_ce"] == pytest.approx(5.2, abs=0.01)
    monkeypatch.setitem(sys.modules, "audiobox_aesthetics.model.aes", None)
    main([*words[:2], str(tmp_path / "without"), *words[3:], "--audiobox", str(folder)])
    assert "audiobox is left out of 1 of 1 clips: " in capsys.readouterr().err
    (row,) = json.loads((tmp_path / "without" / "report.json").read_text())["rows"]
    assert row["values"]["silence_share"] == 0


def test_the_packages_own_network_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    aes = pytest.importorskip("audiobox_aesthetics.model.aes")
    small: dict[str, int | str] = {
        "encoder_layers": 2,
        "encoder_embed_dim": 24,
        "encoder_ffn_embed_dim": 24,
        "encoder_attention_heads": 2,
    }
    small |= {
        "conv_feature_layers": "[(8,10,5)] + [(8,3,2)] * 4 + [(8,2,2)] * 2",
        "conv_pos": 16,
        "conv_pos_groups": 4,
    }
    for name, value in small.items():
        monkeypatch.setattr(aes.DEFAULT_AUDIO_CFG, name, value)
    torch.manual_seed(0)
    with pytest.warns(FutureWarning):
        network = aes.AesMultiOutput(nth_layer=3, target_transform=MeanOfHeard.target_transform, precision="32").eval()
    network.save_pretrained(tmp_path)
    sound = np.random.default_rng(0).normal(0, 0.1, (1, 10 * RATE_HZ)).astype(np.float32)
    found = AudioBox(tmp_path)(sound, RATE_HZ)
    with pytest.warns(UserWarning, match="mismatched"):
        expected = network(
            {"wav": torch.from_numpy(sound)[None], "mask": torch.ones(1, 1, sound.size, dtype=torch.bool)}
        )
    assert found == pytest.approx({axis: 5 + 2 * float(expected[axis]) for axis in AXES}, abs=1e-4)
