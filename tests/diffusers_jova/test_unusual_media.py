"""Files as they come from elsewhere are read right, or refused in one sentence."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffusers_jova import media
from jova_cli.main import main
from tests.unusual_media import CASES, ORANGE, Case


def read(case: Case, path: Path) -> Any:
    readers = {"video": media.read_video, "audio": media.read_audio, "image": media.read_image}
    return readers[case.expected.kind](path, **case.expected.options)


def check_pictures(case: Case, pictures: np.ndarray) -> None:
    size, left, num_frames = case.expected.size, case.expected.left, case.expected.num_frames
    assert pictures.dtype == np.uint8
    assert pictures.shape[1:] == (*size, 3)
    assert num_frames is None or len(pictures) == num_frames
    if left is not None:
        middle = pictures[:, size[0] // 2, size[1] // 4].astype(int)
        assert np.abs(middle - left).max() <= case.expected.tolerance, middle[0]


def check_sound(case: Case, audio: np.ndarray | None, rate: int | None) -> None:
    expected = case.expected
    if expected.num_channels == 0:
        assert audio is None
    if audio is None or not expected.num_channels:
        return
    assert audio.shape[0] == expected.num_channels
    assert audio.dtype == np.float32
    seconds = audio.shape[1] / rate
    assert expected.seconds - 0.001 <= seconds <= expected.seconds + 0.07  # a codec fills up its last block
    spectrum = np.abs(np.fft.rfft(audio[0] * np.hanning(audio.shape[1])))
    assert spectrum.argmax() / seconds == pytest.approx(expected.hz, abs=2)
    assert 0.3 < np.abs(audio).max() < 1.25  # surround sound that says the same on all sides adds up


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_file_is_read_right_or_refused_in_one_sentence(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # relative names, which may look like protocols
    case.make(tmp_path / case.name)
    if case.expected.refusal is not None:
        with pytest.raises(ValueError, match=case.expected.refusal) as refused:
            read(case, Path(case.name))
        assert "\n" not in str(refused.value)
        return
    content = read(case, Path(case.name))
    if case.expected.kind == "image":
        check_pictures(case, np.asarray(content)[None].repeat(case.expected.num_frames, axis=0))
    elif case.expected.kind == "video":
        check_pictures(case, content.frames)
        check_sound(case, content.audio, content.sampling_rate)
    else:
        check_sound(case, *content)


def test_a_track_that_libav_does_not_know_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    alone, first = made(tmp_path / "clips", "spatial.mp4", "spatial_first.mp4")
    media.read_video(alone)
    assert f"the sound of {alone} is of a codec that libav does not know and is left out" in caplog.text
    media.read_video(first)
    assert "that players choose is of a codec that libav does not know: track 1 is read" in caplog.text
    assert len(caplog.records) == 2


def made(folder: Path, *names: str) -> list[Path]:
    """Some of the files, in a folder."""
    folder.mkdir(exist_ok=True)
    cases = {case.name: case for case in CASES}
    for name in names:
        cases[name].make(folder / name)
    return [folder / name for name in names]


@pytest.mark.parametrize(
    ("option", "name", "num_frames"),
    [
        ("--image", "RGBA.png", 9),
        ("--image", "16_bits.png", 9),
        ("--audio", "surround.flac", 17),
        ("--video", "broadcast.ts", 13),
        ("--video", "animation.gif", 17),
        ("--video", "animation.webp", 17),
        ("--video", "animation.avif", 17),
    ],
)
def test_clips_are_generated_from_unusual_files(
    tiny_pipeline_folder: Path, tmp_path: Path, option: str, name: str, num_frames: int
) -> None:
    (path,) = made(tmp_path, name)
    words = ["--model", str(tiny_pipeline_folder), "--prompt", "a", "--steps", "1"]
    main(["generate", *words, option, str(path), "--output", str(tmp_path / "out.mp4")])
    clip = media.read_video(tmp_path / "out.mp4")
    assert len(clip.frames) == num_frames
    assert clip.audio is not None
    if option == "--video":
        assert np.abs(clip.frames[0, 16, 8].astype(int) - ORANGE).max() < 24  # two passes through codecs


def test_unusual_files_are_prepared_or_named(
    tiny_pipeline_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("half_clear.mkv", "second_is_default.mkv", "turned_once.mp4", "cut_99.mp4", "broken_times.mkv")
    names += ("spatial.mp4", "unknown_picture.mp4")
    for path in made(tmp_path / "clips", *names):
        path.with_suffix(".txt").write_text("a ball")
    folders = [str(tmp_path / "clips"), str(tmp_path / "prepared")]
    main(["prepare", *folders, "--model", str(tiny_pipeline_folder), "--no-mouth", "--device", "cpu"])
    said = capsys.readouterr().out
    assert len(list((tmp_path / "prepared").rglob("*.safetensors"))) >= 4
    assert "whose picture is of a codec" in said
    assert "must be a whole file" in said
    assert "sound time stamps" in said
