"""A picture that is shifted moves by as much, whatever its size and frame rate; stills, cuts, small ones are told."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from diffusers_jova.evaluation import motion_score
from diffusers_jova.evaluation.clip_signals import read_signals
from diffusers_jova.evaluation.measured import Measured
from diffusers_jova.evaluation.motion_score import Flow, filled_up, halved, measure_motion, seen_size, shrunk
from diffusers_jova.media import write_video
from diffusers_jova.training.data.manifest import read_clip


Frames = npt.NDArray[np.uint8]
RIGHT, DOWN = 4, 3  # pixels a step


def shift_of(pictures: Tensor, next_pictures: Tensor) -> Tensor:
    """The flow of pictures that are shifted as a whole: the peak of their phase correlation, for every pixel."""
    spectra = [torch.fft.fft2(one.mean(1)) for one in (pictures, next_pictures)]
    cross = spectra[1] * spectra[0].conj()
    peaks = torch.fft.ifft2(cross / cross.abs().clamp(min=1e-6)).real.flatten(1).argmax(1)
    height, width = pictures.shape[-2:]
    down, right = peaks // width, peaks % width
    parts = [(right + width // 2) % width - width // 2, (down + height // 2) % height - height // 2]
    return torch.stack(parts, 1).float()[..., None, None].expand(-1, -1, height, width)


class Watched:
    """A flow that is the same wherever it is asked for, and what it was asked of."""

    def __init__(self, right: float = 1.0, down: float = 0.0) -> None:
        self.parts, self.seen = torch.tensor([right, down]), list[tuple[int, ...]]()

    def __call__(self, pictures: Tensor, next_pictures: Tensor) -> Tensor:
        assert pictures.shape == next_pictures.shape
        self.seen.append(tuple(pictures.shape))
        return self.parts[None, :, None, None].expand(len(pictures), 2, *pictures.shape[-2:])


def noise(height: int, width: int, seed: int = 0) -> Frames:
    rough = np.random.default_rng(seed).normal(size=(height, width, 1))
    smooth = gaussian_filter(rough, (1.5, 1.5, 0), mode="wrap")
    return np.clip(128 + 60 * smooth / smooth.std(), 0, 255).astype(np.uint8).repeat(3, -1)


def moving(picture: Frames, num_frames: int, scale: int = 1, right: int = RIGHT, down: int = DOWN) -> Frames:
    """A picture that is shifted more and more, as many times as large."""
    frames = np.stack([np.roll(picture, (step * down, step * right), (0, 1)) for step in range(num_frames)])
    return frames.repeat(scale, 1).repeat(scale, 2)


def measure(path: Path, frames: Frames, frame_rate: float | Fraction, flow: Flow) -> Measured:
    write_video(path, frames, frame_rate)
    return measure_motion(path, read_signals(read_clip(path)).picture, flow)


@pytest.mark.parametrize(("frame_rate", "repeats", "scale"), [(8, 1, 1), (24, 3, 1), (8, 1, 3), (3, 1, 1)])
def test_a_shifted_picture_moves_by_as_much_whatever_its_size_and_frame_rate(
    tmp_path: Path, frame_rate: int, repeats: int, scale: int
) -> None:
    steps = moving(noise(256, 320), 6, scale).repeat(repeats, 0)
    values = measure(tmp_path / "clip.mp4", steps, frame_rate, shift_of).values
    by_side = np.hypot(RIGHT, DOWN) / 256  # a step, 8 (or 3) of which are a second
    assert values["motion_score"] == pytest.approx(100 * by_side * frame_rate / repeats, rel=1e-3)
    seen = 2 if scale == 3 else 1  # 960 x 768 is halved once, to 480 x 384
    per_frame = (RIGHT + DOWN) / 2 * (scale / seen) * 5 / (6 * repeats - 1)
    assert values["motion_score_verse_bench"] == pytest.approx(per_frame, rel=0.1 if scale == 3 else 1e-3)


def test_a_clip_that_moves_by_jerks_has_no_cut_at_each_of_them(tmp_path: Path) -> None:
    jerks = moving(noise(128, 128), 4).repeat(12, 0)  # two pictures a second
    values = measure(tmp_path / "clip.mp4", jerks, 24, shift_of).values
    assert values["motion_score"] == pytest.approx(100 * 8 * 3 / 15 * np.hypot(RIGHT, DOWN) / 128, rel=0.02)


def test_sides_that_are_no_multiples_count_each_by_its_own(tmp_path: Path) -> None:
    flow = Watched(3, 4)
    values = measure(tmp_path / "clip.mp4", moving(noise(300, 500), 3), 8, flow).values
    height, width = seen_size((300, 500))
    assert (height, width) == (256, 424)
    assert flow.seen == [(2, 3, 256, 424), (2, 3, 304, 504)]
    expected = np.hypot(3 * 500 / width, 4 * 300 / height) / 300
    assert values["motion_score"] == pytest.approx(100 * 8 * expected, rel=1e-6)
    assert values["motion_score_verse_bench"] == pytest.approx(3.5)


def test_a_still_clip_does_not_move_though_a_network_says_so(tmp_path: Path) -> None:
    stills = noise(256, 256)[None].repeat(5, 0)
    moved = measure(tmp_path / "a.mp4", stills, 8, shift_of)
    assert moved.values == {"motion_score": 0, "motion_score_verse_bench": 0}
    assert moved.reason == ""
    flow = Watched(0.5)  # as any network has a little
    values = measure(tmp_path / "b.mp4", np.full_like(stills, 90), 8, flow).values
    assert values == {"motion_score": 0, "motion_score_verse_bench": 0.25}


def test_one_frame_small_pictures_and_strips_are_reasons(tmp_path: Path) -> None:
    flow = Watched()
    one = measure(tmp_path / "one.mp4", noise(256, 256)[None], 8, flow)
    assert (one.values, one.reason) == ({}, "fewer than two frames are stored")
    small = measure(tmp_path / "small.mp4", moving(noise(64, 96), 3), 8, flow)
    assert small.values["motion_score"] is not None
    assert small.values["motion_score_verse_bench"] is None
    assert small.reason == "pictures of 96 x 64 as Verse-Bench shows them, where RAFT needs 128 x 128"
    strip = measure(tmp_path / "strip.mp4", moving(noise(128, 560), 3), 8, flow)
    assert strip.values == {"motion_score": None, "motion_score_verse_bench": 0.5}
    assert strip.reason == "a picture of 560 x 128, longer than 4 times its shorter side"
    short = measure(tmp_path / "short.mp4", moving(noise(128, 128), 2), 24, flow)
    assert short.values == {"motion_score": None, "motion_score_verse_bench": 0.5}
    assert short.reason == "no two pictures of one scene 0.125 s apart"
    assert measure_motion(None, None, flow).reason == "no picture"
    for broken in (float("nan"), float("inf")):
        strange = measure(tmp_path / "strange.mp4", moving(noise(256, 256), 3), 8, Watched(broken))
        assert strange.values == {"motion_score": None, "motion_score_verse_bench": None}
        assert strange.reason == "the flow is not finite"


@pytest.mark.parametrize("right", [0, 2])
def test_pairs_across_a_cut_count_for_verse_bench_alone(tmp_path: Path, right: int) -> None:
    dark, light = noise(128, 128) // 4, 255 - noise(128, 128, seed=1) // 4
    frames = np.concatenate([moving(one, 4, right=right, down=0) for one in (dark, light)])
    changes: dict[int, list[float]] = {128: [], 256: []}  # by the width that is shown: Verse-Bench enlarges nothing

    def flow(pictures: Tensor, next_pictures: Tensor) -> Tensor:
        changes[pictures.shape[-1]] += (next_pictures - pictures).mean((1, 2, 3)).tolist()
        return Watched()(pictures, next_pictures)

    measure(tmp_path / "clip.mp4", frames, 8, flow)
    assert sum(change > 50 for change in changes[128]) == 1
    assert not [change for change in changes[256] if abs(change) > 50]
    if right:  # a codec may leave a still as it is, or not quite
        assert len(changes[256]) == 6


def test_a_long_clip_is_seen_from_end_to_end_two_pairs_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(motion_score, "MAX_PAIRS", 5)
    brightness = np.arange(21, dtype=np.uint8) * 10
    frames = np.broadcast_to(brightness[:, None, None, None], (21, 128, 128, 3))
    seen: list[list[int]] = []

    def flow(pictures: Tensor, next_pictures: Tensor) -> Tensor:
        assert len(pictures) <= 2
        seen.append([round(float(one.mean()) / 10) for one in pictures])
        torch.testing.assert_close(
            next_pictures.mean((1, 2, 3)) - pictures.mean((1, 2, 3)),
            torch.full((len(pictures),), 10.0),
            atol=2,
            rtol=0,
        )
        return Watched()(pictures, next_pictures)

    measure(tmp_path / "clip.mp4", np.ascontiguousarray(frames), 8, flow)
    assert seen == 2 * [[0, 5], [10, 14], [19]]


@pytest.mark.parametrize(
    ("size", "expected"),
    [((720, 1280), (360, 640)), ((1080, 1920), (270, 480)), ((640, 640), (640, 640)), ((641, 300), (320, 150))],
)
def test_sides_are_halved_until_neither_is_over_640(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert halved(size) == expected


def test_a_quarter_is_the_mean_of_the_four_pixels_in_the_middle_and_edges_are_repeated() -> None:
    picture = torch.arange(64.0).reshape(1, 8, 8).repeat(3, 1, 1) ** 1.2
    middle = picture[0].unfold(0, 4, 4).unfold(1, 4, 4)[:, :, 1:3, 1:3].mean((2, 3)).round()
    assert torch.equal(shrunk(picture, (2, 2))[0], middle)
    filled = filled_up(torch.arange(15.0).reshape(1, 3, 5).repeat(3, 1, 1))
    assert filled.shape == (3, 8, 8)
    assert filled[0, :, 1].tolist() == [0.0] * 3 + [5.0] + [10.0] * 4  # two rows above, three below
    assert filled[0, 2].tolist() == [0.0, 0, 1, 2, 3, 4, 4, 4]  # one column before, two behind
