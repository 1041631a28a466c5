"""Temporal-aligned RoPE: one clock for video, audio and text tokens.

JoVA (arXiv:2512.13677v1), Sec. 3.2.1. Every token has a float position (t, h, w): video (f, h, w), audio (p, 0, 0),
text (0, 0, 0). A zero position is a zero rotation, so audio rotates the temporal pairs only and text none. The unit of
time is one video latent, which leaves the positions of pretrained video weights as they are; audio is mapped onto it.

Letters in shapes: L tokens, K head dimension, B batch, H heads.
"""

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .number_arguments import finite_number, whole_number


TemporalAlignment = float | Literal["time", "none"]


def video_positions(num_latent_frames: int, height: int, width: int, device: torch.device) -> Tensor:
    """Integer grid positions (f, h, w) of video tokens, frame-major: float32 [L, 3]."""
    axes = (torch.arange(size, device=device, dtype=torch.float32) for size in (num_latent_frames, height, width))
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 2)


def audio_positions(
    num_audio_latents: int,
    alignment: TemporalAlignment,
    frame_rate: float,
    audio_latent_rate_hz: float,
    temporal_factor: int,
    device: torch.device,
) -> Tensor:
    """Positions (p, 0, 0) of audio tokens in units of video latents: float32 [L, 3].

    `"time"` puts audio latent j at the video position of its middle, t = (j + 1/2) / audio_latent_rate_hz. With r the
    temporal factor and f the frame rate, video latent 0 holds frame 0 and latent i >= 1 the frames r*(i-1)+1 .. r*i,
    so their middles are 1 / (2 f) and (r*i - r/2 + 1) / f; between them p is linear, and the outer segments go on.
    A number is a fixed factor, p = number * j (Ovi 0.19676, NAVA 0.24); `"none"` is p = j, the ablation of Table 4.

    Args:
        num_audio_latents: L.
        alignment: `"time"`, `"none"` or the fixed factor.
        frame_rate: Frames per second of the video.
        audio_latent_rate_hz: Audio latents per second.
        temporal_factor: Frames per video latent, r.
        device: Where the positions are needed.

    Raises:
        ValueError: The alignment is none, a rate is none, by which every position would be wrong, or there are fewer
            than 0 latents.
    """
    check_alignment(alignment)
    check_rates(frame_rate, audio_latent_rate_hz)
    whole_number("num_audio_latents", num_audio_latents, least=0)
    index = torch.arange(num_audio_latents, device=device, dtype=torch.float32)
    if alignment == "time":
        frames = (index + 0.5) * (frame_rate / audio_latent_rate_hz)  # the clip's time, counted in frames
        first_segment = (frames - 0.5) / (temporal_factor / 2 + 0.5)
        later_segments = (frames - 1) / temporal_factor + 0.5
        position = torch.minimum(first_segment, later_segments)  # they cross at the middle of latent 1
    else:
        position = index if alignment == "none" else index * alignment
    return torch.stack([position, torch.zeros_like(position), torch.zeros_like(position)], dim=-1)


def check_rates(frame_rate: float, audio_latent_rate_hz: float) -> None:
    """Refuse what is no rate of a whole batch, in Hz.

    Raises:
        ValueError: Naming the argument.
    """
    for name, rate_hz in (("frame_rate", frame_rate), ("audio_latent_rate_hz", audio_latent_rate_hz)):
        is_one = rate_hz.numel() == 1 if isinstance(rate_hz, Tensor) else isinstance(rate_hz, Real)
        if not is_one or isinstance(rate_hz, bool) or not 0 < rate_hz < math.inf:  # written so that NaN fails as well
            raise ValueError(f"`{name}` must be positive and finite, in Hz, got {rate_hz!r}; give that of the clip")


def check_alignment(alignment: TemporalAlignment) -> None:
    """Refuse a word that is no alignment, and what is no positive number: time would stand still, or go back."""
    if alignment in ("time", "none"):
        return
    if isinstance(alignment, bool) or not isinstance(alignment, Real):
        raise ValueError(f"`temporal_alignment` must be 'time', 'none' or a number, got {alignment!r}")
    if finite_number("temporal_alignment", alignment, "'time' is exact") <= 0:
        raise ValueError(f"`temporal_alignment` must be positive, got {alignment}; 'time' is exact")


