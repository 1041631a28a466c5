"""An option that needs a package which is not installed is refused before anything is read or torch is loaded."""

import importlib
import re
import sys
from pathlib import Path

import PIL.Image
import pytest
from safetensors.numpy import save_file

from jova_cli.main import main


CLIPS = ["clips", "new", "--model", "jova-tiny", "--no-mouth"]
LOUDNESS = "--loudness-lufs=-23"
LANDMARKER = ["--face-landmarker-path", "a.pem"]
SIGNED = ["--model", "jova-tiny", "--prompt", "a", "--output", "a.mp4", "--sign-certificate=a.pem", "--sign-key=a.pem"]
LORA = ["records", "new", "--model", "jova-tiny"]


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the words name, in the working folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips").mkdir()
    PIL.Image.new("RGB", (8, 8)).save(tmp_path / "clips" / "a.png")
    (tmp_path / "clips" / "a.txt").write_text("a red square")
    (tmp_path / "records").mkdir()
    save_file({}, tmp_path / "records" / "a.safetensors")
    (tmp_path / "a.pem").write_text("a file")
    (tmp_path / "a.jsonl").write_text('{"video_caption": "a"}')


@pytest.mark.parametrize(
    ("command", "words", "module", "said"),
    [
        ("preview", [*CLIPS, "--subtitles"], "moviepy", "`--subtitles` must .* its extra `moviepy`"),
        ("preview", [*CLIPS, LOUDNESS], "pyloudnorm", "`--loudness-lufs` must .* its extra `loudness`"),
        ("prepare", [*CLIPS, LOUDNESS], "pyloudnorm", "`--loudness-lufs` must .* its extra `loudness`"),
        (
            "prepare",
            [*CLIPS[:4], *LANDMARKER],
            "mediapipe",
            "`--face-landmarker-path` must .*; run `pip ",
        ),
        ("generate", [*SIGNED], "c2pa", "`--sign-certificate` must .* its extra `c2pa`"),
        ("train_lora", [*LORA, "quantize=nf4"], "bitsandbytes", "`quantize: nf4` must .* its extra `quantize`"),
        (
            "train_lora",
            [*LORA, "optimizer=adamw_8bit"],
            "bitsandbytes",
            "`optimizer: adamw_8bit` must .*, or set ",
        ),
        (
            "train_lora",
            [*LORA, "tensorboard=true"],
            "tensorboard",
            "`tensorboard: true` must .*, or set ",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)
def test_a_package_that_an_option_needs_is_looked_for_first(
    command: str,
    words: list[str],
    module: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    parse = importlib.import_module(f"jova_cli.{command}").parse
    monkeypatch.setitem(sys.modules, module, None)  # as where it is not installed
    with pytest.raises(SystemExit):
        parse(words)
    error = capsys.readouterr().err
    assert re.search(said, error), error
    assert f"must have the package {module}, which is not installed" in error


@pytest.mark.parametrize(
    "words",
    [["prepare", *CLIPS], ["generate", "--model", "jova-tiny", "--prompts", "a.jsonl", "--output", "new"]],
    ids=lambda words: words[0],
)
def test_a_cluster_is_looked_for_before_the_work_is_loaded(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr(f"jova_cli.{words[0]}.WORK", "nothing.of.the.kind")
    with pytest.raises(SystemExit):
        main([*words, "--ray"])
    assert "`--ray` must have the package ray, which is not installed; install" in capsys.readouterr().err


def test_an_estimate_needs_no_package_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    importlib.import_module("jova_cli.train_lora").parse([*LORA, "quantize=nf4", "--estimate"])
