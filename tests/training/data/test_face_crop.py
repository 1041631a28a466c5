"""The crop holds the faces, at rest if it can, along a smooth path if it must."""

import numpy as np
import pytest

from diffusers_jova.training.data.buckets import crop_size, crop_windows, fit_along
from diffusers_jova.training.data.face_crop import crop_path, cut_share, face_size, faces_of
from jova_cli.clip_limits import Bucket


SIZE = (100, 300)


def mouths_at(*tracks: np.ndarray | list[float]) -> np.ndarray:
    """Mouths of 20 x 10 at the given x, 60 px from the top."""
    x = np.asarray(tracks, float)
    y = np.where(np.isnan(x), np.nan, 60)
    return np.stack([x - 10, y - 5, x + 10, y + 5], axis=-1)


def test_a_face_that_stays_is_held_by_a_crop_at_rest() -> None:
    mouths = mouths_at(250 + 3 * np.sin(np.arange(40)))
    path = crop_path(mouths, SIZE, (100, 100), 16)
    assert path is not None
    assert len(np.unique(path, axis=0)) == 1
    assert path[0].tolist() == [200, 0]  # as far to the right as there is picture
    windows = crop_windows(SIZE, Bucket(40, 64, 64), path, 40)
    assert cut_share(mouths, SIZE, windows) == 0
    assert cut_share(mouths, SIZE, crop_windows(SIZE, Bucket(40, 64, 64), None, 40)) == 1


def test_a_face_that_walks_through_the_picture_is_followed_smoothly() -> None:
    x = np.linspace(60, 240, 64)
    noisy = x + np.random.default_rng(0).normal(0, 4, 64)
    noisy[30:36] = np.nan
    path = crop_path(mouths_at(noisy), SIZE, (100, 100), 16)
    assert path is not None
    assert cut_share(mouths_at(x), SIZE, crop_windows(SIZE, Bucket(64, 64, 64), path, 64)) == 0
    steps = np.diff(path[:, 0])
    assert path[-1, 0] - path[0, 0] > 120
    assert np.abs(steps).max() <= 6  # the walk has 2.9 px per frame, its noise 4
    assert (path[:, 1] == 0).all()


def test_two_faces_are_held_together_where_they_fit_else_the_one_that_is_seen_more() -> None:
    near = crop_path(mouths_at([140.0] * 8, [180.0] * 8), SIZE, (100, 100), 16)
    assert near is not None
    assert near[0, 0] == 110
    far = crop_path(mouths_at([60.0] * 4 + [np.nan] * 4, [240.0] * 8), SIZE, (100, 100), 16)
    assert far is not None
    assert far[0, 0] == 190
    brief = crop_path(mouths_at([60.0] + [np.nan] * 7, [240.0] * 8), SIZE, (100, 100), 16)
    assert brief is not None
    assert brief[0, 0] == 190


def test_without_faces_or_without_a_crop_there_is_no_path() -> None:
    assert crop_path(mouths_at([np.nan] * 4), SIZE, (100, 100), 16) is None
    assert crop_path(np.zeros((0, 4, 4)), SIZE, (100, 100), 16) is None
    assert crop_path(mouths_at([50.0] * 4), SIZE, SIZE, 16) is None
    assert cut_share(np.zeros((0, 4, 4)), SIZE, crop_windows(SIZE, Bucket(4, 64, 64), None, 4)) == 0


def test_an_open_mouth_makes_no_larger_face() -> None:
    mouths = mouths_at([100.0] * 9)
    mouths[0, 4, [0, 2]] += [-5, 5]
    assert np.ptp(faces_of(mouths)[0, :, 0]) == 0


def test_pixels_and_boxes_move_together_along_the_path() -> None:
    frames = np.full((5, 60, 200, 3), 90, np.uint8)
    boxes = np.array([[[20 + 30 * f, 20, 36 + 30 * f, 30] for f in range(5)]], np.float32)
    for frame, (x1, y1, x2, y2) in zip(frames, boxes[0].astype(int), strict=True):
        frame[y1:y2, x1:x2] = 250
    bucket = Bucket(5, 32, 32)
    assert crop_size((60, 200), bucket) == (60, 60)
    assert crop_size((1, 4000), Bucket(5, 96, 32)) == (1, 1)  # a third of a pixel is none
    path = np.array([[30 * f, 0] for f in range(5)])
    cropped, moved = fit_along(frames, boxes, bucket, path)
    assert cropped.shape == (5, 32, 32, 3)
    np.testing.assert_allclose(moved[0], np.tile(np.array([20, 20, 36, 30]) * 32 / 60, (5, 1)), atol=1e-4)
    for frame, box in zip(cropped, moved[0], strict=True):
        rows, columns = np.nonzero(frame.mean(-1) > 170)
        np.testing.assert_allclose([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], box, atol=1.01)


def test_the_size_of_a_face_is_that_of_who_is_seen_most_within_the_picture() -> None:
    nan = float("nan")
    width, height = 2.6 * 20, 3.4 * 20  # of the face around a mouth of 20
    mouths = mouths_at([150.0] * 6, [20.0] * 2 + [nan] * 4)
    assert face_size(mouths, SIZE) == pytest.approx(width * height / 30000)
    assert face_size(mouths_at([10.0] * 6), SIZE) == pytest.approx(
        (10 + width / 2) * height / 30000
    )  # cut by the edge
    assert face_size(mouths_at([nan] * 6), SIZE) is None
    assert face_size(np.zeros((0, 6, 4)), SIZE) is None
