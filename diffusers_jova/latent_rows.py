"""Latents as rows of a transformer: the grid that they lie on, and the way back from rows to latents.

Letters in shapes: B batch, C channels, F latent frames, H, W latent height and width, L rows, D width of a row, U
width of a unit.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def present_media(video: Tensor | None, audio: Tensor | None) -> dict[str, Tensor]:
    """Latents by modality, without an absent one; at least one has to be there, and all have to be tensors."""
    media = {name: latents for name, latents in (("video", video), ("audio", audio)) if latents is not None}
    if not media:
        raise ValueError("`hidden_states` and `audio_hidden_states` must not both be None; pass one modality")
    for name, latents in media.items():
        check_tensor("hidden_states" if name == "video" else "audio_hidden_states", latents)
    return media


def check_tensor(name: str, value: Any) -> None:
    """Refuse what is no tensor, such as an array or a list."""
    if not isinstance(value, Tensor):
        raise ValueError(f"`{name}` must be a tensor, got {type(value).__name__}; `torch.as_tensor` makes one")


def video_grid(latents: Tensor, in_channels: int, patch_size: tuple[int, int, int]) -> tuple[int, ...]:
    """Rows along (frames, height, width) of video latents, after checking that they are [B, in_channels, F, H, W]."""
    if latents.ndim != 5 or latents.shape[1] != in_channels:
        raise ValueError(f"`hidden_states` must be [B, {in_channels}, F, H, W], got {list(latents.shape)}")
    sizes = latents.shape[2:]
    if any(size % patch for size, patch in zip(sizes, patch_size, strict=True)):
        raise ValueError(
            f"`hidden_states` must have frames, height and width divisible by {list(patch_size)}, got {list(sizes)}"
        )
    return tuple(size // patch for size, patch in zip(sizes, patch_size, strict=True))


def audio_grid(latents: Tensor, in_channels: int) -> tuple[int, ...]:
    """Rows of audio latents, after checking that they are [B, L, in_channels]."""
    if latents.ndim != 3 or latents.shape[2] != in_channels:
        raise ValueError(f"`audio_hidden_states` must be [B, L, {in_channels}], got {list(latents.shape)}")
    return (latents.shape[1],)


def batch_size_of(media: Mapping[str, Tensor]) -> int:
    """B, the samples of latents by modality, after checking that it is one number and that no latents are empty."""
    for name, latents in media.items():
        if latents.numel() == 0:
            argument = "hidden_states" if name == "video" else "audio_hidden_states"
            raise ValueError(
                f"`{argument}` must hold latents, got {list(latents.shape)}; pass None for a modality that is absent"
            )
    batch_sizes = [latents.shape[0] for latents in media.values()]
    if batch_sizes[0] != batch_sizes[-1]:
        raise ValueError(
            f"`hidden_states` and `audio_hidden_states` must be of one batch, got {batch_sizes[0]} and "
            f"{batch_sizes[-1]} samples; repeat or leave out those of one"
        )
    return batch_sizes[0]


def check_timestep(branch: str, timestep: Tensor, batch_size: int, num_latents: int, is_of_video: bool) -> None:
    """Refuse timesteps of a branch that are neither [batch_size] nor [batch_size, num_latents].

    Args:
        branch: Modality.
        timestep: Its own, or the video's.
        batch_size: B.
        num_latents: Of the branch.
        is_of_video: Whether they are the video's, of whose latents the audio has none.
    """
    name = "timestep" if branch == "video" else "audio_timestep"
    is_tensor = isinstance(timestep, Tensor)
    allowed = [[batch_size]] if is_of_video else [[batch_size], [batch_size, num_latents]]
    if not is_tensor or list(timestep.shape) not in allowed:
        got = list(timestep.shape) if is_tensor else repr(timestep)
        advice = f"; `torch.full(({batch_size},), timestep)`, say"
        if is_of_video and is_tensor and timestep.ndim == 2:
            advice = ", the `timestep` of the video; give `audio_timestep` beside it"
        raise ValueError(
            f"`{name}` must be a tensor [{batch_size}], one per sample, or [{batch_size}, {num_latents}], one per "
            f"latent, got {got}{advice}"
        )


def unpatchify(rows: Tensor, grid: tuple[int, ...], patch_size: tuple[int, int, int]) -> Tensor:
    """Rows [B, L, patch * C] back to latents [B, C, F, H, W]."""
    latents = rows.unflatten(2, (*patch_size, -1)).unflatten(1, grid)  # [B, f, h, w, pf, ph, pw, C]
    return latents.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(2, 3)


def pack(rows: Mapping[str, Tensor], unit: int) -> Tensor:
    """Rows [B, L, D] of towers of different widths as units [B, units, U]."""
    return torch.cat([part.reshape(part.shape[0], -1, unit) for part in rows.values()], dim=1)


def unpack(packed: Tensor, num_rows: Mapping[str, int], dims: Mapping[str, int]) -> dict[str, Tensor]:
    """Views of the rows [B, L, D] of each tower in units [B, units, U]."""
    sizes = {name: number * dims[name] // packed.shape[2] for name, number in num_rows.items()}
    parts = packed.split(list(sizes.values()), dim=1)
    return {name: part.reshape(packed.shape[0], -1, dims[name]) for name, part in zip(sizes, parts, strict=True)}
