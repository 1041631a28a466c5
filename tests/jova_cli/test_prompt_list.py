import json
import re
from argparse import Namespace
from pathlib import Path

import PIL.Image
import pytest

from jova_cli.generate import Adapter, parse
from jova_cli.prompt_list import Refusal, Row


def read(path: Path, *more: str) -> Namespace:
    _, args = parse(["--prompts", str(path), "--output", str(path.parent / "clips"), *more])
    return args


def write_rows(folder: Path, *rows: object, name: str = "list.jsonl") -> Path:
    path = folder / name
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def only_refusal(args: Namespace) -> Refusal:
    assert args.rows == []
    (refusal,) = args.refused
    return refusal


def test_every_option_of_a_single_clip_is_a_column(tmp_path: Path) -> None:
    PIL.Image.new("RGB", (8, 8)).save(tmp_path / "face.png")
    words = ["--video-caption", "a man", "--transcript=-5 degrees", "--image", str(tmp_path / "face.png")]
    words += ["--fit", "contain", "--modalities", "audio", "video", "--seed", "3", "--steps", "4", "--height", "32"]
    words += ["--guidance-scale", "2.5", "--lora", "a/b:0.5", "--lora", "c/d", "--skip-unknown", "--dtype", "bf16"]
    _, single = parse([*words, "--output", str(tmp_path / "clips" / ".." / "man.mp4")])
    row = {"video_caption": "a man", "transcript": "-5 degrees", "image": "face.png", "fit": "contain"}
    row |= {"modalities": ["audio", "video"], "seed": 3, "steps": 4, "height": 32, "guidance-scale": 2.5}
    row |= {"lora": ["a/b:0.5", "c/d"], "skip_unknown": True, "dtype": "bf16", "output": "man.mp4", "audio": None}
    (from_json,) = read(write_rows(tmp_path, row)).rows
    cells = {name: json.dumps(value) if isinstance(value, list) else value for name, value in row.items()}
    text = ",".join(cells) + "\n" + ",".join(quoted(value) for value in cells.values())
    (from_csv,) = read(write_rows(tmp_path, text, name="list.csv")).rows
    for found, line in ((from_json, 1), (from_csv, 2)):
        assert found.line == line
        assert found.args.output == tmp_path / "clips" / "man.mp4"
        for name, value in vars(found.args).items():
            assert name == "output" or value == getattr(single, name), name


def quoted(value: object) -> str:
    return "" if value is None else '"' + str(value).replace('"', '""') + '"'


def test_the_command_line_holds_for_rows_that_leave_a_cell_empty(tmp_path: Path) -> None:
    path = write_rows(
        tmp_path, {"prompt": "a", "steps": None}, {"prompt": "b", "steps": 9, "lora": [], "skip_unknown": False}
    )
    first, second = read(path, "--steps", "4", "--lora", "a/b", "--skip-unknown").rows
    assert (first.args.steps, second.args.steps) == (4, 9)
    assert first.args.lora == second.args.lora == [Adapter("a/b", 1.0)]
    assert first.args.skip_unknown
    path = write_rows(tmp_path, {"prompt": "b", "lora": "c/d:2", "skip_unknown": False})
    (third,) = read(path, "--lora", "a/b", "--skip-unknown").rows
    assert third.args.lora == [Adapter("c/d", 2.0)]
    assert not third.args.skip_unknown


@pytest.mark.parametrize("name", ["list.csv", "list.jsonl"])
def test_a_whole_number_may_have_a_fraction_of_zeros(tmp_path: Path, name: str) -> None:
    """As pandas writes a column that has gaps."""
    rows = ["prompt,num_frames,seed", "a,33.0,7.0"] if name.endswith("csv") else [{"prompt": "a", "num_frames": 33.0}]
    (row,) = read(write_rows(tmp_path, *rows, name=name)).rows
    assert (row.args.num_frames, row.args.seed) in ((33, 7), (33, None))
    large = read(write_rows(tmp_path, "prompt,seed", "a,9007199254740993.0", name="large.csv"))
    assert "got 9007199254740993" in only_refusal(large).reason  # which no float holds
    broken = read(write_rows(tmp_path, *(["prompt,num_frames", "a,33.5"]), name="other.csv"))
    assert "`--num-frames` must be a whole number, got '33.5'" in only_refusal(broken).reason


