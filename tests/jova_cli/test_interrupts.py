"""Ctrl-C ends every long command with one line and exit code 130; nothing is half-written, what is finished stays."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import diffusers_jova.conversion.output as conversion_output
import diffusers_jova.media_writing as media_writing
import diffusers_jova.training.data.record as record
from diffusers_jova.media import write_video
from diffusers_jova.training.loop.trainer import Trainer
from jova_cli.main import main
from tests.interrupts import heeding_interrupts
from tests.places import ROOT
from tests.terminal import OnTerminal
from tests.tiny_pipeline import build_wan_transformer
from tests.tiny_training import tiny_config


@pytest.fixture(autouse=True)
def _heeded() -> Iterator[None]:
    """Heed Ctrl-C, which a job in the background of a shell ignores."""
    earlier = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, earlier)


def interrupt_at(number: int, module: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a terminal's Ctrl-C come in the n-th call of a function."""
    original: Callable[..., Any] = getattr(module, name)
    calls: list[int] = []

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGINT)
        return original(*args, **kwargs)

    monkeypatch.setattr(module, name, interrupted)


def interrupted(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The line that an interrupted command ends with."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 130
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said.strip().splitlines()[-1]


def write_clips(folder: Path, names: Sequence[str] = ("a", "b", "c")) -> Path:
    folder.mkdir()
    for name in names:
        write_video(folder / f"{name}.mp4", np.zeros((9, 32, 32, 3), np.uint8), 16)
        (folder / f"{name}.txt").write_text("a clip")
    return folder


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_generate(
    tiny_pipeline_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_at(1, media_writing, "_encode_video", monkeypatch)
    words = ["generate", "--model", str(tiny_pipeline_folder), "--prompt", "a", "--steps", "1"]
    said = interrupted([*words, "--output", str(tmp_path / "a.mp4")], capsys)
    assert said == "jova generate: ended by Ctrl-C; nothing was written"
    assert names(tmp_path) == []


def test_convert(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    build_wan_transformer().save_pretrained(tmp_path / "model")
    before = names(tmp_path)
    interrupt_at(3, conversion_output, "write_tensor", monkeypatch)
    said = interrupted(["convert", "single_file", str(tmp_path / "model"), str(tmp_path / "new.safetensors")], capsys)
    assert said == "jova convert: ended by Ctrl-C; nothing was written"
    assert names(tmp_path) == before


def test_prepare(
    tiny_pipeline_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clips, records = write_clips(tmp_path / "clips"), tmp_path / "records"
    words = ["prepare", str(clips), str(records), "--model", str(tiny_pipeline_folder), "--no-mouth"]
    interrupt_at(3, record, "save", monkeypatch)  # of the empty prompt and two clips
    said = interrupted(words, capsys)
    assert said.startswith(f"jova prepare: ended by Ctrl-C; the 1 records in `{records}` are complete and are kept, ")
    assert [name for name in names(records) if name.startswith(".")] == []
    main(words)
    assert len(list(records.glob("*.safetensors"))) == 3


@pytest.mark.slow  # three processes that import torch
def test_prepare_in_several_processes(tiny_pipeline_folder: Path, tmp_path: Path) -> None:
    clips, records = write_clips(tmp_path / "clips", [f"{number:02d}" for number in range(40)]), tmp_path / "records"
    words = ["prepare", str(clips), str(records), "--model", str(tiny_pipeline_folder), "--no-mouth"]
    command = heeding_interrupts([sys.executable, "-m", "jova_cli", *words, "--num-processes", "2"])
    with OnTerminal(command, start_new_session=True, cwd=ROOT) as process:
        said = process.read_until(b"| 1/40")
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        said += process.read_all()
    assert process.returncode == 130
    assert b"Traceback" not in said
    assert said.decode().strip().splitlines()[-1].startswith("jova prepare: ended by Ctrl-C; the ")
    assert [name for name in names(records) if name.startswith(".")] == []


def test_preview(
    tiny_pipeline_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clips, shown = write_clips(tmp_path / "clips"), tmp_path / "shown"
    interrupt_at(2, media_writing, "_encode_video", monkeypatch)
    words = ["preview", str(clips), str(shown), "--model", str(tiny_pipeline_folder), "--no-mouth"]
    said = interrupted(words, capsys)
    assert said == f"jova preview: ended by Ctrl-C; the 1 previews in `{shown}` are whole"
    assert names(shown) == ["000-a.mp4"]


def test_demo(
    tiny_pipeline_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_at(2, media_writing, "_encode_video", monkeypatch)
    output = tmp_path / "demo.mp4"
    said = interrupted(["demo", "--model", str(tiny_pipeline_folder), "--output", str(output)], capsys)
    assert said == f"jova demo: ended by Ctrl-C; {output} is there"
    assert names(tmp_path) == ["demo.mp4"]


def test_train_ends_with_a_checkpoint_of_the_last_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(tmp_path)
    config.save(tmp_path / "run.yaml")
    interrupt_at(2, Trainer, "loss", monkeypatch)
    before = signal.getsignal(signal.SIGINT)
    said = interrupted(["train", "--config", str(tmp_path / "run.yaml")], capsys)
    assert "ended by Ctrl-C after step 2; run the same command again to continue from" in said
    assert [path.name for path in (tmp_path / "run").glob("*checkpoint*")] == ["checkpoint-00000002"]
    assert signal.getsignal(signal.SIGINT) == before
    main(["train", "--config", str(tmp_path / "run.yaml")])
    assert (tmp_path / "run" / "transformer").is_dir()


def test_a_second_ctrl_c_ends_a_training_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(tmp_path)
    config.save(tmp_path / "run.yaml")
    interrupt_at(2, Trainer, "loss", monkeypatch)

    def again(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Trainer, "_report", again)
    said = interrupted(["train", "--config", str(tmp_path / "run.yaml")], capsys)
    assert said == "jova train: ended by Ctrl-C; the last checkpoint is kept, and the same command goes on from it"
    assert list((tmp_path / "run").glob("*checkpoint*")) == []


@pytest.mark.parametrize("words", [["info", "jova-tiny"], ["presets"]], ids=" ".join)
def test_a_reader_that_has_read_enough_is_no_error(words: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)  # as `| head` does
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "jova_cli", *words], stdout=writing, stderr=subprocess.PIPE, cwd=ROOT, check=False
        )
    finally:
        os.close(writing)
    assert (ended.returncode, ended.stderr) == (141, b"")
