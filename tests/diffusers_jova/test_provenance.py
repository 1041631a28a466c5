"""Every clip says that it was generated, and how; what it says makes it again, and names no place on a disk."""

import json
import re
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import scipy.io.wavfile
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import save_file

from diffusers_jova import (
    JoVAPipeline,
    JoVAPipelineOutput,
    JoVAPrompt,
    JoVATransformer3DModel,
    __version__,
    media,
)
from diffusers_jova.provenance import SOURCE_TYPES, basic_record, name_of_source, read_provenance
from jova_cli.main import main
from tests.tiny_pipeline import build_tiny_pipeline, build_transformer


GENERATED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def adapter_file(folder: Path) -> Path:
    folder.mkdir()
    name = "transformer.transformer_blocks.0.attn.video.to_q"
    save_file(
        {f"{name}.lora_A.weight": torch.randn(2, 24), f"{name}.lora_B.weight": torch.randn(24, 2)},
        folder / "pytorch_lora_weights.safetensors",
    )
    return folder


@pytest.fixture(scope="module")
def pipeline() -> JoVAPipeline:
    return build_tiny_pipeline()


# 1. The record


def test_a_record_that_is_read_back_from_its_file_makes_the_clip_again(pipeline: JoVAPipeline, tmp_path: Path) -> None:
    prompt = JoVAPrompt(video="a dog", transcript="w\u00f6rds")
    made = pipeline(prompt, negative_prompt="blur", guidance_scale=2.5, num_frames=5, generator=seeded(7))
    made.save(tmp_path / "dog.mp4")
    record = read_provenance(tmp_path / "dog.mp4")
    assert record == made.provenance[0]
    assert record["package"] == f"diffusers_jova {__version__}"
    sizes = {name: record["settings"][name] for name in ("height", "width", "num_frames", "guidance_scale")}
    again = pipeline(
        JoVAPrompt(**record["prompt"]),
        negative_prompt=record["negative_prompt"],
        generator=seeded(record["seed"]),
        num_inference_steps=record["settings"]["num_inference_steps"],
        **sizes,
    )
    assert all(np.array_equal(one, other) for one, other in zip(made.frames[0], again.frames[0], strict=True))
    assert torch.equal(made.audio, again.audio)


def test_each_clip_of_a_batch_has_its_own_prompt_and_seed(pipeline: JoVAPipeline) -> None:
    prompts = ["a dog", "a cat"]
    one = pipeline(prompts, num_videos_per_prompt=2, num_inference_steps=1, num_frames=1, generator=seeded(3))
    assert [(x["prompt"], x["seed"], x["clip"]) for x in one.provenance] == [
        ("a dog", 3, 0),
        ("a dog", 3, 1),
        ("a cat", 3, 2),
        ("a cat", 3, 3),
    ]
    several = pipeline(prompts, num_inference_steps=1, num_frames=1, generator=[seeded(3), seeded(4)])
    assert [(x["seed"], x["clip"]) for x in several.provenance] == [(3, 0), (4, 0)]


def test_a_seed_that_would_make_another_clip_is_not_told(pipeline: JoVAPipeline) -> None:
    generator = seeded(3)
    first, second = (pipeline("a dog", num_inference_steps=1, num_frames=1, generator=generator) for _ in range(2))
    assert first.provenance[0]["seed"] == 3
    assert (second.provenance[0]["seed"], second.provenance[0]["seed_of_used_generator"]) == (None, 3)
    unknown = pipeline("a dog", num_inference_steps=1, num_frames=1)
    assert unknown.provenance[0]["seed"] is None


