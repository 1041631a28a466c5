"""The settings beside a clip: rows of a list that name no place, and uploads that are checked by kind."""

import json
from pathlib import Path
from typing import Any

import pytest

from jova_cli.clip_settings import read_settings, write_settings
from jova_cli.generate import Adapter, default_arguments, parse_adapter


def test_settings_hold_names_of_adapters_and_their_scales_to_the_last_digit(tmp_path: Path) -> None:
    args, path = default_arguments(), tmp_path / "settings.jsonl"
    args.lora = [Adapter("/home/anna/talker", 1 / 3), Adapter("/home/anna/dog.safetensors", 0.0)]
    write_settings(path, args, "jova-tiny", ["talker", "dog"])
    assert "anna" not in path.read_text()
    (word,) = read_settings(path)["lora"]
    assert parse_adapter(word) == Adapter("talker", 1 / 3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lora": 5}, "`lora` must be a list of texts, got int"),
        ({"lora": "abc"}, "`lora` must be a list of texts, got str"),
        ({"modalities": [["video"]]}, "`modalities` must be a list of texts, got list"),
        ({"image": {"a": 1}}, "`image` must be a text, got dict"),
        ({"model": 3}, "`model` must be a text, got int"),
        ({"steps": "many"}, "`steps` must be a number, got str"),
        ({"seed": True}, "`seed` must be a number, got bool"),
        ({"frame_rate": float("nan")}, "`frame_rate` must be a number, got nan"),
        ({"width": None}, "`width` must be a number, got null"),
    ],
)
def test_settings_of_another_kind_are_refused(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    path = tmp_path / "settings.jsonl"
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=f"{message}; choose the file beside the clip"):
        read_settings(path)


def test_settings_that_are_nested_without_end_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "settings.jsonl"
    path.write_text('{"lora": ' + "[" * 100_000 + "]" * 100_000 + "}")
    with pytest.raises(ValueError, match="nested too deeply; choose the file beside the clip"):
        read_settings(path)
