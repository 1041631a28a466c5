"""Adapters of MOVA's trainers: in a transformer, in a pipeline and by the command."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from diffusers_jova import JoVADualTowerTransformer3DModel
from diffusers_jova.adapter_fit import linear_layers
from diffusers_jova.adapter_keys import MOVA_EXPERTS, is_of_mova, module_name
from diffusers_jova.conversion import lora, mova
from diffusers_jova.conversion.convert import main
from diffusers_jova.conversion.rules import matching_rules
from diffusers_jova.conversion.wan import HEAD_DIM
from jova_cli import convert as convert_words
from tests.diffusers_jova.test_transformer_jova_dual_tower import (
    FLOAT32,
    MOVA,
    mova_arguments,
    mova_model,
    tiny_arguments,
)
from tests.places import needs_references
from tests.rounding import relative_error
from tests.tiny_pipeline import build_dual_tower, build_tiny_pipeline, build_wan_transformer


ALPHA = 6.0
Write = Callable[[dict[str, Tensor], Path], Path]


def write_accelerate(tensors: dict[str, Tensor], folder: Path, ending: str = "") -> Path:
    """What MOVA's trainer leaves in a folder."""
    named = {name.replace(".weight", f"{ending}.weight"): tensor for name, tensor in tensors.items()}
    torch.save(named, folder / "lora_weights.pt")
    torch.save({"alpha": 16.0, "rank": "LoraLinear"}, folder / "lora_config.pt")
    return folder


def write_peft(tensors: dict[str, Tensor], folder: Path) -> Path:
    return write_accelerate(tensors, folder, ".default")


def write_low_memory(tensors: dict[str, Tensor], folder: Path) -> Path:
    """What its trainer for little memory writes: bare parameters, with rank and alpha."""
    bare = {name.removesuffix(".weight"): tensor for name, tensor in tensors.items()}
    torch.save({"lora_state_dict": bare, "rank": 3, "alpha": ALPHA}, folder / "lora.pt")
    return folder / "lora.pt"


def write_safetensors(tensors: dict[str, Tensor], folder: Path) -> Path:
    save_file(tensors, folder / "lora.safetensors")
    return folder / "lora.safetensors"


WRITERS: dict[str, tuple[Write, dict[str, Any]]] = {
    "accelerate": (write_accelerate, {"alpha": ALPHA}),
    "peft": (write_peft, {"alpha": ALPHA}),
    "low memory": (write_low_memory, {}),
    "safetensors": (write_safetensors, {"alpha": ALPHA}),
}


@needs_references
@pytest.mark.numeric
@pytest.mark.parametrize("writer", WRITERS)
def test_an_adapter_of_mova_changes_what_it_changes_there(writer: str, tmp_path: Path) -> None:
    stored = load_file(MOVA / "dual_tower_mini_io.safetensors")
    adapter = {name: tensor.float() for name, tensor in load_file(MOVA / "lora_mini.safetensors").items()}
    results = {name: adapter.pop(f"out.{name}") for name in ("video", "audio")}
    write, options = WRITERS[writer]
    pipeline = build_tiny_pipeline(transformer=build_dual_tower("bridge"))  # its transformer takes the call alone
    pipeline.transformer = mova_model("mini")
    pipeline.load_lora_weights(str(write(adapter, tmp_path)), **options)
    with torch.no_grad():
        video, audio = pipeline.transformer(**mova_arguments(stored))
    assert relative_error(video, results["video"]) < FLOAT32
    assert relative_error(audio.mT, results["audio"]) < FLOAT32


def random_adapter(modules: dict[str, nn.Linear]) -> dict[str, Tensor]:
    torch.manual_seed(4)
    tensors = {}
    for name, layer in modules.items():
        tensors[f"{name}.lora_A.weight"] = torch.randn(3, layer.in_features) / 8
        tensors[f"{name}.lora_B.weight"] = torch.randn(layer.out_features, 3) / 8
    return tensors


