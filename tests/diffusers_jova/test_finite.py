import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import TaylorSeerCacheConfig
from peft import LoraConfig

from diffusers_jova import JoVAPipeline
from diffusers_jova.finite import is_finite
from tests.tiny_pipeline import build_tiny_pipeline


NAN = float("nan")
FEW = {"num_inference_steps": 3, "output_type": "latent"}


@pytest.fixture
def pipeline() -> JoVAPipeline:
    pipeline = build_tiny_pipeline()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_prompt_features_with_nan_are_refused_by_name(pipeline: JoVAPipeline) -> None:
    prompt = pipeline.encode_texts(["a dog"], 16)
    prompt.features[0, 0, 0] = NAN
    with pytest.raises(ValueError, match="`prompt_embeds` must be finite"):
        pipeline(prompt_embeds=prompt, negative_prompt="", **FEW)


@pytest.mark.parametrize("name", ["latents", "audio_latents"])
def test_starts_with_infinity_are_refused_by_name(pipeline: JoVAPipeline, name: str) -> None:
    frames, audio = pipeline("a dog", return_dict=False, **FEW)
    start = {"latents": frames, "audio_latents": audio}[name].clone()
    start.view(-1)[-1] = float("inf")
    with pytest.raises(ValueError, match=f"`{name}` must be finite"):
        pipeline("a dog", **{name: start}, **FEW)


def spoil_weight(pipeline: JoVAPipeline) -> None:
    next(p for n, p in pipeline.transformer.named_parameters() if n.endswith("audio.to_q.weight")).data[0, 0] = NAN


def spoil_adapter(pipeline: JoVAPipeline) -> None:
    pipeline.transformer.add_adapter(LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False))
    next(p for n, p in pipeline.transformer.named_parameters() if "lora_B" in n).data[0, 0] = NAN


@pytest.mark.parametrize(
    ("spoil", "words"),
    [(spoil_weight, r"audio\.to_q\.weight` of the transformer"), (spoil_adapter, r"lora_B\.\S+ of the adapter")],
)
def test_weights_that_are_not_finite_end_a_call_by_name_in_the_first_step(
    pipeline: JoVAPipeline, spoil: Callable[[JoVAPipeline], None], words: str
) -> None:
    spoil(pipeline)
    with pytest.raises(FloatingPointError, match=rf"got NaN or infinity in step 1 of 3; `\S*{words} is not finite"):
        pipeline("a dog", **FEW)


def test_a_guidance_scale_beyond_float32_ends_a_call_with_its_likely_cause(pipeline: JoVAPipeline) -> None:
    with pytest.raises(FloatingPointError, match=r"video .*in step 1 of 3; a guidance scale.* is likely too large"):
        pipeline("a dog", guidance_scale=1e38, audio_guidance_scale=1.0, **FEW)


def test_what_a_callback_returns_is_looked_at(pipeline: JoVAPipeline) -> None:
    def spoil(_: Any, step: int, __: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        return {"audio_latents": tensors["audio_latents"] * (NAN if step == 1 else 1)}

    with pytest.raises(FloatingPointError, match=r"latents of audio .* in step 2 of 3; a callback returned it"):
        pipeline("a dog", callback_on_step_end=spoil, callback_on_step_end_tensor_inputs=["audio_latents"], **FEW)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_every_format_can_be_looked_at(dtype: torch.dtype) -> None:
    assert is_finite(torch.ones(3).to(dtype))
    assert not is_finite(torch.tensor([1.0, NAN]).to(dtype))


@pytest.mark.parametrize(("component", "spoilt"), [("vae", "vae"), ("audio_vae", "vocoder")])
def test_what_a_broken_codec_makes_does_not_leave_the_call(
    pipeline: JoVAPipeline, component: str, spoilt: str
) -> None:
    for parameter in getattr(pipeline, spoilt).parameters():
        parameter.data.fill_(NAN)
    with pytest.raises(FloatingPointError, match=f"what `{component}` decodes must be finite"):
        pipeline("a dog", num_inference_steps=1, output_type="np")


def test_what_a_broken_vocoder_makes_is_not_blamed_on_the_audio_vae() -> None:
    pipeline = build_tiny_pipeline()
    next(pipeline.vocoder.parameters()).data.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="got NaN or infinity of its `vocoder`; load `vocoder` in float"):
        pipeline("a dog", num_inference_steps=1, guidance_scale=1.0, num_frames=5)


def test_what_a_broken_text_encoder_reads_is_not_returned() -> None:
    pipeline = build_tiny_pipeline()
    next(pipeline.text_encoder.parameters()).data.fill_(float("inf"))
    with pytest.raises(FloatingPointError, match="what `text_encoder` encodes must be finite, got NaN or infinity"):
        pipeline.encode_prompt("a dog")


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    pipeline = build_tiny_pipeline()
    name, weight = next(iter(pipeline.transformer.named_parameters()))
    weight.data.view(-1)[0] = float("inf")
    for saved in (pipeline, pipeline.transformer):
        with pytest.raises(ValueError, match=f"must be finite to be saved, .* in `{re.escape(name)}`; load"):
            saved.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_a_cache_forgets_what_a_call_that_failed_left(pipeline: JoVAPipeline) -> None:
    def stop(*_: Any) -> dict[str, Any]:
        raise RuntimeError("stopped")

    pipeline.transformer.enable_cache(TaylorSeerCacheConfig(cache_interval=2, disable_cache_before_step=1))
    call = {"num_inference_steps": 4, "output_type": "latent", "return_dict": False}
    clean = pipeline("a dog", generator=torch.Generator().manual_seed(0), **call)
    with pytest.raises(RuntimeError, match="stopped"):
        pipeline("a cat", generator=torch.Generator().manual_seed(1), callback_on_step_end=stop, **call)
    again = pipeline("a dog", generator=torch.Generator().manual_seed(0), **call)
    assert all(torch.equal(*pair) for pair in zip(again, clean, strict=True))
