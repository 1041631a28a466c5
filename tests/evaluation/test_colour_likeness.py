"""A clip has the colours of its own reference image wherever things are, and neither those of another nor of noise."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffusers_jova.evaluation.clip_list import ListedClip
from diffusers_jova.evaluation.clip_signals import Signals, read_signals
from diffusers_jova.evaluation.colour_likeness import colours, measure_colours, shared
from diffusers_jova.evaluation.measured import Measured
from diffusers_jova.evaluation.meter import Meter
from diffusers_jova.media import write_video
from diffusers_jova.training.data.manifest import read_clip
from tests.tiny_networks import save_dino


HEIGHT, WIDTH = 96, 160


def scene(seed: int) -> np.ndarray:
    """Soft shades of a few colours, [H, W, 3]."""
    rng = np.random.default_rng(seed)
    base, spread = rng.integers(40, 216, 3), rng.integers(-40, 40, (6, 8, 3))
    small = Image.fromarray((base + spread).clip(0, 255).astype(np.uint8))
    return np.asarray(small.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))


def write_clip(path: Path, frames: list[np.ndarray]) -> Path:
    write_video(path, np.stack(frames), 8)
    return path


def likeness(clip: Path, reference: Path | None = None) -> float:
    value = measure_colours(clip, read_signals(read_clip(clip)).picture, reference).values["identity_colour"]
    assert value is not None
    return value


def test_the_own_image_is_nearer_than_another_also_where_things_have_moved(tmp_path: Path) -> None:
    for seed in range(3):
        Image.fromarray(scene(seed)).save(tmp_path / f"{seed}.png")
    still = write_clip(tmp_path / "still.mp4", [scene(0)] * 9)
    moved = write_clip(tmp_path / "moved.mp4", [np.roll(scene(0), 8 * number, axis=1) for number in range(9)])
    noise = np.random.default_rng(0).integers(0, 256, (9, HEIGHT, WIDTH, 3), np.uint8)
    noisy = write_clip(tmp_path / "noise.mp4", [*noise])
    black = write_clip(tmp_path / "black.mp4", [np.zeros_like(scene(0))] * 9)
    own, other = tmp_path / "0.png", tmp_path / "1.png"
    assert likeness(still, own) > 0.85
    assert likeness(moved, own) > 0.85
    assert likeness(still, other) < 0.5
    assert likeness(moved, other) < 0.5
    assert likeness(noisy, own) < 0.3
    assert likeness(black, own) < 0.05
    dark = write_clip(tmp_path / "dark.mp4", [(0.5 * scene(0)).astype(np.uint8)] * 9)
    assert likeness(dark, own) < 0.5  # the light counts


def test_without_an_image_a_still_is_like_its_first_frame_and_what_changes_is_not(tmp_path: Path) -> None:
    assert likeness(write_clip(tmp_path / "still.mp4", [scene(0)] * 9)) > 0.98
    changing = write_clip(tmp_path / "changes.mp4", [scene(0)] * 3 + [scene(1)] * 6)
    assert likeness(changing) < 0.6
    one = write_clip(tmp_path / "one.mp4", [scene(0)])
    measured = measure_colours(one, read_signals(read_clip(one)).picture, None)
    assert measured == Measured({}, "one frame alone, and no reference image")
    assert measure_colours(None, None, None).reason == "no picture"


def test_an_image_of_another_shape_is_cut_as_the_clip(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "a.mp4", [scene(0)] * 3)
    tall = Image.new("RGB", (WIDTH, 3 * HEIGHT), (0, 200, 0))
    tall.paste(Image.fromarray(scene(0)), (0, HEIGHT))
    tall.save(tmp_path / "tall.png")
    Image.fromarray(scene(0)).save(tmp_path / "same.png")
    assert likeness(clip, tmp_path / "tall.png") == pytest.approx(likeness(clip, tmp_path / "same.png"), abs=1e-6)


def test_shares_of_colours_add_up_and_a_colour_between_two_levels_is_near_both() -> None:
    grey = [colours(Image.new("RGB", (40, 30), (level,) * 3)) for level in range(0, 256, 5)]
    for shares, after in itertools.pairwise(grey):
        assert shares.sum() == pytest.approx(1)
        assert shared(shares, shares) == pytest.approx(1)
        assert shared(shares, after) > 0.6  # a step of five levels of 255, wherever it is taken
    assert shared(grey[0], grey[-1]) == 0
    large = np.asarray(Image.fromarray(scene(2)).resize((1600, 960), Image.Resampling.BICUBIC))
    part = colours(Image.fromarray(large))  # of which not all pixels are looked at
    assert shared(part, colours(Image.fromarray(scene(2)))) > 0.95


def test_colours_need_no_network_and_are_there_with_one(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", [np.roll(scene(0), 4 * number, axis=1) for number in range(6)])
    clip = ListedClip("a", read_clip(path), "")
    picture = read_signals(clip.sample).picture
    signals = Signals(picture=picture, audio=None, sampling_rate=0)
    plain, full = Meter(), Meter(identity=save_dino(tmp_path / "dino", 2))
    assert not plain.needs_package("identity", clip)
    assert full.needs_package("identity", clip)  # finding a face
    alone, both = (meter.measure_signals(clip, signals, ["identity"])["identity"] for meter in (plain, full))
    assert alone.values == {"identity_colour": both.values["identity_colour"]}
    assert alone.reason == "no DINO, which `--identity` gives"
    assert alone.texts == both.texts
    assert both.values["identity_picture"] is not None
    assert plain.settings("identity") != full.settings("identity")
    nothing = plain.measure_signals(clip, Signals(picture=None, audio=None, sampling_rate=0), ["identity"])
    assert nothing["identity"].reason == "no picture"
