import json
import shutil
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch

from diffusers_jova import JoVAPipeline
from diffusers_jova.saved_pipeline import CODECS, COMPONENTS, TEXT, SavedPipeline
from jova_cli.model_info import front_matter
from tests.tiny_pipeline import build_dual_tower, build_tiny_pipeline


def test_parts_are_loaded_alone(tiny_pipeline_folder: Path) -> None:
    saved = SavedPipeline(tiny_pipeline_folder)
    pipeline = saved.load("audio_vae", "vocoder")
    assert {name for name, part in pipeline.components.items() if part is not None} == {"audio_vae", "vocoder"}
    assert pipeline.audio_codec.encode(torch.zeros(1, 1, 16000)).shape[2] == 4
    text = saved.load(*TEXT)
    assert text.encode_texts(text.render_prompts("a dog"), 64).features.shape[0] == 1


def test_an_outline_tells_shapes_and_rates_and_holds_no_weights(tiny_pipeline_folder: Path) -> None:
    saved = SavedPipeline(tiny_pipeline_folder)
    outline, whole = saved.outline(), saved.load(*CODECS)
    assert all(p.is_meta for name in CODECS for p in getattr(outline, name).parameters())
    assert outline.video_codec.latent_shape(9, 32, 32) == whole.video_codec.latent_shape(9, 32, 32)
    for name in ("latent_rate_hz", "latent_channels", "sampling_rate", "num_channels"):
        assert getattr(outline.audio_codec, name) == getattr(whole.audio_codec, name)
    latents = torch.randn(1, 16, 3, 4, 4)
    assert torch.equal(outline.video_codec.normalize(latents), whole.video_codec.normalize(latents))
    assert saved.defaults == outline.defaults == whole.defaults


def test_an_outline_has_all_settings_of_the_pipeline(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "prompt_template": "{video} | {audio}",
        "pads_text_with_zeros": True,
        "speaker_token": "~",
        "domain": {"name": "dogs", "words": ["dog"]},
        "one_way_coupling": True,
        "fills_image_with_grey": True,
        "starts_white": True,
        "needs_image": True,
        "max_reference_s": 5.0,
        "negative_skip_layer": 1,
        "few_steps": {"num_inference_steps": 2, "shift": 1.0, "audio_shift": 1.0},
    }
    pipeline = build_tiny_pipeline(transformer=build_dual_tower("aligned"), **settings)
    pipeline.save_pretrained(tmp_path)
    names = signature(JoVAPipeline).parameters.keys() - {*COMPONENTS}
    assert names == settings.keys() | {"defaults"}, "a setting that this test does not know"
    outline = SavedPipeline(tmp_path).outline()
    assert {name: outline.config[name] for name in names} == {name: pipeline.config[name] for name in names}


def test_the_shipped_model_has_an_outline_too() -> None:
    outline = SavedPipeline("jova-tiny").outline()
    assert outline.audio_codec.sampling_rate == 16000
    assert outline.defaults.num_frames == 33


def test_the_scheduler_serves_both_modalities(tiny_pipeline_folder: Path) -> None:
    assert SavedPipeline(tiny_pipeline_folder).scheduler().config.audio_shift == 1.0


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must be a folder with a `model_index\.json`, got"):
        SavedPipeline(tmp_path)
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "WanPipeline"}))
    with pytest.raises(ValueError, match='must be a saved JoVAPipeline, got the class "WanPipeline"'):
        SavedPipeline(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "must be a JSON object, got something else"),
        ("[]", r"must be a JSON object, got \[\]"),
        ("[" * 100_000, "nested too deeply"),
        ('{"_class_name": "JoVAPipeline", "vae": [1, 2]}', "must be a component with a library and a class"),
        ('{"_class_name": "JoVAPipeline", "defaults": 5}', "`defaults` of a"),
    ],
    ids=["no JSON", "a list", "deep", "numbers for a component", "a number for defaults"],
)
def test_a_hostile_index_is_refused_in_one_sentence(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        SavedPipeline(tmp_path)
    assert type(caught.value) is ValueError  # one of ours, not the parser's
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["{", "null", "[" * 100_000], ids=["no JSON", "null", "deep"])
def test_a_hostile_config_is_refused_in_one_sentence(text: str, tiny_pipeline_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_bytes((tiny_pipeline_folder / "model_index.json").read_bytes())
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"transformer.config\.json` must be a JSON object"):
        SavedPipeline(tmp_path).component_config("transformer")


