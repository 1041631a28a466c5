"""A model whose sound reads what is said alone, as UniAVGen's: prepared by the command, trained, and called."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from diffusers_jova import JoVAPipeline
from diffusers_jova.media import read_video, write_video
from diffusers_jova.prompt import JoVAPrompt
from diffusers_jova.training.data.dataset import PrecomputedDataset
from diffusers_jova.training.data.record import EMPTY_PROMPT, VOICES, RecordHeader, write_record
from diffusers_jova.training.loop.lora import ADAPTER_FILE
from diffusers_jova.training.loop.trainer import Trainer
from diffusers_jova.training.prepare import main as prepare
from diffusers_jova.training.train import main as train
from diffusers_jova.training.train_lora import main as train_lora
from tests.prepared_clips import write_clips
from tests.tiny_pipeline import build_spoken_pipeline
from tests.tiny_training import tiny_config


SAID = {"a": "Hi, Bob!", "b": "a longer text of more words than the other one."}
WORDS = ("Hello", "you", "there", "my", "old", "friend")  # of a recording, every 0.7 s
OPTIONS = ["--buckets", "9x32x32", "--no-mouth", "--dtype", "fp32"]
SMALL = ["warmup_steps=0", "distribution=none", "mixed_precision=no", "num_workers=0", "log_every=1"]
CALL = {"num_frames": 9, "num_inference_steps": 1, "output_type": "np"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipelines") / "spoken"
    build_spoken_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pipe(model: Path) -> JoVAPipeline:
    """What encodes texts as a call does; tests must not change it."""
    return JoVAPipeline.from_pretrained(model)


@pytest.fixture(scope="module")
def prepared(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips, each of another text."""
    folder = tmp_path_factory.mktemp("clips")
    source = write_clips(folder / "source", num_frames=9)
    for name, words in SAID.items():
        (source / f"{name}.txt").unlink()
        (source / f"{name}.json").write_text(json.dumps({"video_caption": f"man {name}", "transcript": words}))
    prepare([str(source), str(folder / "prepared"), "--model", str(model), *OPTIONS])
    return folder / "prepared"


