"""A report says how many clips its numbers come from, and shows no certainty that they do not have."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from diffusers_jova.evaluation.evaluate import describe_unjudged
from diffusers_jova.evaluation.measured import Measured
from diffusers_jova.evaluation.report import Report, Row


def row(name: str, offset_ms: float, error: str = "") -> Row:
    return Row(
        name, Path(f"{name}.mp4"), {} if error else {"sync_offset_ms": offset_ms, "true_peak_dbtp": -1}, error=error
    )


def test_pairs_are_of_clips_that_can_be_read_and_are_counted() -> None:
    ours = [row("a", -10), row("b", 10), row("c", -30), row("alone", 0)]
    theirs = [row("a", -100), row("b", 120), row("c", 140), row("alone", 0, "cannot be read")]
    report = Report(["with"], ours, "without", theirs)
    told = describe_unjudged(report)
    assert "pairs of clips that were compared: 3; clips without a partner, which count in the means only: 1" in told
    assert "one in twenty seems better or worse by chance" in told
    assert "|.| 16.7 - 120 = -103 [" in report.table()  # of the distances of three pairs
    broken = Report(["with"], [row("a", 0, "cannot be read"), row("b", 1)], "without", [row("a", 0), row("d", 1)])
    assert not broken.is_paired
    assert broken.differences()["sync_offset_ms"].num_pairs == 0
    assert "no clip has the same name" in describe_unjudged(broken)


@pytest.mark.parametrize(
    ("theirs", "is_paired"),
    [
        ("auvwxy", False),  # one name that both happen to have
        ("abuvwx", False),
        ("abcuvw", True),
        ("ab", True),  # part of the clips
        ("az", True),
        ("ayz", False),
        ("uvwxyz", False),
    ],
)
def test_sides_are_pairs_where_half_of_the_smaller_one_or_more_has_a_partner(theirs: str, is_paired: bool) -> None:
    ours = [row(name, 10) for name in "abcdef"]
    broken = [row(name, 0, "cannot be read") for name in "ghi"]  # of which nothing can be compared
    report = Report(["with"], [*ours, *broken], "without", [*(row(name, 30) for name in theirs), *broken])
    shared = len(set("abcdef") & set(theirs))
    assert (report.is_paired, report.num_pairs, report.num_of_smaller_side) == (is_paired, shared, len(theirs))
    difference = report.differences()["sync_offset_ms"]
    assert difference.num_pairs == (shared if is_paired else 0)
    assert difference.low is not None or min(shared, 3) < 3
    assert report.as_json()["against"]["paired"] == is_paired
    if not is_paired and len(theirs) >= 3:
        assert difference.is_certain  # of six clips against six


def test_one_clip_has_no_standard_error() -> None:
    report = Report(["with"], [row("a", 5)])
    assert "+- 0" not in report.table()
    assert report.as_json()["summary"]["sync_offset_ms"] == {"mean": 5, "standard_error": None, "count": 1}


def test_errors_to_both_sides_of_zero_do_not_hide_each_other() -> None:
    offsets_ms = (200, -200, 200, -200)
    report = Report(["with"], [row(name, offset) for name, offset in zip("abcd", offsets_ms, strict=True)])
    summary = report.as_json()["summary"]
    assert summary["sync_offset_ms"]["mean"] == 0  # to neither side more than to the other
    assert summary["sync_offset_ms"]["mean_distance"] == 200
    assert "mean_distance" not in summary["true_peak_dbtp"]  # which need not be near zero
    assert "0 +- 1.2e+02, |.| 200" in report.table()
    against = Report(["with"], [row("a", 1), row("b", 1)], "without", [row("c", -30), row("d", 30)])
    assert "0 +- 30, |.| 30" in against.table()
    assert against.as_json()["against"]["summary"]["sync_offset_ms"]["mean_distance"] == 30


def test_a_louder_peak_is_neither_better_nor_worse() -> None:
    sides = [[Row(name, Path(name), {"true_peak_dbtp": peak}) for name in "abc"] for peak in (-1.0, -3.0)]
    report = Report(["with"], sides[0], "without", sides[1])
    assert report.differences()["true_peak_dbtp"].is_certain
    assert "worse" not in report.table()


def test_what_is_no_number_cannot_be_judged_and_costs_no_report() -> None:
    row = Row("strange", Path("strange.mp4"))
    row.add(
        "clap", Measured({"clap_score": math.nan}, vectors={"clap": [math.nan, 1.0], "clap_verse_bench": [1.0, 0.0]})
    )
    assert row.values["clap_score"] is None
    assert row.vectors == {"clap_verse_bench": [1.0, 0.0]}
    assert row.reasons == {"clap": "the network answers with NaN or infinity"}
