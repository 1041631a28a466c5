import ast
import math
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file

from diffusers_jova import JoVAWanTransformer3DModel
from diffusers_jova.conversion import nava, ovi, wan
from diffusers_jova.conversion.checkpoint import Source, dequantized, from_state_dict
from diffusers_jova.conversion.convert import main
from diffusers_jova.conversion.output import Parameter, as_checkpoint, cast, check_fits, parameters, write_safetensors
from diffusers_jova.conversion.rules import plan
from tests.places import PARITY, needs_references


KEYS = PARITY / "keys"
SMALL = {"num_attention_heads": 1, "ffn_dim": 64, "text_dim": 16, "freq_dim": 32}
OVI_TOWER = {"num_attention_heads": 24, "in_channels": 48, "out_channels": 48, "ffn_dim": 14336, "num_layers": 30}


def key_list(name: str) -> dict[str, Source]:
    rows = [line.split("\t") for line in (KEYS / name).read_text().splitlines() if not line.startswith("#")]
    return meta_checkpoint({key: ast.literal_eval(shape) for key, shape, _ in rows})


def meta_checkpoint(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Source]:
    return from_state_dict({name: torch.empty(shape, device="meta") for name, shape in shapes.items()})


def wan_tower(**sizes: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of diffusers' own Wan model."""
    with torch.device("meta"):
        model = WanTransformer3DModel(**sizes)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def tower(modality: str, **sizes: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of diffusers' own Wan model, with a modality put in."""
    return {wan.owned_name(name, modality): shape for name, shape in wan_tower(**sizes).items()}


def is_of(name: str, owner: str) -> bool:
    return owner in name.split(".")


def shapes(found: list[Parameter]) -> dict[str, tuple[int, ...]]:
    return {parameter.name: parameter.shape for parameter in found}


def linear_audio(names: dict[str, tuple[int, ...]], dim: int, channels: int) -> dict[str, tuple[int, ...]]:
    new = {"patch_embedding.weight": (dim, channels), "patch_embedding.bias": (dim,)}
    new |= {"proj_out.weight": (channels, dim), "proj_out.bias": (channels,)}
    return names | {f"audio.{name}": shape for name, shape in new.items()}


def convolutional_audio(dim: int, channels: int) -> dict[str, tuple[int, ...]]:
    hidden = 256 * math.ceil(8 * dim / 3 / 256)
    return {
        "audio.patch_embedding.0.weight": (dim, channels, 7),
        "audio.patch_embedding.0.bias": (dim,),
        "audio.patch_embedding.2.w1.weight": (hidden, dim, 7),
        "audio.patch_embedding.2.w2.weight": (dim, hidden, 7),
        "audio.patch_embedding.2.w3.weight": (hidden, dim, 7),
        "audio.proj_out.weight": (channels, dim),
        "audio.proj_out.bias": (channels,),
    }


def small_wan(num_layers: int = 2) -> dict[str, torch.Tensor]:
    """A small Wan tower in the original layout."""
    torch.manual_seed(0)
    sizes = {**SMALL, "num_layers": num_layers}
    ours = {wan.owned_name(name, "video"): torch.randn(shape) for name, shape in wan_tower(**sizes).items()}
    ours |= {name: torch.zeros(20) for name in ("audio.proj_out.bias", "blocks.0.norm2.audio.bias")}
    target = from_state_dict(ours)
    return {parameter.name: parameter.make() for parameter in wan.restore_tower(target)}


@needs_references
@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("wan2.1_t2v_1.3b_original.txt", {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30}),
        ("wan2.2_ti2v_5b_original.txt", OVI_TOWER),
    ],
)
def test_a_full_size_wan_becomes_two_towers_with_every_name_and_shape(name: str, sizes: dict[str, int]) -> None:
    config, found = wan.convert_tower(key_list(name))
    dim = 128 * sizes["num_attention_heads"]
    assert shapes(found) == tower("video", **sizes) | linear_audio(tower("audio", **sizes), dim, 20)
    assert {name: config[name] for name in sizes} == sizes
    check_fits(found, wan.build(config))


