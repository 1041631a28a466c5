"""The chain from nothing to a pipeline: every stage is done once, from what it was made from, and saved whole."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from diffusers_jova import JoVAPipeline
from diffusers_jova.drawn.avatars import without_look
from diffusers_jova.origin import NOTE
from diffusers_jova.recipes import jova_tiny
from diffusers_jova.training import train
from diffusers_jova.training.codecs import train_codecs
from diffusers_jova.training.data.record import RecordHeader
from diffusers_jova.training.loop.config import load_yaml, parse_overrides
from diffusers_jova.training.loop.model import load_transformer
from diffusers_jova.weight_branches import branch_of
from tests.tiny_training import forget_accelerate
from tests.training.codecs.test_train_codecs import TINY


COMPONENTS = "video_vae,audio_vae,vocoder,text_encoder"
CODECS = {**TINY, "corpus": {"clips": 4, "held_out": 2, "speech": "formant"}}
MODEL = {
    "_class_name": "JoVATransformer3DModel",
    "in_channels": 12,  # 4 noisy, 4 of the portrait, 4 of the mask
    "out_channels": 4,
    "audio_in_channels": 4,
    "num_layers": 1,
    "num_single_layers": 1,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "text_dim": 16,
    "text_dim_2": None,
    "rope_axes_dim": [8, 4, 4],
    "position_table_sizes": [16, 8, 8],
    "audio_position_table_size": 128,
}
SETTINGS = {"steps": 1, "batch_size": 2, "mixed_precision": "bf16", "tensorboard": False, "save_dtype": "bfloat16"}


def write_configs(folder: Path) -> list[str]:
    """Presets of one step and a few weights; returns the arguments that name them."""
    (folder / "model.json").write_text(json.dumps(MODEL))
    (folder / "codecs_tiny.yaml").write_text(yaml.safe_dump(CODECS))
    stages = {"jova_tiny_video": "video", "jova_tiny_audio": "audio", "jova_tiny": "joint", "joint": "joint"}
    for name, stage in {**stages, "jova_tiny_portraits": "joint"}.items():
        preset = SETTINGS | {"stage": stage, "model": str(folder / "model.json")}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(preset))
    return ["--output", str(folder / "out"), "--processes", "1"]


@pytest.fixture(scope="module")
def in_one_process() -> Callable[[pytest.MonkeyPatch, Path], list[list[str]]]:
    """Let commands that would be processes of their own run here; gives the list of those that ran."""

    def patch(monkeypatch: pytest.MonkeyPatch, configs: Path) -> list[list[str]]:
        ran: list[list[str]] = []

        def start(command: Sequence[str], **_: object) -> SimpleNamespace:
            ran.append([*command[1:]])
            forget_accelerate()
            train.main(command[3:])
            return SimpleNamespace(wait=lambda: 0)

        def run_chains(arguments: Sequence[str]) -> int:
            train_codecs.main([*arguments, "--component", COMPONENTS])
            return 0

        monkeypatch.setattr(jova_tiny, "subprocess", SimpleNamespace(Popen=start))
        monkeypatch.setattr(jova_tiny.os, "cpu_count", lambda: 1)
        monkeypatch.setattr(jova_tiny, "CONFIGS", configs)
        monkeypatch.setattr(jova_tiny, "DEFAULTS", {**jova_tiny.DEFAULTS, "num_inference_steps": 1})
        monkeypatch.setattr(train_codecs, "run_chains", run_chains)
        return ran

    return patch


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, in_one_process: Callable[[pytest.MonkeyPatch, Path], list[list[str]]]
) -> SimpleNamespace:
    """The whole chain, run once."""
    folder = tmp_path_factory.mktemp("jova-tiny")
    arguments = write_configs(folder)
    with pytest.MonkeyPatch.context() as monkeypatch:
        ran = in_one_process(monkeypatch, folder)
        jova_tiny.main(arguments)
    return SimpleNamespace(folder=folder, out=folder / "out", arguments=arguments, ran=ran)


def files_of(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_the_stages_follow_each_other_and_the_last_transformer_is_in_the_pipeline(made: SimpleNamespace) -> None:
    places = [dict(word.split("=", 1) for word in command if "=" in word) for command in made.ran]
    assert [Path(place["output_dir"]).name for place in places] == ["video", "audio", "training", "portraits"]
    assert places[3]["model"] == str(made.out / "training" / "transformer")
    assert places[3]["data"] == str(made.out / "plain")
    pipeline = JoVAPipeline.from_pretrained(made.out / "pipeline")
    last = load_transformer(str(made.out / "portraits" / "transformer")).state_dict()
    earlier = load_transformer(str(made.out / "training" / "transformer")).state_dict()
    weights = pipeline.transformer.state_dict()
    assert all(torch.equal(weights[name].float(), last[name].bfloat16().float()) for name in last)
    assert not all(torch.equal(last[name], earlier[name]) for name in last)
    made_clip = pipeline(prompt="A cartoon man speaks.", num_inference_steps=1, output_type="np")
    assert made_clip.frames.shape[1:] == (33, 64, 64, 3)


def test_every_other_plain_record_leaves_the_look_to_the_portrait(made: SimpleNamespace) -> None:
    records = sorted((made.out / "records").glob("*_0*.safetensors"))
    assert len(records) == 4
    for index, path in enumerate(records):
        caption = RecordHeader.read(path).metadata["caption"]
        plain = RecordHeader.read(made.out / "plain" / path.name).metadata["caption"]
        assert plain == (without_look(caption) if index % 2 else caption)
    assert len({RecordHeader.read(path).metadata["caption"] for path in records}) == 4


def test_the_joined_transformer_has_a_branch_of_each(made: SimpleNamespace) -> None:
    video, audio, start = (
        load_transformer(str(made.out / name)) for name in ("video/transformer", "audio/transformer", "start")
    )
    for name, weight in start.named_parameters():
        assert torch.equal(weight, (audio if branch_of(name) == "audio" else video).get_parameter(name))
    assert any(not torch.equal(start.get_parameter(n), audio.get_parameter(n)) for n, _ in audio.named_parameters())


def test_a_complete_chain_is_left_alone(
    made: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    in_one_process: Callable[[pytest.MonkeyPatch, Path], list[list[str]]],
) -> None:
    parts = [made.out / name for name in ("corpus", "codecs", "records", "start", "plain")]
    before = [files_of(folder) for folder in parts]
    in_one_process(monkeypatch, made.folder)
    jova_tiny.main([*made.arguments, "--until", "transformer"])
    assert [files_of(folder) for folder in parts] == before


def test_a_record_holds_its_own_clip_as_the_codecs_encode_it(made: SimpleNamespace) -> None:
    pipeline = jova_tiny.assemble(made.out / "codecs", None)
    with np.load(next((made.out / "corpus").glob("seeds-0000000-*.npz"))) as arrays:
        frames, waveforms, captions = (arrays[name] for name in ("frames", "waveforms", "captions"))
        boxes = arrays["mouth_boxes"]
    for index, path in enumerate(sorted((made.out / "records").glob("*.safetensors"))):
        record, header = load_file(path), RecordHeader.read(path)
        with torch.no_grad():
            pixels = torch.from_numpy(frames[index]).movedim(-1, 0)[None] / 127.5 - 1
            video = pipeline.video_codec.encode(pixels)[0]
            image = pipeline.video_codec.encode(pixels[:, :, :1])[0]
            audio = pipeline.audio_codec.encode(torch.from_numpy(waveforms[index])[None, None])[0]
            text = pipeline.encode_texts([str(captions[index])], 96).features[0]
        wanted = {"video_latents": video, "image_latents": image, "prompt_embeds": text}
        wanted["audio_latents"] = audio[: len(record["audio_latents"])]
        for name, tensor in wanted.items():
            torch.testing.assert_close(record[name].float(), tensor.float(), atol=0.03, rtol=0.02)
        np.testing.assert_array_equal(record["mouth_boxes"], boxes[index])
        assert header.metadata["caption"] == captions[index]
        assert record["video_latents"].shape[1:] == (9, 8, 8)
        assert record["audio_latents"].shape[0] == 64


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The sentence with which the command ends before it starts anything."""
    with pytest.raises(SystemExit, match="2"):
        jova_tiny.main(arguments)
    return capsys.readouterr().err.splitlines()[-1]


