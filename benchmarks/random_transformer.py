"""Transformers of the sizes in `model_cards/` with random weights, made where they compute, and clips for them.

Letters in shapes: B batch, C channels, F latent frames, H, W latent height and width, L audio latents, S text tokens.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

import diffusers_jova
from diffusers_jova.number_formats import cast_weights


CARDS = Path(__file__).parents[1] / "model_cards"


class Clip(NamedTuple):
    """Lengths of what a transformer reads of one clip.

    Args:
        video: Latent frames, height and width.
        audio: Audio latents.
        text: Tokens per text encoder.
        frame_rate: Frames per second.
        audio_latent_rate_hz: Audio latents per second.
    """

    video: tuple[int, int, int]
    audio: int
    text: int
    frame_rate: float
    audio_latent_rate_hz: float = 31.25


class Preset(NamedTuple):
    """A transformer and clips of five to eight seconds in the sizes that it is used for.

    Args:
        config: Constructor arguments, with the name of the class.
        clips: By name.
    """

    config: dict[str, Any]
    clips: dict[str, Clip]

    def of_depth_one(self) -> dict[str, Any]:
        """Constructor arguments of the same width with one block of each kind, that of two towers with a fusion."""
        depths = ("num_layers", "audio_num_layers", "num_single_layers")
        config = {name: 1 if name in depths else value for name, value in self.config.items()}
        return config | ({"fusion_layers": None} if "fusion" in config else {})


# 8 x 8 pixels and 4 frames per latent, 480 x 832 and 720 x 1280 pixels, 81 frames; two text encoders
JOVA_CLIPS = {"480p": Clip((21, 60, 104), 158, 256, 16.0), "720p": Clip((21, 90, 160), 158, 256, 16.0)}
# 16 x 16 pixels and 4 frames per latent, 480 x 832 and 704 x 1280 pixels, 121 frames; one text encoder, padded
WAN_CLIPS = {"480p": Clip((31, 30, 52), 158, 512, 24.0), "720p": Clip((31, 44, 80), 158, 512, 24.0)}
# MOVA at 352 x 640 pixels, 193 frames; UniAVGen at 736 x 1280 of 16 x 16 pixels per latent, 81 frames
MOVA_CLIPS = {"360p": Clip((49, 44, 80), 403, 512, 24.0, 50.0)}
UNIAVGEN_CLIPS = {"736p": Clip((21, 46, 80), 506, 512, 16.0, 100.0)}
TOY = {"num_attention_heads": 2, "attention_head_dim": 12, "rope_axes_dim": (4, 4, 4), "text_dim": 16}
TWO_TOWERS = "JoVADualTowerTransformer3DModel"
EVERY_TOWER = set(inspect.signature(diffusers_jova.JoVADualTowerTransformer3DModel.__init__).parameters)
TOY_CLIPS = {"toy": Clip((3, 4, 4), 8, 6, 16.0)}


def presets(is_toy: bool) -> dict[str, Preset]:
    """The papers' sizes and those of open weights, or a few thousand weights of each class and fusion."""
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
            "Ovi": Preset(with_fusion(wan), TOY_CLIPS),
            "UniAVGen": Preset(toy_towers("uniavgen"), TOY_CLIPS),
            "MOVA": Preset(toy_towers("mova-360p"), TOY_CLIPS),
        }
    return {
        "12B x 2": Preset(card_config("jova-12b"), JOVA_CLIPS),
        "5B x 2": Preset(card_config("wan-ovi"), WAN_CLIPS),
        "1.6B x 2": Preset(card_config("jova-1.6b"), JOVA_CLIPS),
        "Ovi": Preset(with_fusion(card_config("wan-ovi")), WAN_CLIPS),
        "UniAVGen": Preset(card_config("uniavgen"), UNIAVGEN_CLIPS),
        "MOVA": Preset(card_config("mova-360p"), MOVA_CLIPS),
    }


def with_fusion(config: dict[str, Any]) -> dict[str, Any]:
    """Constructor arguments of Ovi, from those of its towers alone, which are alike."""
    alike = ("num_layers", "num_attention_heads", "ffn_dim", "rope_axes_dim", "text_dim")
    shared = {name: value for name, value in config.items() if name in EVERY_TOWER}
    audio = {f"audio_{name}": config[name] for name in alike}
    return shared | audio | {"_class_name": TWO_TOWERS, "fusion": "text_cross"}


def toy_towers(card: str) -> dict[str, Any]:
    """A few thousand weights of a model of two towers, coupled as that of a card; audio has one head."""
    config = card_config(card)
    small = TOY | {"num_layers": 2, "audio_num_layers": 2, "audio_num_attention_heads": 1, "ffn_dim": 32}
    small |= {"audio_ffn_dim": 24, "freq_dim": 32, "audio_text_dim": 8 if config["audio_text_dim"] == 512 else 16}
    small |= {"audio_rope_axes_dim": (12, 0, 0), "fusion_layers": None if config["fusion_layers"] is None else [0]}
    return config | small


def card_config(card: str) -> dict[str, Any]:
    """Constructor arguments of the transformer of a model card."""
    values: dict[str, Any] = json.loads((CARDS / card / "transformer" / "config.json").read_text())
    return values


@torch.no_grad()
def random_transformer(config: dict[str, Any], device: str, dtype: torch.dtype) -> Any:
    """Build a transformer on its device, in the number formats that `from_pretrained` gives it; no weight is zero.

    On "meta" there are no numbers to draw.
    """
    with torch.device("meta"):
        transformer = getattr(diffusers_jova, config["_class_name"]).from_config(config)
    cast_weights(transformer, dtype)
    assert not list(transformer.buffers())
    transformer.to_empty(device=device)
    if device != "meta":
        fill_weights(transformer)
    return transformer.eval()


@torch.no_grad()
def fill_weights(model: nn.Module) -> None:
    """Draw weights that keep rows near unit size: matrices deviate by one over the root of their inputs."""
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            nn.init.normal_(weight, std=weight.shape[-1] ** -0.5 if weight.ndim == 2 else weight[0].numel() ** -0.5)
        else:
            nn.init.constant_(weight, 1.0 if name.endswith("weight") else 0.0)


def random_inputs(transformer: Any, clip: Clip, batch_size: int, device: str, dtype: torch.dtype) -> dict[str, Any]:
    """Arguments of the transformer's forward for `batch_size` clips, coupled and without padding."""
    config = transformer.config

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(batch_size, *shape, device=device, dtype=dtype)

    has_second_text = config.get("text_dim_2") is not None
    has_own_text = config.get("audio_text_dim", config.text_dim) != config.text_dim
    return {
        "hidden_states": noise(config.in_channels, *clip.video),
        "audio_hidden_states": noise(clip.audio, config.audio_in_channels),
        "encoder_hidden_states": noise(clip.text, config.text_dim),
        "encoder_hidden_states_2": noise(clip.text, config.text_dim_2) if has_second_text else None,
        "audio_encoder_hidden_states": noise(clip.text, config.audio_text_dim) if has_own_text else None,
        "timestep": torch.full((batch_size,), 500.0, device=device),
        "frame_rate": clip.frame_rate,
        "audio_latent_rate_hz": clip.audio_latent_rate_hz,
        "return_dict": False,
    }
