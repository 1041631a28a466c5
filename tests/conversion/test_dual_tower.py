"""Transformers of two towers by the command, alone and in pipelines, from tiny checkpoints in released layouts."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from safetensors.torch import load_file, save_file
from transformers import UMT5Config, UMT5EncoderModel

from diffusers_jova import (
    JoVAAutoencoderKLDAC,
    JoVADualTowerTransformer3DModel,
    JoVAPipeline,
    JoVAPrompt,
    JoVAWanTransformer3DModel,
)
from diffusers_jova.conversion import mova, ovi, uniavgen
from diffusers_jova.conversion.checkpoint import open_checkpoint
from diffusers_jova.conversion.convert import main
from diffusers_jova.conversion.output import constant, write_weights
from diffusers_jova.conversion.wan import HEAD_DIM
from diffusers_jova.generation_defaults import GenerationDefaults
from diffusers_jova.scheduling_flow_match_av import PRESETS
from diffusers_jova.spoken_text_encoder import JoVASpokenTextEncoder
from jova_cli.model_info import front_matter
from tests.conversion.test_dac import released_names, small_dac
from tests.conversion.test_memory import mova_shapes, uniavgen_shapes
from tests.places import CARDS
from tests.tiny_checkpoints import APACHE, DEFAULTS, WAN_2_1_VAE, convert_commands, write_checkpoints
from tests.tiny_pipeline import build_tokenizer


COMPONENTS = ("tokenizer", "text_encoder", "vae")


def test_ovi_keeps_its_fusion_in_a_pipeline_that_makes_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ovi.FAMILY.config == {"negative_skip_layer": 11}
    monkeypatch.setattr(ovi, "FAMILY", replace(ovi.FAMILY, config={"negative_skip_layer": 0}))  # of two blocks here
    monkeypatch.chdir(tmp_path)
    write_checkpoints(Path())
    *codec, ((kind, source, _, *options)) = convert_commands(CARDS / "wan-ovi" / "README.md")
    for words in codec:
        main(words)
    main([kind, source, "ovi", *(word for word in options if word not in ("--towers-only", "--dtype", "bfloat16"))])
    pipe = JoVAPipeline.from_pretrained("ovi")
    assert isinstance(pipe.transformer, JoVADualTowerTransformer3DModel)
    assert pipe.transformer.config.fusion == "text_cross"
    assert pipe.defaults == GenerationDefaults(**ovi.FAMILY.defaults)
    assert pipe.config.negative_skip_layer == 0
    assert front_matter(Path("ovi"))["license"] == "cc-by-nc-4.0"
    assert "# Ovi for diffusers_jova" in Path("ovi/README.md").read_text()
    _, found = ovi.convert_fused(open_checkpoint(Path(source)))
    weights = pipe.transformer.state_dict()
    assert weights.keys() == {parameter.name for parameter in found}
    assert all(torch.equal(weights[parameter.name], parameter.make()) for parameter in found)
    output = pipe("a man", **DEFAULTS, generator=torch.Generator().manual_seed(0), output_type="np")
    assert output.frames.shape == (1, 5, 32, 32, 3)
    assert output.audio[0].std() > 0


def test_ovis_towers_alone_are_another_model_without_the_fusion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_checkpoints(Path())
    for output, *options in (["fused"], ["towers", "--towers-only"]):
        main(["ovi", "chetwinlow1/Ovi:model.safetensors", output, *options])
        assert ("left out, 14 tensors of Ovi's fusion" in capsys.readouterr().out) == bool(options)
    towers = JoVAWanTransformer3DModel.from_pretrained("towers").state_dict()
    fused = JoVADualTowerTransformer3DModel.from_pretrained("fused").state_dict()
    assert not any("fusion" in name for name in towers)
    assert sum("fusion" in name for name in fused) == 14
    assert "JoVADualTowerTransformer3DModel.from_pretrained" in Path("fused/README.md").read_text()
    assert "JoVAWanTransformer3DModel.from_pretrained" in Path("towers/README.md").read_text()


def test_a_pipeline_that_would_skip_a_block_that_is_not_there_is_refused_before_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_checkpoints(Path())
    with pytest.raises(SystemExit, match="2"):
        main(["ovi", "chetwinlow1/Ovi:model.safetensors", "ovi", "--components", "Wan-AI/Wan2.2-TI2V-5B-Diffusers"])
    said = capsys.readouterr().err
    assert "`SOURCE` must have more than 11 blocks for a pipeline, whose predictions without the prompt leave" in said
    assert "got 1; leave out `--components`" in said
    assert not Path("ovi").exists()


def write_mova(folder: Path) -> Path:
    """A release: four folders of transformers, one of them in two shards, and the components."""
    torch.manual_seed(0)
    shapes = mova_shapes()
    for name in mova.FOLDERS:
        part = {key.removeprefix(f"{name}."): shape for key, shape in shapes.items() if key.startswith(f"{name}.")}
        tensors = [constant(key, 0.1 * torch.randn(shape)) for key, shape in part.items()]
        (folder / name).mkdir(parents=True)
        write_weights(folder / name, tensors, shard_gb=1e-4 if name == "video_dit" else 1)
    config = UMT5Config(vocab_size=128, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    UMT5EncoderModel(config).save_pretrained(folder / "text_encoder")
    build_tokenizer().save_pretrained(folder / "tokenizer")
    AutoencoderKLWan(**WAN_2_1_VAE).save_pretrained(folder / "video_vae")
    (folder / "audio_vae").mkdir()
    save_file(released_names(small_dac()), folder / "audio_vae" / "diffusion_pytorch_model.safetensors")
    (folder / "audio_vae" / "config.json").write_text('{"_class_name": "DAC"}')
    index = {
        "_class_name": "MOVA",
        "audio_vae": ["mova.diffusion.models", "DAC"],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", type(build_tokenizer()).__name__],
        "video_vae": ["diffusers", "AutoencoderKLWan"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "README.md").write_text(APACHE)
    return folder


def test_the_folder_of_movas_release_becomes_a_pipeline_that_makes_clips(tmp_path: Path) -> None:
    release, output = write_mova(tmp_path / "MOVA"), tmp_path / "out"
    main(["mova", str(release), str(output), "--components", str(release)])
    pipe = JoVAPipeline.from_pretrained(output)
    assert isinstance(pipe.transformer, JoVADualTowerTransformer3DModel)
    assert (pipe.transformer.config.fusion, pipe.transformer.config.boundary) == ("bridge", 0.9)
    assert isinstance(pipe.audio_vae, JoVAAutoencoderKLDAC)
    assert pipe.vocoder is None
    assert pipe.defaults == GenerationDefaults(**mova.FAMILY.defaults)
    assert (pipe.config.fills_image_with_grey, pipe.config.starts_white) == (True, True)
    assert {name: pipe.scheduler.config[name] for name in PRESETS["mova"]} == dict(PRESETS["mova"])
    parts = JoVAPrompt(video="seen", audio="heard", transcript="said")
    assert pipe.render_prompts(parts) == ['seen heard "said"']
    licences = front_matter(output)["component_licenses"]
    assert licences == dict.fromkeys(("transformer", *COMPONENTS, "audio_vae"), "apache-2.0")
    originals = load_file(release / "video_vae" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(tensor, originals[name]) for name, tensor in pipe.vae.state_dict().items())
    _, found = mova.convert_transformer(mova.open_release(release))
    weights = pipe.transformer.state_dict()
    assert weights.keys() == {parameter.name for parameter in found}
    assert all(torch.equal(weights[parameter.name], parameter.make()) for parameter in found)
    clip = pipe("a man", **DEFAULTS, generator=torch.Generator().manual_seed(0), output_type="np")
    assert clip.frames.shape == (1, 5, 32, 32, 3)
    assert clip.audio[0].std() > 0


def test_another_checkpoint_is_not_taken_for_ovis(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tower = write_mova(tmp_path / "MOVA") / "audio_dit"
    with pytest.raises(SystemExit, match="2"):
        main(["ovi", str(tower), str(tmp_path / "out")])
    said = capsys.readouterr().err
    assert "`SOURCE` must be Ovi's checkpoint, whose tensors are those of `video_model` and `audio_model`, got" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("missing", mova.FOLDERS)
def test_a_release_of_mova_without_one_of_its_folders_is_refused(
    missing: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    release = write_mova(tmp_path / "MOVA")
    (release / missing).rename(tmp_path / "elsewhere")
    with pytest.raises(SystemExit, match="2"):
        main(["mova", str(release), str(tmp_path / "out")])
    assert "of MOVA's release, with `video_dit`, " in (said := capsys.readouterr().err)
    assert f"got no `{missing}` in `{release}`; download what is missing" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"pooled_adaln": torch.zeros(1)}, "1 tensors that no rule knows: `dual_tower_bridge.pooled_adaln`"),
        (
            {"audio_to_video_conditioners.0.y_norm.weight": torch.zeros(3)},
            "got `blocks.0.fusion.video.norm_kv.weight` of shape [3] instead of [128]",
        ),
        (None, "must be a complete safetensors file"),
    ],
    ids=["unknown", "wrong shape", "truncated"],
)
def test_a_damaged_release_of_mova_is_refused(
    tensors: dict[str, torch.Tensor] | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    release = write_mova(tmp_path / "MOVA")
    path = release / "dual_tower_bridge" / "diffusion_pytorch_model.safetensors"
    if tensors is None:
        path.write_bytes(path.read_bytes()[:-1])
    else:
        save_file(load_file(path) | tensors, path)
    with pytest.raises(SystemExit, match="2"):
        main(["mova", str(release), str(tmp_path / "out")])
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [release]


def write_configs(release: Path, head_dim: int, changes: Mapping[str, object] = {}) -> None:
    """What the folders of the transformers say of themselves; changes are of the bridge."""
    for name in mova.FOLDERS:
        heads = {"audio_dit": 1, "dual_tower_bridge": 0}.get(name, 2) * HEAD_DIM // head_dim
        tower = {"dim": heads * head_dim, "num_heads": heads, "eps": 1e-6}
        bridge = {"head_dim": head_dim, "audio_fps": 50.0, "apply_cross_rope": True, **changes}
        (release / name / "config.json").write_text(json.dumps(tower if heads else bridge))


def test_a_release_tells_its_heads_by_its_configs(tmp_path: Path) -> None:
    release = write_mova(tmp_path / "MOVA")
    for head_dim in (64, HEAD_DIM):
        write_configs(release, head_dim)
        main(["mova", str(release), str(tmp_path / f"{head_dim}")])
        model = JoVADualTowerTransformer3DModel.from_pretrained(tmp_path / f"{head_dim}")
        _, found = mova.convert_transformer(mova.open_release(release), head_dim=head_dim)
        assert model.config.attention_head_dim == head_dim
        assert (model.config.num_attention_heads, model.config.audio_num_attention_heads) == (
            2 * HEAD_DIM // head_dim,
            HEAD_DIM // head_dim,
        )
        assert all(torch.equal(model.state_dict()[one.name], one.make()) for one in found)


@pytest.mark.parametrize(
    ("head_dim", "changes", "message"),
    [
        (
            HEAD_DIM,
            {"apply_first_frame_bias_in_rope": True},
            "must be False, as in MOVA's releases, got True; the con",
        ),
        (HEAD_DIM, {"audio_fps": 31.25}, "must be 50.0, as in MOVA's releases, got 31.25; the converted model would"),
        (HEAD_DIM, {"head_dim": 64}, "must have heads of one size, got 128 in `"),
        (HEAD_DIM, {"head_dim": 0}, "config.json` must be at least 1, got 0"),
        (
            256,
            {},
            "towers must be whole heads of 256 channels wide, got 128; convert a model with heads of 128, or of",
        ),
    ],
)
def test_a_release_that_computes_something_else_is_refused(
    head_dim: int, changes: dict[str, object], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    release = write_mova(tmp_path / "MOVA")
    write_configs(release, 64 if head_dim > HEAD_DIM else head_dim, changes)
    if head_dim > HEAD_DIM:
        for name in mova.FOLDERS:
            (release / name / "config.json").write_text(json.dumps({"head_dim": head_dim}))
    with pytest.raises(SystemExit, match="2"):
        main(["mova", str(release), str(tmp_path / "out")])
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["uniavgen", "wan"])
def test_towers_of_other_heads_are_refused(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    release = tmp_path / "release"
    if kind == "wan":
        WanTransformer3DModel(num_attention_heads=2, attention_head_dim=48, num_layers=1).save_pretrained(release)
    else:
        heads = {"attention_head_dim": 48, "rope_axes_dim": (16, 16, 16), "audio_rope_axes_dim": (48, 0, 0)}
        write_uniavgen(release, **heads)
    with pytest.raises(SystemExit, match="2"):
        main([kind, str(release), str(tmp_path / "out")])
    assert "towers must be whole heads of 128 channels wide, got 96; convert a" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def write_uniavgen(folder: Path, **sizes: Any) -> Path:
    """A release: one tiny transformer with one fusion, and the encoder of spoken text, in two shards."""
    torch.manual_seed(0)
    shapes = uniavgen_shapes(**sizes)
    tensors = [constant(name, 0.1 * torch.randn(shape)) for name, shape in shapes.items()]
    folder.mkdir()
    write_weights(folder, tensors, shard_gb=sum(tensor.num_bytes for tensor in tensors) / 1.5e9)
    assert len(list(folder.glob("*.safetensors"))) == 2
    return folder


def test_uniavgens_release_becomes_a_transformer_and_an_encoder_of_spoken_text(tmp_path: Path) -> None:
    release, output = write_uniavgen(tmp_path / "UniAVGen"), tmp_path / "out"
    main(["uniavgen", str(release), str(output)])
    transformer = JoVADualTowerTransformer3DModel.from_pretrained(output, subfolder="transformer")
    assert (transformer.config.fusion, list(transformer.config.fusion_layers)) == ("aligned", [0])
    encoder = JoVASpokenTextEncoder.from_pretrained(output, subfolder="spoken_text_encoder")
    assert encoder.config.vocab_size == 9
    original = open_checkpoint(release)
    for model, convert in ((transformer, uniavgen.convert_transformer), (encoder, uniavgen.convert_text_encoder)):
        _, found = convert(original)
        weights = model.state_dict()
        assert weights.keys() == {parameter.name for parameter in found}
        assert all(torch.equal(weights[parameter.name], parameter.make()) for parameter in found)
    assert front_matter(output)["license"] == "apache-2.0"


def test_another_checkpoint_and_a_damaged_one_are_not_taken_for_uniavgens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = {name: source.read() for name, source in open_checkpoint(write_uniavgen(tmp_path / "release")).items()}
    encoder = "text_embedding.text_embed.weight"
    mask_head = "a2v_blocks.0.mask_head.head.bias"
    for tensors, message in (
        ({"blocks.0.norm3.bias": torch.zeros(2)}, "must be UniAVGen's transformer, with `a2v_blocks` between"),
        (whole | {"x.unknown": torch.zeros(1)}, "1 tensors that no rule knows: `x.unknown`"),
        ({name: one for name, one in whole.items() if name != encoder}, "none for 1 rules: `text_embed.weight`"),
        (whole | {mask_head: torch.zeros(3)}, "got `blocks.0.fusion.mask_head.proj_out.bias` of shape [3] instead"),
    ):
        save_file(tensors, tmp_path / "one.safetensors")
        with pytest.raises(SystemExit, match="2"):
            main(["uniavgen", str(tmp_path / "one.safetensors"), str(tmp_path / "out")])
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


# Back to the original names


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: source.read() for name, source in open_checkpoint(folder).items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("head_dim", [64, HEAD_DIM])
def test_a_converted_mova_goes_back_into_the_folders_of_its_release(head_dim: int, tmp_path: Path) -> None:
    release = write_mova(tmp_path / "MOVA")
    write_configs(release, head_dim)
    main(["mova", str(release), str(tmp_path / "out"), "--components", str(release)])
    main(["mova", str(tmp_path / "out"), str(tmp_path / "back"), "--reverse"])
    assert {folder.name for folder in (tmp_path / "back").iterdir()} == {*mova.FOLDERS}
    assert all(same(tensors_of(tmp_path / "back" / name), tensors_of(release / name)) for name in mova.FOLDERS)
    for name in mova.FOLDERS:
        (tmp_path / "back" / name / "config.json").write_bytes((release / name / "config.json").read_bytes())
    main(["mova", str(tmp_path / "back"), str(tmp_path / "again")])
    assert same(tensors_of(tmp_path / "again"), tensors_of(tmp_path / "out"))


def test_one_expert_goes_back_into_the_folders_that_there_are(tmp_path: Path) -> None:
    release = write_mova(tmp_path / "MOVA")
    config, found = mova.convert_transformer(mova.open_release(release), "video_dit")
    assert config["boundary"] is None
    (tmp_path / "one").mkdir()
    write_weights(tmp_path / "one", found, shard_gb=1)
    main(["mova", str(tmp_path / "one"), str(tmp_path / "back"), "--reverse"])
    assert {folder.name for folder in (tmp_path / "back").iterdir()} == {*mova.FOLDERS} - {"video_dit_2"}
    assert same(tensors_of(tmp_path / "back" / "video_dit"), tensors_of(release / "video_dit"))


def test_a_converted_uniavgen_goes_back_into_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    release = write_uniavgen(tmp_path / "UniAVGen")
    main(["uniavgen", str(release), str(tmp_path / "out")])
    main(["uniavgen", str(tmp_path / "out"), str(tmp_path / "back.safetensors"), "--reverse"])
    assert "`audio_padding`, which no other line of the released code needs, is not in" in capsys.readouterr().out
    original = tensors_of(release)
    del original["audio_padding"]
    assert same(load_file(tmp_path / "back.safetensors"), original)
    with pytest.raises(SystemExit, match="2"):
        main(["uniavgen", str(tmp_path / "out" / "transformer"), str(tmp_path / "b.safetensors"), "--reverse"])
    assert "must be a folder with `transformer` and `spoken_text_encoder` in it, got" in capsys.readouterr().err


def test_a_converted_ovi_goes_back_into_one_file_and_its_towers_alone_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_checkpoints(Path())
    source = "chetwinlow1/Ovi:model.safetensors"
    main(["ovi", source, "fused"])
    main(["ovi", "fused", "back.safetensors", "--reverse"])
    assert same(load_file("back.safetensors"), load_file(source))
    main(["ovi", source, "towers", "--towers-only"])
    with pytest.raises(SystemExit, match="2"):
        main(["ovi", "towers", "b.safetensors", "--reverse"])
    assert "none for 8 rules: " in capsys.readouterr().err
    assert not Path("b.safetensors").exists()
