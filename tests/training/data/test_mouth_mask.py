"""The mouth mask covers every mouth, in the latents that encode it, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from diffusers_jova.training.data.mouth_mask import (
    check_inside,
    clip_visible,
    interpolate_gaps,
    latent_mask,
    scale_boxes,
    transform_boxes,
    windows,
)


NAN = [np.nan] * 4


def moving_head(seed: int, num_frames: int = 33, size: int = 256) -> np.ndarray:
    """One mouth of 40 x 24 pixels on a smooth random path inside the picture, [1, F, 4]."""
    rng = np.random.default_rng(seed)
    seconds = np.arange(num_frames) / 16
    rate, phase = rng.uniform(0.3, 0.8, 2), rng.uniform(0, 2 * np.pi, 2)
    centre = size / 2 + size / 3 * np.sin(2 * np.pi * rate * seconds[:, None] + phase)
    half = np.array([20, 12])
    return np.concatenate([centre - half, centre + half], axis=-1)[None]


def covered(mask: np.ndarray, box: np.ndarray, latent: int, s: int = 8) -> bool:
    x1, y1, x2, y2 = box
    rows, columns = slice(int(y1 // s), int(-(-y2 // s))), slice(int(x1 // s), int(-(-x2 // s)))
    return bool(mask[latent, rows, columns].all())


def test_latent_zero_encodes_one_frame_and_each_later_latent_four() -> None:
    assert [list(frames) for frames in windows(13)] == [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]
    assert [list(frames) for frames in windows(16)] == [list(frames) for frames in windows(13)]  # trailing frames drop


@pytest.mark.parametrize("temporal_factor", [1, 4, 8])
def test_every_frame_belongs_to_the_latent_that_first_sees_it(temporal_factor: int) -> None:
    for latent, frames in enumerate(windows(1 + 6 * temporal_factor, temporal_factor)):
        assert all(int(np.ceil(frame / temporal_factor)) == latent for frame in frames)


def test_no_frames_is_an_error() -> None:
    with pytest.raises(ValueError, match="`num_frames` must be at least 1, got 0"):
        windows(0)


def test_a_moving_mouth_is_covered_in_the_latent_that_encodes_it_and_not_with_blocks_of_four() -> None:
    uncovered = uncovered_by_blocks = 0
    for seed in range(20):
        boxes = moving_head(seed)
        mask = latent_mask(boxes, 33, 256, 256)
        blocks = latent_mask(np.concatenate([np.full((1, 3, 4), np.nan), boxes[:, :-3]], 1), 33, 256, 256)
        blocks = np.concatenate([blocks[1:], blocks[-1:]])  # frames 0..3 in latent 0, 4..7 in latent 1, ...
        for frame in range(32):
            latent = -(-frame // 4)
            uncovered += not covered(mask, boxes[0, frame], latent)
            uncovered_by_blocks += not covered(blocks, boxes[0, frame], latent)
    assert uncovered == 0
    assert uncovered_by_blocks > 0.1 * 20 * 32


def test_the_box_is_floored_at_its_start_and_ceiled_at_its_end() -> None:
    boxes = np.full((1, 13, 4), np.nan)
    boxes[0, 1], boxes[0, 4] = [15.9, 8, 24, 16], [17, 8, 24.1, 16]
    mask = latent_mask(boxes, 13, 64, 64)
    assert np.argwhere(mask).tolist() == [[1, 1, 1], [1, 1, 2], [1, 1, 3]]


def test_whole_cells_are_not_dilated() -> None:
    boxes = np.broadcast_to([16.0, 24.0, 32.0, 40.0], (1, 5, 4))
    mask = latent_mask(boxes, 5, 64, 64)
    assert mask[1].sum() == 4
    assert mask[1, 3:5, 2:4].all()


def test_the_cells_between_two_mouths_stay_free() -> None:
    left, right = [0.0, 0.0, 8.0, 8.0], [56.0, 56.0, 64.0, 64.0]
    boxes = np.array([[left] * 5, [right] * 5])
    mask = latent_mask(boxes, 5, 64, 64)
    assert mask.sum(axis=(1, 2)).tolist() == [2, 2]
    assert np.array_equal(mask, latent_mask(boxes[:1], 5, 64, 64) | latent_mask(boxes[1:], 5, 64, 64))
    assert np.array_equal(mask, latent_mask(boxes[::-1], 5, 64, 64))


@pytest.mark.parametrize("boxes", [np.zeros((0, 9, 4)), np.full((2, 9, 4), np.nan)], ids=["nobody", "never seen"])
def test_a_clip_without_a_mouth_has_an_empty_mask(boxes: np.ndarray) -> None:
    mask = latent_mask(boxes, 9, 64, 48)
    assert mask.shape == (3, 8, 6)
    assert not mask.any()


def test_a_window_with_some_boxes_uses_those_and_one_without_stays_empty() -> None:
    boxes = np.full((1, 9, 4), np.nan)
    boxes[0, 3] = [8, 8, 16, 16]
    assert latent_mask(boxes, 9, 64, 64).sum(axis=(1, 2)).tolist() == [0, 1, 0]


@pytest.mark.parametrize("box", [[-20, 8, -4, 16], [70, 8, 90, 16], [8, -30, 16, -2], [8, 65, 16, 80]])
def test_a_mouth_outside_the_picture_marks_no_cell(box: list[float]) -> None:
    assert not latent_mask(np.broadcast_to(box, (1, 5, 4)), 5, 64, 64).any()


def test_a_mouth_over_the_edge_marks_its_visible_cells_only() -> None:
    mask = latent_mask(np.broadcast_to([-12.0, 56.0, 4.0, 90.0], (1, 1, 4)), 1, 64, 64)
    assert np.argwhere(mask).tolist() == [[0, 7, 0]]


def test_flipping_the_boxes_flips_the_mask() -> None:
    boxes = moving_head(3)
    flipped = transform_boxes(boxes, 1.0, flip_width=256)
    assert np.array_equal(latent_mask(flipped, 33, 256, 256), latent_mask(boxes, 33, 256, 256)[:, :, ::-1])
    np.testing.assert_allclose(transform_boxes(flipped, 1.0, flip_width=256), boxes)


def test_boxes_move_with_the_pixels_through_resize_and_crop() -> None:
    frame = np.zeros((40, 60))
    frame[10:14, 21:27] = 1
    crop = frame.repeat(2, axis=0).repeat(3, axis=1)[6:70, 30:150]
    x1, y1, x2, y2 = transform_boxes([21, 10, 27, 14], (3.0, 2.0), (30, 6)).astype(int)
    assert crop[y1:y2, x1:x2].all()
    assert crop.sum() == (y2 - y1) * (x2 - x1)


def test_boxes_are_not_rounded_before_scaling() -> None:
    np.testing.assert_allclose(transform_boxes([10.6, 0.4, 20.6, 8.4], 0.25), [2.65, 0.1, 5.15, 2.1])


def test_short_gaps_are_filled_linearly_and_long_or_open_ones_stay() -> None:
    track = np.full((1, 12, 4), np.nan)
    track[0, 1], track[0, 4], track[0, 9] = 0.0, 3.0, 9.0
    filled = interpolate_gaps(track, max_gap=2)
    assert filled[0, 1:5, 0].tolist() == [0.0, 1.0, 2.0, 3.0]
    assert np.isnan(filled[0, [0, 5, 6, 7, 8, 10, 11]]).all()
    assert interpolate_gaps(track, max_gap=4)[0, 7, 2] == pytest.approx(3.0 + 6.0 * 3 / 5)
    assert np.isnan(track[0, 2]).all()  # the input is not changed


def test_tracks_are_not_interpolated_into_each_other() -> None:
    tracks = np.array([[NAN, [1.0] * 4, NAN], [[5.0] * 4, NAN, NAN]])
    assert np.array_equal(interpolate_gaps(tracks, 5), tracks, equal_nan=True)


def test_a_box_with_less_than_a_quarter_in_the_picture_is_dropped() -> None:
    kept, dropped = clip_visible([[-10, 0, 10, 8], [-19, 0, 1, 8]], 64, 64)
    assert kept.tolist() == [0, 0, 10, 8]
    assert np.isnan(dropped).all()
    assert np.isnan(clip_visible([NAN], 64, 64)).all()


def test_growing_a_box_keeps_its_centre() -> None:
    assert scale_boxes([10, 20, 20, 24], 2.0).tolist() == [5, 18, 25, 26]


@pytest.mark.parametrize("num_frames", [3, 18])
def test_boxes_of_another_number_of_frames_are_not_dealt_out_among_persons(num_frames: int) -> None:
    boxes = np.full((2, 9, 4), [10.0, 10.0, 30.0, 20.0])
    with pytest.raises(ValueError, match=rf"`boxes` must be \[P, {num_frames}, 4\].*got \[2, 9, 4\]"):
        latent_mask(boxes, num_frames, 64, 64)


def test_boxes_by_width_and_height_are_no_empty_mask() -> None:
    boxes = np.full((1, 9, 4), [30.0, 30.0, 20.0, 10.0])
    with pytest.raises(ValueError, match="whose second corner comes first; is it"):
        latent_mask(boxes, 9, 64, 64)


def test_boxes_in_shares_of_the_picture_are_not_taken_as_pixels() -> None:
    boxes = np.full((1, 9, 4), NAN)
    boxes[0, 3:] = [0.3, 0.6, 0.7, 0.8]
    with pytest.raises(
        ValueError, match=r"`boxes` must be in pixels, got boxes that all lie within \[0, 1\]; multiply"
    ):
        latent_mask(boxes, 9, 64, 64)
    boxes[0, 5] = [0.5, 0.5, 9, 9]  # in pixels, at the corner of the picture
    assert latent_mask(boxes, 9, 64, 64).any()


def test_no_mouth_at_all_is_neither_shares_nor_outside() -> None:
    for box in (NAN, [0.0] * 4):
        boxes = np.broadcast_to(box, (1, 9, 4))
        assert not latent_mask(boxes, 9, 64, 64).any()
        check_inside(boxes, 64, 64, "`boxes`")


def test_none_stands_for_a_frame_without_a_mouth_and_what_is_no_box_is_refused() -> None:
    box = [20.0, 30.0, 40.0, 44.0]
    gap = latent_mask([[box, None, None, None, None]], 5, 64, 64)
    assert np.array_equal(gap, latent_mask(np.array([[box, *[[np.nan] * 4] * 4]]), 5, 64, 64))
    assert gap[0].any()
    assert not gap[1].any()
    for wrong in ([[box, [1.0, 2.0]]], [[box, "x"]], [3, 4], "boxes"):
        with pytest.raises(ValueError, match=r"`boxes` must be (numbers )?\[P, 2, 4\]"):
            latent_mask(wrong, 2, 64, 64)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`num_frames` must be at least 1, got 0"):
        latent_mask([[]], 0, 64, 64)


def test_an_infinite_corner_is_no_missing_mouth() -> None:
    with pytest.raises(ValueError, match="`boxes` must be finite, or NaN where no mouth is seen, got infinite ones"):
        latent_mask(np.array([[[0.0, 0.0, np.inf, 16.0]]]), 1, 32, 32)
