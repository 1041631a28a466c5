"""Published benchmarks are read as lists, and what is not as published is refused by name."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import PIL.Image
import pytest

from jova_cli.generate import parse


def read(path: Path, benchmark: str) -> Namespace:
    _, args = parse(["--prompts", str(path), "--benchmark", benchmark, "--output", str(path.parent / "clips")])
    return args


def write_item(folder: Path, name: str, **item: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", (8, 8)).save(folder / f"{name}.jpg")
    (folder / f"{name}.json").write_text(json.dumps(item, indent=2))


def test_verse_bench_is_read_from_its_three_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    speech = {"text": "Good morning.", "speaker": "a woman"}
    write_item(
        Path("bench/set1"), "a", video_prompt="A dog.", audio_prompt=["barking", "wind"], speech_prompt={"text": ""}
    )
    write_item(Path("bench/set3"), "b", video_prompt="A woman.", audio_prompt=[], speech_prompt=speech)
    write_item(Path("bench/other"), "c", video_prompt="No row.")
    args = read(Path("bench"), "verse-bench")
    assert not args.refused
    first, second = (row.args for row in args.rows)
    assert (first.video_caption, first.audio_caption, first.transcript) == ("A dog.", "barking, wind", "")
    assert (second.video_caption, second.audio_caption, second.transcript) == ("A woman.", "", "Good morning.")
    assert (first.image, first.output) == (tmp_path / "bench" / "set1" / "a.jpg", Path("clips/a.mp4"))


def test_items_that_are_not_as_published_are_refused_and_the_rest_is_read(tmp_path: Path) -> None:
    for name, item in {
        "1": {"video_prompt": "A dog."},
        "2": {"audio_prompt": ["a"]},
        "3": {"video_prompt": "x"},
    }.items():
        write_item(tmp_path / "bench" / "set2", name, **item)
    (tmp_path / "bench" / "set2" / "3.jpg").unlink()
    write_item(tmp_path / "bench" / "set3", "1", video_prompt="Of the same name.")
    args = read(tmp_path / "bench", "verse-bench")
    assert [row.args.output.name for row in args.rows] == ["1.mp4"]
    reasons = [refusal.reason for refusal in args.refused]
    assert "2.json must have a text `video_prompt`" in reasons[0]
    assert "3.json must have a picture beside it, 3.jpg" in reasons[1]
    assert "`output` must be another for each row" in reasons[2]


def test_javisbench_is_read_in_the_order_of_its_list(tmp_path: Path) -> None:
    path = tmp_path / "JavisBench.csv"
    path.write_text('path,text,audio_text\nx.mp4,"A dog, outside.",barking\ny.mp4,A cat.,\n')
    first, second = (row.args for row in read(path, "javisbench").rows)
    assert (first.output.name, first.video_caption, first.audio_caption) == (
        "sample_0000.mp4",
        "A dog, outside.",
        "barking",
    )
    assert (second.output.name, second.video_caption, second.audio_caption) == ("sample_0001.mp4", "A cat.", "")


@pytest.mark.parametrize(
    ("benchmark", "name", "told"),
    [
        ("verse-bench", "list.csv", "`--prompts` must be an existing folder with `--benchmark verse-bench`"),
        ("javisbench", "empty", "`--prompts` must be an existing .csv file with `--benchmark javisbench`"),
        ("verse-bench", "empty", "`--prompts` must be the folder of Verse-Bench, with set1/*.json"),
        ("javisbench", "list.csv", "must be a list of JavisBench with a column `text`"),
    ],
)
def test_what_is_not_the_benchmark_is_refused(
    tmp_path: Path, benchmark: str, name: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "list.csv").write_text("prompt\na\n")
    with pytest.raises(SystemExit):
        read(tmp_path / name, benchmark)
    assert told in capsys.readouterr().err


def test_a_benchmark_goes_with_a_list(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--benchmark", "verse-bench", "--video-caption", "a", "--output", "a.mp4"])
    assert "`--benchmark` must go with `--prompts`" in capsys.readouterr().err
