import copy
import json
import logging
import re
from pathlib import Path

import pytest
import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn

from diffusers_jova.adapter_file import for_comfy, merge_dora, read_adapter
from diffusers_jova.adapter_keys import WAN_ENDS, WAN_LAYERS
from jova_cli.adapter_info import check_adapter
from tests.tiny_pipeline import build_transformer, build_wan_transformer


ROUND_OFF = {"atol": 1e-4, "rtol": 1e-3}  # float32, a sum in another order through two blocks
RANK, ALPHA = 4, 1.0
OURS = {  # layer of a plain Wan model, as Wan and diffusers call it, and ours
    "blocks.1.self_attn.q": ("blocks.1.attn1.to_q", "blocks.1.attn1.video.to_q"),
    "blocks.0.cross_attn.o": ("blocks.0.attn2.to_out.0", "blocks.0.attn2.video.to_out.0"),
    "blocks.0.ffn.0": ("blocks.0.ffn.net.0.proj", "blocks.0.ffn.video.net.0.proj"),
    "text_embedding.2": (
        "condition_embedder.text_embedder.linear_2",
        "video.condition_embedder.text_embedder.linear_2",
    ),
    "head.head": ("proj_out", "video.proj_out"),
}
NAMINGS = {  # how tools write a module: prefix, whose names, whether underscores stand for dots
    "wan": ("", "wan", False),
    "comfy": ("diffusion_model.", "wan", False),
    "checkpoint": ("model.diffusion_model.", "wan", False),
    "diffsynth": ("pipe.dit.", "wan", False),
    "diffusers": ("transformer.", "diffusers", False),
    "musubi": ("lora_unet_", "wan", True),
    "kohya": ("lora_transformer_", "diffusers", True),
    "ours": ("transformer.", "ours", False),
    "ours bare": ("", "ours", False),
    "ours with underscores": ("lora_unet_", "ours", True),
}
PARTS = {
    "A and B": ("lora_A.weight", "lora_B.weight"),
    "default": ("lora_A.default.weight", "lora_B.default.weight"),
    "down and up": ("lora_down.weight", "lora_up.weight"),
}


def outputs(transformer: nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    sizes = ((1, 16, 2, 4, 4), (1, 5, 4), (1, 3, 16))
    latents = [torch.randn(size, generator=generator) for size in sizes]
    with torch.no_grad():
        made = transformer(
            *latents, torch.tensor([500.0]), frame_rate=16.0, audio_latent_rate_hz=31.25, return_dict=False
        )
    return torch.cat([part.flatten() for part in made])


def weight(transformer: nn.Module, module: str) -> Tensor:
    return transformer.get_submodule(module).weight


def pairs() -> dict[str, tuple[Tensor, Tensor]]:
    """A and B of each module of `OURS`."""
    transformer, generator = build_wan_transformer(), torch.Generator().manual_seed(1)
    sizes = {wan: weight(transformer, ours).shape for wan, (_, ours) in OURS.items()}
    return {
        wan: (torch.randn(RANK, n, generator=generator), torch.randn(m, RANK, generator=generator))
        for wan, (m, n) in sizes.items()
    }


def merged(scale: float) -> Tensor:
    """Output of the transformer into whose weights the pairs were added by hand."""
    transformer = build_wan_transformer()
    with torch.no_grad():
        for wan, (a, b) in pairs().items():
            weight(transformer, OURS[wan][1]).add_(scale * b @ a)
    return outputs(transformer)


def adapter(naming: str = "comfy", parts: str = "A and B", alpha: float | None = ALPHA) -> dict[str, Tensor]:
    tensors = {}
    for wan, pair in pairs().items():
        prefix, whose, is_underscored = NAMINGS[naming]
        module = dict(zip(("wan", "diffusers", "ours"), (wan, *OURS[wan]), strict=True))[whose]
        name = prefix + (module.replace(".", "_") if is_underscored else module)
        tensors |= {f"{name}.{part}": tensor for part, tensor in zip(PARTS[parts], pair, strict=True)}
        tensors |= {} if alpha is None else {f"{name}.alpha": torch.tensor(alpha)}
    return tensors


def loaded(tensors: dict[str, Tensor], folder: Path, header: dict[str, str] | None = None) -> nn.Module:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "it.safetensors", header)
    transformer = build_wan_transformer()
    transformer.load_lora_adapter(folder / "it.safetensors", adapter_name="it")
    return transformer


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("naming", NAMINGS)
def test_an_adapter_of_any_tool_does_what_its_merged_weights_do(naming: str, parts: str, tmp_path: Path) -> None:
    transformer = loaded(adapter(naming, parts), tmp_path)
    torch.testing.assert_close(outputs(transformer), merged(ALPHA / RANK), **ROUND_OFF)


