"""Wan video towers (2.1, 2.2; original or diffusers layout) -> `JoVAWanTransformer3DModel`, audio tower duplicated.

JoVA (arXiv:2512.13677v1), Sec. 3.2.1: the audio branch starts as a copy of the video branch; only its input and output
layers are new. Tables give the names of diffusers' `WanTransformer3DModel`, into which `owned` puts the modality.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusers_jova.conversion import pipeline
from diffusers_jova.conversion.card import WAN, model_card
from diffusers_jova.conversion.checkpoint import Checkpoint, dequantized, open_checkpoint
from diffusers_jova.conversion.components import Component, find_components
from diffusers_jova.conversion.output import (
    Model,
    Options,
    Parameter,
    cast,
    check_fits,
    constant,
    new_folder,
    parameters,
    save_model,
    shape_of,
    unchanged,
    write_single,
)
from diffusers_jova.conversion.pipeline import Family, assemble, negative_prompts
from diffusers_jova.conversion.rules import Rule, inverse, plan, prefixed
from diffusers_jova.conversion.source_config import HEAD_DIM, WAN_BLOCKS, print_lost, released_config
from diffusers_jova.prompt import PROMPT_TEMPLATE


NEW_AUDIO_LAYERS = ("patch_embedding", "proj_out")
INIT_STD = 0.02
INIT_SEED = 0
MASK_CHANNELS = 4  # of a model whose first frame enters on the channel axis

# fmt: off
ATTENTION = (  # Wan                 diffusers
    Rule("q.{p}",                    "to_q.{p}"),
    Rule("k.{p}",                    "to_k.{p}"),
    Rule("v.{p}",                    "to_v.{p}"),
    Rule("o.{p}",                    "to_out.0.{p}"),
    Rule("norm_q.weight",            "norm_q.weight"),
    Rule("norm_k.weight",            "norm_k.weight"),
)
FEED_FORWARD = (
    Rule("norm3.{p}",                "norm2.{p}"),  # the affine norm before text cross-attention
    Rule("ffn.0.{p}",                "ffn.net.0.proj.{p}"),
    Rule("ffn.2.{p}",                "ffn.net.2.{p}"),
)
BLOCK = (
    *prefixed(ATTENTION, "self_attn.", "attn1."),
    *prefixed(ATTENTION, "cross_attn.", "attn2."),
    *FEED_FORWARD,
    Rule("modulation",               "scale_shift_table"),
)
CONDITION = (
    Rule("text_embedding.0.{p}",     "condition_embedder.text_embedder.linear_1.{p}"),
    Rule("text_embedding.2.{p}",     "condition_embedder.text_embedder.linear_2.{p}"),
    Rule("time_embedding.0.{p}",     "condition_embedder.time_embedder.linear_1.{p}"),
    Rule("time_embedding.2.{p}",     "condition_embedder.time_embedder.linear_2.{p}"),
    Rule("time_projection.1.{p}",    "condition_embedder.time_proj.{p}"),
)
HEAD = (
    Rule("head.modulation",          "scale_shift_table"),
    Rule("head.head.{p}",            "proj_out.{p}"),
)
PATCH = (
    Rule("patch_embedding.{p}",      "patch_embedding.{p}"),
)
# fmt: on
TOWER = (*PATCH, *CONDITION, *prefixed(BLOCK, "blocks.{i}.", "blocks.{i}."), *HEAD)
FAMILY = Family(
    title="JoVA from Wan",
    licences=[WAN],
    scheduler="wan",
    prompt_template=PROMPT_TEMPLATE,
    defaults={"guidance_scale": 5.0, **negative_prompts("wan")},
)
IMAGE_FAMILY = replace(FAMILY, config={"fills_image_with_grey": True})
RUN = """
from diffusers_jova import {cls}

transformer = {cls}.from_pretrained("{folder}")
"""


def mask_last(weight: Tensor) -> Tensor:
    """Columns [latents, mask, image] of a patch embedding as [latents, image, mask], ours."""
    num_latents = (weight.shape[1] - MASK_CHANNELS) // 2
    latents, mask, image = weight.split([num_latents, MASK_CHANNELS, num_latents], dim=1)
    return torch.cat([latents, image, mask], dim=1)


def mask_first(weight: Tensor) -> Tensor:
    """Undo `mask_last`."""
    num_latents = (weight.shape[1] - MASK_CHANNELS) // 2
    latents, image, mask = weight.split([num_latents, num_latents, MASK_CHANNELS], dim=1)
    return torch.cat([latents, mask, image], dim=1)


def takes_image(in_channels: int, out_channels: int) -> bool:
    """Whether a first frame enters a model on the channel axis, as in Wan's image-to-video models."""
    return in_channels == 2 * out_channels + MASK_CHANNELS


