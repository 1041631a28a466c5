"""Clips of a list: each equals its single call, is made once, and is whole, whatever ends a run."""

import json
import logging
import os
import re
import resource
import signal
import subprocess
import sys
import warnings
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from torch import distributed

from diffusers_jova import media, media_writing
from diffusers_jova.clip_folder import FILES, LIST, WORK, ClipMaker, Task, task_of
from diffusers_jova.folder_lock import held_alone
from diffusers_jova.provenance import read_provenance
from jova_cli.main import main
from jova_cli.prompt_list import Row
from tests.command_words import replaced
from tests.places import ROOT
from tests.processes import start
from tests.terminal import OnTerminal


# Between two processes or two batch sizes. An H.264 picture is quantised: a value that rounds differently moves its
# block by less than a step of crf 18. AAC puts noise in the place of noise, so that sound is compared in a .wav,
# where the 2e-5 by which float32 rounds the latents have grown in the codec.
GREY_LEVELS = 1.0  # on average
SAMPLE_STEP, ROUND_OFF = 2**-15, 1e-3  # of full scale; of the loudest sample
SHORT = ["--steps", "1", "--height", "32", "--width", "32", "--num-frames", "5"]


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def make(model: Path | str, rows: Path, folder: Path, *more: str, code: int = 0) -> None:
    """Run the command on a list; `code` is its exit status."""
    words = ["generate", "--model", str(model), "--prompts", str(rows), "--output", str(folder), *more]
    if code == 0:
        main(words)
        return
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == code


def records(folder: Path) -> dict[str, Any]:
    lines = [json.loads(line) for line in (folder / LIST).read_text().splitlines()]
    by_name = {line["output"]: line for line in lines}
    assert len(by_name) == len(lines)
    return by_name


