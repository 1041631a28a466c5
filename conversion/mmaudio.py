"""MMAudio's audio VAE and BigVGAN vocoders -> diffusers' `MMAudioVAE`, `LTX2Vocoder`, `MMAudioVocoder`.

The released VAE weights are raw: the original normalises every row once after loading, and so does this conversion.
Its 16 kHz network works on log10 mels while `MMAudioVAE` computes natural logs: ln 10 goes into the mel statistics and
its inverse into the first layer of the 16 kHz vocoder, so the mels between the two are natural logs at both rates.

arXiv:2312.02696 (EDM2), Eq. 66:  w' = w / (eps + ||w|| / sqrt(fan_in)) / sqrt(fan_in), per output row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import MMAudioVAE, MMAudioVocoder
from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder
from torch import Tensor
from transformers.audio_utils import mel_filter_bank

from diffusers_jova.conversion.card import BIGVGAN, MMAUDIO, model_card
from diffusers_jova.conversion.checkpoint import Checkpoint, open_checkpoint
from diffusers_jova.conversion.output import (
    Model,
    Options,
    Parameter,
    as_checkpoint,
    cast,
    check_fits,
    constant,
    new_folder,
    parameters,
    save_model,
    shape_of,
    unchanged,
)
from diffusers_jova.conversion.rules import Rule, keep, listed, plan


FOLD_EPS = 1e-4
FOLDED_ROW_NORMS = (0.99, 1.001)  # a folded row has norm 1 - eps / rms, just below 1
LOG10_MEL_BINS = 80  # only the 16 kHz networks were trained on log10 mels
FRONT_ENDS = {80: (16000, 1024, 256), 128: (44100, 2048, 512)}  # mel bins: sample rate (Hz), n_fft, hop (samples)
RESNET_DILATIONS = [1, 3, 5]
FLOAT32 = ("mel_converter.", "vae.data_mean", "vae.data_std")  # an FFT has no bfloat16, statistics lose by rounding
FILES = ("v1-16.pth", "v1-44.pth", "best_netG.pt", "bigvgan_generator.pt")
RUN = {
    "audio_vae": """
from diffusers import MMAudioVAE

audio_vae = MMAudioVAE.from_pretrained("{folder}")  # waveform [B, samples] in, natural-log mel out
""",
    "LTX2Vocoder": """
from diffusers.pipelines.ltx2 import LTX2Vocoder

vocoder = LTX2Vocoder.from_pretrained("{folder}")  # vocoder(mel[:, None], time_last=True) -> waveform [B, 1, samples]
""",
    "MMAudioVocoder": """
from diffusers import MMAudioVocoder

