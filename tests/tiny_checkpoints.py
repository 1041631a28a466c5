"""Tiny checkpoints in the layouts in which others release theirs, under the names that the model cards give them."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLLTX2Audio, AutoencoderKLWan, MMAudioVAE, WanTransformer3DModel
from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder
from safetensors.torch import save_file
from torch import Tensor
from transformers import UMT5Config, UMT5EncoderModel

from diffusers_jova.conversion.checkpoint import from_state_dict
from diffusers_jova.conversion.convert import main
from diffusers_jova.conversion.mmaudio import ltx2_rules, ltx2_vocoder
from diffusers_jova.conversion.output import parameters
from diffusers_jova.conversion.rules import inverse, plan
from tests.conversion.test_memory import ovi_shapes
from tests.conversion.test_wan import nava_names
from tests.tiny_pipeline import build_tokenizer


DEFAULTS = {"height": 32, "width": 32, "num_frames": 5, "num_inference_steps": 1}
TEXT_DIM = 4096  # that of NAVA's layout
APACHE = "---\nlicense: apache-2.0\n---\n"
LTX = "---\nlicense: other\nlicense_name: ltx-2-community-license-agreement\n---\n"
WAN_2_2_VAE = {
    "base_dim": 4,
    "decoder_base_dim": 4,
    "z_dim": 48,
    "num_res_blocks": 1,
    "dim_mult": [1, 1, 1, 1],
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_spatial": 16,
    "latents_mean": [0.0] * 48,
    "latents_std": [1.0] * 48,
}
WAN_2_1_VAE = {"base_dim": 4, "z_dim": 16, "num_res_blocks": 1, "dim_mult": [1, 1, 1, 1]}
BIGVGAN = {"mel_bins": 80, "hidden": 64, "rates": [4, 4, 2, 2, 2, 2], "kernels": [8, 8, 4, 4, 4, 4], "branches": [3]}


def convert_commands(page: Path) -> list[list[str]]:
    """Arguments of the conversions that a model card tells the reader to run."""
    text = page.read_text().replace("\\\n", " ")
    return [shlex.split(arguments) for arguments in re.findall(r"^jova convert (.*)$", text, re.MULTILINE)]


def convert_as_told(page: Path) -> Path | None:
    """Run the conversions of a page in the working folder; the result makes tiny clips where a call is silent."""
    output = None
    if commands := convert_commands(page):
        write_checkpoints(Path())
    for arguments in commands:
        main(arguments)
        output = Path(arguments[2])
    if output is not None:
        index = json.loads((output / "model_index.json").read_text())
        index["defaults"] |= DEFAULTS
        (output / "model_index.json").write_text(json.dumps(index))
    return output


def write_checkpoints(folder: Path) -> None:
    """Write everything that the commands of the cards read."""
    torch.manual_seed(0)
    save_random(folder / "ernie-research" / "NAVA:NAVA.safetensors", nava_names(dim=128, ffn=32, twins=1, shared=1))
    sizes = {"num_attention_heads": 1, "ffn_dim": 32, "text_dim": TEXT_DIM, "in_channels": 48, "out_channels": 48}
    save_random(folder / "chetwinlow1" / "Ovi:model.safetensors", ovi_shapes(num_layers=1, **sizes))
    tower = WanTransformer3DModel(num_attention_heads=1, ffn_dim=32, num_layers=1, text_dim=TEXT_DIM)
    wan_2_1 = {**text_encoder(), "transformer": tower, "vae": AutoencoderKLWan(**WAN_2_1_VAE)}
    save_repository(folder / "Wan-AI" / "Wan2.1-T2V-1.3B-Diffusers", wan_2_1, APACHE)
    wan_2_2 = {**text_encoder(), "vae": AutoencoderKLWan(**WAN_2_2_VAE)}
    save_repository(folder / "Wan-AI" / "Wan2.2-TI2V-5B-Diffusers", wan_2_2, APACHE)
    save_repository(folder / "ltx-2.3", ltx2_codec(), LTX)
    save_mmaudio(folder / "hkchengrex" / "MMAudio:ext_weights")


def save_random(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: 0.1 * torch.randn(shape) for name, shape in shapes.items()}, path)


def text_encoder() -> dict[str, Any]:
    tokenizer = build_tokenizer()
    tokenizer.add_tokens(["<extra_id_2>"], special_tokens=True)
    config = UMT5Config(vocab_size=128, d_model=TEXT_DIM, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    return {"tokenizer": tokenizer, "text_encoder": UMT5EncoderModel(config)}


def ltx2_codec() -> dict[str, Any]:
    audio_vae = AutoencoderKLLTX2Audio(ch_mult=(1, 1, 1), num_res_blocks=1)
    audio_vae.latents_mean.zero_()
    audio_vae.latents_std.fill_(1)
    vocoder = LTX2Vocoder(
        hidden_channels=32,
        upsample_kernel_sizes=[16, 15, 8, 4],
        upsample_factors=[6, 5, 4, 2],
        resnet_kernel_sizes=[3],
        resnet_dilations=[[1, 3]],
    )
    return {"audio_vae": audio_vae, "vocoder": vocoder}


def save_repository(folder: Path, parts: dict[str, Any], card: str) -> None:
    """A folder in diffusers' layout."""
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    libraries = {"tokenizer": "transformers", "text_encoder": "transformers", "vocoder": "ltx2"}
    index = {name: [libraries.get(name, "diffusers"), type(part).__name__] for name, part in parts.items()}
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "README.md").write_text(card)


def save_mmaudio(folder: Path) -> None:
    """The VAE and the vocoder of 16 kHz, their weights raw."""
    folder.mkdir(parents=True)
    sizes = {"mel_bins": 80, "latent_channels": 20, "sample_rate": 16000, "n_fft": 1024, "hop_length": 256}
    vae = MMAudioVAE(hidden_channels=16, **sizes).vae
    torch.save({name: 3 * torch.randn_like(tensor) for name, tensor in vae.state_dict().items()}, folder / "v1-16.pth")
    torch.save({"generator": bigvgan()}, folder / "best_netG.pt")


def bigvgan() -> dict[str, Tensor]:
    """A vocoder under BigVGAN's names."""
    ours = from_state_dict(ltx2_vocoder(BIGVGAN).state_dict())
    moves = plan(ours, inverse(ltx2_rules(1.0)))
    return {parameter.name: parameter.make() for parameter in parameters(moves, ours)}
