"""A manifest or a folder becomes samples, or an error that says what to type."""

from __future__ import annotations

import json
from pathlib import Path

import PIL.Image
import pytest

from diffusers_jova.drawn.avatars import write_corpus
from diffusers_jova.training.data.manifest import (
    Sample,
    describe_unplaced,
    displaced_files,
    read_clip,
    read_samples,
    unlisted_files,
    unplaced_files,
)


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def manifest(folder: Path, *rows: dict[str, object], name: str = "clips.jsonl") -> Path:
    path = folder / name
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return path


def test_every_column_of_a_manifest_reaches_its_sample(tmp_path: Path) -> None:
    touch(tmp_path, "clips/a.mp4", "a.wav", "a.png", "a.boxes.json")
    files = {"video": "clips/a.mp4", "audio": "a.wav", "reference_image": "a.png", "mouth_boxes": "a.boxes.json"}
    for texts in ({"caption": "c"}, {"video_caption": "v", "audio_caption": "s", "transcript": "t"}):
        (sample,) = read_samples(manifest(tmp_path, files | texts))
        assert sample == Sample(**{name: tmp_path / file for name, file in files.items()}, **texts)


@pytest.mark.parametrize("part", ["video_caption", "audio_caption", "transcript"])
def test_a_whole_caption_beside_a_part_is_refused_in_manifests_and_sidecars(tmp_path: Path, part: str) -> None:
    touch(tmp_path, "a.mp4")
    texts = {"caption": "a man", part: "hello"}
    with pytest.raises(ValueError, match=rf"line 1: `caption` must stand alone, .* got it with `{part}`; rename it"):
        read_samples(manifest(tmp_path, {"video": "a.mp4"} | texts))
    (tmp_path / "a.json").write_text(json.dumps(texts))
    with pytest.raises(ValueError, match=r"a\.json: `caption` must stand alone"):
        read_samples(tmp_path)
    (tmp_path / "a.json").write_text(json.dumps(texts | {part: " "}))
    assert read_samples(tmp_path)[0].caption == "a man"


def test_a_csv_says_the_same_as_a_jsonl(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    boxes = [[[1, 2, 3, 4], None]]
    rows = manifest(
        tmp_path, {"video": "a.mp4", "caption": "one, two"}, {"video": "b.mp4", "caption": "x", "mouth_boxes": boxes}
    )
    (tmp_path / "clips.csv").write_text(
        'video,caption,audio,mouth_boxes\na.mp4,"one, two",,\nb.mp4,x,,"[[[1, 2, 3, 4], null]]"\n'
    )
    assert read_samples(tmp_path / "clips.csv") == read_samples(rows)


def test_a_folder_pairs_clips_with_their_captions_sounds_and_boxes(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "sub/b.MOV", "b.wav", "sub/b.wav", "a.boxes.npy")
    (tmp_path / "a.txt").write_text(" a man speaks\n")
    (tmp_path / "b.txt").write_text("a dog barks")
    (tmp_path / "sub" / "b.json").write_text(json.dumps({"video_caption": "a woman", "transcript": "hello"}))
    a, b, sound = read_samples(tmp_path)
    assert a == Sample(video=tmp_path / "a.mp4", caption="a man speaks", mouth_boxes=tmp_path / "a.boxes.npy")
    folder = tmp_path / "sub"
    assert b == Sample(video=folder / "b.MOV", audio=folder / "b.wav", video_caption="a woman", transcript="hello")
    assert sound == Sample(audio=tmp_path / "b.wav", caption="a dog barks")


def test_images_of_a_folder_are_samples_unless_a_clip_names_them_as_its_reference(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "face.png", "still.JPG", "still.boxes.npy")
    (tmp_path / "a.json").write_text(json.dumps({"caption": "a", "reference_image": "face.png"}))
    (tmp_path / "still.txt").write_text("a portrait")
    clip, still = read_samples(tmp_path)
    assert not clip.is_still
    boxes = tmp_path / "still.boxes.npy"
    assert still == Sample(video=tmp_path / "still.JPG", caption="a portrait", mouth_boxes=boxes)
    assert still.is_still
    touch(tmp_path, "a.png", "lone.png")
    with pytest.raises(ValueError, match=r"must have another name than the clips beside it, got .*a\.png; rename it"):
        read_samples(tmp_path)
    (tmp_path / "a.png").unlink()
    assert {one.source.name: one.has_caption for one in read_samples(tmp_path)} == {
        "a.mp4": True,
        "still.JPG": True,
        "lone.png": False,
    }
    row = {"video": "still.JPG", "audio": "still.wav", "caption": "x"}
    touch(tmp_path, "still.wav")
    with pytest.raises(ValueError, match=r"a still image must stand without `audio`, got one for .*still\.JPG"):
        read_samples(manifest(tmp_path, row))


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "avif"])
def test_every_picture_that_pillow_reads_is_a_still_and_one_that_moves_a_clip(suffix: str, tmp_path: Path) -> None:
    names = ["a.avif", "b.GIF", "c.tiff", "d.png"]
    picture, other = (PIL.Image.new("RGB", (8, 8), color) for color in ("red", "blue"))
    for name in names:
        picture.save(tmp_path / name)
    film = tmp_path / f"moving.{suffix}"
    picture.save(film, save_all=True, append_images=[other])
    (tmp_path / "note.pdf").write_bytes(b"%PDF")
    (tmp_path / "a.txt").write_text("a red square")
    moving, *stills = read_samples(tmp_path)
    assert moving.source == film
    assert [still.source.name for still in stills] == names
    assert all(still.is_still for still in stills)
    assert stills[0].caption == "a red square"
    assert not moving.is_still
    assert not Sample(video=film).is_still
    assert unplaced_files(tmp_path, [moving, *stills]) == ["note.pdf"]
    assert read_clip(film).video == film
    for name in ("b.GIF", "d.png"):
        with pytest.raises(ValueError, match=rf"or a GIF that moves, got `{name}`"):
            read_clip(tmp_path / name)
    picture.save(tmp_path / "d.mp4", format="png")
    with pytest.raises(ValueError, match=r"must have another name than the clips beside it, got .*d\.png"):
        read_samples(tmp_path)


