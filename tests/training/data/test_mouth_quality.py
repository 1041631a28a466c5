"""What is told of the mouths of a clip follows their boxes."""

import numpy as np

from diffusers_jova.training.data.mouth_quality import measure_mouths


def track(x: np.ndarray, width: float = 20) -> np.ndarray:
    return np.stack([x, np.full_like(x, 50), x + width, np.full_like(x, 60)], axis=-1)


def test_a_mouth_that_is_seen_now_and_then_has_its_share() -> None:
    boxes = track(np.arange(20.0))[None]
    boxes[0, 1:] = np.nan
    assert measure_mouths(boxes, 0.25) == (0.05, 0, 0, 0.25)  # one frame of twenty is no face
    assert measure_mouths(np.zeros((0, 20, 4)), 0.0) == (0.0, 0, 0, 0.0)


def test_steady_boxes_do_not_jump_and_flickering_ones_do() -> None:
    x = np.arange(20.0)
    assert measure_mouths(np.stack([track(x), track(x + 100)]), 0.0) == (1.0, 2, 0, 0.0)
    jumping = track(x)
    jumping[10] += 15  # there and back
    growing = track(x)
    growing[5, 2] += 30
    lost = track(x)
    lost[7] = np.nan
    assert [measure_mouths(boxes[None], 0.0).num_jumps for boxes in (jumping, growing, lost)] == [2, 2, 1]
