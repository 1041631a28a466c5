"""What `fuse_lora` adds to the weights is what was asked for, can be taken out again, and is told with the clip."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from diffusers_jova import JoVAPipeline
from diffusers_jova.provenance import active_adapters
from jova_cli.main import main
from tests import tiny_pipeline
from tests.diffusers_jova.test_adapter_removal import FEW, config, tuned, weights
from tests.tiny_pipeline import build_tiny_pipeline


ROUNDING = 1e-6  # of float32 weights of size 1 to which a few products were added and taken away


def base_weights(pipeline: JoVAPipeline) -> dict[str, torch.Tensor]:
    """Weights below the layers of adapters, by the names that they have without."""
    found = {name.replace(".base_layer", ""): tensor for name, tensor in weights(pipeline.transformer).items()}
    return {name: tensor for name, tensor in found.items() if ".lora_" not in name}


def changes(pipeline: JoVAPipeline, name: str) -> dict[str, torch.Tensor]:
    """What an adapter adds to each weight, as it is weighed."""
    layers = [module for module in pipeline.transformer.named_modules() if isinstance(module[1], BaseTunerLayer)]
    return {f"{path}.weight": layer.get_delta_weight(name).detach().clone() for path, layer in layers}


def assert_changed(pipeline: JoVAPipeline, change: dict[str, torch.Tensor], scale: float) -> None:
    plain = weights(build_tiny_pipeline().transformer)
    wanted = {name: tensor + scale * change[name] if name in change else tensor for name, tensor in plain.items()}
    torch.testing.assert_close(base_weights(pipeline), wanted, rtol=0, atol=ROUNDING)


def test_the_scale_of_a_merge_is_for_the_adapters_that_are_merged() -> None:
    pipeline = tuned("a", "b")  # b is active
    change = changes(pipeline, "a")
    pipeline.fuse_lora(lora_scale=0.5, adapter_names=["a"])
    assert_changed(pipeline, change, 0.5)
    pipeline.unfuse_lora()
    assert_changed(pipeline, change, 0)


@pytest.mark.filterwarnings("ignore:Already following adapters were merged")
@pytest.mark.filterwarnings("ignore:All adapters are already merged")
@pytest.mark.parametrize("others", [["a"], ["b"]])
def test_a_second_merge_leaves_the_first_as_it_is_weighed(others: list[str]) -> None:
    pipeline = tuned("a", "b")
    pipeline.set_adapters(["a", "b"])
    change = changes(pipeline, "a")
    pipeline.fuse_lora(adapter_names=["a"])
    pipeline.fuse_lora(lora_scale=0.5, adapter_names=others)
    pipeline.unfuse_lora()
    assert_changed(pipeline, change, 0)


@pytest.mark.parametrize("asked", [["c"], "a", []])
def test_a_merge_of_what_is_not_loaded_is_refused(asked: Any) -> None:
    pipeline = tuned("a")
    with pytest.raises(ValueError, match=r"^`adapter_names` must be a list of loaded .*; there are `a`$"):
        pipeline.fuse_lora(adapter_names=asked)
    assert not pipeline.fused_loras


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_weights_survive_a_scale_that_is_not_finite(scale: float) -> None:
    pipeline = tuned("a")
    with pytest.raises(ValueError, match=f"^`lora_scale` must be finite, got {scale}; 1.0 merges adapters as they"):
        pipeline.fuse_lora(lora_scale=scale)
    assert_changed(pipeline, {}, 0)


@pytest.mark.parametrize("method", ["disable_lora", "disable_adapters", "set_adapter", "add_adapter"])
def test_while_one_is_merged_nothing_is_done_that_peft_would_leave_unread(method: str) -> None:
    pipeline = tuned("a", "b")
    pipeline.fuse_lora()
    arguments = {"set_adapter": ["a"], "add_adapter": [config("to_q"), "c"]}
    with pytest.raises(ValueError, match=r"adapters must be .* while none is merged, got `b` from `fuse_lora`; call "):
        getattr(pipeline.transformer, method)(*arguments.get(method, []))
    pipeline.unfuse_lora()
    assert_changed(pipeline, {}, 0)


def test_adapters_that_are_switched_off_are_not_merged() -> None:
    pipeline = tuned("a")
    pipeline.disable_lora()
    with pytest.raises(ValueError, match=r"must be switched on when they are merged, .*; call `enable_lora` first$"):
        pipeline.fuse_lora()


def test_an_active_adapter_beside_a_merged_one_is_told(caplog: pytest.LogCaptureFixture) -> None:
    pipeline = tuned("a", "b")
    pipeline.set_adapters(["a", "b"])
    pipeline.fuse_lora(adapter_names=["a"])
    assert "`b` is not used where another adapter is merged" in caplog.text
    assert [adapter["name"] for adapter in active_adapters(pipeline)] == ["a"]
    assert "until then" not in caplog.text


def test_what_is_left_of_an_adapter_beside_a_merged_one_is_told(caplog: pytest.LogCaptureFixture) -> None:
    pipeline = tuned("a")
    pipeline.transformer.add_adapter(config("to_q", "to_k"), "b")
    pipeline.set_adapters(["a", "b"])
    pipeline.fuse_lora(adapter_names=["a"])
    num_keys = sum(name.endswith("to_k") for name, _ in pipeline.transformer.named_modules())
    assert num_keys > 0
    assert f"until they are unloaded, they act in {num_keys} layers that the merged one lacks" in caplog.text
    assert [adapter["name"] for adapter in active_adapters(pipeline)] == ["a", "b"]


def test_the_record_of_a_clip_tells_the_scale_of_a_merge() -> None:
    pipeline = tuned("a")
    pipeline.set_adapters("a", 0.5)
    pipeline.fuse_lora(lora_scale=0.5)
    assert active_adapters(pipeline) == [{"name": "a", "scale": 0.25}]


def test_a_second_adapter_is_taken_out_where_a_first_one_stays_for_good(caplog: pytest.LogCaptureFixture) -> None:
    pipeline = tuned("a")
    pipeline.transformer.adapter_few_steps = {"a": FEW}
    change = changes(pipeline, "a")
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    pipeline.transformer.add_adapter(config("to_q", "to_v"), "a")
    pipeline.fuse_lora()
    pipeline.unfuse_lora()
    assert "`a` stays in the weights, because its layers are unloaded" in caplog.text
    assert_changed(pipeline, change, 1)
    assert pipeline.few_steps == FEW, "the student is still in the weights"
    assert pipeline.fused_loras == {"a"}


def test_adapters_without_a_name_get_one_that_no_other_has(tmp_path: Any) -> None:
    tuned("a").transformer.save_lora_adapter(tmp_path / "first", "a")
    tuned("a").transformer.save_lora_adapter(tmp_path / "second", "a")
    pipeline = build_tiny_pipeline()
    for name in ("first", "second"):
        pipeline.load_lora_weights(tmp_path / name)
        pipeline.fuse_lora()
        pipeline.unload_lora_weights()
    assert [adapter["name"] for adapter in active_adapters(pipeline)] == ["first", "second"]
    for name in ("first", "second"):
        pipeline.load_lora_weights(tmp_path / name)
    pipeline.delete_adapters(next(iter(pipeline.transformer.peft_config)))
    pipeline.load_lora_weights(tmp_path / "first")
    assert len(pipeline.transformer.peft_config) == 2


@pytest.mark.parametrize("scale", [0.0, 0.1, -2.0])
def test_a_factor_of_one_call_leaves_adapters_weighed_as_they_were(scale: float) -> None:
    pipeline = tuned("a")
    pipeline.set_adapters("a", 0.7)
    before = changes(pipeline, "a")
    pipeline("x", num_inference_steps=1, num_frames=1, attention_kwargs={"scale": scale})
    torch.testing.assert_close(changes(pipeline, "a"), before, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["transformer", "wan_transformer", "dual_tower"])
def test_a_factor_that_is_not_finite_is_refused_by_a_transformer_itself(kind: str) -> None:
    model = getattr(tiny_pipeline, f"build_{kind}")()
    asked = {"attention_kwargs": {"scale": float("nan")}, "frame_rate": 16.0, "audio_latent_rate_hz": 31.25}
    with pytest.raises(ValueError, match=r"`attention_kwargs\['scale'\]` must be finite, got nan"):
        model(None, torch.zeros(1, 11, 4), torch.zeros(1, 7, 16), torch.zeros(1), **asked)


def test_a_pipeline_that_was_merged_for_good_says_so_where_it_is_saved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline = tuned("a")
    pipeline.fuse_lora(lora_scale=0.5)
    pipeline.unload_lora_weights()
    pipeline.save_pretrained(tmp_path / "merged")
    said = (tmp_path / "merged" / "README.md").read_text()
    assert "Adapters in the weights of the transformer: a (scale 0.5)" in said
    assert not pipeline.transformer.config.get("_merged_adapters")
    again = JoVAPipeline.from_pretrained(tmp_path / "merged")
    assert active_adapters(again) == [{"name": "a", "scale": 0.5}]
    again.transformer.add_adapter(config("to_q"), "b")
    assert [adapter["name"] for adapter in active_adapters(again)] == ["a", "b"]
    again.fuse_lora()
    again.unload_lora_weights()
    again.save_pretrained(tmp_path / "twice")
    main(["info", str(tmp_path / "twice")])
    assert "Adapters in the weights of the transformer: a (scale 0.5), b (scale 1.0)" in capsys.readouterr().out
    build_tiny_pipeline().save_pretrained(tmp_path / "plain")
    assert not (tmp_path / "plain" / "README.md").exists()