def test_clips_behind_linked_folders_are_in_the_set_once(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/day/a.mp4", "set/b.mp4")
    (tmp_path / "elsewhere" / "day" / "a.txt").write_text("a man")
    (tmp_path / "set" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "twice").symlink_to(tmp_path / "elsewhere" / "day")
    (tmp_path / "elsewhere" / "round").symlink_to(tmp_path / "set")
    a, b = sorted(read_samples(tmp_path / "set"), key=lambda sample: sample.source.name)
    assert a == Sample(video=tmp_path / "set" / "linked" / "day" / "a.mp4", caption="a man")
    assert b.source == tmp_path / "set" / "b.mp4"
    touch(tmp_path, "elsewhere/c.zip")
    assert unplaced_files(tmp_path / "set", [a, b]) == ["linked/c.zip"]


def test_a_clip_in_the_place_of_its_folder_is_told_so(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "a.xlsx")
    with pytest.raises(ValueError, match=r"a\.mp4`; name the folder that holds it$"):
        read_samples(tmp_path / "a.mp4")
    with pytest.raises(ValueError, match=r"a\.xlsx`; convert it to \.jsonl$"):
        read_samples(tmp_path / "a.xlsx")


def test_the_synthetic_corpus_is_a_data_set(tmp_path: Path) -> None:
    write_corpus(tmp_path, range(1), subject="speaker")
    samples = read_samples(tmp_path)
    assert samples == read_samples(tmp_path / "manifest.jsonl")
    assert all(sample.video_caption and sample.mouth_boxes is not None for sample in samples)


def test_names_of_records_follow_the_files_and_not_the_captions(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b/a.mp4")
    rows = [
        {"video": "a.mp4", "caption": "x"},
        {"video": "b/a.mp4", "caption": "x"},
        {"video": "a.mp4", "caption": "y"},
    ]
    names = [sample.name for sample in read_samples(manifest(tmp_path, *rows))]
    assert len(set(names)) == 3
    rows[0]["caption"] = "another"
    assert [sample.name for sample in read_samples(manifest(tmp_path, *rows))] == names


def test_an_unknown_column_suggests_the_right_name(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4")
    with pytest.raises(ValueError, match=r"line 1: a column must be one of .*got `captoin`; did you mean `caption`\?"):
        read_samples(manifest(tmp_path, {"video": "a.mp4", "captoin": "x"}))


def test_a_set_without_any_caption_is_refused_unless_it_will_be_transcribed(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.png")
    with pytest.raises(ValueError, match=r"a clip must have a caption, got none for any of 2: .*a\.mp4.*; write one"):
        read_samples(tmp_path)
    assert len(read_samples(tmp_path, captions_required=False)) == 2
    (tmp_path / "b.txt").write_text("b")
    assert [sample.has_caption for sample in read_samples(tmp_path)] == [False, True]


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    touch(tmp_path, "notes.txt")
    with pytest.raises(ValueError, match="`source` must hold at least one clip"):
        read_samples(tmp_path)


def test_a_missing_source_or_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"existing folder or manifest, got .*no\.jsonl"):
        read_samples(tmp_path / "no.jsonl")
    with pytest.raises(FileNotFoundError, match=r"1 missing: video .*gone\.mp4; paths are relative"):
        read_samples(manifest(tmp_path, {"video": "gone.mp4", "caption": "x"}))


def test_a_row_names_a_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="line 1 must name a `video` or an `audio` file"):
        read_samples(manifest(tmp_path, {"caption": "x"}))


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text('{"video": "a.mp4"\n')
    with pytest.raises(ValueError, match="line 1 must be valid JSON"):
        read_samples(tmp_path / "m.jsonl")
    with pytest.raises(ValueError, match=r"`caption` must be text, got 3"):
        read_samples(manifest(tmp_path, {"video": "a.mp4", "caption": 3}))
    touch(tmp_path, "m.xlsx")
    with pytest.raises(ValueError, match=r"a folder, a \.jsonl or a \.csv file"):
        read_samples(tmp_path / "m.xlsx")


def test_texts_of_windows_editors_are_read_without_their_mark_and_other_encodings_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4")
    (tmp_path / "a.txt").write_bytes("h\xe9llo".encode("utf-8-sig"))
    assert read_samples(tmp_path)[0].caption == "h\xe9llo"
    (tmp_path / "m.jsonl").write_bytes('{"video": "a.mp4", "caption": "one\u2028line"}\n'.encode("utf-8-sig"))
    assert read_samples(tmp_path / "m.jsonl")[0].caption == "one\u2028line"
    (tmp_path / "a.txt").write_bytes("h\xe9llo".encode("latin-1"))
    with pytest.raises(ValueError, match=r"a\.txt` must be text in UTF-8"):
        read_samples(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("video,caption\na.mp4,hello, there\n", r"line 2 must have a cell for each column, got \[' there'\] beyond"),
        ("video;caption\na.mp4;hello\n", "got `video;caption`; separate the columns by commas"),
        ("video,caption,mouth_boxes\na.mp4,x,[1\n", r"line 2 must be valid JSON, got `\[1`"),
        (
            "video,caption,caption\na.mp4,x,y\n",
            "must have each column once, got caption several times; remove or rename",
        ),
        (
            "video,caption\na.mp4," + "x" * 200_000 + "\n",
            r"line 2 must be CSV, got something else \(field",
        ),
        ("video,mouth_boxes\na.mp4," + "[" * 100_000 + "\n", r"line 2 must be valid JSON, got `\[\["),
    ],
)
def test_a_csv_that_cannot_be_meant_is_named_with_its_row(tmp_path: Path, text: str, message: str) -> None:
    touch(tmp_path, "a.mp4")
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_samples(tmp_path / "m.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"caption": "\\ud83d"}', r"`caption` must be text of whole characters, got '\\ud83d'"),
        ("[" * 100_000, "must be valid JSON, got"),
        ('{"caption": "a", "caption": "b"}', "must have each column once, got caption several times"),
    ],
)
def test_a_sidecar_that_cannot_be_meant_is_named(tmp_path: Path, text: str, message: str) -> None:
    touch(tmp_path, "a.mp4")
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=rf"a\.json.*{message}"):
        read_samples(tmp_path)


