"""UniAVGen -> `JoVADualTowerTransformer3DModel`; the encoder of its spoken text is in the same file.

All tensors are renamed. `audio_padding` serves batches of unequal length, which the released code does not support
elsewhere, and is left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from diffusers_jova.conversion.card import UNIAVGEN, WAN, model_card
from diffusers_jova.conversion.checkpoint import Checkpoint, open_checkpoint
from diffusers_jova.conversion.dual_tower import build, tower_config
from diffusers_jova.conversion.output import (
    Options,
    Parameter,
    cast,
    check_fits,
    new_folder,
    parameters,
    save_model,
    shape_of,
)
from diffusers_jova.conversion.rules import Rule, plan, prefixed
from diffusers_jova.conversion.wan import ATTENTION, BLOCK, HEAD, HEAD_DIM, PATCH, owned


FUSION_INTERVAL = 2  # blocks from one with a fusion to the next
TEXT_ENCODER = "text_embedding."
RUN = """
from diffusers_jova import JoVADualTowerTransformer3DModel
from diffusers_jova.spoken_text_encoder import JoVASpokenTextEncoder

transformer = JoVADualTowerTransformer3DModel.from_pretrained("{folder}", subfolder="transformer")
spoken_text_encoder = JoVASpokenTextEncoder.from_pretrained("{folder}", subfolder="spoken_text_encoder")
"""

# fmt: off
VIDEO_CONDITION = (  # UniAVGen               diffusers
    Rule("text_embedding_video.0.{p}",        "condition_embedder.text_embedder.linear_1.{p}"),
    Rule("text_embedding_video.2.{p}",        "condition_embedder.text_embedder.linear_2.{p}"),
    Rule("time_embedding.0.{p}",              "condition_embedder.time_embedder.linear_1.{p}"),
    Rule("time_embedding.2.{p}",              "condition_embedder.time_embedder.linear_2.{p}"),
    Rule("time_projection.1.{p}",             "condition_embedder.time_proj.{p}"),
)
AUDIO_ENDS = (
    Rule("audio_embedding.0.{p}",             "patch_embedding.0.{p}"),
    Rule("audio_embedding.2.{p}",             "patch_embedding.2.{p}"),
    Rule("text_proj.weight",                  "condition_embedder.text_embedder.weight"),
    Rule("time_embedding_audio.0.{p}",        "condition_embedder.time_embedder.linear_1.{p}"),
    Rule("time_embedding_audio.2.{p}",        "condition_embedder.time_embedder.linear_2.{p}"),
    Rule("time_projection_audio.1.{p}",       "condition_embedder.time_proj.{p}"),
    Rule("head_audio.modulation",             "scale_shift_table"),
    Rule("head_audio.head.{p}",               "proj_out.{p}"),
)
MASK_HEAD = (
    Rule("modulation",                        "scale_shift_table"),
    Rule("head.{p}",                          "proj_out.{p}"),
)
SPOKEN_TEXT = (  # UniAVGen                   JoVASpokenTextEncoder
    Rule("text_embed.weight",                 "embedding.weight"),
    Rule("text_blocks.{i}.dwconv.{p}",        "blocks.{i}.conv.{p}"),
    Rule("text_blocks.{i}.norm.{p}",          "blocks.{i}.norm.{p}"),
    Rule("text_blocks.{i}.pwconv1.{p}",       "blocks.{i}.linear_1.{p}"),
    Rule("text_blocks.{i}.grn.{p}",           "blocks.{i}.response_norm.{p}"),
    Rule("text_blocks.{i}.pwconv2.{p}",       "blocks.{i}.linear_2.{p}"),
)
# fmt: on


def rules(num_fusions: int) -> list[Rule]:
    """Table of the transformer with so many fusions."""
    table = owned([*PATCH, *VIDEO_CONDITION, *HEAD], "video") + owned(AUDIO_ENDS, "audio")
    table += owned(prefixed(BLOCK, "blocks.{i}.", "blocks.{i}."), "video")
    table += owned(prefixed(BLOCK, "audio_blocks.{i}.", "blocks.{i}."), "audio")
    for index in range(num_fusions):
        target = f"blocks.{FUSION_INTERVAL * index}.fusion."
        table += prefixed(ATTENTION, f"a2v_blocks.{index}.", f"{target}video.")
        table += prefixed(ATTENTION, f"v2a_blocks.{index}.", f"{target}audio.")
        table += prefixed(MASK_HEAD, f"a2v_blocks.{index}.mask_head.", f"{target}mask_head.")
    return [*table, Rule("audio_padding", ())]


def convert_transformer(checkpoint: Checkpoint, head_dim: int = HEAD_DIM) -> tuple[dict[str, Any], list[Parameter]]:
    """Return config and parameters of the transformer.

    Args:
        checkpoint: Tensors of the released file; those of the encoder of spoken text are passed over.
        head_dim: Channels of one head.
    """
    checkpoint = {name: source for name, source in checkpoint.items() if not name.startswith(TEXT_ENCODER)}
    num_fusions = len({name.split(".")[1] for name in checkpoint if name.startswith("a2v_blocks.")})
    found = parameters(plan(checkpoint, rules(num_fusions)), checkpoint)
    return {
        **tower_config(found, head_dim),
        "audio_text_dim": shape_of(found, "audio.condition_embedder.text_embedder.weight", 2)[1],
        "audio_embedding": "mlp",
        "audio_text_embedding": "linear",
        "audio_text_rotates": True,
        "audio_rope_axes_dim": (head_dim, 0, 0),
        "temporal_alignment": "none",
        "fusion": "aligned",
        "fusion_layers": [FUSION_INTERVAL * index for index in range(num_fusions)],
    }, found


def convert_text_encoder(checkpoint: Checkpoint) -> tuple[dict[str, Any], list[Parameter]]:
    """Return config and parameters of the encoder of spoken text; those of the transformer are passed over."""
    checkpoint = {
        name.removeprefix(TEXT_ENCODER): source for name, source in checkpoint.items() if name.startswith(TEXT_ENCODER)
    }
    found = parameters(plan(checkpoint, SPOKEN_TEXT), checkpoint)
    vocabulary, dim = shape_of(found, "embedding.weight", 2)
    config = {
        "vocab_size": vocabulary - 1,  # behind the filler
        "dim": dim,
        "hidden_dim": shape_of(found, "blocks.0.linear_1.weight", 2)[0],
        "num_layers": len({one.name.split(".")[1] for one in found if one.name.startswith("blocks.")}),
    }
    return config, found


def convert(path: Path, output: Path, options: Options) -> None:
    """Convert a released file or folder of shards into the sub-folders `transformer` and `spoken_text_encoder`.

    Raises:
        ValueError: The tensors are not UniAVGen's.
    """
    from diffusers_jova.spoken_text_encoder import JoVASpokenTextEncoder

    checkpoint = open_checkpoint(path)
    if not any(name.startswith("a2v_blocks.") for name in checkpoint):
        raise ValueError(
            f"`SOURCE` must be UniAVGen's transformer, with `a2v_blocks` between its towers, got `{path}` without; "
            "name the folder of its `diffusion_pytorch_model` shards"
        )
    config, found = convert_transformer(checkpoint)
    encoder_config, encoder_found = convert_text_encoder(checkpoint)
    with torch.device("meta"):
        encoder = JoVASpokenTextEncoder(**encoder_config)
    parts = {"transformer": (build(config), found), "spoken_text_encoder": (encoder, encoder_found)}
    stored = {}
    for name, (model, tensors) in parts.items():
        stored[name] = cast(tensors, options.dtype, keep=model._keep_in_fp32_modules or ())
        check_fits(stored[name], model)
    done = [
        "`audio_padding`, which no other line of the released code supports, is left out.",
        "No pipeline: its text encoder, video VAE and vocoder are not in this folder.",
    ]
    run = RUN.format(folder=output.name)
    with new_folder(output) as folder:
        (folder / "README.md").write_text(model_card("UniAVGen for diffusers_jova", [UNIAVGEN, WAN], done, run))
        for name, (model, _) in parts.items():
            save_model(folder / name, model, stored[name], options)
