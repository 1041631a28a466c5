"""`jova prepare`: from a folder of clips to the records of a training, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io.wavfile
import torch
from safetensors.torch import load_file

from diffusers_jova.media import write_video
from diffusers_jova.training.data.dataset import PrecomputedDataset
from diffusers_jova.training.data.preparation import Preparer
from diffusers_jova.training.data.record import write_record
from diffusers_jova.training.prepare import main
from jova_cli.parser import DTYPES
from tests.command_words import replaced
from tests.prepared_clips import contents, record, save_speech_model, write_clips, write_recording
from tests.unusual_media import case


@pytest.mark.slow
def test_a_recording_of_two_minutes_becomes_records_with_their_own_words_and_every_second_is_told(
    tmp_path: Path, tiny_pipeline_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "clips").mkdir()
    words = write_recording(tmp_path / "clips" / "a.mp4")
    options = ["--buckets", "17x32x32", "33x32x32", "--cut", "all", "--no-mouth", "--frame-rate", "8"]
    main([str(tmp_path / "clips"), str(tmp_path / "cache"), "--model", str(tiny_pipeline_folder), *options])
    headers = [header for name, (header, _) in contents(tmp_path / "cache").items() if name.startswith("a-")]
    assert len(headers) > 20
    seen: list[str] = []
    for number, header in enumerate(headers):
        start_s, num_frames = float(header["start_s"]), int(header["num_frames"])
        end_s = start_s + num_frames / 8
        assert int(start_s // 24) == int((end_s - 1e-6) // 24)  # no clip spans a cut, they are 24 s apart
        own = [w.text for w in words if start_s < (w.start_s + w.end_s) / 2 < end_s]
        assert header["caption"] == f"a man <S>{' '.join(own)}<E>".replace(" <S><E>", "")
        assert header.get("num_clips") == (str(len(headers)) if number == len(headers) - 1 else None)
        seen += own
    assert len(seen) == len(set(seen)) > 0.6 * len(words)
    (told,) = json.loads((tmp_path / "cache" / "prepare.json").read_text())["clips"]
    assert told["used_s"] + sum(told["unused_s"].values()) == pytest.approx(told["length_s"])
    assert told["length_s"] == pytest.approx(120)
    said = capsys.readouterr().out
    assert f"a.mp4 {told['used_s']:.1f} of 120.0 s; not " in said
    assert all(f"{seconds:.1f} s {reason}" in said for reason, seconds in told["unused_s"].items())


def test_boxes_that_are_given_are_told_where_none_are_looked_for_and_mouths_are_required_of_them_alone(
    tmp_path: Path, tiny_pipeline_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    source = write_clips(tmp_path / "clips", ["a", "b"], num_frames=9)
    (source / "b.boxes.json").unlink()
    words = ["--model", str(tiny_pipeline_folder), "--buckets", "9x32x32", "--no-mouth", "--device", "cpu"]
    main([str(source), str(tmp_path / "cache"), *words])
    assert "a mouth in at least half of the frames of 1 of 1 clips:\n  a.mp4 100%\n" in capsys.readouterr().out
    main([str(source), str(tmp_path / "other"), *words, "--require-mouth"])
    said = capsys.readouterr().out
    assert said.startswith("1 files prepared")
    assert (
        "skipped 1: a mouth is visible in 0% of the frames, since no boxes are given and none are looked for (b.mp4)"
    ) in said


def test_records_that_other_settings_leave_nothing_of_are_told_to_be_removed(
    tmp_path: Path, tiny_pipeline_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    source = write_clips(tmp_path / "clips", ["a"], num_frames=9)
    words = [str(source), str(tmp_path / "cache"), "--model", str(tiny_pipeline_folder), "--device", "cpu"]
    main([*words, "--buckets", "9x32x32"])
    capsys.readouterr()
    with pytest.raises(SystemExit, match="1"):
        main([*words, "--buckets", "9x32x64"])
    assert "; what an earlier run made of it is removed, 1 record (a.mp4)" in capsys.readouterr().out


def test_heard_words_complete_parts_and_leave_whole_captions_alone(
    tmp_path: Path, tiny_pipeline_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    source = write_clips(tmp_path / "clips", ["whole", "parts", "words"], num_frames=9)
    for name, texts in {"parts": {}, "words": {"transcript": "hi"}}.items():
        (source / f"{name}.txt").unlink()
        (source / f"{name}.json").write_text(json.dumps({"video_caption": "a man"} | texts))
    command = [str(source), str(tmp_path / "cache"), "--model", str(tiny_pipeline_folder), "--device", "cpu"]
    main([*command, "--whisper", str(save_speech_model(tmp_path / "speech"))])
    captions = {
        name.split("-")[0]: header["caption"]
        for name, (header, _) in contents(tmp_path / "cache").items()
        if "prompts" not in name
    }
    assert captions == {"whole": "clip whole", "parts": "a man <S>X<E>", "words": "a man <S>hi<E>"}
    assert "`--whisper` leaves 1 captions as they are: whole.mp4; write" in capsys.readouterr().out


def test_the_command_names_records_of_clips_that_are_gone_and_an_output_that_is_no_folder(
    tmp_path: Path, tiny_pipeline_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    source = write_clips(tmp_path / "clips")
    command = [str(source), str(tmp_path / "cache"), "--model", str(tiny_pipeline_folder), "--device", "cpu"]
    main(command)
    assert "more records" not in capsys.readouterr().out
    (source / "b.mp4").unlink()
    main(command)
    assert "1 more records are of other clips and will be trained: b-" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([str(source), str(source / "a.txt"), *command[2:]])
    assert "`output` must be a folder that can be written, got" in capsys.readouterr().err


def test_a_clip_without_memory_names_what_takes_less(
    tmp_path: Path, tiny_pipeline_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def no_memory(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(Preparer, "_encode", no_memory)
    source = write_clips(tmp_path / "clips", ["a"])
    with pytest.raises(SystemExit, match="2"):
        main([str(source), str(tmp_path / "cache"), "--model", str(tiny_pipeline_folder), "--device", "cpu"])
    assert "got 'CUDA out of memory. Tried to allocate 2.00 GiB.'; use smaller `--buckets`" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_command_prepares_a_folder(
    dtype: str, tmp_path: Path, tiny_pipeline_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    source = write_clips(tmp_path / "clips", ["a"])
    options = ["--model", str(tiny_pipeline_folder), "--device", "cpu", "--dtype", dtype]
    main([str(source), str(tmp_path / "cache"), *options])
    assert "1 files prepared" in capsys.readouterr().out
    (header,) = PrecomputedDataset(tmp_path / "cache").headers
    assert header.dtypes["video_latents"] == header.dtypes["prompt_embeds"] == getattr(torch, dtype)


def test_silent_clips_are_left_out_of_a_recording_and_of_a_folder_on_request(
    tmp_path: Path, tiny_pipeline_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    source = write_clips(tmp_path / "clips", ["a", "b", "c"], num_frames=27)
    frames = np.zeros((27, 32, 32, 3), np.uint8)
    write_video(source / "b.mp4", frames, 16)
    sound = np.sin(np.arange(27000) / 4).astype(np.float32) / 2
    sound[9500:] = 0  # the second clip rings out for a codec's block, the third is silent
    scipy.io.wavfile.write(source / "c.wav", 16000, sound)
    command = [str(source), str(tmp_path / "cache"), "--model", str(tiny_pipeline_folder), "--no-mouth"]
    main([*command, "--buckets", "9x32x32", "--cut", "all", "--require-sound"])
    said = capsys.readouterr().out
    assert "skipped 1: no sound (b.mp4)" in said
    assert "c.mp4 1.1 of 1.7 s; not 0.6 s of silence (`--require-sound`)" in said
    headers = [header for name, (header, _) in contents(tmp_path / "cache").items() if "prompts" not in name]
    assert [header["has_audio"] for header in headers] == ["1"] * 5
    main([*command, "--buckets", "9x32x32", "--cut", "all"])
    assert "no sound in 1: b.mp4; they train the picture alone" in capsys.readouterr().out


def test_a_clip_that_is_silent_is_counted_as_one_and_silence_is_called_by_one_name(
    tmp_path: Path, tiny_pipeline_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    source = write_clips(tmp_path / "clips", ["a", "b", "c", "d"], num_frames=18)
    hum = np.sin(np.arange(9000) / 4, dtype=np.float32)
    for name, sound in {"a": [0 * hum, hum], "b": [0 * hum, 0 * hum]}.items():
        scipy.io.wavfile.write(source / f"{name}.wav", 16000, np.concatenate(sound))
    (source / "a.boxes.json").write_text(json.dumps([[[8, 16, 16, 22]] * 9 + [None] * 9]))
    write_video(source / "c.mp4", np.zeros((18, 32, 32, 3), np.uint8), 16)
    command = ["--model", str(tiny_pipeline_folder), "--no-mouth", "--buckets", "9x32x32", "--cut", "all"]
    for _ in range(2):
        main([str(source), str(tmp_path / "cache"), *command])
        said = capsys.readouterr().out
        assert "no sound in 2: b.mp4, c.mp4; they train the picture alone" in said
        assert "no sound in some clips of 1: a.mp4 (1 of 2); those train the picture alone" in said
    summary = json.loads((tmp_path / "cache" / "prepare.json").read_text())["clips"]
    assert [clip["num_silent"] for clip in summary] == [1, 2, 2, 0]
    assert [clip["num_speaking"] for clip in summary] == [0, 0, 0, 2]  # no mouth is seen in what is heard of a.mp4
    main([str(source), str(tmp_path / "heard"), *command, "--require-sound", "--require-mouth"])
    said = capsys.readouterr().out
    lacking = "the sound is silence in 1 clip, a mouth is visible in 0% of the frames in 1 clip"
    assert f"skipped 1: {lacking} (a.mp4)" in said
    assert "skipped 1: the sound is silence (b.mp4)" in said
    asked = [*command, "--require-sound", "--require-mouth"]
    main([str(source), str(tmp_path / "measured"), *asked, "--filter", "clipped_share=..1", "--filter-report"])
    left_out = json.loads((tmp_path / "measured" / "filter_report.json").read_text())["left_out"]
    assert [each["note"] for each in left_out] == [lacking, "the sound is silence", "no sound"]


def test_silence_is_in_sync_with_nothing_and_no_sound_is_told_from_it(
    tmp_path: Path, tiny_pipeline_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    source = write_clips(tmp_path / "clips", ["b", "c"], num_frames=9)
    scipy.io.wavfile.write(source / "b.wav", 16000, np.zeros(9000, np.float32))
    write_video(source / "c.mp4", np.zeros((9, 32, 32, 3), np.uint8), 16)
    command = ["--model", str(tiny_pipeline_folder), "--no-mouth", "--buckets", "9x32x32", "--min-sync", "0.5"]
    with pytest.raises(SystemExit, match="1"):
        main([str(source), str(tmp_path / "cache"), *command])
    said = capsys.readouterr().out
    assert "skipped 1: the sound is silence (b.mp4)" in said
    assert "skipped 1: no sound (c.mp4)" in said


def test_truncated_files_tracks_and_shapes_are_asked_for_by_the_words_of_generate(
    tmp_path: Path, tiny_pipeline_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    source = write_clips(tmp_path / "clips", ["a"], num_frames=30)
    cut_off = case("cut_60.mp4", source)
    for name in ("cut_60", "tracks"):
        (source / f"{name}.txt").write_text("orange and blue")
    case("second_is_default.mkv", source).rename(source / "tracks.mkv")
    command = [str(source), str(tmp_path / "cache"), "--model", str(tiny_pipeline_folder), "--no-mouth"]
    main([*command, "--buckets", "9x32x32"])
    said = capsys.readouterr().out
    assert f"broken {cut_off}: `path` must be a whole file" in said
    assert "copy it again, or take what is there by `--allow-truncated`" in said
    assert "of another shape" not in said  # two thirds are kept
    main(
        [*command, "--buckets", "5x32x80", "--allow-truncated", "--audio-track", "0", "--fit", "contain", "--upscale"]
    )
    said = capsys.readouterr().out
    assert "3 files prepared" in said
    assert "of another shape 1: a.mp4, the picture fills 40% of the clip; give `--buckets` of theirs" in said
    summary = json.loads((tmp_path / "cache" / "prepare.json").read_text())["settings"]["clips"]
    assert (summary["fit"], summary["allow_truncated"], summary["audio_track"]) == ("contain", True, 0)
    main([*command, "--audio-track", "1", "--allow-truncated"])
    assert "`--audio-track` must be from 0 to 0 for" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fit", "zoom"], "`--fit` must be one of cover, contain, stretch, got zoom"),
        (["--fit", "contain", "--centre-crop"], "`--centre-crop` must go with `--fit cover`, got `--fit contain`"),
        (["--audio-track=-1"], "`--audio-track` must be counted from 0, got -1"),
        (["--buckets", "10x32x32"], "use 9 or 13"),
        (["--buckets", "9x40x32"], "multiples of 16"),
        (["--buckets", "0x32x32"], "use 1 or 5"),
        (["--model", "nowhere"], "the model must be a folder with a `model_index.json`, got nowhere"),
        (["--frame-rate", "0"], "`--frame-rate` must be a number from 0.001 to 1000, got 0; use 24, say"),
        (["--frame-rate", "1e-5"], "`--frame-rate` must be a number from 0.001 to 1000, got 1e-05"),
        (["--frame-rate", "inf"], "`--frame-rate` must be a number from 0.001 to 1000, got inf"),
        (["--loudness-lufs", "nan"], "`--loudness-lufs` must be a number from -70 to 0, got nan; use -23, say"),
        (["--loudness-lufs=-inf"], "`--loudness-lufs` must be a number from -70 to 0, got -inf"),
        (["--min-sync", "nan"], "`--min-sync` must be a number from -1 to 1, got nan; use 0.5, say"),
        (["--dtype", "fp8"], "`--dtype` must be one of float32, bfloat16, float16, got fp8"),
        (["--num-processes", "0"], "`--num-processes` must be at least 1, got 0"),
        (["--device", "abacus"], "`--device` must be a device of this machine, got abacus"),
        (["--whisper", "nowhere"], "`--whisper` must be an existing folder, got `nowhere` (No such"),
    ],
)
def test_the_command_explains_what_is_wrong(
    tmp_path: Path, tiny_pipeline_folder: Path, capsys: pytest.CaptureFixture, arguments: list[str], message: str
) -> None:
    source = write_clips(tmp_path / "clips", ["a"])
    with pytest.raises(SystemExit):
        main(replaced([str(source), str(tmp_path / "cache"), "--model", str(tiny_pipeline_folder)], *arguments))
    assert message in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()


def test_records_do_not_go_among_the_clips(
    tmp_path: Path, tiny_pipeline_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    source = write_clips(tmp_path / "clips", ["a"])
    before = {*source.iterdir()}
    with pytest.raises(SystemExit):
        main([str(source), str(source / "." / ""), "--model", str(tiny_pipeline_folder)])
    assert "output must be a folder of its own, got that of the clips" in capsys.readouterr().err
    assert {*source.iterdir()} == before


def test_a_still_image_becomes_a_record_of_one_frame_that_trains_the_picture_alone(
    tiny_pipeline_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    from diffusers_jova.training.loop.trainer import Trainer
    from tests.tiny_training import tiny_config

    source = write_clips(tmp_path / "clips", ["a"])
    for name in ("one", "two"):
        Image.new("RGB", (32, 32), (200, 40, 40)).save(source / f"{name}.png")
        (source / f"{name}.txt").write_text(f"a red square, {name}")
    words = ["--model", str(tiny_pipeline_folder), "--buckets", "9x32x32", "--no-mouth", "--dtype", "fp32"]
    main([str(source), str(tmp_path / "prepared"), *words])
    assert "still images 2: one.png, two.png; they train the picture alone" in capsys.readouterr().out
    dataset = PrecomputedDataset(tmp_path / "prepared")
    assert sorted(len(bucket) for bucket in dataset.buckets) == [1, 2]
    (stills,) = (bucket for bucket in dataset.buckets if len(bucket) == 2)
    batch = dataset.batch(stills)
    assert batch["video_latents"].shape == (2, 16, 1, 4, 4)
    assert (batch["audio_latents"], batch["image_latents"]) == (None, None)
    run = {"data": str(tmp_path / "prepared"), "model": str(tiny_pipeline_folder), "batch_size": 1, "steps": 6}
    trainer = Trainer(tiny_config(tmp_path, **run, prefix_probability=1.0, image_probability=1.0, mouth_weight=0))
    inputs = trainer.conditioning(batch, seed=0)
    assert inputs.has_video.all()
    assert not inputs.has_audio.any()
    assert float(trainer.loss(inputs).total.detach().mean()) > 0
    trainer.train()


def test_training_shows_the_first_frame_that_the_pipeline_shows_with_grey_frames_behind_it(tmp_path: Path) -> None:
    from diffusers_jova.media import read_video
    from diffusers_jova.training.loop.trainer import Trainer
    from tests.tiny_pipeline import build_tiny_pipeline
    from tests.tiny_training import tiny_config

    pipe = build_tiny_pipeline(fills_image_with_grey=True, starts_white=True)
    pipe.save_pretrained(tmp_path / "grey")
    source = write_clips(tmp_path / "clips", ["a"])
    words = ["--buckets", "9x32x32", "--no-mouth", "--dtype", "fp32"]
    main([str(source), str(tmp_path / "prepared"), "--model", str(tmp_path / "grey"), *words])
    run = {"data": str(tmp_path / "prepared"), "model": str(tmp_path / "grey"), "batch_size": 1, "mouth_weight": 0}
    trainer = Trainer(tiny_config(tmp_path, **run, image_probability=1.0))
    batch = trainer.dataset.batch([0])

    calls: list[dict[str, Any]] = []
    hook = pipe.transformer.register_forward_pre_hook(lambda _, __, call: calls.append(call), with_kwargs=True)
    first = read_video(source / "a.mp4").frames[0]
    pipe("clip a", image=first, num_frames=9, num_inference_steps=1, output_type="latent")
    hook.remove()
    shown = calls[0]["hidden_states"][:1, 16:]
    assert shown[:, :16, 1:].any()
    torch.testing.assert_close(trainer.conditioning(batch, seed=0).arguments["hidden_states"][:, 16:], shown)

    for model in (tmp_path / "grey", tmp_path / "grey" / "transformer"):
        with pytest.raises(ValueError, match=r"`image_probability` must be 1, .* \(`starts_white`\), got 0.5; set"):
            Trainer(tiny_config(tmp_path, **run | {"model": str(model)}, image_probability=0.5))
    pipe.transformer.save_pretrained(tmp_path / "alone")  # whose clips tell which pipeline they are for
    with pytest.raises(ValueError, match="`image_probability` must be 1"):
        Trainer(tiny_config(tmp_path, **run | {"model": str(tmp_path / "alone")}))


def test_first_frames_of_another_pipeline_are_refused(tiny_pipeline_folder: Path, tmp_path: Path) -> None:
    from diffusers_jova.training.loop.trainer import Trainer
    from tests.tiny_pipeline import build_tiny_pipeline
    from tests.tiny_training import tiny_config

    build_tiny_pipeline(fills_image_with_grey=True).save_pretrained(tmp_path / "grey")
    source = write_clips(tmp_path / "clips", ["a"])
    models = {"plain": tiny_pipeline_folder, "grey": tmp_path / "grey"}
    words = ["--buckets", "9x32x32", "--no-mouth", "--dtype", "fp32"]
    for name, model in models.items():
        main([str(source), str(tmp_path / f"{name}-clips"), "--model", str(model), *words])
    for name, data, rule in (("grey", "plain", r"3 .* grey frames .* got 1"), ("plain", "grey", r"1 .* nothing .* 3")):
        run = {"data": str(tmp_path / f"{data}-clips"), "model": str(models[name]), "batch_size": 1}
        with pytest.raises(ValueError, match=f"`image_latents` must have {rule} in .* delete the records"):
            Trainer(tiny_config(tmp_path, **run, image_probability=0.2, mouth_weight=0))
        Trainer(tiny_config(tmp_path, **run, mouth_weight=0))  # no first frame is shown
    for path in (tmp_path / "grey-clips").glob("*.safetensors"):
        shutil.copy(path, tmp_path / "plain-clips" / f"other-{path.name}")
    for path in (tmp_path / "plain-clips").glob("*.safetensors"):
        write_record(path, load_file(path), record(path)[0] | {"preparation": "one"})
    with pytest.raises(ValueError, match=r"`image_latents` in .* must all have grey frames behind the first or all"):
        PrecomputedDataset(tmp_path / "plain-clips")
