"""Frames of clips are one set; what a file of weights names is not executed; what lacks is told in one line."""

from __future__ import annotations

import io
import json
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from diffusers_jova.evaluation.clip_signals import read_signals
from diffusers_jova.evaluation.evaluate import main
from diffusers_jova.evaluation.inception import Inception, measure_frames
from diffusers_jova.evaluation.measured import Measured
from diffusers_jova.evaluation.set_distance import frechet_distance
from diffusers_jova.media import write_audio, write_video
from diffusers_jova.training.data.manifest import read_clip


MODULE = "torch_fidelity.feature_extractor_inceptionv3"
SIZE = 6  # of the small network's embeddings
RAN = Path("code-of-a-pickle-ran")


class Code:
    """A pickle that runs code."""

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (RAN,)


class Small(nn.Module):
    """A linear layer on four tiles, in the package's form: it executes what its file names."""

    def __init__(self, name: str, features_list: list[str], feature_extractor_weights_path: io.BytesIO) -> None:
        super().__init__()
        assert features_list == ["2048"]
        self.fc = nn.Linear(12, SIZE)
        self.load_state_dict(torch.load(feature_extractor_weights_path, weights_only=False))

    def forward(self, frames: Tensor) -> tuple[Tensor]:
        assert frames.dtype == torch.uint8
        return (self.fc(F.adaptive_avg_pool2d(frames.float() / 255, 2).flatten(1)),)


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(sys.modules, "torch_fidelity", SimpleNamespace())
    monkeypatch.setitem(sys.modules, MODULE, SimpleNamespace(FeatureExtractorInceptionV3=Small))
    torch.manual_seed(0)
    layer = nn.Linear(12, SIZE)
    torch.save({"fc.weight": layer.weight.data, "fc.bias": layer.bias.data}, tmp_path / "inception.pth")
    return tmp_path / "inception.pth"


def frames_of(draw: int, is_bright: bool = False, num_frames: int = 22) -> np.ndarray:
    """A square that moves over grey, [F, H, W, 3]."""
    rng = np.random.default_rng(draw)
    frames = np.full((num_frames, 32, 48, 3), rng.integers(30, 70) + 120 * is_bright, np.uint8)
    for number, frame in enumerate(frames):
        left, top = number, rng.integers(0, 16)
        frame[top : top + 12, left : left + 12] = rng.integers(0, 255, 3)
    return frames


def measured(path: Path, frames: np.ndarray, network: Inception) -> Measured:
    write_video(path, frames, 8)
    return measure_frames(path, read_signals(read_clip(path)).picture, network)


def test_frames_are_embedded_one_by_one_evenly_spaced_from_first_to_last(weights: Path, tmp_path: Path) -> None:
    network = Inception(weights)
    flat = np.stack([np.full((32, 48, 3), 10 * number, np.uint8) for number in range(22)])
    found = np.array(measured(tmp_path / "clip.mp4", flat, network).vectors["inception"])
    chosen = [Image.fromarray(flat[number]) for number in (0, 3, 6, 9, 12, 15, 18, 21)]
    assert found == pytest.approx(network(chosen), abs=0.05)  # a codec has touched them
    assert found.shape == (8, SIZE)
    assert np.array(measured(tmp_path / "one.mp4", flat[:1], network).vectors["inception"]).shape == (1, SIZE)
    assert measure_frames(None, None, network).reason == "no picture"


def test_weights_of_another_network_and_no_numbers_are_refused(weights: Path, tmp_path: Path) -> None:
    state = torch.load(weights)
    for strange, told in (
        ({"fc.weight": state["fc.weight"]}, r"another network's \(no fc.bias\)"),
        (state | {"head": torch.ones(1)}, r"another network's \(head beyond them\)"),
        (state | {"fc.bias": torch.ones(2)}, r"another network's \(fc.bias of another size\)"),
        (state | {"fc.bias": state["fc.bias"] / 0}, "NaN or infinity in fc.bias"),
    ):
        torch.save(strange, tmp_path / "other.pth")
        with pytest.raises(ValueError, match=told) as raised:
            Inception(tmp_path / "other.pth")
        assert "\n" not in str(raised.value)
        assert "weights-inception-2015-12-05-6726825d.pth" in str(raised.value) or told == "NaN or infinity in fc.bias"


