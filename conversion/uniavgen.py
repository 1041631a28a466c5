"""UniAVGen -> `JoVADualTowerTransformer3DModel` and the encoder of its spoken text, which is in the same file.

All tensors are renamed. `audio_padding` serves batches of unequal length, which the released code does not support
elsewhere, and is left out. In a pipeline log-mel frames stand in place of an audio VAE, and `vocab.txt` of the code,
which is not among the weights, becomes a tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from diffusers_jova.conversion.card import CHARACTERS, UNIAVGEN, UNIAVGEN_MEL, UNIAVGEN_SPOKEN, WAN, model_card
from diffusers_jova.conversion.checkpoint import Checkpoint, open_checkpoint
from diffusers_jova.conversion.components import Component, copied, first_place
from diffusers_jova.conversion.dual_tower import build, tower_config
from diffusers_jova.conversion.output import (
    Model,
    Options,
    Parameter,
    cast,
    check_fits,
    new_folder,
    parameters,
    save_model,
    shape_of,
    write_single,
)
from diffusers_jova.conversion.pipeline import Family, guidance_defaults
from diffusers_jova.conversion.rules import Rule, inverse, listed, plan, prefixed
from diffusers_jova.conversion.source_config import HEAD_DIM, HEADS, print_lost, released_config
from diffusers_jova.conversion.spoken_characters import character_tokenizer, read_characters
from diffusers_jova.conversion.wan import ATTENTION, BLOCK, HEAD, PATCH, check_heads, owned, write
from diffusers_jova.log_mel import JoVALogMel


FUSION_INTERVAL = 2  # blocks from one with a fusion to the next
TEXT_ENCODER = "text_embedding."
LATENTS_MEAN, LATENTS_STD = -5.1753, 2.1544  # of the log-mel frames, all bins alike
PEAK = 0.999146  # of given sound
FAMILY = Family(
    title="UniAVGen for diffusers_jova",
    licences=[UNIAVGEN, WAN],
    scheduler="uniavgen",
    prompt_template="{video}",  # the transcript goes to the sound
    defaults={
        "height": 736,
        "width": 1280,
        "num_frames": 81,
        "frame_rate": 16.0,
        "num_inference_steps": 50,
        **guidance_defaults("uniavgen"),
    },
    config={
        "one_way_coupling": True,
        "negative_skip_layer": 11,
        "needs_image": True,
        "max_reference_s": 76.5,  # its table of rotations has 8192 rows, of which a clip takes 506
    },
)
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
    """Convert a released file or folder of shards: transformer and encoder of spoken text, or a whole pipeline.

    Or write a converted folder back into one file.

    Raises:
        ValueError: The tensors are not UniAVGen's, or a part of the pipeline is missing.
    """
    if options.reverse:
        write_single(output, restore(path), options.dtype)
        print_lost(path)
        print("`audio_padding`, which no other line of the released code needs, is not in the file")
        return
    checkpoint = open_checkpoint(path)
    if not any(name.startswith("a2v_blocks.") for name in checkpoint):
        raise ValueError(
            f"`SOURCE` must be UniAVGen's transformer, with `a2v_blocks` between its towers, got `{path}` without; "
            "name the folder of its `diffusion_pytorch_model` shards"
        )
    given, head_dim = released_config(path)
    config, found = convert_transformer(checkpoint, head_dim)
    check_heads(found, head_dim)
    model, encoder = build(given.complete(config, HEADS)), spoken_encoder(checkpoint, path, options)
    done = ["`audio_padding`, which no other line of the released code supports, is left out."]
    if options.components:
        made = [encoder, spoken_tokenizer(checkpoint, options.components), log_mel(config["audio_in_channels"], path)]
        done += [
            "Clips are 736 x 1280, 81 frames at 16 per second, where a call says nothing else, as in the release.",
            "The release computes in bfloat16, positions and timesteps too; here these are float32.",
            "A character that is not in the list is refused, where the release reads a space in its place.",
        ]
        write(output, model, found, options, FAMILY, done, made)
        return
    found = cast(found, options.dtype, keep=model._keep_in_fp32_modules or ())
    check_fits(found, model)
    done += ["No pipeline: its text encoder, video VAE and vocoder are not in this folder."]
    run = RUN.format(folder=output.name)
    with new_folder(output) as folder:
        (folder / "README.md").write_text(model_card(FAMILY.title, [*FAMILY.licences, encoder.licence], done, run))
        save_model(folder / "transformer", model, found, options)
        encoder.write(folder / encoder.name)


def restore(folder: Path) -> list[Parameter]:
    """Return transformer and encoder of spoken text of a converted folder under UniAVGen's own names.

    Raises:
        ValueError: One of them is missing, or is of another model.
    """
    folders = [folder / name for name in ("transformer", "spoken_text_encoder")]
    if not all(part.is_dir() for part in folders):
        raise ValueError(
            f"`SOURCE` must be a folder with `transformer` and `spoken_text_encoder` in it, got `{folder}`; name the "
            "folder that `jova convert uniavgen` has written"
        )
    transformer, encoder = map(open_checkpoint, folders)
    num_fusions = len({name.split(".")[1] for name in transformer if ".fusion." in name})
    found = parameters(plan(transformer, inverse(rules(num_fusions))), transformer)
    table = inverse(prefixed(SPOKEN_TEXT, TEXT_ENCODER, ""))
    return found + parameters(plan(encoder, table), encoder)


def spoken_encoder(checkpoint: Checkpoint, path: Path, options: Options) -> Component:
    """The encoder of spoken text, checked, ready to be written."""
    from diffusers_jova.spoken_text_encoder import JoVASpokenTextEncoder

    config, found = convert_text_encoder(checkpoint)
    with torch.device("meta"):
        encoder: Model = JoVASpokenTextEncoder(**config)
    found = cast(found, options.dtype, keep=encoder._keep_in_fp32_modules or ())
    check_fits(found, encoder)
    return Component(
        "spoken_text_encoder",
        path,
        ("diffusers_jova", "JoVASpokenTextEncoder"),
        UNIAVGEN_SPOKEN,
        lambda folder: save_model(folder, encoder, found, options),
    )


def spoken_tokenizer(checkpoint: Checkpoint, folders: Sequence[Path]) -> Component:
    """The tokenizer of spoken text, of the list of characters in the code of the release.

    Raises:
        ValueError: No list is there, or it has another number of characters than the encoder knows.
    """
    path = first_place(folders, "spoken_tokenizer")
    if path is None:
        raise ValueError(
            "`--components` must hold `vocab.txt`, the list of characters in UniAVGen's code (MCG-NJU/Sora2-mini), "
            f"got none in {listed(str(folder) for folder in folders)}; add the file"
        )
    if path.is_dir():
        return copied("spoken_tokenizer", path)
    config, _ = convert_text_encoder(checkpoint)
    characters = read_characters(path)
    if len(characters) != config["vocab_size"]:
        raise ValueError(
            f"`{path}` must hold the {config['vocab_size']} characters of the encoder of spoken text, got "
            f"{len(characters)}; take the list of the release"
        )
    tokenizer = character_tokenizer(characters)
    entry = ("transformers", type(tokenizer).__name__)
    return Component("spoken_tokenizer", path, entry, CHARACTERS, tokenizer.save_pretrained)


def log_mel(num_bins: int, path: Path) -> Component:
    """Log-mel frames as the release normalises them, in place of an audio VAE."""
    mel = JoVALogMel(mel_bins=num_bins, peak=PEAK)
    with torch.no_grad():
        mel.latents_mean.fill_(LATENTS_MEAN)
        mel.latents_std.fill_(LATENTS_STD)
    return Component("audio_vae", path, ("diffusers_jova", "JoVALogMel"), UNIAVGEN_MEL, mel.save_pretrained)
