"""Published benchmarks are read as lists, and what is not as published is refused by name."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from diffusers_jova.media import write_audio
from jova_cli.generate import parse


def read(path: Path, benchmark: str | None = None) -> Namespace:
    words = ["--prompts", str(path), "--output", str(path.parent / "clips")]
    _, args = parse([*words, *(["--benchmark", benchmark] if benchmark else [])])
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


def write_speaker(folder: Path, name: str, prompt: str, *suffixes: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.txt").write_text(prompt)
    for suffix in suffixes:
        if suffix == ".wav":
            write_audio(folder / f"{name}.wav", np.full((1, 16000), 0.1, np.float32), 16000)
        else:
            PIL.Image.new("RGB", (8, 8)).save(folder / f"{name}{suffix}")


def test_a_folder_of_speakers_is_a_list_with_portraits_and_voices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    voices: list[object] = []
    monkeypatch.setattr("jova_cli.generate.read_index", lambda _path: {"max_reference_s": voices[0]})
    voices.append(5.0)
    monkeypatch.chdir(tmp_path)
    write_speaker(Path("bench"), "anna", "A woman.\n<S>Hello.<E>\n", ".png", ".wav")
    write_speaker(Path("bench"), "bert", "A man.", ".JPG")
    args = read(Path("bench"))
    assert not args.refused
    anna, bert = (row.args for row in args.rows)
    assert anna.prompt == "A woman.\n<S>Hello.<E>"
    assert (anna.image, anna.reference_audio) == (tmp_path / "bench" / "anna.png", tmp_path / "bench" / "anna.wav")
    assert (anna.output, bert.output) == (Path("clips/anna.mp4"), Path("clips/bert.mp4"))
    assert (bert.image, bert.reference_audio) == (tmp_path / "bench" / "bert.JPG", None)
    assert [row.args for row in read(Path("bench"), "uniavatar").rows] == [anna, bert]
    assert "left out" not in capsys.readouterr().err
    voices[0] = None
    silent, _ = read(Path("bench")).rows
    assert (silent.args.reference_audio, silent.args.image) == (None, anna.image)
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("the voices of bench are left out: ")


def test_speakers_with_two_portraits_with_other_files_or_without_a_prompt_are_refused_by_name(tmp_path: Path) -> None:
    write_speaker(tmp_path / "bench", "good", "A man.")
    write_speaker(tmp_path / "bench", "two", "A man.", ".png", ".jpg")
    write_speaker(tmp_path / "bench", "more", "A man.")
    (tmp_path / "bench" / "more.json").write_text("{}")
    write_speaker(tmp_path / "bench", "empty", " \n")
    args = read(tmp_path / "bench")
    assert [row.args.output.name for row in args.rows] == ["good.mp4"]
    empty, more, two = (refusal.reason for refusal in args.refused)
    assert "empty.txt must hold a prompt, got nothing" in empty
    assert "more.txt must have a picture and a voice beside it, got more.json" in more
    (tmp_path / "bench" / "more.json").rename(tmp_path / "bench" / "more.csv")
    (_, more, _) = (refusal.reason for refusal in read(tmp_path / "bench").refused)
    assert more.endswith(f"got more.csv; name {tmp_path / 'bench' / 'more.csv'} if that is the list, or remove it")
    assert "two.txt must have one `image` beside it, got" in two


@pytest.mark.parametrize(
    ("benchmark", "name", "told"),
    [
        ("verse-bench", "list.csv", "`--prompts` must be an existing folder with `--benchmark verse-bench`"),
        ("javisbench", "empty", "`--prompts` must be an existing .csv file with `--benchmark javisbench`"),
        ("verse-bench", "empty", "`--prompts` must be the folder of Verse-Bench, with set1/*.json"),
        ("javisbench", "list.csv", "must be a list of JavisBench with a column `text`"),
        (None, "empty", "must be a list, or a folder with a .txt for each clip, got"),
        ("uniavatar", "list.csv", "`--prompts` must be an existing folder with `--benchmark uniavatar`"),
    ],
)
def test_what_is_not_the_benchmark_is_refused(
    tmp_path: Path, benchmark: str | None, name: str, told: str, capsys: pytest.CaptureFixture[str]
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
