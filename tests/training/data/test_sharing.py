"""Work that other processes do: what is sent to them holds in any working folder."""

from pathlib import Path

import pytest

from diffusers_jova.evaluation.measuring import Measurer
from diffusers_jova.evaluation.meter import Meter
from diffusers_jova.training.data.sharing import with_whole_paths


def test_paths_of_networks_are_whole_however_deep_they_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sent = with_whole_paths(Measurer(Meter(whisper=Path("models/w"), voice=Path("v.wav"), missing={"a": "b"}), "cpu"))
    assert (sent.meter.whisper, sent.meter.voice) == (tmp_path / "models" / "w", tmp_path / "v.wav")
    assert (sent.meter.syncnet, sent.meter.missing, sent.device) == (None, {"a": "b"}, "cpu")
