"""The shift of embeddings is found, with its sign; what is padded is told from what is not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from diffusers_jova.evaluation.lip_distance import distances_by_shift, lip_distance


NUM_WINDOWS = 90


def embeddings(seed: int, num: int = NUM_WINDOWS) -> Tensor:
    return torch.randn(num, 32, generator=torch.Generator().manual_seed(seed))


def shifted(late: int) -> tuple[Tensor, Tensor]:
    """Lips, and sound of the same events that comes so many windows later."""
    events = embeddings(0, NUM_WINDOWS + 40)
    noise = 0.1 * embeddings(1)
    return events[20 : 20 + NUM_WINDOWS], events[20 - late : 20 - late + NUM_WINDOWS] + noise


@pytest.mark.parametrize("is_padded", [True, False])
@pytest.mark.parametrize("late", [-12, -3, 0, 5, 12])
def test_a_known_shift_is_found_with_its_sign(late: int, is_padded: bool) -> None:
    found = lip_distance(*shifted(late), is_padded=is_padded)
    assert found.offset_frames == -late  # lips come late where sound comes early
    assert found.lse_c > 3


@pytest.mark.parametrize("is_padded", [True, False])
def test_pairs_that_belong_together_are_told_from_others(is_padded: bool) -> None:
    lips, sounds = shifted(0)
    together = lip_distance(lips, sounds, is_padded=is_padded)
    others = [lip_distance(lips, embeddings(seed), is_padded=is_padded) for seed in range(2, 8)]
    assert together.lse_c > 10 * max(other.lse_c for other in others)
    assert together.lse_d < min(other.lse_d for other in others) / 2


def test_the_distances_are_those_of_the_sum_written_out() -> None:
    lips, sounds = embeddings(3, 20).numpy().astype(float), embeddings(4, 20).numpy().astype(float)
    padded, paired = [], []
    for shift in range(-15, 16):
        rows = [(lips[i], sounds[i + shift] if 0 <= i + shift < 20 else None) for i in range(20)]
        padded.append(np.mean([np.linalg.norm(a - (0 if b is None else b)) for a, b in rows]))
        paired.append(np.mean([np.linalg.norm(a - b) for a, b in rows if b is not None]))
    for expected, is_padded in ((padded, True), (paired, False)):
        found = distances_by_shift(torch.tensor(lips), torch.tensor(sounds), is_padded=is_padded)
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)  # torch adds 1e-6 to each difference
        distance = lip_distance(torch.tensor(lips), torch.tensor(sounds), is_padded=is_padded)
        assert distance.lse_d == pytest.approx(min(expected), abs=1e-5)
        assert distance.lse_c == pytest.approx(np.median(expected) - min(expected), abs=2e-5)


def test_too_few_windows_are_refused() -> None:
    with pytest.raises(ValueError, match=r"more than 15 windows, got \[15, 32\] and \[15, 32\]"):
        lip_distance(embeddings(0, 15), embeddings(1, 15), is_padded=True)
