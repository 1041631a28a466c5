"""A clip is the mean of windows over all of it; sets of clips that move otherwise are far from each other."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import VideoMAEForVideoClassification

from diffusers_jova.evaluation.evaluate import main
from diffusers_jova.evaluation.measured import Measured
from diffusers_jova.evaluation.videomae import VideoMae, measure_video
from diffusers_jova.media import write_video
from tests.tiny_networks import save_clip, save_videomae


RATE_HZ = 15  # frames per second of the clips, of which every other one is looked at
NAMES = {"fvd_videomae", "fvd_videomae_corrected"}


def moving(draw: int, speed: int = 1, num_frames: int = 33) -> np.ndarray:
    """A square that moves, [F, H, W, 3]; a still one for a speed of 0."""
    frames = np.full((num_frames, 32, 48, 3), 40 + 2 * draw, np.uint8)
    for number, frame in enumerate(frames):
        left = 8 + speed * number % 24
        frame[8:24, left : left + 10] = 220
    return frames


def flashing(draw: int) -> np.ndarray:
    """A picture that is bright for one frame that is looked at, and dark for the next."""
    frames = moving(draw, 0)
    frames[2::4] = 255 - frames[2::4]
    frames[3::4] = frames[2::4][: len(frames[3::4])]
    return frames


def pictures(frames: np.ndarray) -> list[Image.Image]:
    return [Image.fromarray(frame[:, 8:40]) for frame in frames]  # the middle square, as the network sees it


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_videomae(tmp_path_factory.mktemp("videomae") / "tiny")


@pytest.fixture(scope="module")
def network(folder: Path) -> VideoMae:
    return VideoMae(folder)


def test_a_window_is_what_the_networks_own_classes_are_told_of(network: VideoMae, folder: Path) -> None:
    frames = pictures(moving(0, num_frames=16))
    own = VideoMAEForVideoClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        logits = own(network.form(frames)[None]).logits[0]
        found = own.classifier(torch.from_numpy(network(frames)).float())
    torch.testing.assert_close(found, logits, atol=1e-5, rtol=1e-4)


def test_without_classes_it_is_the_mean_of_the_tokens(tmp_path: Path) -> None:
    folder = save_videomae(tmp_path / "bare", has_head=False)
    frames = pictures(moving(0, num_frames=16))
    bare = VideoMae(folder)
    with torch.inference_mode():
        expected = bare._network(bare.form(frames)[None]).last_hidden_state[0].mean(0)
    assert bare(frames) == pytest.approx(expected.numpy(), abs=1e-6)


def test_windows_cover_all_of_a_long_clip_and_their_mean_counts(network: VideoMae) -> None:
    frames = pictures(np.concatenate([moving(0, num_frames=16), flashing(40)[:20]]))  # 36
    windows = [network(frames[start : start + 16]) for start in (0, 10, 20)]
    assert network(frames) == pytest.approx(np.mean(windows, axis=0), abs=1e-9)
    assert np.abs(windows[0] - windows[2]).max() > 0.1
    assert network(frames[:17]) == pytest.approx(np.mean([network(frames[:16]), network(frames[1:17])], 0), abs=1e-9)


def measured(path: Path, frames: np.ndarray, network: VideoMae, rate_hz: float = RATE_HZ) -> Measured:
    write_video(path, frames, rate_hz)
    return measure_video(path, network)


def test_frames_are_taken_by_time_and_what_cannot_be_seen_says_why(network: VideoMae, tmp_path: Path) -> None:
    frames = flashing(0)[:32]
    found = [
        np.array(measured(tmp_path / f"{rate_hz}.mp4", shown, network, rate_hz).vectors["videomae"])
        for shown, rate_hz in ((frames, RATE_HZ), (frames.repeat(2, axis=0), 2 * RATE_HZ), (frames, RATE_HZ / 2))
    ]
    twice, slower = (float(np.linalg.norm(other - found[0])) for other in found[1:])
    assert twice < slower / 10  # a codec has touched the former
    assert measured(tmp_path / "tiny.mp4", moving(0), network, 16).vectors  # 2.06 s, as jova-tiny makes them
    short = measured(tmp_path / "short.mp4", moving(0)[:29], network)
    assert short.reason == "15 frames in place of 16 frames at 7.5 a second: the clip is too short"
    assert short.vectors == {}
    assert measured(tmp_path / "still.mp4", moving(0, 0), network).vectors
    assert measure_video(None, network).reason == "no picture"


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of four sides: two that move alike, one that flashes, and one that moves and is broken in part."""
    root = tmp_path_factory.mktemp("sides")
    for side, make in {"ours": moving, "alike": moving, "other": flashing}.items():
        (root / side).mkdir()
        for index in range(4):
            write_video(root / side / f"clip{index}.mp4", make(2 * index + (side == "alike")), RATE_HZ)
    write_video(root / "ours" / "short.mp4", moving(0)[:20], RATE_HZ)
    whole = (root / "ours" / "clip0.mp4").read_bytes()
    (root / "ours" / "broken.mp4").write_bytes(whole[: len(whole) // 2])
    return root


def report_of(sides: Path, other: str, output: Path, folder: Path, *more: str) -> dict:
    words = ["--measures", "fvd", "--video-classifier", str(folder), "--output", str(output), *more]
    main([str(sides / "ours"), "--against", str(sides / other), *words])
    return json.loads((output / "report.json").read_text())


def test_the_command_tells_sets_that_move_otherwise_from_those_that_move_alike(
    sides: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {}
    for other in ("ours", "alike", "other"):
        report = report_of(sides, other, tmp_path / other, folder)
        sets = {one["name"]: one for one in report["against"]["sets"]}
        assert set(sets) == NAMES
        values[other] = sets["fvd_videomae"]["value"]
    assert values["ours"] == pytest.approx(0, abs=1e-9)
    assert values["other"] > 3 * values["alike"]
    told = sets["fvd_videomae"]
    assert (told["num_clips"], told["num_others"], told["better"]) == (4, 4, "lower")
    assert (told["way"], sets["fvd_videomae_corrected"]["way"]) == ("as the field does", "corrected")
    assert "faster than 7.5 times a second" in told["cannot_see"]
    rows = {row["clip"]: row for row in report["rows"]}
    assert rows["short"]["cannot_judge"]["fvd"].endswith("the clip is too short")
    assert rows["broken"]["error"]
    assert "FVD of the picture (VideoMAE)" in capsys.readouterr().out


def test_what_is_known_is_not_seen_again_and_processes_share_the_work(
    sides: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = report_of(sides, "alike", tmp_path, folder, "--num-processes", "2")
    monkeypatch.setattr("diffusers_jova.evaluation.videomae.decode_frames", None)
    again = report_of(sides, "alike", tmp_path, folder)
    assert (again["rows"], again["against"]) == (shared["rows"], shared["against"])
    monkeypatch.undo()
    alone = report_of(sides, "alike", tmp_path / "alone", folder)
    assert alone["rows"] == shared["rows"]
    for one, other in zip(alone["against"]["sets"], shared["against"]["sets"], strict=True):
        assert one["value"] == pytest.approx(other["value"], abs=1e-5)  # threads of two processes add otherwise


def test_another_network_and_reference_clips_that_lack_are_refused(
    sides: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="must be the folder of a VideoMAE that transformers reads, got another netw"):
        VideoMae(save_clip(tmp_path / "clip"))
    with pytest.raises(SystemExit):
        main([str(sides / "ours"), "--output", str(tmp_path / "report"), "--video-classifier", str(folder)])
    assert "`--video-classifier` must go with `--against`, got it alone" in capsys.readouterr().err