def video_channels(found: Sequence[Parameter]) -> tuple[int, int]:
    """Channels in and out of the video."""
    _, in_channels, *patch_size = shape_of(found, "video.patch_embedding.weight", 5)
    return in_channels, shape_of(found, "video.proj_out.weight", 2)[0] // math.prod(patch_size)


def reordered(found: Sequence[Parameter], name: str, order: Callable[[Tensor], Tensor]) -> list[Parameter]:
    """Change the order of the columns of one parameter."""

    def in_order(parameter: Parameter) -> Parameter:
        return replace(parameter, make=lambda: order(parameter.make()))

    return [in_order(parameter) if parameter.name == name else parameter for parameter in found]


def is_diffusers_layout(checkpoint: Checkpoint) -> bool:
    """Tell the two published layouts of a Wan tower apart."""
    return any(name.startswith("condition_embedder.") for name in checkpoint)


def tower_rules(diffusers_layout: bool, duplicate: bool) -> list[Rule]:
    """Table of one video tower.

    Args:
        diffusers_layout: Whether the source names are diffusers'.
        duplicate: Whether the audio tower receives a copy of everything but its input and output layers.
    """
    rules = [Rule(rule.target, rule.target) for rule in TOWER] if diffusers_layout else list(TOWER)
    return [
        copied
        for rule in rules
        for copied in owned([rule], *(("video", "audio") if duplicate and is_copied(rule) else ("video",)))
    ]


def owned(rules: Iterable[Rule], *owners: str) -> list[Rule]:
    """Put an owner into the targets of a table, one copy per owner; `shared` serves both modalities."""
    return [
        Rule(rule.source, tuple(owned_name(name, owner) for owner in owners for name in rule.targets), rule.transform)
        for rule in rules
    ]


def owned_name(name: str, owner: str) -> str:
    """Put an owner into a Wan name: behind the part of a block, in front of everything else."""
    if not name.startswith("blocks."):
        return f"{owner}.{name}"
    blocks, index, part, *rest = name.split(".")
    module = [part, owner, *rest] if rest else ["modulation", owner, part]
    return ".".join([blocks, index, *module])


def is_copied(rule: Rule) -> bool:
    """Tell whether the audio tower starts from the video tower's tensor."""
    return not rule.targets[0].startswith(NEW_AUDIO_LAYERS)


def new_audio_layers(dim: int, audio_channels: int, dtype: torch.dtype) -> list[Parameter]:
    """Initialise the input layer (small normal) and the output layer (zero: no sound is predicted at first)."""
    generator = torch.Generator().manual_seed(INIT_SEED)
    weight = INIT_STD * torch.randn(dim, audio_channels, generator=generator)
    tensors = {
        "audio.patch_embedding.weight": weight,
        "audio.patch_embedding.bias": torch.zeros(dim),
        "audio.proj_out.weight": torch.zeros(audio_channels, dim),
        "audio.proj_out.bias": torch.zeros(audio_channels),
    }
    return [constant(name, tensor.to(dtype)) for name, tensor in tensors.items()]


def model_config(found: Sequence[Parameter], head_dim: int = HEAD_DIM) -> dict[str, Any]:
    """Read the constructor arguments that every Wan-style model shares off the shapes of its parameters.

    Args:
        found: Parameters of the model.
        head_dim: Channels of one head, which no shape tells.

    Raises:
        ValueError: One of the parameters from which a size is read is missing or has other dimensions.
    """
    names = {parameter.name for parameter in found}
    dim, _, *patch_size = shape_of(found, "video.patch_embedding.weight", 5)
    in_channels, out_channels = video_channels(found)
    blocks = {name.split(".")[1] for name in names if name.startswith("blocks.")}

    def width(name: str) -> int:
        owner = "video" if owned_name(name, "video") in names else "shared"
        return shape_of(found, owned_name(name, owner), 2)[1]

    return {
        "patch_size": tuple(patch_size),
        "num_attention_heads": dim // head_dim,
        "attention_head_dim": head_dim,
        "rope_axes_dim": rope_axes(head_dim),
        "in_channels": in_channels,
        "out_channels": out_channels,
        "audio_in_channels": shape_of(found, "audio.proj_out.weight", 2)[0],
        "text_dim": width("condition_embedder.text_embedder.linear_1.weight"),
        "freq_dim": width("condition_embedder.time_embedder.linear_1.weight"),
        "ffn_dim": width("blocks.0.ffn.net.2.weight"),
        "num_layers": len(blocks),
    }


