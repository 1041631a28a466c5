"""Preparing encodes every clip once, survives broken ones, and never leaves a half-written record."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import scipy.io.wavfile
import torch
from safetensors import safe_open

from diffusers_jova import JoVAPipeline
from diffusers_jova.media import write_video
from diffusers_jova.prompt import JoVAPrompt
from diffusers_jova.training.data.dataset import PrecomputedDataset
from diffusers_jova.training.data.encoder import Encoder, fingerprint_model, video_factors
from diffusers_jova.training.data.filter_report import Surveyor
from diffusers_jova.training.data.manifest import Sample, read_samples
from diffusers_jova.training.data.preparation import Preparer, _digest, prepare
from diffusers_jova.training.data.record import EMPTY_PROMPT
from diffusers_jova.training.data.subtitles import Speech
from diffusers_jova.training.data.summary import Outcome, describe, describe_found, describe_sounds
from tests.prepared_clips import contents, make_preparer, record, save_speech_model, write_clips


@pytest.fixture(scope="module")
def prepared(tiny_pipeline_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    source = write_clips(folder / "clips")
    (source / "c.mp4").write_bytes(b"no video")
    (source / "c.txt").write_text("broken")
    write_clips(source, ["short"], num_frames=5)
    outcomes = prepare(read_samples(source), make_preparer(tiny_pipeline_folder, folder / "cache"))
    assert sorted(outcome.status for outcome in outcomes) == ["broken", "kept", "kept", "skipped"]
    return folder / "cache"


def test_a_record_is_what_the_pipeline_encodes(prepared: Path, tiny_pipeline_folder: Path) -> None:
    from diffusers_jova.media import read_video

    pipe = JoVAPipeline.from_pretrained(tiny_pipeline_folder)
    video = read_video(prepared.parent / "clips" / "a.mp4")
    assert video.audio is not None
    pixels = torch.from_numpy(video.frames[:9]).movedim(3, 0)[None].float() / 127.5 - 1
    batch = PrecomputedDataset(prepared).batch([0])
    with torch.no_grad():
        latents = pipe.vae.encode(pixels).latent_dist.mean
        mean, std = (
            torch.tensor(x).view(1, -1, 1, 1, 1) for x in (pipe.vae.config.latents_mean, pipe.vae.config.latents_std)
        )
        sound = torch.nn.functional.pad(torch.from_numpy(video.audio[None, :, :9000]), (0, 216))  # 18 latents
        audio = pipe.audio_codec.encode(sound)
        embeds = pipe.encode_prompt("clip a", do_classifier_free_guidance=False)[0]
        first = pipe.vae.encode(pixels[:, :, :1]).latent_dist.mean
    torch.testing.assert_close(batch["video_latents"], (latents - mean) / std, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(batch["image_latents"], (first - mean) / std, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(batch["audio_latents"], audio, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(batch["prompt_embeds"], embeds.features)


def test_single_frames_are_encoded_as_the_pipeline_encodes_keyframes(
    prepared: Path, tiny_pipeline_folder: Path
) -> None:
    from diffusers_jova.media import read_video

    samples = read_samples(prepared.parent / "clips")[:1]
    without = make_preparer(tiny_pipeline_folder, prepared)
    settings = replace(without.settings, keyframes=True)
    preparer = replace(without, output=prepared.parent / "keyframes", settings=settings)
    (outcome,) = prepare(samples, preparer)
    assert outcome.status == "kept"
    batch = PrecomputedDataset(prepared.parent / "keyframes").batch([0])
    last = torch.from_numpy(read_video(prepared.parent / "clips" / "a.mp4").frames[8])
    pixels = last.movedim(2, 0)[None, :, None].float() / 127.5 - 1
    with torch.no_grad():
        still = JoVAPipeline.from_pretrained(tiny_pipeline_folder).video_codec.encode_still(pixels)
    torch.testing.assert_close(batch["keyframe_latents"][:, :, -1:], still, rtol=1e-4, atol=1e-4)
    assert batch["has_keyframe"].tolist() == [1]
    assert without.preparation != preparer.preparation


def test_prepared_clips_make_batches_with_masks(prepared: Path) -> None:
    dataset = PrecomputedDataset(prepared)
    (indices,) = dataset.buckets
    batch = dataset.batch(indices)
    assert batch["video_latents"].shape == (2, 16, 3, 4, 4)
    assert batch["audio_latents"].shape[1] == round(9 / 16 * 31.25)
    assert batch["mouth_mask"][0, 0].sum(dim=(1, 2)).tolist() == [1, 2, 2]  # 8..16, 9..20, 13..24 of 8-pixel cells
    assert batch["has_audio"].tolist() == batch["has_video"].tolist() == [1, 1]
    assert sorted(batch["captions"]) == ["clip a", "clip b"]
    assert dataset.empty_prompt()["prompt_embeds"].shape[1:] == batch["prompt_embeds"].shape[1:]


def test_the_header_describes_the_clip(prepared: Path) -> None:
    with safe_open(next(prepared.glob("a-*.safetensors")), framework="pt") as file:
        header = file.metadata()
    expected = {"num_frames": "9", "height": "32", "frame_rate": "16", "sampling_rate": "16000", "caption": "clip a"}
    assert expected.items() <= header.items()
    assert {"has_video", "has_audio", "spatial_factor", "temporal_factor", "fingerprint"} <= header.keys()


def test_the_summary_says_what_was_kept_and_why_the_rest_was_not(prepared: Path) -> None:
    summary = json.loads((prepared / "prepare.json").read_text())
    by_name = {Path(clip["source"]).stem: clip for clip in summary["clips"]}
    assert by_name["a"]["status"] == "kept"
    assert by_name["short"]["note"] == "picture and sound last 5 frames at 16 per second; a bucket needs 9"
    assert "must be a media file that libav can decode" in by_name["c"]["note"]
    text = describe([Outcome(**clip) for clip in summary["clips"]])
    rest = "s at ends of shots, too short for a clip"
    lines = (
        "2 files prepared, 0 were up to date, 2 records",
        f"used 1.1 of 1.8 s; not 0.4 {rest}, 0.3 s of recordings that are skipped",
        f"  a.mp4 0.6 of 0.8 s; not 0.2 {rest}",
        f"  b.mp4 0.6 of 0.8 s; not 0.2 {rest}",
        "a mouth in at least half of the frames of 2 of 2 clips:",
        "  a.mp4 100%",
        "  b.mp4 100%",
        "skipped 1: picture and sound last 5 frames",
    )
    assert text.startswith("\n".join(lines))
    assert "a bucket needs 9 (short.mp4)" in text


def test_a_rerun_does_nothing_and_a_new_caption_redoes_its_clip_alone(
    tmp_path: Path, tiny_pipeline_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_clips(tmp_path / "clips")
    preparer = make_preparer(tiny_pipeline_folder, tmp_path / "cache")
    prepare(read_samples(source), preparer)
    before = contents(tmp_path / "cache")
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("*.safetensors")}
    assert {outcome.status for outcome in prepare(read_samples(source), preparer)} == {"done"}
    assert stamps == {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("*.safetensors")}

    assert "anew" not in capsys.readouterr().out

    (source / "a.txt").write_text("another")
    statuses = {Path(o.source).stem: o.status for o in prepare(read_samples(source), preparer)}
    assert statuses == {"a": "kept", "b": "done"}
    told = "1 file is prepared anew: the files, their captions or the model have changed\n"
    assert capsys.readouterr().out == told
    after = contents(tmp_path / "cache")
    assert after.keys() == before.keys()
    assert [name for name in after if after[name] != before[name]] == [name for name in after if name.startswith("a-")]


def test_other_settings_replace_the_records_and_leave_none_behind(
    tmp_path: Path, tiny_pipeline_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_clips(tmp_path / "clips", ["a"], num_frames=20)
    output = tmp_path / "cache"
    prepare(read_samples(source), make_preparer(tiny_pipeline_folder, output, cut="all"))
    assert len(list(output.glob("a-*.safetensors"))) == 2
    assert "anew" not in capsys.readouterr().out
    prepare(read_samples(source), make_preparer(tiny_pipeline_folder, output))
    assert len(list(output.glob("a-*.safetensors"))) == 1
    assert capsys.readouterr().out == '1 file is prepared anew: `cut` was "all", is "first"\n'
    (output / "prepare.json").write_text("[]")
    (source / "a.boxes.json").write_text("[]")
    (outcome,) = prepare(read_samples(source), make_preparer(tiny_pipeline_folder, output, require_mouth=True))
    assert outcome.status == "skipped"
    assert not list(output.glob("a-*.safetensors"))


def test_an_interrupted_run_is_marked_until_another_one_completes_it(
    tmp_path: Path, tiny_pipeline_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = read_samples(write_clips(tmp_path / "clips"))
    preparer = make_preparer(tiny_pipeline_folder, tmp_path / "cache")
    prepare_one = Preparer.__call__

    def interrupt(preparer: Preparer, sample: Sample) -> Outcome:
        if sample.source.stem == "b":
            raise KeyboardInterrupt
        return prepare_one(preparer, sample)

    monkeypatch.setattr(Preparer, "__call__", interrupt)
    with pytest.raises(KeyboardInterrupt):
        prepare(samples, preparer)
    assert len(unfinished := PrecomputedDataset(tmp_path / "cache")) == 1
    assert unfinished.is_unfinished
    monkeypatch.undo()
    prepare(samples, preparer)
    assert len(finished := PrecomputedDataset(tmp_path / "cache")) == 2
    assert not finished.is_unfinished


def test_clips_prepared_with_other_settings_do_not_mix_with_the_earlier_ones(
    tmp_path: Path, tiny_pipeline_folder: Path
) -> None:
    source, output = write_clips(tmp_path / "clips"), tmp_path / "cache"
    prepare(read_samples(source), make_preparer(tiny_pipeline_folder, output))
    earlier = PrecomputedDataset(output).preparation
    assert {header.metadata["loudness_lufs"] for header in PrecomputedDataset(output).headers} == {""}
    louder = make_preparer(tiny_pipeline_folder, output, loudness_lufs=-23.0)
    prepare(read_samples(source)[:1], louder)
    with pytest.raises(ValueError, match="must come from one model and the same settings"):
        PrecomputedDataset(output)
    prepare(read_samples(source), louder)
    assert PrecomputedDataset(output).preparation == louder.preparation != earlier
    assert {header.metadata["loudness_lufs"] for header in PrecomputedDataset(output).headers} == {"-23.0"}
    other_model = replace(louder, model_fingerprint="another")
    assert other_model.preparation != louder.preparation


def test_clips_without_sound_are_named_in_the_first_run_and_in_later_ones(
    tmp_path: Path, tiny_pipeline_folder: Path
) -> None:
    source = write_clips(tmp_path / "clips", ["a", "b"])
    write_video(source / "b.mp4", np.zeros((12, 32, 32, 3), np.uint8), 16)
    preparer = make_preparer(tiny_pipeline_folder, tmp_path / "cache")
    for _ in range(2):
        assert "\nno sound in 1: b.mp4; they train the picture alone" in describe(
            prepare(read_samples(source), preparer)
        )


def test_clips_without_a_mouth_are_counted_and_named_in_the_first_run_and_in_later_ones(
    tmp_path: Path, tiny_pipeline_folder: Path
) -> None:
    source = write_clips(tmp_path / "clips", ["a", "b"], num_frames=20)
    (source / "b.boxes.json").write_text("[]")
    write_clips(source, ["c"], num_frames=20)
    (source / "c.boxes.json").write_text(json.dumps([[[8, 16, 16, 22]] * 9 + [None] * 11]))
    preparer = make_preparer(tiny_pipeline_folder, tmp_path / "cache", cut="all")
    for _ in range(2):
        text = describe(prepare(read_samples(source), preparer))
        assert (
            "\na mouth in at least half of the frames of 3 of 6 clips:\n  b.mp4 0%, 0%\n  c.mp4 100%, 0%\n  a.mp4"
            in text
        )


def test_clips_that_speak_without_words_are_named_in_the_first_run_and_in_later_ones(
    tmp_path: Path, tiny_pipeline_folder: Path
) -> None:
    source = write_clips(tmp_path / "clips", ["a", "b", "c"], num_frames=20)
    for name in "ab":
        (source / f"{name}.txt").unlink()
        (source / f"{name}.json").write_text('{"video_caption": "a man"}')
    (source / "a.srt").write_text("1\n00:00:00,050 --> 00:00:00,450\none\n")
    preparer = make_preparer(tiny_pipeline_folder, tmp_path / "cache", cut="all")
    for _ in range(2):
        text = describe(prepare(read_samples(source), preparer))
        assert "\na mouth and sound, but no words, in 3 of 6 clips: a.mp4 (1 of 2), b.mp4 (2 of 2); " in text
    (source / "b.boxes.json").write_text("[]")  # nobody is seen
    text = describe(prepare(read_samples(source), preparer))
    assert "\na mouth and sound, but no words, in 1 of 4 clips: a.mp4 (1 of 2); " in text


def test_the_sound_of_another_file_is_told(tmp_path: Path) -> None:
    samples = [Sample(video=tmp_path / "a.mp4"), Sample(audio=tmp_path / "b.wav")]
    assert describe_sounds(samples) == ""
    samples.append(Sample(video=tmp_path / "c.mp4", audio=tmp_path / "c.wav"))
    assert describe_sounds(samples) == "the sound of 1 is another file: c.wav with c.mp4\n"


def test_files_of_one_name_in_two_folders_are_told_apart(tmp_path: Path) -> None:
    mouths = {"share": 1.0, "num_faces": 1, "num_jumps": 0}
    outcomes = [
        Outcome(
            str(tmp_path / name), "kept", num_records=1, mouths=[{**mouths, "cut_share": cut_share}],
            length_s=2.0, used_s=1.0, unused_s={"x": 1.0},
        )
        for name, cut_share in (("100/IMG_1.mov", 1.0), ("101/IMG_1.mov", 0.0), ("100/IMG_2.mov", 0.0))
    ]  # fmt: skip
    text = describe(outcomes)
    assert "\n  100/IMG_1.mov 1.0 of 2.0 s; not 1.0 s x\n  IMG_2.mov 1.0 of" in text
    assert "\nfaces that the crop cuts in 1: 100/IMG_1.mov (100%); " in text


def test_a_damaged_record_is_made_again(tmp_path: Path, tiny_pipeline_folder: Path) -> None:
    source = write_clips(tmp_path / "clips", ["a"])
    preparer = make_preparer(tiny_pipeline_folder, tmp_path / "cache")
    prepare(read_samples(source), preparer)
    (path,) = (tmp_path / "cache").glob("*.safetensors")
    whole = record(path)
    path.write_bytes(path.read_bytes()[:-100])
    assert prepare(read_samples(source), preparer)[0].status == "kept"
    assert record(path) == whole


def test_a_full_disk_is_explained_and_keeps_what_was_done(
    tmp_path: Path, tiny_pipeline_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_clips(tmp_path / "clips")
    preparer = make_preparer(tiny_pipeline_folder, tmp_path / "cache")
    write, calls = Path.write_bytes, []

    def fill(path: Path, data: bytes) -> int:
        calls.append(path)
        if len(calls) > 2:  # the empty prompt and the first clip fit
            write(path, data[:50])
            raise OSError(28, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", fill)
    with pytest.raises(OSError, match=r"cache` could not be written .* what is complete is kept"):
        prepare(read_samples(source), preparer)
    monkeypatch.undo()
    assert len(PrecomputedDataset(tmp_path / "cache")) == 1
    assert not list((tmp_path / "cache").glob(".*"))
    assert sorted(o.status for o in prepare(read_samples(source), preparer)) == ["done", "kept"]


def test_another_model_means_other_records(tiny_pipeline_folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(tiny_pipeline_folder, copy, copy_function=shutil.copyfile)  # on another machine, at another time
    assert fingerprint_model(copy) == fingerprint_model(tiny_pipeline_folder)
    config = json.loads((copy / "vae" / "config.json").read_text())
    config["latents_mean"][0] += 1
    (copy / "vae" / "config.json").write_text(json.dumps(config))
    assert fingerprint_model(copy) != fingerprint_model(tiny_pipeline_folder)
    shutil.copyfile(tiny_pipeline_folder / "vae" / "config.json", copy / "vae" / "config.json")
    weights = copy / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert fingerprint_model(copy) != fingerprint_model(tiny_pipeline_folder)


def test_the_geometry_of_a_model_is_read_from_its_configs(tiny_pipeline_folder: Path) -> None:
    assert video_factors(tiny_pipeline_folder) == (8, 4, 16)


def test_a_prompt_of_three_parts_is_rendered_by_the_template_of_the_pipeline(tiny_pipeline_folder: Path) -> None:
    encoder = Encoder.from_pretrained(tiny_pipeline_folder, dtype=torch.float32)
    parts = encoder.encode_prompt(JoVAPrompt("a man", "a voice", "hi"))
    whole = encoder.encode_prompt("a man <S>hi<E> <AUDCAP>a voice<ENDAUDCAP>")
    assert torch.equal(parts["prompt_embeds"], whole["prompt_embeds"])


def test_a_missing_transcript_is_written_by_a_speech_model(tmp_path: Path, tiny_pipeline_folder: Path) -> None:
    preparer = make_preparer(tiny_pipeline_folder, tmp_path / "cache")
    settings = replace(preparer.settings, whisper=save_speech_model(tmp_path / "speech"))
    source = write_clips(tmp_path / "clips", ["a"], num_frames=9)
    (source / "a.txt").unlink()
    prepare(read_samples(source, captions_required=False), replace(preparer, settings=settings))
    ((header, _),) = (value for name, value in contents(tmp_path / "cache").items() if name.startswith("a-"))
    assert header["caption"] == "<S>X<E>"


def test_seconds_of_a_recording_that_is_skipped_as_a_whole_are_told(
    tmp_path: Path, tiny_pipeline_folder: Path
) -> None:
    source = write_clips(tmp_path / "clips", ["a"], num_frames=20)
    preparer = make_preparer(tiny_pipeline_folder, tmp_path / "cache", cut="all", min_sync=0.999)
    outcomes = prepare(read_samples(source), preparer)
    assert [(outcome.status, outcome.length_s) for outcome in outcomes] == [("skipped", 20 / 16)]
    said = describe(outcomes)
    assert "\nused 0.0 of 1.2 s; not 1.2 s of recordings that are skipped\nskipped 1: mouth and sound corr" in said


def test_a_clip_whose_prompt_stays_empty_is_reported_and_skipped(tmp_path: Path, tiny_pipeline_folder: Path) -> None:
    source, output = write_clips(tmp_path / "clips", num_frames=20), tmp_path / "cache"
    (source / "a.txt").unlink()
    samples = read_samples(source, captions_required=False)
    outcomes = prepare(samples, make_preparer(tiny_pipeline_folder, output))
    assert [outcome.status for outcome in outcomes] == ["skipped", "kept"]
    assert "skipped 1: it has no caption; write one into" in describe(outcomes)
    assert [path.name[:2] for path in output.glob("*.safetensors")] == ["b-"]


def test_the_clips_of_a_file_in_which_no_word_is_heard_are_left_out_alone(
    tmp_path: Path, tiny_pipeline_folder: Path
) -> None:
    source = write_clips(tmp_path / "clips", ["a"], num_frames=27)
    (source / "a.txt").unlink()
    preparer = make_preparer(tiny_pipeline_folder, tmp_path / "cache", cut="all")
    preparer = replace(preparer, settings=replace(preparer.settings, whisper=tmp_path))
    vars(preparer)["_transcriber"] = lambda *_: [Speech("one", 0.0, 0.5), Speech("three", 1.2, 1.6)]
    outcomes = prepare(read_samples(source, captions_required=False), preparer)
    headers = [record(path)[0] for path in sorted((tmp_path / "cache").glob("*.safetensors"))]
    assert [(header["caption"], header.get("num_clips")) for header in headers] == [
        ("<S>one<E>", None),
        ("<S>three<E>", "2"),
    ]
    for told in (outcomes, prepare(read_samples(source, captions_required=False), preparer)):
        assert "used 1.1 of 1.7 s; not 0.6 s whose prompt is empty\n" in describe(told)
        assert "\nleft out of 1: a.mp4; the prompt is empty" in describe(told)


@pytest.mark.slow
def test_several_processes_write_the_records_of_one(tmp_path: Path, tiny_pipeline_folder: Path) -> None:
    samples = read_samples(write_clips(tmp_path / "clips", ["a", "b", "c"]))
    prepare(samples, make_preparer(tiny_pipeline_folder, tmp_path / "one"))
    outcomes = prepare(samples, make_preparer(tiny_pipeline_folder, tmp_path / "two"), num_processes=2)
    assert [outcome.status for outcome in outcomes] == ["kept"] * 3
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_a_caption_that_is_no_text_leaves_out_its_clip_alone(tmp_path: Path, tiny_pipeline_folder: Path) -> None:
    clips = write_clips(tmp_path / "clips")
    samples = [Sample(video=clips / f"{name}.mp4", caption=text) for name, text in (("a", "a\ud83d"), ("b", "b"))]
    broken, kept = prepare(samples, make_preparer(tiny_pipeline_folder, tmp_path / "records"))
    assert (broken.status, kept.status) == ("broken", "kept")
    assert broken.note.startswith("`prompt` must be text of whole characters, got 'a\\ud83d'")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray warns about settings of its own
def test_a_ray_cluster_writes_the_records_of_one_process(tmp_path: Path, tiny_pipeline_folder: Path) -> None:
    ray = pytest.importorskip("ray")
    samples = read_samples(write_clips(tmp_path / "clips"))
    prepare(samples, make_preparer(tiny_pipeline_folder, tmp_path / "one"))
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        outcomes = prepare(samples, make_preparer(tiny_pipeline_folder, tmp_path / "ray"), use_ray=True)
    finally:
        ray.shutdown()
    assert [outcome.status for outcome in outcomes] == ["kept"] * 2
    assert contents(tmp_path / "one") == contents(tmp_path / "ray")


def test_a_clip_that_loses_much_of_its_picture_to_the_crop_is_named(
    tmp_path: Path, tiny_pipeline_folder: Path
) -> None:
    source = write_clips(tmp_path / "clips", ["square"])
    write_video(source / "upright.mp4", np.zeros((12, 96, 32, 3), np.uint8), 16)
    (source / "upright.txt").write_text("held upright")
    outcomes = prepare(read_samples(source), make_preparer(tiny_pipeline_folder, tmp_path / "cache"))
    assert [outcome.status for outcome in outcomes] == ["kept", "kept"]
    assert "of another shape 1: upright.mp4, the crop keeps 33% of the picture; give `--buckets`" in describe(outcomes)


def test_what_has_no_caption_is_reported_and_left_out(tmp_path: Path, tiny_pipeline_folder: Path) -> None:
    source = write_clips(tmp_path / "clips", ["told", "untold"])
    PIL.Image.new("RGB", (32, 32)).save(source / "face.png")
    (source / "untold.txt").unlink()
    outcomes = prepare(read_samples(source), make_preparer(tiny_pipeline_folder, tmp_path / "cache"))
    assert {Path(outcome.source).name: outcome.status for outcome in outcomes} == {
        "told.mp4": "kept",
        "untold.mp4": "skipped",
        "face.png": "skipped",
    }
    assert "skipped 2: it has no caption; write one into a .txt file of the same name, or into" in describe(outcomes)


def test_a_lost_empty_prompt_is_made_again(tmp_path: Path, tiny_pipeline_folder: Path) -> None:
    samples = read_samples(write_clips(tmp_path / "clips", ["a"]))
    preparer = make_preparer(tiny_pipeline_folder, tmp_path / "cache")
    prepare(samples, preparer)
    (tmp_path / "cache" / EMPTY_PROMPT).unlink()
    assert [outcome.status for outcome in prepare(samples, preparer)] == ["done"]
    assert PrecomputedDataset(tmp_path / "cache").empty_prompt()["prompt_embeds"] is not None


def test_clips_that_break_in_every_way_do_not_end_the_run(tmp_path: Path, tiny_pipeline_folder: Path) -> None:
    source = write_clips(tmp_path / "clips", ["a", "b", "c", "x" * 230, "z"])
    (source / "a.boxes.json").write_text("[1, 2, 3]")
    write_clips(source, ["d", "e", "f", "g"])
    (source / "d.boxes.json").write_text("[" * 100_000)
    (source / "e.boxes.json").write_text(f"[[[{'9' * 400}, 0, 1, 1]]]")
    (source / "f.boxes.json").write_text(json.dumps([[[1, 1, 1e999, 2]] * 12]))
    (source / "g.txt").unlink()
    (source / "g.srt").write_text("no times")
    (source / "b.boxes.json").unlink()
    (source / "b.boxes.safetensors").write_bytes(b"half")
    scipy.io.wavfile.write(source / "c.wav", 16000, np.full(16000, np.nan, np.float32))
    outcomes = prepare(read_samples(source), make_preparer(tiny_pipeline_folder, tmp_path / "cache"))
    assert [outcome.status for outcome in outcomes] == ["broken"] * 7 + ["kept"] * 2
    reasons = (
        "a.boxes.json",
        "b.boxes.safetensors",
        "finite, got NaN",
        "recursion",
        "e.boxes.json",
        "got infinity",
        "cues",
    )
    for outcome, message in zip(outcomes, reasons, strict=False):
        assert message in outcome.note


def test_what_is_not_finite_is_never_stored(tmp_path: Path, tiny_pipeline_folder: Path) -> None:
    source = write_clips(tmp_path / "clips", ["a"])
    preparer = make_preparer(tiny_pipeline_folder, tmp_path / "cache")
    torch.nn.init.constant_(next(preparer._encoder.pipeline.vae.encoder.parameters()), float("nan"))
    (outcome,) = prepare(read_samples(source), preparer)
    assert outcome.status == "broken"
    assert "must be finite, got NaN or infinity in video_latents, image_latents" in outcome.note
    assert not list((tmp_path / "cache").glob("a-*"))
    for parameter in preparer._encoder.pipeline.text_encoder.parameters():
        torch.nn.init.constant_(parameter, float("nan"))
    with_encoder = replace(preparer, output=tmp_path / "other")
    vars(with_encoder)["_encoder"] = preparer._encoder
    with pytest.raises(ValueError, match="must be finite, got NaN or infinity in prompt_embeds"):
        prepare(read_samples(source), with_encoder)
    assert not list((tmp_path / "other").rglob("*.safetensors"))


def test_a_picture_that_unpacks_to_too_much_is_one_skipped_clip(
    tmp_path: Path, tiny_pipeline_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_clips(tmp_path / "clips", ["a"])
    PIL.Image.new("L", (100, 100)).save(tmp_path / "large.png")
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 1000)
    sample = replace(read_samples(source)[0], reference_image=tmp_path / "large.png")
    (outcome,) = prepare([sample], make_preparer(tiny_pipeline_folder, tmp_path / "cache"))
    assert outcome.status == "broken"
    assert "must be an image of at most" in outcome.note


def test_short_names_of_number_formats_mean_the_same_records(tiny_pipeline_folder: Path, tmp_path: Path) -> None:
    preparer = make_preparer(tiny_pipeline_folder, tmp_path)
    full = replace(preparer, settings=replace(preparer.settings, dtype="float32"))
    assert full.preparation == preparer.preparation
    with pytest.raises(ValueError, match="`dtype` must be one of float32, bfloat16, float16, got int8; use bfloat16"):
        replace(preparer.settings, dtype="int8")


def test_the_share_without_words_is_one_of_the_clips_where_somebody_speaks() -> None:
    outcome = Outcome("x.mp4", "kept", num_records=12, num_speaking=10, num_wordless=3)
    assert "no words, in 3 of 10 clips: x.mp4 (3 of 10); where" in describe([outcome])


def test_the_mouths_of_many_clips_are_told_as_a_range_and_alike_ones_once() -> None:
    mouth = {"num_faces": 1, "num_jumps": 0, "cut_share": 0.0}

    def told(shares: list[float]) -> str:
        mouths = [{**mouth, "share": share} for share in shares]
        return describe([Outcome("a.mp4", "kept", num_records=len(shares), mouths=mouths)])

    assert "\n  a.mp4 100% in each of 30 clips" in told([1.0] * 30)
    assert "\n  a.mp4 50% to 100%, at most 75% in half of 30 clips" in told([0.5, *[0.75] * 20, *[1.0] * 9])


def test_files_that_are_left_out_for_one_reason_are_all_named(tmp_path: Path, tiny_pipeline_folder: Path) -> None:
    source = write_clips(tmp_path / "clips", ["d", "c", "b", "a", "told"])
    for name in "abcd":
        (source / f"{name}.txt").unlink()
    outcomes = prepare(read_samples(source), make_preparer(tiny_pipeline_folder, tmp_path / "cache"))
    said = describe(outcomes)
    assert "skipped 4: it has no caption; write one into a .txt file of the same name" in said
    assert said.endswith(" (a.mp4, b.mp4, c.mp4, ...)")
    assert describe(outcomes[1:3]).endswith(" (b.mp4, c.mp4)")


@pytest.mark.parametrize("clip_filter", [False, True])
def test_what_cannot_be_read_is_told_as_that_and_not_as_what_lacks_a_caption(
    tmp_path: Path, tiny_pipeline_folder: Path, clip_filter: bool
) -> None:
    source = write_clips(tmp_path / "clips", ["a", "told"])
    (source / "a.txt").unlink()
    (source / "empty.mp4").write_bytes(b"")
    (source / "notes.wav").write_bytes(b"no sound")
    (source / "face.png").write_bytes(b"no picture")
    preparer = make_preparer(tiny_pipeline_folder, tmp_path / "cache")
    if clip_filter:
        surveyor = Surveyor(preparer.model, preparer.output, preparer.settings, preparer.model_fingerprint)
        surveyed = [surveyor(sample) for sample in read_samples(source) if not sample.has_caption]
        told = {each.sample.source.name: (each.status, each.note) for each in surveyed}
    else:
        found = [each for each in prepare(read_samples(source), preparer) if "told" not in each.source]
        told = {Path(outcome.source).name: (outcome.status, outcome.note) for outcome in found}
    assert {name: status for name, (status, _) in told.items()} == {
        "a.mp4": "skipped",
        "empty.mp4": "broken",
        "notes.wav": "broken",
        "face.png": "broken",
    }
    assert "which is empty; copy it again" in told["empty.mp4"][1]
    assert "must be a readable image" in told["face.png"][1]


def test_boxes_that_are_not_in_pixels_of_their_picture_are_no_empty_mask(
    tmp_path: Path, tiny_pipeline_folder: Path
) -> None:
    names = ["a", "b", "c"]
    source = write_clips(tmp_path / "clips", names)
    for name, box in zip(names, ([0.3, 0.6, 0.7, 0.8], [300, 600, 700, 800], [20, 16, 8, 6]), strict=True):
        (source / f"{name}.boxes.json").write_text(json.dumps([[box] * 12]))
    outcomes = prepare(read_samples(source), make_preparer(tiny_pipeline_folder, tmp_path / "cache"))
    assert [outcome.status for outcome in outcomes] == ["broken"] * 3
    for outcome, reason in zip(outcomes, ("within [0, 1]", "its picture of 32 x 32", "second corner"), strict=True):
        assert reason in outcome.note


def test_clips_of_one_name_that_share_a_caption_are_told(tmp_path: Path) -> None:
    source = write_clips(tmp_path / "clips", ["a", "b"], num_frames=9)
    assert describe_found(source, read_samples(source)) == ""
    shutil.copy(source / "a.mp4", source / "a.mov")
    (source / "b.en.srt").write_text("1\n00:00:00,050 --> 00:00:00,450\none\n")
    told = describe_found(source, read_samples(source))
    assert "not read 1: b.en.srt; a file must be " in told
    assert "; rename b.en.srt to b.srt, say\n" in told
    assert told.endswith("\nthe same captions for a.mov and a.mp4; remove one if they are the same recording\n")


def test_records_of_before_there_was_a_setting_for_words_stay(tmp_path: Path, tiny_pipeline_folder: Path) -> None:
    preparer = make_preparer(tiny_pipeline_folder, tmp_path / "cache")
    with_words = make_preparer(tiny_pipeline_folder, tmp_path / "cache", require_words=True)
    assert preparer.preparation != with_words.preparation
    settings = asdict(preparer.settings)
    del settings["keyframes"], settings["clips"]["num_channels"], settings["clips"]["require_words"]
    assert preparer.preparation == _digest([settings, preparer.model_fingerprint])