@needs_references
def test_full_size_ovi_becomes_two_towers_and_420_reported_tensors() -> None:
    config, found, unused = ovi.convert_fusion(key_list("ovi_fusion_11b.txt"))
    expected = tower("video", **OVI_TOWER)
    audio = {name: shape for name, shape in tower("audio", **OVI_TOWER).items() if "patch_embedding" not in name}
    expected |= audio | convolutional_audio(3072, 20)
    assert shapes(found) == expected
    assert len(unused) == 420
    assert all("fusion" in name for name in unused)
    assert config["audio_in_channels"] == 20
    check_fits(found, wan.build(config))


@needs_references
def test_the_audio_tower_alone_has_the_same_table() -> None:
    checkpoint = key_list("ovi_audio_tower.txt")
    alone = parameters(plan(checkpoint, ovi.tower_rules("audio", ())), checkpoint)
    _, both, _ = ovi.convert_fusion(key_list("ovi_fusion_11b.txt"))
    assert shapes(alone) == {name: shape for name, shape in shapes(both).items() if is_of(name, "audio")}


def nava_names(dim: int = 3072, ffn: int = 14336, twins: int = 10, shared: int = 20) -> dict[str, tuple[int, ...]]:
    """The released layout as its modules describe it."""
    attention = {f"{n}.weight": (dim, dim) for n in "qkvo"} | {f"{n}.bias": (dim,) for n in "qkvo"}
    attention |= {"norm_q.weight": (dim,), "norm_k.weight": (dim,)}
    block: dict[str, tuple[int, ...]] = {
        f"{a}.{n}": s for a in ("self_attn", "cross_attn") for n, s in attention.items()
    }
    twin = {
        f"{a}.{n.replace('.', '_audio.')}": s for a in ("self_attn", "cross_attn") for n, s in attention.items()
    } | {"modulation_audio.modulation": (1, 6, dim)}
    block |= {"modulation.modulation": (1, 6, dim), "norm3.weight": (dim,), "norm3.bias": (dim,)}
    block |= {"ffn.0.weight": (ffn, dim), "ffn.0.bias": (ffn,), "ffn.2.weight": (dim, ffn), "ffn.2.bias": (dim,)}
    names = {"patch_embedding.weight": (dim, 48, 1, 2, 2), "patch_embedding.bias": (dim,)}
    for name, width_in, width_out in (
        ("text_embedding.0", 4096, dim), ("text_embedding.2", dim, dim), ("time_embedding.0", 256, dim),
        ("time_embedding.2", dim, dim), ("time_projection.1", dim, 6 * dim), ("head.head", dim, 192),
        ("head_audio.head", dim, 128), ("speaker_embedding.net.1", 192, dim), ("speaker_embedding.net.3", dim, dim),
    ):  # fmt: skip
        names |= {f"{name}.weight": (width_out, width_in), f"{name}.bias": (width_out,)}
    for name, width in (("speaker_embedding.net.0", 192), ("speaker_embedding.out_norm", dim)):
        names |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    names |= {"speaker_embedding.null_token": (1, dim), "head.modulation": (1, 2, dim)}
    names["head_audio.modulation"] = (1, 2, dim)
    for name, shape in convolutional_audio(dim, 128).items():
        if "patch_embedding" in name:
            names[name.replace("audio.patch_embedding", "patch_embedding_audio")] = shape
    for index in range(twins):
        names |= {f"double_blocks.{index}.{name}": shape for name, shape in (block | twin).items()}
    for index in range(shared):
        names |= {f"single_blocks.{index}.{name}": shape for name, shape in block.items()}
    return {f"backbone.{name}": shape for name, shape in names.items()}


