"""VAEs as ComfyUI's VAE sockets carry them: loaded at first use, seen and freed by core's memory manager.

Latents are raw: video [B, C, F, h, w], sound [B, C, L]; IMAGE is [N, H, W, 3] in [0, 1], a waveform [B, S, channels].
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import comfy.model_management
import comfy.model_patcher
import torch
from torch import Tensor, nn

from .casting import settle
from .package import jova


ENCODER_RATE_HZ = 44100  # of what core's VAEEncodeAudio hands over
BYTES_PER_PIXEL = 8_000  # while a video VAE works: 96 channels of 4 frames, five copies alive, in float32


class Component:
    """Parts of a saved pipeline under one patcher, read from disk at the first use.

    Args:
        saved: Where they lie.
        names: Of the parts.
        load_device: Where they work.
        offload_device: Where they wait.
        options: For `SavedPipeline.load`.
    """

    def __init__(
        self, saved: Any, names: tuple[str, ...], load_device: Any, offload_device: Any, **options: Any
    ) -> None:
        self.saved, self.names, self.options = saved, names, options
        self.devices = {"load_device": load_device, "offload_device": offload_device}
        self._pipeline: Any = None
        self._patcher: Any = None

    @property
    def pipeline(self) -> Any:
        """A pipeline of the parts alone."""
        if self._pipeline is None:
            with torch.inference_mode(False):  # core runs nodes inside it: weights made there could never be changed
                self._pipeline = self.saved.load(*self.names, **self.options)
        return self._pipeline

    @property
    def module(self) -> nn.Module:
        """All parts that have weights, as one module."""
        module: nn.Module = self.patcher.model
        return module

    @property
    def patcher(self) -> Any:
        """What core's memory manager sees."""
        if self._patcher is None:
            parts = {name: getattr(self.pipeline, name) for name in self.names}
            with torch.inference_mode(False):
                module = nn.ModuleDict({name: part for name, part in parts.items() if isinstance(part, nn.Module)})
                self.prepare(module)
            self._patcher = comfy.model_patcher.ModelPatcher(module, **self.devices)
        return self._patcher

    def prepare(self, module: nn.Module) -> None:
        """Change the parts before core sees them."""

    def ready(self, memory_bytes: float = 0, is_whole: bool = True) -> Any:
        """The pipeline with its parts on the device.

        Args:
            memory_bytes: That the work takes besides the weights.
            is_whole: Whether all weights must be there; otherwise some may stay where they wait.
        """
        comfy.model_management.load_models_gpu([self.patcher], memory_required=memory_bytes, force_full_load=is_whole)
        settle(self.patcher)
        return self.pipeline

    def get_ram_usage(self) -> int:
        """Bytes of weights in memory; what is not read yet takes none."""
        return 0 if self._patcher is None else self._patcher.model_size()


