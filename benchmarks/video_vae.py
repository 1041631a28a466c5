"""Wan's video VAE over a clip at once beside its own chunks, on the CPU, as ratios of times and largest differences.

    python -m benchmarks.video_vae

`JoVAVideoCodec` takes the first way for clips of layers up to `ONE_PASS_BYTES`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from diffusers import AutoencoderKLWan

from benchmarks.block import compare
from benchmarks.sound_cache import table
from diffusers_jova import JoVAPipeline
from diffusers_jova.wan_clip import decode_clip, encode_clip, full_map_bytes


class Case(NamedTuple):
    """A VAE and the clip that it codes.

    Attributes:
        name: Of the VAE.
        vae: It.
        num_frames: Of the clip.
        size: Its height and width in pixels.
    """

    name: str
    vae: AutoencoderKLWan
    num_frames: int
    size: int


def cases() -> list[Case]:
    """The shipped VAE at the sizes of its clips and beyond, and one of Wan2.1's widths with random weights."""
    shipped = JoVAPipeline.from_pretrained("jova-tiny", transformer=None).vae
    torch.manual_seed(0)
    return [
        Case("jova-tiny", shipped, 33, 64),
        Case("jova-tiny", shipped, 33, 128),
        Case("Wan2.1", AutoencoderKLWan().eval(), 17, 64),
    ]


@torch.inference_mode()
def measure(case: Case, repeats: int) -> dict[str, Any]:
    """One line: how many times faster a clip at once is, and how far the results lie apart."""
    vae = case.vae
    num_latents = (case.num_frames - 1) // vae.config.scale_factor_temporal + 1
    sides = [case.size // vae.config.scale_factor_spatial] * 2
    latents = torch.randn(1, vae.config.z_dim, num_latents, *sides, generator=torch.Generator().manual_seed(0))
    frames = vae.decode(latents, return_dict=False)[0]
    decoded = decode_clip(vae, latents).clamp(-1, 1)
    means = vae.encode(frames).latent_dist.mode()
    encoded = encode_clip(vae, frames).mode()
    decodings = {"chunks": partial(vae.decode, latents, return_dict=False), "one": partial(decode_clip, vae, latents)}
    encodings = {"chunks": partial(vae.encode, frames), "one": partial(encode_clip, vae, frames)}
    return {
        "VAE": case.name,
        "clip": f"{case.num_frames}x{case.size}x{case.size}",
        "layer, MiB": full_map_bytes(vae, case.num_frames, case.size, case.size) / 2**20,
        "decode, times faster": compare(decodings, repeats, "cpu")["chunks_ratio"],
        "encode, times faster": compare(encodings, repeats, "cpu")["chunks_ratio"],
        "decoded apart, 1e-6": float((frames - decoded).abs().max()) * 1e6,
        "encoded apart, 1e-6": float((means - encoded).abs().max()) * 1e6,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    print(table([measure(case, args.repeats) for case in cases()]))


if __name__ == "__main__":
    main()