def test_full_size_nava_keeps_one_canonical_copy_of_every_shared_tensor() -> None:
    names = nava_names()
    assert len(names) == 1052
    assert sum(math.prod(shape) for shape in names.values()) == 6_296_995_520
    config, found = nava.convert_transformer(meta_checkpoint(names))
    owner = {name: "shared" if is_shared_in_nava(name) else "video" for name in wan_tower(**OVI_TOWER)}
    expected = {wan.owned_name(name, owner[name]): shape for name, shape in wan_tower(**OVI_TOWER).items()}
    expected |= {
        wan.owned_name(name, "audio"): shape
        for name, shape in wan_tower(**OVI_TOWER).items()
        if owner[name] == "video" and not name.startswith(("patch_embedding", "proj_out"))
    }
    speaker = {n.removeprefix("backbone."): s for n, s in names.items() if "speaker" in n}
    assert shapes(found) == expected | convolutional_audio(3072, 128) | speaker
    assert config["shared_layers"] == list(range(10, 30))
    assert config["speaker_dim"] == 192
    check_fits(found, wan.build(config))


def is_shared_in_nava(name: str) -> bool:
    if not name.startswith("blocks."):
        return name.startswith("condition_embedder.")
    return int(name.split(".")[1]) >= 10 or name.split(".")[2] in ("norm2", "ffn")


def test_nava_goes_back_to_its_own_names_bit_for_bit() -> None:
    names = nava_names(dim=128, ffn=32, twins=1, shared=2)
    torch.manual_seed(0)
    original = {name: torch.randn(shape) for name, shape in names.items()}
    _, found = nava.convert_transformer(from_state_dict(original))
    restored = nava.restore_transformer(as_checkpoint(found))
    back = {parameter.name: parameter.make() for parameter in restored}
    assert back.keys() == original.keys()
    assert all(torch.equal(back[name], original[name]) for name in original)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_converted_folder_loads_and_predicts_both_modalities(tmp_path: Path, dtype: str) -> None:
    torch.manual_seed(0)
    names = nava_names(dim=128, ffn=32, twins=1, shared=1)
    save_file({name: 0.1 * torch.randn(shape) for name, shape in names.items()}, tmp_path / "NAVA.safetensors")
    main(["nava", str(tmp_path / "NAVA.safetensors"), str(tmp_path / "ours"), "--dtype", dtype])
    model = JoVAWanTransformer3DModel.from_pretrained(tmp_path / "ours", torch_dtype=getattr(torch, dtype))
    kept = {name for name, parameter in model.named_parameters() if parameter.dtype == torch.float32}
    assert {n for n, _ in model.named_parameters() if "scale_shift_table" in n or "time_embedder" in n} <= kept
    assert ("blocks.0.attn1.video.to_q.weight" in kept) == (dtype == "float32")
    latents = (torch.randn(1, 48, 2, 2, 2), torch.randn(1, 3, 128), torch.randn(1, 4, 4096))
    with torch.no_grad():
        outputs = model(
            *(part.to(model.dtype) for part in latents),
            torch.tensor([37.5]),
            frame_rate=24.0,
            audio_latent_rate_hz=25.0,
            return_dict=False,
        )
    for output, given in zip(outputs, latents, strict=False):
        assert output.shape == given.shape
        assert output.isfinite().all()


def test_a_converted_wan_goes_back_into_one_original_file(tmp_path: Path) -> None:
    original = small_wan()
    _, found = wan.convert_tower(from_state_dict(original))
    write_safetensors(tmp_path / "ours.safetensors", found)
    main(["wan", str(tmp_path / "ours.safetensors"), str(tmp_path / "wan.safetensors"), "--reverse"])
    back = load_file(tmp_path / "wan.safetensors")
    assert back.keys() == original.keys()
    assert all(torch.equal(back[name], original[name]) for name in original)


def test_the_audio_tower_starts_as_a_copy_and_only_its_ends_are_new() -> None:
    _, found = wan.convert_tower(from_state_dict(small_wan()), audio_channels=6)
    tensors = {parameter.name: parameter.make() for parameter in found}
    audio = {name for name in tensors if is_of(name, "audio")}
    new = {name for name in audio if "patch_embedding" in name or "proj_out" in name}
    assert new == {f"audio.{layer}.{p}" for layer in ("patch_embedding", "proj_out") for p in ("weight", "bias")}
    for name in audio - new:
        assert torch.equal(tensors[name], tensors[name.replace("audio.", "video.")])
    assert tensors["audio.patch_embedding.weight"].std() > 0.01
    assert not tensors["audio.proj_out.weight"].any()