def test_what_was_recorded_is_told_apart_from_what_was_made(pipeline: JoVAPipeline) -> None:
    voice = np.zeros((1, 9000), np.float32)
    options: dict[str, Any] = {"num_inference_steps": 1}
    spoken = pipeline("a man", audio=voice, audio_sampling_rate=16000, **options).provenance[0]
    assert (spoken["given"], spoken["digital_source_type"]) == (
        ["audio"],
        SOURCE_TYPES["compositeWithTrainedAlgorithmicMedia"],
    )
    seen = pipeline("a man", image=np.zeros((32, 32, 3), np.uint8), **options).provenance[0]
    assert (seen["given"], seen["digital_source_type"]) == (["image"], GENERATED)


def test_components_that_are_not_the_models_own_are_told(tiny_pipeline_folder: Path, tmp_path: Path) -> None:
    def handed_in(pipeline: Any) -> Any:
        return pipeline("x", num_inference_steps=1, num_frames=1).provenance[0]["handed_in"]

    built = {"class": "JoVATransformer3DModel", "from": None}
    loaded = JoVAPipeline.from_pretrained(tiny_pipeline_folder)
    assert handed_in(loaded) == {}
    loaded.transformer = torch.compile(loaded.transformer, backend="eager")  # the same weights
    assert loaded.handed_in == frozenset()
    loaded.transformer = loaded.transformer._orig_mod
    assert loaded.handed_in == frozenset()
    own = loaded.scheduler
    for _ in range(2):
        loaded.scheduler = type(own).from_config(own.config)
        assert loaded.handed_in == {"scheduler"}
    loaded.scheduler = own
    assert loaded.handed_in == frozenset()
    assert handed_in(JoVAPipeline.from_pretrained(tiny_pipeline_folder, transformer=build_transformer())) == {
        "transformer": built
    }
    build_transformer().save_pretrained(tmp_path / "run-1" / "transformer")
    other = JoVATransformer3DModel.from_pretrained(tmp_path / "run-1" / "transformer")
    mixed = JoVAPipeline.from_pretrained(tiny_pipeline_folder, transformer=other)
    assert handed_in(mixed) == {"transformer": built | {"from": "run-1"}}
    assert handed_in(JoVAPipeline.from_pipe(mixed)) == handed_in(mixed)
    later = JoVAPipeline.from_pretrained(tiny_pipeline_folder)
    later.transformer = build_transformer()
    assert handed_in(later) == {"transformer": built}
    record = build_tiny_pipeline()("x", num_inference_steps=1, num_frames=1).provenance[0]
    assert record["model"] is None
    assert set(record["handed_in"]) >= {"transformer", "vae", "text_encoder", "scheduler"}


def test_adapters_are_told_by_the_name_of_their_file_with_their_scale(tmp_path: Path) -> None:
    pipeline = build_tiny_pipeline()
    folder = adapter_file(tmp_path / "anna")

    def adapters() -> Any:
        return pipeline("x", num_inference_steps=1, num_frames=1).provenance[0]["adapters"]

    assert adapters() == []
    pipeline.load_lora_weights(folder, adapter_name="lora_0")
    assert adapters() == [{"name": "anna", "scale": 1.0}]
    pipeline.set_adapters("lora_0", 0.5)
    assert adapters() == [{"name": "anna", "scale": 0.5}]
    other: Any = JoVAPipeline.from_pipe(pipeline)("x", num_inference_steps=1, num_frames=1)
    assert other.provenance[0]["adapters"] == [{"name": "anna", "scale": 0.5}]
    pipeline.disable_lora()
    assert adapters() == []
    pipeline.enable_lora()
    pipeline.fuse_lora()
    assert adapters() == [{"name": "anna", "scale": 0.5}]
    pipeline.unload_lora_weights()  # the layers go, and what they did stays in the weights
    assert not any(isinstance(module, BaseTunerLayer) for module in pipeline.transformer.modules())
    assert adapters() == [{"name": "anna", "scale": 0.5}]


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("owner/name", "owner/name"),
        ("/home/anna/models/talker", "talker"),
        ("/home/anna/loras/anna.safetensors", "anna"),
        ("/home/anna/run-1/pytorch_lora_weights.safetensors", "run-1"),
        ("C:\\Users\\anna\\talker", "talker"),
        ("https://example.org/x/anna.safetensors", "anna"),
        ("", None),
        ({"weights": torch.zeros(1)}, None),
        (None, None),
    ],
)
def test_a_name_says_what_was_loaded_and_not_from_where(source: Any, name: str | None) -> None:
    assert name_of_source(source) == name


