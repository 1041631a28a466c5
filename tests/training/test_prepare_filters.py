"""`jova prepare --filter`: clips are dropped by what the evaluation measures, and nothing is measured twice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from diffusers_jova.evaluation import desync, meter, prepared_clips
from diffusers_jova.evaluation.prepared_clips import PreparedClipMeter
from diffusers_jova.media import write_video
from diffusers_jova.training.data import preparation, sharing
from diffusers_jova.training.data.clip_filter import ClipFilter
from diffusers_jova.training.data.manifest import read_samples
from diffusers_jova.training.data.preparation import Preparer, prepare
from diffusers_jova.training.data.summary import Outcome
from diffusers_jova.training.prepare import main
from jova_cli.clip_filters import measures, read_filter
from jova_cli.clip_limits import Bucket
from tests.evaluation.speaking import FRAME_RATE, write_speaker
from tests.prepared_clips import contents, make_preparer
from tests.processes import forkserver


RATE = 16000
TOLD = "`--filter` dropped 4 clips"


def speakers(folder: Path) -> Path:
    """Speakers of whom one is right, and a fault each; with captions."""
    for name in ("right", "late", "quiet", "still", "black"):
        path = write_speaker(folder, name, seed=0, late_s=0.32 if name == "late" else 0.0)
        path.with_suffix(".json").write_text(json.dumps({"video_caption": name}))
    still = np.full((50, 48, 64, 3), 120, np.uint8)
    sound = np.random.default_rng(0).normal(0, 0.1, 2 * RATE).astype(np.float32)
    write_video(folder / "quiet.mp4", np.roll(still, 1) + moving(50), FRAME_RATE, sound * 0.01, RATE)
    write_video(folder / "still.mp4", still, FRAME_RATE, sound, RATE)
    write_video(folder / "black.mp4", moving(50), FRAME_RATE, sound, RATE)
    return folder


def moving(num_frames: int) -> np.ndarray:
    """A small grey square that moves over black."""
    frames = np.zeros((num_frames, 48, 64, 3), np.uint8)
    for index, frame in enumerate(frames):
        frame[24:26, index : index + 3] = 60
    return frames


def recording(folder: Path, levels: Sequence[float], num_frames: int = 9) -> Path:
    """One file of as many clips as levels of its sound, which moves all the time; its caption."""
    folder.mkdir(parents=True, exist_ok=True)
    frames = moving(num_frames * len(levels))[:, 8:40, 16:48]
    sound = np.sin(np.arange(len(frames) * 1000) / 4).astype(np.float32)
    sound *= np.repeat(np.array(levels, np.float32), num_frames * 1000)
    write_video(folder / "a.mp4", frames, 16, sound, RATE)
    (folder / "a.txt").write_text("a square")
    return folder


def filtered(preparer: Preparer, *words: str, unjudged: str = "keep") -> Preparer:
    rules = tuple(read_filter(words))
    groups = tuple(dict.fromkeys(measures()[rule.measure].group for rule in rules))
    clip_filter = ClipFilter(rules, PreparedClipMeter(groups), drops_unjudged=unjudged == "drop")
    return replace(preparer, clip_filter=clip_filter if rules else None)


def starts(outcome: Outcome) -> list[float]:
    return [clip.start_s for clip in outcome.dropped]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Starts of the clips that are measured from now on."""
    found: list[float] = []
    take = PreparedClipMeter.__call__

    def counted(self: PreparedClipMeter, sample: Any, clip: Any, frame_rate: float) -> Any:
        found.append(clip.start_s)
        return take(self, sample, clip, frame_rate)

    monkeypatch.setattr(prepared_clips.PreparedClipMeter, "__call__", counted)
    return found


