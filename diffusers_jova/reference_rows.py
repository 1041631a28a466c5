"""References in front of a clip: the latent of an image, and the latents of a voice, as UniAVGen has them.

They pass the blocks with the rows of the clip, and what is predicted for them is dropped.

Letters in shapes: B batch, C channels, F latent frames, H, W latent height and width, L rows of a modality, R latents
of a voice.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .joint_transformer import ModalityInput
from .latent_rows import check_tensor


def reads_references(config: Mapping[str, Any]) -> bool:
    """Whether a transformer reads an image and a voice in front of a clip, by its config."""
    return config.get("fusion") == "aligned"


class ClipRows(NamedTuple):
    """Where the rows of the clip lie in those of a modality, on all devices together.

    Args:
        num_before: Rows in front of them.
        num_rows: Rows of the clip.
    """

    num_before: int
    num_rows: int

    def cut(self, rows: Tensor) -> Tensor:
        """Those of the clip, of rows [B, all, ...]."""
        return rows[:, self.num_before : self.num_before + self.num_rows]

    def put_back(self, rows: Tensor, num_all: int) -> Tensor:
        """Rows of the clip [B, num_rows, H, K] among zeros."""
        behind = num_all - self.num_before - self.num_rows
        return F.pad(rows, (0, 0, 0, 0, self.num_before, behind))


class JoVAUpdatedRows(nn.Module):
    """Rows that an aligned fusion updates: those of the clip that are noisy; a module like `JoVARowLevels`."""

    def forward(self, timestep: Tensor, grid: tuple[int, ...], num_before: int) -> Tensor:
        """Bool [B, L] for timesteps [B] or [B, latents] of a grid, whose first rows are references."""
        noisy = (timestep[:, None] if timestep.ndim == 1 else timestep) > 0
        noisy = noisy.expand(-1, grid[0]).repeat_interleave(math.prod(grid[1:]), dim=1)
        return noisy & (torch.arange(noisy.shape[1], device=noisy.device) >= num_before)


def with_references(
    inputs: Mapping[str, ModalityInput], references: Mapping[str, Tensor | None], fusion: str
) -> tuple[dict[str, ModalityInput], dict[str, ClipRows]]:
    """Put references in front of the clips that an aligned fusion couples, and tell where these then lie."""
    for name, reference in references.items():
        if reference is not None:
            check_tensor(f"{'' if name == 'video' else 'audio_'}reference_hidden_states", reference)
        if reference is not None and (fusion != "aligned" or name not in inputs):
            prefix = "" if name == "video" else "audio_"
            raise ValueError(
                f"`{prefix}reference_hidden_states` must go with that modality and a model of `fusion` 'aligned', "
                f"got {list(reference.shape)} for '{fusion}'; leave it out"
            )
    whole, clip = {}, {}
    for name, part in inputs.items():
        if fusion == "aligned":
            whole[name] = (behind_image if name == "video" else behind_voice)(part, references[name])
        else:
            whole[name] = part
        clip[name] = ClipRows(whole[name].num_rows - part.num_rows, part.num_rows)
    return whole, clip


def behind_image(part: ModalityInput, reference: Tensor | None) -> ModalityInput:
    """Video behind the latent of a reference image, or behind a copy of its own first latent."""
    timestep = part.timestep
    if reference is None:
        reference = part.latents[:, :, :1]
        timestep = timestep if timestep.ndim == 1 else torch.cat([timestep[:, :1], timestep], dim=1)
    else:
        expected = (*part.latents.shape[:2], 1, *part.latents.shape[3:])
        if reference.shape != expected:
            raise ValueError(
                f"`reference_hidden_states` must be {list(expected)}, got {list(reference.shape)}; encode one image "
                "of the clip's size"
            )
        timestep = timestep if timestep.ndim == 2 else timestep[:, None].expand(-1, part.grid[0])
        timestep = torch.cat([torch.zeros_like(timestep[:, :1]), timestep], dim=1)
    latents = torch.cat([reference.to(part.latents), part.latents], dim=2)
    return part._replace(latents=latents, grid=(part.grid[0] + 1, *part.grid[1:]), timestep=timestep)


def behind_voice(part: ModalityInput, reference: Tensor | None) -> ModalityInput:
    """Audio behind the latents of a reference voice, if there is one."""
    if reference is None:
        return part
    if reference.ndim != 3 or reference[:, 0].shape != part.latents[:, 0].shape:
        batch_size, _, channels = part.latents.shape
        raise ValueError(
            f"`audio_reference_hidden_states` must be [{batch_size}, R, {channels}], got {list(reference.shape)}"
        )
    num_before, timestep = reference.shape[1], part.timestep
    if timestep.ndim == 2:
        timestep = torch.cat([timestep.amax(1, keepdim=True).expand(-1, num_before), timestep], dim=1)
    latents = torch.cat([reference.to(part.latents), part.latents], dim=1)
    return part._replace(latents=latents, grid=(part.grid[0] + num_before,), timestep=timestep)
