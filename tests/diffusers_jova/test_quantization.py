"""Weights of bitsandbytes, as diffusers loads them, in all transformer classes.

diffusers refuses bitsandbytes where no accelerator is, though bitsandbytes computes on CPUs: here it is let.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import BitsAndBytesConfig, PipelineQuantizationConfig
from diffusers.quantizers.bitsandbytes import bnb_quantizer
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor

from diffusers_jova import JoVAPipeline
from tests.diffusers_jova.test_transformer_jova import BUILDERS, LORA, inputs, run
from tests.rounding import relative_error
from tests.tiny_pipeline import build_tiny_pipeline, one_of_each_class


bitsandbytes = pytest.importorskip("bitsandbytes")

FORMATS: dict[str, dict[str, Any]] = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32},
    "int8": {"load_in_8bit": True},
}
WEIGHTS = {"nf4": bitsandbytes.nn.Params4bit, "int8": bitsandbytes.nn.Int8Params}
ERRORS = {"nf4": 1e-3, "int8": 0.03}  # relative, of tiny random models: to the weights as stored, and to the original
cases = pytest.mark.parametrize("form", FORMATS)


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for quantizer in (bnb_quantizer.BnB4BitDiffusersQuantizer, bnb_quantizer.BnB8BitDiffusersQuantizer):
        monkeypatch.setattr(quantizer, "validate_environment", lambda *_, **__: None)
        monkeypatch.setattr(quantizer, "update_device_map", lambda *_: {"": "cpu"})
    # with AVX512-BF16, four-bit layers are packed for kernels that want widths of 64: those here are smaller
    monkeypatch.setattr(bitsandbytes.nn.modules, "has_avx512bf16", lambda: False)


@pytest.fixture(params=one_of_each_class(BUILDERS))
def model(request: pytest.FixtureRequest) -> Any:
    return BUILDERS[request.param]()


def quantized(model: Any, form: str, folder: Path) -> Any:
    """The model, saved and loaded in a format."""
    model.save_pretrained(folder)
    config = BitsAndBytesConfig(**FORMATS[form])
    return type(model).from_pretrained(folder, quantization_config=config, torch_dtype=torch.float32)


def together(outputs: tuple[Tensor, Tensor]) -> Tensor:
    return torch.cat([output.flatten() for output in outputs])


@torch.no_grad()
def as_stored(model: Any, loaded: Any) -> Any:
    """The model with the weights that bitsandbytes makes of four bits.

    On some processors it makes others of a few small shapes than it stored, [64, 48] say.
    """
    own = dict(model.named_parameters())
    for name, weight in loaded.named_parameters():
        if isinstance(weight, bitsandbytes.nn.Params4bit):
            own[name].copy_(bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state))
    return model


@cases
def test_a_quantized_model_stays_near_the_original(model: Any, form: str, tmp_path: Path) -> None:
    loaded = quantized(model, form, tmp_path)
    found, original = together(run(loaded)), together(run(model))
    assert relative_error(found, original) > 0
    if form == "nf4":
        original = together(run(as_stored(model, loaded)))
    assert relative_error(found, original) < ERRORS[form]
    kept = type(model)._keep_in_fp32_modules
    for name, weight in loaded.named_parameters():
        if any(part in name.split(".") for part in kept):
            assert weight.dtype == torch.float32, name
        elif name.endswith(("to_q.weight", "to_out.0.weight")):
            assert isinstance(weight, WEIGHTS[form]), name
    assert loaded.get_memory_footprint() < model.get_memory_footprint()


@cases
def test_a_saved_quantized_model_is_loaded_without_a_word(model: Any, form: str, tmp_path: Path) -> None:
    loaded = quantized(model, form, tmp_path / "whole")
    loaded.save_pretrained(tmp_path / form)
    again = type(model).from_pretrained(tmp_path / form, torch_dtype=torch.float32)
    assert {type(weight) for weight in again.parameters()} == {torch.nn.Parameter, WEIGHTS[form]}
    assert relative_error(together(run(again)), together(run(loaded))) < 1e-5


def test_an_adapter_moves_a_quantized_model_as_it_moves_the_original(model: Any, tmp_path: Path) -> None:
    loaded = quantized(model, "int8", tmp_path)
    before, before_quantized = together(run(model)), together(run(loaded))
    torch.manual_seed(1)
    for one in (model, loaded):
        one.add_adapter(LORA, "a")
    set_peft_model_state_dict(loaded, get_peft_model_state_dict(model, adapter_name="a"), adapter_name="a")
    moved, moved_quantized = together(run(model)) - before, together(run(loaded)) - before_quantized
    assert moved.norm() > 0.1 * before.norm()
    assert relative_error(moved_quantized, moved) < 0.1


def test_an_adapter_of_four_bit_weights_learns_in_every_projection(model: Any, tmp_path: Path) -> None:
    loaded = quantized(model, "nf4", tmp_path)
    loaded.requires_grad_(False)
    torch.manual_seed(1)
    loaded.add_adapter(LORA, "a")
    sum(output.square().sum() for output in loaded(**inputs())).backward()
    adapters = {name: weight for name, weight in loaded.named_parameters() if weight.requires_grad}
    assert all("lora" in name for name in adapters)
    still = [name for name, weight in adapters.items() if weight.grad is None or not weight.grad.any()]
    assert still == []


@pytest.mark.parametrize("kind", one_of_each_class(BUILDERS))
def test_a_pipeline_with_four_bit_weights_makes_a_clip(kind: str, tmp_path: Path) -> None:
    build_tiny_pipeline(transformer=BUILDERS[kind]()).save_pretrained(tmp_path)
    config = PipelineQuantizationConfig(quant_mapping={"transformer": BitsAndBytesConfig(**FORMATS["nf4"])})
    pipeline = JoVAPipeline.from_pretrained(tmp_path, quantization_config=config, torch_dtype=torch.float32)
    assert any(isinstance(weight, WEIGHTS["nf4"]) for weight in pipeline.transformer.parameters())
    video, audio = pipeline("a", num_frames=5, num_inference_steps=2, output_type="latent", return_dict=False)
    assert video.isfinite().all()
    assert audio.isfinite().all()