def test_code_that_the_file_names_is_not_run(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({**torch.load(weights), "fc.extra": Code()}, tmp_path / "code.pth", pickle_module=pickle)
    (tmp_path / "clips").mkdir()
    write_video(tmp_path / "clips" / "clip.mp4", frames_of(0), 8)
    words = ["clips", "--against", "clips", "--output", "report", "--measures", "fid"]
    with pytest.raises(SystemExit):
        main([*words, "--inception", "code.pth"])
    assert "must hold tensors and nothing else" in capsys.readouterr().err
    assert not RAN.exists()


@pytest.fixture
def sides(tmp_path: Path) -> Path:
    for side, first, is_bright in (("ours", 0, False), ("alike", 10, False), ("other", 20, True)):
        (tmp_path / side).mkdir()
        for index in range(4):
            write_video(tmp_path / side / f"clip{index}.mp4", frames_of(first + index, is_bright), 8)
    write_audio(tmp_path / "ours" / "hum.wav", np.full((1, 1600), 0.1, np.float32), 16000)
    whole = (tmp_path / "ours" / "clip0.mp4").read_bytes()
    (tmp_path / "ours" / "broken.mp4").write_bytes(whole[: len(whole) // 2])
    return tmp_path


def report_of(sides: Path, other: str, weights: Path, output: str, *more: str) -> dict:
    """Of both sides; `more` are other groups, and options behind them."""
    words = ["--inception", str(weights), "--output", str(sides / output), "--measures", "fid", *more]
    main([str(sides / "ours"), "--against", str(sides / other), *words])
    return json.loads((sides / output / "report.json").read_text())


def sets_of(report: dict) -> dict[str, dict]:
    return {one["name"]: one for one in report["against"]["sets"]}


def test_the_command_tells_sets_of_other_frames_from_alike_ones_and_keeps_what_it_saw(
    sides: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {other: report_of(sides, other, weights, other) for other in ("ours", "alike", "other")}
    values = {other: sets_of(report)["fid"]["value"] for other, report in found.items()}
    assert values["ours"] == pytest.approx(0, abs=1e-9)
    assert values["other"] > 3 * values["alike"] > 0
    told = sets_of(found["other"])
    assert set(told) == {"fid", "fid_corrected"}
    assert (told["fid"]["num_clips"], told["fid"]["num_others"]) == (4, 4)
    assert told["fid"]["warning"].startswith("4 and 4 clips for 6 numbers of an embedding: mostly chance")
    assert (told["fid"]["way"], told["fid_corrected"]["way"]) == ("as the field does", "corrected")
    assert "FID of the frames (Inception)" in capsys.readouterr().out
    rows = {row["clip"]: row for row in found["other"]["rows"]}
    assert rows["hum"]["cannot_judge"]["fid"] == "no picture"
    assert rows["broken"]["error"]
    lines = map(json.loads, (sides / "other" / "measured.jsonl").read_text().splitlines())
    kept = [line["vectors"]["inception"] for line in lines if line["vectors"]]
    frames = [np.concatenate(kept[:4]), np.concatenate(kept[4:])]
    assert frames[0].shape == (4 * 8, SIZE)
    assert values["other"] == pytest.approx(frechet_distance(*frames))  # of all frames, as the field takes it
    monkeypatch.setattr("diffusers_jova.evaluation.inception.read_frames", None)
    assert report_of(sides, "other", weights, "other")["against"] == found["other"]["against"]


def test_without_a_package_the_group_is_left_out_in_one_line(
    sides: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package = sides / "site" / "torch_fidelity"
    package.mkdir(parents=True)
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    for source, told in (
        ("import torchvision", "the package `torchvision`, which torch-fidelity imports, is not installed"),
        ("raise RuntimeError('operator nms is not there')", "its torchvision, fails: operator nms is not there"),
        ("import torch_fidelity_part", "the package `torch_fidelity_part` is not installed"),
    ):
        for name in ("torch_fidelity", MODULE):
            monkeypatch.delitem(sys.modules, name, raising=False)
        (package / "__init__.py").write_text(source)
        (package / "feature_extractor_inceptionv3.py").write_text("")
        report = report_of(sides, "alike", weights, "without", "picture")
        err = capsys.readouterr().err
        assert (
            f"fid is left out of 9 of 10 clips: {'the package torch-fidelity, or ' * ('fails' in told)}{told}" in err
        )
        assert "Traceback" not in err
        assert report["summary"]["motion_share"]["count"] == 4
        reasons = {row["clip"]: row["cannot_judge"].get("fid") for row in report["rows"] if not row["error"]}
        assert reasons.pop("hum") == "no picture"
        assert all(told in reason for reason in reasons.values())


def test_the_packages_own_network_gives_what_it_is_asked_for(sides: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = pytest.importorskip(MODULE)
    extractor = package.FeatureExtractorInceptionV3
    torch.manual_seed(0)
    with monkeypatch.context() as patched:  # random weights: it knows no other way to be without a file
        patched.setattr(extractor, "load_state_dict", lambda *_: None)
        own = extractor("own", ["2048"], feature_extractor_weights_path=_saved({}))
    for name, tensor in own.state_dict().items():
        if name.endswith("running_var"):
            tensor.fill_(0.1)
    torch.save(own.state_dict(), sides / "inception.pth")
    frames = [Image.fromarray(frame) for frame in frames_of(0)[:3]]
    pixels = torch.from_numpy(np.stack(frames)).movedim(-1, 1)
    assert Inception(sides / "inception.pth")(frames) == pytest.approx(own(pixels)[0].numpy(), rel=1e-4, abs=1e-6)
    state = own.state_dict()
    del state["fc.bias"]
    torch.save(state, sides / "part.pth")
    with pytest.raises(ValueError, match=r"another network's \(no fc.bias\)"):
        Inception(sides / "part.pth")
    shared = sets_of(report_of(sides, "alike", sides / "inception.pth", "shared", "--num-processes", "2"))
    alone = sets_of(report_of(sides, "alike", sides / "inception.pth", "alone"))
    assert shared.keys() == alone.keys() == {"fid", "fid_corrected"}
    for name, one in alone.items():
        assert one["value"] == pytest.approx(shared[name]["value"], rel=1e-3, abs=1e-5)


def _saved(content: dict) -> io.BytesIO:
    written = io.BytesIO()
    torch.save(content, written)
    written.seek(0)
    return written
