"""The command from clips to a report: rows, a comparison, a page; what is known is not measured again."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffusers_jova.evaluation import meter
from diffusers_jova.evaluation.clip_list import list_clips
from diffusers_jova.evaluation.clip_signals import Signals
from diffusers_jova.evaluation.evaluate import main, measure_clips
from diffusers_jova.evaluation.measured import Measured
from diffusers_jova.evaluation.measured_clips import MeasuredClips
from diffusers_jova.evaluation.measures import MEASURES, VERSIONS
from diffusers_jova.evaluation.prepared_clips import PreparedClipMeter
from diffusers_jova.evaluation.protocols import GROUP_OF_VECTORS
from diffusers_jova.evaluation.syncnet import SyncNet
from diffusers_jova.media import write_audio, write_video
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
    whole = (root / "fits" / "clip0.mp4").read_bytes()
    (root / "fits" / "broken.mp4").write_bytes(whole[: len(whole) // 2])
    return root / "fits", root / "late"


@pytest.fixture(scope="module")
def output(folders: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("report")
    main([str(folders[0]), "--against", str(folders[1]), "--output", str(output), *FAST])
    return output


def test_the_measures_of_the_words_are_those_of_the_table() -> None:
    of_sets = set(GROUP_OF_VECTORS.values())  # some of which say nothing of a clip
    assert set(GROUPS) == set(VERSIONS) == {measure.group for measure in MEASURES} | of_sets
    assert {measure.better for measure in MEASURES} == {"higher", "lower", "zero", ""}
    assert len({measure.name for measure in MEASURES}) == len(MEASURES)


def test_the_report_has_a_row_for_each_clip_and_says_why_one_has_no_numbers(output: Path) -> None:
    report = json.loads((output / "report.json").read_text())
    rows = {row["clip"]: row for row in report["rows"]}
    assert set(rows) == {"broken", *(f"clip{index}" for index in range(NUM_CLIPS))}
    assert rows["broken"]["error"].endswith("of the bytes that it announces; copy it again")
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
    clips = [str(write_speaker(tmp_path / "said", f"clip{index}", seed=0, transcript="hello")) for index in range(2)]
    main([*clips, str(folders[1] / "clip0.mp4"), "--output", str(tmp_path), "--measures", "words", "timing"])
    said = "words is left out of 2 of 3 clips: the package `jiwer` is not installed; the extra `evaluate` brings it"
    assert capsys.readouterr().err.count(said) == 1
    report = json.loads((tmp_path / "report.json").read_text())
    assert [told.split(":")[0] for told in report["left_out"]] == ["words is left out of 2 of 3 clips"]
    assert report["rows"][2]["cannot_judge"]["words"] == "nobody wrote what should be said"  # which needs no package
    assert report["summary"]["length_difference_ms"]["count"] == 3
    kept = map(json.loads, (tmp_path / "measured.jsonl").read_text().splitlines())
    assert [line["clip"] for line in kept if line["group"] == "words"] == [report["rows"][2]["clip"]]


def test_what_a_package_adds_is_left_out_alone(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pyloudnorm", None)
    words = [str(folders[1] / "clip0.mp4"), "--output", str(tmp_path), "--measures", "sound", "sync"]
    main(words)
    assert "loudness is left out of 1 of 1 clips: " in capsys.readouterr().err
    report = json.loads((tmp_path / "report.json").read_text())
    assert [told.split()[0] for told in report["left_out"]] == ["loudness"]  # boxes beside a clip need no detector
    assert report["rows"][0]["values"]["silence_share"] is not None
    assert [json.loads(line)["group"] for line in (tmp_path / "measured.jsonl").read_text().splitlines()] == ["sync"]


def test_what_fails_in_one_group_is_its_reason_and_a_voice_that_cannot_be_read_is_refused(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_sound: object) -> Measured:
        raise ValueError("`sampling_rate` must be one that it knows")

    monkeypatch.setattr(meter, "measure_sound", refuse)
    words = [str(folders[1] / "clip0.mp4"), "--output", str(tmp_path), *FAST]
    main(words)
    (row,) = json.loads((tmp_path / "report.json").read_text())["rows"]
    assert row["error"] is None
    assert row["cannot_judge"]["sound"] == "`sampling_rate` must be one that it knows"
    assert row["values"]["sync_correlation"] is not None
    assert '"sound"' not in (tmp_path / "measured.jsonl").read_text()
    (tmp_path / "voice.wav").write_bytes(b"no sound")
    with pytest.raises(SystemExit):
        main([*words, "voice", "--voice", str(tmp_path / "voice.wav")])
    assert "must be a media file" in capsys.readouterr().err
    write_video(tmp_path / "silent.mp4", np.zeros((2, 16, 16, 3), np.uint8), 8)
    with pytest.raises(SystemExit):
        main([*words, "voice", "--voice", str(tmp_path / "silent.mp4")])
    assert "`--voice` must be a file with sound, got" in capsys.readouterr().err


class SessionError(Exception):
    """As onnxruntime raises it."""


SessionError.__module__ = "onnxruntime.capi.onnxruntime_pybind11_state"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."), "CUDA out of memory"),
        (SessionError("[ONNXRuntimeError] : 1 : FAIL : no\nmemory"), "[ONNXRuntimeError] : 1 : FAIL : no memory"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_a_clip_that_a_network_cannot_take_ends_neither_the_other_groups_nor_the_run(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    measured = meter.measure_sound
    left = [1]

    def fail_once(*sound: Any) -> Measured:
        if left and left.pop():
            raise error
        return measured(*sound)

    monkeypatch.setattr(meter, "measure_sound", fail_once)
    clips = [str(folders[1] / f"clip{index}.mp4") for index in range(2)]
    main([*clips, "--output", str(tmp_path), "--measures", "sound", "timing"])
    rows = json.loads((tmp_path / "report.json").read_text())["rows"]
    assert rows[0]["cannot_judge"]["sound"] == f"the measure failed: {reason}"
    assert rows[0]["values"]["length_difference_ms"] is not None
    assert rows[1]["values"]["silence_share"] is not None
    main([*clips, "--output", str(tmp_path), "--measures", "sound", "timing"])
    rows = json.loads((tmp_path / "report.json").read_text())["rows"]
    assert rows[0]["values"]["silence_share"] is not None  # it is measured again


def test_where_a_clip_depends_on_its_measures_an_error_of_a_network_is_one(tmp_path: Path) -> None:
    (clip,) = list_clips([write_speaker(tmp_path, "clip", seed=0)])
    signals = Signals(picture=None, audio=np.ones((1, 16000), np.float32) / 2, sampling_rate=16000)

    def fail(*_: object) -> Measured:
        raise RuntimeError("no memory")

    for is_strict in (False, True):
        own = meter.Meter(is_strict=is_strict)
        own._take = fail  # type: ignore[method-assign]
        with pytest.raises(RuntimeError, match="no memory") if is_strict else contextlib.nullcontext():
            assert own.measure_signals(clip, signals, ["sound"])["sound"].has_failed
    assert PreparedClipMeter(("sound",))._meter.is_strict


def test_boxes_of_a_picture_of_another_size_leave_out_the_lip_sync_alone(tmp_path: Path) -> None:
    clip = write_speaker(tmp_path / "clips", "clip", seed=0)
    boxes = json.loads(clip.with_name("clip.boxes.json").read_text())
    far = [[box and [1000 + side for side in box] for box in person] for person in boxes]
    clip.with_name("clip.boxes.json").write_text(json.dumps(far))
    main([str(clip.parent), "--output", str(tmp_path), *FAST])
    (row,) = json.loads((tmp_path / "report.json").read_text())["rows"]
    assert row["error"] is None
    assert "all lie outside of it" in row["cannot_judge"]["sync"]


@pytest.mark.parametrize(
    ("boxes", "reason"),
    [("[[[1, 2, 3, 4]]]", "must have the shape"), ("no json", "must hold four numbers or null for every person")],
)
def test_boxes_that_cannot_be_read_leave_out_the_lip_sync_alone(tmp_path: Path, boxes: str, reason: str) -> None:
    clip = write_speaker(tmp_path / "clips", "clip", seed=0)
    clip.with_name("clip.boxes.json").write_text(boxes)
    main([str(clip.parent), "--output", str(tmp_path), *FAST])
    (row,) = json.loads((tmp_path / "report.json").read_text())["rows"]
    assert row["error"] is None
    assert row["values"]["sync_correlation"] is None
    assert reason in row["cannot_judge"]["sync"]
    assert row["values"]["motion_share"] > 0
    kept = [json.loads(line)["group"] for line in (tmp_path / "measured.jsonl").read_text().splitlines()]
    assert kept == ["timing", "sound", "picture"]
    torch.save(SyncNet().state_dict(), tmp_path / "syncnet.model")
    words = ["--measures", "syncnet", "--syncnet", str(tmp_path / "syncnet.model")]
    main([str(clip.parent), "--output", str(tmp_path / "scores"), *words])
    (row,) = json.loads((tmp_path / "scores" / "report.json").read_text())["rows"]
    assert reason in row["cannot_judge"]["syncnet"]
    assert not (tmp_path / "scores" / "measured.jsonl").exists()


def test_other_weights_of_the_recogniser_measure_again_and_the_same_elsewhere_do_not(tmp_path: Path) -> None:
    (clip,) = list_clips([write_speaker(tmp_path / "said", "clip", seed=0, transcript="hello")])

    def key(folder: str, weights: bytes) -> str | None:
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "model.safetensors").write_bytes(weights)
        return MeasuredClips(tmp_path, meter.Meter(tmp_path / folder)).key(clip, "words")

    assert key("whisper", b"one") == key("moved", b"one") != key("whisper", b"two")


def test_a_clip_that_goes_or_changes_while_it_is_measured_is_no_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = [write_speaker(tmp_path / "clips", f"clip{index}", seed=0) for index in range(3)]
    measured = meter.read_signals

    def disturbed(sample: Sample, *detector: Any, **options: Any) -> Signals:
        if sample.source == clips[0]:
            clips[1].unlink()
            clips[2].touch()
        return measured(sample, *detector, **options)

    words = [str(tmp_path / "clips"), "--output", str(tmp_path), "--measures", "timing"]
    main(words)
    monkeypatch.setattr(meter, "read_signals", disturbed)
    clips[0].touch()
    main(words)
    rows = json.loads((tmp_path / "report.json").read_text())["rows"]
    assert [row["error"] for row in rows] == [None, None, None]  # what was known before is of the clips of that time
    clips[0].touch()
    monkeypatch.setattr(meter, "read_signals", measured)
    listed = list_clips([tmp_path / "clips"])
    clips[2].unlink()
    rows_now = measure_clips(listed, meter.Meter(), MeasuredClips(tmp_path, meter.Meter()), ["timing"])
    assert [bool(row.error) for row in rows_now] == [False, True]


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


def test_weights_of_another_network_are_refused_before_the_first_clip(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"weight": torch.ones(3)}, tmp_path / "other.pth")
    words = [str(folders[1] / "clip0.mp4"), "--output", str(tmp_path / "report"), "--measures", "syncnet"]
    with pytest.raises(SystemExit):
        main([*words, "--syncnet", str(tmp_path / "other.pth")])
    told = capsys.readouterr().err
    assert "must be the weights of SyncNet, got another network's (no netcnnaud.0.weight" in told
    assert "measuring" not in told
    with pytest.raises(SystemExit):
        main([*words, "--syncnet", str(tmp_path / "none.model")])
    assert "`--syncnet` must be" in capsys.readouterr().err


def test_without_weights_syncnet_is_a_reason_and_with_them_a_clip_too_short_another(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    words = [str(folders[1] / "clip0.mp4"), "--output", str(tmp_path / "report"), "--measures", "syncnet"]
    main(words)
    (row,) = json.loads((tmp_path / "report" / "report.json").read_text())["rows"]
    assert row["cannot_judge"]["syncnet"] == "no weights of SyncNet, which `--syncnet` gives"
    torch.save(SyncNet().state_dict(), tmp_path / "syncnet.model")
    (tmp_path / "clips").mkdir()
    shutil.copy(write_speaker(tmp_path / "said", "clip", seed=0), tmp_path / "clips" / "clip.mp4")
    (tmp_path / "clips" / "clip.boxes.json").write_text(json.dumps([[[22, 20, 42, 30]] * 10 + [None] * 40]))
    (tmp_path / "clips" / "clip.json").write_text("{}")
    words[0] = str(tmp_path / "clips")
    main([*words, "--syncnet", str(tmp_path / "syncnet.model")])
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    (row,) = report["rows"]
    assert "corrected: no face is found in 50 frames of 25 a second with sound" in row["cannot_judge"]["syncnet"]
    assert set(row["values"].values()) == {None}
    assert "crop .40" in report["measures"]["lse_c"]["source"]
    assert "crop .30" in report["measures"]["lse_c_verse_bench"]["source"]


@pytest.mark.parametrize("how", [["--num-processes", "2"], ["--ray"]])
@pytest.mark.filterwarnings("ignore")  # Ray warns about settings of its own
def test_clips_that_processes_share_have_the_numbers_of_one(
    folders: tuple[Path, Path], output: Path, tmp_path: Path, how: list[str]
) -> None:
    ray = pytest.importorskip("ray") if how == ["--ray"] else None
    if ray is not None:
        ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        main([str(folders[0]), "--output", str(tmp_path), *FAST, *how])
    finally:
        if ray is not None:
            ray.shutdown()
    one, shared = (json.loads((folder / "report.json").read_text()) for folder in (output, tmp_path))
    assert shared["rows"] == one["rows"]
    assert shared["left_out"] == one["left_out"]
    assert len((tmp_path / "measured.jsonl").read_text().splitlines()) == len(FAST[1:]) * NUM_CLIPS


def test_the_page_plays_the_sound_that_was_measured(folders: tuple[Path, Path], tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    shutil.copy(folders[1] / "clip0.mp4", clips / "a b.mp4")
    write_audio(clips / "a b.wav", np.zeros((1, 16000), np.float32), 16000)
    main([str(clips), "--output", str(tmp_path / "report"), "--measures", "sound"])
    (row,) = json.loads((tmp_path / "report" / "report.json").read_text())["rows"]
    assert row["sound"] == str(clips / "a b.wav")
    assert row["values"]["silence_share"] == 1
    page = (tmp_path / "report" / "report.html").read_text()
    assert '"sound": "../clips/a%20b.wav"' in page


def test_a_clip_of_sound_alone_has_its_loudness_drawn(tmp_path: Path) -> None:
    swell = np.linspace(0, 0.5, 16000, dtype=np.float32) * np.sin(np.arange(16000, dtype=np.float32))
    write_audio(tmp_path / "a.wav", swell[None], 16000)
    main([str(tmp_path / "a.wav"), "--output", str(tmp_path / "report"), "--measures", "timing", "sound"])
    page = (tmp_path / "report" / "report.html").read_text()
    (held,) = re.findall(r'<script type="application/json" id="report">(.*?)</script>', page, re.DOTALL)
    curve = json.loads(held)["rows"][0]["curves"]["sound"]
    assert len(curve) == 240
    assert np.all(np.diff(curve) > -0.02)
    assert (curve[0], curve[-1]) == (0, 1)


def test_a_clip_with_a_wrong_sidecar_is_a_row_and_the_rest_is_measured(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = tmp_path / "clips"
    shutil.copytree(folders[1], clips)
    (clips / "clip1.json").write_text('{"duration": 3}')
    main([str(clips), "--output", str(tmp_path / "report"), "--measures", "timing"])
    rows = {row["clip"]: row for row in json.loads((tmp_path / "report" / "report.json").read_text())["rows"]}
    assert {name for name, row in rows.items() if row["error"]} == {"clip1"}
    assert "a column must be one of" in rows["clip1"]["error"]
    assert len(rows) == NUM_CLIPS
    told = capsys.readouterr()
    assert "clip1: " in told.err
    assert "not read 1: clip1" in told.out


def test_one_shared_name_of_many_makes_no_pairs(
    folders: tuple[Path, Path], output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in folders[1].iterdir():
        name = path.name if path.name.startswith("clip0") else f"other-{path.name}"
        (tmp_path / name).symlink_to(path)
    main([str(folders[0]), "--against", str(tmp_path), "--output", str(output), *FAST])
    told = f"only 1 of {NUM_CLIPS} clips have the same name on both sides, so the means of all are compared"
    assert told in capsys.readouterr().out
    against = json.loads((output / "report.json").read_text())["against"]
    assert not against["paired"]
    assert against["differences"]["sync_correlation"]["num_pairs"] == 0


def test_a_network_that_fails_while_a_clip_is_read_costs_that_clip(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = meter.read_signals

    def failing(sample: Sample, *detector: Any, **options: Any) -> Signals:
        if sample.source.stem == "clip1":
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        return measured(sample, *detector, **options)

    monkeypatch.setattr(meter, "read_signals", failing)
    main([str(folders[1]), "--output", str(tmp_path), "--measures", "timing"])
    rows = {row["clip"]: row["error"] for row in json.loads((tmp_path / "report.json").read_text())["rows"]}
    assert rows.pop("clip1") == "CUDA out of memory"
    assert set(rows.values()) == {None}