def test_each_rule_drops_the_clip_that_breaks_it_and_the_summary_has_its_number(
    tmp_path: Path, tiny_pipeline_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = speakers(tmp_path / "clips")
    rules = ["sync_offset_ms=-60..60", "loudness_lufs=-40..", "motion_share=0.001..", "black_share=..0.5"]
    words = [str(source), str(tmp_path / "out"), "--model", str(tiny_pipeline_folder), "--device", "cpu"]
    words += ["--buckets", "49x32x32", "--frame-rate", "25", "--filter", *rules]
    (Path(words[0]) / "lost.txt").write_text("x")
    main([*words, "--filter-report"])
    report = json.loads((tmp_path / "out" / "filter_report.json").read_text())
    assert not list((tmp_path / "out").rglob("*.safetensors"))
    said = capsys.readouterr().out
    assert "sync_offset_ms=-60..60 would drop 1 of 5 clips" in said
    assert "not read 1: lost.txt" in said
    (Path(words[0]) / "lost.txt").unlink()
    main(words)
    said = capsys.readouterr().out
    summary = json.loads((tmp_path / "out" / "prepare.json").read_text())
    dropped = {Path(clip["source"]).stem: clip["dropped"] for clip in summary["clips"]}
    broken = {
        name: {breach["measure"]: breach["value"] for clip in clips for breach in clip["breaches"]}
        for name, clips in dropped.items()
    }
    assert {name: set(measured) for name, measured in broken.items()} == {
        "right": set(),
        "late": {"sync_offset_ms"},
        "quiet": {"loudness_lufs"},
        "still": {"motion_share"},
        "black": {"black_share"},
    }
    assert broken["late"]["sync_offset_ms"] == pytest.approx(-320, abs=10)
    assert TOLD in said
    assert f"late.mp4 at 0.0 s: sync_offset_ms is {broken['late']['sync_offset_ms']:.4g}, not -60..60" in said
    assert summary["filter"] == {"rules": dict(rule.split("=") for rule in rules), "unjudged": "keep"}
    assert report["num_dropped"] == 4
    assert report["dropped_by"] == dict.fromkeys(summary["filter"]["rules"], 1)
    reported = {Path(clip["file"]).stem: clip for clip in report["clips"]}
    for name, values in broken.items():
        assert {b["measure"]: b["value"] for b in reported[name]["dropped_for"]} == values
    histogram = report["measures"]["black_share"]
    assert sum(histogram["counts"]) == histogram["num_judged"] == 5
    assert len(histogram["edges"]) == len(histogram["counts"]) + 1
    assert [path.name.split("-")[0] for path in (tmp_path / "out").glob("*.safetensors")] == ["right"]


def test_clips_of_one_recording_are_dropped_alone_and_a_rerun_measures_and_encodes_nothing(
    tmp_path: Path, tiny_pipeline_folder: Path, measured: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = read_samples(recording(tmp_path / "clips", [0.5, 0, 0.5, 0]))
    plain = make_preparer(tiny_pipeline_folder, tmp_path / "out", cut="all")
    (outcome,) = prepare(samples, filtered(plain, "silence_share=..0.5"))
    assert (outcome.status, outcome.num_records, starts(outcome)) == ("kept", 2, [9 / 16, 27 / 16])
    assert outcome.unused_s == {"dropped by `--filter`": pytest.approx(18 / 16)}
    assert measured == [0, 9 / 16, 18 / 16, 27 / 16]
    headers = [header for name, (header, _) in contents(tmp_path / "out").items() if name.startswith("a-")]
    assert [float(header["start_s"]) for header in headers] == [0, 18 / 16]
    before = contents(tmp_path / "out")
    monkeypatch.setattr(preparation, "read_recording", None)  # nothing is read
    (again,) = prepare(samples, filtered(plain, "silence_share=..0.5"))
    assert again == outcome._replace(status="done")
    (looser,) = prepare(samples, filtered(plain, "silence_share=..0.9"))
    assert looser.status == "done"
    (none,) = prepare(samples, filtered(plain, "silence_share=0.999999..0.9999999"))
    assert (none.status, none.note) == ("skipped", "`--filter` keeps none of its 4 clips: silence_share (4)")
    assert len(none.dropped) == 4
    assert none.length_s == outcome.length_s == pytest.approx(36 / 16)  # in "used 0 of 2.2 s", though nothing is read
    assert not list((tmp_path / "out").glob("*.safetensors"))
    monkeypatch.undo()
    (other,) = prepare(samples, filtered(plain, "silence_share=..0.5"))
    assert other.status == "kept"
    assert len(measured) == 4  # the first time
    assert contents(tmp_path / "out") == before


def test_a_folder_takes_other_rules_or_none_as_if_it_were_new(tmp_path: Path, tiny_pipeline_folder: Path) -> None:
    samples = read_samples(recording(tmp_path / "clips", [0.5, 0, 0.5, 0.001]))
    fresh: dict[tuple[str, ...], Any] = {}
    walks: list[tuple[str, ...]] = [(), ("silence_share=..0.5",), ("loudness_lufs=-30..", "silence_share=..0.5"), ()]
    for number, words in enumerate(walks):
        output = tmp_path / f"fresh{number}"
        prepare(samples, filtered(make_preparer(tiny_pipeline_folder, output, cut="all"), *words))
        fresh[words] = contents(output)
    for words in [*walks, *reversed(walks)]:
        prepare(samples, filtered(make_preparer(tiny_pipeline_folder, tmp_path / "out", cut="all"), *words))
        assert contents(tmp_path / "out") == fresh[words]
        summary = json.loads((tmp_path / "out" / "prepare.json").read_text())
        assert list(summary.get("filter", {}).get("rules", {})) == [word.split("=")[0] for word in words]


def test_measures_are_taken_where_the_encoders_run(tmp_path: Path, tiny_pipeline_folder: Path) -> None:
    preparer = replace(make_preparer(tiny_pipeline_folder, tmp_path / "out"), device="meta")
    clip_filter = filtered(preparer, "silence_share=..0.5")._filtered._filter
    assert clip_filter is not None
    assert isinstance(clip_filter.meter, PreparedClipMeter)
    assert clip_filter.meter.device == "meta"


def test_records_that_all_pass_are_not_encoded_again_for_a_new_filter(
    tmp_path: Path, tiny_pipeline_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = read_samples(recording(tmp_path / "clips", [0.5, 0.4]))
    plain = make_preparer(tiny_pipeline_folder, tmp_path / "out", cut="all")
    prepare(samples, plain)
    monkeypatch.setattr(Preparer, "_encode", None)
    (outcome,) = prepare(samples, filtered(plain, "silence_share=..0.5"))
    assert (outcome.status, outcome.num_records) == ("done", 2)


def test_a_run_that_dies_while_it_drops_is_never_taken_for_done(
    tmp_path: Path, tiny_pipeline_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = read_samples(recording(tmp_path / "clips", [0, 0.5, 0.5]))
    plain = make_preparer(tiny_pipeline_folder, tmp_path / "out", cut="all")
    prepare(samples, plain)
    before = contents(tmp_path / "out")
    write = preparation.write_record

    def dies(path: Path, *rest: Any) -> None:
        if path.stem.endswith("-001"):
            raise KeyboardInterrupt
        write(path, *rest)

    monkeypatch.setattr(preparation, "write_record", dies)
    with pytest.raises(KeyboardInterrupt):
        prepare(samples, filtered(plain, "silence_share=..0.5"))
    monkeypatch.undo()
    (outcome,) = prepare(samples, replace(plain))
    assert outcome.status == "kept"
    assert contents(tmp_path / "out") == before


def test_several_processes_drop_what_one_drops(
    tmp_path: Path, tiny_pipeline_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "multiprocessing", SimpleNamespace(get_context=forkserver))
    for name in ("x", "y"):
        recording(tmp_path / "clips" / name, [0.5, 0, 0.5])
    samples = read_samples(tmp_path / "clips")
    found = []
    for number in (1, 2):
        preparer = make_preparer(tiny_pipeline_folder, tmp_path / f"out{number}", cut="all")
        outcomes = prepare(samples, filtered(preparer, "silence_share=..0.5"), number)
        lines = (preparer.output / "measured.jsonl").read_text().splitlines()
        found.append((sorted(outcomes), sorted(lines), contents(preparer.output)))
    assert found[0] == found[1]
    assert len(found[0][1]) == 2


def test_a_ray_cluster_drops_what_one_process_drops(tmp_path: Path, tiny_pipeline_folder: Path) -> None:
    pytest.importorskip("ray")
    samples = read_samples(recording(tmp_path / "clips", [0.5, 0, 0.5]))
    found = []
    for use_ray in (False, True):
        preparer = make_preparer(tiny_pipeline_folder, tmp_path / f"out{use_ray}", cut="all")
        prepare(samples, filtered(preparer, "silence_share=..0.5"), use_ray=use_ray)
        found.append(contents(preparer.output))
    assert found[0] == found[1]


def test_what_a_measure_cannot_judge_is_kept_or_dropped_and_what_it_does_not_apply_to_is_kept(
    tmp_path: Path, tiny_pipeline_folder: Path
) -> None:
    source = recording(tmp_path / "clips", [0.5])  # nobody is seen
    PIL.Image.fromarray(np.full((32, 32, 3), 99, np.uint8)).save(source / "photo.png")
    (source / "photo.txt").write_text("grey")
    samples = read_samples(source)
    buckets = (Bucket(9, 32, 32), Bucket(1, 32, 32))
    for unjudged, kept in {"keep": ["a.mp4", "photo.png"], "drop": ["photo.png"]}.items():
        plain = make_preparer(tiny_pipeline_folder, tmp_path / unjudged)
        plain = replace(plain, settings=replace(plain.settings, clips=replace(plain.settings.clips, buckets=buckets)))
        outcomes = prepare(
            samples, filtered(plain, "sync_offset_ms=-60..60", "loudness_lufs=-40..", unjudged=unjudged)
        )
        assert sorted(Path(outcome.source).name for outcome in outcomes if outcome.num_records) == kept
    (breach,) = next(outcome.dropped[0].breaches for outcome in outcomes if outcome.dropped)
    assert str(breach) == "sync_offset_ms cannot be judged (no face)"
    black = filtered(plain, "black_share=0.5..")
    assert [Path(o.source).name for o in prepare(samples, black) if o.dropped] == ["photo.png"]


def test_desync_is_measured_anew_by_other_weights_alone_and_what_it_cannot_judge_has_its_reason(
    tmp_path: Path,
    tiny_pipeline_folder: Path,
    measured: list[float],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(meter, "read_synchformer", lambda path, _device: float(path.read_text()))
    monkeypatch.setattr(desync, "offset_s", lambda _frames, _sound, _first, told_s: told_s)
    recording(tmp_path / "clips" / "long", [0.5], num_frames=81)
    recording(tmp_path / "clips" / "short", [0.5], num_frames=17)
    weights = tmp_path / "weights.pth"
    words = [str(tmp_path / "clips"), str(tmp_path / "out"), "--model", str(tiny_pipeline_folder), "--device", "cpu"]
    words += ["--buckets", "81x32x32", "17x32x32", "--frame-rate", "16", "--no-mouth"]
    words += ["--filter", "desync_s=..0.5", "--synchformer", str(weights)]
    kept, counts = [], []
    for told, *more in (("1.0", "--filter-report"), ("1.0",), ("0.2",), ("0.2",), ("0.2", "--unjudged", "drop")):
        weights.write_text(told)
        main([*words, *more])
        counts.append(len(measured))
        kept.append(sorted(path.parent.name for path in recorded(tmp_path / "out")))
        said = capsys.readouterr().out
        if more == ["--filter-report"]:
            assert "desync_s (sound and picture apart (DeSync), s): 1 clips" in said
            assert "cannot be judged in 1: less than 4.8 s of picture and sound" in said
            assert "desync_s=..0.5 would drop 1 of 2 clips" in said
        elif told == "1.0":
            assert "desync_s is 1, not ..0.5" in said
    assert kept == [[], ["short"], ["long", "short"], ["long", "short"], ["long"]]
    assert counts == [2, 2, 4, 4, 4]
    assert "desync_s cannot be judged (less than 4.8 s of picture and sound)" in said


def recorded(folder: Path) -> list[Path]:
    """Files that records were made of."""
    summary = folder / "prepare.json"
    clips = json.loads(summary.read_text())["clips"] if summary.exists() else []
    return [Path(clip["source"]) for clip in clips if clip["num_records"]]


def test_the_preset_tells_what_it_leaves_out_for_want_of_networks_and_another_network_is_refused(
    tmp_path: Path, tiny_pipeline_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recording(tmp_path / "clips", [0.5])
    words = [str(tmp_path / "clips"), str(tmp_path / "out"), "--model", str(tiny_pipeline_folder), "--device", "cpu"]
    words += ["--buckets", "9x32x32", "--frame-rate", "16", "--no-mouth", "--filter", "mova"]
    main(words)
    told = "`--filter mova` leaves out, for want of a network: audiobox_pq=5.. audiobox_cu=4.5.. audiobox_ce=2.5.. "
    assert told in capsys.readouterr().out
    assert list(json.loads((tmp_path / "out" / "prepare.json").read_text())["filter"]["rules"]) == ["silence_share"]
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(SystemExit):
        main([*words, "--synchformer", str(tmp_path / "other.pth")])
    assert "must be the weights of Synchformer, got another network's" in capsys.readouterr().err


def test_half_a_line_and_another_file_are_measured_again(
    tmp_path: Path, tiny_pipeline_folder: Path, measured: list[float]
) -> None:
    source = recording(tmp_path / "clips", [0.5, 0])
    plain = make_preparer(tiny_pipeline_folder, tmp_path / "out", cut="all")
    prepare(read_samples(source), filtered(plain, "silence_share=..0.5"))
    lines = tmp_path / "out" / "measured.jsonl"
    lines.write_text(lines.read_text()[:-20])
    prepare(read_samples(source), filtered(plain, "silence_share=..0.5"))
    assert len(measured) == 4
    recording(tmp_path / "clips", [0, 0.5])
    (outcome,) = prepare(read_samples(source), filtered(plain, "silence_share=..0.5"))
    assert len(measured) == 6
    assert starts(outcome) == [0]
