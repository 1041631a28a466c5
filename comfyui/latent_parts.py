"""Video and sound among the latents of a batch, and the noise level of each of their latents.

Letters in shapes: B batch, C channels, F latent frames, h, w latent height and width, L audio latents.
"""

from collections.abc import Sequence
from typing import Any

import comfy.utils
import torch
from torch import Tensor


MODALITIES = ("video", "audio")


def named_parts(parts: Sequence[Any]) -> tuple[Any, Any]:
    """Video and sound among latents or their shapes, by their number of axes; None where one is absent."""
    axes = {len(part) if isinstance(part, torch.Size | list | tuple) else part.ndim: part for part in parts}
    if not axes or {*axes} - {3, 5} or len(axes) < len(parts):
        raise ValueError(
            f"`latent_image` must hold video [B, C, F, h, w] and sound [B, C, L], got {len(parts)} parts of "
            f"{sorted(axes)} axes; use Empty JoVA Latent"
        )
    return axes.get(5), axes.get(3)


def modality_names(parts: Sequence[Any]) -> tuple[str, ...]:
    """Modalities among latents or their shapes."""
    return tuple(name for name, part in zip(MODALITIES, named_parts(parts), strict=True) if part is not None)


def generated_names(mask: Tensor | None, shapes: Sequence[Sequence[int]]) -> tuple[str, ...]:
    """Modalities of which something is generated.

    Args:
        mask: Denoise mask, packed as the latents are; 0 is given. None where all is generated.
        shapes: Of the latents.
    """
    if mask is None:
        return modality_names(shapes)
    parts = zip(MODALITIES, named_parts(comfy.utils.unpack_latents(mask, shapes)), strict=True)
    return tuple(name for name, part in parts if part is not None and bool(part.any()))


def video_or(audio: Tensor | None, video: Tensor | None) -> Tensor:
    """Whichever modality is there."""
    found = video if video is not None else audio
    assert found is not None
    return found


def on_device(value: Tensor | None, beside: Tensor) -> Tensor | None:
    """A mask on the device of another tensor."""
    return None if value is None else value.to(beside.device)


def at_share(sigma: Tensor, share: Tensor | None) -> Tensor:
    """Noise levels per latent [B, F or L] of a level per clip [B]; the latter where all latents have it."""
    return sigma if share is None else sigma[:, None] * share.to(sigma)


def imposed(video: Tensor, pictures: Tensor, is_picture: Tensor) -> Tensor:
    """Video latents [B, C, F, h, w] with clean ones in the place of those that hold pictures, bool [B, F]."""
    return torch.where(is_picture[:, None, :, None, None], pictures.to(video), video)


def clean_where(sigma: Tensor, is_picture: Tensor) -> Tensor:
    """Noise levels per latent frame [B, F], 0 where one holds a picture, bool [B, F]."""
    levels = sigma[:, None].expand(-1, is_picture.shape[1]) if sigma.ndim == 1 else sigma
    return torch.where(is_picture, torch.zeros_like(levels), levels)
