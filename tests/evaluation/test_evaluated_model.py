"""A model in place of clips: it makes those of a list first, which are then measured, and once."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from diffusers_jova.evaluation.evaluate import main
from jova_cli.evaluate import parse
from jova_cli.evaluated_model import is_model


SHORT = {"steps": 1, "height": 32, "width": 32, "num_frames": 5}
ROWS = [
    {"prompt": "a man <S>one<E>", "seed": 1, "output": "one.mp4"},
    {"prompt": "a dog", "seed": 2, "output": "two.mp4"},
]


def write_list(folder: Path, *more: dict[str, object]) -> Path:
    path = folder / "list.jsonl"
    path.write_text("".join(json.dumps({**SHORT, **row}) + "\n" for row in (*ROWS, *more)))
    return path


def refusal(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        parse(words)
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_the_clips_of_a_model_are_made_once_and_measured_with_what_was_asked_for(
    tiny_pipeline_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = write_list(tmp_path, {"prompt": "a cat", "seeed": 3})
    report = tmp_path / "report"
    words = [str(tiny_pipeline_folder), "--prompts", str(rows), "--output", str(report), "--device", "cpu"]
    words += ["--measures", "timing", "picture"]
    main(words)
    told = capsys.readouterr()
    assert "made 2, there already 0, refused 1" in told.out
    assert "did you mean `seed`" in told.err
    written = json.loads((report / "report.json").read_text())
    assert [row["clip"] for row in written["rows"]] == ["one", "two", "list.jsonl, line 3"]
    assert "did you mean `seed`" in written["rows"][2]["error"]
    assert told.err.count("did you mean `seed`") == 1
    assert written["sources"] == [str(tiny_pipeline_folder)]
    assert written["settings"]["words"] == {"prompts": str(rows)}
    assert written["settings"]["versions"]["torch"]
    assert written["summary"]["motion_share"]["count"] == 2

    (report / "clips" / "two.mp4").rename(report / "clips" / "stale.mp4")  # no clip of the list
    main(words)
    assert "made 1, there already 1, refused 1" in capsys.readouterr().out
    again = json.loads((report / "report.json").read_text())
    assert [row["clip"] for row in again["rows"]] == ["one", "two", "list.jsonl, line 3"]
    assert again["rows"][0]["values"] == written["rows"][0]["values"]


def test_a_model_without_prompts_and_options_without_a_model_are_refused(
    tiny_pipeline_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, rows = str(tiny_pipeline_folder), str(write_list(tmp_path))
    (tmp_path / "clip.mp4").write_bytes(b"not looked into")
    clip = str(tmp_path / "clip.mp4")
    assert f"`--prompts` must say what the model {model} makes, got none" in refusal([model], capsys)
    assert "a model must be evaluated alone, got" in refusal([model, clip, "--prompts", rows], capsys)
    assert "`--lora` must go with a model, got clips" in refusal([clip, "--lora", "a"], capsys)
    assert "`--seed` must go with a model, got clips" in refusal([clip, "--seed", "0"], capsys)
    (tmp_path / "list.jsonl").write_text('{"prompt": "a", "seeed": 3}\n')
    error = refusal([model, "--prompts", rows], capsys)
    assert "must hold a row of which a clip can be made" in error
    assert "did you mean `seed`" in error
    error = refusal([model, "--prompts", str(write_list(tmp_path)), "--lora", str(tmp_path / "none")], capsys)
    assert "`--lora` must be an existing path" in error
    assert "line 1" not in error


def test_clips_that_were_made_with_other_settings_are_not_measured_as_those_of_now(
    tiny_pipeline_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report"
    words = [str(tiny_pipeline_folder), "--prompts", str(write_list(tmp_path)), "--output", str(report)]
    words += ["--device", "cpu", "--measures", "timing"]
    main(words)
    (tmp_path / "list.jsonl").write_text(
        "".join(json.dumps({**SHORT, **ROWS[n], "steps": 1 + n}) + "\n" for n in (0, 1))
    )
    main(words)
    assert "made 0, there already 1, refused 1" in capsys.readouterr().out
    rows = json.loads((report / "report.json").read_text())["rows"]
    assert {row["clip"]: bool(row["error"]) for row in rows} == {"one": False, "list.jsonl, line 2": True}
    before = (report / "report.json").read_text()
    (tmp_path / "list.jsonl").write_text("".join(json.dumps({**SHORT, **row, "steps": 3}) + "\n" for row in ROWS))
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert "must be made with the present settings, got `steps` 1 there, 3 here" in told
    assert "must make a clip of" in told
    assert (report / "report.json").read_text() == before


def test_what_is_refused_is_refused_before_a_clip_is_made(
    tiny_pipeline_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "voice.wav").write_bytes(b"no sound")
    words = [str(tiny_pipeline_folder), "--prompts", str(write_list(tmp_path)), "--output", str(tmp_path / "report")]
    for more in (
        ["--protocol", "mova", "--voice", str(tmp_path / "voice.wav")],
        ["--voice", str(tmp_path / "voice.wav")],
    ):
        with pytest.raises(SystemExit) as ended:
            main([*words, *more])
        assert ended.value.code == 2
        assert "made" not in capsys.readouterr().out
    assert not (tmp_path / "report" / "clips").exists()


def test_a_sound_that_the_model_makes_is_no_sound_track_of_another_clip(
    tiny_pipeline_folder: Path, tmp_path: Path
) -> None:
    rows = write_list(tmp_path, {"prompt": "a cat", "modalities": ["audio"], "seed": 3, "output": "one.wav"})
    words = [str(tiny_pipeline_folder), "--prompts", str(rows), "--output", str(tmp_path / "report")]
    main([*words, "--device", "cpu", "--measures", "timing"])
    made = json.loads((tmp_path / "report" / "report.json").read_text())["rows"]
    assert [Path(row["file"]).name for row in made] == ["one.mp4", "two.mp4", "one.wav"]
    assert not any("sound" in row for row in made)


def test_rows_with_adapters_of_their_own_are_counted(
    tiny_pipeline_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("given", "own"):
        adapter = {"transformer.a.lora_A.weight": torch.zeros(1, 1), "transformer.a.lora_B.weight": torch.zeros(1, 1)}
        save_file(adapter, tmp_path / f"{name}.safetensors")
    rows = write_list(tmp_path, {"prompt": "a cat", "lora": str(tmp_path / "own.safetensors")})
    parse([str(tiny_pipeline_folder), "--prompts", str(rows), "--lora", str(tmp_path / "given.safetensors")])
    assert f"1 of 3 rows of {rows} have adapters of their own in place of `--lora`" in capsys.readouterr().err


def test_what_ships_is_a_model_by_its_name_and_a_folder_of_clips_is_none(tmp_path: Path) -> None:
    assert is_model(Path("jova-tiny"))
    assert not is_model(tmp_path)


@pytest.mark.parametrize("language", ["english", "EN", "en-US", ""])
def test_a_language_is_a_code(language: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "clip.wav").write_bytes(b"not looked into")
    error = refusal([str(tmp_path / "clip.wav"), "--language", language], capsys)
    assert f"`--language` must be a code of two or three small letters, got {language}; write" in error
