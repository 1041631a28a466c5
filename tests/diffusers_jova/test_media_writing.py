"""What is written, whole or not at all, and what cannot be."""

import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from diffusers_jova import media, media_writing
from diffusers_jova.media_writing import streamed_video
from diffusers_jova.provenance import read_provenance
from tests.made_clips import SAMPLING_RATE, clicks, moving_square, psnr_db


def test_odd_sizes_are_padded_to_even_ones_by_their_edge(tmp_path: Path) -> None:
    frames = moving_square(5, height=61, width=63)
    media.write_video(tmp_path / "clip.mp4", frames, 24)
    decoded = media.read_video(tmp_path / "clip.mp4").frames
    assert decoded.shape == (5, 62, 64, 3)
    assert psnr_db(decoded[:, :61, :63], frames) > 25
    assert np.abs(decoded[:, 61].astype(int) - decoded[:, 60]).max() < 40


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.zeros((2, 4, 4, 3), np.int64), "must be uint8 or float"),
        (np.zeros((1, 2, 4, 4, 3), np.uint8), r"one video of a batch as `frames\[0\]`"),
        (np.zeros((0, 4, 4, 3), np.uint8), r"must have the shape \[N, H, W, C\]"),
        (np.full((2, 4, 4, 3), 1.5), r"must lie in \[0, 1\], got \[1.5, 1.5\]"),
        (np.full((2, 4, 4, 3), np.nan), r"must lie in \[0, 1\]"),
        ([], "non-empty list of PIL images"),
        ([PIL.Image.new("RGB", (4, 4)), PIL.Image.new("RGB", (4, 6))], r"one size, got \(4, 4\) and \(4, 6\)"),
    ],
)
def test_wrong_frames_are_refused(tmp_path: Path, frames: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        media.write_video(tmp_path / "clip.mp4", frames, 24)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("audio", "sampling_rate", "message"),
    [
        (np.zeros((3, 100)), 16000, "1 or 2 channels, got"),
        (np.zeros((1, 2, 100)), 16000, r"one sound of a batch as `audio\[0\]`"),
        (np.zeros((1, 100), np.int64), 16000, "got int64; divide it by its largest value"),
        (np.full((1, 100), np.inf), 16000, "must be finite"),
        (np.zeros((1, 100)), 15999, "`sampling_rate` must be one of"),
        (np.zeros((1, 100)), None, "`sampling_rate` must be one of"),
    ],
)
def test_wrong_sound_is_refused(tmp_path: Path, audio: np.ndarray, sampling_rate: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        media.write_video(tmp_path / "clip.mp4", moving_square(5), 24, audio, sampling_rate)
    assert not list(tmp_path.iterdir())


def test_a_clip_that_comes_in_pieces_is_that_of_one_piece(tmp_path: Path) -> None:
    frames, sound = moving_square(30), clicks(20000)
    record = {"generated": True, "package": "test"}
    media.write_video(tmp_path / "whole.mp4", frames, 24, sound, SAMPLING_RATE, provenance=record)
    rates = (24, SAMPLING_RATE)
    preview = tmp_path / "preview.mp4"
    with streamed_video(tmp_path / "pieces.mp4", *rates, preview=preview, provenance=lambda: record) as write:
        for first, last in ((0, 7), (7, 8), (8, 30)):
            samples = slice(first * 20000 // 30, last * 20000 // 30)
            write(frames[first:last], sound[:, samples])
            assert not (tmp_path / "pieces.mp4").exists()
        assert 0 < len(media.read_video(preview).frames) <= len(frames)  # fragments of a second
    whole, pieces, shown = (media.read_video(tmp_path / f"{name}.mp4") for name in ("whole", "pieces", "preview"))
    np.testing.assert_array_equal(pieces.frames, whole.frames)
    np.testing.assert_array_equal(pieces.audio, whole.audio)
    assert len(shown.frames) == len(frames)
    assert read_provenance(tmp_path / "pieces.mp4") == record


def test_a_file_without_a_piece_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="`write` must be called before the file ends"),
        streamed_video(tmp_path / "clip.mp4", 24),
    ):
        pass
    assert not list(tmp_path.iterdir())


def test_a_path_that_cannot_be_written_fails_before_anything_is_encoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encode(*_: object) -> None:
        raise AssertionError("encoded")

    monkeypatch.setattr(media_writing, "_encode_video", encode)
    (tmp_path / "folder.mp4").mkdir()
    for name in ("missing/clip.mp4", "folder.mp4"):
        with pytest.raises(OSError, match="`path` must be a file that can be written, got"):
            media.write_video(tmp_path / name, moving_square(5), 24)


def test_an_error_while_encoding_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    media.write_video(tmp_path / "clip.mp4", moving_square(5), 24)
    before = (tmp_path / "clip.mp4").read_bytes()

    def fail(*_: object) -> None:
        raise RuntimeError("disk is full")

    monkeypatch.setattr(media_writing, "_encode_audio", fail)
    with pytest.raises(RuntimeError, match="disk is full"):
        media.write_video(tmp_path / "clip.mp4", moving_square(17), 24, clicks(8000), SAMPLING_RATE)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]
    assert (tmp_path / "clip.mp4").read_bytes() == before


def test_the_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "clip.mp4").touch()
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match="pip install av"):
        media.read_video(tmp_path / "clip.mp4")


def test_the_same_clip_is_the_same_file_every_time(tmp_path: Path) -> None:
    """libx264 has a path that gives other files in every call, on some processors and sizes; it is left alone."""
    rows, columns, times = np.ogrid[:240, :320, :32]
    waves = np.sin(rows / 9 + times / 3) + np.cos(columns / 7 - times / 2) + np.sin(rows * columns / 4000 + times)
    frames = (
        np.repeat((waves + 3) / 6 * 255, 3, axis=2).reshape(240, 320, 32, 3).transpose(2, 0, 1, 3).astype(np.uint8)
    )
    files = set()
    for number in range(6):
        np.random.default_rng(number).random(2**16 * (number + 1))  # memory that was used
        media.write_video(tmp_path / "clip.mp4", frames, 16)
        files.add((tmp_path / "clip.mp4").read_bytes())
    assert len(files) == 1