def rope_axes(head_dim: int) -> tuple[int, int, int]:
    """Wan's division of the channels of a head among time, height and width."""
    side = 2 * (head_dim // 6)
    return head_dim - 2 * side, side, side


def check_heads(found: Sequence[Parameter], head_dim: int) -> None:
    """Refuse towers that are no whole heads wide; no shape tells their number.

    Args:
        found: Parameters of a transformer.
        head_dim: Channels of one head.
    """
    for name in ("video", "audio"):
        check_width(shape_of(found, f"{name}.proj_out.weight", 2)[1], head_dim)


def check_width(dim: int, head_dim: int) -> None:
    """Refuse a tower of width `dim` that is no whole heads of `head_dim` channels wide."""
    if dim % head_dim:
        raise ValueError(
            f"towers must be whole heads of {head_dim} channels wide, got {dim}; convert a model with heads of "
            f"{HEAD_DIM}, or of MOVA's a folder whose `config.json` files tell its own"
        )


def build(config: Mapping[str, Any]) -> Model:
    """Build the target model on the meta device."""
    from diffusers_jova.transformer_jova_wan import JoVAWanTransformer3DModel

    with torch.device("meta"):
        return JoVAWanTransformer3DModel(**config)


def convert_tower(
    checkpoint: Checkpoint, audio_channels: int = 20, head_dim: int = HEAD_DIM
) -> tuple[dict[str, Any], list[Parameter]]:
    """Return config and parameters of two towers that start from one.

    Args:
        checkpoint: Tensors of the one.
        audio_channels: Channels of the audio latents.
        head_dim: Channels of one head.
    """
    found = parameters(plan(checkpoint, tower_rules(is_diffusers_layout(checkpoint), duplicate=True)), checkpoint)
    dim = shape_of(found, "video.patch_embedding.weight", 5)[0]
    (dtype,) = (parameter.dtype for parameter in found if parameter.name == "video.patch_embedding.weight")
    found += new_audio_layers(dim, audio_channels, dtype)
    if takes_image(*video_channels(found)):
        found = reordered(found, "video.patch_embedding.weight", mask_last)
    return {**model_config(found, head_dim), "audio_embedding": "linear", "temporal_alignment": "time"}, found


def convert(path: Path, output: Path, options: Options) -> None:
    """Convert a Wan checkpoint, or write the video tower of a converted one back into one file."""
    if options.reverse:
        write_single(output, restore_tower(open_checkpoint(path)), options.dtype)
        print_lost(path)
        return
    checkpoint = dequantized(open_checkpoint(path))
    given, head_dim = released_config(path, WAN_BLOCKS, "Wan's releases")
    config, found = convert_tower(checkpoint, options.audio_channels, head_dim)
    done = [
        "The audio tower is a copy of the video tower; its input and output layers are new: train before use.",
    ]
    family = IMAGE_FAMILY if takes_image(*video_channels(found)) else FAMILY
    check_heads(found, HEAD_DIM)  # whose multiples all widths of Wan are, of smaller heads as well
    check_heads(found, head_dim)
    write(output, build(given.complete(config)), found, options, family, done)


def write(
    output: Path,
    model: Model,
    found: Sequence[Parameter],
    options: Options,
    family: Family,
    done: Sequence[str],
    made: Sequence[Component] = (),
) -> None:
    """Check the parameters against a transformer on the meta device and write its folder, or a whole pipeline's.

    Args:
        output: New folder.
        model: The transformer on the meta device.
        found: Its parameters.
        options: About the files.
        family: What the checkpoints of its kind share.
        done: Sentences for the card.
        made: Components of the pipeline that the conversion brings itself.
    """
    found = cast(found, options.dtype, keep=model._keep_in_fp32_modules or ())
    check_fits(found, model)
    if options.components:
        check_skipped_block(model, family)
    components = find_components(options.components, options, made) if options.components else []
    licences = [*family.licences, *(component.licence for component in components)]
    run = (pipeline.RUN if components else RUN).format(folder=output.name, cls=type(model).__name__)
    with new_folder(output) as folder:
        (folder / "README.md").write_text(model_card(family.title, licences, done, run))
        save_model(folder / "transformer" if components else folder, model, found, options)
        if components:
            assemble(folder, type(model).__name__, family, components)


def check_skipped_block(model: Model, family: Family) -> None:
    """Refuse a pipeline that would leave out a block that its transformer does not have, before it is written."""
    skipped, num_blocks = family.config.get("negative_skip_layer"), len(model.blocks)
    if skipped is not None and skipped >= num_blocks:
        raise ValueError(
            f"`SOURCE` must have more than {skipped} blocks for a pipeline, whose predictions without the prompt "
            f"leave out block {skipped} as those of the release do, got {num_blocks}; leave out `--components`"
        )


def restore_tower(checkpoint: Checkpoint) -> list[Parameter]:
    """Return the video tower under Wan's original names; the audio tower is left out."""
    audio = [Rule("audio.{path}", ()), Rule("blocks.{i}.{part}.audio.{path}", ())]
    rules = [*inverse(owned(TOWER, "video")), *audio]
    found = parameters(plan(checkpoint, rules), checkpoint)
    if takes_image(*video_channels(unchanged(checkpoint))):
        found = reordered(found, "patch_embedding.weight", mask_first)
    return found
