"""The inception score counts the classes that a set is sure of, by itself; both sides have one of their own."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from diffusers_jova.evaluation.protocols import PROTOCOLS, lines_of
from diffusers_jova.evaluation.report import Report, Row
from diffusers_jova.evaluation.report_page import TEMPLATE, page_data
from diffusers_jova.evaluation.set_score import inception_score, set_scores


FLOOR = 1e-30  # of a share that is none


def sure(classes: list[int], num_classes: int = 6, share: float = 1.0) -> np.ndarray:
    """Log-probabilities of clips that are of a class by a share, and of the others alike, [N, C]."""
    rest = (1 - share) / (num_classes - 1)
    shares = np.full((len(classes), num_classes), rest)
    shares[np.arange(len(classes)), classes] = share
    return np.log(np.maximum(shares, FLOOR))


def rows_of(logs: np.ndarray, kinds: tuple[str, ...] = ()) -> list[Row]:
    return [
        Row(f"clip{index}", Path("clip.mp4"), vectors={"classes": row.tolist()}, kinds=kinds)
        for index, row in enumerate(logs)
    ]


def test_the_score_is_the_number_of_classes_that_clips_are_sure_of_alike() -> None:
    assert inception_score(sure([0, 1, 2, 3])) == pytest.approx(4)
    assert inception_score(sure([0, 0, 0, 1, 1, 1])) == pytest.approx(2)
    assert inception_score(sure([2, 2, 2])) == pytest.approx(1)
    assert inception_score(sure([0, 1, 2, 3, 4, 5], share=1 / 6)) == pytest.approx(1)  # sure of nothing
    assert inception_score(sure([0, 0, 0, 1])) == pytest.approx(np.exp(-0.75 * np.log(0.75) - 0.25 * np.log(0.25)))


def test_the_score_is_the_formula_with_the_divergence_from_the_mean() -> None:
    logs = np.log(np.random.default_rng(0).dirichlet(np.ones(6), 20))
    shares = np.exp(logs)
    divergences = (shares * (logs - np.log(shares.mean(0)))).sum(1)
    assert inception_score(logs) == pytest.approx(np.exp(divergences.mean()))
    assert inception_score(logs[::-1]) == pytest.approx(inception_score(logs))
    assert inception_score(sure([0, 1, 2], share=0.9)) > inception_score(sure([0, 1, 2], share=0.6)) > 1


def test_few_clips_are_warned_of_have_no_interval_and_one_has_no_score() -> None:
    assert set_scores(rows_of(sure([0]))) == []
    (two,) = set_scores(rows_of(sure([0, 1])))
    assert (two.value, two.low, two.num_clips) == (pytest.approx(2), None, 2)
    assert two.warning.startswith("2 clips for 6 classes: the score of few clips is too small")
    (many,) = set_scores(rows_of(sure([0, 1, 2] * 10, share=0.9)))
    assert many.warning == ""
    assert many.low is not None
    assert 1 < many.low < many.value < many.high
    (same,) = set_scores(rows_of(sure([1] * 10)))
    assert (same.value, same.low, same.high) == pytest.approx((1, 1, 1))
    (all_sure,) = set_scores(rows_of(sure([0, 1, 2] * 4, num_classes=3)))
    assert all_sure.low < all_sure.value == pytest.approx(all_sure.high) == pytest.approx(3)
    assert all_sure.high <= 3
    assert (many.better, many.way) == ("higher", "as the field does")


def test_one_folder_alone_has_a_score_and_of_two_each_its_own() -> None:
    varied, alike = rows_of(sure([0, 1, 2] * 4)), rows_of(sure([0] * 11 + [1]))
    alone = Report(["varied"], varied)
    held = alone.as_json()
    json.dumps(held, allow_nan=False)
    assert held["set_scores"][0]["value"] == pytest.approx(3)
    assert held["set_scores"][0]["cannot_see"].startswith("whether a sound is the one that was asked for")
    assert "IS of the sound (classes)" in alone.scores_table()
    assert alone.sets_table() == ""
    both = Report(["varied"], varied, "alike", alike)
    ours, theirs = both.as_json()["set_scores"], both.as_json()["against"]["set_scores"]
    assert ours[0]["value"] > 2 > theirs[0]["value"]
    assert "IS of the sound (classes), against" in both.scores_table()
    shown = page_data(both, Path())["set_scores"]
    assert [(one["against"], one["value"]) for one in shown] == [(0, ours[0]["value"]), (1, theirs[0]["value"])]
    assert Report(["none"], [Row("a", Path("a.mp4"))]).scores_table() == ""


def test_the_page_fills_every_table_that_it_has_a_function_for() -> None:
    page = TEMPLATE.read_text(encoding="utf-8")
    functions = re.findall(r"^function (fill\w+)\(", page, re.MULTILINE)
    assert "fillScores" in functions
    assert [name for name in functions if f"\n{name}();" not in page] == []


def test_protocols_tell_the_score_of_the_clips_that_count_or_what_it_needs() -> None:
    rows = rows_of(sure([0, 1, 2] * 4), ("sounding",)) + rows_of(sure([3] * 12))
    numbers = {name: Report(["ours"], rows, protocol=name).protocol_lines() for name in ("jova", "mova")}
    (jova,), (mova,) = ([line for line in lines if line.name == "IS"] for lines in numbers.values())
    assert (jova.mean, jova.num_clips, jova.clips) == (pytest.approx(3), 12, "sounding")
    assert mova.num_clips == 24
    assert 1 < mova.mean < 4
    assert "PANNs of the first 10 s" in mova.note
    lacking = {
        name: next(line for line in lines_of(PROTOCOLS[name], []) if line.name == "IS").note
        for name in ("jova", "mova")
    }
    assert lacking == {
        "jova": "not measured: it needs `--classifier`, and two sounding clips or more",
        "mova": "not measured: it needs `--classifier`, and two clips or more",
    }
