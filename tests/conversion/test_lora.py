import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from diffusers_jova.adapter_keys import WAN_LAYERS, module_name
from diffusers_jova.conversion import lora, wan
from diffusers_jova.conversion.convert import main
from diffusers_jova.conversion.output import Options
from diffusers_jova.conversion.rules import plan, prefixed


MODULES = {"transformer_blocks.0.attn.video.to_q": 4, "transformer_blocks.1.ff.audio.net.2": 2}


def matrices(dtype: torch.dtype = torch.bfloat16) -> dict[str, Tensor]:
    torch.manual_seed(0)
    pairs = {f"{module}.lora_A.weight": torch.randn(rank, 8).to(dtype) for module, rank in MODULES.items()}
    return pairs | {f"{module}.lora_B.weight": torch.randn(6, rank).to(dtype) for module, rank in MODULES.items()}


def diffusers_file(path: Path, config: dict[str, object] | None) -> Path:
    header = {}
    if config is not None:
        header = {lora.CONFIG_KEY: json.dumps({f"transformer.{name}": value for name, value in config.items()})}
    save_file({f"transformer.{name}": value for name, value in matrices().items()}, path, metadata=header)
    return path


def convert(source: Path, output: Path, layout: str) -> Path:
    lora.convert(source, output, Options(layout=layout))
    return output


@pytest.mark.parametrize(("layout", "name"), [("peft", "folder"), ("comfy", "file.safetensors")])
def test_a_round_trip_through_another_layout_returns_every_bit(layout: str, name: str, tmp_path: Path) -> None:
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "alpha_pattern": {"audio.net.2": 3}, "use_rslora": True}
    source = diffusers_file(tmp_path / "ours.safetensors", config)
    there = convert(source, tmp_path / name, layout)
    back = convert(there, tmp_path / "back.safetensors", "diffusers")
    before, after = load_file(source), load_file(back)
    assert before.keys() == after.keys()
    for key, tensor in before.items():
        assert tensor.dtype == after[key].dtype
        assert torch.equal(tensor, after[key])
    assert lora.read(back).config == config


def test_a_comfy_adapter_keeps_matrices_and_alphas_on_the_way_there_and_back(tmp_path: Path) -> None:
    tensors = {}
    for name, tensor in matrices().items():
        tensors[f"diffusion_model.{name.replace('lora_A', 'lora_down').replace('lora_B', 'lora_up')}"] = tensor
    for module, alpha in zip(MODULES, (16.0, 0.5), strict=True):
        tensors[f"diffusion_model.{module}.alpha"] = torch.tensor(alpha)
    save_file(tensors, tmp_path / "comfy.safetensors")
    ours = convert(tmp_path / "comfy.safetensors", tmp_path / "ours.safetensors", "diffusers")
    back = load_file(convert(ours, tmp_path / "back.safetensors", "comfy"))
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[key], tensors[key]) for key in tensors)


