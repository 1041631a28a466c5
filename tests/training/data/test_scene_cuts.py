"""A hard cut is found; a pan, a flash and noise are none."""

import numpy as np

from diffusers_jova.training.data.scene_cuts import CutFinder, shots_between


def cuts_of(frames: np.ndarray) -> list[int]:
    finder = CutFinder()
    for frame in frames:
        finder.add(frame)
    return finder.cuts()


def pictures(num_frames: int, seed: int, speed_px: int = 0) -> np.ndarray:
    """Frames of 18 x 32 that pan over a random scene, with noise of a camera."""
    random = np.random.default_rng(seed)
    scene = np.repeat(np.repeat(random.uniform(0, 230, (3, 30, 3)), 6, 0), 8, 1)
    moving = np.stack([scene[:, (f * speed_px) % 200 :][:, :32] for f in range(num_frames)])
    return (moving + random.uniform(0, 20, moving.shape)).astype(np.uint8)


def test_scenes_that_follow_each_other_are_told_apart() -> None:
    assert cuts_of(np.concatenate([pictures(10, 0), pictures(12, 1), pictures(8, 2)])) == [10, 22]
    assert cuts_of(np.concatenate([pictures(10, 0, 1), pictures(12, 1, 1)])) == [10]
    assert cuts_of(np.concatenate([pictures(5, 0), pictures(1, 1)])) == [5]


def test_a_pan_a_flash_and_a_still_are_one_scene() -> None:
    assert cuts_of(pictures(30, 3, speed_px=4)) == []
    flash = pictures(12, 0)
    flash[6] = 255
    assert cuts_of(flash) == []
    assert cuts_of(pictures(12, 0)) == cuts_of(pictures(1, 0)) == []


def test_shots_cover_all_frames_once() -> None:
    assert shots_between([3, 7], 10) == [range(3), range(3, 7), range(7, 10)]
    assert shots_between([0, 10, 12], 10) == [range(10)]