def test_both_published_layouts_of_a_wan_tower_convert_to_the_same_weights() -> None:
    original = small_wan()
    _, found = wan.convert_tower(from_state_dict(original))
    first = {parameter.name: parameter.make() for parameter in found}
    renamed = {name: first[wan.owned_name(name, "video")] for name in wan_tower(**SMALL, num_layers=2)}
    _, again = wan.convert_tower(from_state_dict(renamed))
    assert all(torch.equal(parameter.make(), first[parameter.name]) for parameter in again)
    assert {parameter.name for parameter in again} == first.keys()


def test_the_two_norms_swap_their_numbers_between_the_layouts() -> None:
    original = small_wan()
    _, found = wan.convert_tower(from_state_dict(original))
    tensors = {parameter.name: parameter.make() for parameter in found}
    assert torch.equal(tensors["blocks.1.norm2.video.weight"], original["blocks.1.norm3.weight"])


@pytest.mark.parametrize("scale_name", ["a.weight_scale", "a.scale_weight"])
def test_8_bit_weights_are_multiplied_by_their_scale(scale_name: str) -> None:
    weight = torch.tensor([[2.0, -4.0], [8.0, 0.5]]).to(torch.float8_e4m3fn)
    scale = torch.tensor([0.5, 3.0]) if scale_name.endswith("weight_scale") else torch.tensor(0.5)
    checkpoint = from_state_dict({"a.weight": weight, scale_name: scale, "a.bias": torch.ones(2)})
    merged = dequantized(checkpoint)
    expected = weight.float() * (scale[:, None] if scale.ndim else scale)
    assert merged.keys() == {"a.weight", "a.bias"}
    assert torch.equal(merged["a.weight"].read().float(), expected)


def test_8_bit_weights_without_a_scale_are_stored_as_bfloat16() -> None:
    weight = torch.tensor([[2.0, -4.0]]).to(torch.float8_e4m3fn)
    checkpoint = dequantized(from_state_dict({"a.weight": weight}))
    (stored,) = cast([Parameter("a.weight", (1, 2), checkpoint["a.weight"].dtype, checkpoint["a.weight"].read)], None)
    assert stored.dtype == torch.bfloat16


def test_a_missing_block_tensor_is_named_before_anything_is_written() -> None:
    broken = small_wan()
    del broken["head.modulation"]
    broken["blocks.0.extra.weight"] = torch.zeros(1)
    with pytest.raises(ValueError, match=r"1 tensors that no rule knows: `blocks.0.extra.weight`.*`head.modulation`"):
        wan.convert_tower(from_state_dict(broken))


def test_an_image_to_video_wan_reads_its_image_in_front_of_its_mask_and_behind_it_again(tmp_path: Path) -> None:
    original = small_wan()
    patch = "patch_embedding.weight"
    dim, channels = original[patch].shape[:2]
    (out_channels,) = (weight.shape[0] // 4 for name, weight in original.items() if name == "head.head.weight")
    assert channels == out_channels
    original[patch] = torch.randn(dim, 2 * channels + wan.MASK_CHANNELS, 1, 2, 2)
    save_file(original, tmp_path / "wan.safetensors")
    main(["wan", str(tmp_path / "wan.safetensors"), str(tmp_path / "out")])
    weight = load_file(tmp_path / "out" / "diffusion_pytorch_model.safetensors")[f"video.{patch}"]
    latents, mask, image = original[patch].split([channels, wan.MASK_CHANNELS, channels], dim=1)
    assert torch.equal(weight, torch.cat([latents, image, mask], dim=1))
    main(["wan", str(tmp_path / "out"), str(tmp_path / "back.safetensors"), "--reverse"])
    assert torch.equal(load_file(tmp_path / "back.safetensors")[patch], original[patch])
