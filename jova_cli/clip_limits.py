"""How long and how large the clips of a transformer with learned positions can be, from its config."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple


class ClipLimits(NamedTuple):
    """The largest clip.

    Attributes:
        num_frames: Frames.
        height: Pixels.
        width: Pixels.
        num_audio_latents: Latents of its sound.
    """

    num_frames: int
    height: int
    width: int
    num_audio_latents: int

    def longest(self, frame_rate: float, audio_latent_rate_hz: float | None, temporal_factor: int) -> int:
        """Frames of the longest clip with sound at a frame rate; of that without where no rate of latents is given."""
        if audio_latent_rate_hz is None:
            return self.num_frames
        sound_s = (self.num_audio_latents + 0.5) / audio_latent_rate_hz  # lengths are rounded to latents
        num_sounding = max(1, math.ceil(sound_s * frame_rate) - 1)
        return min(self.num_frames, (num_sounding - 1) // temporal_factor * temporal_factor + 1)


def clip_limits(transformer: Mapping[str, Any], temporal_factor: int, spatial_factor: int) -> ClipLimits | None:
    """The largest clip of a transformer; None where positions are computed, which have no end.

    Args:
        transformer: Its config.
        temporal_factor: Frames per latent after the first.
        spatial_factor: Pixels per latent cell.
    """
    tables = transformer.get("position_table_sizes")
    if tables is None:
        return None
    rows = [size * patch for size, patch in zip(tables, transformer["patch_size"], strict=True)]
    return ClipLimits(
        num_frames=(rows[0] - 1) * temporal_factor + 1,
        height=rows[1] * spatial_factor,
        width=rows[2] * spatial_factor,
        num_audio_latents=transformer["audio_position_table_size"],
    )


def rounded_down(seconds: float) -> float:
    """Seconds with two decimals that are no more than they are."""
    return math.floor(seconds * 100) / 100
