"""MOVA -> `JoVADualTowerTransformer3DModel`: video towers of one expert or both, the audio tower and the bridge.

Both experts become one transformer that chooses between them by the timestep of the video: audio tower and bridge,
4.1 B parameters, then lie once in memory and on disk, an adapter names the tower that it changes, and one optimiser
trains all. What a step does not need stays on the CPU with `enable_group_offload(offload_type="leaf_level")`.

Two things change besides names. The bridge rotates the halves of a head, (i, i + K / 2), where this package rotates
pairs, (2 i, 2 i + 1): the rows of its queries and keys are put in that order. The video condition is [mask, image] in
MOVA and [image, mask] here: the columns of the patch embedding are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from diffusers_jova.adapter_keys import MOVA_BRIDGE, MOVA_BRIDGE_FOLDER, MOVA_EXPERTS, MOVA_TOWERS
from diffusers_jova.conversion.card import MOVA, WAN
from diffusers_jova.conversion.checkpoint import Checkpoint, open_checkpoint, open_shards
from diffusers_jova.conversion.dual_tower import build, tower_config
from diffusers_jova.conversion.output import Options, Parameter, cast, new_folder, parameters, write_weights
from diffusers_jova.conversion.pipeline import Family, guidance_defaults, negative_prompts
from diffusers_jova.conversion.rules import Rule, keep, listed, plan, prefixed
from diffusers_jova.conversion.source_config import HEAD_DIM, read_beside
from diffusers_jova.conversion.wan import (
    ATTENTION,
    BLOCK,
    CONDITION,
    HEAD,
    MASK_CHANNELS,
    check_heads,
    check_width,
    mask_first,
    mask_last,
    owned,
    takes_image,
    write,
)
from diffusers_jova.number_arguments import whole_number
from diffusers_jova.temporal_rope import paired_rows
from jova_cli.json_text import read_object


BOUNDARY = 0.9  # sigma of the video at which they change
ROTATED = ("q.{p}", "k.{p}", "norm_q.weight", "norm_k.weight")
FOLDERS = (*MOVA_TOWERS, MOVA_BRIDGE_FOLDER)
TOWER_SIZES = ("num_attention_heads", "ffn_dim", "num_layers")
FIXED = {  # of their configs, what no shape tells and this transformer does in one way
    "eps": (1e-6,),
    "vae_type": ("dac",),  # audio rows rotate by one axis
    "audio_fps": (50.0,),
    "apply_cross_rope": (True,),
    "apply_first_frame_bias_in_rope": (False,),
}
FAMILY = Family(
    title="MOVA for diffusers_jova",
    licences=[MOVA, WAN],
    scheduler="mova",
    prompt_template='{video}\n{audio}\n"{transcript}"',  # prose, what is said in straight quotes
    defaults={
        "height": 352,
        "width": 640,
        "num_frames": 193,
        "frame_rate": 24.0,
        "num_inference_steps": 50,
        **guidance_defaults("mova"),
        **negative_prompts("mova"),
    },
    config={"fills_image_with_grey": True, "starts_white": True},
)


def row_weight(weight: Tensor) -> Tensor:
    """Kernel [D, C, 1] of a convolution over single latents as the weight of a linear layer."""
    return weight.squeeze(2)


def paired(rows: Tensor, head_dim: int) -> Tensor:
    """Rows [H * K, ...] of heads of two halves as pairs; see `paired_rows`."""
    check_width(rows.shape[0], head_dim)
    return paired_rows(rows, head_dim)


def halved(rows: Tensor, head_dim: int) -> Tensor:
    """Undo `paired`."""
    return rows.unflatten(0, (-1, head_dim // 2, 2)).transpose(1, 2).flatten(0, 2)


def rules(experts: Mapping[str, str], head_dim: int) -> list[Rule]:
    """Table of the release, whose folders stand in front of its names; experts by folder, with their owner."""
    block = prefixed(BLOCK, "blocks.{i}.", "blocks.{i}.")
    video = [Rule("patch_embedding.weight", "patch_embedding.weight", mask_last)]
    audio = [Rule("patch_embedding.weight", "patch_embedding.weight", row_weight)]
    common = [Rule("patch_embedding.bias", "patch_embedding.bias"), *CONDITION, *block, *HEAD]
    bridge = [
        Rule(rule.source, rule.target, partial(paired, head_dim=head_dim)) if rule.source in ROTATED else rule
        for rule in ATTENTION
    ]
    table = prefixed(owned([*audio, *common], "audio"), "audio_dit.", "")
    for folder, owner in experts.items():
        table += prefixed(owned([*video, *common], owner), f"{folder}.", "")
    for conditioners, owner in MOVA_BRIDGE.items():
        source, target = f"{MOVA_BRIDGE_FOLDER}.{conditioners}.{{i}}.", f"blocks.{{i}}.fusion.{owner}."
        table += [
            *prefixed(bridge, f"{source}inner.", target),
            Rule(f"{source}y_norm.{{p}}", f"{target}norm_kv.{{p}}"),
        ]
    return table


def convert_transformer(
    checkpoint: Checkpoint, expert: str | None = None, head_dim: int = HEAD_DIM
) -> tuple[dict[str, Any], list[Parameter]]:
    """Return config and parameters of one expert or both with the audio tower and the bridge.

    Args:
        checkpoint: Tensors of the release's folders under `<folder>.<name>`; another expert's are passed over.
        expert: Folder of the only video tower; None takes those that there are.
        head_dim: Channels of one head.
    """
    folders = {name.split(".")[0] for name in checkpoint}
    taken = [folder for folder in MOVA_EXPERTS if folder in folders and expert in (None, folder)]
    others = tuple(f"{folder}." for folder in MOVA_EXPERTS if expert not in (None, folder))
    checkpoint = {name: source for name, source in checkpoint.items() if not name.startswith(others)}
    experts = {folder: MOVA_EXPERTS[folder] for folder in taken} if len(taken) > 1 else dict.fromkeys(taken, "video")
    found = parameters(plan(checkpoint, rules(experts, head_dim)), checkpoint)
    config = tower_config(found, head_dim)
    if not takes_image(config["in_channels"], config["out_channels"]):
        num_channels = 2 * config["out_channels"] + MASK_CHANNELS
        raise ValueError(
            f"`patch_embedding.weight` of the video must take latents, mask and image, {num_channels} channels, got "
            f"{config['in_channels']}; use MOVA's own towers"
        )
    fused = {int(one.name.split(".")[1]) for one in found if ".fusion.video.to_q.weight" in one.name}
    is_full = len(fused) == min(config["num_layers"], config["audio_num_layers"])
    return {
        **config,
        "audio_text_dim": config["text_dim"],
        "audio_rope_axes_dim": (head_dim, 0, 0),
        "temporal_alignment": "none",
        "fusion": "bridge",
        "fusion_layers": None if is_full else sorted(fused),
        "boundary": BOUNDARY if len(experts) > 1 else None,
    }, found


def restore_transformer(checkpoint: Checkpoint, head_dim: int = HEAD_DIM) -> dict[str, list[Parameter]]:
    """Return the parameters of each folder of the release under MOVA's own names.

    Args:
        checkpoint: Tensors of a converted transformer; one of a single video tower becomes `video_dit`.
        head_dim: Channels of one head.
    """
    owners = {part for name in checkpoint for part in name.split(".")}
    experts = {folder: owner for folder, owner in MOVA_EXPERTS.items() if owner in owners}
    back = {mask_last: mask_first, row_weight: lambda weight: weight.unsqueeze(2), keep: keep}
    table = []
    for rule in rules(experts, head_dim):
        is_of_bridge = isinstance(rule.transform, partial)
        transform = partial(halved, head_dim=head_dim) if is_of_bridge else back[rule.transform]
        table.append(Rule(rule.targets[0], rule.source, transform))
    found: dict[str, list[Parameter]] = {}
    for parameter in parameters(plan(checkpoint, table), checkpoint):
        folder, _, name = parameter.name.partition(".")
        found.setdefault(folder, []).append(replace(parameter, name=name))
    return found


def write_back(path: Path, output: Path, options: Options) -> None:
    """Write the folders of the release, without their configs, from a converted transformer or pipeline."""
    config = path / ("transformer" if (path / "transformer").is_dir() else "") / "config.json"
    head_dim = read_object(config).get("attention_head_dim", HEAD_DIM) if config.is_file() else HEAD_DIM
    found = restore_transformer(open_checkpoint(path), whole_number(f"attention_head_dim in {config}", head_dim, 1))
    with new_folder(output) as folder:
        for name, part in found.items():
            (folder / name).mkdir()
            write_weights(folder / name, cast(part, options.dtype), options.shard_gb)
    print("put the `config.json` of the release beside the weights of each folder")


def open_release(folder: Path) -> Checkpoint:
    """List the tensors of the release's transformers, with their folders in front of their names.

    Raises:
        ValueError: One of the folders is missing.
    """
    if missing := [name for name in FOLDERS if not (folder / name).is_dir()]:
        raise ValueError(
            f"`SOURCE` must be a folder of MOVA's release, with {listed(FOLDERS)} in it, got no {listed(missing)} in "
            f"`{folder}`; download what is missing, or name the folder above it"
        )
    return {f"{name}.{key}": source for name in FOLDERS for key, source in open_shards(folder / name).items()}


def released_head_dim(folder: Path) -> int:
    """Read channels of one head off the configs of a release; without any they are those of MOVA's own.

    Raises:
        ValueError: The folders have different ones, or are of a model that computes something else.
    """
    found = {}
    for given in (read_beside(folder / name) for name in FOLDERS):
        given.check_fixed(FIXED, "MOVA's releases")
        if (head_dim := given.head_dim()) is not None:
            found[given.path] = head_dim
    if len({*found.values()}) > 1:
        listing = ", ".join(f"{size} in `{path}`" for path, size in found.items())
        raise ValueError(
            f"all folders of MOVA's release must have heads of one size, got {listing}; download them from one place"
        )
    return next(iter(found.values()), HEAD_DIM)


def convert(path: Path, output: Path, options: Options) -> None:
    """Convert both experts of a release, its audio tower and the bridge into one transformer, or write it back."""
    if options.reverse:
        write_back(path, output, options)
        return
    head_dim = released_head_dim(path)
    config, found = convert_transformer(open_release(path), head_dim=head_dim)
    check_heads(found, head_dim)
    for name, owner in MOVA_TOWERS.items():
        prefix = "audio_" if owner == "audio" else ""
        sizes = {size: config[f"{prefix}{size}"] for size in TOWER_SIZES}
        read_beside(path / name).check({"attention_head_dim": head_dim, **sizes}, TOWER_SIZES)
    done = [
        f"Both experts are in one transformer, which changes between them at sigma {BOUNDARY:g} of the video.",
        "Clips are 352 x 640 where a call names no size, as MOVA-360p's; MOVA-720p's are 720 x 1280.",
        "Without a first frame a clip starts from a white one: MOVA was trained with a first frame only.",
        "MOVA's code mends HTML entities and broken characters of prompts; this pipeline reads them as they are.",
    ]
    write(output, build(config), found, options, FAMILY, done)