def test_the_file_of_a_folder_is_the_one_that_a_pipeline_loads(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint-10"
    checkpoint.mkdir()
    for name, unread in (("ema", None), ("model", {"r": 1})):
        diffusers_file(checkpoint / f"{name}.safetensors", unread)
    (checkpoint / "state.json").write_text("{}")
    assert lora.adapter_file(checkpoint).name == "ema.safetensors"
    (checkpoint / "state.json").unlink()
    with pytest.raises(
        ValueError, match=r"must be a folder of one adapter, got .* with ema\.safetensors, model\.safetensors"
    ):
        lora.adapter_file(checkpoint)
    for file in checkpoint.iterdir():
        file.unlink()
    with pytest.raises(ValueError, match=r"must be the folder of an adapter, got .* without a file of weights"):
        lora.adapter_file(checkpoint)


def test_the_scale_of_every_module_survives_each_layout(tmp_path: Path) -> None:
    source = diffusers_file(tmp_path / "ours.safetensors", {"lora_alpha": 8, "r": 4, "rank_pattern": {"net.2": 2}})
    expected = {"transformer_blocks.0.attn.video.to_q": 8.0, "transformer_blocks.1.ff.audio.net.2": 8.0}
    assert lora.read(source).alphas() == expected
    comfy = load_file(convert(source, tmp_path / "comfy.safetensors", "comfy"))
    assert {name: float(comfy[f"diffusion_model.{name}.alpha"]) for name in MODULES} == expected
    stripped = {name: tensor.contiguous() for name, tensor in comfy.items()}  # as a tool that drops the header
    save_file(stripped, tmp_path / "stripped.safetensors")
    assert lora.read(tmp_path / "stripped.safetensors").alphas() == expected


def test_a_rank_stabilised_scale_is_written_as_a_plain_one(tmp_path: Path) -> None:
    source = diffusers_file(tmp_path / "ours.safetensors", {"lora_alpha": 8, "r": 4, "use_rslora": True})
    adapter = lora.read(source)
    for module, rank in MODULES.items():
        assert adapter.alphas()[module] / rank == pytest.approx(8 / rank**0.5)


def test_an_adapter_without_any_alpha_has_a_scale_of_one(tmp_path: Path) -> None:
    adapter = lora.read(diffusers_file(tmp_path / "ours.safetensors", None))
    assert adapter.alphas() == {module: float(rank) for module, rank in MODULES.items()}


def test_peft_reads_the_folder_and_computes_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(8, 6))
    adapted = get_peft_model(base, LoraConfig(r=2, lora_alpha=6, target_modules=["0"], init_lora_weights=False))
    inputs = torch.randn(3, 8)
    expected = adapted(inputs)
    adapted.save_pretrained(tmp_path / "peft")
    comfy = convert(tmp_path / "peft", tmp_path / "comfy.safetensors", "comfy")
    again = convert(comfy, tmp_path / "again", "peft")
    original = adapted.unload()
    from peft import PeftModel

    torch.testing.assert_close(PeftModel.from_pretrained(original, again)(inputs), expected)


def test_diffusers_reads_the_file_with_its_scale(tmp_path: Path) -> None:
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8.0, "target_modules": ["to_q"]}
    source = diffusers_file(tmp_path / "ours.safetensors", config)
    folder = convert(convert(source, tmp_path / "peft", "peft"), tmp_path / "folder", "diffusers")
    from diffusers.loaders.lora_base import _fetch_state_dict

    names = ("use_safetensors", "local_files_only", "cache_dir", "force_download", "proxies", "token", "revision")
    state, metadata = _fetch_state_dict(
        str(folder), None, **(dict.fromkeys(names) | {"use_safetensors": True}), subfolder=None, user_agent={},
        allow_pickle=False,
    )  # fmt: skip
    assert state.keys() == load_file(source).keys()
    assert metadata["transformer.lora_alpha"] == 8.0


def test_an_adapter_of_a_plain_wan_model_lands_on_the_video_tower(tmp_path: Path) -> None:
    tensors = {"diffusion_model.blocks.7.self_attn.o.lora_down.weight": torch.ones(2, 8)}
    tensors["diffusion_model.blocks.7.self_attn.o.lora_up.weight"] = torch.ones(8, 2)
    tensors["diffusion_model.blocks.7.self_attn.o.alpha"] = torch.tensor(1.0)
    save_file(tensors, tmp_path / "wan.safetensors")
    ours = convert(tmp_path / "wan.safetensors", tmp_path / "ours.safetensors", "diffusers")
    module = "blocks.7.attn1.video.to_out.0"
    assert load_file(ours).keys() == {f"transformer.{module}.lora_{side}.weight" for side in "AB"}
    assert lora.read(ours).alphas() == {module: 1.0}


def test_the_feed_forward_of_our_own_blocks_is_not_taken_for_that_of_a_plain_wan_model(tmp_path: Path) -> None:
    module = "blocks.0.ffn.audio.net.2"
    tensors = {f"transformer.{module}.lora_{side}.weight": torch.ones(2, 2) for side in "AB"}
    save_file(tensors, tmp_path / "ours.safetensors")
    assert lora.read(tmp_path / "ours.safetensors").alphas() == {module: 2.0}