def check_axes_dim(name: str, axes_dim: Sequence[int]) -> None:
    """Refuse what is no number of channels, a multiple of 2, for each of (t, h, w).

    Args:
        name: Argument that they are given as.
        axes_dim: Channels of a head that rotate with each.

    Raises:
        ValueError: Naming the argument.
    """
    given = list(axes_dim) if isinstance(axes_dim, Sequence) else axes_dim
    if not isinstance(given, list) or len(given) != 3 or any(not _is_count(dim) for dim in given):
        raise ValueError(f"`{name}` must be three even numbers from 0 on, one for each of (t, h, w), got {given}")
    if any(dim % 2 for dim in given):
        raise ValueError(f"`{name}` must be even numbers, got {given}; rotation works on pairs")


def _is_count(value: Any) -> bool:
    """Whether a value is a whole number from 0 on."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 0


def media_positions(
    modality: str,
    grid: tuple[int, ...],
    alignment: TemporalAlignment,
    frame_rate: float,
    audio_latent_rate_hz: float,
    temporal_factor: int,
    device: torch.device,
) -> Tensor:
    """Positions of the rows of video or audio on a grid, [L, 3]; arguments as in `audio_positions`.

    Raises:
        ValueError: A rate is none, by which every position would be wrong.
    """
    check_rates(frame_rate, audio_latent_rate_hz)
    if modality == "video":
        return video_positions(grid[0], grid[1], grid[2], device)
    return audio_positions(grid[0], alignment, frame_rate, audio_latent_rate_hz, temporal_factor, device)


def text_positions(num_text_tokens: int, device: torch.device) -> Tensor:
    """The zero position of text tokens: float32 [L, 3]."""
    return torch.zeros(num_text_tokens, 3, device=device)


class JoVARotaryPosEmbed(nn.Module):
    """Rotation of interleaved channel pairs by float positions on three axes.

    A module, not a function, because context parallelism splits the outputs of modules. It has no buffer: one would be
    rounded by `model.to(torch.bfloat16)`.

    Args:
        axes_dim: Channels of one head that rotate with (t, h, w); even numbers whose sum is the head dimension.
        theta: Base of the frequencies.
    """

    def __init__(self, axes_dim: tuple[int, int, int], theta: float) -> None:
        super().__init__()
        check_axes_dim("rope_axes_dim", axes_dim)
        self.frequencies = [theta ** (-2 * pair / dim) for dim in axes_dim for pair in range(dim // 2)]
        self.axis_of_pair = [axis for axis, dim in enumerate(axes_dim) for _ in range(dim // 2)]

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines, float32 [L, K/2] each, of positions [L, 3]."""
        frequencies = torch.tensor(self.frequencies, device=positions.device, dtype=torch.float32)
        axis_of_pair = torch.tensor(self.axis_of_pair, device=positions.device)
        angles = positions.index_select(1, axis_of_pair) * frequencies
        return angles.cos(), angles.sin()


def apply_rotary_emb(hidden_states: Tensor, rotary_emb: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate the pairs (2i, 2i + 1) of queries or keys [B, L, H, K] by cosines and sines [L, K/2], in float32."""
    cos, sin = (part[:, None] for part in rotary_emb)  # [L, 1, K/2]
    x, y = hidden_states.float().unflatten(-1, (-1, 2)).unbind(-1)
    rotated = torch.addcmul(x * cos, y, sin, value=-1), torch.addcmul(x * sin, y, cos)
    return torch.stack(rotated, dim=-1).flatten(-2).type_as(hidden_states)


def paired_rows(rows: Tensor, head_dim: int) -> Tensor:
    """Rows of queries or keys [H * K, ...] whose heads hold two halves, as pairs of one channel of each half.

    A head that rotates its halves, (i, i + K / 2), then rotates pairs, (2 i, 2 i + 1), as ours do.
    """
    return rows.unflatten(0, (-1, 2, head_dim // 2)).transpose(1, 2).flatten(0, 2)
