"""Intervals hold the true difference about as often as they say, and pairs need fewer clips."""

from __future__ import annotations

import numpy as np
import pytest

from diffusers_jova.evaluation.summary import Difference, compare


def named(values: np.ndarray) -> dict[str, float]:
    return {f"clip{index}": float(value) for index, value in enumerate(values)}


def test_the_difference_of_pairs_is_more_certain_than_that_of_means() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(0, 1, 20)
    ours, theirs = named(base + 0.3 + rng.normal(0, 0.1, 20)), named(base)
    pairs, means = compare(ours, theirs, is_paired=True), compare(ours, theirs, is_paired=False)
    assert pairs is not None
    assert means is not None
    assert pairs.difference == pytest.approx(means.difference)
    assert pairs.low is not None
    assert pairs.high is not None
    assert pairs.low < 0.3 < pairs.high
    assert pairs.is_certain
    assert not means.is_certain
    assert pairs.num_pairs == 20
    assert compare(ours, theirs, is_paired=True) == pairs  # the same clips, the same interval


def test_clips_without_a_partner_do_not_count_and_few_clips_have_no_interval() -> None:
    ours = {"a": 1.0, "b": 2.0, "c": 30.0}
    difference = compare(ours, {"a": 0.0, "b": 0.0, "d": 9.0}, is_paired=True)
    assert difference is not None
    assert (difference.mean, difference.other_mean, difference.num_pairs) == (1.5, 0.0, 2)
    assert difference.low is None
    assert not difference.is_certain
    assert compare(ours, {"d": 1.0}, is_paired=True) is None
    same = compare(ours, ours, is_paired=True)
    assert same is not None
    assert (same.low, same.high) == (0, 0)


@pytest.mark.parametrize("is_paired", [True, False])
@pytest.mark.parametrize("num_clips", [3, 10])
def test_without_a_difference_one_comparison_in_twenty_is_certain(num_clips: int, is_paired: bool) -> None:
    draws, times = np.random.default_rng(0), 500
    compared = [
        compare(named(draws.normal(size=num_clips)), named(draws.normal(size=num_clips)), is_paired=is_paired)
        for _ in range(times)
    ]
    share = sum(difference is not None and difference.is_certain for difference in compared) / times
    assert 0.02 <= share <= 0.07  # Welch's interval of three clips is wider than it need be


def test_values_that_differ_by_rounding_alone_are_equal_and_equal_differences_have_a_finite_interval() -> None:
    values = np.array([0.1, 0.7, 1.3, 2.9])
    for is_paired in (True, False):
        same = compare(named(values * 3 / 3 + 1e-16), named(values), is_paired=is_paired)
        assert same is not None
        assert not same.is_certain
    shifted = compare(named(values + 0.1), named(values), is_paired=True)  # 0.1 up to rounding, each time
    assert shifted is not None
    assert shifted.low == pytest.approx(0.1)
    assert shifted.high == pytest.approx(0.1)
    assert shifted.is_certain
    endless = Difference(1.0, 0.0, 1.0, float("nan"), float("nan"), 4)
    assert not endless.is_certain