def test_a_folder_that_looks_like_a_hub_name_is_told_without_its_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "anna" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert name_of_source("anna/talker") == "anna/talker"
    (tmp_path / "anna" / "talker").mkdir()
    assert name_of_source("anna/talker") == "talker"
    monkeypatch.chdir(tmp_path / "anna" / "talker")
    assert name_of_source(".") == "talker"
    assert name_of_source("..") == "anna"


# 2. Its files


def test_an_mp4_tells_programs_what_it_is_where_they_look(pipeline: JoVAPipeline, tmp_path: Path) -> None:
    made = pipeline('a dog & "cat"', num_inference_steps=1, num_frames=5, generator=seeded(7))
    made.save(tmp_path / "dog.mp4")
    with av.open(str(tmp_path / "dog.mp4"), options={"export_xmp": "1"}) as container:
        tags = dict(container.metadata)
    assert (tags["generated"], tags["seed"], tags["digital_source_type"]) == ("true", "7", GENERATED)
    assert re.search(r'Iptc4xmpExt:DigitalSourceType="([^"]+)"', tags["xmp"])[1] == GENERATED
    assert re.search(r'xmp:CreatorTool="([^"]+)"', tags["xmp"])[1] == f"diffusers_jova {__version__}"
    assert json.loads(tags["jova"])["prompt"] == 'a dog & "cat"'


def test_a_record_moves_no_frame_and_no_sample(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)
    sound = np.random.default_rng(1).uniform(-0.5, 0.5, (2, 9001)).astype(np.float32)
    for name, record in (("with", basic_record()), ("without", None)):
        media.write_video(tmp_path / f"{name}.mp4", frames, 16, sound, 16000, provenance=record)
        media.write_audio(tmp_path / f"{name}.wav", sound, 16000, provenance=record)
    one, other = (media.read_video(tmp_path / f"{name}.mp4") for name in ("with", "without"))
    assert np.array_equal(one.frames, other.frames)
    assert np.array_equal(one.audio, other.audio)
    one, other = (scipy.io.wavfile.read(tmp_path / f"{name}.wav")[1] for name in ("with", "without"))
    assert np.array_equal(one, other)


def test_a_wav_holds_the_record_and_software_and_source(tmp_path: Path) -> None:
    record = {**basic_record(), "seed": 3, "prompt": "odd"}
    output = JoVAPipelineOutput(audio=np.zeros((1, 1, 99), np.float32), sampling_rate=16000, provenance=[record])
    output.save(tmp_path / "a.wav")
    assert read_provenance(tmp_path / "a.wav") == record
    with av.open(str(tmp_path / "a.wav")) as container:
        tags = container.metadata
    assert (tags["encoder"], tags["ISRC"]) == (f"diffusers_jova {__version__}", GENERATED)


@pytest.mark.parametrize("suffix", [".mkv", ".webm", ".mov"])
def test_a_clip_that_was_put_into_another_container_still_holds_the_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    """Matroska writes names of tags in capitals."""
    frames = np.zeros((1, 5, 32, 32, 3), np.float32)
    JoVAPipelineOutput(frames=frames, frame_rate=16).save(tmp_path / "a.mp4")
    copy = tmp_path / f"a{suffix}"
    with (
        av.open(str(tmp_path / "a.mp4")) as source,
        av.open(str(copy), "w", options={"movflags": "use_metadata_tags"} if suffix == ".mov" else {}) as target,
    ):
        target.metadata.update(source.metadata)
        stream = target.add_stream("libvpx-vp9" if suffix == ".webm" else "libx264", rate=16)
        stream.width = stream.height = 32
        for frame in source.decode(video=0):
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    assert read_provenance(copy) == basic_record()
    main(["info", str(copy)])
    assert json.loads(capsys.readouterr().out) == basic_record()


