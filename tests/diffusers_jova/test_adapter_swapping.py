from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from torch import Tensor

from diffusers_jova import JoVAPipeline
from diffusers_jova.adapter_swapping import AdapterSwapError
from tests.tiny_pipeline import build_tiny_pipeline


OTHERS = {
    "wider": {"target_modules": ["to_q", "to_v", "to_k"]},
    "dora": {"use_dora": True},
    "biased": {"lora_bias": True},
    "patterned": {"alpha_pattern": {"transformer_blocks.0.attn.video.to_q": 3}},
    "lokr": {},
}


def latents(pipeline: JoVAPipeline) -> Tensor:
    options = {"num_inference_steps": 1, "guidance_scale": 1.0, "num_frames": 5, "output_type": "latent"}
    output: Any = pipeline("a dog", generator=torch.Generator().manual_seed(0), **options)
    return torch.cat([output.frames.flatten(), output.audio.flatten()])


def save_adapter(folder: Path, seed: int, **config: Any) -> Path:
    pipeline = build_tiny_pipeline()
    torch.manual_seed(seed)
    settings = {"r": 2, "lora_alpha": 6, "target_modules": ["to_q", "to_v"], "init_lora_weights": False, **config}
    pipeline.transformer.add_adapter(LoraConfig(**settings), "made")
    pipeline.transformer.save_lora_adapter(folder, "made")
    return folder


def test_a_swapped_adapter_is_the_one_that_is_loaded_and_the_others_stay(tmp_path: Path) -> None:
    """peft takes every name with an `a` for one of the adapter `a`, and would empty them."""
    first, second, larger = (save_adapter(tmp_path / str(seed), seed, r=2 + seed) for seed in (0, 1, 2))
    pipeline, expected = build_tiny_pipeline(), build_tiny_pipeline()
    pipeline.load_lora_weights(first, adapter_name="a")
    for one in (pipeline, expected):
        one.load_lora_weights(second, adapter_name="bab")
    pipeline.set_adapters(["a", "bab"], [0.5, 1.0])
    pipeline.load_lora_weights(larger, adapter_name="a", hotswap=True)
    expected.load_lora_weights(larger, adapter_name="a")
    expected.set_adapters(["a", "bab"], [0.5, 1.0])
    torch.testing.assert_close(latents(pipeline), latents(expected))
    for one in (pipeline, expected):
        one.set_adapters(["a", "bab"])
    torch.testing.assert_close(latents(pipeline), latents(expected))
    for name, one in (("swapped", pipeline), ("loaded", expected)):
        one.transformer.save_lora_adapter(tmp_path / name, "a")
    swapped, loaded = build_tiny_pipeline(), build_tiny_pipeline()
    swapped.load_lora_weights(tmp_path / "swapped")
    loaded.load_lora_weights(tmp_path / "loaded")
    torch.testing.assert_close(latents(swapped), latents(loaded))


def test_an_adapter_that_was_filled_up_for_swaps_is_saved_as_strong_as_it_is(tmp_path: Path) -> None:
    first, larger = (save_adapter(tmp_path / str(seed), seed, r=2 + seed) for seed in (0, 2))
    pipeline, expected = build_tiny_pipeline(), build_tiny_pipeline()
    pipeline.enable_lora_hotswap(target_rank=8)
    pipeline.load_lora_weights(first, adapter_name="a")
    pipeline.load_lora_weights(larger, adapter_name="a", hotswap=True)
    expected.load_lora_weights(larger)
    torch.testing.assert_close(latents(pipeline), latents(expected))
    pipeline.transformer.save_lora_adapter(tmp_path / "saved", "a")
    saved = build_tiny_pipeline()
    saved.load_lora_weights(tmp_path / "saved")
    torch.testing.assert_close(latents(saved), latents(expected))


def test_an_adapter_with_magnitudes_is_swapped_with_none(tmp_path: Path) -> None:
    """peft fails midway at their names, also where both have some."""
    first, second = (save_adapter(tmp_path / str(seed), seed, use_dora=True) for seed in (0, 1))
    pipeline = build_tiny_pipeline()
    pipeline.load_lora_weights(first, adapter_name="a")
    before = latents(pipeline)
    with pytest.raises(AdapterSwapError, match=r"must bring plain LoRA, .* got `.*magnitude"):
        pipeline.load_lora_weights(second, adapter_name="a", hotswap=True)
    assert torch.equal(latents(pipeline), before)


@pytest.mark.filterwarnings("ignore:Adapter 'made'")  # peft takes biases for incomplete matrices
@pytest.mark.parametrize("kind", OTHERS)
def test_what_cannot_be_swapped_is_refused_and_the_adapter_stays(tmp_path: Path, kind: str) -> None:
    first = save_adapter(tmp_path / "first", 0)
    pipeline = build_tiny_pipeline()
    pipeline.load_lora_weights(first, adapter_name="a")
    before = latents(pipeline)
    if kind == "lokr":
        name = "transformer.transformer_blocks.0.attn.video.to_q"
        side = pipeline.transformer.transformer_blocks[0].attn.video.to_q.weight.shape[0]
        other: Any = {f"{name}.lokr_w1": torch.ones(2, 2), f"{name}.lokr_w2": torch.ones(side // 2, side // 2)}
    else:
        other = save_adapter(tmp_path / "other", 1, **OTHERS[kind])
    with pytest.raises(AdapterSwapError, match=r"^`hotswap` must .*; load it under a name of its own, or delete 'a' "):
        pipeline.load_lora_weights(other, adapter_name="a", hotswap=True)
    assert pipeline.get_list_adapters() == {"transformer": ["a"]}
    assert torch.equal(latents(pipeline), before)


def test_adapters_are_weighed_and_taken_off_a_compiled_transformer(tmp_path: Path) -> None:
    folder = save_adapter(tmp_path / "adapter", 0)
    pipeline = build_tiny_pipeline()
    plain = latents(pipeline)
    inner = pipeline.transformer
    pipeline.transformer = torch.compile(inner, backend="eager")
    pipeline.load_lora_weights(folder, adapter_name="a")
    with_it = latents(pipeline)
    assert not torch.allclose(with_it, plain, atol=1e-3)
    assert pipeline.get_list_adapters() == {"transformer": ["a"]}
    assert pipeline.get_active_adapters() == ["a"]
    pipeline.set_adapters(["a"], 0.0)
    torch.testing.assert_close(latents(pipeline), plain)
    pipeline.set_adapters(["a"], 1.0)
    pipeline.disable_lora()
    torch.testing.assert_close(latents(pipeline), plain)
    pipeline.enable_lora()
    torch.testing.assert_close(latents(pipeline), with_it)
    pipeline.unload_lora_weights()
    torch.testing.assert_close(latents(pipeline), plain)
    assert getattr(pipeline.transformer, "_orig_mod", None) is inner  # it stays compiled
