"""What a paper reports is told as the field does and corrected, apart, over the clips that count; what lacks, too."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from diffusers_jova.evaluation.evaluate import main
from diffusers_jova.evaluation.measures import CORRECTED_WAY, FIELD_WAY, MEASURES, VERSIONS, WAYS
from diffusers_jova.evaluation.protocols import PROTOCOLS, Entry, Protocol, groups_of, lines_of
from diffusers_jova.evaluation.report import Report, Row
from diffusers_jova.media import write_audio
from jova_cli.evaluate import PROTOCOLS as NAMED
from tests.tiny_networks import save_clap


NAMES = {measure.name for measure in MEASURES}


def test_protocols_name_measures_that_there_are_and_every_way_but_one_has_a_name() -> None:
    assert tuple(PROTOCOLS) == NAMED
    assert set(WAYS) <= NAMES
    for protocol in PROTOCOLS.values():
        assert set(groups_of(protocol)) <= set(VERSIONS)
        for entry in protocol.entries:
            assert set(entry.measures) <= NAMES
            ways = {WAYS.get(name) for name in entry.measures}
            assert ways == {FIELD_WAY, CORRECTED_WAY} or len(entry.measures) == 1 or entry.sets
            assert (FIELD_WAY not in ways and not entry.sets) or entry.deviates
        assert not {entry.name for entry in protocol.entries} & set(protocol.not_measured)


def row(name: str, kinds: tuple[str, ...], **values: float | None) -> Row:
    return Row(name, Path(f"{name}.mp4"), dict(values), kinds=kinds)


def test_only_clips_that_count_are_in_a_mean_and_the_field_comes_first() -> None:
    sync = Entry("LSE-C", ("lse_c_corrected", "lse_c"), "spoken", "boxes")
    protocol = Protocol("somebody", (sync, Entry("DNSMOS", ("dnsmos_p808",))), {"AS": "no"})
    rows = [
        row("a", ("spoken",), lse_c=4.0, lse_c_corrected=3.0, dnsmos_p808=2.0),
        row("b", ("spoken", "sounding"), lse_c=6.0, lse_c_corrected=None, dnsmos_p808=3.0),
        row("c", ("sounding",), lse_c=100.0, lse_c_corrected=100.0, dnsmos_p808=4.0),
    ]
    field, corrected, dnsmos, missing = lines_of(protocol, rows)
    assert (field.way, field.mean, field.num_clips, field.note) == (FIELD_WAY, 5.0, 2, "boxes")
    assert field.standard_error == pytest.approx(1.0)
    assert (corrected.way, corrected.mean, corrected.standard_error) == (CORRECTED_WAY, 3.0, None)
    assert (dnsmos.way, dnsmos.mean, dnsmos.num_clips) == ("", 3.0, 3)
    assert (missing.measure, missing.mean, missing.note) == (None, None, "not measured: no")
    (unjudged, *_) = lines_of(protocol, [row("d", ("sounding",), lse_c=1.0)])
    assert (unjudged.mean, unjudged.num_clips) == (None, 0)
    assert unjudged.note == "not measured: group syncnet has no number of spoken clips without `--syncnet`"
    (_, unjudged, *_) = lines_of(protocol, rows[1:])
    assert unjudged.note == "not measured: group syncnet has no number of spoken clips"


def test_the_report_holds_the_protocol_in_json_and_in_its_table() -> None:
    rows = [row("a", ("spoken",), lse_c=4.0, lse_c_corrected=3.0)]
    report = Report(["clips"], rows, protocol="jova")
    told = report.protocol_table()
    assert told.startswith("protocol jova, JoVA (arXiv:2512.13677v1), Sec. 4.1\n")
    assert re.search(r"LSE-C +as the field does +4 +1 spoken +lse_c +the paper says SyncNet", told)
    assert re.search(r"LSE-C +corrected +3 +1 spoken +lse_c_corrected", told)
    for way, name in ((FIELD_WAY, "motion_score_verse_bench"), (CORRECTED_WAY, "motion_score")):
        assert re.search(rf"MS +{way} +- +0 +{name} +not measured: group flow has no .+ without `--raft`", told)
    held = report.as_json()
    numbers = {line["measure"]: line for line in held["protocol"]["numbers"] if line["measure"]}
    assert (numbers["lse_c"]["way"], numbers["lse_c"]["mean"]) == ("as the field does", 4.0)
    assert held["measures"]["lse_c"]["way"] == "as the field does"
    assert held["measures"]["lse_c_corrected"]["way"] == "corrected"
    assert held["measures"]["sharpness"]["way"] is None
    assert Report(["clips"], rows).protocol_table() == ""
    assert "protocol" not in Report(["clips"], rows).as_json()


def test_the_command_measures_what_a_protocol_asks_for_of_the_clips_of_a_benchmark(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clap = save_clap(tmp_path / "clap")
    bench = tmp_path / "bench"
    bench.mkdir()
    (tmp_path / "clips").mkdir()
    for name in ("anna", "bert", "stranger"):
        write_audio(tmp_path / "clips" / f"{name}.wav", np.full((1, 16000), 0.1, np.float32), 16000)
    for name in ("anna", "bert", "carl"):
        (bench / f"{name}.txt").write_text(f"A head. <AUDCAP>{name} hums<ENDAUDCAP>" if name != "bert" else "A man.")
    (bench / "empty.txt").write_text(" ")
    (bench / "carl.TXT").write_text("another for the same name")
    (tmp_path / "clips" / "anna.txt").write_text("another caption")
    words = [str(tmp_path / "clips"), "--output", str(tmp_path / "report"), "--protocol", "verse-bench"]
    main([*words, "--clap", str(clap), "--prompts", str(bench)])
    told = capsys.readouterr()
    assert "empty.txt must hold a prompt" in told.err
    assert "another prompt for carl, which is left out" in told.err
    assert "1 of 3 prompts have no clip: carl\n" in told.err
    assert "1 of 3 clips have no prompt: stranger\n" in told.err
    assert "identity (`--identity`)" in told.err
    assert "speech" not in told.out  # which the protocol does not ask for
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    texts = {row["clip"]: row.get("texts", {}).get("clap") for row in report["rows"]}
    assert texts["anna"] == "anna hums"
    assert texts["bert"].startswith("A man. (of the picture")
    numbers = {line["measure"]: line for line in report["protocol"]["numbers"]}
    assert numbers["clap_score"]["num_clips"] == 1  # of the one that has a caption of its sound
    page = (tmp_path / "report" / "report.html").read_text()
    assert "Dorniwang/Verse-Bench" in page


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--protocol", "jova", "--measures", "sync"], "`--protocol` chooses the measures, got `--measures sync`"),
        (["--benchmark", "uniavatar"], "`--benchmark` must go with `--prompts`, got it alone"),
        (["--prompts", "list.csv"], "`--prompts` must be a folder, or go with `--benchmark`, got"),
        (["--prompts", "clip.wav", "--benchmark", "verse-bench"], "`--prompts` must be an existing folder with"),
        (["--protocol", "mova", "--clap", "."], "`--protocol mova` must go with options that it reads, got `--clap`;"),
        (
            ["--protocol", "jova", "--voice", "clip.wav"],
            "must go with options that it reads, got `--voice`; leave them",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(
    words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_audio(tmp_path / "clip.wav", np.full((1, 16000), 0.1, np.float32), 16000)
    (tmp_path / "list.csv").write_text("prompt\na\n")
    with pytest.raises(SystemExit):
        main(["clip.wav", "--output", "report", *words])
    assert told in capsys.readouterr().err
