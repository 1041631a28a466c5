"""Weights of torchvision and of its model are one network, asked as by hand; others and a lacking package are told."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from diffusers_jova.evaluation.evaluate import main
from diffusers_jova.evaluation.raft import NUM_UPDATES, Raft, import_network, in_names_of_torchvision
from diffusers_jova.media import write_audio, write_video


# fmt: off
BLOCKS = ((1, 0, 64, 64), (1, 1, 64, 64), (2, 0, 64, 96), (2, 1, 96, 96), (3, 0, 96, 128), (3, 1, 128, 128))
UPDATE = {  # of raft-things.pth
    "encoder.convc1": (256, 324, 1, 1), "encoder.convc2": (192, 256, 3, 3), "encoder.convf1": (128, 2, 7, 7),
    "encoder.convf2": (64, 128, 3, 3), "encoder.conv": (126, 256, 3, 3),
    **{f"gru.conv{gate}1": (128, 384, 1, 5) for gate in "zrq"},
    **{f"gru.conv{gate}2": (128, 384, 5, 1) for gate in "zrq"},
    "flow_head.conv1": (256, 128, 3, 3), "flow_head.conv2": (2, 256, 3, 3),
    "mask.0": (256, 128, 3, 3), "mask.2": (576, 256, 1, 1),
}
# fmt: on


def things() -> dict[str, Tensor]:
    """Random weights under the names, and of the shapes, of raft-things.pth, which has some under two names."""
    torch.manual_seed(0)
    state: dict[str, Tensor] = {}

    def conv(name: str, *shape: int) -> None:
        fan_in = shape[1] * shape[2] * shape[3]
        state[f"{name}.weight"], state[f"{name}.bias"] = torch.randn(shape) / fan_in**0.5, torch.randn(shape[0]) / 10

    def norm(names: list[str], size: int) -> None:
        values = {"weight": 1 + torch.rand(size), "bias": torch.randn(size), "running_mean": torch.randn(size)}
        values |= {"running_var": 1 + torch.rand(size), "num_batches_tracked": torch.tensor(5)}
        state.update({f"{name}.{part}": value for name in names for part, value in values.items()})

    for tower, has_norms in (("module.fnet", False), ("module.cnet", True)):
        conv(f"{tower}.conv1", 64, 3, 7, 7)
        conv(f"{tower}.conv2", 256, 128, 1, 1)
        if has_norms:
            norm([f"{tower}.norm1"], 64)
        for layer, number, channels, made in BLOCKS:
            block = f"{tower}.layer{layer}.{number}"
            conv(f"{block}.conv1", made, channels, 3, 3)
            conv(f"{block}.conv2", made, made, 3, 3)
            for which in (1, 2) if has_norms else ():
                norm([f"{block}.norm{which}"], made)
            if channels != made:
                conv(f"{block}.downsample.0", made, channels, 1, 1)
                if has_norms:
                    norm([f"{block}.norm3", f"{block}.downsample.1"], made)
    for name, shape in UPDATE.items():
        conv(f"module.update_block.{name}", *shape)
    return state


def raft_large() -> Any:
    """What builds torchvision's own network; skips where it cannot be imported."""
    try:
        return import_network()
    except ImportError as error:
        pytest.skip(str(error))


def test_names_of_the_model_are_those_of_torchvision_and_the_network_is_asked_as_by_hand(tmp_path: Path) -> None:
    by_hand = raft_large()(weights=None, progress=False).eval()
    state = things()
    assert len(state) == 179
    renamed = in_names_of_torchvision(state)
    assert {name: tensor.shape for name, tensor in renamed.items()} == {
        name: tensor.shape for name, tensor in by_hand.state_dict().items()
    }
    assert in_names_of_torchvision(by_hand.state_dict()).keys() == by_hand.state_dict().keys()
    by_hand.load_state_dict(renamed)
    torch.save(state, tmp_path / "raft-things.pth")
    pictures, next_pictures = torch.rand(2, 1, 3, 128, 136) * 255
    found = Raft(tmp_path / "raft-things.pth")(pictures, next_pictures)
    with torch.inference_mode():
        expected = by_hand(pictures / 255 * 2 - 1, next_pictures / 255 * 2 - 1, num_flow_updates=20)[-1]
    assert found.shape == (1, 2, 128, 136)
    assert float(expected.abs().mean()) > 0.1
    torch.testing.assert_close(found, expected, atol=1e-3 * float(expected.abs().max()), rtol=0)  # 20 updates round


