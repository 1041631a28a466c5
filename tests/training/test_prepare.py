"""Preparing encodes every clip once, survives broken ones, and never leaves a half-written record."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import scipy.io.wavfile
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from diffusers_jova import JoVAPipeline
from diffusers_jova.media import write_video
from diffusers_jova.prompt import JoVAPrompt
from diffusers_jova.training.data.clips import ClipSettings
from diffusers_jova.training.data.dataset import EMPTY_PROMPT, PrecomputedDataset, write_record
from diffusers_jova.training.data.encoder import Encoder, fingerprint_model, video_factors
from diffusers_jova.training.data.manifest import Sample, read_samples
from diffusers_jova.training.data.preparation import Preparer, PrepareSettings, prepare
from diffusers_jova.training.data.subtitles import Speech
from diffusers_jova.training.data.summary import Outcome, describe
from diffusers_jova.training.prepare import main
from jova_cli.clip_limits import Bucket
from jova_cli.parser import DTYPES
from tests.command_words import replaced
from tests.unusual_media import case


def write_clips(folder: Path, names: Sequence[str] = ("a", "b"), num_frames: int = 12) -> Path:
    """Clips of 32 x 32 with a moving white mouth, its boxes, a hum and a caption."""
    folder.mkdir(parents=True, exist_ok=True)
    for shade, name in enumerate(names):
        frames = np.full((num_frames, 32, 32, 3), 40 + 30 * shade, np.uint8)
        boxes = [[[8 + f, 16, 16 + f, 22] for f in range(num_frames)]]
        for f in range(num_frames):
            frames[f, 16:22, 8 + f : 16 + f] = 250
        sound = np.sin(np.arange(num_frames * 1000) / (4 + shade)).astype(np.float32) / 2
        write_video(folder / f"{name}.mp4", frames, 16, sound, 16000)
        (folder / f"{name}.txt").write_text(f"clip {name}")
        (folder / f"{name}.boxes.json").write_text(json.dumps(boxes))
    return folder


def write_recording(path: Path, num_scenes: int = 5, scene_s: int = 24) -> list[Speech]:
    """Two minutes of a speaker at several places, with words of their own tone, pauses, and the words as subtitles."""
    rng = np.random.default_rng(0)
    num_frames = num_scenes * scene_s * 8
    shades = np.repeat(np.arange(num_scenes) % 2 * 140 + 40, scene_s * 8)
    frames = np.broadcast_to(shades[:, None, None, None], (num_frames, 32, 32, 3)).astype(np.uint8)
    words, at_s = [], 0.4
    while at_s < num_frames / 8 - 1:
        end_s = at_s + rng.uniform(0.2, 0.5)
        words.append(Speech(f"word{len(words)}", round(at_s, 3), round(end_s, 3)))
        at_s = end_s + (rng.uniform(1.0, 2.5) if len(words) % 9 == 0 else rng.uniform(0.0, 0.1))
    time_s = np.arange(num_frames * 1000) / 8000
    sound = np.zeros(len(time_s), np.float32)
    for number, word in enumerate(words):
        spoken = (time_s >= word.start_s) & (time_s < word.end_s)
        sound[spoken] = 0.3 * np.sin(2 * np.pi * (200 + 10 * number % 900) * time_s[spoken])
    write_video(path, frames, 8, sound, 8000)
    clock = "{:02d}:{:02d}:{:06.3f}"
    cues = [
        " --> ".join(clock.format(0, int(t // 60), t % 60).replace(".", ",") for t in word[1:]) + f"\n{word.text}\n"
        for word in words
    ]
    path.with_suffix(".srt").write_text("\n".join(f"{number}\n{cue}" for number, cue in enumerate(cues, start=1)))
    path.with_suffix(".json").write_text(json.dumps({"video_caption": "a man"}))
    return words


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


def make_preparer(model: Path, output: Path, **options: Any) -> Preparer:
    clips = ClipSettings(buckets=(Bucket(9, 32, 32),), frame_rate=16, **options)
    settings = PrepareSettings(clips=clips, dtype="fp32", mouths=False)
    return Preparer(model, output, settings, fingerprint_model(model))


def contents(folder: Path) -> dict[str, Any]:
    """Tensors and headers of all records, comparable; the order inside a header is arbitrary."""
    return {str(path.relative_to(folder)): record(path) for path in sorted(folder.rglob("*.safetensors"))}


def record(path: Path) -> tuple[dict[str, str], dict[str, list[float]]]:
    with safe_open(path, framework="pt") as file:
        return file.metadata(), {name: file.get_tensor(name).nan_to_num(-1).tolist() for name in file.keys()}  # noqa: SIM118


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
        "2 clips prepared, 0 were up to date, 2 records",
        f"used 1.1 of 1.5 s; not 0.4 {rest}",
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
    tmp_path: Path, tiny_pipeline_folder: Path
) -> None:
    source = write_clips(tmp_path / "clips")
    preparer = make_preparer(tiny_pipeline_folder, tmp_path / "cache")
    prepare(read_samples(source), preparer)
    before = contents(tmp_path / "cache")
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("*.safetensors")}
    assert {outcome.status for outcome in prepare(read_samples(source), preparer)} == {"done"}
    assert stamps == {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("*.safetensors")}

    (source / "a.txt").write_text("another")
    statuses = {Path(o.source).stem: o.status for o in prepare(read_samples(source), preparer)}
    assert statuses == {"a": "kept", "b": "done"}
    after = contents(tmp_path / "cache")
    assert after.keys() == before.keys()
    assert [name for name in after if after[name] != before[name]] == [name for name in after if name.startswith("a-")]


def test_other_settings_replace_the_records_and_leave_none_behind(tmp_path: Path, tiny_pipeline_folder: Path) -> None:
    source = write_clips(tmp_path / "clips", ["a"], num_frames=20)
    output = tmp_path / "cache"
    prepare(read_samples(source), make_preparer(tiny_pipeline_folder, output, cut="all"))
    assert len(list(output.glob("a-*.safetensors"))) == 2
    prepare(read_samples(source), make_preparer(tiny_pipeline_folder, output))
    assert len(list(output.glob("a-*.safetensors"))) == 1
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


def save_speech_model(folder: Path) -> Path:
    """A tiny recogniser that hears an X in everything."""
    from transformers import Wav2Vec2Config, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({"<pad>": 0, "<unk>": 1, "|": 2, "X": 3}))
    Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), bos_token=None, eos_token=None).save_pretrained(folder)
    Wav2Vec2FeatureExtractor().save_pretrained(folder)
    config = Wav2Vec2Config(
        vocab_size=4,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        conv_dim=(8,) * 7,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
    )
    model = Wav2Vec2ForCTC(config)
    torch.nn.init.zeros_(model.lm_head.weight)
    model.lm_head.bias.data = torch.tensor([0.0, 0.0, 0.0, 9.0])
    model.save_pretrained(folder)
    return folder


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
    assert {outcome.name: outcome.status for outcome in outcomes} == {
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


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_command_prepares_a_folder(
    dtype: str, tmp_path: Path, tiny_pipeline_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    source = write_clips(tmp_path / "clips", ["a"])
    options = ["--model", str(tiny_pipeline_folder), "--device", "cpu", "--dtype", dtype]
    main([str(source), str(tmp_path / "cache"), *options])
    assert "1 clips prepared" in capsys.readouterr().out
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
    assert "c.mp4 1.1 of 1.7 s; not 0.6 s below the 0.0001 that is required (its largest sample)" in said
    headers = [header for name, (header, _) in contents(tmp_path / "cache").items() if "prompts" not in name]
    assert [header["has_audio"] for header in headers] == ["1"] * 5
    main([*command, "--buckets", "9x32x32", "--cut", "all"])
    assert "no sound in 1: b.mp4; they train the picture alone" in capsys.readouterr().out


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
    assert "3 clips prepared" in said
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
