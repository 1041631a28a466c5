import argparse
from pathlib import Path

import pytest

from jova_cli.generate import check_prompt
from jova_cli.long_clips import lay_out
from jova_cli.script import TEXTS, ScriptRow, read_script


NO_TEXTS = argparse.Namespace(prompt=None, video_caption="", audio_caption="", transcript="")


def read(path: Path, text: str, **common: str) -> list[ScriptRow]:
    path.write_text(text)
    return read_script(path, argparse.Namespace(**{**vars(NO_TEXTS), **common}), check_prompt)


def test_a_csv_and_a_jsonl_file_say_the_same(tmp_path: Path) -> None:
    rows = read(
        tmp_path / "a.csv", 'start,video-caption,transcript\n0,a man,hello\n1.5,,"one, two"\n', audio_caption="x"
    )
    lines = (
        '{"start": 0, "video_caption": "a man", "transcript": "hello"}\n\n{"start": 1.5, "transcript": "one, two"}\n'
    )
    assert rows == read(tmp_path / "a.jsonl", lines, audio_caption="x")
    assert [(row.start_s, row.texts["video_caption"], row.texts["transcript"]) for row in rows] == [
        (0.0, "a man", "hello"),
        (1.5, "", "one, two"),
    ]
    assert all(row.texts["audio_caption"] == "x" for row in rows)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prompt\na dog\n", r"a script must have the column `start`, got prompt; add it"),
        ("start;prompt\n0;a dog\n", r"must have the column `start`, got start;prompt; separate the columns by commas"),
        ("start,prompt\n,a dog\n", r"line 2: a line must have a `start` in seconds, got none; write"),
        ("start,prompt\nnan,a dog\n", r"line 2: `start` must be a time in seconds, 0 or more, got 'nan'; write 2.5"),
        ("start,prompt\ninf,a dog\n", r"line 2: `start` must be a time in seconds, 0 or more, got 'inf'"),
        ("start,prompt\n-1,a dog\n", r"line 2: `start` must be a time in seconds, 0 or more, got '-1'"),
        ("start,prompt\n1,a dog\n", r"line 2: `start` must be 0 in the first line, got 1; say what"),
        ("start,prompt\n0,a dog\n,\n", r"line 3: a line must have a time and a text, got an empty one; write"),
        ("start,prompt\n0,a dog\n2,\n", r"line 3: a line must have a text, got `start` 2 alone; write"),
        (
            "start,prompt\n0,a dog\n0,a cat\n",
            r"line 3: `start` must come after that of the line before, 0, got 0; sort",
        ),
        (
            "start,end,prompt\n0,3,a dog\n2,,a cat\n",
            r"line 3: `start` must not come before the `end` of the line before, 3, got 2; lines must not overlap",
        ),
        ("start,end,prompt\n0,0,a dog\n", r"line 2: `end` must come after `start` 0, got 0; correct it"),
        ("start,promt\n0,a dog\n", r"a column must be one of a script, got `promt`; did you mean `prompt`\?"),
        ("start,prompt,transcript\n0,a dog,wow\n", r"line 2: the prompt must be given either by .* got both"),
        ("start,prompt\n0,a dog,wow\n", r"line 2: a line must have a cell for each of 2 columns, got 3; quote commas"),
        ("start,prompt\n", r"`--script` must have at least one line, got the empty .*; write"),
    ],
    ids=lambda value: value.replace("\n", "/") if "\n" in value else "",
)
def test_a_script_that_cannot_be_meant_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "a.csv", text)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"start": true, "prompt": "a"}', r"line 1: `start` must be a time in seconds, 0 or more, got True"),
        ('{"start": 0, "prompt": 3}', r"line 1: `prompt` must be a text, got 3; correct the cell"),
        ("{}", r"line 1: a line must have a time and a text, got an empty one"),
        ("[1]", r"line 1 must be a JSON object, got `\[1\]`; write"),
        ('{"start": 0, "prompt": "a", "seed": 1}', r"line 1: a column must be one of a script, got `seed`"),
    ],
)
def test_a_line_of_json_that_cannot_be_meant_is_refused(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "a.jsonl", f"{line}\n")


def test_words_end_where_a_line_says_so(tmp_path: Path) -> None:
    rows = read(tmp_path / "a.csv", "start,end,transcript\n0,1,hello\n3,5,blue\n", video_caption="a man")
    args = argparse.Namespace(script_rows=rows, num_frames=None)
    num_frames, laid_out = lay_out(args, frame_rate=16, factor=4)
    assert num_frames == 81  # five seconds, and the first frame
    assert [(row.start_s, row.texts["transcript"]) for row in laid_out] == [(0, "hello"), (1, ""), (3, "blue")]
    assert {row.texts["video_caption"] for row in laid_out} == {"a man"}
    assert list(laid_out[0].texts) == list(TEXTS)
