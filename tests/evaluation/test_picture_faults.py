"""Faults that were put into pictures are found, in the share in which they were put."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from diffusers_jova.evaluation.clip_signals import frame_rate_of, read_signals, track_pictures
from diffusers_jova.evaluation.picture_faults import measure_pictures
from diffusers_jova.training.data.frame_stream import survey
from diffusers_jova.training.data.manifest import Sample, read_clip


RATE = 20.0


def moving(num_frames: int = 40, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    """A texture that drifts by a pixel a frame, [F, H, W, 3]."""
    noise = np.random.default_rng(0).normal(size=(size[0], size[1] + num_frames))
    texture = 128 + 300 * gaussian_filter(noise, 1.5)
    frames = np.stack([texture[:, f : f + size[1]] for f in range(num_frames)])
    return np.repeat(frames.clip(40, 255).astype(np.uint8)[..., None], 3, axis=-1)


def faults(frames: np.ndarray) -> dict[str, float | None]:
    return dict(measure_pictures(track_pictures(frames, RATE)).values)


def test_a_drifting_picture_has_no_fault() -> None:
    values = faults(moving())
    assert values["black_share"] == values["frozen_share"] == values["repeated_share"] == 0
    assert values["motion_share"] == pytest.approx(1, abs=0.05)
    assert values["flicker"] is not None
    assert values["flicker"] < 0.3


def test_black_and_frozen_and_repeated_frames_are_counted() -> None:
    frames = moving()
    frames[:10] = 0
    black = faults(frames)
    assert black["black_share"] == 0.25
    assert black["frozen_share"] == pytest.approx(9 / 39)  # of the steps; they are black and do not change
    frames = moving()
    frames[21::2] = frames[20:-1:2]  # each second one is a repeat
    repeated = faults(frames)
    assert repeated["repeated_share"] == pytest.approx(10 / 39)
    assert repeated["frozen_share"] == 0
    still = faults(moving()[:1].repeat(40, axis=0))
    assert still["frozen_share"] == still["repeated_share"] == 1
    assert still["motion_share"] == 0


def test_a_small_mouth_that_moves_in_a_large_still_picture_is_no_repeat() -> None:
    frames = np.full((20, 180, 320, 3), 90, np.uint8)
    frames[::2, 100:106, 150:160] = 40
    assert faults(frames)["repeated_share"] == 0


def test_flicker_is_told_from_a_fade_and_blur_from_detail() -> None:
    fade, lit = moving(), moving()
    steps = np.linspace(1, 0.6, 40)[:, None, None, None]
    fading = faults((fade * steps).astype(np.uint8))["flicker"]
    lit[::2] = (lit[::2] * 0.9).astype(np.uint8)
    flickering = faults(lit)["flicker"]
    blurred = gaussian_filter(moving().astype(np.float32), (0, 2, 2, 0)).astype(np.uint8)
    sharp, soft = faults(moving())["sharpness"], faults(blurred)["sharpness"]
    assert fading is not None
    assert flickering is not None
    assert flickering > 10 * fading
    assert sharp is not None
    assert soft is not None
    assert sharp > 4 * soft


def write_timed(path: Path, frames: np.ndarray, ticks: Sequence[int]) -> Sample:
    """Frames that are shown from ticks of 1/30 s on, without loss."""
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264rgb", 30, {"qp": "0"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "rgb24"
        for number, tick in enumerate(ticks):
            frame = av.VideoFrame.from_ndarray(frames[number], "rgb24")
            frame.pts, frame.time_base = tick, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return read_clip(path)


def test_a_frame_that_stands_longer_in_a_file_of_variable_rate_is_no_repeat(tmp_path: Path) -> None:
    ticks = [*range(60), *range(60, 120, 3)]  # 30 a second, then 10
    sample = write_timed(tmp_path / "all_differ.mp4", moving(80), ticks)
    picture = read_signals(sample).picture
    assert picture is not None
    values = measure_pictures(picture).values
    assert values["repeated_share"] == values["frozen_share"] == 0
    assert values["motion_share"] == pytest.approx(1, abs=0.05)
    assert sample.video is not None
    taken = np.array(survey(sample.video, frame_rate_of(sample.video)).numbers)  # at the mean rate
    assert picture.copies is not None
    np.testing.assert_array_equal(picture.copies, np.diff(taken) == 0)
    assert picture.copies.sum() > 15
    frames = moving(80)
    frames[1::2] = frames[::2]  # each second one that is stored is a repeat
    repeated = read_signals(write_timed(tmp_path / "repeated.mp4", frames, ticks)).picture
    shown = taken[np.diff(taken, prepend=-1) > 0]  # of each stored frame one
    assert measure_pictures(repeated).values["repeated_share"] == pytest.approx((np.diff(shown // 2) == 0).mean())


def test_a_fade_whose_frames_stand_longer_does_not_flicker() -> None:
    fade = (moving() * np.linspace(1, 0.6, 40)[:, None, None, None]).astype(np.uint8)
    slow = replace(track_pictures(fade.repeat(3, axis=0), RATE), copies=np.arange(1, 120) % 3 != 0)
    assert measure_pictures(slow).values["flicker"] == faults(fade)["flicker"]


def test_one_stored_frame_that_stands_is_frozen_and_repeats_nothing() -> None:
    tracks = replace(track_pictures(moving(1).repeat(40, axis=0), RATE), copies=np.ones(39, bool))
    measured = measure_pictures(tracks)
    assert measured.values["frozen_share"] == 1  # as it is seen
    assert (measured.values["repeated_share"], measured.values["motion_share"]) == (None, None)
    assert measured.reason == "fewer than three frames are stored"


def test_a_picture_of_two_frames_says_that_it_is_too_short() -> None:
    assert measure_pictures(track_pictures(moving(2), RATE)).reason == "fewer than three frames"
    assert measure_pictures(None).reason == "no picture"
    with pytest.raises(ValueError, match="one size"):
        track_pictures([*moving(2), *moving(2, (32, 32))], RATE)


def test_a_clip_of_one_frame_is_measured() -> None:
    tracks = track_pictures(np.full((1, 36, 64, 3), 80, np.uint8), 25.0)
    measured = measure_pictures(tracks)
    assert measured.reason == "fewer than three frames"
    assert measured.values["black_share"] == 0
    assert tracks.changes.shape == (0, 144)