def test_a_row_keeps_its_name_wherever_it_stands(tmp_path: Path) -> None:
    rows = [{"prompt": "A dog!"}, {"prompt": "a cat", "seed": 1}, {"prompt": "A dog!"}]
    one, two, three = (row.args.output.name for row in read(write_rows(tmp_path, *rows)).rows)
    assert re.fullmatch(r"a-dog-[0-9a-f]{10}\.mp4", one)
    assert len({one, two, three}) == 3
    moved = [row.args.output.name for row in read(write_rows(tmp_path, {"prompt": "new"}, *rows[::-1])).rows]
    assert moved[1:] == [one, two, three]
    assert read(write_rows(tmp_path, {"prompt": "\u72ac"})).rows[0].args.output.name.startswith("clip-")
    (row,) = read(write_rows(tmp_path, {"prompt": "rain", "modalities": ["audio"]})).rows
    assert row.args.output.suffix == ".wav"


def test_a_list_of_windows_is_read_without_its_mark_and_with_its_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes('\ufeffprompt,steps\r\n"a\r\nb",3\r\n\r\nc,x\r\nd,5\r\n'.encode())
    args = read(path)
    assert [(line, row.prompt, row.steps) for line, row in args.rows] == [(2, "a\nb", 3), (6, "d", 5)]
    assert args.refused == [Refusal(5, f"{path}, line 5: `--steps` must be a whole number, got 'x'; use 8, say")]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a", "steps": 0}, r": `--steps` must be at least 1, got 0"),
        ({"prompt": "a", "steps": 10**30}, r": `--steps` must be at most 2147483647, got 10{30}; use fewer"),
        ({"prompt": "a", "steps": 2.5}, r": `--steps` must be a whole number, got '2\.5'; use 8, say"),
        ({"prompt": "a", "steps": True}, r": `steps` must be a text or a number, got True; correct the cell"),
        ({"prompt": ["a", "b"]}, r": `prompt` must be a text or a number, got \['a', 'b'\]"),
        ({"prompt": "\ud800"}, r": `prompt` must be a text or a number, got '\\ud800'"),
        ({"prompt": "a\0b"}, r": `prompt` must be a text or a number, got 'a\\x00b'; correct the cell"),
        ({"prompt": "a", "image": "a\0b"}, r": `image` must be a text or a number, got 'a\\x00b'; correct the cell"),
        ({"prompt": "a", "modalities": "-inf"}, r": `--modalities` must be one of video, audio, got -inf; `jova"),
        (
            {"prompt": "a", "model": "a" * 300},
            r": `--model` must be an existing path or a hub name .*, got aa.*; c",
        ),
        (
            {"prompt": "a", "fit": "crop"},
            r": `--fit` must be one of cover, .* got crop; `jova generate --help`",
        ),
        ({"prompt": "a", "cpu_offload": "maybe"}, r": `cpu_offload` must be true or false, got 'maybe'"),
        ({"prompt": "a", "image": "no.png"}, r": `--image` must be an existing file, got .*/no\.png"),
        ({"steps": 3}, r": the prompt must be given either by .*got neither"),
        ({"promt": "a"}, r": a column must be an option of a single clip, got `promt`; did you mean `prompt`\?"),
        ({"num_inference_steps": 4}, r": a column must be .*, got `num_inference_steps`; did you mean `steps`\?"),
        ({"sharpness": 1}, r": a column must be an option of a single clip, got `sharpness`; `jova generate --help`"),
        ({"prompt": "a", "prompts": "b"}, r": a column must be an option of a single clip, got `prompts`"),
        ({"prompt": "a", "num_frames": 5, "num-frames": 9}, r" must have each column once, got num_frames several"),
        ('{"prompt": "a", "prompt": "b"}', r" must have each column once, got prompt several times"),
        ('{"prompt": "a"', r' must be valid JSON, got `{"prompt": "a"`'),
        ("[1]", r' must be a JSON object, got `\[1\]`; write {"prompt": "..."}'),
        ({"prompt": "a", "output": "../a.mp4"}, r": `output` must be a file name within the folder, got '../a.mp4'"),
        ({"prompt": "a", "output": "b/../../a.mp4"}, r": `output` must be a file name within the folder"),
        ({"prompt": "a", "output": "/tmp/a.mp4"}, r": `output` must be a file name within the folder"),
        ({"prompt": "a", "output": "out/a.mp4"}, r": `output` must be a file name within the folder"),
        ({"prompt": "a", "output": ".a.mp4"}, r": `output` must be a file name within the folder"),
        ({"prompt": "a", "output": "a\0.mp4"}, r": `output` must be a file name within the folder"),
        ({"prompt": "a", "output": "a" * 250 + ".mp4"}, r": `output` must have names of at most 200 bytes"),
        ({"prompt": "a", "output": "a.avi"}, r": `--output` must end in \.mp4 for this clip, got .*a\.avi"),
    ],
    ids=str,
)
def test_a_row_that_cannot_become_a_clip_is_refused_with_its_line(tmp_path: Path, row: object, message: str) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "out").symlink_to(tmp_path)
    path = write_rows(tmp_path, "", row)
    refusal = only_refusal(read(path))
    assert refusal.line == 2
    assert re.match(re.escape(f"{path}, line 2") + message, refusal.reason), refusal.reason
    good = read(write_rows(tmp_path, row, {"prompt": "a"}))
    assert [type(found) for found in (*good.rows, *good.refused)] == [Row, Refusal]


