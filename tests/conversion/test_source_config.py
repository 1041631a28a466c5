"""The config beside the weights of a checkpoint: what no shape tells is taken from it, what contradicts is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file

from diffusers_jova import JoVADualTowerTransformer3DModel, JoVAWanTransformer3DModel
from diffusers_jova.conversion import source as hub_source
from diffusers_jova.conversion.convert import main
from diffusers_jova.conversion.source_config import read_beside
from tests.conversion.test_dual_tower import write_configs, write_mova, write_uniavgen
from tests.conversion.test_wan import nava_names, small_wan
from tests.tiny_checkpoints import write_checkpoints


TINY = {"in_channels": 4, "out_channels": 4, "text_dim": 16, "freq_dim": 32, "ffn_dim": 64, "num_layers": 2}


def write_wan(folder: Path, **changes: Any) -> WanTransformer3DModel:
    """A tiny transformer in diffusers' layout, 256 wide unless changed."""
    torch.manual_seed(0)
    sizes = {"num_attention_heads": 2, "attention_head_dim": 128, "rope_max_seq_len": 32} | TINY | changes
    model = WanTransformer3DModel(**sizes).eval()
    model.save_pretrained(folder)
    return model


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps((json.loads(path.read_text()) if path.is_file() else {}) | changes))


def write_original(folder: Path, **config: Any) -> Path:
    """A Wan tower 128 wide in the original layout beside its config."""
    folder.mkdir()
    save_file(small_wan(), folder / "diffusion_pytorch_model.safetensors")
    change_config(folder, **config)
    return folder


def refusal(kind: str, source: Path, capsys: pytest.CaptureFixture[str]) -> str:
    output = source.parent / "refused"
    with pytest.raises(SystemExit, match="2"):
        main([kind, str(source), str(output)])
    assert not output.exists()
    return capsys.readouterr().err


@torch.no_grad()
@pytest.mark.parametrize("eps", [1e-6, 1e-2])
@pytest.mark.parametrize("head_dim", [64, 128, 256])
@pytest.mark.parametrize("whole_pipeline", [False, True])
def test_a_converted_wan_predicts_what_diffusers_does(
    head_dim: int, eps: float, whole_pipeline: bool, tmp_path: Path
) -> None:
    source = tmp_path / "wan"
    heads = {"num_attention_heads": 256 // head_dim, "attention_head_dim": head_dim}
    theirs = write_wan(source / "transformer" if whole_pipeline else source, **heads, eps=eps)
    main(["wan", str(source), str(tmp_path / "out")])
    ours = JoVAWanTransformer3DModel.from_pretrained(tmp_path / "out").eval()
    assert {name: ours.config[name] for name in heads} == heads
    latents, text, timestep = torch.randn(1, 4, 3, 8, 8), torch.randn(1, 7, 16), torch.tensor([500.0])
    wanted = theirs(latents, timestep, text, return_dict=False)[0]
    got = ours(latents, None, text, timestep, frame_rate=16.0, audio_latent_rate_hz=25.0).sample
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)