def test_a_clip_without_metadata_says_nothing(pipeline: JoVAPipeline, tmp_path: Path) -> None:
    made = pipeline("a dog", num_inference_steps=1, num_frames=5)
    for name in ("a.mp4", "a.wav"):
        made.save(tmp_path / name, metadata=False)
        assert b"diffusers_jova" not in (tmp_path / name).read_bytes()
        with pytest.raises(ValueError, match="must hold a record of its origin"):
            read_provenance(tmp_path / name)


def test_an_output_that_nobody_describes_still_says_that_it_was_generated(tmp_path: Path) -> None:
    frames = np.zeros((1, 5, 32, 32, 3), np.float32)
    JoVAPipelineOutput(frames=frames, frame_rate=16).save(tmp_path / "a.mp4")
    assert read_provenance(tmp_path / "a.mp4") == basic_record()


def test_an_output_without_what_a_file_holds_is_refused(tmp_path: Path) -> None:
    frames, sound = np.zeros((1, 5, 32, 32, 3), np.float32), np.zeros((1, 1, 99), np.float32)
    with pytest.raises(ValueError, match="must have sound for a wav"):
        JoVAPipelineOutput(frames=frames, frame_rate=16).save(tmp_path / "a.wav")
    with pytest.raises(ValueError, match="must have frames for an mp4"):
        JoVAPipelineOutput(audio=sound, sampling_rate=16000).save(tmp_path / "a.mp4")
    assert not list(tmp_path.iterdir())


# 3. The command line


def test_the_command_line_tells_how_a_clip_was_made_without_a_path(
    tiny_pipeline_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = adapter_file(tmp_path / "anna")
    words = ["--model", str(tiny_pipeline_folder), "--prompt", "a dog", "--steps", "1", "--seed", "5"]
    clip = tmp_path / "dog.mp4"
    main(["generate", *words, "--lora", f"{adapter}:0.5", "--output", str(clip)])
    capsys.readouterr()
    main(["info", str(clip)])
    said = capsys.readouterr().out
    record = json.loads(said)
    assert (record["model"], record["seed"]) == (tiny_pipeline_folder.name, 5)
    assert record["adapters"] == [{"name": "anna", "scale": 0.5}]
    content = clip.read_bytes()
    for folder in (tiny_pipeline_folder.parent, tmp_path, Path.cwd(), Path.home()):
        assert str(folder) not in said
        assert str(folder).encode() not in content


def test_no_metadata_leaves_it_out_and_other_files_are_refused(
    tiny_pipeline_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model", str(tiny_pipeline_folder), "--prompt", "a dog", "--steps", "1", "--no-metadata"]
    main(["generate", *words, "--output", str(tmp_path / "dog.mp4")])
    (tmp_path / "text.mp4").write_text("no clip")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "dog.mp4").read_bytes()[:-500])
    (tmp_path / "head.mp4").write_bytes((tmp_path / "dog.mp4").read_bytes()[:40])
    for name, said in (
        ("dog.mp4", "the clip must hold a record of its origin"),
        ("text.mp4", "the clip must be a readable video or wav"),
        ("text.mp4", "(Invalid data found when processing input); check"),
        ("none.mp4", "the clip must be an existing file"),
        ("empty.mp4", "which is empty; copy it again"),
        ("cut.mp4", "which lacks 500 of the bytes that it announces"),
        ("head.mp4", "of the bytes that it announces"),
    ):
        capsys.readouterr()
        with pytest.raises(SystemExit):
            main(["info", str(tmp_path / name)])
        assert said in capsys.readouterr().err
