from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from jova_cli.clip_filters import read_filter
from jova_cli.yaml_text import parse_yaml
from training.codecs.codec_config import load_config
from training.loop.config import load_yaml


@pytest.mark.parametrize("text", ["a: 1\na: 2", "{a: 1, b: 3, a: 1}", "b:\n  - {c: 1}\n  - a: 1\n    a: 2"])
def test_a_name_that_stands_twice_is_refused(text: str) -> None:
    with pytest.raises(yaml.YAMLError, match=r"^`a` stands in line \d and again in line \d$"):
        parse_yaml(text)


def test_other_yaml_is_read_as_pyyaml_reads_it() -> None:
    text = "a: {c: 1}\nb: {c: 2}\nd: &x {e: 1, f: 2}\ng: {<<: *x, e: 3}\n? [1, 2]\n: h\n2026-11-29: -1.5e-3"
    with pytest.raises(yaml.YAMLError):  # a list is no name, for neither
        yaml.safe_load(text)
    text = text.replace("? [1, 2]\n: h\n", "1: h\n")
    assert parse_yaml(text) == yaml.safe_load(text)


def filters_of(path: Path) -> Any:
    return read_filter([str(path)])


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (load_yaml, "stage: joint\nstage: video\n"),
        (load_config, "corpus: {clips: 6, clips: 60}\n"),
        (filters_of, "silence_share: ..0.8\nsilence_share: ..0.1\n"),
    ],
    ids=["training", "codecs", "filters"],
)
def test_settings_that_are_given_twice_are_refused(read: Callable[[Path], Any], text: str, tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    with pytest.raises(
        ValueError, match=r"settings\.yaml.* must be .*YAML, got .* stands in line \d and again in line"
    ):
        read(path)