def write_recording(folder: Path, words: tuple[str, ...] = WORDS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    num_frames = round(len(words) * 0.7 * 16)
    frames = np.random.default_rng(0).integers(0, 255, (num_frames, 32, 32, 3), dtype=np.uint8)
    sound = np.sin(np.arange(num_frames * 1000) / 5).astype(np.float32) / 2
    write_video(folder / "talk.mp4", frames, 16, sound, 16000)
    (folder / "talk.json").write_text(json.dumps({"video_caption": "a man"}))
    times = [(0.7 * number + 0.1, 0.7 * number + 0.4) for number in range(len(words))]
    cues = [f"00:{a:06.3f} --> 00:{b:06.3f}\n{word}\n" for (a, b), word in zip(times, words, strict=True)]
    (folder / "talk.vtt").write_text("\n".join(["WEBVTT\n", *cues]))
    return folder


@pytest.fixture(scope="module")
def recording(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clips of one recording, with the words of each."""
    folder = tmp_path_factory.mktemp("recording")
    source = write_recording(folder / "source")
    prepare([str(source), str(folder / "prepared"), "--model", str(model), "--cut", "all", *OPTIONS])
    return folder / "prepared"


def spoken_by(pipe: JoVAPipeline, text: str, reference: str | None = None) -> Tensor:
    """What the sound of a call reads, [S, D]."""
    prompt = JoVAPrompt(video="x", transcript=text)
    features = pipe.encode_prompt(prompt, do_classifier_free_guidance=False, reference_transcript=reference)[0]
    assert features.audio_features is not None
    return features.audio_features[0]


def unsaid_by(pipe: JoVAPipeline, reference: str | None = None) -> Tensor:
    negative = pipe.encode_prompt(JoVAPrompt(video="x", transcript="x"), reference_transcript=reference)[1]
    assert negative is not None
    assert negative.audio_features is not None
    return negative.audio_features[0]


# 1. Preparation


def test_a_record_holds_what_picture_and_sound_read_in_a_call(pipe: JoVAPipeline, prepared: Path) -> None:
    for name, words in SAID.items():
        record = load_file(next(prepared.glob(f"{name}-*.safetensors")))
        torch.testing.assert_close(record["spoken_embeds"], spoken_by(pipe, words))
        seen = pipe.encode_prompt(f"man {name}", do_classifier_free_guidance=False)[0].features[0]
        torch.testing.assert_close(record["prompt_embeds"], seen)
    empty = load_file(prepared / EMPTY_PROMPT)
    torch.testing.assert_close(empty["spoken_embeds"], unsaid_by(pipe))  # not as silent as an empty transcript
    assert not torch.equal(empty["spoken_embeds"], spoken_by(pipe, ""))
    torch.testing.assert_close(empty["prompt_embeds"], pipe.encode_texts([""], 64).features[0])


def test_records_of_a_pipeline_that_reads_one_text_are_as_before(tiny_pipeline_folder: Path, tmp_path: Path) -> None:
    source = write_recording(tmp_path / "source")
    words = ["--model", str(tiny_pipeline_folder), "--cut", "all", *OPTIONS]
    prepare([str(source), str(tmp_path / "prepared"), *words])
    for path in (tmp_path / "prepared").glob("*.safetensors"):
        header = RecordHeader.read(path)
        assert "transcript" not in header.metadata
        assert not [name for name in header.shapes if "spoken" in name]
    assert not (tmp_path / "prepared" / VOICES).exists()


def test_what_the_model_cannot_say_leaves_out_its_clip_before_it_is_encoded(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_clips(tmp_path / "source", num_frames=9)
    (source / "b.txt").unlink()
    (source / "b.json").write_text(json.dumps({"video_caption": "b", "audio_caption": "rain", "transcript": "3 men"}))
    write_recording(source, (*WORDS[:-1], "5"))
    prepare([str(source), str(tmp_path / "prepared"), "--model", str(model), "--cut", "all", *OPTIONS])
    told = capsys.readouterr().out
    reason = r"skipped 1: `transcript` must be of characters that the model can say, got '3'; .*\(b\.mp4\)"
    assert re.search(reason, told)
    assert "`audio_caption` of 1 is not read by this model: b.mp4" in told
    assert "`transcript` of" not in told
    assert "left out of 1: talk.mp4; the words hold characters that the model cannot say" in told
    assert "no words for the sound in 1: a.mp4; this model reads them from `transcript`" in told
    said = [header.metadata["transcript"] for header in PrecomputedDataset(tmp_path / "prepared").headers]
    assert "" in said
    assert not any("5" in text for text in said)


def test_a_clip_of_words_alone_is_prepared(model: Path, tmp_path: Path) -> None:
    source = write_clips(tmp_path / "source", ["a"], num_frames=9)
    (source / "a.txt").unlink()
    (source / "a.json").write_text(json.dumps({"transcript": "Hi"}))
    prepare([str(source), str(tmp_path / "prepared"), "--model", str(model), *OPTIONS])
    assert PrecomputedDataset(tmp_path / "prepared").headers[0].metadata["transcript"] == "Hi"


def test_another_encoder_of_spoken_text_makes_the_records_anew(prepared: Path, tmp_path: Path) -> None:
    before = {path.name: load_file(path) for path in prepared.glob("*.safetensors")}
    other = build_spoken_pipeline()
    with torch.no_grad():
        other.spoken_text_encoder.embedding.weight.mul_(2)
    other.save_pretrained(tmp_path / "other")
    shutil.copytree(prepared, tmp_path / "prepared")
    words = ["--model", str(tmp_path / "other"), *OPTIONS]
    prepare([str(prepared.parent / "source"), str(tmp_path / "prepared"), *words])
    for name, record in before.items():
        after = load_file(tmp_path / "prepared" / name)
        assert not torch.equal(after["spoken_embeds"], record["spoken_embeds"])
        assert torch.equal(after["prompt_embeds"], record["prompt_embeds"])


def test_a_clip_behind_a_voice_has_the_words_of_both_and_what_is_left_of_them_is_removed(
    model: Path, pipe: JoVAPipeline, recording: Path, tmp_path: Path
) -> None:
    said = {path.name: RecordHeader.read(path).metadata["transcript"] for path in recording.glob("*.safetensors")}
    assert len(said) > 2
    assert {*" ".join(said.values()).split()} <= {*WORDS}
    for name, words in said.items():
        voice = RecordHeader.read(recording / VOICES / name).metadata["voice"]
        assert voice != name
        texts = load_file(recording / VOICES / name)
        torch.testing.assert_close(texts["voice_spoken_embeds"], spoken_by(pipe, words, said[voice]))
        torch.testing.assert_close(texts["voice_empty_embeds"], unsaid_by(pipe, said[voice]))
    shutil.copytree(recording, tmp_path / "prepared")
    source = write_recording(tmp_path / "source", WORDS[:3])
    for path in (tmp_path / "prepared").glob("talk*"):
        path.unlink()
    prepare([str(source), str(tmp_path / "prepared"), "--model", str(model), "--cut", "all", *OPTIONS])
    paths = {path.name for path in (tmp_path / "prepared").glob("*.safetensors")}
    assert {path.name for path in (tmp_path / "prepared" / VOICES).iterdir()} == (paths if len(paths) > 1 else set())


# 2. Training


def conditions(data: Path, model: Path, folder: Path, num_clips: int, **settings: Any) -> dict[str, Any]:
    """Arguments that the transformer of a run is called with."""
    run = {"data": str(data), "model": str(model), "batch_size": num_clips, "image_probability": 1.0}
    trainer = Trainer(tiny_config(folder, **run | settings))
    return {**trainer.conditioning(trainer.dataset.batch(range(num_clips)), seed=0).arguments}


@pytest.mark.parametrize("dropout", [{}, {"caption_dropout": 1.0}, {"audio_caption_dropout": 1.0}])
@pytest.mark.parametrize("in_memory", [False, True])
def test_the_sound_reads_its_own_text_and_drops_it(
    model: Path, pipe: JoVAPipeline, prepared: Path, tmp_path: Path, dropout: dict[str, float], in_memory: bool
) -> None:
    settings = {"caption_dropout": 0.0, "dataset_on_device": in_memory} | dropout
    arguments = conditions(prepared, model, tmp_path, 2, **settings)
    seen, heard = arguments["encoder_hidden_states"], arguments["audio_encoder_hidden_states"]
    for row, (name, words) in enumerate(SAID.items()):
        expected = unsaid_by(pipe) if dropout else spoken_by(pipe, words)
        mask = arguments["audio_encoder_attention_mask"][row]
        torch.testing.assert_close(heard[row][mask], expected)
        assert not heard[row][~mask].any()
        caption = "" if "caption_dropout" in dropout else f"man {name}"
        text = pipe.encode_texts([caption], 64).features[0]
        torch.testing.assert_close(seen[row][arguments["encoder_attention_mask"][row]], text)


@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 1.0])
def test_a_step_with_a_voice_reads_what_a_call_with_one_reads(
    model: Path, pipe: JoVAPipeline, recording: Path, tmp_path: Path, dropout: float, in_memory: bool
) -> None:
    settings = {"tasks": {"voice": 1}, "caption_dropout": dropout, "dataset_on_device": in_memory}
    arguments = conditions(recording, model, tmp_path, 2, **settings)
    dataset = PrecomputedDataset(recording, with_voices=True)
    said = [header.metadata["transcript"] for header in dataset.headers]
    for row in range(2):
        voice = said[dataset.voices[row]]
        heard = arguments["audio_encoder_hidden_states"][row][arguments["audio_encoder_attention_mask"][row]]
        torch.testing.assert_close(heard, unsaid_by(pipe, voice) if dropout else spoken_by(pipe, said[row], voice))
        sound = load_file(dataset.headers[dataset.voices[row]].path)["audio_latents"]
        torch.testing.assert_close(arguments["audio_reference_hidden_states"][row], sound)


def test_the_model_of_a_run_is_shown_what_the_model_of_a_call_is_shown(
    model: Path, prepared: Path, tmp_path: Path
) -> None:
    arguments = conditions(prepared, model, tmp_path, 1, caption_dropout=0.0)
    pipe = JoVAPipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    calls: list[dict[str, Any]] = []
    pipe.transformer.register_forward_pre_hook(lambda _, __, call: calls.append(dict(call)), with_kwargs=True)
    image = read_video(prepared.parent / "source" / "a.mp4").frames[0]
    pipe(JoVAPrompt(video="man a", transcript=SAID["a"]), image=image, guidance_scale=1.0, **CALL)
    for prefix in ("", "audio_"):
        name = f"{prefix}encoder_hidden_states"
        number = calls[0][name].shape[1]
        torch.testing.assert_close(arguments[name][:, :number], calls[0][name])
    torch.testing.assert_close(arguments["hidden_states"][:, :, :1], calls[0]["hidden_states"][:, :, :1])


@pytest.mark.parametrize("preset", ["uniavgen", "uniavgen_tasks"])
def test_the_presets_of_uniavgen_train_its_pipeline(model: Path, recording: Path, tmp_path: Path, preset: str) -> None:
    words = [f"model={model}", f"data={recording}", f"output_dir={tmp_path / 'run'}", "steps=6", "batch_size=2"]
    train(["--config", preset, *words, *SMALL])
    losses = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(value) for line in losses for value in line.values() if isinstance(value, float))
    weights = load_file(tmp_path / "run" / "transformer" / "diffusion_pytorch_model.safetensors")
    before = load_file(model / "transformer" / "diffusion_pytorch_model.safetensors")
    name = "audio.condition_embedder.text_embedder.weight"
    assert not torch.equal(weights[name], before[name])


def test_an_adapter_trained_by_the_command_changes_a_clip_of_the_pipeline(
    model: Path, recording: Path, tmp_path: Path
) -> None:
    words = ["--model", str(model), "--config", "lora", "steps=4", "batch_size=2", "learning_rate=1e-2"]
    train_lora([str(recording), str(tmp_path / "adapter"), *words, *SMALL, "image_probability=1", "mouth_weight=0"])
    pipe = JoVAPipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)

    def clip() -> Any:
        image = np.zeros((32, 32, 3), np.uint8)
        prompt = JoVAPrompt(video="a man", transcript="Hello you!")
        return pipe(prompt, image=image, generator=torch.Generator().manual_seed(0), **CALL)

    before = clip()
    pipe.load_lora_weights(tmp_path / "adapter", weight_name=ADAPTER_FILE)
    after = clip()
    assert not np.array_equal(before.frames, after.frames)
    assert not np.array_equal(before.audio, after.audio)


def test_words_change_what_the_sound_learns(model: Path, prepared: Path, tmp_path: Path) -> None:
    settings = {"data": str(prepared), "model": str(model), "batch_size": 2, "image_probability": 1.0}
    trainer = Trainer(tiny_config(tmp_path, **settings, mouth_weight=0, caption_dropout=0))
    inputs = trainer.conditioning(trainer.dataset.batch(range(2)), seed=0)
    first = trainer.loss(inputs)
    inputs.arguments["audio_encoder_hidden_states"] = inputs.arguments["audio_encoder_hidden_states"].flip(0)
    assert not torch.equal(trainer.loss(inputs).audio, first.audio)


@pytest.mark.parametrize(("stage", "probability"), [("audio", 0.0), ("video", 1.0)])
def test_a_stage_of_one_modality_reads_the_text_of_that_one(
    model: Path, prepared: Path, tmp_path: Path, stage: str, probability: float
) -> None:
    settings = {"data": str(prepared), "model": str(model), "batch_size": 2, "image_probability": probability}
    trainer = Trainer(tiny_config(tmp_path, **settings, mouth_weight=0, stage=stage))
    arguments = trainer.conditioning(trainer.dataset.batch(range(2)), seed=0).arguments
    assert ("audio_encoder_hidden_states" in arguments) == (stage == "audio")
    trainer.train()
    assert trainer.step == 6


# 3. Refusals


def without_spoken(prepared: Path, folder: Path, names: str = "*") -> Path:
    """Records as they are without an encoder of spoken text."""
    shutil.copytree(prepared, folder)
    for path in [*folder.glob(f"{names}.safetensors"), folder / EMPTY_PROMPT]:
        header = dict(RecordHeader.read(path).metadata)
        record = {name: tensor for name, tensor in load_file(path).items() if name != "spoken_embeds"}
        write_record(path, record, header)
    return folder


def test_records_without_spoken_text_are_refused(
    model: Path, prepared: Path, tmp_path: Path, tiny_pipeline_folder: Path
) -> None:
    settings = {"mouth_weight": 0, "batch_size": 1, "image_probability": 1.0}
    message = r"every clip must have `spoken_embeds` for this `model`, .* run `jova prepare` with the pipeline"
    data = without_spoken(prepared, tmp_path / "old")
    for source in (model, model / "transformer"):
        with pytest.raises(ValueError, match=message):
            Trainer(tiny_config(tmp_path, data=str(data), model=str(source), **settings))
    mixed = without_spoken(prepared, tmp_path / "mixed", "a*")
    with pytest.raises(ValueError, match=message):
        Trainer(tiny_config(tmp_path, data=str(mixed), model=str(model), **settings))
    shutil.copytree(prepared, tmp_path / "half")
    shutil.copy(data / EMPTY_PROMPT, tmp_path / "half" / EMPTY_PROMPT)
    with pytest.raises(ValueError, match=r"`.*empty\.safetensors` must hold `spoken_embeds` as the clips do, got"):
        Trainer(tiny_config(tmp_path, data=str(tmp_path / "half"), model=str(model), **settings))
    with pytest.raises(ValueError, match=r"must have no `spoken_embeds`|must be 16 wide|must be 4 wide"):
        Trainer(tiny_config(tmp_path, data=str(prepared), model=str(tiny_pipeline_folder), **settings))


def test_a_model_that_never_begins_without_an_image_is_not_trained_without(
    model: Path, prepared: Path, tmp_path: Path
) -> None:
    run = {"data": str(prepared), "model": str(model), "batch_size": 1, "mouth_weight": 0}
    with pytest.raises(ValueError, match=r"`image_probability` must be 1, .* \(`needs_image`\), got 0.5; set"):
        Trainer(tiny_config(tmp_path, **run, image_probability=0.5))
    shutil.copytree(model / "transformer", tmp_path / "alone")  # whose clips tell which pipeline they are for
    with pytest.raises(ValueError, match=r"`image_probability` must be 1, .* \(`needs_image`\)"):
        Trainer(tiny_config(tmp_path, **run | {"model": str(tmp_path / "alone")}))
    Trainer(tiny_config(tmp_path, **run, image_probability=1.0))


def test_a_call_refuses_what_cannot_be_said_before_anything_is_encoded(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = JoVAPipeline.from_pretrained(model)
    encoded: list[str] = []
    for name in ("vae", "text_encoder"):
        method = "encode" if name == "vae" else "forward"
        monkeypatch.setattr(getattr(pipe, name), method, lambda *_, name=name, **__: encoded.append(name))
    image = np.zeros((32, 32, 3), np.uint8)
    for words, reference, signs in (("3!", None, "`transcript` .* got '3'"), ("Hi", "7", "`reference_.* got '7'")):
        voice = {} if reference is None else {
            "reference_audio": np.ones((1, 24000), np.float32) / 2,
            "reference_audio_sampling_rate": 24000,
            "reference_transcript": reference,
        }  # fmt: skip
        with pytest.raises(ValueError, match=signs):
            pipe(JoVAPrompt(video="a man", transcript=words), image=image, **voice, **CALL)
    assert encoded == []


def test_a_loudness_that_the_model_would_undo_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build_spoken_pipeline().save_pretrained(tmp_path / "model")
    config = tmp_path / "model" / "audio_vae" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "peak": 0.9}))
    source = write_clips(tmp_path / "source", num_frames=9)
    words = [str(source), str(tmp_path / "out"), "--model", str(tmp_path / "model"), "--loudness-lufs=-23"]
    with pytest.raises(SystemExit, match="2"):
        prepare([*words, *OPTIONS])
    assert "`--loudness-lufs` must be left out for a model whose `audio_vae` brings" in capsys.readouterr().err