@pytest.mark.parametrize("layout", ["comfy", "kohya"])
def test_an_adapter_of_the_cross_terms_survives_the_layouts_of_other_tools(layout: str, tmp_path: Path) -> None:
    transformer, generator = build_transformer(fusion="cross_linear"), torch.Generator().manual_seed(3)
    names = [name for name, _ in transformer.named_modules() if name.endswith(("to_cross", "audio.to_q"))]
    saved = {}
    for name in names:
        rows, columns = weight(transformer, name).shape
        pair = (torch.randn(RANK, columns, generator=generator), torch.randn(rows, RANK, generator=generator))
        saved |= {f"transformer.{name}.{part}": t for part, t in zip(PARTS["A and B"], pair, strict=True)}
    assert sum("to_cross" in name for name in saved) == 8  # of video and audio in two blocks
    other = for_comfy(read_adapter(saved))
    if layout == "kohya":
        split = [(name.removeprefix("diffusion_model.").rsplit(".", 2), tensor) for name, tensor in other.items()]
        other = {f"lora_unet_{a.replace('.', '_')}.{b}.{c}": tensor for (a, b, c), tensor in split}
    save_file({name: tensor.contiguous() for name, tensor in other.items()}, tmp_path / "it.safetensors")
    read = read_adapter(tmp_path / "it.safetensors")
    assert {f"transformer.{name}": tensor.shape for name, tensor in read.tensors.items()} == {
        name: tensor.shape for name, tensor in saved.items()
    }
    assert all(torch.equal(tensor, saved[f"transformer.{name}"]) for name, tensor in read.tensors.items())
    transformer.load_lora_adapter(tmp_path / "it.safetensors", adapter_name="it")


@pytest.mark.parametrize("name", ["ss_network_alpha", "network_alpha", "lora_alpha", "alpha"])
@pytest.mark.parametrize("naming", ["musubi", "diffusers", "comfy"])
def test_an_alpha_that_stands_in_the_header_alone_counts(name: str, naming: str, tmp_path: Path) -> None:
    header = {name: str(ALPHA), "ss_network_dim": str(RANK)}
    transformer = loaded(adapter(naming, alpha=None), tmp_path, header)
    torch.testing.assert_close(outputs(transformer), merged(ALPHA / RANK), **ROUND_OFF)


def test_an_adapter_that_states_no_alpha_has_a_scale_of_one(tmp_path: Path) -> None:
    header = {"ss_network_alpha": "None", "modelspec.title": "alpha"}
    transformer = loaded(adapter("musubi", alpha=None), tmp_path, header)
    torch.testing.assert_close(outputs(transformer), merged(1.0), **ROUND_OFF)


@pytest.mark.parametrize("value", ["dynamic", "nan"])
def test_an_alpha_in_the_header_that_is_no_number_is_refused(value: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"must state one number as alpha, got .*{value}"):
        loaded(adapter("musubi", alpha=None), tmp_path, {"ss_network_alpha": value})


def test_alphas_beside_the_matrices_win_over_the_header(tmp_path: Path) -> None:
    transformer = loaded(adapter("musubi"), tmp_path, {"ss_network_alpha": "64"})
    torch.testing.assert_close(outputs(transformer), merged(ALPHA / RANK), **ROUND_OFF)


