from pathlib import Path

import pytest
import torch

from diffusers_jova import JoVAPipeline
from diffusers_jova.number_formats import component_dtype


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


@pytest.mark.parametrize(
    ("given", "dtype"),
    [
        (None, None),
        ("auto", None),
        (torch.float16, torch.float16),
        ({"transformer": torch.float16, "default": torch.bfloat16}, torch.float16),
        ({"default": torch.bfloat16, "vae": torch.float16}, torch.bfloat16),
        ({"vae": torch.float16}, None),
    ],
)
def test_the_format_of_one_component_is_its_own_or_the_default(given: object, dtype: torch.dtype | None) -> None:
    assert component_dtype(given, "transformer") == dtype  # type: ignore[arg-type]