vocoder = MMAudioVocoder.from_pretrained("{folder}")  # vocoder(mel).sample -> waveform [B, 1, samples]
""",
}
WEIGHT_NORMS = {
    "weight_g": ("{path}.weight_g", "{path}.weight_v"),
    "parametrizations.weight.original0": (
        "{path}.parametrizations.weight.original0",
        "{path}.parametrizations.weight.original1",
    ),
}


def fold_row_norm(weight: Tensor) -> Tensor:
    """Normalise each output row of a raw weight [out, in, k] (EDM2, Eq. 66)."""
    fan_in = math.prod(weight.shape[1:])
    norm = torch.linalg.vector_norm(weight.float(), dim=(1, 2), keepdim=True)
    return (weight.float() / (FOLD_EPS + norm / math.sqrt(fan_in)) / math.sqrt(fan_in)).to(weight.dtype)


def fold_weight_norm(magnitude: Tensor, direction: Tensor) -> Tensor:
    """Merge torch's weight norm, g [dim0, 1, 1] and v [dim0, dim1, k], with torch's own arithmetic."""
    if magnitude.shape != (direction.shape[:1] + (1,) * (direction.ndim - 1)):
        raise ValueError(
            f"magnitudes of a weight {list(direction.shape)} must be one per row, got shape {list(magnitude.shape)}; "
            "get the released file again"
        )
    if direction.is_meta:
        return direction
    return torch._weight_norm(direction, magnitude, 0)


def scaled(factor: float) -> Any:
    """Return the transform that multiplies by a number, rounded once."""
    return lambda tensor: (tensor.double() * factor).to(tensor.dtype)


def is_folded(checkpoint: Checkpoint) -> bool:
    """Decide over all rows of all layers whether the VAE weights are normalised already.

    Raises:
        ValueError: Some layers are folded and some are not.
    """
    low, high = FOLDED_ROW_NORMS
    folded: list[str] = []
    raw: list[str] = []
    for name, source in checkpoint.items():
        if name.endswith(".weight"):
            if len(source.shape) != 3:
                raise ValueError(
                    f"VAE weights must be [out, in, width], got `{name}` of shape {list(source.shape)}; "
                    "get the released file again"
                )
            norms = torch.linalg.vector_norm(source.read().float(), dim=(1, 2))
            (folded if bool(((norms > low) & (norms < high)).all()) else raw).append(name)
    if folded and raw:
        raise ValueError(
            f"VAE weights must be all raw or all folded, got {len(folded)} folded layers ({listed(folded)}) and "
            f"{len(raw)} raw ones; get the released file again"
        )
    return bool(folded)


def vae_rules(folded: bool, log_factor: float) -> list[Rule]:
    """Table of the VAE.

    Args:
        folded: Whether the rows are normalised already.
        log_factor: Natural-log units per unit of the mels the network was trained on: ln 10, or 1.
    """
    statistics = keep if log_factor == 1 else scaled(log_factor)
    weights = keep if folded else fold_row_norm
    # fmt: off
    return [  # v1-16.pth, v1-44.pth             MMAudioVAE                          tensor
        Rule("data_mean",                        "vae.data_mean",                    statistics),
        Rule("data_std",                         "vae.data_std",                     statistics),
        Rule("{coder}.learnable_gain",           "vae.{coder}.learnable_gain"),
        Rule("{path}.weight",                    "vae.{path}.weight",                weights),
    ]
    # fmt: on


def vae_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """Read the constructor arguments of `MMAudioVAE` off the shapes."""
    found = unchanged(checkpoint)
    hidden, mel_bins, _ = shape_of(found, "encoder.conv_in.weight", 3)
    rate, n_fft, hop = front_end(mel_bins)
    return {
        "mel_bins": mel_bins,
        "latent_channels": shape_of(found, "decoder.conv_in.weight", 3)[1],
        "hidden_channels": hidden,
        "sample_rate": rate,
        "n_fft": n_fft,
        "hop_length": hop,
        "scaling_factor": 1.0,
    }


def front_end(mel_bins: int) -> tuple[int, int, int]:
    """Look up sample rate (Hz), FFT size and hop (samples) of the released front end with so many mel bins."""
    if mel_bins not in FRONT_ENDS:
        raise ValueError(f"number of mel bins must be one of {sorted(FRONT_ENDS)}, got {mel_bins}")
    return FRONT_ENDS[mel_bins]


def log_factor(mel_bins: int) -> float:
    """Natural-log units per unit of the mels that the networks with so many mel bins were trained on."""
    return math.log(10) if mel_bins == LOG10_MEL_BINS else 1.0


def mel_buffers(config: Mapping[str, Any]) -> list[Parameter]:
    """Build the buffers of the mel front end: Slaney filters in float32 [mels, n_fft / 2 + 1], Hann window [n_fft]."""
    rate, n_fft = config["sample_rate"], config["n_fft"]
    basis = mel_filter_bank(
        num_frequency_bins=n_fft // 2 + 1,
        num_mel_filters=config["mel_bins"],
        min_frequency=0.0,
        max_frequency=rate / 2,
        sampling_rate=rate,
        norm="slaney",
        mel_scale="slaney",
    )
    return [
        constant("mel_converter.mel_basis", torch.from_numpy(basis.T.astype(np.float32))),
        constant("mel_converter.hann_window", torch.hann_window(n_fft)),
    ]


def convert_vae(checkpoint: Checkpoint, folded: bool) -> tuple[Model, list[Parameter]]:
    """Return the `MMAudioVAE` (on the meta device) that equals a released VAE, and its parameters."""
    config = vae_config(checkpoint)
    with torch.device("meta"):
        model = MMAudioVAE(**config)
    rules = vae_rules(folded, log_factor(config["mel_bins"]))
    return model, parameters(plan(checkpoint, rules), checkpoint) + mel_buffers(config)


def weight_rules(checkpoint: Checkpoint) -> Rule:
    """Choose the rule for the spelling of weight norm that the checkpoint uses; plain weights stay as they are."""
    for ending, sources in WEIGHT_NORMS.items():
        if any(name.endswith("." + ending) for name in checkpoint):
            return Rule(sources, "{path}.weight", fold_weight_norm)
    return Rule("{path}.weight", "{path}.weight")


def folded_vocoder(checkpoint: Checkpoint) -> list[Parameter]:
    """Fold weight norm; names stay BigVGAN's."""
    rules = [
        weight_rules(checkpoint),
        Rule("{path}.bias", "{path}.bias"),
        Rule("{path}.act.alpha", "{path}.act.alpha"),
        Rule("{path}.act.beta", "{path}.act.beta"),
        Rule("{path}.filter", "{path}.filter"),
    ]
    return parameters(plan(checkpoint, rules), checkpoint)