@pytest.fixture
def lossless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files hold the bits of the pipeline: libx264 does not code the same small frames alike every time."""
    add = media_writing._add_video_stream
    monkeypatch.setattr(
        media_writing,
        "_add_video_stream",
        lambda container, frames, rate, options: add(container, frames, rate, {**options, "crf": "0"}),
    )


def content(path: Path) -> list[np.ndarray]:
    """Frames, if it has any, and sound of a clip."""
    if path.suffix == ".wav":
        return [media.read_audio(path)[0]]
    clip = media.read_video(path)
    assert clip.audio is not None
    return [clip.frames, clip.audio]


def assert_same(one: Path, other: Path) -> None:
    for left, right in zip(content(one), content(other), strict=True):
        assert np.array_equal(left, right)


def assert_close(one: Path, other: Path) -> None:
    (left, *sounds), (right, *others) = content(one), content(other)
    assert left.shape == right.shape
    if one.suffix == ".wav":
        peak = np.abs(left).max()
        assert peak > 8 * SAMPLE_STEP
        assert np.abs(left - right).max() < 2 * SAMPLE_STEP + ROUND_OFF * peak
    else:
        assert np.abs(left.astype(float) - right).mean() < GREY_LEVELS
        assert [sound.shape for sound in sounds] == [sound.shape for sound in others]


def seeded_rows(count: int) -> list[dict[str, Any]]:
    """Rows of several seeds, the first of them of sound alone."""
    rows: list[dict[str, Any]] = [
        {"prompt": f"a cartoon dog {seed}", "seed": seed, "output": f"{seed}.mp4"} for seed in range(1, count)
    ]
    return [{"prompt": "a cartoon dog", "seed": 0, "output": "0.wav", "modalities": ["audio"]}, *rows]


def names_of(rows: Iterable[dict[str, Any]]) -> set[str]:
    return {str(row["output"]) for row in rows}


def clips(folder: Path) -> set[str]:
    """Every file that is there, but for the list."""
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return files - {LIST}


@pytest.mark.usefixtures("lossless")
def test_every_row_equals_its_single_call(tiny_pipeline_folder: Path, tmp_path: Path) -> None:
    PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)).save(tmp_path / "face.png")
    media.write_audio(tmp_path / "voice.wav", np.sin(np.arange(5000) / 9).astype(np.float32) / 2, 16000)
    rows = [
        {"output": "dog.mp4", "prompt": "a dog", "seed": 1},
        {"output": "deep/rain.wav", "audio_caption": "rain", "modalities": ["audio"], "seed": 2, "num_frames": 9},
        {"output": "man.mp4", "video_caption": "a man", "transcript": "hello", "image": "face.png", "seed": 3},
        {"output": "sung.mp4", "prompt": "a man", "audio": "voice.wav", "seed": 4, "guidance_scale": 3.5},
    ]
    make(tiny_pipeline_folder, write_rows(tmp_path / "list.jsonl", rows), tmp_path / "clips", *SHORT)
    assert clips(tmp_path / "clips") == {str(row["output"]) for row in rows}
    for row in rows:
        single = tmp_path / Path(str(row.pop("output"))).name
        words = [word for name, value in row.items() for word in words_of(tmp_path, name, value)]
        common = ["generate", "--model", str(tiny_pipeline_folder), *SHORT]
        main(replaced(common, *words, "--output", str(single)))
        assert_same(single, next((tmp_path / "clips").rglob(single.name)))


def test_what_is_said_of_a_row_names_its_line(
    tiny_pipeline_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    PIL.Image.new("RGB", (80, 40), "red").save(tmp_path / "wide.png")
    rows = [
        {"output": "man.mp4", "prompt": "a man"},
        {"output": "wide.mp4", "prompt": "a man", "image": "wide.png"},
        {"output": "nothing.mp4", "prompt": " "},
    ]
    make(tiny_pipeline_folder, write_rows(tmp_path / "list.jsonl", rows), tmp_path / "clips", *SHORT)
    (cut,) = (record.getMessage() for record in caplog.records if "cut" in record.getMessage())
    assert re.match(r"line 2: `image` of 80x40 pixels", cut)
    assert "line 3: the prompt is empty" in capsys.readouterr().err
    logger = logging.getLogger("diffusers_jova.pictures")
    logger.warning("after the list")
    assert caplog.records[-1].getMessage() == "after the list"


def words_of(folder: Path, name: str, value: Any) -> list[str]:
    value = folder / value if name in ("image", "audio") else value
    return [f"--{name.replace('_', '-')}", *(value if isinstance(value, list) else [str(value)])]


@pytest.mark.usefixtures("lossless")
def test_a_second_run_makes_only_what_is_missing(
    tiny_pipeline_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = write_rows(tmp_path / "list.jsonl", [{"prompt": text} for text in ("a", "b", "c")])
    folder = tmp_path / "clips"
    make(tiny_pipeline_folder, rows, folder, *SHORT)
    assert capsys.readouterr().out.startswith("made 3, there already 0, refused 0: ")
    before = records(folder)
    times = {name: (folder / name).stat().st_mtime_ns for name in before}
    lost = sorted(before)[1]
    (folder / lost).unlink()
    with (folder / LIST).open("a") as file:
        file.write('{"output": "half a li')
    (folder / WORK).mkdir()
    (folder / WORK / "half.mp4").touch()
    make(tiny_pipeline_folder, rows, folder, *SHORT)
    said = capsys.readouterr()
    assert said.out.startswith("made 1, there already 2, refused 0: ")
    assert "line 4 is damaged and left out" in said.err
    after = records(folder)
    assert {record["settings"]["model"] for record in after.values()} == {tiny_pipeline_folder.name}
    assert clips(folder) == set(after) == set(before)
    for name in set(before) - {lost}:
        assert (folder / name).stat().st_mtime_ns == times[name]
        assert after[name] == before[name]
    seed = after[lost]["settings"]["seed"]
    words = ["--prompt", after[lost]["settings"]["prompt"], "--seed", str(seed), "--output", str(tmp_path / "x.mp4")]
    main(["generate", "--model", str(tiny_pipeline_folder), *SHORT, *words])
    assert_same(tmp_path / "x.mp4", folder / lost)
    made = after[lost]["made"]
    assert (made["num_inference_steps"], made["num_frames"], made["height"], made["dtype"]) == (1, 5, 32, "float32")
    assert read_provenance(folder / lost)["settings"].items() <= made.items()  # told once


def test_a_clip_that_was_emptied_is_made_again(
    tiny_pipeline_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, folder = write_rows(tmp_path / "list.jsonl", seeded_rows(2)), tmp_path / "clips"
    make(tiny_pipeline_folder, rows, folder, *SHORT)
    first, second = sorted(clips(folder))
    whole = content(folder / first)
    (folder / first).write_bytes(b"")
    (folder / second).unlink()
    (folder / second).mkdir()
    capsys.readouterr()
    make(tiny_pipeline_folder, rows, folder, *SHORT, code=1)
    said = capsys.readouterr()
    assert said.out.startswith("made 1, there already 0, refused 1: ")
    assert f"`output` must be a file, got the folder {second}; delete or rename it" in said.err
    for one, other in zip(whole, content(folder / first), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_list_of_refused_rows_leaves_no_folder_and_names_no_file_that_is_not_there(
    tiny_pipeline_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = write_rows(tmp_path / "list.jsonl", [{"prompt": "a", "image": "nope.png"}])
    make(tiny_pipeline_folder, rows, tmp_path / "clips", *SHORT, code=1)
    assert capsys.readouterr().out == "made 0, there already 0, refused 1\n"
    assert not (tmp_path / "clips").exists()
    (own := tmp_path / "own").mkdir()
    make(tiny_pipeline_folder, rows, own, *SHORT, code=1)
    assert own.is_dir()  # what the user made stays


def test_what_is_there_but_is_another_clip_is_refused_and_kept(
    tiny_pipeline_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    PIL.Image.new("RGB", (40, 40), "red").save(tmp_path / "face.png")
    rows = [{"prompt": "a", "output": "a.mp4"}, {"prompt": "b", "image": "face.png", "output": "b.mp4"}]
    path, folder = write_rows(tmp_path / "list.jsonl", rows), tmp_path / "clips"
    folder.mkdir()
    (folder / "a.mp4").write_bytes(b"mine")
    make(tiny_pipeline_folder, path, folder, *SHORT, code=1)
    assert re.search(r"line 1: `output` must be a new file or one of clips.jsonl, got a.mp4", capsys.readouterr().err)
    assert (folder / "a.mp4").read_bytes() == b"mine"
    kept = (folder / "b.mp4").read_bytes()
    for change, message in (
        (["--steps", "2"], r"line 2: `.*b.mp4` must be made with the present settings, got `steps` 1 there, 2 here"),
        ([], r"line 2: .* got `files.image` \w+ there, \w+ here; delete it or"),
    ):
        PIL.Image.new("RGB", (40, 40), "red" if change else "blue").save(tmp_path / "face.png")
        make(tiny_pipeline_folder, path, folder, *replaced(SHORT, *change), code=1)
        assert re.search(message, capsys.readouterr().err)
        assert (folder / "b.mp4").read_bytes() == kept
    assert set(records(folder)) == {"b.mp4"}


def test_broken_rows_are_named_by_their_lines_and_the_others_made(
    tiny_pipeline_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    rows: list[dict[str, Any]] = [
        {"prompt": "a", "output": "a.mp4"},
        {"prompt": "b", "height": 20},
        {"prompt": "c", "image": "broken.png"},
        {"prompt": "d", "steps": 0},
        {"prompt": "e", "lora": str(tmp_path / "broken.png")},
        {"prompt": "f", "lora": str(tmp_path / "broken.png")},
        {"prompt": "g", "output": "g.mp4"},
    ]
    path = write_rows(tmp_path / "list.jsonl", rows)
    make(tiny_pipeline_folder, path, tmp_path / "clips", *SHORT, code=1)
    said = capsys.readouterr()
    assert said.out.startswith("made 2, there already 0, refused 5: ")
    for line, message in (
        (2, "`height` must be a positive multiple of 16, got 20"),
        (3, "`--image` must be a readable image"),
        (4, "`--steps` must be at least 1, got 0"),
        (5, "`--lora` must be a .safetensors or .pt or"),
        (6, "`--lora` must be a .safetensors or .pt or"),
    ):
        assert f"{path}, line {line}: {message}" in said.err
    assert clips(tmp_path / "clips") == {"a.mp4", "g.mp4"}


def test_a_folder_where_a_run_is_at_work_is_refused(
    tiny_pipeline_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, folder = write_rows(tmp_path / "list.jsonl", [{"prompt": "a"}]), tmp_path / "clips"
    (folder / WORK).mkdir(parents=True)
    with held_alone(folder, "--output"):
        make(tiny_pipeline_folder, path, folder, *SHORT, code=2)
    assert "`--output` must be a folder that no other run writes in, got" in capsys.readouterr().err
    assert (folder / WORK).exists()  # of the other run
    make(tiny_pipeline_folder, path, folder, *SHORT)


def test_clips_of_a_batch_differ_from_single_ones_by_rounding_alone(
    tiny_pipeline_folder: Path, tmp_path: Path
) -> None:
    rows = [*seeded_rows(4), {"prompt": "rain", "seed": 4, "output": "4.wav", "modalities": ["audio"]}]
    path = write_rows(tmp_path / "list.jsonl", rows)
    make(tiny_pipeline_folder, path, tmp_path / "one", *SHORT)
    make(tiny_pipeline_folder, path, tmp_path / "two", *SHORT, "--batch-size", "2")
    assert clips(tmp_path / "one") == clips(tmp_path / "two") == names_of(rows)
    for name in names_of(rows):
        assert_close(tmp_path / "one" / name, tmp_path / "two" / name)
    assert not np.array_equal(content(tmp_path / "two" / "0.wav")[0], content(tmp_path / "two" / "4.wav")[0])


def test_a_batch_that_fails_is_made_one_by_one(
    tiny_pipeline_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": "a", "output": "a.mp4", "height": 20}, {"prompt": "b", "output": "b.mp4", "height": 20}]
    path = write_rows(tmp_path / "list.jsonl", rows)
    make(tiny_pipeline_folder, path, tmp_path / "clips", *SHORT, "--batch-size", "2", code=1)
    said = capsys.readouterr().err
    assert "line 1: `height` must be" in said
    assert "line 2: `height` must be" in said


# What ends a run


@pytest.mark.parametrize("share_clips", [True, False])
def test_memory_that_ends_within_a_shared_clip_ends_the_run(
    monkeypatch: pytest.MonkeyPatch, share_clips: bool
) -> None:
    def end(*_: Any) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(ClipMaker, "make", end)
    processes: Any = SimpleNamespace(share_clips=share_clips)
    maker, task = ClipMaker(Path("list.jsonl"), Path("clips"), processes, False), Task(3, "a.mp4", Namespace(), {})
    if share_clips:  # the others wait within the clip
        with pytest.raises(torch.OutOfMemoryError):
            maker([task])
    else:
        assert [(outcome.line, outcome.status) for outcome in maker([task])] == [(3, "refused")]


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    """The first clips are made by a process that is killed while it makes the next, the others here."""
    rows = seeded_rows(5)
    path, folder = write_rows(tmp_path / "list.jsonl", rows), tmp_path / "clips"
    words = ["generate", "--prompts", str(path), "--output", str(folder), "--device", "cpu"]
    short = ["--steps", "2", "--num-frames", "5", "--height", "32", "--width", "32"]
    command = [sys.executable, "-m", "jova_cli", *words, *short]
    with OnTerminal(command, stdout=subprocess.DEVNULL, cwd=ROOT) as killed:
        killed.read_until(b" 2/5 ")  # the bar, after the second clip
        killed.send_signal(signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL
    early = {name for name in clips(folder) if not name.startswith(WORK)}
    assert {"0.wav", "1.mp4"} <= early < names_of(rows)
    main([*words, *short])
    assert clips(folder) == set(records(folder)) == names_of(rows)
    for row in rows[::2]:  # made before, interrupted, and made after
        name = str(row["output"])
        single = ["--prompt", str(row["prompt"]), "--seed", str(row["seed"]), "--output", str(tmp_path / name)]
        main(
            [
                "generate",
                "--device",
                "cpu",
                *short,
                *single,
                "--modalities",
                *row.get("modalities", ["video", "audio"]),
            ]
        )
        (assert_close if name in early else assert_same)(tmp_path / name, folder / name)


# Several processes


NUM_PROCESSES = 2  # and heads of the tiny pipeline


def join(rank: int, port: int) -> None:
    """Let this process be one of those that torchrun would start."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # torch warns about collectives that diffusers calls
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(NUM_PROCESSES)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "LOCAL_WORLD_SIZE": str(NUM_PROCESSES)}