class JovaVideoVAE(Component):
    """A video VAE.

    Args:
        saved: The pipeline that it belongs to.
    """

    latent_dim = 3
    output_channels = 3

    def __init__(self, saved: Any) -> None:
        management = comfy.model_management
        super().__init__(saved, ("vae",), management.vae_device(), management.vae_offload_device())
        self.outline = saved.outline()
        self.latent_channels: int = self.outline.video_codec.num_channels

    def spacial_compression_encode(self) -> int:
        """Pixels per latent cell."""
        factor: int = self.outline.video_codec.spatial_factor
        return factor

    spacial_compression_decode = spacial_compression_encode

    def temporal_compression_decode(self) -> int:
        """Frames per latent after the first."""
        factor: int = self.outline.video_codec.temporal_factor
        return factor

    def decode(self, samples: Tensor, vae_options: Any = None) -> Tensor:
        """Frames [B, N, H, W, 3] of raw latents [B, C, F, h, w]; tile by tile where memory does not suffice."""
        self._check_latents(samples)
        pipeline = self._ready_for(samples.shape[3] * samples.shape[4] * self.spacial_compression_decode() ** 2)
        try:
            return self._decode(pipeline, samples)
        except comfy.model_management.OOM_EXCEPTION:
            pass  # outside of the handler: its traceback holds the tensors
        return self.decode_tiled(samples)

    def decode_tiled(self, samples: Tensor, tile_x: int = 32, tile_y: int = 32, overlap: int = 8, **_: Any) -> Tensor:
        """The same in tiles; sizes are in latent cells. Time needs no tiles: the VAE works frame by frame."""
        self._check_latents(samples)
        factor = self.spacial_compression_decode()
        pipeline = self._ready_for(tile_x * tile_y * factor**2)
        with tiles(pipeline.vae, tile_x * factor, tile_y * factor, overlap * factor):
            return self._decode(pipeline, samples)

    def encode(self, pixels: Tensor) -> Tensor:
        """Raw latents [1, C, F, h, w] of frames [N, H, W, 3], N = 4k + 1 and H, W multiples of the latent cell."""
        self._check(pixels)
        pipeline = self._ready_for(pixels.shape[-3] * pixels.shape[-2])
        frames = pixels[..., :3].movedim(-1, 0)[None].float() * 2 - 1
        latents = pipeline.encode_frames(frames)
        return to_socket(pipeline.video_codec.denormalize(latents))

    def encode_tiled(
        self, pixels: Tensor, tile_x: int = 512, tile_y: int = 512, overlap: int = 64, **_: Any
    ) -> Tensor:
        """The same in tiles; sizes are in pixels."""
        pipeline = self._ready_for(tile_x * tile_y)
        with tiles(pipeline.vae, tile_x, tile_y, overlap):
            return self.encode(pixels)

    def _check(self, pixels: Tensor) -> None:
        jova("pipeline_checks").check_whole_frames(pixels.shape[0], self.temporal_compression_decode())
        height, width = pixels.shape[1:3]
        if height % self.spacial_compression_encode() or width % self.spacial_compression_encode():
            raise ValueError(
                f"`pixels` must have sides that are multiples of {self.spacial_compression_encode()}, got {width} x "
                f"{height}; resize them with ImageScale, or use JoVA Image to Video, which fits them"
            )

    def _ready_for(self, num_pixels: int) -> Any:
        return self.ready(num_pixels * BYTES_PER_PIXEL)

    def _check_latents(self, samples: Tensor) -> None:
        if samples.ndim != 5 or samples.shape[1] != self.latent_channels or 0 in samples.shape:
            raise ValueError(
                f"`samples` must hold video latents [B, {self.latent_channels}, F, h, w] of this VAE, got "
                f"{list(samples.shape)}; connect the VAE of the model that made them"
            )

    def _decode(self, pipeline: Any, samples: Tensor) -> Tensor:
        frames = pipeline.decode_latents(pipeline.video_codec.normalize(samples))  # [B, 3, N, H, W] in [-1, 1]
        return to_socket((frames.float() / 2 + 0.5).movedim(1, -1))


class JovaAudioVAE(Component):
    """An audio VAE with its vocoder.

    Args:
        saved: The pipeline that they belong to.
    """

    latent_dim = 1

    def __init__(self, saved: Any) -> None:
        management = comfy.model_management
        devices = (management.vae_device(), management.vae_offload_device())
        super().__init__(saved, ("audio_vae", "vocoder"), *devices)
        self.outline = saved.outline()
        self.codec = self.outline.audio_codec  # for its rates and shapes; it has no weights
        self.latent_channels: int = self.codec.latent_channels

    def decode(self, samples: Any, vae_options: Any = None) -> Tensor:
        """Waveform [B, S, channels] of latents [B, C, L], or of the sound in nested ones."""
        latents = samples.unbind()[-1] if getattr(samples, "is_nested", False) else samples
        pipeline = self.ready()
        return to_socket(pipeline.decode_audio_latents(latents.transpose(1, 2)).float().transpose(1, 2))

    def encode(self, waveform: Tensor) -> Tensor:
        """Latents [B, C, L] of a waveform [B, S, channels] at the 44100 Hz of core's VAEEncodeAudio."""
        sound = jova("given_media").to_waveform_batch(waveform.movedim(-1, 1), self.codec.num_channels)
        resampled = jova("media").resample(sound.numpy(), ENCODER_RATE_HZ, self.codec.sampling_rate)
        return self.encode_sound(torch.from_numpy(resampled)).transpose(1, 2)

    def encode_sound(self, waveform: Tensor, name: str = "audio") -> Tensor:
        """Latents [B, L, C] of a waveform [B, channels, S] at the model's own rate and channels, from a socket."""
        pipeline = self.ready()
        latents = pipeline.audio_codec.encode(waveform.to(comfy.model_management.vae_device()), name)
        return to_socket(jova("finite").finite_output(latents, "audio_vae", "encodes"))


@contextmanager
def tiles(vae: Any, width: int, height: int, overlap: int) -> Iterator[None]:
    """Let a VAE of diffusers work in tiles.

    Args:
        vae: Of diffusers.
        width: Of a tile in pixels.
        height: Of a tile in pixels.
        overlap: Of two tiles in pixels.
    """
    vae.enable_tiling(height, width, height - overlap, width - overlap)
    try:
        yield
    finally:
        vae.disable_tiling()


def to_socket(tensor: Tensor) -> Tensor:
    """A tensor as sockets carry it: float32, on core's intermediate device."""
    return tensor.to(comfy.model_management.intermediate_device(), torch.float32)