def ltx2_rules(input_factor: float) -> list[Rule]:
    """Table from BigVGAN v1's names (after folding) to `LTX2Vocoder`'s.

    Args:
        input_factor: Units of the mels the network was trained on per natural-log unit: 1 / ln 10, or 1.
    """
    first = keep if input_factor == 1 else scaled(input_factor)
    activations = [
        rule
        for unit in range(len(RESNET_DILATIONS))
        for half in range(2)
        for rule in activation_rules(
            f"resblocks.{{r}}.activations.{2 * unit + half}", f"resnets.{{r}}.acts{half + 1}.{unit}"
        )
    ]
    # fmt: off
    return [  # BigVGAN                          LTX2Vocoder                         tensor
        Rule("conv_pre.weight",                  "conv_in.weight",                   first),
        Rule("conv_pre.bias",                    "conv_in.bias"),
        Rule("ups.{i}.0.{p}",                    "upsamplers.{i}.{p}"),
        Rule("resblocks.{r}.{convs}.{i}.{p}",    "resnets.{r}.{convs}.{i}.{p}"),
        *activations,
        *activation_rules("activation_post",     "act_out"),
        Rule("conv_post.weight",                 "conv_out.weight"),
        Rule("conv_post.bias",                   "conv_out.bias"),
    ]
    # fmt: on


def activation_rules(source: str, target: str) -> list[Rule]:
    """Table of one anti-aliased activation."""
    return [
        Rule(f"{source}.act.{{p}}", f"{target}.act.{{p}}"),
        Rule(f"{source}.upsample.filter", f"{target}.upsample.filter"),
        Rule(f"{source}.downsample.lowpass.filter", f"{target}.downsample.filter"),
    ]


