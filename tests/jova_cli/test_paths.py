"""Every option that takes a path, in every command: what cannot be read or written is refused in one sentence."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from diffusers_jova.media import write_video
from jova_cli.main import main
from tests.tiny_training import MODEL, write_clips


GENERATE = "generate --model {model} --prompt a --steps 1 --output {new}.mp4"
CLIPS = "{clips} {new} --model {model} --no-mouth"
TRAIN = "train --config smoke model={config} data={records} output_dir={new}"
LORA = "train-lora {records} {new} --model {config} steps=1"
STUDENT = "distill {records} {new} --model {model} steps=1"
CONVERT = "convert wan {file} {new}"
WORDS = {  # option: the command with every other word right, and what there may be in its place
    "generate --model": (GENERATE.replace("{model}", "{path}"), "folder"),
    "generate --image": (f"{GENERATE} --image {{path}}", "file"),
    "generate --audio": (f"{GENERATE} --audio {{path}}", "file"),
    "generate --video": (f"{GENERATE} --video {{path}}", "file"),
    "generate --lora": (f"{GENERATE} --lora {{path}}", "either"),
    "generate --output": (GENERATE.replace("{new}.mp4", "{path}"), "new file"),
    "demo --model": ("demo --model {path} --output {new}.mp4", "folder"),
    "demo --output": ("demo --model {model} --output {path}", "new file"),
    "info": ("info {path}", "folder"),
    "estimate": ("estimate {path}", "folder"),
    "prepare source": (f"prepare {CLIPS}".replace("{clips}", "{path}"), "either"),
    "prepare output": (f"prepare {CLIPS}".replace("{new}", "{path}"), "new folder"),
    "prepare --model": (f"prepare {CLIPS}".replace("{model}", "{path}"), "folder"),
    "prepare --whisper": (f"prepare {CLIPS} --whisper {{path}}", "folder"),
    "prepare --face-landmarker-path": (
        f"prepare {CLIPS} --face-landmarker-path {{path}}".replace(" --no-mouth", ""),
        "file",
    ),
    "preview source": (f"preview {CLIPS}".replace("{clips}", "{path}"), "either"),
    "preview output": (f"preview {CLIPS}".replace("{new}", "{path}"), "new folder"),
    "preview --model": (f"preview {CLIPS}".replace("{model}", "{path}"), "folder"),
    "preview --whisper": (f"preview {CLIPS} --whisper {{path}}", "folder"),
    "train --config": (TRAIN.replace("smoke", "{path}"), "file"),
    "train model": (TRAIN.replace("{config}", "{path}"), "either"),
    "train data": (TRAIN.replace("{records}", "{path}"), "folder"),
    "train prior_data": (f"{TRAIN} prior_data={{path}} prior_probability=0.5", "folder"),
    "train pipeline": (f"{TRAIN} pipeline={{path}} validate_every=1 validation_prompts=[a]", "folder"),
    "train output_dir": (TRAIN.replace("{new}", "{path}"), "new folder"),
    "train-lora data": (LORA.replace("{records}", "{path}"), "folder"),
    "train-lora output_dir": (LORA.replace("{new}", "{path}"), "new folder"),
    "train-lora --model": (LORA.replace("{config}", "{path}"), "either"),
    "train-lora --config": (f"{LORA} --config {{path}}", "file"),
    "train-lora --init-adapter": (f"{LORA} --init-adapter {{path}}", "either"),
    "distill data": (STUDENT.replace("{records}", "{path}"), "folder"),
    "distill output_dir": (STUDENT.replace("{new}", "{path}"), "new folder"),
    "distill --model": (STUDENT.replace("{model}", "{path}"), "either"),
    "distill --config": (f"{STUDENT} --config {{path}}", "file"),
    "presets": ("presets {path}", "file"),
    "assemble output": ("assemble {path} {model}", "new folder"),
    "assemble source": ("assemble {new} {path}", "folder"),
    "assemble component": ("assemble {new} {model} vae={path}", "folder"),
    "convert source": (CONVERT.replace("{file}", "{path}"), "either"),
    "convert output": (CONVERT.replace("{new}", "{path}"), "new folder"),
    "convert --components": (f"{CONVERT} --components {{path}}", "either"),
}
STATES = {  # what stands at a path, by what there may be
    "file": ("missing", "a folder", "forbidden", "empty", "text"),
    "folder": ("missing", "a file", "forbidden", "an empty folder"),
    "either": ("missing", "forbidden", "empty", "text", "an empty folder"),
    "new file": ("in no folder", "a folder", "below a file", "in a forbidden folder", "text", "too long"),
    "new folder": ("a file", "below a file", "in a forbidden folder"),
}
CASES = [(option, state) for option, (_, kind) in WORDS.items() for state in STATES[kind]]
ALLOWED = {  # what is no mistake
    ("presets", "forbidden"),  # only named, never read
    ("presets", "empty"),
    ("presets", "text"),
    ("assemble source", "an empty folder"),
    ("demo --output", "in no folder"),  # which is made
    ("generate --output", "in no folder"),  # likewise
}


def put(folder: Path, state: str) -> Path:
    """Make what a state says, and return the path that a command is given."""
    path = folder / "given.x"
    if state in ("a folder", "an empty folder"):
        path.mkdir()
    elif state in ("a file", "text", "forbidden"):
        path.write_text("neither media nor weights")
    elif state == "empty":
        path.touch()
    elif state == "below a file":
        path.touch()
        return path / "below.mp4"
    elif state == "too long":
        return folder / f"{'n' * 240}.mp4"
    elif state == "in no folder":
        return folder / "nowhere" / "given.mp4"
    elif state == "in a forbidden folder":
        (folder / "locked").mkdir()
        (folder / "locked").chmod(0)
        return folder / "locked" / "given.mp4"
    if state == "forbidden":
        (folder / "locked").mkdir()
        path = path.rename(folder / "locked" / "given.x")
        path.parent.chmod(0)
    return path


@pytest.fixture(scope="module")
def is_privileged(tmp_path_factory: pytest.TempPathFactory) -> bool:
    """Whether nothing is forbidden to who runs the tests, as to root."""
    folder = tmp_path_factory.mktemp("locked")
    folder.chmod(0)
    return os.access(folder, os.W_OK)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, tiny_pipeline_folder: Path) -> dict[str, Path]:
    """What the other words of a command name."""
    folder = tmp_path_factory.mktemp("places")
    (folder / "clips").mkdir()
    write_video(folder / "clips" / "a.mp4", np.zeros((9, 32, 32, 3), np.uint8), 16)
    (folder / "clips" / "a.txt").write_text("a clip")
    (folder / "config.json").write_text(json.dumps(MODEL))
    (folder / "file.safetensors").write_bytes(b"")
    write_clips(folder / "records")
    return {
        "model": tiny_pipeline_folder,
        "clips": folder / "clips",
        "config": folder / "config.json",
        "records": folder / "records",
        "file": folder / "file.safetensors",
    }


@pytest.mark.parametrize(("option", "state"), CASES, ids=[f"{option}: {state}" for option, state in CASES])
def test_what_cannot_be_read_or_written_is_refused_in_one_sentence(
    option: str,
    state: str,
    places: dict[str, Path],
    is_privileged: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if is_privileged and "forbidden" in state:
        pytest.skip("nothing is forbidden to root")
    monkeypatch.chdir(tmp_path)
    words, _ = WORDS[option]
    path = put(tmp_path, state)
    if (option, state) in ALLOWED:
        pytest.skip("no mistake")
    before = sorted(tmp_path.iterdir())
    given = words.format(**places, new=tmp_path / "new", path=path).split()
    try:
        with pytest.raises(SystemExit) as ended:
            main(given)
    finally:
        for locked in tmp_path.glob("locked"):
            locked.chmod(0o700)
    lines = [line for line in capsys.readouterr().err.splitlines() if "it/s" not in line and line.strip()]
    assert ended.value.code == 2, lines
    assert len(lines) == 1, lines
    assert re.match(rf"jova {given[0]}: .*(must|could not)", lines[0]), lines[0]
    assert "[Errno" not in lines[0].split(": ", 1)[1][:8], lines[0]
    assert sorted(tmp_path.iterdir()) == before
