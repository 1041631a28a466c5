from typing import get_args

import pytest
import torch
from diffusers.loaders.lora_conversion_utils import (
    _convert_musubi_wan_lora_to_diffusers,
    _convert_non_diffusers_wan_lora_to_diffusers,
)
from torch import nn

from diffusers_jova.adapter_keys import WAN_ENDS, WAN_LAYERS, bare_names, dotted, module_name
from diffusers_jova.joint_attention import Fusion
from tests.tiny_pipeline import DUAL_TOWERS, NAVA_SHARING, build_dual_tower, build_transformer, build_wan_transformer


@pytest.mark.parametrize(
    "transformer",
    [
        *(build_transformer(fusion=fusion) for fusion in get_args(Fusion)),
        *(build_wan_transformer(audio_embedding=kind) for kind in ("linear", "conv")),
        build_wan_transformer(**NAVA_SHARING),
        *(build_dual_tower(name, boundary=boundary) for name in DUAL_TOWERS for boundary in (None, 0.9)),
    ],
)
def test_underscores_become_the_dots_of_every_linear_layer(transformer: nn.Module) -> None:
    names = [name for name, module in transformer.named_modules() if isinstance(module, nn.Linear)]
    assert [dotted(name.replace(".", "_")) for name in names] == names
    assert [module_name(name) for name in names] == names


def test_underscores_become_the_dots_of_wan() -> None:
    names = [f"blocks.10.{layer}" for layer in WAN_LAYERS] + [*WAN_ENDS]
    assert [dotted(name.replace(".", "_")) for name in names] == names


def test_names_of_wan_mean_what_diffusers_reads_in_them() -> None:
    """The converters of diffusers tell which of its Wan layers a key means; ours is that one in the video tower."""
    layers = [f"blocks.0.{layer}" for layer in WAN_LAYERS]
    pair = {"lora_down.weight": torch.ones(2, 2), "lora_up.weight": torch.ones(2, 2)}
    for layer in [*layers, *(end for end in WAN_ENDS if end != "patch_embedding")]:
        dots = {f"diffusion_model.{name}.{part}": pair[part] for name in {*layers, layer} for part in pair}
        alone = {f"diffusion_model.{name}.{part}": pair[part] for name in layers if name != layer for part in pair}
        found = _convert_non_diffusers_wan_lora_to_diffusers(with_both_ends(dots, layer, pair))
        rest = _convert_non_diffusers_wan_lora_to_diffusers(with_both_ends(alone, layer, pair, but=layer))
        (theirs,) = {name.rsplit(".lora_", 1)[0].removeprefix("transformer.") for name in {*found} - {*rest}}
        assert module_name(theirs) == module_name(layer)


def with_both_ends(
    tensors: dict[str, torch.Tensor], layer: str, pair: dict[str, torch.Tensor], but: str = ""
) -> dict[str, torch.Tensor]:
    """Add the other layer of an embedding, without which the converter of diffusers fails."""
    twin = {"0": "2", "2": "0"}
    if layer.startswith(("text_embedding", "time_embedding")):
        other = layer[:-1] + twin[layer[-1]]
        tensors = tensors | {f"diffusion_model.{other}.{part}": tensor for part, tensor in pair.items()}
        if but:
            return {name: t for name, t in tensors.items() if "_embedding" not in name} | {
                f"diffusion_model.{other}.{part}": tensor for part, tensor in pair.items()
            }
    return tensors


def test_names_of_musubi_mean_what_diffusers_reads_in_them() -> None:
    parts = {"lora_down.weight": torch.ones(2, 2), "lora_up.weight": torch.ones(2, 2), "alpha": torch.tensor(2.0)}
    names = [f"lora_unet_blocks_0_{layer.replace('.', '_')}" for layer in WAN_LAYERS]
    tensors = {f"{name}.{part}": tensor for name in names for part, tensor in parts.items()}
    theirs = {name.rsplit(".lora_", 1)[0] for name in _convert_musubi_wan_lora_to_diffusers({**tensors})}
    bare, unknown = bare_names(tensors)
    assert unknown == []
    ours = {module_name(name.rsplit(".lora_", 1)[0]) for name in bare.values() if ".lora_" in name}
    assert ours == {module_name(name.removeprefix("transformer.")) for name in theirs}
