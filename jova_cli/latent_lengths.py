"""How many latents a clip has: of frames and of sound.

A causal video VAE keeps the first frame alone, then as many as its factor.
"""

import math
from typing import Literal, NamedTuple


Rounding = Literal["nearest", "up", "down"]


class AudioClock(NamedTuple):
    """How many latents a codec makes of a sound.

    Attributes:
        sampling_rate: Samples per second that it encodes.
        samples_per_latent: Samples that one latent stands for.
        rounding: Of a last latent that is not full: `"nearest"` keeps it from the half on, `"up"` fills it with
            silence, `"down"` drops it.
    """

    sampling_rate: int
    samples_per_latent: int
    rounding: Rounding = "nearest"

    @property
    def latent_rate_hz(self) -> float:
        """Latents per second."""
        return self.sampling_rate / self.samples_per_latent

    def num_latents(self, duration_s: float) -> int:
        """Latents of a clip, at least 1."""
        if self.rounding == "nearest":
            return max(1, math.floor(duration_s * self.latent_rate_hz + 0.5))
        num_samples = math.floor(duration_s * self.sampling_rate + 1e-6)  # a duration is a rounded fraction
        num_begun = num_samples + self.samples_per_latent - 1 if self.rounding == "up" else num_samples
        return max(1, num_begun // self.samples_per_latent)


def num_latent_frames(num_frames: int, temporal_factor: int) -> int:
    """Latent frames of a clip of `temporal_factor` * k + 1 frames, k + 1."""
    return (num_frames - 1) // temporal_factor + 1


def num_frames_of(num_latents: int, temporal_factor: int) -> int:
    """Frames of a clip of so many latent frames."""
    return (num_latents - 1) * temporal_factor + 1


def latent_of_frame(frame: int, temporal_factor: int) -> int:
    """Index of the latent frame that holds a frame, both counted from 0."""
    return (frame + temporal_factor - 1) // temporal_factor


def whole_frames(num_frames: int, temporal_factor: int) -> int:
    """The largest number of frames up to `num_frames` that fills whole latents; at least 1."""
    return num_frames_of(num_latent_frames(max(1, num_frames), temporal_factor), temporal_factor)


def num_frames_until(end_s: float, frame_rate: float, temporal_factor: int) -> int:
    """Frames of a clip that ends at a time, to the nearest latent.

    Args:
        end_s: In seconds.
        frame_rate: Frames per second.
        temporal_factor: Frames per latent after the first.
    """
    return num_frames_of(1 + round(end_s * frame_rate / temporal_factor), temporal_factor)


def check_whole_frames(num_frames: int, temporal_factor: int, name: str = "num_frames") -> None:
    """Refuse a number of frames that does not fill whole latents.

    Args:
        num_frames: Of a clip.
        temporal_factor: Frames per latent after the first.
        name: Of the argument.

    Raises:
        ValueError: With the nearest numbers that do.
    """
    if (below := whole_frames(num_frames, temporal_factor)) != num_frames:
        raise ValueError(
            f"`{name}` must be {temporal_factor}k + 1 (the video VAE compresses time by {temporal_factor}), "
            f"got {num_frames}; use {below} or {below + temporal_factor}"
        )


def check_frames_fill_rows(num_frames: int, temporal_factor: int, patch: int) -> None:
    """Refuse a number of frames whose latents do not fill the rows of a transformer.

    Args:
        num_frames: Of a clip, that fill whole latents.
        temporal_factor: Frames per latent after the first.
        patch: Latent frames per row, the first of `patch_size`.

    Raises:
        ValueError: With the nearest number that does.
    """
    if (num_latents := num_latent_frames(num_frames, temporal_factor)) % patch:
        near = num_frames_of(max(patch, num_latents // patch * patch), temporal_factor)
        raise ValueError(
            f"`num_frames` must make a multiple of {patch} latents, as many as `patch_size` puts into a row, got "
            f"{num_frames}, which make {num_latents}; use {near}"
        )