def test_wans_own_config_tells_heads_and_eps_in_its_own_words(tmp_path: Path) -> None:
    source = write_original(
        tmp_path / "wan", model_type="t2v", dim=128, num_heads=4, eps=1e-5, freq_dim=32, text_len=8
    )
    main(["wan", str(source), str(tmp_path / "folder")])
    main(["wan", str(next(source.glob("*.safetensors"))), str(tmp_path / "file")])
    for name in ("folder", "file"):
        config = JoVAWanTransformer3DModel.from_pretrained(tmp_path / name).config
        assert (config.num_attention_heads, config.attention_head_dim, config.eps) == (4, 32, 1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_attention_heads": 3}, "as the weights beside it with heads of 128 channels have it, got 3; take both"),
        ({"attention_head_dim": 64}, "must be 4, as the weights beside it with heads of 64 channels have it, got 2"),
        ({"attention_head_dim": 96}, "towers must be whole heads of 96 channels wide, got 256"),
        ({"attention_head_dim": "64"}, "must be a whole number, got '64'; write it without quotes"),
        ({"num_layers": 3}, "`num_layers` in `"),
        ({"ffn_dim": 32}, "must be 64, as the weights"),
        ({"in_channels": 16}, "must be 4, as the weights"),
        ({"freq_dim": 256}, "must be 32, as the weights"),
        ({"patch_size": [1, 1, 1]}, "must be (1, 2, 2), as the weights"),
        ({"dim": 512}, "must be 256, as the weights"),
        (
            {"qk_norm": "rms_norm"},
            "must be 'rms_norm_across_heads' or True, as in Wan's releases, got 'rms_norm'; the",
        ),
        ({"cross_attn_norm": False}, "must be True, as in Wan's releases, got False; the converted model would"),
        ({"window_size": [4, 4]}, "must be [-1, -1], as in Wan's releases, got [4, 4]; the converted"),
        ({"model_type": "s2v"}, "must be 't2v' or 'i2v' or 'ti2v', as in Wan's releases, got 's2v'; the converted"),
        ({"rope_theta": 5000.0}, "must be 10000.0, as in Wan's releases, got 5000.0; the converted model would"),
        ({"eps": 0}, "must be positive and finite, got 0; take the config of the release"),
    ],
)
def test_a_config_that_contradicts_its_weights_or_asks_for_another_model_is_refused(
    changes: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_wan(tmp_path / "wan")
    change_config(tmp_path / "wan", **changes)
    assert message in refusal("wan", tmp_path / "wan", capsys)


def test_a_config_that_is_no_json_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_wan(tmp_path / "wan")
    (tmp_path / "wan" / "config.json").write_text("{")
    assert "config.json` must be a JSON object" in refusal("wan", tmp_path / "wan", capsys)


def test_without_a_config_heads_and_eps_are_those_of_the_releases(tmp_path: Path) -> None:
    write_wan(tmp_path / "wan")
    (tmp_path / "wan" / "config.json").unlink()
    main(["wan", str(tmp_path / "wan"), str(tmp_path / "out")])
    config = JoVAWanTransformer3DModel.from_pretrained(tmp_path / "out").config
    assert (config.num_attention_heads, config.attention_head_dim, config.eps) == (2, 128, 1e-6)


def test_nava_reads_the_config_beside_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    (tmp_path / "nava").mkdir()
    names = nava_names(dim=128, ffn=32, twins=1, shared=1)
    save_file({name: 0.1 * torch.randn(shape) for name, shape in names.items()}, tmp_path / "nava/NAVA.safetensors")
    change_config(tmp_path / "nava", dim=128, num_heads=2, eps=1e-5, num_layers=1)
    main(["nava", str(tmp_path / "nava" / "NAVA.safetensors"), str(tmp_path / "out")])
    config = JoVAWanTransformer3DModel.from_pretrained(tmp_path / "out").config
    assert (config.num_attention_heads, config.attention_head_dim, config.eps) == (2, 64, 1e-5)
    change_config(tmp_path / "nava", dim=256)
    assert "`dim` in `" in refusal("nava", tmp_path / "nava", capsys)


@pytest.mark.parametrize("options", [[], ["--towers-only"]])
def test_ovi_reads_the_config_beside_it(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_checkpoints(Path())
    (dim,) = load_file("chetwinlow1/Ovi:model.safetensors")["video_model.patch_embedding.bias"].shape
    change_config(Path("chetwinlow1"), dim=dim, num_heads=dim // 64, eps=1e-5)
    main(["ovi", "chetwinlow1/Ovi:model.safetensors", "out", *options])
    cls = JoVAWanTransformer3DModel if options else JoVADualTowerTransformer3DModel
    config = cls.from_pretrained("out").config
    assert (config.num_attention_heads, config.attention_head_dim, config.eps) == (dim // 64, 64, 1e-5)
    change_config(Path("chetwinlow1"), dim=2 * dim)
    assert "`dim` in `" in refusal("ovi", Path("chetwinlow1/Ovi:model.safetensors"), capsys)


def test_the_config_beside_one_file_of_a_repository_comes_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = {"high/w.safetensors", "high/config.json", "low/w.safetensors"}
    asked = []

    def download(repository: str, file: str) -> str:
        asked.append(file)
        if file not in there:
            raise LocalEntryNotFoundError(file)
        return str(tmp_path / repository / file)

    monkeypatch.setattr(hub_source, "hf_hub_download", download)
    for folder in ("high", "low"):
        path = hub_source.local_path(f"owner/name:{folder}/w.safetensors")
        assert path == tmp_path / "owner/name" / folder / "w.safetensors"
    assert asked == ["high/w.safetensors", "high/config.json", "low/w.safetensors", "low/config.json"]


def test_uniavgen_reads_the_config_beside_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    release = write_uniavgen(tmp_path / "release")
    main(["uniavgen", str(release), str(tmp_path / "plain")])
    plain = JoVADualTowerTransformer3DModel.load_config(tmp_path / "plain" / "transformer")
    change_config(release, head_dim=64, eps=1e-5)
    main(["uniavgen", str(release), str(tmp_path / "out")])
    config = JoVADualTowerTransformer3DModel.from_pretrained(tmp_path / "out", subfolder="transformer").config
    assert (config.attention_head_dim, config.eps) == (64, 1e-5)
    for name in ("num_attention_heads", "audio_num_attention_heads"):
        assert config[name] == 2 * plain[name]
    change_config(release, num_heads=plain["num_attention_heads"])
    assert "`num_heads` in `" in refusal("uniavgen", release, capsys)


def test_a_tower_of_mova_whose_config_contradicts_it_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    release = write_mova(tmp_path / "MOVA")
    write_configs(release, 128)
    change_config(release / "audio_dit", num_layers=77)
    said = refusal("mova", release, capsys)
    assert f"`num_layers` in `{release / 'audio_dit' / 'config.json'}` must be " in said
    assert "got 77; take both from one place, or move away a config of another model" in said


def test_what_a_file_that_is_written_back_does_not_tell_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, config in (("of_releases", {}), ("others", {"dim": 128, "num_heads": 4, "eps": 1e-5})):
        main(["wan", str(write_original(tmp_path / name, **config)), str(tmp_path / f"{name}_out")])
        capsys.readouterr()
        (tmp_path / f"{name}_back").mkdir()
        back = tmp_path / f"{name}_back" / "wan.safetensors"
        main(["wan", str(tmp_path / f"{name}_out"), str(back), "--reverse"])
        said = (
            "put a `config.json` with `dim` 128, `num_heads` 4 and `eps` 1e-05 beside the file, whose weights do not"
        )
        assert (said in capsys.readouterr().out) == bool(config)
        change_config(back.parent, **config)
        main(["wan", str(back), str(tmp_path / f"{name}_again")])
        again, first = (read_beside(tmp_path / f"{name}_{step}").values for step in ("again", "out"))
        assert again == first
