"""The Frechet distance is that of Gaussians, says how uncertain it is, and warns where few clips make it chance."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.linalg
import torch
from torch.nn import functional as F

from diffusers_jova.evaluation.measures import CORRECTED_WAY, FIELD_WAY
from diffusers_jova.evaluation.protocols import GROUP_OF_VECTORS, NUMBERS_OF_SETS, PROTOCOLS, lines_of
from diffusers_jova.evaluation.report import Report, Row
from diffusers_jova.evaluation.set_distance import (
    SET_MEASURES,
    SetDistance,
    as_it_is,
    bootstrap,
    corrected,
    frechet_distance,
    reference_divergence,
    set_distances,
    squared_distance,
    verse_bench_divergence,
)
from diffusers_jova.evaluation.set_score import SCORES
from jova_cli import progress


def drawn(num: int, size: int, seed: int, mean: float = 0.0, std: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, std, (num, size))


def rows_of(vectors: np.ndarray, name: str = "clap", kinds: tuple[str, ...] = ()) -> list[Row]:
    return [
        Row(f"clip{index}", Path("clip.mp4"), vectors={name: row.tolist()}, kinds=kinds)
        for index, row in enumerate(vectors)
    ]


def by_name(found: list[SetDistance]) -> dict[str, SetDistance]:
    return {distance.name: distance for distance in found}


@pytest.mark.parametrize(("nums", "size"), [((50, 70), 8), ((5, 7), 12), ((9, 30), 12)])
def test_the_distance_is_the_formula_with_the_root_of_a_matrix(nums: tuple[int, int], size: int) -> None:
    mixing = drawn(size, size, 9)
    ours, theirs = drawn(nums[0], size, 0) @ mixing, drawn(nums[1], size, 1, 0.5, 2.0)
    covariances = [np.cov(side, rowvar=False) + 1e-12 * np.eye(size) for side in (ours, theirs)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    expected = ((ours.mean(0) - theirs.mean(0)) ** 2).sum() + np.trace(covariances[0] + covariances[1] - 2 * root)
    tolerance = 1e-9 if min(nums) > size else 1e-4  # of the root of a matrix that has none
    assert frechet_distance(ours, theirs) == pytest.approx(expected, rel=tolerance)


def test_a_set_is_no_distance_from_itself_and_shifted_ones_by_the_square_of_the_shift() -> None:
    ours = drawn(40, 6, 0)
    assert frechet_distance(ours, ours) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(ours, ours[::-1]) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(ours, ours + 3) == pytest.approx(6 * 9)
    assert frechet_distance(ours, ours * 2 - ours.mean(0)) == pytest.approx(float(ours.var(0, ddof=1).sum()))


def test_the_interval_of_the_corrected_distance_holds_the_true_one_and_what_few_clips_add_is_taken_off() -> None:
    truth, size, times = 4 * (0.25 + 0.25), 4, 30
    held, plain, taken = 0, 0.0, 0.0
    for seed in range(times):
        ours, theirs = drawn(40, size, seed), drawn(40, size, 1000 + seed, 0.5, 1.5)
        distance = frechet_distance(ours, theirs)
        value, low, high = corrected(distance, bootstrap(ours, theirs))
        held += low <= truth <= high
        plain, taken = plain + distance / times, taken + value / times
    assert held >= 0.85 * times  # of 95 in 100
    assert abs(taken - truth) < 0.5 * (plain - truth)


@pytest.mark.slow
def test_the_example_of_the_page_is_measured_with_these_figures() -> None:
    truth, size, times = 16 * (0.25 + 0.25), 16, 400
    held, figures = 0, np.zeros(2)
    for seed in range(times):
        ours, theirs = drawn(40, size, seed), drawn(40, size, 1000 + seed, 0.5, 1.5)
        plain = frechet_distance(ours, theirs)
        value, low, high = corrected(plain, bootstrap(ours, theirs))
        held += low <= truth <= high
        figures += np.array([plain, value]) / times
    assert figures == pytest.approx([14.50, 9.36], abs=0.05)  # those of evaluation/README.md
    assert held == pytest.approx(374, abs=4)  # an end that all but is the truth may be rounded past it


def test_the_frames_of_a_clip_are_one_set_with_those_of_others_and_are_drawn_together() -> None:
    ours, theirs = drawn(12, 3, 0), drawn(15, 3, 1, 0.5)
    clips = [[vector + drawn(4, 3, number, std=0.1) for number, vector in enumerate(side)] for side in (ours, theirs)]
    rows = [
        [
            Row(f"clip{number}", Path("clip.mp4"), vectors={"inception": frames.tolist()})
            for number, frames in enumerate(c)
        ]
        for c in clips
    ]
    found = by_name(set_distances(*rows))
    assert found["fid"].value == pytest.approx(frechet_distance(*map(np.concatenate, clips)))
    assert (found["fid"].num_clips, found["fid"].num_others) == (12, 15)
    assert found["fid"].warning == ""
    draws = np.random.default_rng(0)
    picked = [[side[number] for number in draws.integers(0, len(side), len(side))] for side in clips]
    assert bootstrap(*clips)[0] == pytest.approx(frechet_distance(*map(np.concatenate, picked)))
    apart = by_name(set_distances(rows_of(ours.repeat(4, axis=0)), rows_of(theirs.repeat(4, axis=0))))["fd_clap"]
    assert found["fid"].high - found["fid"].low > 1.3 * (
        apart.high - apart.low
    )  # four times as many are no more clips


def test_the_interval_of_the_plain_distance_lies_around_it() -> None:
    assert as_it_is(5.0, np.linspace(7.0, 9.0, 101)) == pytest.approx((5.0, 4.05, 5.95))
    assert corrected(5.0, np.linspace(7.0, 9.0, 101)) == pytest.approx((2.0, 1.05, 2.95))
    assert corrected(1.0, np.linspace(7.0, 9.0, 101)) == (0.0, 0.0, 0.0)


def test_few_clips_are_warned_of_and_have_no_interval_of_the_true_distance() -> None:
    few = by_name(set_distances(rows_of(drawn(10, 16, 0)), rows_of(drawn(12, 16, 1))))
    assert few["fd_clap"].warning.startswith("10 and 12 clips for 16 numbers of an embedding: mostly chance")
    assert few["fd_clap"].low is not None
    assert (few["fd_clap_corrected"].low, few["fd_clap_corrected"].high) == (None, None)
    many = by_name(set_distances(rows_of(drawn(40, 4, 0)), rows_of(drawn(50, 4, 1))))
    assert many["fd_clap"].warning == ""
    assert many["fd_clap_corrected"].low is not None
    assert (many["fd_clap"].num_clips, many["fd_clap"].num_others) == (40, 50)
    assert many["fd_clap_corrected"].value < many["fd_clap"].value
    assert by_name(set_distances(rows_of(drawn(2, 4, 0)), rows_of(drawn(2, 4, 1))))["fd_clap"].low is None
    assert set_distances(rows_of(drawn(1, 4, 0)), rows_of(drawn(5, 4, 1))) == []
    assert set_distances(rows_of(drawn(5, 4, 0)), rows_of(drawn(5, 4, 1), "dino")) == []


def test_the_distance_of_pairs_is_two_less_twice_the_cosine() -> None:
    ours, theirs = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (drawn(5, 8, 0), drawn(4, 8, 1)))
    name = "clap_verse_bench"
    (found,) = set_distances(rows_of(ours, name), rows_of(theirs, name))
    expected = [2 - 2 * float(a @ b) for a, b in zip(ours, theirs, strict=False)]  # of clips of the same name
    assert found.value == pytest.approx(np.mean(expected))
    assert (found.num_clips, found.are_pairs) == (4, True)
    assert found.low is not None
    assert found.low < found.value
    assert squared_distance(ours[0], ours[0]) == 0


def test_the_directions_of_the_divergences_are_those_of_the_public_codes() -> None:
    ours, theirs = (torch.tensor(drawn(1, 6, seed)[0]).log_softmax(-1) for seed in (0, 1))
    verse = F.kl_div((ours.exp() + 1e-6).log(), theirs.exp(), reduction="sum")  # Verse-Bench: infer(clip, reference)
    other = F.kl_div(ours, theirs, reduction="sum", log_target=True)  # hkchengrex/av-benchmark, kl_softmax
    pair = (ours.numpy(), theirs.numpy())
    assert verse_bench_divergence(*pair) == pytest.approx(float(verse))
    assert reference_divergence(*pair) == pytest.approx(float(other))
    assert verse_bench_divergence(*pair[::-1]) != pytest.approx(verse_bench_divergence(*pair), rel=0.01)
    assert reference_divergence(pair[0], pair[0]) == pytest.approx(0, abs=1e-12)
    sure = np.log(np.array([1 - 1e-9, 1e-9]))
    assert verse_bench_divergence(sure, sure[::-1]) < -math.log(1e-6) < reference_divergence(sure, sure[::-1])


def test_sets_are_told_in_the_table_in_json_and_by_protocols_of_the_clips_that_count() -> None:
    sides = [rows_of(drawn(30, 4, seed), kinds=("sounding",)) for seed in (0, 1)]
    sides[0].append(Row("quiet", Path("quiet.mp4"), vectors={"clap": [900.0] * 4}))
    report = Report(["ours"], sides[0], "theirs", sides[1], "jova")
    everything = by_name(report.sets())["fd_clap"]
    assert everything.value > 1000
    assert "FD of the sound (CLAP)" in report.sets_table()
    assert "31 against 30" in report.sets_table()
    held = report.as_json()
    assert {one["name"] for one in held["against"]["sets"]} == {"fd_clap", "fd_clap_corrected"}
    numbers = {line["measure"]: line for line in held["protocol"]["numbers"]}
    assert numbers["fd_clap"]["mean"] < 10  # without the one that has no caption of a sound
    assert (numbers["fd_clap"]["way"], numbers["fd_clap_corrected"]["way"]) == (FIELD_WAY, CORRECTED_WAY)
    assert numbers["kl_verse_bench"]["note"] == (
        "not measured: it needs `--against` with the reference clips, `--classifier`, and sounding clips on both "
        "sides, a pair or more"
    )
    alone = Report(["ours"], sides[0], protocol="jova")
    assert alone.sets() == []
    assert alone.sets_table() == ""
    assert numbers.keys() == {line.measure for line in alone.protocol_lines()}


def test_references_that_nobody_asked_for_count_as_our_clips_of_their_names_do() -> None:
    ours = [*rows_of(drawn(5, 4, 0), "clap_verse_bench", ("sounding",)), Row("quiet", Path("quiet.mp4"))]
    ours[-1].vectors["clap_verse_bench"] = [900.0] * 4
    theirs = [*rows_of(drawn(7, 4, 1), "clap_verse_bench"), Row("quiet", Path("quiet.mp4"))]
    theirs[-1].vectors["clap_verse_bench"] = [0.0] * 4
    (pairs,) = set_distances(ours, theirs, "sounding")
    assert (pairs.num_clips, pairs.value < 100) == (5, True)
    asked, unasked = rows_of(drawn(5, 4, 0), kinds=("sounding",)), rows_of(drawn(5, 4, 1))
    assert by_name(set_distances(asked, unasked, "sounding"))["fd_clap"].num_others == 5


def test_long_work_on_sets_says_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter(range(0, 6100, 30))  # as if a draw took 30 s
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    bootstrap(drawn(4, 2, 0), drawn(5, 2, 1))
    told = capsys.readouterr().err.splitlines()
    assert (len(told), told[0]) == (50, "drawing sets of clips: set 2 of 100 is done")


def test_protocols_and_measures_of_clips_know_every_distance() -> None:
    names = {measure.name for measure in NUMBERS_OF_SETS}
    assert {measure.vectors for measure in SET_MEASURES} == set(GROUP_OF_VECTORS)
    assert {measure.vectors for measure in SCORES} <= set(GROUP_OF_VECTORS)
    assert len(names) == len(NUMBERS_OF_SETS)
    assert all(measure.source and measure.blind and measure.way for measure in NUMBERS_OF_SETS)
    for protocol in PROTOCOLS.values():
        assert {name for entry in protocol.entries for name in entry.sets} <= names
        assert all(entry.measures or entry.sets for entry in protocol.entries)
        assert lines_of(protocol, [])
