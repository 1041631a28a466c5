"""Intervals hold the true difference about as often as they say, and pairs need fewer clips."""

from __future__ import annotations

import numpy as np
import pytest

from diffusers_jova.evaluation.summary import compare


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
