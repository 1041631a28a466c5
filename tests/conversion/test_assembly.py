"""Component folders become a pipeline that loads, or a sentence that names what does not fit."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from transformers import UMT5Config

from diffusers_jova import JoVAPipeline
from jova_cli.main import main
from jova_cli.model_info import licence_of
from jova_cli.shipped import find_model
from tests.tiny_pipeline import build_transformer, build_vae


def test_a_trained_transformer_takes_its_place_in_a_pipeline(tmp_path: Path, tiny_pipeline_folder: Path) -> None:
    trained = build_transformer()
    with torch.no_grad():
        next(trained.parameters()).fill_(0.125)
    trained.save_pretrained(tmp_path / "run" / "transformer")
    main(["assemble", str(tmp_path / "new"), str(tiny_pipeline_folder), f"transformer={tmp_path / 'run/transformer'}"])
    whole, new = (JoVAPipeline.from_pretrained(path) for path in (tiny_pipeline_folder, tmp_path / "new"))
    assert dict(new.config) == dict(whole.config) | {"_name_or_path": new.config["_name_or_path"]}
    assert next(new.transformer.parameters()).unique().tolist() == [0.125]
    for name in ("text_encoder", "vae", "audio_vae", "vocoder"):
        ours, theirs = (getattr(pipe, name).state_dict() for pipe in (new, whole))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs | ours)
    assert not list((tmp_path / "new" / "tokenizer").glob("*.safetensors"))


def test_components_are_taken_one_by_one_from_folders_without_an_index(
    tmp_path: Path, tiny_pipeline_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    text = tmp_path / "text"  # encoder and tokenizer in one folder, as text encoders are released
    shutil.copytree(tiny_pipeline_folder / "text_encoder", text)
    shutil.copytree(tiny_pipeline_folder / "tokenizer", text, dirs_exist_ok=True)
    (text / "pytorch_model.bin").write_bytes(b"the same weights once more")
    config = tmp_path / "config" / "transformer"
    config.mkdir(parents=True)
    shutil.copy(tiny_pipeline_folder / "transformer" / "config.json", config)
    names = ("vae", "audio_vae", "vocoder")
    parts = [f"{name}={shutil.copytree(tiny_pipeline_folder / name, tmp_path / f'{name}_alone')}" for name in names]
    words = [f"text_encoder={text}", f"tokenizer={text}", f"transformer={config}", *parts]
    main(["assemble", str(tmp_path / "new"), *words])
    assert "a config and no weights: `jova prepare` works" in capsys.readouterr().out
    pipe = JoVAPipeline.from_pretrained(tmp_path / "new", transformer=None)
    assert type(pipe.text_encoder).__name__ == "UMT5EncoderModel"
    assert pipe.scheduler.config.shift == 7
    assert not (tmp_path / "new" / "text_encoder" / "pytorch_model.bin").exists()
    assert not list((tmp_path / "new" / "tokenizer").glob("*.safetensors"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["{pipe}", "vae={tmp}/vae"],
            "`out_channels` of `transformer` must be 8, the channels of `vae`, got 16; load",
        ),
        (
            ["{pipe}", "vae={tmp}/other"],
            "`scale_factor_temporal` of `vae` must be 4, as its layers compress, got 8; correct its config",
        ),
        (["{pipe}", "text_encoder={tmp}/text"], "`text_dim` of `transformer` must be 24, the width of .* got 16"),
        (["{pipe}", "transformer={tmp}/transformer"], "`text_encoder_2` must be given to this transformer, got none"),
        (
            ["{pipe}", "transformer={pipe}/vae"],
            "`transformer` must be one of .*, got AutoencoderKLWan; load or name a component of this kind",
        ),
        (["{pipe}", "vae={pipe}/transformer"], "`vae` must be AutoencoderKLWan, got JoVATransformer3DModel; load"),
        (["{pipe}", "tokenizer={pipe}/vae"], "`tokenizer` must be a tokenizer, got AutoencoderKLWan in .*; name"),
        (
            ["{pipe}", "text_encoder_2={pipe}/text_encoder"],
            "`text_encoder_2` and `tokenizer_2` must be given together",
        ),
        (
            ["vae={pipe}/vae"],
            "got no `tokenizer`, `text_encoder`, `transformer`, `audio_vae`, `vocoder`; name its folder",
        ),
        (["{pipe}", "vea={pipe}/vae"], "a component must be one of tokenizer, .* got `vea`; did you mean `vae`"),
        (["{pipe}", "vae={pipe}/vae", "vae={pipe}/vae"], "a component must be named once, got `vae` several times"),
        (["{pipe}/nowhere"], "a component must be an existing folder"),
        (
            ["{pipe}", "transformer={tmp}/one.safetensors"],
            r"an existing folder, got `transformer=.*`, which is a file; .* `jova convert single_file .* FOLDER`",
        ),
        (
            ["{pipe}", "transformer={tmp}/vae/config.json"],
            "which is a file; give the folder that holds it as `config.json`",
        ),
        (["{pipe}", "scheduler={tmp}"], "with the class in its config, got no class"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    tmp_path: Path, tiny_pipeline_folder: Path, capsys: pytest.CaptureFixture, words: list[str], message: str
) -> None:
    build_vae().save_pretrained(tmp_path / "vae")
    config = json.loads((tmp_path / "vae" / "config.json").read_text())
    less = {"z_dim": 8} | {name: config[name][:8] for name in ("latents_mean", "latents_std")}
    for name, change in (("vae", less), ("other", {"scale_factor_temporal": 8})):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "config.json").write_text(json.dumps(config | change))
    (tmp_path / "one.safetensors").touch()
    UMT5Config(d_model=24).save_pretrained(tmp_path / "text")
    build_transformer(text_dim_2=24).save_pretrained(tmp_path / "transformer")
    filled = [word.format(pipe=tiny_pipeline_folder, tmp=tmp_path) for word in words]
    with pytest.raises(SystemExit, match="2"):
        main(["assemble", str(tmp_path / "new"), *filled])
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "new").exists()


def test_a_student_of_few_steps_keeps_the_settings_of_its_own_pipeline(
    tmp_path: Path, tiny_pipeline_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    student = shutil.copytree(tiny_pipeline_folder, tmp_path / "student")
    index = json.loads((student / "model_index.json").read_text())
    index["few_steps"] = {"num_inference_steps": 2, "shift": 1.0, "audio_shift": 1.0}
    (student / "model_index.json").write_text(json.dumps(index))
    plain = f"transformer={tiny_pipeline_folder / 'transformer'}"
    for words in ([str(tiny_pipeline_folder), f"transformer={student / 'transformer'}"], [str(student), plain]):
        with pytest.raises(SystemExit):
            main(["assemble", str(tmp_path / "new"), *words])
        said = capsys.readouterr().err
        assert "a student of few steps must go with the settings and the scheduler of its own pipeline" in said
    main(["assemble", str(tmp_path / "new"), str(student), f"vae={tiny_pipeline_folder / 'vae'}"])
    assert json.loads((tmp_path / "new" / "model_index.json").read_text())["few_steps"] == index["few_steps"]


def test_settings_and_licences_of_the_pipelines_are_kept(tmp_path: Path) -> None:
    source = find_model("jova-tiny")
    main(["assemble", str(tmp_path / "new"), source])
    index, stored = (
        json.loads((Path(place) / "model_index.json").read_text()) for place in (tmp_path / "new", source)
    )
    assert {name: index[name] for name in stored if not name.startswith("_")} == {
        name: value for name, value in stored.items() if not name.startswith("_")
    }
    assert licence_of(tmp_path / "new", "vae") == licence_of(Path(source), "vae") == "apache-2.0"
