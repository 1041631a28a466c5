"""Adapters of the transformer over fused projections and over weights that are stored in 8 bits."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.utils import get_peft_model_state_dict
from torch import Tensor

from diffusers_jova import JoVAPipeline
from tests.tiny_pipeline import TRANSFORMERS, build_tiny_pipeline, one_of_each_class


CONFIG = LoraConfig(r=2, lora_alpha=6, target_modules=["to_q", "to_k", "to_v", "to_out.0"], init_lora_weights=False)
FLOAT8 = {"storage_dtype": torch.float8_e4m3fn, "compute_dtype": torch.bfloat16}
ROUND_OFF = {"atol": 1e-4, "rtol": 1e-3}  # float32 through two steps of a random network
Build = Callable[..., Any]


@pytest.fixture(params=one_of_each_class(TRANSFORMERS))
def build(request: pytest.FixtureRequest) -> Build:
    """Builds a tiny transformer of each class, in the slow tests of each kind."""
    return TRANSFORMERS[request.param]


@pytest.fixture
def adapter(build: Build, tmp_path: Path) -> Path:
    """A saved adapter of all attention projections."""
    return save_adapter(build(), tmp_path / "first", 0)


def save_adapter(transformer: Any, folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    transformer.add_adapter(CONFIG)
    JoVAPipeline.save_lora_weights(
        folder,
        transformer_lora_layers=get_peft_model_state_dict(transformer),
        transformer_lora_adapter_metadata=transformer.peft_config["default"].to_dict(),
    )
    return folder


def pipeline_of(transformer: Any) -> JoVAPipeline:
    return build_tiny_pipeline(transformer=transformer)


def in_bfloat16(build: Build, folder: Path) -> Any:
    """A transformer as a pipeline in bfloat16 loads it, with what must stay in float32."""
    transformer = build()
    if not folder.exists():
        transformer.save_pretrained(folder)
    return type(transformer).from_pretrained(folder, torch_dtype=torch.bfloat16)


def generate(pipeline: JoVAPipeline, **arguments: Any) -> Tensor:
    settings = {"num_frames": 5, "output_type": "latent", "guidance_scale": 1.0, "return_dict": False}
    generator = torch.Generator().manual_seed(0)
    with torch.autocast("cpu", enabled=False):
        video, audio = pipeline("a dog", generator=generator, **{**settings, **arguments})
    return torch.cat([video.flatten(), audio.flatten()]).float()


def difference(actual: Tensor, expected: Tensor) -> float:
    return ((actual - expected).norm() / expected.norm()).item()


# Fused projections


def test_an_adapter_is_not_laid_over_fused_projections(build: Build, adapter: Path) -> None:
    pipeline = pipeline_of(build())
    pipeline.transformer.fuse_qkv_projections()
    for load in (lambda: pipeline.load_lora_weights(adapter), lambda: pipeline.transformer.add_adapter(CONFIG)):
        with pytest.raises(ValueError, match=r"must be separate .* call `unfuse_qkv_projections` first"):
            load()
    assert pipeline.get_list_adapters() == {}
    expected = pipeline_of(build())
    expected.load_lora_weights(adapter)
    pipeline.transformer.unfuse_qkv_projections()
    pipeline.load_lora_weights(adapter)
    torch.testing.assert_close(generate(pipeline), generate(expected), **ROUND_OFF)


def test_an_adapter_that_went_around_the_model_is_not_lost_in_silence(build: Build) -> None:
    pipeline = pipeline_of(build())
    pipeline.transformer.fuse_qkv_projections()
    inject_adapter_in_model(CONFIG, pipeline.transformer)
    with pytest.raises(ValueError, match=r"must be separate .* call `unfuse_qkv_projections` first"):
        generate(pipeline)
    pipeline.transformer.unfuse_qkv_projections()
    assert difference(generate(pipeline), generate(pipeline_of(build()))) > 1e-3


def test_projections_are_fused_when_the_adapter_is_part_of_the_weights(build: Build, adapter: Path) -> None:
    pipeline = pipeline_of(build())
    pipeline.load_lora_weights(adapter)
    expected = generate(pipeline)
    message = r"must be plain linear layers .* `fuse_lora`, then `unload_lora_weights`"
    with pytest.raises(ValueError, match=message):
        pipeline.transformer.fuse_qkv_projections()
    assert torch.equal(generate(pipeline), expected), "a refusal changes nothing"
    pipeline.fuse_lora()
    with pytest.raises(ValueError, match=message):
        pipeline.transformer.fuse_qkv_projections()
    pipeline.unload_lora_weights()
    pipeline.transformer.fuse_qkv_projections()
    assert any(name.endswith(("to_qkv", "to_kv")) for name, _ in pipeline.transformer.named_modules())
    torch.testing.assert_close(generate(pipeline), expected, **ROUND_OFF)


# Weights in 8 bits


@pytest.mark.parametrize("loads_first", [True, False], ids=["adapter first", "casting first"])
def test_an_adapter_over_weights_in_8_bits_keeps_its_own_precision(
    build: Build, adapter: Path, tmp_path: Path, loads_first: bool
) -> None:
    pipeline = pipeline_of(in_bfloat16(build, tmp_path / "model")).to(torch.bfloat16)
    if loads_first:
        pipeline.load_lora_weights(adapter, adapter_name="one")
    pipeline.transformer.enable_layerwise_casting(**FLOAT8)
    if not loads_first:
        pipeline.load_lora_weights(adapter, adapter_name="one")
    weights = dict(pipeline.transformer.named_parameters())
    loaded = {name: weight for name, weight in weights.items() if ".lora_" in name}
    exact = in_bfloat16(build, tmp_path / "model")
    exact.load_lora_adapter(JoVAPipeline.lora_state_dict(adapter), adapter_name="one")
    for name, weight in exact.named_parameters():
        if ".lora_" in name:
            assert torch.equal(loaded.pop(name), weight)
    assert not loaded
    stored = [weight.dtype for name, weight in weights.items() if name.endswith("to_q.base_layer.weight")]
    assert stored
    assert set(stored) == {torch.float8_e4m3fn}


@pytest.mark.parametrize(
    "build",
    [kind if kind in ("jova", "bridge") else pytest.param(kind, marks=pytest.mark.slow) for kind in TRANSFORMERS],
    indirect=True,
)
def test_both_orders_weigh_remove_and_add_adapters_alike(build: Build, adapter: Path, tmp_path: Path) -> None:
    second = save_adapter(build(), tmp_path / "second", 1)
    cast = [pipeline_of(in_bfloat16(build, tmp_path / "model")).to(torch.bfloat16) for _ in range(3)]
    cast[0].load_lora_weights(adapter, adapter_name="one")
    for pipeline in cast:
        pipeline.transformer.enable_layerwise_casting(**FLOAT8)
    cast[1].load_lora_weights(adapter, adapter_name="one")
    plain = generate(cast[2])
    for pipeline in cast[:2]:
        assert difference(generate(pipeline, attention_kwargs={"scale": 0.0}), plain) == 0
        pipeline.load_lora_weights(second, adapter_name="two")
    for names, scales in ((["one"], [0.5]), (["two"], [1.0]), (["one", "two"], [0.5, 1.0])):
        for pipeline in cast[:2]:
            pipeline.set_adapters(names, scales)
        assert torch.equal(generate(cast[0]), generate(cast[1]))
        assert difference(generate(cast[0]), plain) > 1e-2
    for pipeline in cast[:2]:
        pipeline.delete_adapters("two")
        pipeline.set_adapters("one", 0.0)
        assert torch.equal(generate(pipeline), plain)
        pipeline.unload_lora_weights()
        assert torch.equal(generate(pipeline), plain)


def test_an_adapter_is_not_merged_into_weights_in_8_bits(build: Build, adapter: Path, tmp_path: Path) -> None:
    pipeline = pipeline_of(in_bfloat16(build, tmp_path / "model")).to(torch.bfloat16)
    pipeline.load_lora_weights(adapter)
    pipeline.fuse_lora()
    pipeline.transformer.enable_layerwise_casting(**FLOAT8)
    for change in (pipeline.fuse_lora, pipeline.unfuse_lora):
        with pytest.raises(ValueError, match=r"must come before `enable_layerwise_casting`, got .*float8_e4m3fn"):
            change()


def test_projections_in_8_bits_are_fused_before_they_are_cast(build: Build, tmp_path: Path) -> None:
    pipeline, late = (pipeline_of(in_bfloat16(build, tmp_path / "model")).to(torch.bfloat16) for _ in range(2))
    late.transformer.enable_layerwise_casting(**FLOAT8)
    with pytest.raises(ValueError, match=r"`fuse_qkv_projections` must come before `enable_layerwise_casting`"):
        late.transformer.fuse_qkv_projections()
    pipeline.transformer.fuse_qkv_projections()
    pipeline.transformer.enable_layerwise_casting(**FLOAT8)
    assert difference(generate(pipeline), generate(late)) < 0.05  # the same products in another order, in bfloat16