def work_with_others(rank: int, ports: list[int], folder: Path, model: Path) -> None:
    """One of the processes that torchrun would start: a list, then one clip by all of them."""
    join(rank, ports[0])
    from tests.tiny_training import forget_accelerate

    words, code = [*SHORT, "--device", "cpu"], 1 if rank == 0 else 0  # the first that fails would end the others
    make(model, folder / "list.jsonl", folder / "shared", *words, code=code)
    forget_accelerate()
    os.environ["MASTER_PORT"] = str(ports[1])
    one = ["--prompt", "a dog", "--seed", "1", "--modalities", "audio", "--output", str(folder / "one.wav")]
    main(["generate", "--model", str(model), "--guidance-parallel", str(NUM_PROCESSES), *words, *one])
    forget_accelerate()
    os.environ["MASTER_PORT"] = str(ports[2])
    parallel = ["--context-parallel", str(NUM_PROCESSES)]
    make(model, folder / "list.jsonl", folder / "together", *parallel, *words, code=code)


def test_processes_share_a_list_and_share_a_clip(tiny_pipeline_folder: Path, tmp_path: Path) -> None:
    rows = seeded_rows(3)
    path = write_rows(tmp_path / "list.jsonl", [*rows, {"prompt": "b", "height": 20}])
    stores = [distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False) for _ in range(3)]
    start(work_with_others, ([store.port for store in stores], tmp_path, tiny_pipeline_folder), NUM_PROCESSES)
    make(tiny_pipeline_folder, path, tmp_path / "alone", *SHORT, code=1)
    names = names_of(rows)
    for folder in (tmp_path / "shared", tmp_path / "together"):
        assert clips(folder) == set(records(folder)) == names
        for name in names:
            assert_close(folder / name, tmp_path / "alone" / name)
    single = ["--prompt", "a dog", "--seed", "1", "--modalities", "audio", "--output", str(tmp_path / "single.wav")]
    main(["generate", "--model", str(tiny_pipeline_folder), *SHORT, *single])
    assert_close(tmp_path / "one.wav", tmp_path / "single.wav")


