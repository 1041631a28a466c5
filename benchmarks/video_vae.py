"""Wan's video VAE as diffusers calls it, beside the ways of `JoVAVideoCodec`, on the CPU, as ratios of times.

    python -m benchmarks.video_vae

The codec lets oneDNN compute the convolutions, in the class's own chunks or, for clips of layers up to
`ONE_PASS_BYTES`, over the whole clip at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from benchmarks.block import compare
from benchmarks.sound_cache import table
from diffusers_jova import JoVAPipeline
from diffusers_jova.cpu_convolutions import OneDNNConvolutions
from diffusers_jova.video_codec import JoVAVideoCodec
from diffusers_jova.wan_clip import decode_clip, encode_clip, full_map_bytes


WAN_2_2 = {  # Wan2.2-TI2V-5B's VAE, of whose statistics no time depends
    "base_dim": 160,
    "decoder_base_dim": 256,
    "z_dim": 48,
    "temperal_downsample": [False, True, True],
    "is_residual": True,
    "patch_size": 2,
    "in_channels": 12,
    "out_channels": 12,
    "scale_factor_spatial": 16,
    "latents_mean": [0.0] * 48,
    "latents_std": [1.0] * 48,
}


class Case(NamedTuple):
    """A VAE and the clip that it codes.

    Attributes:
        name: Of the VAE.
        vae: It.
        num_frames: Of the clip.
        size: Height and width of it, pixels; a number for both.
    """

    name: str
    vae: AutoencoderKLWan
    num_frames: int
    size: tuple[int, int] | int

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size


def cases() -> list[Case]:
    """The shipped VAE at the sizes of its clips and beyond, and both of Wan's widths with random weights."""
    shipped = JoVAPipeline.from_pretrained("jova-tiny", transformer=None).vae
    torch.manual_seed(0)
    return [
        Case("jova-tiny", shipped, 33, (64, 64)),
        Case("jova-tiny", shipped, 33, (128, 128)),
        Case("jova-tiny", shipped, 33, (128, 224)),
        Case("jova-tiny", shipped, 33, (256, 448)),
        Case("Wan2.1's widths", AutoencoderKLWan().eval(), 17, (64, 64)),
        Case("Wan2.2's widths", AutoencoderKLWan(**WAN_2_2).eval(), 9, (64, 64)),
    ]


@torch.inference_mode()
def measure(case: Case, repeats: int) -> dict[str, Any]:
    """One line: how many times faster either way is than the class itself, and how far the results lie apart."""
    vae = case.vae
    num_latents = (case.num_frames - 1) // vae.config.scale_factor_temporal + 1
    sides = [side // vae.config.scale_factor_spatial for side in case.sides]
    latents = torch.randn(1, vae.config.z_dim, num_latents, *sides, generator=torch.Generator().manual_seed(0))
    frames = vae.decode(latents, return_dict=False)[0]
    decode = {
        "whole": fast(lambda: decode_clip(vae, latents).clamp(-1, 1)),
        "chunks": fast(lambda: vae.decode(latents, return_dict=False)[0]),
        "class": lambda: vae.decode(latents, return_dict=False)[0],
    }
    encode = {
        "whole": fast(lambda: encode_clip(vae, frames).mode()),
        "chunks": fast(lambda: vae.encode(frames).latent_dist.mode()),
        "class": lambda: vae.encode(frames).latent_dist.mode(),
    }
    row = {
        "VAE": case.name,
        "clip": "x".join(map(str, (case.num_frames, *case.sides))),
        "layer, MiB": full_map_bytes(vae, case.num_frames, *case.sides) / 2**20,
    }
    taken = "whole" if JoVAVideoCodec(vae).takes_one_pass(1, case.num_frames, *case.sides) else "chunks"
    for name, ways in (("decode", decode), ("encode", encode)):
        times = compare(ways, repeats, "cpu")
        expected = ways["class"]()
        row |= {f"{name} {way}": 1 / times[f"{way}_ratio"] for way in ("chunks", "whole")}
        row[f"{name}, times faster"] = row[f"{name} {taken}"]
        row[f"{name}d apart, 1e-6"] = max(float((way() - expected).abs().max()) for way in ways.values()) * 1e6
    return row


def fast(call: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """A call in which oneDNN computes the convolutions."""

    def called() -> Tensor:
        with OneDNNConvolutions():
            return call()

    return called


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    print(table([measure(case, args.repeats) for case in cases()]))


if __name__ == "__main__":
    main()