def model_of_released_heads(**overrides: Any) -> JoVADualTowerTransformer3DModel:
    sizes = {"num_attention_heads": 1, "audio_num_layers": 1, "num_layers": 1, "attention_head_dim": HEAD_DIM}
    axes = {"rope_axes_dim": (44, 42, 42), "audio_rope_axes_dim": (HEAD_DIM, 0, 0)}
    return build_dual_tower("bridge", **{**sizes, **axes, "boundary": 0.9, **overrides})


def adapted_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """Layers that MOVA's trainers adapt, by their names there."""
    folders = {**MOVA_EXPERTS, "audio_dit": "audio"}
    layers = linear_layers(model)
    wan = ("self_attn.q", "self_attn.o", "cross_attn.v", "ffn.0", "ffn.2")
    names = [f"{folder}.blocks.0.{layer}" for folder in folders for layer in wan]
    for conditioners in ("audio_to_video_conditioners", "video_to_audio_conditioners"):
        names += [f"dual_tower_bridge.{conditioners}.0.inner.{part}" for part in "qkvo"]
    return {name: layers[module_name(name)] for name in names}


@torch.no_grad()
def outputs(model: nn.Module) -> Tensor:
    low = tiny_arguments() | {"timestep": torch.full((2,), 950.0)}
    return torch.cat([part.flatten() for arguments in (tiny_arguments(), low) for part in model(**arguments)])


@pytest.mark.parametrize("layout", convert_words.LAYOUTS)
@pytest.mark.parametrize("writer", WRITERS)
def test_a_converted_adapter_of_mova_does_what_its_file_does(writer: str, layout: str, tmp_path: Path) -> None:
    model = model_of_released_heads()
    write, options = WRITERS[writer]
    source = write(random_adapter(adapted_layers(model)), tmp_path)
    output = tmp_path / ("out" if layout == "peft" else "out.safetensors")
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    main(["lora", str(source), str(output), "--to", layout, *words])
    plain = outputs(model)
    model.load_lora_adapter(str(source), adapter_name="there", **options)
    there = outputs(model)
    model.delete_adapters("there")
    model.load_lora_adapter(str(output), adapter_name="here")
    assert relative_error(there, plain) > 0.01
    assert relative_error(outputs(model), there) < 1e-6  # the same sums


def test_the_names_of_movas_layers_are_those_of_its_conversion() -> None:
    names = adapted_layers(model_of_released_heads())
    table = mova.rules(MOVA_EXPERTS, HEAD_DIM)
    for name in names:
        ((index, _, holes),) = matching_rules(f"{name}.weight", table)
        assert table[index].targets[0].format(**holes) == f"{module_name(name)}.weight"


def test_a_scale_that_no_file_states_must_be_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = model_of_released_heads()
    source = write_accelerate(random_adapter(adapted_layers(model)), tmp_path)
    with pytest.raises(ValueError, match="`alpha` must be given for an adapter of MOVA's trainers"):
        model.load_lora_adapter(str(source))
    with pytest.raises(SystemExit, match="2"):
        main(["lora", str(source), str(tmp_path / "out.safetensors")])
    assert "`alpha` must be given" in capsys.readouterr().err
    with pytest.raises(ValueError, match="`alpha` must be positive and finite, got nan"):
        model.load_lora_adapter(str(source), alpha=float("nan"))
    with pytest.raises(ValueError, match="`alpha` must be positive and finite, got 0"):
        model.load_lora_adapter(str(source), alpha=0)