@pytest.mark.slow
def test_processes_that_share_clips_have_the_numbers_of_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(raft_large()(weights=None, progress=False).state_dict(), tmp_path / "raft.pth")
    (clips := tmp_path / "clips").mkdir()
    for number in range(2):
        frame = np.random.default_rng(number).integers(0, 255, (16, 16, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        write_video(clips / f"clip{number}.mp4", np.stack([frame, np.roll(frame, 4, 1), np.roll(frame, 8, 1)]), 8)
    rows = []
    for how in ([], ["--num-processes", "2"]):
        rows.append(rows_of(tmp_path / f"report{len(how)}", clips, tmp_path / "raft.pth", *how))
    for one, shared in zip(*rows, strict=True):
        assert one["values"] == pytest.approx(shared["values"], rel=1e-3)  # another number of threads
        assert one["values"]["motion_score"] > 0


class Brightness(nn.Module):
    """A network, in torchvision's form, by which all moves to the right by how much brighter it becomes."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.norm = nn.Parameter(torch.tensor([4.0])), nn.BatchNorm2d(1)

    def forward(self, first: Tensor, second: Tensor, num_flow_updates: int) -> list[Tensor]:
        assert num_flow_updates == NUM_UPDATES
        assert first.abs().max() <= 1
        right = (second - first).mean(1) * self.scale
        return [torch.full_like(first[:, :2], torch.nan), torch.stack([right, 0 * right], 1)]


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    def build(*, weights: None, progress: bool) -> Brightness:
        assert (weights, progress) == (None, False)
        return Brightness()

    monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "torchvision.models", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "torchvision.models.optical_flow", SimpleNamespace(raft_large=build))
    torch.save(Brightness().state_dict(), tmp_path / "raft.pth")
    return tmp_path / "raft.pth"


def write_clips(folder: Path, num_clips: int) -> Path:
    folder.mkdir()
    for number in range(num_clips):
        brightness = np.arange(3, dtype=np.uint8) * 20 * (number + 1)
        frames = np.broadcast_to(brightness[:, None, None, None], (3, 128, 128, 3))
        write_video(folder / f"clip{number}.mp4", np.ascontiguousarray(frames), 8)
    return folder


def rows_of(report: Path, clips: Path, weights: Path, *words: str) -> list[dict[str, Any]]:
    main([str(clips), "--output", str(report), "--measures", "flow", "picture", "--raft", str(weights), *words])
    rows: list[dict[str, Any]] = json.loads((report / "report.json").read_text())["rows"]
    return rows


def test_the_command_measures_anew_when_the_weights_change_and_else_does_not(weights: Path, tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips", 1)
    write_audio(clips / "hum.wav", np.full((1, 16000), 0.1, np.float32), 16000)
    clip, hum = rows_of(tmp_path / "report", clips, weights)
    by_frame = 4 * 20 / 127.5
    assert clip["values"]["motion_score"] == pytest.approx(100 * 8 * by_frame / 256, rel=0.05)
    assert clip["values"]["motion_score_verse_bench"] == pytest.approx(by_frame / 2, rel=0.05)
    assert hum["cannot_judge"]["flow"] == "no picture"

    def lines() -> int:
        return sum('"flow"' in line for line in (tmp_path / "report" / "measured.jsonl").read_text().splitlines())

    assert lines() == 2
    assert rows_of(tmp_path / "report", clips, weights)[0] == clip
    assert lines() == 2
    torch.save(Brightness().state_dict() | {"scale": torch.tensor([8.0])}, weights)
    again, _ = rows_of(tmp_path / "report", clips, weights)
    assert again["values"]["motion_score"] == pytest.approx(2 * clip["values"]["motion_score"])
    assert lines() == 4


@pytest.mark.usefixtures("weights")
def test_other_files_are_refused_in_a_sentence_before_the_first_clip(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips, state = write_clips(tmp_path / "clips", 1), Brightness().state_dict()
    whole, other = (tmp_path / "raft.pth").read_bytes(), tmp_path / "other.pth"
    cases: list[tuple[Any, str]] = [
        ({"scale": torch.ones(3)}, "must be the weights of RAFT, got another network's (no norm.weight, "),
        (
            state | {"more": torch.ones(1)},
            "(more beyond them); give raft_large_C_T_V1-22a6c225.pth of torchvision, or",
        ),
        (state | {"scale": torch.tensor([torch.nan])}, "must hold finite weights, got NaN or infinity in scale"),
        (Brightness(), "must hold tensors and nothing else, got a pickle that names code; it was not executed"),
        (whole[: len(whole) // 2], "must be a complete torch file, got"),
        (
            pickle.dumps(SimpleNamespace(scale=1), protocol=2),
            "must hold tensors and nothing else, got a pickle that names code",
        ),
    ]
    for content, told in cases:
        other.write_bytes(content) if isinstance(content, bytes) else torch.save(content, other)
        with pytest.raises(SystemExit):
            rows_of(tmp_path / "report", clips, other)
        said = capsys.readouterr()
        assert told in said.err
        assert "Traceback" not in said.err
        assert not (tmp_path / "report" / "measured.jsonl").exists()


def test_a_torchvision_that_is_not_there_or_is_of_another_torch_is_one_line(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = write_clips(tmp_path / "clips", 1)

    class Broken:
        def __getattr__(self, name: str) -> Any:
            if name == "raft_large":
                raise RuntimeError("operator torchvision::nms does not exist.")
            raise AttributeError(name)

    monkeypatch.setitem(sys.modules, "torchvision.models.optical_flow", Broken())
    told = (
        "flow is left out of 1 of 1 clips: the package `torchvision` cannot be imported (operator torchvision::nms "
        f"does not exist); install the one that belongs to torch {torch.__version__}; see `jova evaluate --help`\n"
    )
    (row,) = rows_of(tmp_path / "broken", clips, weights)
    assert capsys.readouterr().err.count(told) == 1
    assert row["values"]["sharpness"] is not None
    assert (row["values"]["motion_score"], row["values"]["motion_score_verse_bench"]) == (None, None)
    for name in ("torchvision.models.optical_flow", "torchvision.models"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    rows_of(tmp_path / "without", clips, weights)
    lacking = (
        "flow is left out of 1 of 1 clips: the package `torchvision` is not installed; see `jova evaluate --help`\n"
    )
    assert capsys.readouterr().err.count(lacking) == 1