def test_a_config_of_peft_beside_a_file_of_another_layout_gives_the_scale(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": RANK, "lora_alpha": ALPHA}))
    transformer = loaded(adapter("comfy", alpha=None), tmp_path)
    torch.testing.assert_close(outputs(transformer), merged(ALPHA / RANK), **ROUND_OFF)


def test_differences_of_weights_and_biases_are_added_as_they_are(tmp_path: Path) -> None:
    torch.manual_seed(0)
    names = {"blocks.1.ffn.2": "blocks.1.ffn.video.net.2", "head.head": "video.proj_out"}
    expected = build_wan_transformer()
    tensors = adapter("comfy")
    del tensors["diffusion_model.head.head.lora_A.weight"], tensors["diffusion_model.head.head.lora_B.weight"]
    del tensors["diffusion_model.head.head.alpha"]
    for wan, (a, b) in pairs().items():
        if wan != "head.head":
            weight(expected, OURS[wan][1]).data += ALPHA / RANK * b @ a
    for wan, ours in names.items():
        tensors[f"diffusion_model.{wan}.diff"] = torch.randn_like(weight(expected, ours))
        weight(expected, ours).data += tensors[f"diffusion_model.{wan}.diff"]
    for wan, ours in (
        *names.items(),
        ("blocks.1.self_attn.q", "blocks.1.attn1.video.to_q"),  # beside matrices, whose scale is not its own
        ("time_projection.1", "video.condition_embedder.time_proj"),  # alone
    ):
        bias = expected.get_submodule(ours).bias
        tensors[f"diffusion_model.{wan}.diff_b"] = torch.randn_like(bias)
        bias.data += tensors[f"diffusion_model.{wan}.diff_b"]
    tensors["diffusion_model.blocks.0.norm3.diff"] = torch.zeros(24)  # of a norm that was not changed
    transformer = loaded(tensors, tmp_path)
    torch.testing.assert_close(outputs(transformer), outputs(expected), **ROUND_OFF)


def test_a_loha_does_what_peft_does_with_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    targets = r"blocks\.1\.attn1\.video\.to_(q|v)"
    config = LoHaConfig(r=3, alpha=6, target_modules=targets, init_weights=False)
    wrapped = get_peft_model(build_wan_transformer(), config)
    factors = get_peft_model_state_dict(wrapped)
    modules = {name.rsplit(".hada_", 1)[0] for name in factors}
    lycoris = {  # as LyCORIS writes it
        f"lora_unet_{name.removeprefix('base_model.model.').rsplit('.', 1)[0].replace('.', '_')}"
        f".{name.rsplit('.', 1)[1]}": tensor
        for name, tensor in factors.items()
    }
    lycoris |= {
        f"lora_unet_{module.removeprefix('base_model.model.').replace('.', '_')}.alpha": torch.tensor(6.0)
        for module in modules
    }
    expected = outputs(wrapped.base_model.model)
    assert not torch.allclose(expected, outputs(build_wan_transformer()), atol=1e-3)
    torch.testing.assert_close(outputs(loaded(lycoris, tmp_path)), expected, **ROUND_OFF)
    wrapped.save_pretrained(tmp_path / "peft")
    transformer = build_wan_transformer()
    transformer.load_lora_adapter(tmp_path / "peft")
    torch.testing.assert_close(outputs(transformer), expected, **ROUND_OFF)


def test_a_large_loha_is_added_whole(tmp_path: Path) -> None:
    torch.manual_seed(0)
    a, b = torch.randn(2, 24, 6), torch.randn(2, 6, 24)
    parts = {"hada_w1_a": a[0], "hada_w1_b": b[0], "hada_w2_a": a[1], "hada_w2_b": b[1], "alpha": torch.tensor(3.0)}
    transformer = loaded({f"lycoris_blocks_0_self_attn_k.{part}": tensor for part, tensor in parts.items()}, tmp_path)
    expected = build_wan_transformer()
    weight(expected, "blocks.0.attn1.video.to_k").data += 0.5 * (a[0] @ b[0]) * (a[1] @ b[1])
    torch.testing.assert_close(outputs(transformer), outputs(expected), **ROUND_OFF)


def test_a_lokr_does_what_its_merged_weights_do(tmp_path: Path) -> None:
    torch.manual_seed(0)
    w1, w2_a, w2_b = torch.randn(4, 4), torch.randn(6, 2), torch.randn(2, 6)
    parts = {"lokr_w1": w1, "lokr_w2_a": w2_a, "lokr_w2_b": w2_b, "alpha": torch.tensor(1.0)}
    transformer = loaded({f"lora_unet_blocks_0_self_attn_k.{part}": t for part, t in parts.items()}, tmp_path)
    expected = build_wan_transformer()
    weight(expected, "blocks.0.attn1.video.to_k").data += 0.5 * torch.kron(w1, w2_a @ w2_b)
    torch.testing.assert_close(outputs(transformer), outputs(expected), **ROUND_OFF)


def test_a_dora_as_lycoris_writes_it_does_what_peft_does(tmp_path: Path) -> None:
    torch.manual_seed(0)
    targets = r"blocks\.1\.attn1\.video\.to_(q|v)"
    config = LoraConfig(r=2, lora_alpha=6, target_modules=targets, init_lora_weights=False, use_dora=True)
    wrapped = get_peft_model(build_wan_transformer(), config)
    for name, magnitude in wrapped.named_parameters():
        if "magnitude" in name:
            magnitude.data *= 1.5
    tensors = {}
    for name, tensor in get_peft_model_state_dict(wrapped).items():
        module, part = re.fullmatch(r"base_model\.model\.(.+)\.(lora_\w+)(?:\.weight)?", name).groups()
        new = {"lora_A": "lora_down.weight", "lora_B": "lora_up.weight", "lora_magnitude_vector": "dora_scale"}[part]
        tensors[f"diffusion_model.{module}.{new}"] = tensor[:, None] if new == "dora_scale" else tensor
        tensors[f"diffusion_model.{module}.alpha"] = torch.tensor(6.0)
    torch.testing.assert_close(outputs(loaded(tensors, tmp_path)), outputs(wrapped.base_model.model), **ROUND_OFF)
    last = next(name for name in tensors if name.endswith("dora_scale"))
    with pytest.raises(ValueError, match="magnitudes of a DoRA must be one per row of each changed weight, got none"):
        loaded({name: tensor for name, tensor in tensors.items() if name != last}, tmp_path)


Q = "blocks.1.self_attn.q"


def test_what_does_not_fit_completely_is_refused_by_name() -> None:
    whole = adapter("comfy")
    one = f"diffusion_model.{Q}"
    nan = torch.full((RANK, 24), float("nan"))
    without_a = {name: tensor for name, tensor in whole.items() if name != f"{one}.lora_A.weight"}
    cases = [
        ({f"x.{i}.weight": torch.ones(2, 2) for i in range(3)}, "must start with one of .*got `x.0.weight`"),
        (without_a, f"must hold both matrices of every module, got one or none for `{Q}`"),
        (whole | {f"{one}.lora_mid.weight": torch.ones(1)}, f"must have one prefix .* got `{one}.lora_mid.weight`"),
        (whole | {"text_encoder.q.alpha": torch.ones(1)}, "got `text_encoder.q.alpha`; adapters of text"),
        (whole | {f"{one}.lora_A.weight": nan}, f"must be finite, got NaN or infinity in `{Q}.lora_A.weight`"),
        (whole | {f"{one}.alpha": torch.tensor(float("inf"))}, f"must be finite, got .* in `{Q}.alpha`"),
        (whole | {f"{one}.alpha": torch.ones(3)}, f"`{Q}.alpha` must be one number, got shape"),
        (whole | {f"{one}.lora_A.weight": torch.ones(RANK, 5)}, r"must be of shape \[24, 24\], got \[24, 5\]"),
        (
            whole | {"diffusion_model.blocks.0.cross_attn.k_img.diff_b": torch.ones(24)},
            "must change linear layers of this JoVAWanTransformer3DModel, got `blocks.0.cross_attn.k_img`",
        ),
        (
            whole | {"diffusion_model.blocks.0.norm3.diff": torch.ones(24)},
            "must change linear layers of this JoVAWanTransformer3DModel, got `blocks.0.norm3`",
        ),
        (whole | {f"{one}.lokr_w1": torch.ones(2, 2)}, "got one or none for"),
        (whole | {f"{one}.diff": torch.ones(24, 24)}, "must be of one kind"),
        ({}, "got no keys"),
    ]
    for tensors, message in cases:
        transformer = build_wan_transformer()
        with pytest.raises(ValueError, match=message):
            transformer.load_lora_adapter(tensors, adapter_name="it")
        assert getattr(transformer, "peft_config", {}) == {}


@pytest.mark.parametrize("content", [b"", b"a text, no adapter at all\n"], ids=["empty", "text"])
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_a_file_that_is_no_adapter_is_refused_in_one_sentence(content: bytes, suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"adapter.{suffix}"
    file.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"^`.*adapter\.\w+` must be a whole file of an adapter, got .*; get it again$"
    ):
        read_adapter(str(file))


def test_what_has_no_place_is_left_out_on_request_with_its_number(caplog: pytest.LogCaptureFixture) -> None:
    extra = {
        "diffusion_model.blocks.0.cross_attn.k_img.lora_A.weight": torch.ones(RANK, 24),
        "diffusion_model.blocks.0.cross_attn.k_img.lora_B.weight": torch.ones(24, RANK),
        "diffusion_model.blocks.0.norm3.diff": torch.ones(24),
        "text_encoder.q.lora_A.weight": torch.ones(2, 2),
    }
    transformer = build_wan_transformer()
    logging.getLogger("diffusers_jova").addHandler(caplog.handler)
    transformer.load_lora_adapter(adapter("comfy") | extra, skip_unknown=True)
    logging.getLogger("diffusers_jova").removeHandler(caplog.handler)
    assert "4 of 14 tensors of the adapter have no place and are left out: `text_encoder.q" in caplog.text
    torch.testing.assert_close(outputs(transformer), merged(ALPHA / RANK), **ROUND_OFF)
    with pytest.raises(ValueError, match=r"must change linear layers of this .*, got `blocks.0.cross_attn.k_img`"):
        build_wan_transformer().load_lora_adapter(dict([*extra.items()][:2]), skip_unknown=True)


def test_a_lokr_of_which_peft_makes_other_factors_is_not_half_loaded() -> None:
    parts = {"lokr_w1": torch.ones(4, 4), "lokr_w2_a": torch.ones(6, 4), "lokr_w2_b": torch.ones(4, 6)}
    transformer = build_wan_transformer()
    with pytest.raises(ValueError, match=r"must fit what peft makes of its config completely, got `blocks.0"):
        transformer.load_lora_adapter({f"transformer.blocks.0.attn1.video.to_k.{p}": t for p, t in parts.items()})
    assert getattr(transformer, "peft_config", {}) == {}


def test_loading_does_not_change_the_tensors_of_the_caller() -> None:
    tensors = adapter("comfy")
    before = copy.deepcopy(tensors)
    build_wan_transformer().load_lora_adapter(tensors)
    assert tensors.keys() == before.keys()
    assert all(torch.equal(tensors[name], before[name]) for name in before)


def test_every_layer_of_wan_is_one_of_ours() -> None:
    transformer = build_wan_transformer()
    names = [f"blocks.0.{layer}" for layer in WAN_LAYERS.values()] + [*WAN_ENDS.values()]
    assert all(transformer.get_submodule(name) is not None for name in names)


def test_peft_alone_would_name_the_same_lokr(tmp_path: Path) -> None:
    torch.manual_seed(0)
    targets = r"blocks\.1\.attn1\.video\.to_(q|v)"
    config = LoKrConfig(r=2, alpha=4, target_modules=targets, init_weights=False)
    wrapped = get_peft_model(build_wan_transformer(), config)
    wrapped.save_pretrained(tmp_path)
    transformer = build_wan_transformer()
    transformer.load_lora_adapter(tmp_path)
    torch.testing.assert_close(outputs(transformer), outputs(wrapped.base_model.model), **ROUND_OFF)


@pytest.mark.parametrize("names", [("lora", "lokr"), ("lokr", "lora"), ("0", "weight")])
def test_a_lora_and_a_lokr_add_up_whatever_their_names(names: tuple[str, str]) -> None:
    torch.manual_seed(0)
    w1, a, b = torch.randn(4, 4), torch.randn(6, 2), torch.randn(2, 6)
    module = OURS[Q][1]
    parts = {"lokr_w1": w1, "lokr_w2_a": a, "lokr_w2_b": b}
    files = {"lora": adapter("comfy"), "lokr": {f"transformer.{module}.{part}": t for part, t in parts.items()}}
    transformer, expected = build_wan_transformer(), build_wan_transformer()
    for name, kind in zip(names, names if names[0] in files else ("lora", "lokr"), strict=True):
        transformer.load_lora_adapter(files[kind], adapter_name=name)
    transformer.set_adapters([*names], [1.0, 1.0])
    for wan, (down, up) in pairs().items():
        weight(expected, OURS[wan][1]).data += ALPHA / RANK * up @ down
    weight(expected, module).data += torch.kron(w1, a @ b)
    torch.testing.assert_close(outputs(transformer), outputs(expected), **ROUND_OFF)


def test_weights_by_parts_of_names_must_mean_some_module() -> None:
    transformer = build_wan_transformer()
    transformer.load_lora_adapter(adapter("comfy"), adapter_name="it")
    transformer.set_adapters("it", {"": 0.0})
    torch.testing.assert_close(outputs(transformer), outputs(build_wan_transformer()), **ROUND_OFF)
    transformer.set_adapters("it", {"attn1": 0.5})  # what no part names keeps its weight of 1
    with pytest.raises(ValueError, match=r"must be for modules that adapters change, got `atn1`"):
        transformer.set_adapters("it", {"atn1": 0.5})


def test_the_layout_for_comfyui_is_read_back_as_the_same_adapter(tmp_path: Path) -> None:
    path = tmp_path / "adapter.safetensors"
    tensors = adapter("diffusers") | {"transformer.blocks.0.attn1.to_v.diff": torch.ones(24, 24)}
    save_file(tensors, path)
    first = read_adapter(path)
    written = for_comfy(first)
    assert all(name.startswith("diffusion_model.") for name in written)
    second = read_adapter(written)
    assert second.alphas == {module: first.alphas[module] for module in second.alphas}
    assert second.tensors.keys() == first.tensors.keys()
    assert all(torch.equal(second.tensors[name], tensor) for name, tensor in first.tensors.items())


def test_a_bias_of_the_second_matrix_becomes_a_change_of_the_bias() -> None:
    parts = {"lora_A.weight": torch.ones(2, 3), "lora_B.weight": torch.ones(4, 2), "lora_B.bias": torch.ones(4)}
    names = {f"transformer.blocks.0.attn1.video.to_q.{part}": tensor for part, tensor in parts.items()}
    names["transformer.blocks.0.attn1.video.to_q.alpha"] = torch.tensor(6.0)
    written = for_comfy(read_adapter(names))
    assert torch.equal(written["diffusion_model.blocks.0.attn1.video.to_q.diff_b"], torch.full((4,), 3.0))


def test_a_merged_dora_does_what_peft_does() -> None:
    torch.manual_seed(0)
    config = LoraConfig(r=2, lora_alpha=3, target_modules=["0"], use_dora=True, init_lora_weights=False)
    model = get_peft_model(nn.Sequential(nn.Linear(6, 4, bias=False)), config)
    layer = model.base_model.model[0]
    magnitude = layer.lora_magnitude_vector["default"].weight
    magnitude.data *= 1.5
    change = 1.5 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    x = torch.randn(5, 6)
    torch.testing.assert_close(x @ merge_dora(layer.base_layer.weight, change, magnitude).T, model(x))


def save_to(file: Path, module: str) -> None:
    """Write an adapter of one module of the first block in the format of its suffix."""
    tensors = {f"transformer.blocks.0.{module}.lora_{part}.weight": torch.ones(4, 4) for part in "AB"}
    if file.suffix == ".safetensors":
        save_file(tensors, file)
    else:
        torch.save(tensors, file)


WANTED = "attn.video.to_q"  # module of the file that is to be read
FOLDERS: dict[str, tuple[list[str], bool | None]] = {
    "pytorch_lora_weights.bin": (["optimizer.bin", "scheduler.bin", "random_states_0.pkl"], None),
    "adapter_model.bin": (["training_args.bin", "other.bin"], None),
    "mine.pt": (["optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state.pth"], None),
    "mine.safetensors": (["adapter_model.bin", "optimizer.safetensors"], None),
    "lora_weights.pt": (["optimizer.pt", "step.pt"], None),
    "my_lora.bin": (["pytorch_lora_weights.safetensors", "training_args.bin"], False),
    "adapter_model.safetensors": (["lora_weights.pt", "pytorch_lora_weights.bin"], True),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_tells_its_adapter_from_what_lies_beside_it(name: str, tmp_path: Path) -> None:
    others, use_safetensors = FOLDERS[name]
    save_to(tmp_path / name, WANTED)
    for other in others:
        save_to(tmp_path / other, "attn.audio.to_q")
    check_adapter("--lora", tmp_path)
    options = {} if use_safetensors is None else {"use_safetensors": use_safetensors}
    for folder in (tmp_path, str(tmp_path)):
        assert read_adapter(folder, **options).modules() == [f"blocks.0.{WANTED}"]


def test_a_folder_without_files_of_the_kind_that_is_asked_for_is_refused(tmp_path: Path) -> None:
    save_to(tmp_path / "adapter_model.bin", WANTED)
    with pytest.raises(
        OSError, match=r"must be a folder with a .safetensors file, got no file named so in .*; name another"
    ):
        read_adapter(tmp_path, use_safetensors=True)


@pytest.mark.parametrize("name", ["pytorch_lora_weights.safetensors", "adapter_model.bin"])
def test_a_damaged_file_is_named_where_its_folder_was_given(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "sub"
    folder.mkdir()
    save_to(folder / name, WANTED)
    (folder / name).write_bytes((folder / name).read_bytes()[:-20])
    message = rf"^`.*sub/{name}` must be a whole file of an adapter, got .*; get it again$"
    for arguments in ({"source": folder}, {"source": str(tmp_path), "subfolder": "sub"}):
        with pytest.raises(ValueError, match=message):
            read_adapter(**arguments)
    with pytest.raises(ValueError, match=message):
        read_adapter(folder, weight_name=name)
