"""A disk that is full, by the limit of the system on what a process may write, ends a command with one sentence."""

import re
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffusers_jova.media import write_audio, write_video
from diffusers_jova.pipeline_output import JoVAPipelineOutput
from diffusers_jova.whole_files import FullDiskError
from jova_cli.main import main
from tests.tiny_pipeline import build_wan_transformer
from tests.tiny_training import tiny_config


LARGEST_BYTES = 8192


class FullDisk:
    """Runs work that may write `LARGEST_BYTES` into a file."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, work: Callable[[], Any]) -> tuple[int, str]:
        """Exit code and last line of stderr, as of a process that does nothing else."""
        unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_BYTES, unlimited[1]))
        code = 0
        try:
            work()
        except SystemExit as ended:
            code = int(ended.code or 0)
        except FullDiskError as error:
            code = 1
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
        return code, self.capsys.readouterr().err.strip().splitlines()[-1]


@pytest.fixture
def on_a_full_disk(capsys: pytest.CaptureFixture[str]) -> FullDisk:
    return FullDisk(capsys)


def noise(num_frames: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (num_frames, 64, 64, 3), np.uint8)


def test_convert(on_a_full_disk: FullDisk, tmp_path: Path) -> None:
    build_wan_transformer().save_pretrained(tmp_path / "model")
    (tmp_path / "new").mkdir()
    output = tmp_path / "new" / "a.safetensors"
    code, said = on_a_full_disk(lambda: main(["convert", "single_file", str(tmp_path / "model"), str(output)]))
    assert code == 2
    assert re.fullmatch(
        r"jova convert: `.*a.safetensors` could not be written \(.*File too large\); free some space .* start again, "
        "nothing was written",
        said,
    ), said
    assert list((tmp_path / "new").iterdir()) == []


def test_save(on_a_full_disk: FullDisk, tmp_path: Path) -> None:
    output = JoVAPipelineOutput([noise(20)], None, 16.0, 0)
    code, said = on_a_full_disk(lambda: output.save(tmp_path / "a.mp4"))
    assert code == 1
    assert re.match(r"FullDiskError: `.*a.mp4` could not be written \(.*\); free some space", said), said
    code, said = on_a_full_disk(lambda: write_audio(tmp_path / "a.wav", np.zeros(16000, np.float32), 16000))
    assert re.match(r"FullDiskError: `.*a.wav` could not be written \(.*\); free some space", said), said
    assert list(tmp_path.iterdir()) == []


def test_prepare(on_a_full_disk: FullDisk, tiny_pipeline_folder: Path, tmp_path: Path) -> None:
    clips, records = tmp_path / "clips", tmp_path / "records"
    clips.mkdir()
    write_video(clips / "a.mp4", noise(9), 16)
    (clips / "a.txt").write_text("a clip " * 200)  # of which the features fill the disk
    words = ["prepare", str(clips), str(records), "--model", str(tiny_pipeline_folder), "--no-mouth"]
    code, said = on_a_full_disk(lambda: main([*words, "--dtype", "float32"]))
    assert code == 2, said
    assert re.match(r"jova prepare: `.*records` could not be written .* free some space", said), said
    assert [path for path in records.rglob("*") if path.suffix == ".safetensors" and path.parent == records] == []


def test_train(on_a_full_disk: FullDisk, tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    config.save(tmp_path / "run.yaml")
    code, said = on_a_full_disk(lambda: main(["train", "--config", str(tmp_path / "run.yaml")]))
    assert code == 2, said
    assert re.match(r"jova train: `.*checkpoint-00000003` could not be written .*; free some space", said), said
    assert list((tmp_path / "run").glob("*checkpoint*")) == []


def test_a_clip_of_a_list(on_a_full_disk: FullDisk, tiny_pipeline_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "list.jsonl").write_text('{"prompt": "a", "output": "a.wav", "modalities": ["audio"]}')
    words = ["generate", "--model", str(tiny_pipeline_folder), "--prompts", str(tmp_path / "list.jsonl")]
    size = ["--steps", "1", "--height", "32", "--width", "32", "--num-frames", "33"]
    code, said = on_a_full_disk(lambda: main([*words, "--output", str(tmp_path / "clips"), "--device", "cpu", *size]))
    assert code == 2, said
    assert re.match(r"jova generate: `.*clips/a.wav` could not be written \(.*\); free some space", said), said
    assert [path for path in (tmp_path / "clips").rglob("*") if path.suffix == ".wav"] == []
