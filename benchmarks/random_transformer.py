"""Transformers of the sizes in `model_cards/` with random weights, made where they compute, and clips for them.

Letters in shapes: B batch, C channels, F latent frames, H, W latent height and width, L audio latents, S text tokens.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

import diffusers_jova
from diffusers_jova.training.loop.lora import cast_weights


CARDS = Path(__file__).parents[1] / "model_cards"


class Clip(NamedTuple):
    """Lengths of what a transformer reads of one clip.

    Args:
        video: Latent frames, height and width.
        audio: Audio latents.
        text: Tokens per text encoder.
        frame_rate: Frames per second.
    """

    video: tuple[int, int, int]
    audio: int
    text: int
    frame_rate: float


class Preset(NamedTuple):
    """A transformer and clips of about five seconds in the sizes that it is used for.

    Args:
        config: Constructor arguments, with the name of the class.
        clips: By name.
    """

    config: dict[str, Any]
    clips: dict[str, Clip]

    def of_depth_one(self) -> dict[str, Any]:
        """Constructor arguments of the same width with one block of each kind."""
        depths = ("num_layers", "num_single_layers")
        return {name: 1 if name in depths else value for name, value in self.config.items()}


# 8 x 8 pixels and 4 frames per latent, 480 x 832 and 720 x 1280 pixels, 81 frames; two text encoders
JOVA_CLIPS = {"480p": Clip((21, 60, 104), 158, 256, 16.0), "720p": Clip((21, 90, 160), 158, 256, 16.0)}
# 16 x 16 pixels and 4 frames per latent, 480 x 832 and 704 x 1280 pixels, 121 frames; one text encoder, padded
WAN_CLIPS = {"480p": Clip((31, 30, 52), 158, 512, 24.0), "720p": Clip((31, 44, 80), 158, 512, 24.0)}
TOY = {"num_attention_heads": 2, "attention_head_dim": 12, "rope_axes_dim": (4, 4, 4), "text_dim": 16}
TOY_CLIPS = {"toy": Clip((3, 4, 4), 8, 6, 16.0)}


def presets(is_toy: bool) -> dict[str, Preset]:
    """The papers' sizes and Wan2.2-TI2V-5B with Ovi's audio tower, or a few thousand weights of each class."""
    if is_toy:
        jova = TOY | {
            "_class_name": "JoVATransformer3DModel",
            "num_layers": 1,
            "num_single_layers": 2,
            "text_dim_2": None,
        }
        wan = TOY | {"_class_name": "JoVAWanTransformer3DModel", "num_layers": 2, "ffn_dim": 32, "freq_dim": 32}
        return {
            "12B x 2": Preset(jova, TOY_CLIPS),
            "5B x 2": Preset(wan, TOY_CLIPS),
            "1.6B x 2": Preset(jova, TOY_CLIPS),
        }
    return {
        "12B x 2": Preset(card_config("jova-12b"), JOVA_CLIPS),
        "5B x 2": Preset(card_config("wan-ovi"), WAN_CLIPS),
        "1.6B x 2": Preset(card_config("jova-1.6b"), JOVA_CLIPS),
    }


def card_config(card: str) -> dict[str, Any]:
    """Constructor arguments of the transformer of a model card."""
    values: dict[str, Any] = json.loads((CARDS / card / "transformer" / "config.json").read_text())
    return values


@torch.no_grad()
def random_transformer(config: dict[str, Any], device: str, dtype: torch.dtype) -> Any:
    """Build a transformer on its device, in the number formats that `from_pretrained` gives it; no weight is zero.

    Rows stay near unit size: matrices have a deviation of one over the root of their inputs.
    """
    with torch.device("meta"):
        transformer = getattr(diffusers_jova, config["_class_name"]).from_config(config)
    cast_weights(transformer, dtype)
    assert not list(transformer.buffers())
    transformer.to_empty(device=device)
    for name, weight in transformer.named_parameters():
        if weight.ndim > 1:
            nn.init.normal_(weight, std=weight.shape[-1] ** -0.5 if weight.ndim == 2 else weight[0].numel() ** -0.5)
        else:
            nn.init.constant_(weight, 1.0 if name.endswith("weight") else 0.0)
    return transformer.eval()


def random_inputs(transformer: Any, clip: Clip, batch_size: int, device: str, dtype: torch.dtype) -> dict[str, Any]:
    """Arguments of the transformer's forward for `batch_size` clips, coupled and without padding."""
    config = transformer.config

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(batch_size, *shape, device=device, dtype=dtype)

    has_second_text = config.get("text_dim_2") is not None
    return {
        "hidden_states": noise(config.in_channels, *clip.video),
        "audio_hidden_states": noise(clip.audio, config.audio_in_channels),
        "encoder_hidden_states": noise(clip.text, config.text_dim),
        "encoder_hidden_states_2": noise(clip.text, config.text_dim_2) if has_second_text else None,
        "timestep": torch.full((batch_size,), 500.0, device=device),
        "frame_rate": clip.frame_rate,
        "audio_latent_rate_hz": 31.25,
        "return_dict": False,
    }