@pytest.fixture
def nothing_runs(made: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training that starts is an error."""
    monkeypatch.setattr(jova_tiny, "CONFIGS", made.folder)
    monkeypatch.setattr(jova_tiny.os, "cpu_count", lambda: 1)
    monkeypatch.setattr(jova_tiny, "subprocess", None)
    monkeypatch.setattr(train_codecs, "run_chains", None)


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize(
    ("part", "values", "found"),
    [
        ("audio_vae", {"kl_weight": 0.5}, "codecs/audio_vae` must .* `audio_vae.kl_weight` 0.001 there, 0.5 here"),
        ("corpus", {"clips": 6, "held_out": 2}, "`corpus.clips` 4 there, 6 here; delete it"),
        ("corpus", {"clips": 4, "speech": "espeak"}, "`corpus.speech` formant there, espeak here"),
    ],
)
def test_codecs_of_another_config_are_refused(
    made: SimpleNamespace,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    part: str,
    values: dict[str, object],
    found: str,
) -> None:
    other = tmp_path / "codecs.yaml"
    own = values if part == "corpus" else {**CODECS[part], **values}
    other.write_text(yaml.safe_dump({**CODECS, part: own}))
    error = refusal([*made.arguments, "--codecs-config", str(other)], capsys)
    assert re.search(found, error), error


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize(
    ("folder", "noted", "error"),
    [
        ("records", {"codecs": "another"}, r"records` must be .* `codecs` another there"),
        ("start", {"audio": "another"}, r"start` must be .* `audio` another there"),
        ("training", {"model": "another"}, r"training` must be .* `model` another there"),
        ("training", {"records": {"codecs": "another"}}, r"training` must be .* `records.codecs` another there"),
    ],
)
def test_a_stage_that_was_made_from_something_else_is_refused(
    made: SimpleNamespace, capsys: pytest.CaptureFixture[str], folder: str, noted: dict[str, object], error: str
) -> None:
    note = made.out / folder / NOTE
    before = note.read_text()
    note.write_text(json.dumps(noted))
    try:
        assert re.search(error, refusal(made.arguments, capsys))
    finally:
        note.write_text(before)


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["lerning_rate=1e-3"], "did you mean `learning_rate`"),
        (["steps"], "must have the form name=value"),
        (["--processes", "3"], "`--processes` must divide `batch_size`"),
        (["--processes", "0"], "`--processes` must divide `batch_size`"),
        (["--portraits-config", "none.yaml"], "`none.yaml` must be an existing YAML file"),
        (["--codecs-config", "none.yaml"], "none.yaml"),
    ],
)
def test_mistakes_are_found_before_anything_is_made(
    made: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], error: str
) -> None:
    arguments = ["--output", str(tmp_path / "new"), *made.arguments[2:], *words]
    assert error in refusal(arguments, capsys)
    assert not (tmp_path / "new").exists()


def test_processes_share_a_batch(tmp_path: Path) -> None:
    write_configs(tmp_path)
    places = ["data=x", "output_dir=y"]
    alone = jova_tiny.training_arguments(tmp_path / "joint.yaml", [*places, "batch_size=6"], 1)
    shared = jova_tiny.training_arguments(tmp_path / "joint.yaml", [*places, "batch_size=6"], 3)
    assert alone[:2] == ["-m", "diffusers_jova.training.train"]
    assert shared[:2] == ["-m", "torch.distributed.run"]
    assert "--nproc_per_node=3" in shared
    config = load_yaml(shared[shared.index("--config") + 1], parse_overrides(shared[shared.index("--config") + 2 :]))
    assert config.batch_size == 2
    assert config.distribution == "ddp"


def test_the_first_process_that_fails_ends_the_program_with_its_code() -> None:
    ended = [SimpleNamespace(wait=lambda code=code: code) for code in (0, 3, 4)]
    jova_tiny.wait_for(ended[0])
    with pytest.raises(SystemExit, match="3"):
        jova_tiny.wait_for(*ended)


def test_a_pipeline_that_cannot_be_saved_leaves_the_one_before(
    made: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "model_index.json").write_text("before")
    monkeypatch.setattr(jova_tiny, "forget_place", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        jova_tiny.save_pipeline(made.out / "codecs", made.out / "portraits" / "transformer", tmp_path / "pipeline")
    assert [path.name for path in tmp_path.iterdir()] == ["pipeline"]
    assert (tmp_path / "pipeline" / "model_index.json").read_text() == "before"


def test_no_component_of_the_pipeline_names_the_folder_that_it_came_from(made: SimpleNamespace) -> None:
    configs = sorted((made.out / "pipeline").glob("*/config.json"))
    assert len(configs) == 5
    assert not any("_name_or_path" in json.loads(path.read_text()) for path in configs)
    assert (made.out / "pipeline" / "codecs_report.json").exists()
