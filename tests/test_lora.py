from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor

from diffusers_jova import JoVAPipeline
from tests.tiny_pipeline import build_tiny_pipeline, build_transformer


TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
ROUND_OFF = {"atol": 1e-4, "rtol": 1e-3}  # float32 through two steps of a random network


def generate(pipeline: JoVAPipeline, **arguments: Any) -> Tensor:
    arguments = {"generator": torch.Generator().manual_seed(0), "num_frames": 5, "output_type": "latent", **arguments}
    video, audio = pipeline("a dog", return_dict=False, guidance_scale=1.0, **arguments)
    return torch.cat([video.flatten(), audio.flatten()])


@pytest.fixture(scope="module")
def plain() -> Tensor:
    return generate(build_tiny_pipeline())


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two saved adapters, of all attention projections and of the audio stream's."""
    folders = {}
    targets = {"voice": TARGETS, "sound": r".*attn\.audio\.(to_q|to_v)"}
    for seed, (name, modules) in enumerate(targets.items()):
        transformer = build_transformer()
        torch.manual_seed(seed)
        config = LoraConfig(r=2, lora_alpha=6, target_modules=modules, init_lora_weights=False)
        transformer.add_adapter(config, "default")
        folders[name] = tmp_path_factory.mktemp(name)
        JoVAPipeline.save_lora_weights(
            folders[name],
            transformer_lora_layers=get_peft_model_state_dict(transformer),
            transformer_lora_adapter_metadata=transformer.peft_config["default"].to_dict(),
        )
    return folders


def load(adapters: dict[str, Path], *names: str) -> JoVAPipeline:
    pipeline = build_tiny_pipeline()
    for name in names:
        pipeline.load_lora_weights(adapters[name], adapter_name=name)
    return pipeline


def test_saved_keys_name_the_transformer_then_the_stream_then_the_projection(adapters: dict[str, Path]) -> None:
    keys = load_file(adapters["voice"] / "pytorch_lora_weights.safetensors").keys()
    assert "transformer.transformer_blocks.0.attn.audio_text.to_q.lora_A.weight" in keys
    assert "transformer.single_transformer_blocks.0.attn.video.to_out.0.lora_B.weight" in keys


def test_an_adapter_changes_both_modalities_and_unloads(adapters: dict[str, Path], plain: Tensor) -> None:
    pipeline = load(adapters, "voice")
    changed = generate(pipeline)
    num_video = 16 * 2 * 4 * 4
    assert not torch.allclose(changed[:num_video], plain[:num_video], atol=1e-3)
    assert not torch.allclose(changed[num_video:], plain[num_video:], atol=1e-3)
    pipeline.unload_lora_weights()
    torch.testing.assert_close(generate(pipeline), plain, **ROUND_OFF)


def test_the_scale_of_a_call_weighs_the_adapter(adapters: dict[str, Path], plain: Tensor) -> None:
    pipeline = load(adapters, "voice")
    off = generate(pipeline, attention_kwargs={"scale": 0.0})
    half = generate(pipeline, attention_kwargs={"scale": 0.5})
    torch.testing.assert_close(off, plain, **ROUND_OFF)
    pipeline.set_adapters("voice", 0.5)
    torch.testing.assert_close(generate(pipeline), half, **ROUND_OFF)


@pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute:UserWarning")  # peft, for a second one
def test_adapters_add_up_with_their_weights(adapters: dict[str, Path]) -> None:
    pipeline = load(adapters, "voice", "sound")
    assert pipeline.get_list_adapters() == {"transformer": ["voice", "sound"]}
    pipeline.set_adapters(["voice", "sound"], [1.0, 0.0])
    torch.testing.assert_close(generate(pipeline), generate(load(adapters, "voice")), **ROUND_OFF)
    pipeline.set_adapters(["voice", "sound"], [1.0, 1.0])
    both = generate(pipeline)
    assert not torch.allclose(both, generate(load(adapters, "voice")), atol=1e-3)
    pipeline.delete_adapters("voice")
    torch.testing.assert_close(generate(pipeline), generate(load(adapters, "sound")), **ROUND_OFF)


def test_a_fused_adapter_gives_the_same_and_can_be_taken_out(adapters: dict[str, Path], plain: Tensor) -> None:
    pipeline = load(adapters, "voice")
    expected = generate(pipeline)
    pipeline.fuse_lora()
    torch.testing.assert_close(generate(pipeline), expected, **ROUND_OFF)
    pipeline.unfuse_lora()
    pipeline.disable_lora()
    torch.testing.assert_close(generate(pipeline), plain, **ROUND_OFF)


def test_the_settings_of_training_travel_with_the_adapter(adapters: dict[str, Path]) -> None:
    config = load(adapters, "voice").transformer.peft_config["voice"]
    assert (config.r, config.lora_alpha) == (2, 6)
    _, metadata = JoVAPipeline.lora_state_dict(adapters["voice"], return_lora_metadata=True)
    assert metadata["transformer.lora_alpha"] == 6


def test_an_unknown_adapter_is_named_in_the_error(adapters: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match=r"Adapter name\(s\) \{'face'\} not in the list of present adapters"):
        load(adapters, "voice").set_adapters("face")


def test_a_file_of_another_model_is_refused_and_nothing_is_left_behind(tmp_path: Path) -> None:
    pipeline = build_tiny_pipeline()
    with pytest.raises(OSError, match="no file named"):
        pipeline.load_lora_weights(tmp_path)
    assert pipeline.get_list_adapters() == {}
    alien = {
        "blocks.9.attn.to_q.lora_A.weight": torch.zeros(2, 4),
        "blocks.9.attn.to_q.lora_B.weight": torch.zeros(4, 2),
    }
    JoVAPipeline.save_lora_weights(tmp_path, transformer_lora_layers=alien)
    with pytest.raises(ValueError, match=r"Target modules .* not found in the base model"):
        pipeline.load_lora_weights(tmp_path)
    assert pipeline.get_list_adapters() == {}
