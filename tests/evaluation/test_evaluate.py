"""The command from clips to a report: rows, a comparison, a page; what is known is not measured again."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from diffusers_jova.evaluation import meter
from diffusers_jova.evaluation.clip_signals import Signals
from diffusers_jova.evaluation.evaluate import main
from diffusers_jova.evaluation.measures import MEASURES, VERSIONS
from diffusers_jova.training.data.manifest import Sample
from jova_cli.evaluate import GROUPS
from tests.evaluation.speaking import write_speaker


NUM_CLIPS = 4
FAST = ["--measures", "sync", "timing", "sound", "picture"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Clips whose sound fits, and the same whose sound is late; one of the former is broken."""
    root = tmp_path_factory.mktemp("evaluated")
    for index in range(NUM_CLIPS):
        write_speaker(root / "fits", f"clip{index}", seed=index)
        write_speaker(root / "late", f"clip{index}", seed=index, late_s=0.32)
    (root / "fits" / "broken.mp4").write_bytes(b"no clip")
    return root / "fits", root / "late"


@pytest.fixture(scope="module")
def output(folders: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("report")
    main([str(folders[0]), "--against", str(folders[1]), "--output", str(output), *FAST])
    return output


def test_the_measures_of_the_words_are_those_of_the_table() -> None:
    assert set(GROUPS) == set(VERSIONS) == {measure.group for measure in MEASURES}
    assert {measure.better for measure in MEASURES} == {"higher", "lower", "zero", ""}
    assert len({measure.name for measure in MEASURES}) == len(MEASURES)


def test_the_report_has_a_row_for_each_clip_and_says_why_one_has_no_numbers(output: Path) -> None:
    report = json.loads((output / "report.json").read_text())
    rows = {row["clip"]: row for row in report["rows"]}
    assert set(rows) == {"broken", *(f"clip{index}" for index in range(NUM_CLIPS))}
    assert "must be a media file" in rows["broken"]["error"]
    assert not rows["broken"]["values"]
    fits, late = report["summary"]["sync_correlation"], report["against"]["summary"]["sync_correlation"]
    assert fits["count"] == NUM_CLIPS
    assert fits["mean"] > 0.6 > 0.3 > late["mean"]
    assert rows["clip0"]["values"]["face_share"] == 1
    assert "fit" not in rows["clip0"]["cannot_judge"].get("sync", "")
    assert {row["clip"] for row in report["against"]["rows"]} == set(rows) - {"broken"}
    assert report["measures"]["loudness_lufs"]["unit"] == "LUFS"


def test_the_comparison_is_of_pairs_and_certain(output: Path) -> None:
    against = json.loads((output / "report.json").read_text())["against"]
    difference = against["differences"]["sync_correlation"]
    assert against["paired"]
    assert difference["num_pairs"] == NUM_CLIPS
    assert 0 < difference["low"] < difference["difference"] < difference["high"]


def test_what_is_known_is_not_measured_again_and_half_a_line_is_no_harm(
    folders: tuple[Path, Path], output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = json.loads((output / "report.json").read_text())
    lines = (output / "measured.jsonl").read_text()
    with (output / "measured.jsonl").open("a") as file:
        file.write(lines.split("\n")[0][:40])
    read: list[str] = []
    measured = meter.read_signals

    def counted(sample: Sample, *detector: Any, **options: Any) -> Signals:
        read.append(sample.source.stem)
        return measured(sample, *detector, **options)

    monkeypatch.setattr(meter, "read_signals", counted)
    words = [str(folders[0]), "--against", str(folders[1]), "--output", str(output), *FAST]
    main(words)
    after = json.loads((output / "report.json").read_text())
    assert read == ["broken"]  # which has no numbers to keep
    assert after["rows"] == before["rows"]
    clip = folders[1] / "clip1.mp4"
    clip.touch()
    main(words)
    assert read == ["broken", "broken", "clip1"]


def test_a_missing_package_is_named_once_and_the_rest_is_measured(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "jiwer", None)
    clips = [str(folders[1] / f"clip{index}.mp4") for index in range(2)]
    main([*clips, "--output", str(tmp_path), "--measures", "words", "timing"])
    assert capsys.readouterr().err.count("words is left out: import of jiwer") == 1
    report = json.loads((tmp_path / "report.json").read_text())
    assert set(report["left_out"]) == {"words"}
    assert report["summary"]["length_difference_ms"]["count"] == 2
    assert '"words"' not in (tmp_path / "measured.jsonl").read_text()  # so that it is measured once it can be


def test_folders_without_common_names_are_compared_as_a_whole(
    folders: tuple[Path, Path], output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in folders[1].iterdir():
        (tmp_path / f"other-{path.name}").symlink_to(path)
    main([str(folders[0]), "--against", str(tmp_path), "--output", str(output), *FAST])
    told = capsys.readouterr().out
    assert "no clip has the same name on both sides" in told
    assert "worse" not in re.findall(r"lips and sound correlate.*", told)[0]
    against = json.loads((output / "report.json").read_text())["against"]
    assert against["differences"]["sync_correlation"]["num_pairs"] == 0


def test_the_page_needs_no_network_and_its_data_cannot_end_its_script(output: Path) -> None:
    page = (output / "report.html").read_text()
    assert not re.findall(r"(?:src|href)=[\"']https?:", page)
    (held,) = re.findall(r'<script type="application/json" id="report">(.*?)</script>', page, re.DOTALL)
    data = json.loads(held)
    links = {row["name"]: row["link"] for row in data["rows"] if row["side"] == 0}
    assert (output / links["clip0"]).is_file()
    assert "<" not in held
    curves = data["rows"][-1]["curves"]
    assert len(curves["mouth"]) == len(curves["loudness"]) == 50


def test_a_folder_of_which_no_clip_can_be_read_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a.mp4").write_bytes(b"no clip")
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path / "clips"), "--output", str(tmp_path / "report"), *FAST])
    assert ended.value.code == 1
    assert "no clip can be read" in capsys.readouterr().err
