"""What should be said is found wherever it stands: beside a clip, in its list, in its own record."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from diffusers_jova.evaluation.asked_clips import Asked, ask, describe_asked
from diffusers_jova.evaluation.clip_list import Captions, ListedClip, list_clips
from diffusers_jova.media import write_audio, write_video
from diffusers_jova.provenance import basic_record


FRAMES = np.zeros((2, 16, 16, 3), np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("words", "prompt", "cues", "silent"):
        (tmp_path / f"{name}.mp4").write_bytes(b"not looked into")
    (tmp_path / "words.json").write_text('{"transcript": "hello moon"}')
    (tmp_path / "prompt.txt").write_text("Two men.\n<S>one<E> and <S>two<E>\n<AUDCAP>voices<ENDAUDCAP>")
    (tmp_path / "cues.srt").write_text(
        "1\n00:00:00,000 --> 00:00:01,000\nblue\n\n2\n00:00:01,000 --> 00:00:02,000\nsun\n"
    )
    (tmp_path / "silent.png").write_bytes(b"a picture of the clip beside it")
    return tmp_path


def test_the_words_beside_clips_are_what_should_be_said(folder: Path) -> None:
    said = {clip.name: clip.transcript for clip in list_clips([folder])}
    assert said == {"words": "hello moon", "prompt": "one two", "cues": "blue sun", "silent": ""}
    asked = {clip.name: clip.captions for clip in list_clips([folder])}
    assert asked["prompt"] == Captions("Two men. and", "voices")  # of a whole prompt, without what is said
    assert asked["words"] == Captions()
    assert [clip.transcript for clip in list_clips([folder / "words.mp4", folder])] == [
        "hello moon", "blue sun", "one two", "",
    ]  # fmt: skip


def test_a_list_of_generate_and_the_record_of_a_clip_tell_what_was_asked_for(tmp_path: Path) -> None:
    write_audio(tmp_path / "voice.wav", np.zeros((1, 800), np.float32), 16000)
    (tmp_path / "clips" / "night").mkdir(parents=True)
    (tmp_path / "clips" / "night" / "a.mp4").write_bytes(b"made")
    record = {**basic_record(), "prompt": {"video": "a man", "audio": "", "transcript": "good night"}}
    write_video(tmp_path / "clips" / "b.mp4", FRAMES, 8, provenance=record)
    settings = {"transcript": "good morning", "reference_audio": str(tmp_path / "voice.wav"), "prompt": ""}
    settings |= {"video_caption": "a street", "audio_caption": "rain"}
    line = json.dumps({"output": "night/a.mp4", "settings": settings, "made": {}})
    (tmp_path / "clips" / "clips.jsonl").write_text(f"{line}\n{{half a line")
    for source in (tmp_path / "clips", tmp_path / "clips" / "clips.jsonl"):
        own, listed = list_clips([source])
        assert (listed.name, listed.transcript) == ("night/a", "good morning")
        assert listed.reference_voice == tmp_path / "voice.wav"
        assert (own.transcript, own.reference_voice) == ("good night", None)
        assert (own.captions, listed.captions) == (Captions("a man"), Captions("a street", "rain"))


def test_a_single_clip_has_the_list_beside_it(folder: Path) -> None:
    line = {"output": "silent.mp4", "settings": {"transcript": "good night"}}
    (folder / "clips.jsonl").write_text(json.dumps(line))
    assert [clip.transcript for clip in list_clips([folder / "silent.mp4"])] == ["good night"]


def test_a_manifest_named_as_the_list_is_a_manifest(folder: Path) -> None:
    line = {"video": "silent.mp4", "transcript": "good morning"}
    (folder / "clips.jsonl").write_text(json.dumps(line))
    (only,) = list_clips([folder / "clips.jsonl"])
    assert only.transcript == "good morning"


def test_clips_of_one_name_in_two_folders_are_told_apart(folder: Path) -> None:
    (folder / "more").mkdir()
    (folder / "more" / "words.mp4").write_bytes(b"another")
    names = [clip.name for clip in list_clips([folder / "words.mp4", folder / "more", folder / "cues.mp4"])]
    assert names == [str(folder / "words.mp4"), str(folder / "more" / "words.mp4"), "cues"]


def test_another_file_or_other_words_are_another_clip_to_measure(folder: Path) -> None:
    def digest(clip: ListedClip, **settings: str) -> str:
        return clip.digest(settings)

    clip = list_clips([folder / "words.mp4"])[0]
    before = digest(clip)
    assert before == digest(clip)
    assert before != digest(clip, language="de")
    assert before != digest(clip._replace(transcript="hello sun"))
    os.utime(folder / "words.mp4", (1, 1))
    assert before != digest(clip)


def test_sources_without_clips_are_refused_in_one_sentence(folder: Path) -> None:
    (folder / "pictures").mkdir()
    (folder / "pictures" / "a.png").write_bytes(b"a picture")
    with pytest.raises(ValueError, match="must hold at least one clip"):
        list_clips([folder / "pictures"])
    (folder / "pictures" / "manifest.jsonl").write_text('{"video": "a.png"}')
    with pytest.raises(ValueError, match="got stills alone"):
        list_clips([folder / "pictures"])
    with pytest.raises(ValueError, match="must be a file that ends in one of"):
        list_clips([folder / "words.json"])
    with pytest.raises(FileNotFoundError, match="must be an existing file"):
        list_clips([folder / "none.mp4"])


def test_words_of_a_list_are_found_where_a_sidecar_has_other_captions_alone(folder: Path) -> None:
    (folder / "silent.json").write_text('{"video_caption": "a man"}')
    line = {"output": "silent.mp4", "settings": {"transcript": "good night"}}
    (folder / "clips.jsonl").write_text(json.dumps(line))
    (clip,) = (clip for clip in list_clips([folder]) if clip.name == "silent")
    assert (clip.transcript, clip.captions) == ("good night", Captions("a man"))
    (folder / "silent.json").write_text('{"caption": "a man"}')  # a whole prompt, in which nobody speaks
    assert list_clips([folder / "silent.mp4"])[0].transcript == ""


def test_a_name_with_a_mark_is_one_name_in_both_spellings(tmp_path: Path) -> None:
    for name in ("composed", "apart"):
        (tmp_path / name).mkdir()
    (tmp_path / "composed" / "\u00e91.mp4").write_bytes(b"one")
    (tmp_path / "apart" / "e\u03011.mp4").write_bytes(b"two")
    line = {"output": "\u00e91.mp4", "settings": {"transcript": "good night"}}
    (tmp_path / "apart" / "clips.jsonl").write_text(json.dumps(line))
    (ours,), (theirs,) = (list_clips([tmp_path / name]) for name in ("composed", "apart"))
    assert ours.name == theirs.name
    assert theirs.transcript == "good night"
    assert list_clips([tmp_path / "apart" / "e\u03011.mp4"])[0].transcript == "good night"


def test_what_is_wrong_beside_one_clip_is_its_fault_and_the_others_are_listed(folder: Path) -> None:
    (folder / "foreign").mkdir()
    for name in ("foreign/a.mp4", "twice.mp4", "cut.mp4"):
        (folder / name).write_bytes(b"not looked into")
    (folder / "foreign" / "a.json").write_text('{"duration": 3}')
    (folder / "twice.txt").write_text("a man")
    (folder / "twice.srt").write_text((folder / "cues.srt").read_text())
    (folder / "cut.vtt").write_text("no times")
    clips = {clip.name: clip for clip in list_clips([folder])}
    assert {name for name, clip in clips.items() if clip.fault} == {"foreign/a", "twice", "cut"}
    assert "got `duration`" in clips["foreign/a"].fault
    assert "must be the only words of their clip" in clips["twice"].fault
    assert clips["words"].transcript == "hello moon"
    rows = [{"video": "words.mp4"}, {"video": "gone.mp4"}, {"video": "cues.mp4", "seen": "x"}]
    (folder / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    faults = {clip.name: clip.fault for clip in list_clips([folder / "list.jsonl"])}
    assert list(faults) == ["words", "list.jsonl, line 2", "list.jsonl, line 3"]
    assert "gone.mp4" in faults["list.jsonl, line 2"]
    (folder / "list.jsonl").write_text(json.dumps(rows[1]))
    with pytest.raises(FileNotFoundError, match="must exist, got 1 missing"):
        list_clips([folder / "list.jsonl"])


def test_faults_are_listed_once_and_names_stay_apart(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (folder / "foreign").mkdir()
    (folder / "foreign" / "a.mp4").write_bytes(b"not looked into")
    (folder / "foreign" / "a.json").write_text("{bad")
    (folder / "foreign" / "b.mp4").write_bytes(b"not looked into")
    listed = list_clips([folder, folder / "foreign"])
    assert [clip.name for clip in listed if clip.fault] == ["foreign/a"]
    rows = [{"video": "a.mp4"}, {"video": "a.mp4"}, {"video": "gone.mp4"}, {"seen": "x"}]
    roots = [tmp_path_factory.mktemp("rows") for _ in range(2)]
    for root in roots:
        (root / "a.mp4").write_bytes(b"not looked into")
        (root / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    names = [clip.name for clip in list_clips([root / "m.jsonl" for root in roots])]
    ends = ["a.mp4", "a 2", "m.jsonl, line 3", "m.jsonl, line 4"]
    assert len(set(names)) == len(names) == 8
    assert names[:4] == [
        f"{roots[0] / 'a.mp4'}",
        f"{roots[0] / 'a.mp4'} 2",
        *(f"{roots[0] / end}" for end in ends[2:]),
    ]


def test_one_wrong_sidecar_of_several_files_is_its_fault_and_of_one_is_refused(folder: Path) -> None:
    (folder / "words.json").write_text("{bad")
    wrong, right = list_clips([folder / "words.mp4", folder / "cues.mp4"])
    assert "must be valid JSON" in wrong.fault
    assert (right.fault, right.transcript) == ("", "blue sun")
    with pytest.raises(ValueError, match="must be valid JSON"):
        list_clips([folder / "words.mp4"])


def test_a_still_with_a_sound_is_a_fault_and_not_left_out(folder: Path) -> None:
    PIL.Image.new("RGB", (8, 8)).save(folder / "still.png")
    write_audio(folder / "s.wav", np.zeros((1, 800), np.float32), 16000)
    rows = [{"video": "still.png", "audio": "s.wav"}, {"audio": "s.wav"}]
    (folder / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    faults = {clip.name: clip.fault for clip in list_clips([folder / "m.jsonl"])}
    assert faults["s"] == ""
    assert "a still image must stand without `audio`" in faults["m.jsonl, line 1"]
    (folder / "m.jsonl").write_text("\n".join(map(json.dumps, [{"video": "still.png"}, {"video": "gone.mp4"}])))
    with pytest.raises(ValueError, match=r"got stills alone in .*, and what cannot be read: .*gone\.mp4"):
        list_clips([folder / "m.jsonl"])


def test_a_prompt_of_a_benchmark_mends_no_wrong_sidecar(folder: Path) -> None:
    (folder / "words.json").write_text("{bad")
    asked = Asked({"words": {"output": "words.mp4", "transcript": "good night"}, "cues": {"transcript": "moon"}})
    clips = {clip.name: clip for clip in ask(list_clips([folder]), asked)}
    assert "must be valid JSON" in clips["words"].fault
    assert clips["cues"].transcript == "moon"
    assert describe_asked(list(clips.values()), asked) == "2 of 4 clips have no prompt: prompt, silent\n"
