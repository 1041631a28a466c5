"""What is left of adapters that are taken out, and whether the weights can then be saved."""

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from diffusers import DiffusionPipeline
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from diffusers_jova import JoVAPipeline
from diffusers_jova.few_steps import FewSteps
from tests.tiny_pipeline import build_tiny_pipeline


FEW = FewSteps(num_inference_steps=3, shift=2.0, audio_shift=2.0)


def config(*targets: str) -> LoraConfig:
    return LoraConfig(r=2, lora_alpha=6, target_modules=[*targets], init_lora_weights=False)


def tuned(*names: str) -> JoVAPipeline:
    pipeline = build_tiny_pipeline()
    for name in names:
        pipeline.transformer.add_adapter(config("to_q", "to_v"), name)
    return pipeline


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def is_plain(model: nn.Module) -> bool:
    return not any(isinstance(module, BaseTunerLayer) for module in model.modules())


def assert_saved(pipeline: JoVAPipeline, folder: Path) -> None:
    pipeline.save_pretrained(folder)
    saved = weights(JoVAPipeline.from_pretrained(folder).transformer)
    torch.testing.assert_close(saved, weights(pipeline.transformer), rtol=0, atol=0)


def by_pipeline(pipeline: JoVAPipeline, name: str) -> None:
    pipeline.delete_adapters(name)


def by_model(pipeline: JoVAPipeline, name: str) -> None:
    pipeline.transformer.delete_adapters([name])


@pytest.mark.parametrize("delete", [by_pipeline, by_model])
def test_a_model_whose_last_adapter_is_deleted_is_plain_again_and_can_be_saved(delete: Any, tmp_path: Path) -> None:
    pipeline, plain = tuned("a", "b"), weights(build_tiny_pipeline().transformer)
    delete(pipeline, "a")
    assert pipeline.get_list_adapters() == {"transformer": ["b"]}
    delete(pipeline, "b")
    assert is_plain(pipeline.transformer)
    torch.testing.assert_close(weights(pipeline.transformer), plain, rtol=0, atol=0)
    assert_saved(pipeline, tmp_path)
    pipeline.transformer.add_adapter(config("to_k"), "a")
    assert pipeline.get_active_adapters() == ["a"]


@pytest.mark.parametrize("method", ["unload_lora_weights", "fuse_lora"])
def test_weights_are_saved_once_adapters_are_unloaded(method: str, tmp_path: Path) -> None:
    pipeline = tuned("a", "b")
    getattr(pipeline, method)()
    pipeline.unload_lora_weights()
    assert_saved(pipeline, tmp_path)


@pytest.mark.parametrize("change", ["set_adapters", "fuse_lora", "disable_lora"])
def test_weights_with_adapters_are_not_saved_as_a_folder_that_cannot_be_loaded(change: str, tmp_path: Path) -> None:
    pipeline = tuned("a", "b")
    getattr(pipeline, change)(*(["a"] if change == "set_adapters" else []))
    before = weights(pipeline.transformer)
    refused = r"^weights must be saved without layers of adapters, got those of `a`, `b`; save adapters by "
    with pytest.raises(ValueError, match=refused + r".*`unload_lora_weights`"):
        pipeline.save_pretrained(tmp_path / "pipeline")
    with pytest.raises(ValueError, match=refused + r".*`unload_lora`"):
        pipeline.transformer.save_pretrained(tmp_path / "transformer")
    assert [*tmp_path.iterdir()] == [], "nothing is written of what is refused"
    torch.testing.assert_close(weights(pipeline.transformer), before, rtol=0, atol=0)


def test_an_adapter_in_the_weights_is_not_deleted_as_if_it_were_beside_them() -> None:
    pipeline = tuned("a", "b")
    pipeline.set_adapters("a")
    pipeline.fuse_lora(adapter_names=["a"])
    with pytest.raises(ValueError, match=r"must not be part of the weights when they are deleted, got `a`; take them"):
        pipeline.delete_adapters(["b", "a"])
    assert pipeline.get_list_adapters() == {"transformer": ["a", "b"]}, "a refusal changes nothing"
    pipeline.delete_adapters("b")
    pipeline.unfuse_lora()
    pipeline.delete_adapters("a")
    assert is_plain(pipeline.transformer)
    torch.testing.assert_close(
        weights(pipeline.transformer), weights(build_tiny_pipeline().transformer), rtol=0, atol=1e-6
    )


def test_an_adapter_that_is_not_there_is_not_deleted_in_silence() -> None:
    with pytest.raises(ValueError, match=r"^`adapter_names` must be of loaded adapters, got `c`; there are `a`, `b`$"):
        tuned("a", "b").delete_adapters("c")
    with pytest.raises(ValueError, match=r"got `c`; there are none$"):
        build_tiny_pipeline().delete_adapters("c")


def test_what_was_merged_and_unloaded_cannot_be_taken_out_again() -> None:
    pipeline = tuned("a")
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    with pytest.raises(ValueError, match=r"must come before the layers of adapters are unloaded, got `a` in "):
        pipeline.unfuse_lora()
    made: Any = pipeline("x", num_inference_steps=1, num_frames=1)
    assert [adapter["name"] for adapter in made.provenance[0]["adapters"]] == ["a"], "the record still tells of it"


@pytest.mark.parametrize("method", ["unload_lora_weights", "delete_adapters"])
def test_a_name_that_a_student_had_is_free_again(method: str) -> None:
    pipeline = tuned("a")
    pipeline.transformer.adapter_few_steps = {"a": FEW}
    getattr(pipeline, method)(*(["a"] if method == "delete_adapters" else []))
    pipeline.transformer.add_adapter(config("to_q"), "a")
    assert pipeline.few_steps is None


def test_a_loading_that_fails_leaves_no_layers_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    tuned("a").transformer.save_lora_adapter(folder, "a")
    pipeline = build_tiny_pipeline()

    failing = Mock(side_effect=RuntimeError("out of memory"))
    monkeypatch.setattr("peft.set_peft_model_state_dict", failing)
    with pytest.raises(RuntimeError, match="out of memory"):
        pipeline.load_lora_weights(folder)
    assert is_plain(pipeline.transformer)
    assert_saved(pipeline, tmp_path / "pipeline")


def test_pipelines_of_diffusers_load_what_is_saved_after_a_merge(tmp_path: Path) -> None:
    pipeline = tuned("a")
    plain = weights(build_tiny_pipeline().transformer)
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    pipeline.save_pretrained(tmp_path)
    saved = weights(DiffusionPipeline.from_pretrained(tmp_path).transformer)
    changed = [name for name, tensor in saved.items() if not torch.equal(tensor, plain[name])]
    assert changed
    assert all(name.endswith((".to_q.weight", ".to_v.weight")) for name in changed)


def test_defaults_of_a_student_go_with_it_where_another_adapter_takes_its_place(tmp_path: Path) -> None:
    student = tuned("a")
    student.transformer.save_lora_adapter(tmp_path / "plain", "a")
    student.transformer.adapter_few_steps = {"a": FEW}
    student.transformer.save_lora_adapter(tmp_path / "student", "a")
    pipeline = build_tiny_pipeline()
    before = pipeline.defaults
    pipeline.load_lora_weights(tmp_path / "student", adapter_name="a")
    pipeline.use_few_steps()
    pipeline.load_lora_weights(tmp_path / "plain", adapter_name="b")
    assert pipeline.defaults.num_inference_steps == FEW.num_inference_steps
    pipeline.load_lora_weights(tmp_path / "plain", adapter_name="a", hotswap=True)
    assert pipeline.defaults == before
