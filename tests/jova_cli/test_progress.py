import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jova_cli.progress import followed
from tests.places import ROOT


def test_in_a_file_long_work_says_in_lines_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(followed("abc", 3, "preparing", line_every_s=0)) == ["a", "b", "c"]
    assert capsys.readouterr().err == "".join(f"preparing: clip {n} of 3 is done\n" for n in (1, 2, 3))
    assert list(followed("abc", None, "previewing")) == ["a", "b", "c"]
    assert capsys.readouterr().err == ""  # nothing before its time


def test_on_a_terminal_it_is_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    assert list(followed("abc", 3, "preparing")) == ["a", "b", "c"]
    assert "\rpreparing: 100%" in terminal.getvalue()


@pytest.mark.slow
def test_a_command_whose_output_is_a_file_draws_no_bars(tiny_pipeline_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "list.jsonl").write_text('{"prompt": "a dog", "output": "dog.mp4"}\n')
    single = ["--prompt", "a dog", "--output", str(tmp_path / "dog.mp4")]
    many = ["--prompts", str(tmp_path / "list.jsonl"), "--output", str(tmp_path / "clips")]
    environment = {name: value for name, value in os.environ.items() if name != "TQDM_DISABLE"}
    for words in (single, many):
        command = [sys.executable, "-m", "jova_cli", "generate", "--model", str(tiny_pipeline_folder), "--steps", "2"]
        done = subprocess.run([*command, *words], cwd=ROOT, env=environment, capture_output=True, check=True)
        assert b"\r" not in done.stderr, done.stderr
        assert b"it/s" not in done.stderr, done.stderr