def test_a_file_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "b\udcff.mp4")
    with pytest.raises(ValueError, match=r"names of files must be UTF-8, got 1 others: .*b\\udcff\.mp4'; rename"):
        read_samples(tmp_path, captions_required=False)


def test_what_is_wrong_beside_several_clips_is_told_at_once(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4", "c.wav", "d.mp4")
    for name, text in (("a", "{"), ("b", '{"video_captoin": "x"}'), ("c", "[1]"), ("d", '{"video_caption": "x"}')):
        (tmp_path / f"{name}.json").write_text(text)
    with pytest.raises(ValueError, match=r"a\.json.*; 2 more clips have files that are wrong: b\.mp4, c\.wav$"):
        read_samples(tmp_path)
    for name in "abc":
        (tmp_path / f"{name}.json").unlink()
        (tmp_path / f"{name}.txt").write_text("x")
    for name in "ab":
        (tmp_path / f"{name}.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nx\n")
    with pytest.raises(ValueError, match=r"a\.srt` must be the only words .*; 1 more clip has files .*: b\.mp4$"):
        read_samples(tmp_path)


def test_what_is_wrong_in_different_ways_is_told_in_one_error(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{name}.mp4" for name in "abcdefg"), "b.srt", "f.srt", "g.wav", "g.WAV")
    for name, text in {"a": "{bad json", "c": '{"audio": "voice"}', "d": '{"seen": "x"}', "e": '{"x": 1}'}.items():
        (tmp_path / f"{name}.json").write_text(text)
    for name in "bf":
        (tmp_path / f"{name}.txt").write_text("a man")
    PIL.Image.new("RGB", (8, 8)).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match=r"a\.json must be valid JSON, got `\{bad json`") as error:
        read_samples(tmp_path)
    said = str(error.value)
    assert "; 3 more clips have files that are wrong: d.mp4, e.mp4, g.mp4; a still image must have another" in said
    assert f"must exist, got 1 missing: audio {tmp_path / 'voice'}; paths are relative" in said
    assert f"the subtitles `{tmp_path / 'b.srt'}` must be the only words of their clip" in said
    assert said.endswith("; 1 more clip has files that are wrong: f.mp4")
    (tmp_path / "c.json").write_text(json.dumps({"video": "gone.mp4", "caption": "x", "subtitles": "b.srt"}))
    with pytest.raises(FileNotFoundError, match=r"gone\.mp4; .* the subtitles `.*b\.srt` must be the only words"):
        read_clip(tmp_path / "c.mp4")


def test_all_wrong_rows_of_a_manifest_are_told_at_once(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4")
    right, broken = '{"video": "a.mp4", "caption": "x"}', '{"video": "gone.mp4", "caption": "x"}'
    (tmp_path / "m.jsonl").write_text("\n".join([right, "{", '{"caption": "x"}', broken]))
    wrong = (
        r"m\.jsonl, line 2 must be valid JSON.*; 1 more row is wrong: line 3; the files .* must exist, got 1 missing"
    )
    with pytest.raises(ValueError, match=wrong):
        read_samples(tmp_path / "m.jsonl")
    (tmp_path / "m.csv").write_text("video,mouth_boxes,x\na.mp4,[1,\na.mp4,,\na.mp4,,y,z\na.mp4,,y\n")
    with pytest.raises(ValueError, match=r"line 2 must be valid JSON.*; 2 more rows are wrong: line 4, line 5$"):
        read_samples(tmp_path / "m.csv")


def test_subtitles_are_found_beside_a_clip_and_named_in_a_manifest_and_stand_alone(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "a.srt", "b.wav", "b.vtt")
    first, second = read_samples(tmp_path)  # which have a caption in them
    assert (first.subtitles, second.subtitles) == (tmp_path / "a.srt", tmp_path / "b.vtt")
    assert (
        read_samples(manifest(tmp_path, {"video": "a.mp4", "subtitles": "a.srt"}))[0].subtitles == tmp_path / "a.srt"
    )
    (tmp_path / "clips.jsonl").unlink()
    (tmp_path / "a.txt").write_text("a man")
    with pytest.raises(
        ValueError, match=r"a\.srt` must be the only words of their clip, got a `caption` as well; rename"
    ):
        read_samples(tmp_path)
    (tmp_path / "a.json").write_text(json.dumps({"video_caption": "a man"}))
    assert read_samples(tmp_path)[0].video_caption == "a man"
    (tmp_path / "a.json").write_text(json.dumps({"transcript": "hello"}))
    with pytest.raises(ValueError, match="got a `transcript` as well; remove one of them"):
        read_samples(tmp_path)


def test_files_of_a_folder_that_nothing_reads_are_named(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.txt", "a.srt", "a.vtt", "a.en.srt", "b.txt", "c.heic"):
        (tmp_path / name).write_text("words")
    samples = [Sample(video=tmp_path / "a.mp4", subtitles=tmp_path / "a.srt")]
    assert unplaced_files(tmp_path, samples) == ["a.en.srt", "a.vtt", "b.txt", "c.heic"]
    said = describe_unplaced(tmp_path, samples)
    assert said.startswith("not read 4: a.en.srt, a.vtt, b.txt, c.heic; a file must be a clip, a still image, or be")
    assert said.endswith("; convert c.heic to .jpg or .png\n")
    (tmp_path / "c.heic").unlink()
    assert describe_unplaced(tmp_path, samples).endswith("be named as the one that it belongs to\n")


def test_sidecars_are_found_whatever_the_case_of_their_suffixes_and_two_of_them_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(
        tmp_path, "a.MP4", "a.WAV", "a.SRT", "a.Boxes.NPY", "b.mp4", "c.Mov", "c.VTT", "d.v1.mp4", "d.v1.TXT", "D.TXT"
    )
    (tmp_path / "a.Json").write_text(json.dumps({"video_caption": "a man"}))
    (tmp_path / "b.Txt").write_text("a woman")
    (tmp_path / "d.v1.TXT").write_text("a child")
    samples = read_samples(tmp_path)
    a, b, c, d = samples
    sidecars = {"audio": "a.WAV", "subtitles": "a.SRT", "mouth_boxes": "a.Boxes.NPY"}
    files = {name: tmp_path / file for name, file in sidecars.items()}
    assert a == Sample(video=tmp_path / "a.MP4", video_caption="a man", **files)
    assert (b.caption, c.subtitles, d.caption) == ("a woman", tmp_path / "c.VTT", "a child")
    monkeypatch.chdir(tmp_path)
    assert unplaced_files(tmp_path, samples) == unplaced_files(Path(), samples) == ["D.TXT"]
    touch(tmp_path, "a.srt")
    if len([*tmp_path.glob("a.[sS]*")]) == 2:  # on a file system that tells them apart
        with pytest.raises(
            ValueError, match=r"a\.MP4` must have one \.srt file beside it, got a\.SRT, a\.srt; rename one"
        ):
            read_samples(tmp_path)


def test_records_below_the_clips_are_no_files_that_are_left_unread(tmp_path: Path) -> None:
    (tmp_path / "prepared" / "prompts").mkdir(parents=True)
    touch(tmp_path, "a.mp4", "a.txt", "b.zip")
    touch(tmp_path / "prepared", "prepare.json", "a-000.safetensors", "prompts/empty.safetensors")
    assert unplaced_files(tmp_path, read_samples(tmp_path, captions_required=False)) == ["b.zip"]


def test_what_a_manifest_leaves_out_is_told(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "a.srt", "a.boxes.json", "a.txt", "b.mp4", "b.srt", "notes.pdf", "sub/c.wav")
    name = "manifest.jsonl"
    path = manifest(tmp_path, {"video": "a.mp4", "video_caption": "x", "mouth_boxes": "a.boxes.json"}, name=name)
    samples = read_samples(tmp_path)
    assert unlisted_files(tmp_path, samples) == ["b.mp4", "sub/c.wav", "a.txt", "a.srt"]
    assert describe_unplaced(tmp_path, samples) == (
        "not read 4: b.mp4, sub/c.wav, a.txt, a.srt; its manifest says what is read: name them there\n"
    )
    assert unlisted_files(path, samples) == ["a.txt", "a.srt"]  # who names the file may have chosen among the clips
    assert describe_unplaced(path, samples).endswith(f"`{path.name}` says what is read: name them there\n")
    whole = {"video": "a.mp4", "video_caption": "x", "subtitles": "a.srt", "mouth_boxes": "a.boxes.json"}
    (tmp_path / "a.txt").unlink()
    path = manifest(tmp_path, whole, name=name)
    assert describe_unplaced(path, read_samples(path)) == ""


def test_a_manifest_is_one_whatever_the_case_of_its_suffix(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    manifest(tmp_path, {"video": "a.mp4", "caption": "x"}, name="manifest.JSONL")
    assert [sample.source.name for sample in read_samples(tmp_path)] == ["a.mp4"]
    (tmp_path / "other.CSV").write_text("video,caption\nb.mp4,y\n")
    assert [sample.caption for sample in read_samples(tmp_path / "other.CSV")] == ["y"]
    assert unplaced_files(tmp_path, []) == []


def test_a_text_file_beside_subtitles_is_told_where_its_text_goes(tmp_path: Path) -> None:
    touch(tmp_path, "c.mp4", "c.srt")
    (tmp_path / "c.txt").write_text("a man")
    with pytest.raises(ValueError, match=r"\(a \.txt file beside a clip is its `caption`\); ") as error:
        read_samples(tmp_path)
    assert str(error.value).endswith("; write the text of a .txt file as `video_caption` into `c.json`")
    (tmp_path / "c.json").write_text(json.dumps({"video_caption": "a man"}))
    assert read_samples(tmp_path)[0].video_caption == "a man"
    (tmp_path / "c.json").write_text(json.dumps({"transcript": "hello"}))
    with pytest.raises(ValueError, match=r"remove one of them \(a \.txt file beside a clip is its `caption`\)$"):
        read_samples(tmp_path)


def test_a_file_whose_place_another_has_taken_is_told_so(tmp_path: Path) -> None:
    touch(tmp_path, "g.mp4", "g.vtt", "g.mp3", "g.wav", "h.mp4", "h.boxes.npy", "other.boxes.npy", "lost.txt")
    touch(tmp_path, "sub/k.mp4", "sub/k.txt")
    (tmp_path / "g.txt").write_text("a man")
    (tmp_path / "g.srt").write_text("1")
    for name, row in {"g": {}, "h": {"mouth_boxes": "other.boxes.npy"}, "sub/k": {}}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({"video_caption": "a man"} | row))
    samples = read_samples(tmp_path)
    taken = {"g.txt": "g.json", "g.vtt": "g.srt", "g.wav": "g.mp3", "h.boxes.npy": "other.boxes.npy"}
    taken |= {"sub/k.txt": "sub/k.json"}
    assert displaced_files(tmp_path, samples) == taken
    said = describe_unplaced(tmp_path, samples)
    assert said.startswith("not read 6: g.txt, g.vtt, g.wav, h.boxes.npy, lost.txt, sub/k.txt; a file must be a clip")
    assert "(`g.json` took the place of g.txt, `g.srt` of g.vtt, `g.mp3` of g.wav, ...) and be named as the" in said
    for name in ("g.vtt", "g.wav", "h.boxes.npy", "lost.txt", "sub/k.txt"):
        (tmp_path / name).unlink()
    assert describe_unplaced(tmp_path, samples) == (
        "not read 1: g.txt; a file must be a clip, a still image, or be the only one of its kind (`g.json` took the "
        "place of g.txt) and be named as the one that it belongs to\n"
    )
    touch(tmp_path, "n.mp4", "n.flac", "n.wav", "n.WAV")
    found = displaced_files(tmp_path, read_samples(tmp_path, captions_required=False))
    assert {name for name in found if name.startswith("n.")} == {path.name for path in tmp_path.glob("n.[wW]*")}


@pytest.mark.parametrize("column", ["text", "prompt"])
def test_a_caption_under_the_name_of_other_sets_is_told_where_it_belongs(column: str, tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4")
    with pytest.raises(ValueError, match=f"got `{column}`; write captions as `video_caption` or `caption`"):
        read_samples(manifest(tmp_path, {"video": "a.mp4", column: "a man"}))
