"""Which stretches of a face count, and what SyncNet is shown of them."""

from __future__ import annotations

import numpy as np

from diffusers_jova.evaluation.face_tracks import FaceTrack, crop_corners, cut_out, find_tracks


def seen(*frames: int, num: int = 40) -> np.ndarray:
    """A face that moves to the right by a pixel a frame, in some frames, [1, F, 4]."""
    boxes = np.full((1, num, 4), np.nan)
    for frame in frames:
        boxes[0, frame] = [frame, 10, frame + 100, 130]
    return boxes


def test_a_short_gap_is_filled_in_and_a_long_one_ends_a_track() -> None:
    (track,) = find_tracks(seen(3, 4, 8), [], max_gap=3)
    assert (track.start, track.stop, track.num_found, track.size_px) == (3, 9, 3, 120)
    np.testing.assert_allclose(track.boxes[:, 0], range(3, 9))
    first, second = find_tracks(seen(3, 4, 8), [], max_gap=2)
    assert (first.start, first.stop, second.start, second.stop) == (3, 5, 8, 9)


def test_a_cut_ends_a_track_and_nobody_has_none() -> None:
    assert [(t.start, t.stop) for t in find_tracks(seen(*range(10)), [4], max_gap=24)] == [(0, 4), (4, 10)]
    assert find_tracks(seen(), [], max_gap=24) == []
    assert find_tracks(np.zeros((0, 40, 4)), [], max_gap=24) == []


def test_the_crop_reaches_to_the_sides_and_down_by_its_scale() -> None:
    boxes = np.array([[100.0, 200.0, 180.0, 300.0]])  # half the longer side is 50, its centre (140, 250)
    assert crop_corners(boxes, 0.4, 1).tolist() == [[70, 200, 210, 340]]
    assert crop_corners(boxes, 0.3, 1).tolist() == [[75, 200, 205, 330]]
    assert crop_corners(np.zeros((1, 4)), 0.4, 1).tolist() == [[0, 0, 1, 1]]  # a pixel at least


def test_the_median_filter_drops_a_box_that_jumps() -> None:
    boxes = np.tile([100.0, 200.0, 180.0, 300.0], (30, 1))
    boxes[15] += 40
    assert (crop_corners(boxes, 0.4, 13)[6:-6] == [70, 200, 210, 340]).all()
    assert crop_corners(boxes, 0.4, 1)[15].tolist() == [110, 240, 250, 380]


def test_what_is_cut_out_is_blue_green_red_and_grey_beyond_the_picture() -> None:
    frame = np.zeros((50, 60, 3), np.uint8)
    frame[..., 0] = 200  # red
    crop = cut_out(frame, np.array([-10, 0, 30, 40]))
    assert crop.shape == (224, 224, 3)
    assert crop[100, 200].tolist() == [0, 0, 200]
    assert crop[100, 20].tolist() == [110, 110, 110]


def test_a_track_of_one_size_is_as_large_as_its_longer_side() -> None:
    assert FaceTrack(0, np.array([[0.0, 0, 30, 20], [0, 0, 50, 20]]), 2).size_px == 40
