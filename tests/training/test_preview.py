"""The preview shows the box on the mouth and the mask over the latents that encode it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io.wavfile import write as write_wav

from diffusers_jova.evaluation.viewing import MIN_VIEW_PX
from diffusers_jova.media import read_audio, read_video, write_audio, write_video
from diffusers_jova.training.data.clip import Clip
from diffusers_jova.training.data.encoder import Encoder
from diffusers_jova.training.preview import LABEL_PX, decode_without_mouth, draw_boxes, draw_clip, main, tint_mask
from jova_cli.clip_limits import Bucket
from tests.prepared_clips import save_speech_model, write_clips


def make_clip(num_frames: int = 9, boxes: np.ndarray | None = None) -> Clip:
    frames = np.random.default_rng(0).integers(0, 255, (num_frames, 32, 32, 3), np.uint8)
    boxes = np.array([[[8, 16, 16, 24]] * num_frames], np.float32) if boxes is None else boxes
    return Clip(Bucket(num_frames, 32, 32), frames, None, 0, boxes, None)


def test_the_outline_is_drawn_around_each_mouth_and_nowhere_else() -> None:
    frames = np.zeros((2, 20, 20, 3), np.uint8)
    boxes = np.array([[[2, 3, 6, 8], [np.nan] * 4], [[15, 15, 30, 30], [15, 15, 30, 30]]])
    drawn = draw_boxes(frames, boxes).any(-1)
    assert drawn[0, 3:8, 2:6].sum() == 14  # the border of 5 x 4 pixels
    assert not drawn[0, 4:7, 3:5].any()
    assert drawn[1].sum() == 9  # the upper and the left edge of 5 pixels each; the rest is outside
    assert not frames.any()


def test_the_tint_covers_the_frames_and_pixels_of_the_masked_latents_alone() -> None:
    frames = np.zeros((9, 32, 32, 3), np.uint8)
    mask = np.zeros((3, 4, 4), bool)
    mask[1, 2, 1] = True
    tinted = tint_mask(frames, mask, 8, 4).any(-1)
    assert tinted[1:5, 16:24, 8:16].all()
    assert tinted.sum() == 4 * 64


def test_small_clips_are_enlarged() -> None:
    assert draw_clip(make_clip(), 8, 4).shape == (9, MIN_VIEW_PX, MIN_VIEW_PX, 3)


def test_zeroed_latents_change_the_mouth_and_a_clip_without_one_stays(tiny_pipeline_folder: Path) -> None:
    encoder = Encoder.from_pretrained(tiny_pipeline_folder, dtype=torch.float32)
    plain, masked = decode_without_mouth(make_clip(), encoder)
    assert plain.shape == masked.shape == (9, 32, 32, 3)
    assert (plain != masked).any()
    plain, masked = decode_without_mouth(make_clip(boxes=np.zeros((0, 9, 4), np.float32)), encoder)
    assert np.array_equal(plain, masked)


@pytest.mark.parametrize("options", [[], ["--debug-mouth-mask"]])
def test_the_command_writes_a_video_for_each_clip(
    tmp_path: Path, tiny_pipeline_folder: Path, capsys: pytest.CaptureFixture, options: list[str]
) -> None:
    clip = make_clip(12)
    assert clip.frames is not None
    source = tmp_path / "clips"
    source.mkdir()
    write_video(source / "a.mp4", clip.frames, 16, np.sin(np.arange(12000) / 9).astype(np.float32), 16000)
    (source / "a.boxes.json").write_text(json.dumps(clip.mouth_boxes.tolist()))
    (source / "b.mp4").write_bytes(b"")
    arguments = [str(source), str(tmp_path / "out"), "--model", str(tiny_pipeline_folder), "--no-mouth", *options]
    main([*arguments, "--device", "cpu"])
    (path,) = (tmp_path / "out").iterdir()
    video = read_video(path)
    views = 3 if options else 1
    assert video.frames.shape == (9, MIN_VIEW_PX + LABEL_PX, MIN_VIEW_PX * views, 3)
    strips = np.split(video.frames[0, :LABEL_PX], views, axis=1)
    assert all(strip.max() > 150 for strip in strips)  # each view has its label
    assert video.audio is not None
    said = capsys.readouterr().out
    assert "a.mp4 0.6 of 0.8 s; not 0.2 s at ends of shots, too short for a clip" in said
    assert (
        "from 0.0 to 0.6 s, the crop keeps 100% of the picture, 1 mouth, in 100% of the frames, 6.2% of the latents"
        in said
    )
    assert "b.mp4: left out" in said


def test_mouths_that_nobody_looked_for_are_not_counted(
    tmp_path: Path, tiny_pipeline_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "clips").mkdir()
    write_video(tmp_path / "clips" / "a.mp4", np.zeros((9, 32, 32, 3), np.uint8), 16)
    main([str(tmp_path / "clips"), str(tmp_path / "out"), "--model", str(tiny_pipeline_folder), "--no-mouth"])
    said = capsys.readouterr().out
    assert "mouths not looked for" in said
    assert "0 mouths" not in said


def test_a_transcript_without_times_is_told_as_what_is_said(
    tmp_path: Path, tiny_pipeline_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "clips").mkdir()
    write_video(tmp_path / "clips" / "a.mp4", np.zeros((9, 32, 32, 3), np.uint8), 16)
    (tmp_path / "clips" / "a.json").write_text(
        json.dumps({"video_caption": "a man", "transcript": "four coffee nine"})
    )
    main([str(tmp_path / "clips"), str(tmp_path / "out"), "--model", str(tiny_pipeline_folder), "--no-mouth"])
    assert capsys.readouterr().out.count("says: four coffee nine") == 1


def test_sound_of_any_rate_is_heard_and_a_set_with_nothing_to_show_is_told(
    tmp_path: Path, tiny_pipeline_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    frames = make_clip(12).frames
    assert frames is not None
    source = tmp_path / "clips"
    source.mkdir()
    write_video(source / "a.mp4", frames, 16)
    time_s = np.arange(192000) / 192000
    write_audio(source / "a.wav", np.sin(2 * np.pi * 440 * time_s).astype(np.float32) / 2, 192000)
    options = ["--model", str(tiny_pipeline_folder), "--no-mouth", "--device", "cpu"]
    main([str(source), str(tmp_path / "out"), *options])
    sound, rate = read_audio(next((tmp_path / "out").iterdir()))
    assert rate == 48000
    assert np.abs(np.fft.rfft(sound[0])).argmax() * rate / sound.shape[1] == pytest.approx(440, abs=3)
    with pytest.raises(SystemExit):
        main([str(source), str(tmp_path / "none"), *options, "--require-mouth"])
    said = capsys.readouterr()
    assert "a.mp4: left out: a mouth is visible in 0% of the frames" in said.out
    assert said.err.endswith("can be shown\n")


def test_silence_is_called_as_in_preparation(
    tmp_path: Path, tiny_pipeline_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    source = write_clips(tmp_path / "clips", ["a", "b"], num_frames=18)
    hum = np.sin(np.arange(9000) / 4, dtype=np.float32)
    write_wav(source / "a.wav", 16000, np.concatenate([0 * hum, hum]))
    (source / "a.boxes.json").write_text("[]")
    options = ["--model", str(tiny_pipeline_folder), "--no-mouth", "--buckets", "9x32x32", "--cut", "all"]
    main([str(source), str(tmp_path / "out"), *options, "--require-sound", "--require-mouth"])
    told = "a.mp4: left out: the sound is silence in 1 clip, a mouth is visible in 0% of the frames"
    assert told in capsys.readouterr().out


def test_clips_that_are_not_shown_are_counted(
    tmp_path: Path, tiny_pipeline_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    frames = make_clip(20).frames
    assert frames is not None
    source = tmp_path / "clips"
    source.mkdir()
    for name in "abc":
        write_video(source / f"{name}.mp4", frames, 16)
    write_audio(source / "sound.wav", np.zeros(32000, np.float32), 16000)
    command = [str(source), str(tmp_path / "out"), "--model", str(tiny_pipeline_folder), "--no-mouth"]
    main([*command, "--device", "cpu", "--max-clips", "2"])
    assert capsys.readouterr().out.endswith("2 of 3 shown; `--max-clips` shows more\n")
    main([*command, "--device", "cpu", "--max-clips", "3"])
    assert "shows more" not in capsys.readouterr().out
    main([*command, "--device", "cpu", "--max-clips", "1", "--cut", "all", "--buckets", "9x32x32"])
    assert "1 of about 4 shown" in capsys.readouterr().out


def test_clips_that_are_shown_are_shared_out_among_the_files(
    tmp_path: Path, tiny_pipeline_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    frames = make_clip(30).frames
    assert frames is not None
    source = tmp_path / "clips"
    source.mkdir()
    for name, num_frames in (("a", 30), ("b", 10), ("c", 30)):
        write_video(source / f"{name}.mp4", frames[:num_frames], 16)
    out = tmp_path / "out"
    command = [str(source), str(out), "--model", str(tiny_pipeline_folder), "--no-mouth", "--device", "cpu"]
    main([*command, "--max-clips", "4", "--cut", "all", "--buckets", "9x32x32"])
    assert sorted(path.name for path in out.iterdir()) == ["000-a.mp4", "001-a.mp4", "002-b.mp4", "003-c.mp4"]
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith(("a.mp4 ", "b.mp4 ", "c.mp4 ")) for line in lines) == 3
    assert lines[-1] == "4 of about 7 shown; `--max-clips` shows more"
    shutil.rmtree(out)
    write_video(source / "c.mp4", frames[:10], 16)
    main([*command, "--max-clips", "5", "--cut", "all", "--buckets", "9x32x32"])  # what b and c leave goes to a
    shown = ["000-a.mp4", "001-a.mp4", "002-b.mp4", "003-c.mp4", "004-a.mp4"]
    assert sorted(path.name for path in out.iterdir()) == shown
    assert "shows more" not in capsys.readouterr().out


def test_previews_do_not_become_clips_of_the_set(
    tmp_path: Path, tiny_pipeline_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    frames = make_clip(12).frames
    assert frames is not None
    write_video(tmp_path / "a.mp4", frames, 16)
    for output in (tmp_path, tmp_path / "preview"):
        with pytest.raises(SystemExit):
            main([str(tmp_path), str(output), "--model", str(tiny_pipeline_folder), "--no-mouth"])
        assert "`output` must lie outside of `source`, whose clips the previews would" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_a_still_picture_has_no_seconds(
    tmp_path: Path, tiny_pipeline_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "clips").mkdir()
    Image.new("RGB", (32, 32), "red").save(tmp_path / "clips" / "red.png")
    (tmp_path / "clips" / "red.txt").write_text("red")
    words = [str(tmp_path / "clips"), str(tmp_path / "shown"), "--model", str(tiny_pipeline_folder), "--no-mouth"]
    main([*words, "--buckets", "1x32x32"])
    said = capsys.readouterr().out
    assert f"{tmp_path / 'shown' / '000-red.mp4'}: one frame, " in said
    assert not re.search(r"\d s\b", said)


def test_what_becomes_no_record_for_want_of_a_caption_is_told_in_the_line_of_its_file(
    tmp_path: Path, tiny_pipeline_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    frames = make_clip(12).frames
    assert frames is not None
    source = tmp_path / "clips"
    source.mkdir()
    for name in ("told", "x"):
        write_video(source / f"{name}.mp4", frames, 16)
    (source / "told.txt").write_text("a man")
    Image.new("RGB", (32, 32), "red").save(source / "red.png")
    main([str(source), str(tmp_path / "shown"), "--model", str(tiny_pipeline_folder), "--no-mouth"])
    lines = {line.split()[0].rstrip(":"): line for line in capsys.readouterr().out.splitlines()}
    untold = "it has no caption, so `jova prepare` leaves it out; write one into a .txt file of the same name"
    assert lines["x.mp4"].startswith("x.mp4 0.6 of 0.8 s; not ")
    assert f"; {untold}" in lines["x.mp4"]
    assert lines["red.png"].startswith(f"red.png: {untold}")
    assert "caption" not in lines["told.mp4"]


def test_words_that_are_heard_are_a_caption_of_a_clip_and_not_of_a_still(
    tmp_path: Path, tiny_pipeline_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    source = write_clips(tmp_path / "clips", ["a"], num_frames=9)
    (source / "a.txt").unlink()
    Image.new("RGB", (32, 32), "red").save(source / "red.png")
    options = ["--no-mouth", "--device", "cpu", "--whisper", str(save_speech_model(tmp_path / "speech"))]
    main([str(source), str(tmp_path / "shown"), "--model", str(tiny_pipeline_folder), *options])
    said = capsys.readouterr().out
    assert said.count("it has no caption") == 1
    assert "red.png: it has no caption" in said


def test_sound_alone_has_a_line_with_its_seconds_and_nothing_to_be_shown(
    tmp_path: Path, tiny_pipeline_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    source = write_clips(tmp_path / "clips", ["a"], num_frames=9)
    hum = np.sin(np.arange(16000) / 5).astype(np.float32) / 2
    for name in ("memo", "other"):
        write_audio(source / f"{name}.wav", hum, 16000)
    write_audio(source / "short.wav", hum[:800], 16000)
    for name in ("memo", "short"):
        (source / f"{name}.json").write_text(json.dumps({"audio_caption": "a hum"}))
    command = [str(source), str(tmp_path / "shown"), "--model", str(tiny_pipeline_folder), "--no-mouth"]
    main([*command, "--device", "cpu", "--buckets", "9x32x32"])
    lines = capsys.readouterr().out.splitlines()
    told = {line.split()[0].rstrip(":"): line for line in lines if line.split()[0].rstrip(":").endswith(".wav")}
    assert told["memo.wav"].startswith(
        "memo.wav 0.6 of 1.0 s; not 0.5 s at ends of shots, too short for a clip; sound"
    )
    assert told["memo.wav"].endswith("; sound alone, nothing to show")
    assert "; sound alone, nothing to show; it has no caption" in told["other.wav"]
    assert told["short.wav"].startswith("short.wav: left out: picture and sound last")
    main([*command, "--device", "cpu", "--buckets", "9x32x32", "--max-clips", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.split()[0].rstrip(":").endswith(".wav")] == ["memo.wav"]
    assert lines[-1] == "2 more files are sound alone; `--max-clips` tells more"
    assert (
        lines[-2] == "no caption in 1 of the files that were not looked at: other.wav; `jova prepare` leaves them out"
    )
