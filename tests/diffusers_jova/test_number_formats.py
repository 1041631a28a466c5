from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline

from diffusers_jova import JoVAPipeline
from diffusers_jova.number_formats import component_dtype
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


@pytest.mark.parametrize(
    ("given", "dtype"),
    [
        (None, torch.float32),
        ("bfloat16", torch.bfloat16),
        (torch.float16, torch.float16),
        ({"transformer": torch.float16, "default": torch.bfloat16}, torch.float16),
        ({"default": torch.bfloat16, "vae": torch.float16}, torch.bfloat16),
        ({"vae": torch.float16}, torch.float32),
    ],
)
def test_the_format_of_one_component_is_its_own_or_the_default(given: object, dtype: torch.dtype | None) -> None:
    assert component_dtype(given, "transformer") == dtype  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", ["auto", "bf16", torch.int8, 16, {"default": "auto"}])
def test_what_is_no_format_is_not_loaded_in_float32(tiny_pipeline_folder: Path, wrong: object) -> None:
    with pytest.raises(ValueError, match="`dtype` must be a format of floats, got"):
        JoVAPipeline.from_pretrained(tiny_pipeline_folder, dtype=wrong)


@pytest.mark.parametrize("argument", ["torch_dtype", "dtype"])
def test_a_format_of_a_component_that_there_is_not_is_refused(tiny_pipeline_folder: Path, argument: str) -> None:
    with pytest.raises(ValueError, match=r"`dtype` must name components, .*got \['transfomer'\]"):
        JoVAPipeline.from_pretrained(tiny_pipeline_folder, **{argument: {"transfomer": torch.bfloat16}})
