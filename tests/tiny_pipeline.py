"""A pipeline of tiny real components with random weights, for tests: real geometry, real code paths, no meaning."""

import string
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan, MMAudioVAE, MMAudioVocoder
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniToken2WavBigVGANModel

from diffusers_jova import (
    FlowMatchAudioVideoScheduler,
    JoVADualTowerTransformer3DModel,
    JoVAPipeline,
    JoVATransformer3DModel,
    JoVAWanTransformer3DModel,
)
from diffusers_jova.conversion.spoken_characters import character_tokenizer
from diffusers_jova.log_mel import JoVALogMel
from diffusers_jova.spoken_text_encoder import JoVASpokenTextEncoder


DEFAULTS = {
    "height": 32,
    "width": 32,
    "num_frames": 9,
    "frame_rate": 16.0,
    "num_inference_steps": 2,
    "guidance_scale": 3.0,
    "max_sequence_length": 64,
}
TRANSFORMER_CONFIG = {
    "in_channels": 36,
    "out_channels": 16,
    "audio_in_channels": 4,
    "num_layers": 1,
    "num_single_layers": 1,
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "rope_axes_dim": (4, 4, 4),
    "text_dim": 16,
    "text_dim_2": None,
    "position_table_sizes": (16, 16, 16),
    "audio_position_table_size": 128,
}
WAN_TRANSFORMER_CONFIG = {
    "in_channels": 16,
    "out_channels": 16,
    "audio_in_channels": 4,
    "num_layers": 2,
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "ffn_dim": 32,
    "rope_axes_dim": (4, 4, 4),
    "text_dim": 16,
    "freq_dim": 32,
}
DUAL_TOWER_CONFIG = {
    "in_channels": 16,
    "out_channels": 16,
    "audio_in_channels": 4,
    "num_layers": 2,
    "audio_num_layers": 2,
    "attention_head_dim": 12,
    "ffn_dim": 32,
    "audio_ffn_dim": 24,
    "rope_axes_dim": (4, 4, 4),
    "audio_rope_axes_dim": (12, 0, 0),
    "text_dim": 16,
    "audio_text_dim": 16,
    "freq_dim": 32,
}
DUAL_TOWERS: dict[str, dict[str, object]] = {  # by fusion
    "bridge": {"fusion": "bridge", "num_layers": 3},  # the last block has no audio
    "aligned": {
        "fusion": "aligned",
        "fusion_layers": (0,),
        "audio_embedding": "mlp",
        "audio_text_embedding": "linear",
        "audio_text_rotates": True,
    },
    "text_cross": {"fusion": "text_cross", "audio_rope_axes_dim": (4, 4, 4), "temporal_alignment": 0.19676},
}
NAVA_SHARING = {
    "audio_embedding": "conv",
    "shared_layers": (1,),
    "shared_parts": ("condition_embedder", "feed_forward"),
    "speaker_dim": 5,
    "temporal_alignment": 0.24,
}
WAN_VAES = {  # of both releases of Wan: the second shortcuts its blocks and patches its pixels
    "plain": {"base_dim": 4, "z_dim": 4, "num_res_blocks": 1},
    "residual": {
        "base_dim": 8, "decoder_base_dim": 12, "z_dim": 4, "num_res_blocks": 1, "dim_mult": [1, 2, 2], "patch_size": 2,
        "temperal_downsample": [True, True], "in_channels": 12, "out_channels": 12, "is_residual": True,
    },
}  # fmt: skip


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Character-level tokenizer of printable ASCII."""
    vocabulary = {token: index for index, token in enumerate(["<pad>", "</s>", "<unk>", *string.printable[:95]])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=128
    )


def build_text_encoder() -> UMT5EncoderModel:
    torch.manual_seed(0)
    config = UMT5Config(
        vocab_size=128, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, feed_forward_proj="gated-gelu"
    )
    return UMT5EncoderModel(config).eval()


def build_transformer(**overrides: object) -> JoVATransformer3DModel:
    """Transformer without zero-initialised gates, so that every input moves the output."""
    torch.manual_seed(0)
    transformer = JoVATransformer3DModel(**{**TRANSFORMER_CONFIG, **overrides})
    with torch.no_grad():
        for name, parameter in transformer.named_parameters():
            if not parameter.any() or "modulation" in name:
                parameter.normal_(std=0.2)
    return transformer.eval()


def build_wan_transformer(**overrides: object) -> JoVAWanTransformer3DModel:
    """Two towers, or with `NAVA_SHARING` one twin and one shared block; no zero-initialised head."""
    torch.manual_seed(0)
    transformer = JoVAWanTransformer3DModel(**{**WAN_TRANSFORMER_CONFIG, **overrides})
    with torch.no_grad():
        for parameter in transformer.parameters():
            if not parameter.any():
                parameter.normal_(std=0.2)
    return transformer.eval()


def build_dual_tower(
    fusion: str = "bridge", num_attention_heads: int = 2, **overrides: object
) -> JoVADualTowerTransformer3DModel:
    """Two towers of different widths; video has twice the heads."""
    torch.manual_seed(0)
    heads = {"num_attention_heads": 2 * num_attention_heads, "audio_num_attention_heads": num_attention_heads}
    config = {**DUAL_TOWER_CONFIG, **heads, **DUAL_TOWERS[fusion], **overrides}
    transformer = JoVADualTowerTransformer3DModel(**config)
    with torch.no_grad():
        for parameter in transformer.parameters():
            if not parameter.any():
                parameter.normal_(std=0.05)
    return transformer.eval()


def build_vae() -> AutoencoderKLWan:
    torch.manual_seed(0)
    return AutoencoderKLWan(
        base_dim=4, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    ).eval()


def build_audio_vae() -> MMAudioVAE:
    torch.manual_seed(0)
    return MMAudioVAE(
        mel_bins=8,
        latent_channels=4,
        hidden_channels=8,
        sample_rate=16000,
        n_fft=1024,
        hop_length=256,
        scaling_factor=1.0,
    ).eval()


def build_vocoder() -> MMAudioVocoder:
    torch.manual_seed(0)
    return MMAudioVocoder(
        num_mels=8,
        upsample_initial_channel=16,
        upsample_rates=(8, 8, 4),
        upsample_kernel_sizes=(16, 16, 8),
        resblock_kernel_sizes=(3,),
        resblock_dilation_sizes=((1, 3, 5),),
    ).eval()


def build_tiny_pipeline(**overrides: object) -> JoVAPipeline:
    """All components; `overrides` replace components or config values."""
    parts = {
        "tokenizer": build_tokenizer(),
        "text_encoder": build_text_encoder(),
        "transformer": build_transformer(),
        "vae": build_vae(),
        "audio_vae": build_audio_vae(),
        "vocoder": build_vocoder(),
        "scheduler": FlowMatchAudioVideoScheduler(),
        "defaults": DEFAULTS,
    }
    pipeline = JoVAPipeline(**{**parts, **overrides})
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def build_spoken_pipeline(**overrides: object) -> JoVAPipeline:
    """What a converted UniAVGen consists of: its sound reads characters of letters and four signs."""
    torch.manual_seed(0)
    characters = [" ", *string.ascii_letters, *".,!'"]
    encoder = JoVASpokenTextEncoder(vocab_size=len(characters), dim=8, hidden_dim=16, num_layers=1)
    vocoder = Qwen2_5OmniToken2WavBigVGANModel.config_class(mel_dim=8, upsample_initial_channel=64)
    with torch.no_grad():
        for parameter in encoder.parameters():
            if not parameter.any():
                parameter.normal_(std=0.2)
    parts = {
        "transformer": build_dual_tower("aligned", audio_in_channels=8, audio_text_dim=8),
        "audio_vae": JoVALogMel(mel_bins=8),
        "vocoder": Qwen2_5OmniToken2WavBigVGANModel(vocoder).eval(),
        "spoken_tokenizer": character_tokenizer(characters),
        "spoken_text_encoder": encoder.eval(),
        "prompt_template": "{video}",
        "one_way_coupling": True,
        "needs_image": True,
        "max_reference_s": 5.0,
    }
    return build_tiny_pipeline(**{**parts, **overrides})


ONE_OF_EACH_CLASS = ("jova", "nava", "bridge")
TRANSFORMERS: dict[str, Callable[..., Any]] = {  # of each class, and of each fusion of two towers
    "jova": build_transformer,
    "wan": build_wan_transformer,
    "nava": partial(build_wan_transformer, **NAVA_SHARING),
    **{name: partial(build_dual_tower, name) for name in DUAL_TOWERS},
}


def one_of_each_class(names: Iterable[str], *others: str) -> list[Any]:
    """Parameters of a test that takes most kinds of transformers the way of one of their class; those are slow.

    Args:
        names: Of all kinds.
        others: Kinds that take a way of their own.
    """
    kept = (*ONE_OF_EACH_CLASS, *others)
    return [name if name in kept else pytest.param(name, marks=pytest.mark.slow) for name in names]