def test_what_the_model_has_no_place_for_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = model_of_released_heads(boundary=None)
    whole = random_adapter(adapted_layers(model_of_released_heads()))
    with pytest.raises(ValueError, match=r"`blocks\.0\.attn1\.video_low\.to_q`.*, which it does not have"):
        model.load_lora_adapter(whole, alpha=1.0)
    strange = {f"video_dit.blocks.0.new.lora_{side}.weight": torch.ones(2, 2) for side in "AB"}
    with pytest.raises(ValueError, match=r"got `video_dit\.blocks\.0\.new`, which it does not have"):
        model_of_released_heads().load_lora_adapter(whole | strange, alpha=1.0)
    save_file(whole | strange, tmp_path / "strange.safetensors")
    with pytest.raises(SystemExit, match="2"):
        main(["lora", str(tmp_path / "strange.safetensors"), str(tmp_path / "out.safetensors"), "--alpha", "1"])
    assert "got `video_dit.blocks.0.new.lora_A.weight`" in capsys.readouterr().err
    odd = {name: tensor[:100] if ".inner.q.lora_B" in name else tensor for name, tensor in whole.items()}
    with pytest.raises(ValueError, match="must have whole heads of 128 outputs, got 100"):
        model_of_released_heads().load_lora_adapter(odd, alpha=1.0)


# One file per expert


def plain_adapter(naming: str) -> dict[str, Tensor]:
    """An adapter of one video model, as DiffSynth and musubi write it."""
    names = {
        "diffsynth": "blocks.0.self_attn.q.lora_{}.default.weight",
        "comfy": "diffusion_model.blocks.0.self_attn.q.lora_{}.weight",
    }
    return {
        names[naming].format(side): torch.ones(48 if side == "B" else 2, 2 if side == "B" else 48) for side in "AB"
    }


@pytest.mark.parametrize("naming", ["diffsynth", "comfy"])
@pytest.mark.parametrize("tower", ["video", "video_low"])
def test_an_adapter_of_one_expert_changes_the_tower_that_is_named(tower: str, naming: str, tmp_path: Path) -> None:
    model, adapter = build_dual_tower(boundary=0.9), plain_adapter(naming)
    with pytest.raises(ValueError, match="`tower` must be 'video' or 'video_low' for an adapter of one video model"):
        model.load_lora_adapter(adapter)
    save_file(adapter, tmp_path / "one.safetensors")
    main(["lora", str(tmp_path / "one.safetensors"), str(tmp_path / "ours.safetensors"), "--tower", tower])
    for source, options in ((adapter, {"tower": tower}), (str(tmp_path / "ours.safetensors"), {})):
        pipeline = build_tiny_pipeline(transformer=build_dual_tower(boundary=0.9))
        pipeline.load_lora_weights(source, **options)
        changed = {name.split(".lora_")[0] for name, _ in pipeline.transformer.named_parameters() if ".lora_" in name}
        assert changed == {f"blocks.0.attn1.{tower}.to_q"}


def test_a_tower_is_named_where_it_says_something(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build_wan_transformer(num_attention_heads=4).load_lora_adapter(plain_adapter("comfy"))  # one tower: nothing to say
    model, adapter = build_dual_tower(boundary=0.9), plain_adapter("diffsynth")
    with pytest.raises(ValueError, match="`tower` must be 'video' or 'video_low', got 'low'"):
        model.load_lora_adapter(adapter, tower="low")
    ours = {name.replace("self_attn.q", "attn1.video.to_q"): tensor for name, tensor in adapter.items()}
    with pytest.raises(ValueError, match="`tower` must go with an adapter of a plain video model"):
        model.load_lora_adapter(ours, tower="video")
    save_file(adapter, tmp_path / "one.safetensors")
    main(["lora", str(tmp_path / "one.safetensors"), str(tmp_path / "ours.safetensors")])
    assert "`--tower video_low` the other" in capsys.readouterr().out
    assert lora.read(tmp_path / "ours.safetensors").alphas() == {"blocks.0.attn1.video.to_q": 2.0}


def test_names_of_mova_are_told_from_others() -> None:
    assert is_of_mova("audio_dit.blocks.0.ffn.0")
    assert not is_of_mova("audio.condition_embedder.time_proj")
    assert module_name("video_dit.patch_embedding") == "video_dit.patch_embedding"  # its columns stand otherwise