def vocoder_shape(found: Sequence[Parameter]) -> dict[str, Any]:
    """Read BigVGAN's sizes off its folded weights; every released stage has a kernel of twice its rate.

    Raises:
        ValueError: One of the weights is missing or has other dimensions, or the sizes are not those of a release.
    """
    num_stages, num_blocks = (
        len({entry.name.split(".")[1] for entry in found if entry.name.startswith(part)})
        for part in ("ups.", "resblocks.")
    )
    hidden, mel_bins, _ = shape_of(found, "conv_pre.weight", 3)
    kernels = [shape_of(found, f"ups.{stage}.0.weight", 3)[2] for stage in range(num_stages)]
    num_branches = num_blocks // max(num_stages, 1)
    branches = [shape_of(found, f"resblocks.{branch}.convs1.0.weight", 3)[2] for branch in range(num_branches)]
    rates = [kernel // 2 for kernel in kernels]
    hop = front_end(mel_bins)[2]
    if math.prod(rates) != hop:
        raise ValueError(
            f"vocoder with {mel_bins} mel bins must upsample by {hop}, got {rates}; this is another BigVGAN"
        )
    return {"mel_bins": mel_bins, "hidden": hidden, "kernels": kernels, "rates": rates, "branches": branches}


def convert_vocoder(checkpoint: Checkpoint, natural_log: bool = True) -> tuple[Model, list[Parameter]]:
    """Return the library's vocoder (on the meta device) that equals a BigVGAN, and its parameters.

    Args:
        checkpoint: Tensors of the `generator`.
        natural_log: Whether the result takes natural-log mels, as `MMAudioVAE` gives them, or those of its training.
    """
    folded = folded_vocoder(checkpoint)
    size = vocoder_shape(folded)
    with torch.device("meta"):
        if "conv_post.bias" not in checkpoint:
            return mmaudio_vocoder(size), folded
        model = ltx2_vocoder(size)
    factor = 1 / log_factor(size["mel_bins"]) if natural_log else 1.0
    renamed = as_checkpoint(folded)
    return model, parameters(plan(renamed, ltx2_rules(factor)), renamed)


def ltx2_vocoder(size: Mapping[str, Any]) -> LTX2Vocoder:
    """Build the vocoder that ends in a bias and tanh (BigVGAN v1)."""
    return LTX2Vocoder(
        in_channels=size["mel_bins"],
        hidden_channels=size["hidden"],
        out_channels=1,
        upsample_kernel_sizes=size["kernels"],
        upsample_factors=size["rates"],
        resnet_kernel_sizes=size["branches"],
        resnet_dilations=[RESNET_DILATIONS] * len(size["branches"]),
        act_fn="snakebeta",
        antialias=True,
        final_act_fn="tanh",
        final_bias=True,
        output_sampling_rate=front_end(size["mel_bins"])[0],
    )


def mmaudio_vocoder(size: Mapping[str, Any]) -> MMAudioVocoder:
    """Build the vocoder that ends without a bias and clamps (BigVGAN v2)."""
    return MMAudioVocoder(
        num_mels=size["mel_bins"],
        upsample_initial_channel=size["hidden"],
        upsample_rates=tuple(size["rates"]),
        upsample_kernel_sizes=tuple(size["kernels"]),
        resblock_kernel_sizes=tuple(size["branches"]),
        resblock_dilation_sizes=(tuple(RESNET_DILATIONS),) * len(size["branches"]),
    )


def networks(path: Path) -> dict[str, Checkpoint]:
    """Find the VAE and the vocoder in a released file, in a one-file bundle, or in a folder of released files."""
    if path.is_dir():
        return folder_networks(path)
    checkpoint = open_checkpoint(path)
    bundle = {part: strip(checkpoint, part + ".") for part in ("vae", "vocoder")}
    if (
        bundle["vae"] and bundle["vocoder"]
    ):  # ComfyUI and early Kandinsky 6: folded, with a mel front end to be rebuilt
        unknown = [name for name in checkpoint if name.split(".")[0] not in {"vae", "vocoder", "mel_converter"}]
        if unknown:
            raise ValueError(f"bundle must hold `vae`, `vocoder`, `mel_converter` only, got {listed(unknown)}")
        return {"audio_vae": bundle["vae"], "vocoder": bundle["vocoder"]}
    if "encoder.conv_in.weight" in checkpoint:
        return {"audio_vae": checkpoint}
    if any(name.startswith("resblocks.") for name in checkpoint):
        return {"vocoder": checkpoint}
    reason = "a converted `MMAudioVAE`" if "vae.encoder.conv_in.weight" in checkpoint else listed(checkpoint)
    raise ValueError(f"`SOURCE` must be MMAudio's VAE or a BigVGAN in the released layout, got {reason}")


def folder_networks(folder: Path) -> dict[str, Checkpoint]:
    """Read the released files of a folder or of its `ext_weights` sub-folder."""
    paths = [base / name for base in (folder, folder / "ext_weights") for name in FILES if (base / name).is_file()]
    found: dict[str, Checkpoint] = {}
    for path in paths:
        for part, checkpoint in networks(path).items():
            if part in found:
                raise ValueError(f"`SOURCE` must hold one {part}, got several in `{folder}`; name the file itself")
            found[part] = checkpoint
    if not found:
        raise ValueError(f"`SOURCE` must hold one of {', '.join(FILES)}, got none in `{folder}`")
    return found


def strip(checkpoint: Checkpoint, prefix: str) -> Checkpoint:
    """Select the tensors under a prefix."""
    return {name.removeprefix(prefix): source for name, source in checkpoint.items() if name.startswith(prefix)}


def convert(path: Path, output: Path, options: Options) -> None:
    """Convert every network that is found; a single one becomes `output` itself, two become its sub-folders."""
    converted = {}
    for part, checkpoint in networks(path).items():
        model, found = (
            convert_vae(checkpoint, is_folded(checkpoint)) if part == "audio_vae" else convert_vocoder(checkpoint)
        )
        found = cast(found, options.dtype, keep=FLOAT32)
        check_fits(found, model)
        converted[part] = (model, found)
    with new_folder(output) as folder:
        for part, (model, found) in converted.items():
            place = folder if len(converted) == 1 else folder / part
            save_model(place, model, found, options)
            (place / "README.md").write_text(card(part, model, place.name if place != folder else output.name))


def card(part: str, model: Model, folder: str) -> str:
    """Compose the model card of one converted network."""
    name = type(model).__name__
    licence = BIGVGAN if name == "MMAudioVocoder" else MMAUDIO
    done = {
        "audio_vae": "Weights are row-normalised once; mel statistics are in natural-log units.",
        "vocoder": "Weight norm is merged; the vocoder takes natural-log mels.",
    }
    run = RUN["audio_vae" if part == "audio_vae" else name].format(folder=folder)
    return model_card(f"{name} from {licence.origin}", [licence], [done[part]], run)
