"""Words stand in the pictures while they are said, and change nothing else."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from diffusers_jova.evaluation.burnt_words import burn_in
from diffusers_jova.media import read_video, write_video
from diffusers_jova.training.data.subtitles import Speech, read_subtitles
from diffusers_jova.training.preview import main


def noise(num_frames: int, size: int = 96) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (num_frames, size, size, 3), np.uint8)


def test_words_change_the_lower_edge_of_the_frames_in_which_they_are_said() -> None:
    pytest.importorskip("moviepy")
    frames = noise(33)
    speech = [Speech("hello", 0.5, 1.0), Speech("moon", 1.0, 1.0), Speech("never", 9.0, 9.5)]
    burnt = burn_in(frames, 16, speech)
    changed = (burnt != frames).any(-1)
    assert changed.any((1, 2)).tolist() == [8 <= index < 17 for index in range(33)]  # the second one for a frame
    assert not changed[:, :48].any()
    assert np.array_equal(burn_in(frames, 16, []), frames)


@pytest.mark.parametrize("has_times", [True, False])
def test_the_preview_shows_what_is_said_and_writes_its_times_where_they_are_known(
    tmp_path: Path, tiny_pipeline_folder: Path, has_times: bool
) -> None:
    pytest.importorskip("moviepy")
    source = tmp_path / "clips"
    source.mkdir()
    write_video(source / "a.mp4", noise(9, 32), 16)
    if has_times:
        (source / "a.srt").write_text("1\n00:00:00,125 --> 00:00:00,375\nhello\n")
    else:
        (source / "a.json").write_text(json.dumps({"video_caption": "a man", "transcript": "hello"}))
    options = ["--model", str(tiny_pipeline_folder), "--no-mouth", "--device", "cpu"]
    main([str(source), str(tmp_path / "plain"), *options])
    main([str(source), str(tmp_path / "burnt"), *options, "--subtitles"])
    plain, burnt = (read_video(tmp_path / name / "000-a.mp4").frames.astype(int) for name in ("plain", "burnt"))
    lower = np.abs(plain - burnt)[:, -24:].mean((1, 2, 3))
    assert ((lower > 8) == [2 <= index < 6 or not has_times for index in range(9)]).all()
    srt = tmp_path / "burnt" / "000-a.srt"
    assert srt.exists() == has_times
    assert not has_times or read_subtitles(srt) == [Speech("hello", 0.125, 0.375)]


def test_the_preview_names_the_library_that_burns_in_before_it_works(
    tiny_pipeline_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "moviepy", None)
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a.mp4").write_bytes(b"a clip")
    words = [str(tmp_path / "clips"), str(tmp_path / "out"), "--model", str(tiny_pipeline_folder)]
    with pytest.raises(SystemExit):
        main([*words, "--no-mouth", "--subtitles"])
    assert "install the package with its extra `moviepy`" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
