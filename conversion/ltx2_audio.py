"""LTX-2.3's audio VAE and vocoder, one file as NAVA releases them -> diffusers' classes for the two."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKLLTX2Audio
from diffusers.pipelines.ltx2.vocoder import LTX2VocoderWithBWE

from diffusers_jova.conversion.checkpoint import Checkpoint
from diffusers_jova.conversion.output import Model, Parameter, check_fits, parameters, shape_of
from diffusers_jova.conversion.rules import Rule, plan, prefixed, refuse_leftovers


# fmt: off
AUDIO_VAE = (  # LTX-2                                     diffusers
    Rule("per_channel_statistics.mean-of-means",           "latents_mean"),
    Rule("per_channel_statistics.std-of-means",            "latents_std"),
    Rule("encoder.{path}",                                 "encoder.{path}"),
    Rule("decoder.{path}",                                 "decoder.{path}"),
)
ACTIVATION = (
    Rule("act.{p}",                                        "act.{p}"),
    Rule("upsample.filter",                                "upsample.filter"),
    Rule("downsample.lowpass.filter",                      "downsample.filter"),
)
GENERATOR = (
    Rule("conv_pre.{p}",                                   "conv_in.{p}"),
    Rule("ups.{i}.{p}",                                    "upsamplers.{i}.{p}"),
    Rule("resblocks.{i}.convs1.{j}.{p}",                   "resnets.{i}.convs1.{j}.{p}"),
    Rule("resblocks.{i}.convs2.{j}.{p}",                   "resnets.{i}.convs2.{j}.{p}"),
    *prefixed(ACTIVATION, "resblocks.{i}.acts1.{j}.",      "resnets.{i}.acts1.{j}."),
    *prefixed(ACTIVATION, "resblocks.{i}.acts2.{j}.",      "resnets.{i}.acts2.{j}."),
    *prefixed(ACTIVATION, "act_post.",                     "act_out."),
    Rule("conv_post.{p}",                                  "conv_out.{p}"),
)
VOCODER = (
    *prefixed(GENERATOR, "vocoder.",                       "vocoder."),
    *prefixed(GENERATOR, "bwe_generator.",                 "bwe_generator."),
    Rule("mel_stft.{path}",                                "mel_stft.{path}"),
)
# fmt: on


def holds_ltx2(checkpoint: Checkpoint) -> bool:
    """Whether a file holds an LTX-2 audio VAE or vocoder, and not an audio VAE of another project."""
    return any(name.startswith(("audio_vae.", "vocoder.")) for name in checkpoint)


def part(checkpoint: Checkpoint, prefix: str) -> Checkpoint:
    """Return one of the two components in a file, without its prefix; the file holds nothing else."""
    refuse_leftovers([name for name in checkpoint if not name.startswith(("audio_vae.", "vocoder."))], [])
    return {name.removeprefix(prefix): source for name, source in checkpoint.items() if name.startswith(prefix)}


def convert_audio_vae(checkpoint: Checkpoint) -> tuple[Model, list[Parameter]]:
    """Return the audio VAE, on the meta device, and its parameters.

    Raises:
        ValueError: The tensors are not those of an LTX-2 audio VAE.
    """
    checkpoint = part(checkpoint, "audio_vae.")
    found = parameters(plan(checkpoint, AUDIO_VAE), checkpoint)
    sizes = {
        "base_channels": shape_of(found, "latents_mean", 1)[0],
        "latent_channels": shape_of(found, "decoder.conv_in.conv.weight", 4)[1],
    }
    with torch.device("meta"):
        model = AutoencoderKLLTX2Audio(**sizes)
    check_fits(found, model)
    return model, found


def convert_vocoder(checkpoint: Checkpoint) -> tuple[Model, list[Parameter]]:
    """Return the vocoder, on the meta device, and its parameters.

    Raises:
        ValueError: The tensors are not those of an LTX-2.3 vocoder.
    """
    checkpoint = part(checkpoint, "vocoder.")
    found = parameters(plan(checkpoint, VOCODER), checkpoint)
    sizes = {
        "hidden_channels": shape_of(found, "vocoder.conv_in.weight", 3)[0],
        "bwe_hidden_channels": shape_of(found, "bwe_generator.conv_in.weight", 3)[0],
    }
    with torch.device("meta"):
        model = LTX2VocoderWithBWE(**sizes)
    check_fits(found, model)
    return model, found