def fill_the_disk_together(rank: int, port: int, folder: Path, model: Path) -> None:
    """One of two processes that work on each clip of a list, of which the one that writes has no room for a clip."""
    join(rank, port)
    words = ["generate", "--model", str(model), "--prompts", str(folder / "list.jsonl"), "--device", "cpu"]
    words += ["--output", str(folder / "clips"), "--context-parallel", str(NUM_PROCESSES), "--steps", "1"]
    if rank == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
    with (folder / f"said-{rank}").open("w") as sys.stderr, pytest.raises(SystemExit) as ended:
        main(words)
    (folder / f"code-{rank}").write_text(str(ended.value.code or 0))


def test_a_full_disk_ends_all_processes_of_a_clip_with_one_sentence(
    tiny_pipeline_folder: Path, tmp_path: Path
) -> None:
    write_rows(tmp_path / "list.jsonl", [{"prompt": text, "modalities": ["audio"], "num_frames": 33} for text in "ab"])
    store = distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    start(fill_the_disk_together, (store.port, tmp_path, tiny_pipeline_folder), NUM_PROCESSES)
    assert [(tmp_path / f"code-{rank}").read_text() for rank in range(NUM_PROCESSES)] == ["2", "0"]
    assert re.search(r"`.*clips/a.*wav` could not be written \(.*\); free", (tmp_path / "said-0").read_text())
    assert not re.search("could not be written|Error", (tmp_path / "said-1").read_text())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray warns about settings of its own
