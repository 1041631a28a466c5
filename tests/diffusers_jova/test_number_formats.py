import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from diffusers_jova import FlowMatchAudioVideoScheduler, JoVAPipeline
from diffusers_jova.generation_defaults import GenerationDefaults
from jova_cli.shipped import find_model
from tests.tiny_pipeline import build_tiny_pipeline


CODECS = ("vae", "audio_vae", "vocoder")


def formats(pipeline: JoVAPipeline) -> dict[str, torch.dtype]:
    modules = {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}
    return {name: next(module.parameters()).dtype for name, module in modules.items()}


@pytest.mark.parametrize("argument", ["torch_dtype", "dtype"])
def test_codecs_are_loaded_in_float32_unless_they_are_named(tiny_pipeline_folder: Path, argument: str) -> None:
    half = formats(JoVAPipeline.from_pretrained(tiny_pipeline_folder, **{argument: torch.bfloat16}))
    assert {half[name] for name in CODECS} == {torch.float32}
    assert half["text_encoder"] == torch.bfloat16
    named = {"default": torch.bfloat16, "vocoder": torch.bfloat16}
    told = formats(JoVAPipeline.from_pretrained(tiny_pipeline_folder, **{argument: named}))
    assert told["vocoder"] == torch.bfloat16
    assert told["audio_vae"] == torch.float32


def test_everything_is_loaded_in_float32_unless_a_format_is_named(tmp_path: Path) -> None:
    build_tiny_pipeline().to(torch.bfloat16).save_pretrained(tmp_path)
    assert set(formats(JoVAPipeline.from_pretrained(tmp_path)).values()) == {torch.float32}
    assert formats(JoVAPipeline.from_pretrained(tmp_path, dtype={"vae": torch.bfloat16})) == {
        "vae": torch.bfloat16,
        **dict.fromkeys(("audio_vae", "text_encoder", "transformer", "vocoder"), torch.float32),
    }


def test_the_shipped_model_reads_a_text_alike_in_any_batch() -> None:
    pipeline = DiffusionPipeline.from_pretrained(find_model("jova-tiny"))
    texts = ["A cartoon woman speaks on a mint background.", "A bell is ringing, and a dog barks. " * 2, "hello"]
    alone, batch = (pipeline.encode_texts(given, 96).features for given in (texts[:1], texts))
    rows = alone.shape[1]
    assert (batch[:1, :rows] - alone).norm() < 1e-5 * alone.norm()  # 5e-3 in bfloat16


@pytest.mark.parametrize("value", [True, "32", 32.0, np.float32(32), None])
def test_a_size_is_a_whole_number(value: Any) -> None:
    if value is None:
        assert type(GenerationDefaults(height=np.int64(32)).height) is int
        return
    with pytest.raises(ValueError, match="`height` must be a whole number, got "):
        GenerationDefaults().override(height=value)


@pytest.mark.parametrize("value", [True, "3", math.nan, math.inf])
@pytest.mark.parametrize("name", ["frame_rate", "guidance_scale", "audio_guidance_scale", "apg_threshold"])
def test_a_scale_is_a_finite_number(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"`{name}` must be (a number|finite), got "):
        GenerationDefaults.from_dict({name: value})


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_shifts_and_noise_levels_are_finite(value: float) -> None:
    with pytest.raises(ValueError, match="`audio_shift` must be positive and finite"):
        FlowMatchAudioVideoScheduler(audio_shift=value)
    with pytest.raises(ValueError, match="`sigmas` must fall strictly within"):
        FlowMatchAudioVideoScheduler().set_timesteps(sigmas=[1.0, value])


def test_the_first_clip_of_one_generator_is_that_of_a_call_of_its_own() -> None:
    pipeline = build_tiny_pipeline()
    pipeline.set_progress_bar_config(disable=True)
    few: dict[str, Any] = {"num_inference_steps": 2, "output_type": "latent", "return_dict": False}
    alone = pipeline("a dog", generator=torch.Generator().manual_seed(5), **few)
    both = pipeline(["a dog", "a dog"], generator=torch.Generator().manual_seed(5), **few)
    for one, several in zip(alone, both, strict=True):
        torch.testing.assert_close(several[:1], one, atol=1e-4, rtol=1e-4)  # a batch sums in another order
        assert (several[1] - several[0]).abs().max() > 0.1, "the second clip has the noise of the first"
