import argparse
import json
import re
from pathlib import Path

import PIL.Image
import pytest

from jova_cli.generate import parse
from jova_cli.keyframes import Keyframe, parse_keyframe, place_frames
from jova_cli.shipped import find_model


def test_frames_count_from_the_beginning_or_from_the_end() -> None:
    given = [("last_image", -1), ("keyframes", 40), ("keyframes", -81 + 1)]
    assert place_frames(given, 81) == [80, 40, 1]
    assert place_frames([("keyframes", 33)], 81, num_given_frames=33) == [33]
    assert place_frames([], 1) == []


@pytest.mark.parametrize(
    ("given", "num_given_frames", "message"),
    [
        (
            [("keyframes", 81)],
            0,
            "`keyframes` must be at a frame from 1 to 80 of this clip, or from -1 to -80",
        ),
        ([("keyframes", -82)], 0, "got -82; the first frame is `image`"),
        ([("keyframes", 0)], 0, "got 0; the first frame is `image`"),
        (
            [("keyframes", 20)],
            33,
            "`keyframes` must be behind the 33 frames of the given `video`, got frame 20",
        ),
        (
            [("last_image", -1), ("keyframes", 80)],
            0,
            "`keyframes` must be at a frame of its own, got frame 80",
        ),
    ],
)
def test_frames_that_a_clip_has_no_place_for_are_refused(
    given: list[tuple[str, int]], num_given_frames: int, message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        place_frames(given, 81, num_given_frames)


def test_a_clip_of_one_frame_has_no_last_one_beside_the_first() -> None:
    with pytest.raises(ValueError, match="`last_image` must go with a clip of several frames, got one; raise `num_fr"):
        place_frames([("last_image", -1)], 1)


def test_the_file_of_a_keyframe_may_have_any_name() -> None:
    assert parse_keyframe("-1=a=b.png") == Keyframe(-1, Path("a=b.png"))
    for text in ("a.png", "4.5=a.png", "=a.png", "4=", ""):
        with pytest.raises(
            argparse.ArgumentTypeError, match="`--keyframe` must be FRAME=FILE with a whole number, got"
        ):
            parse_keyframe(text)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures")
    PIL.Image.new("RGB", (8, 8)).save(path / "a.png")
    (path / "text.png").write_text("no picture")
    (path / "s.jsonl").write_text(json.dumps({"start": 0, "end": 6, "prompt": "a dog"}))  # 97 frames at 16 per second
    return path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--keyframe", "a.png"], "`--keyframe` must be FRAME=FILE with a whole number, got 'a.png'; write 40="),
        (["--keyframe", "33=a.png"], "`--keyframe` must be at a frame from 1 to 32 of this clip"),
        (["--keyframe", "0=a.png"], "got 0; the first frame is `--image`"),
        (
            ["--keyframe", "-1=a.png", "--last-image", "a.png"],
            "got frame 32 from `--last-image` as well",
        ),
        (["--keyframe", "4=text.png"], "`--keyframe` must be a readable image, got "),
        (["--last-image", "none.png"], "`--last-image` must be an existing file, got "),
        (["--last-image", "a.png", "--num-frames", "1"], "`--last-image` must go with a clip of several frames"),
        (["--last-image", "a.png", "--modalities", "audio"], "`--last-image` and `--keyframe` must go with video"),
        (["--keyframe", "481=a.png", "--num-frames", "481"], "must be at a frame from 1 to 480 of this clip"),
        (["--keyframe", "40=none.png", "--num-frames", "481"], "`--keyframe` must be an existing file, got "),
        (["--script", "s.jsonl", "--keyframe", "97=a.png"], "`--keyframe` must be at a frame from 1 to 96 of this"),
        (
            ["--keyframe", "21=a.png", "--keyframe", "24=a.png"],
            "`--keyframe` must be the only picture of its latent, which holds the frames 21 to 24, got the frames 21",
        ),
        (
            ["--num-frames", "481", "--keyframe", "477=a.png", "--last-image", "a.png"],
            "`--last-image` must be the only picture of its latent, which holds the frames 477 to 480, got",
        ),
        (
            ["--image", "a.png", "--modalities", "audio"],
            "`--image` must go with video, got `--modalities audio`",
        ),
        (
            ["--audio", "a.wav", "--modalities", "video"],
            "`--audio` must go with audio, got `--modalities video`",
        ),
        (
            ["--audio", "a.wav", "--modalities", "video", "--window-frames", "33"],
            "`--audio` must go with audio, got `--modalities video`; leave one of them out",
        ),
        (["--video", "a.png"], "`--video` must be a video, got the picture a.png; a clip begins with it as `--image`"),
    ],
)
def test_words_that_cannot_work_are_refused_before_anything_is_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    monkeypatch.chdir(folder)
    output = "clip.wav" if words[-1] == "audio" else "clip.mp4"
    with pytest.raises(SystemExit):
        parse([*([] if "--script" in words else ["--prompt", "a dog"]), "--output", output, *words])
    (said,) = capsys.readouterr().err.splitlines()
    assert message in said


def test_a_script_has_the_frames_of_all_its_lines(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    words = ["--script", "s.jsonl", "--output", "clip.mp4", "--keyframe", "60=a.png", "--last-image", "a.png"]
    assert parse(words)[1].keyframe == [Keyframe(60, Path("a.png"))]


def test_pictures_of_a_model_without_masks_are_refused_before_it_is_loaded(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = find_model("jova-tiny")
    for name in ("transformer", "vae"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_bytes((Path(model) / name / "config.json").read_bytes())
    (tmp_path / "model_index.json").write_bytes((Path(model) / "model_index.json").read_bytes())
    words = ["--model", str(tmp_path), "--prompt", "a dog", "--output", str(tmp_path / "a.mp4"), "--keyframe"]
    words += [f"21={folder / 'a.png'}", "--keyframe", f"24={folder / 'a.png'}"]

    def change(file: str, **values: object) -> None:
        path = tmp_path / file
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    change("model_index.json", fills_image_with_grey=True)  # each picture has its own mask channel
    assert len(parse(words)[1].keyframe) == 2
    change("transformer/config.json", in_channels=32)
    with pytest.raises(SystemExit):
        parse(words)
    assert "`--keyframe` must be None for a model whose condition channels hold no mask" in capsys.readouterr().err


def test_pictures_of_frames_are_columns_of_a_list_whose_files_lie_beside_it(folder: Path) -> None:
    row = {"prompt": "a dog", "last_image": "a.png", "keyframe": ["4=a.png", "-9=a.png"]}
    cells = f"prompt,last_image,keyframe\na dog,a.png,{json.dumps(row['keyframe']).replace(chr(34), chr(34) * 2)!s}"
    cells = cells.replace('["', '"["').replace('"]', '"]"')
    for name, text in (("list.jsonl", json.dumps(row)), ("list.csv", cells)):
        (folder / name).write_text(text)
        _, args = parse(["--prompts", str(folder / name), "--output", str(folder / "clips")])
        assert not args.refused
        (made,) = args.rows
        assert made.args.last_image == folder / "a.png"
        assert made.args.keyframe == [Keyframe(4, folder / "a.png"), Keyframe(-9, folder / "a.png")]