@pytest.mark.parametrize("twin", ["a.mp4", "A.MP4", "./a.mp4"])
def test_two_rows_cannot_be_one_file(tmp_path: Path, twin: str) -> None:
    rows = [{"prompt": "a", "output": name} for name in ("a.mp4", "b.mp4", twin)]
    args = read(write_rows(tmp_path, *rows))
    assert [row.line for row in args.rows] == [1, 2]
    (refusal,) = args.refused
    assert re.search(r"line 3: `output` must be another for each row, got a.mp4 as in line 1", refusal.reason, re.I)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("list.jsonl", "", r"must be a list with at least one row, got the empty .*list.jsonl; write a row a clip"),
        ("list.jsonl", "\n\n", r"must be a list with at least one row"),
        ("list.csv", "", r"must be a list with at least one row"),
        ("list.csv", "prompt,steps\n", r"must be a list with at least one row"),
        ("list.csv", "prompt,prompt\na,b\n", r"list.csv must have each column once, got prompt several times"),
        ("list.csv", "promt\na\n", r"list.csv: a column must be an option of a single clip, got `promt`"),
        ("list.csv", "prompt;steps\na;3\n", r"got `prompt;steps`; separate the columns by commas"),
        (
            "list.csv",
            'prompt\n"a\nb\nc\n',
            r"line 2 must be CSV, got something else \(unexpected end.*close its quotes",
        ),
        ("list.txt", "a\n", r"`--prompts` must be an existing .jsonl or .csv file, got .*list.txt"),
        ("list.csv", None, r"`--prompts` must be an existing .jsonl or .csv file, got .*list.csv"),
        ("list.jsonl", b"\xff\xfe{", r"list.jsonl` must be text in UTF-8, got another encoding"),
    ],
)
def test_a_list_that_cannot_be_meant_is_refused(
    tmp_path: Path, name: str, text: str | bytes | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if text is not None:
        (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(SystemExit) as ended:
        read(tmp_path / name)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert re.search(message, said), said
    assert said.count("\n") == 1


def test_a_row_has_a_cell_for_each_column(tmp_path: Path) -> None:
    args = read(write_rows(tmp_path, "prompt,steps", "a, dog,3", "a", "b,4", name="list.csv"))
    assert [row.line for row in args.rows] == [4]
    assert all("must have a cell for each of 2 columns, got" in refusal.reason for refusal in args.refused)


@pytest.mark.parametrize(
    ("words", "processes", "message"),
    [
        (["--batch-size", "2"], "1", "`--batch-size` must go with `--prompts`, got one clip"),
        (["--ray"], "1", "`--ray` must go with `--prompts`, got one clip"),
        (["--num-processes", "2"], "1", "`--num-processes` must go with `--prompts`, got one clip"),
        (["--prompts", "list.jsonl", "--num-processes", "2"], "1", "`--num-processes` must go with `--ray`, got 2"),
        (["--prompts", "list.jsonl", "--ray"], "2", "`--ray` must be used in one process"),
        (["--prompts", "list.jsonl", "--batch-size", "0"], "1", "`--batch-size` must be at least 1, got 0"),
        (
            ["--context-parallel", "2"],
            "1",
            r"must be the number of processes, got 2 in 1; start `torchrun --nproc-per-",
        ),
        (
            ["--guidance-parallel", "2"],
            "4",
            r"`--guidance-parallel` must be the number of processes, got 2 in 4; start",
        ),
        (["--guidance-parallel", "2", "--context-parallel", "2"], "2", "must be used without `--context-parallel`"),
        ([], "2", r"`--context-parallel` must be the number of processes, got 1 in 2; start"),
        (
            ["--prompts", "list.jsonl", "--context-parallel", "2"],
            "4",
            r"got 2 in 4; start `torchrun --nproc-per-node 4",
        ),
    ],
)
def test_numbers_of_clips_and_processes_fit_each_other(
    tmp_path: Path,
    words: list[str],
    processes: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", processes)
    write_rows(tmp_path, {"prompt": "a"})
    with pytest.raises(SystemExit):
        parse(["--output", "a.mp4", "--prompt", "a", *words])
    assert re.search(message, capsys.readouterr().err)
