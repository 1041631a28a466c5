"""What turns clips into what the transformer sees: a pipeline's codecs and text encoders, without its transformer.

Letters: C latent channels, F latent frames, h x w latent cells, L audio latents, S prompt tokens, D feature width.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from diffusers_jova import JoVAPipeline
from diffusers_jova.media import mix_channels, resample
from diffusers_jova.origin import digest_path
from diffusers_jova.pipeline_media import among_grey
from diffusers_jova.prompt import JoVAPrompt
from diffusers_jova.prompt_encoder import said_by
from diffusers_jova.spoken_text import NOTHING
from jova_cli.model_clips import read_geometry
from jova_cli.model_info import read_index


IMAGE_FIRST = ("starts_white", "needs_image")  # config of a pipeline that never begins without an image
FIRST_FRAMES = ("fills_image_with_grey", *IMAGE_FIRST)  # config of the pipeline, in each header
TEXT_PARTS = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "spoken_text_encoder", "spoken_tokenizer")
ENCODER_PARTS = ("vae", "audio_vae", *TEXT_PARTS)


class Encoder:
    """The encoders of a pipeline.

    Args:
        pipeline: A `JoVAPipeline`; its transformer may be missing.
        dtype: Number format of the results.
    """

    def __init__(self, pipeline: Any, dtype: torch.dtype = torch.bfloat16) -> None:
        self.pipeline, self.dtype = pipeline, dtype
        self.video_codec, self.audio_codec = pipeline.video_codec, pipeline.audio_codec

    @classmethod
    def from_pretrained(cls, model: Path, device: str = "cpu", dtype: torch.dtype = torch.bfloat16) -> Encoder:
        """Load the encoders of a saved pipeline, each in the number format that it was saved in."""
        pipeline = JoVAPipeline.from_pretrained(model, transformer=None)
        return cls(pipeline.to(device), dtype)

    @torch.inference_mode()
    def encode_video(self, frames: NDArray[np.uint8]) -> Tensor:
        """Encode frames, uint8 [frames, H, W, 3], to normalised latents [C, F, h, w]."""
        return self._store(self.video_codec.encode(_pixels(frames))[0])

    @torch.inference_mode()
    def encode_image(self, image: NDArray[np.uint8], num_frames: int = 1) -> Tensor:
        """Encode the first frame of a clip as the pipeline does.

        Args:
            image: uint8 [H, W, 3].
            num_frames: Frames of the clip.

        Returns:
            Normalised latents [C, 1, h, w], or [C, F, h, w] where the pipeline puts grey frames behind the first.
        """
        pixels = _pixels(image[None])
        if self.pipeline.config.fills_image_with_grey:
            pixels = F.pad(pixels, (0, 0, 0, 0, 0, num_frames - 1))  # 0 is grey in [-1, 1]
        return self._store(self.video_codec.encode(pixels)[0])

    @torch.inference_mode()
    def encode_keyframes(self, frames: NDArray[np.uint8], image: NDArray[np.uint8], seed: int) -> dict[str, Tensor]:
        """Encode frames of a clip as the pipeline does with pictures for them.

        That is the last frame of each latent behind the first; where the pipeline encodes pictures at their frames
        among grey ones, and each choice of frames is an encoding of its own, those of `draw_given`.

        Args:
            frames: uint8 [frames, H, W, 3], of two latents or more.
            image: Of the first frame, uint8 [H, W, 3].
            seed: Of the choice.

        Returns:
            `keyframe_latents`, normalised latents [C, F - 1, h, w], or [C, F, h, w] among grey frames and beside them
            `keyframe_frames`, bool [frames], which are given.
        """
        if self.pipeline.config.fills_image_with_grey:
            begins_without = not any(self.pipeline.config[name] for name in IMAGE_FIRST)
            chosen = draw_given(len(frames), begins_without, seed)
            pictures = {frame: _pixels((frames[frame] if frame else image)[None]) for frame in chosen}
            latents = self.video_codec.encode(among_grey(pictures, len(frames)))[0]
            is_given = torch.zeros(len(frames), dtype=torch.bool)
            is_given[chosen] = True
            return {"keyframe_latents": self._store(latents), "keyframe_frames": is_given}
        factor = self.video_codec.temporal_factor
        ends = [self.video_codec.encode_still(_pixels(frame[None])) for frame in frames[factor::factor]]
        return {"keyframe_latents": self._store(torch.cat(ends, dim=2)[0])}

    @torch.inference_mode()
    def encode_audio(self, waveform: NDArray[np.float32], sampling_rate: int, duration_s: float) -> Tensor:
        """Encode sound to as many latents as a clip of `duration_s` has.

        Args:
            waveform: float32 [channels, samples] in [-1, 1], about `duration_s` long.
            sampling_rate: Samples per second.
            duration_s: Of the clip, in seconds.

        Returns:
            [L, C], scaled as the transformer sees them.
        """
        codec = self.audio_codec
        num_latents = codec.num_latents_for(duration_s)
        num_samples = codec.num_samples_for(num_latents)
        sound = resample(mix_channels(waveform, codec.num_channels), sampling_rate, codec.sampling_rate)
        sound = sound[:, :num_samples]  # rounding to whole latents cuts or lacks half a latent at most
        padded = np.pad(sound, ((0, 0), (0, num_samples - sound.shape[1])))
        latents = codec.encode(torch.from_numpy(padded)[None].to(self.pipeline.audio_vae.device))
        return self._store(latents[0, :num_latents])

    @torch.inference_mode()
    def encode_prompt(self, prompt: JoVAPrompt | str) -> dict[str, Tensor]:
        """Encode a prompt to the tensors of a record.

        Returns:
            Features [S, D] and mask [S] of one text encoder or of both, and `spoken_embeds` [S3, D3] where the sound
            of the model reads what is said.
        """
        return self._read(prompt, self.said_by(prompt))

    @torch.inference_mode()
    def encode_empty_prompt(self) -> dict[str, Tensor]:
        """Encode what predictions without the prompt read, likewise."""
        return self._read("", NOTHING)

    @torch.inference_mode()
    def encode_with_voice(self, said: str, voice: str) -> dict[str, Tensor]:
        """Encode what is said behind what the voice in front of it says, and that alone, as the sound reads them.

        Returns:
            `voice_spoken_embeds` and `voice_empty_embeds`, [S3, D3] each.
        """
        names = {"voice_spoken_embeds": said, "voice_empty_embeds": NOTHING}
        texts = self.pipeline.joined_texts("transcript", list(names.values()), voice)
        rows = [self.pipeline.encode_spoken("transcript", [text])[0][0] for text in texts]
        return {name: self._store(one) for name, one in zip(names, rows, strict=True)}

    @property
    def reads_transcripts(self) -> bool:
        """Whether the sound reads what is said alone, and the picture the rest of a prompt."""
        return bool(self.pipeline.reads_transcripts)

    def said_by(self, prompt: JoVAPrompt | str) -> str:
        """What is said, where the sound reads it; else empty."""
        return said_by(prompt)[0] if self.reads_transcripts else ""

    def check_said(self, prompt: JoVAPrompt | str) -> None:
        """Refuse characters that the model cannot say."""
        self.pipeline.check_said(prompt)

    def _read(self, prompt: JoVAPrompt | str, said: str) -> dict[str, Tensor]:
        embeds = self.pipeline.encode_read(prompt, [said], 1, self.pipeline.defaults.max_sequence_length)
        features = {
            "prompt_embeds": embeds.features,
            "prompt_embeds_2": embeds.features_2,
            "spoken_embeds": embeds.audio_features,
        }
        masks = {"prompt_mask": embeds.mask, "prompt_mask_2": embeds.mask_2}  # of one text alone no row is padding
        tensors = {name: self._store(value[0]) for name, value in features.items() if value is not None}
        return tensors | {name: mask[0].cpu() for name, mask in masks.items() if mask is not None}

    def _store(self, tensor: Tensor) -> Tensor:
        return tensor.to("cpu", self.dtype).clone()


def draw_given(num_frames: int, begins_without: bool, seed: int) -> list[int]:
    """Draw frames of a clip to be given: the last, any behind the first, or both, each in a third of the seeds.

    Args:
        num_frames: Of the clip, several.
        begins_without: Whether the first frame is left out of half of the draws; else it is given in all.
        seed: Of the draw.
    """
    generator = np.random.default_rng(seed)
    kind, anywhere = generator.integers(3), int(generator.integers(1, num_frames))
    first = {0} if generator.random() < 0.5 or not begins_without else set()
    behind = {0: {num_frames - 1}, 1: {anywhere}, 2: {anywhere, num_frames - 1}}[int(kind)]
    return sorted(first | behind)


def _pixels(frames: NDArray[np.uint8]) -> Tensor:
    """Frames uint8 [frames, H, W, 3] as the codec reads them, [1, 3, frames, H, W] in [-1, 1]."""
    return torch.from_numpy(frames).movedim(3, 0)[None] / 127.5 - 1


def video_factors(model: Path) -> tuple[int, int, int]:
    """Read pixels per latent cell, frames per latent, and the multiple of pixels that the transformer takes."""
    read_index(model)
    if (geometry := read_geometry(model)) is None:
        raise ValueError(
            f"`model` must be a pipeline with a video VAE, got `{model}` without one; add its folder `vae`"
        )
    return geometry.spatial_factor, geometry.temporal_factor, geometry.spatial_factor * geometry.patch_size[-1]


def fingerprint_model(model: Path) -> str:
    """Digest what decides the encodings, on any machine: the index and the files of the encoders."""
    parts = [f"{part} {digest_path(model / part)}" for part in ENCODER_PARTS if (model / part).is_dir()]
    return hashlib.sha256((model / "model_index.json").read_bytes() + " ".join(parts).encode()).hexdigest()