@pytest.mark.parametrize("content", [None, b""], ids=["missing", "empty"])
def test_weights_that_cannot_be_read_are_refused_in_one_sentence(
    content: bytes | None, tiny_pipeline_folder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_pipeline_folder, tmp_path / "model")
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    file.unlink() if content is None else file.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"^`.*model` must hold whole weights of `transformer`, got .*; download or"
    ) as caught:
        SavedPipeline(folder).load("transformer")
    assert str(caught.value).count("\n") == 0


def test_a_saved_pipeline_states_the_licences_of_what_it_was_loaded_from(
    tiny_pipeline_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    shutil.copytree(tiny_pipeline_folder, first)
    (first / "README.md").write_text("---\nlicense: apache-2.0\ncomponent_licenses:\n  vae: cc-by-nc-4.0\n---\n")
    pipeline = JoVAPipeline.from_pretrained(first)
    pipeline.transformer = build_tiny_pipeline().transformer  # of no folder
    pipeline.save_pretrained(second)
    vae = type(pipeline.vae).from_pretrained(first, subfolder="vae")  # which remembers the folder of the pipeline
    JoVAPipeline.from_pretrained(first, vae=vae).save_pretrained(tmp_path / "handed-in")
    assert front_matter(tmp_path / "handed-in")["component_licenses"]["vae"] == "cc-by-nc-4.0"
    licences = front_matter(second)["component_licenses"]
    assert (licences["vae"], licences["audio_vae"]) == ("cc-by-nc-4.0", "apache-2.0")
    assert not {"transformer", "scheduler", "tokenizer"} & licences.keys()

    (second / "README.md").write_text("mine")  # a card that is there stays
    pipeline.save_pretrained(second)
    assert (second / "README.md").read_text() == "mine"

    (first / "README.md").write_text("---\n[\n---\n")  # and one that cannot be read ends no save
    pipeline.save_pretrained(third)
    assert not (third / "README.md").exists()
    assert "states no licences" in caplog.text
    assert JoVAPipeline.from_pretrained(third).vae is not None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("jova-tini", "must be an existing path or a hub name owner/name, got jova-tini; did you mean `jova-tiny`"),
        (
            "jova_tiny_transformer",
            "got jova_tiny_transformer; the config of this name is `training/configs/jova_tiny_tr",
        ),
        ("jova-1.6b", "got jova-1.6b; this name is that of configs without weights: `model=model_cards/jova-1.6b/tr"),
    ],
)
def test_a_name_that_is_no_model_is_refused_at_once(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        JoVAPipeline.from_pretrained(name)


def test_a_folder_that_is_no_pipeline_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"must be a folder with a `model_index.json`, .* `load_lora_weights`"):
        JoVAPipeline.from_pretrained(tmp_path)


def test_a_component_that_was_set_aside_and_put_back_is_saved(tiny_pipeline_folder: Path, tmp_path: Path) -> None:
    pipeline = JoVAPipeline.from_pretrained(tiny_pipeline_folder)
    for name in ("vae", "scheduler"):
        part = getattr(pipeline, name)
        setattr(pipeline, name, None)
        setattr(pipeline, name, part)
    assert pipeline.handed_in == {"vae"}  # as with any module that is put in place; the scheduler is known again
    pipeline.save_pretrained(tmp_path)
    again = JoVAPipeline.from_pretrained(tmp_path)
    assert again.vae is not None
    assert again.scheduler.config == pipeline.scheduler.config


def test_what_is_no_folder_is_neither_loaded_nor_saved_to(tmp_path: Path) -> None:
    file = tmp_path / "s.wav"
    file.write_bytes(b"sound")
    with pytest.raises(ValueError, match=r"s\.wav` must be the folder of a saved pipeline, got a file; .*_file`"):
        JoVAPipeline.from_pretrained(file)
    with pytest.raises(ValueError, match="a model must be a folder or a hub name, got 3; name where it was saved"):
        JoVAPipeline.from_pretrained(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"`save_directory` must be a folder, got the file .*s\.wav; name another"):
        build_tiny_pipeline().save_pretrained(file)
    assert file.read_bytes() == b"sound"