def test_the_names_of_wan_layers_are_those_of_its_conversion() -> None:
    linear = {module: "blocks.0." + module for module in WAN_LAYERS}
    rules = wan.owned(prefixed(wan.BLOCK, "blocks.0.", "blocks.0."), "video")
    renamed = {
        move.sources[0]: move.targets[0]
        for move in plan(
            [f"{name}.bias" for name in linear.values()],
            [rule for rule in rules if rule.sources[0].removesuffix(".{p}") in linear.values()],
        )
    }
    assert {f"{name}.bias": f"{module_name(name)}.bias" for name in linear.values()} == renamed


def test_foreign_keys_and_missing_halves_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = {f"transformer.{name}": tensor for name, tensor in matrices().items()}
    half = {name: tensor for name, tensor in whole.items() if "video.to_q.lora_B" not in name}
    cases = {
        "half": (half, "must hold both matrices of every module, got one or none for `transformer_blocks.0."),
        "text": (whole | {"text_encoder.x.lora_A.weight": torch.zeros(1)}, "adapters of text encoders"),
        "nan": (
            {name: torch.full_like(tensor, float("nan")) for name, tensor in whole.items()},
            "must be finite, got NaN or infinity in `transformer_blocks.0.attn.video.to_q.lora_A.weight`",
        ),
        "dora": (
            whole | {"transformer.x.lora_magnitude_vector": torch.zeros(1)},
            "alpha to be converted, got `transformer.x.lora_mag",
        ),
    }
    for name, (tensors, message) in cases.items():
        save_file(tensors, tmp_path / f"{name}.safetensors")
        with pytest.raises(SystemExit, match="2"):
            main(["lora", str(tmp_path / f"{name}.safetensors"), str(tmp_path / "out.safetensors"), "--to", "comfy"])
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out.safetensors").exists()


def musubi(path: Path, header: dict[str, str] | None = None, **extra: Tensor) -> Path:
    """A Wan adapter as musubi writes it, without alphas."""
    module = "lora_unet_blocks_7_self_attn_o"
    pair = {f"{module}.lora_down.weight": torch.ones(2, 8), f"{module}.lora_up.weight": torch.ones(8, 2)}
    save_file(pair | extra, path, header)
    return path


def test_an_adapter_of_musubi_keeps_the_alpha_of_its_header(tmp_path: Path) -> None:
    source = musubi(tmp_path / "musubi.safetensors", {"ss_network_alpha": "1.0", "ss_network_dim": "2"})
    there = convert(source, tmp_path / "comfy.safetensors", "comfy")
    module = "blocks.7.attn1.video.to_out.0"
    assert float(load_file(there)[f"diffusion_model.{module}.alpha"]) == 1.0
    ours = convert(there, tmp_path / "ours.safetensors", "diffusers")
    assert lora.read(ours).alphas() == {module: 1.0}
    assert torch.equal(load_file(ours)[f"transformer.{module}.lora_A.weight"], torch.ones(2, 8))


def test_what_no_model_has_is_left_out_on_request_with_its_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = {f"lora_unet_blocks_7_cross_attn_k_img.lora_{part}.weight": torch.ones(2, 2) for part in ("down", "up")}
    extra |= {"lora_unet_blocks_7_norm3.diff": torch.ones(8), "lora_te_x.alpha": torch.ones(1)}
    source = musubi(tmp_path / "image.safetensors", **extra)
    with pytest.raises(SystemExit, match="2"):
        main(["lora", str(source), str(tmp_path / "out.safetensors")])
    assert "got `lora_te_x.alpha`" in capsys.readouterr().err
    main(["lora", str(source), str(tmp_path / "out.safetensors"), "--skip-unknown"])
    assert "4 of 6 tensors have no place and are left out: `lora_te_x.alpha`, " in capsys.readouterr().out
    assert len(load_file(tmp_path / "out.safetensors")) == 2


def test_weights_that_float16_cannot_hold_are_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    big = {f"transformer.x.lora_{side}.weight": torch.full((2, 2), 1e5) for side in "AB"}
    save_file(big, tmp_path / "big.safetensors")
    command = ["lora", str(tmp_path / "big.safetensors"), str(tmp_path / "out.safetensors"), "--dtype"]
    with pytest.raises(SystemExit, match="2"):
        main([*command, "float16"])
    assert "`transformer.x.lora_A.weight` must stay finite as F16, got values up to 100000" in capsys.readouterr().err
    assert not (tmp_path / "out.safetensors").exists()
    main([*command, "bfloat16"])