def test_a_ray_cluster_makes_the_clips_of_one_process(tiny_pipeline_folder: Path, tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    rows = seeded_rows(4)
    path = write_rows(tmp_path / "list.jsonl", [*rows, {"prompt": "b", "height": 20}])
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        make(tiny_pipeline_folder, path, tmp_path / "ray", *SHORT, "--ray", "--num-processes", "2", code=1)
    finally:
        ray.shutdown()
    make(tiny_pipeline_folder, path, tmp_path / "alone", *SHORT, code=1)
    names = names_of(rows)
    assert clips(tmp_path / "ray") == set(records(tmp_path / "ray")) == names
    for name in names:
        assert_close(tmp_path / "ray" / name, tmp_path / "alone" / name)


@pytest.mark.usefixtures("lossless")
def test_the_list_of_what_was_made_makes_it_again(
    tiny_pipeline_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    media.write_audio(tmp_path / "v.wav", np.sin(np.arange(4000) / 9).astype(np.float32), 16000)
    own = {"audio_caption": "b", "transcript": "c", "audio": "v.wav", "guidance_scale": 1.5}
    PIL.Image.new("RGB", (32, 32), "red").save(tmp_path / "nod.png")
    shown = {"prompt": "d", "keyframe": ["4=nod.png"], "image": "nod.png"}
    rows = write_rows(tmp_path / "list.jsonl", [{"prompt": "a", "modalities": ["audio"]}, own, shown])
    make(tiny_pipeline_folder, rows, tmp_path / "clips", *SHORT)
    make(tiny_pipeline_folder, tmp_path / "clips" / LIST, tmp_path / "again")
    assert capsys.readouterr().out.splitlines()[-1].startswith("made 3, there already 0, refused 0")
    assert clips(tmp_path / "again") == clips(tmp_path / "clips")
    for name in clips(tmp_path / "clips"):
        assert_same(tmp_path / "clips" / name, tmp_path / "again" / name)
    make("jova-tiny", tmp_path / "clips" / LIST, tmp_path / "other", code=1)
    said = capsys.readouterr()
    assert said.err.count("`--model` must be the one that made the clip, tiny, got ") == 3
    with pytest.raises(SystemExit):
        main(["generate", "--prompts", str(tmp_path / "clips" / LIST), "--output", str(tmp_path / "other")])
    assert capsys.readouterr().err.count("jova-tiny, the default; give `--model` with that one") == 3


def test_an_older_list_of_what_was_made_holds_no_keyframes(
    tiny_pipeline_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = {"output": "a.mp4", "settings": {"model": "tiny", "prompt": "a", "keyframe": [[4, "digest"]]}}
    rows = write_rows(tmp_path / LIST, [record])
    make(tiny_pipeline_folder, rows, tmp_path / "again", code=1)
    assert "a record holds no files of `keyframe`, got some" in capsys.readouterr().err


def test_an_adapter_is_the_same_however_its_folder_is_written(tmp_path: Path) -> None:
    (folder := tmp_path / "adapter").mkdir()
    found = []
    for source in (f"{folder}/", str(folder), f"{folder.parent}/./adapter"):
        words = {**dict.fromkeys(FILES), "keyframe": [], "lora": [[source, 0.5]], "output": tmp_path / "a.mp4"}
        found.append(task_of(Row(1, Namespace(**words)), tmp_path, lambda _: "digest").settings)
    assert found[0] == found[1] == found[2]
