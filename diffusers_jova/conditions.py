"""Conditions of the model besides text: pictures on the channel axis, and clean latents at timestep 0.

Letters in shapes: B batch, C channels, F latent frames, H, W latent height and width, L audio latents, M channels of a
mask.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from jova_cli.latent_lengths import num_frames_of

from .flow_matching import check_axes
from .number_arguments import whole_number


def condition_channels(
    latents: Tensor, image_latents: Tensor | None, num_mask_channels: int, mask: Tensor | None = None
) -> Tensor:
    """Channels behind the noisy video latents: the latents of given pictures and the mask of what is given.

    JoVA (arXiv:2512.13677v1), Sec. 3.2.1 concatenates the reference image's VAE latent on the channel axis. It stands
    at latent frame 0 with mask 1; latent frames without an image hold zeros, the mean latent, with mask 0. Wan and
    MOVA encode the image with grey frames behind it, and latent frames without an image hold those.

    Args:
        latents: Video latents [B, C, F, H, W]; gives shape, dtype and device.
        image_latents: Normalised latent of the reference image [B, C, 1, H, W], or of the pictures of the clip with
            grey frames or zeros among them [B, C, F, H, W]; None without one.
        num_mask_channels: Channels of the mask, M.
        mask: What is given, [M, F], or [B, M, F] of each clip, see `frame_mask`; None for the first latent frame.

    Returns:
        [B, C + num_mask_channels, F, H, W].

    Raises:
        ValueError: A shape does not fit.
    """
    check_axes("latents", latents, "video")
    num_mask_channels = whole_number("num_mask_channels", num_mask_channels, least=0)
    if image_latents is not None:
        check_pictures(latents, image_latents, num_mask_channels, mask)
    elif mask is not None:
        raise ValueError("`mask` must be None without `image_latents`, got one; it marks what is given")
    batch_size, num_channels, *sizes = latents.shape
    channels = latents.new_zeros(batch_size, num_channels + num_mask_channels, *sizes)
    if image_latents is not None:
        channels[:, :num_channels, : image_latents.shape[2]] = image_latents
        if mask is None:
            channels[:, num_channels:, :1] = 1
        else:
            channels[:, num_channels:] = mask.to(channels)[..., None, None]
    return channels


def check_pictures(latents: Tensor, image_latents: Tensor, num_mask_channels: int, mask: Tensor | None) -> None:
    """Refuse pictures that do not lie in video latents, and a mask of another shape than theirs; see above."""
    check_axes("image_latents", image_latents, "video")
    batch_size, num_channels, num_frames, *sizes = latents.shape
    wanted = [batch_size, num_channels, 1, *sizes]
    found = [*image_latents.shape[:2], 1, *image_latents.shape[3:]]
    if found not in (wanted, [1, *wanted[1:]]) or not 1 <= image_latents.shape[2] <= num_frames:
        raise ValueError(
            f"`image_latents` must be {wanted}, or with as many as {num_frames} latent frames, got "
            f"{list(image_latents.shape)}; encode pictures of the clip's size"
        )
    rows = [num_mask_channels, num_frames]
    if mask is not None and list(mask.shape) not in (rows, [1, *rows], [batch_size, *rows]):
        raise ValueError(
            f"`mask` must be {rows} or {[batch_size, *rows]}, got {list(mask.shape)}; `frame_mask` makes one"
        )
    if mask is None and image_latents.shape[2] not in (1, num_frames):
        raise ValueError(
            f"`image_latents` must have 1 or {num_frames} latent frames without a `mask`, got "
            f"{image_latents.shape[2]}; `frame_mask` marks which are given"
        )


def frame_mask(
    frames: Iterable[int], num_latent_frames: int, temporal_factor: int, num_channels: int, by_frame: bool
) -> Tensor:
    """Mask [M, F] of the frames of a clip that are given; see `mask_of_frames`.

    Args:
        frames: That are given, from 0.
        num_latent_frames: Of the clip, F.
        temporal_factor: Frames per latent after the first.
        num_channels: Of the mask, M.
        by_frame: Whether a channel stands for a frame.
    """
    is_given = torch.zeros(num_frames_of(num_latent_frames, temporal_factor), dtype=torch.bool)
    is_given[list(frames)] = True
    return mask_of_frames(is_given, temporal_factor, num_channels, by_frame)


def mask_of_frames(is_given: Tensor, temporal_factor: int, num_channels: int, by_frame: bool) -> Tensor:
    """Mask of the frames of clips that are given.

    Wan2.1's FLF2V and I2V (`WanImageToVideoPipeline`) have a mask channel for each frame of a latent; latent 0 holds
    one frame, which counts for all.

    Args:
        is_given: Bool per frame of whole latents, [..., N].
        temporal_factor: Frames per latent after the first.
        num_channels: Of the mask, M.
        by_frame: Whether a channel stands for a frame where there are as many; otherwise all of a latent counts as
            given where one of its frames is.

    Returns:
        Bool [..., M, F].
    """
    clips, num_frames = is_given.shape[:-1], is_given.shape[-1]
    first = is_given[..., :1, None].expand(*clips, 1, temporal_factor)
    later = is_given[..., 1:].reshape(*clips, (num_frames - 1) // temporal_factor, temporal_factor)
    by_latent = torch.cat([first, later], dim=-2)  # [..., F, frames]
    if by_frame and num_channels == temporal_factor:
        return by_latent.mT
    return by_latent.any(-1)[..., None, :].expand(*clips, num_channels, -1)


class GivenLatents(NamedTuple):
    """Clean latents of one modality that are conditions, not generated: tokens at timestep 0.

    Args:
        latents: Clean latents of the whole clip, video [B, C, F, H, W] or audio [B, L, C]; read where given.
        is_given: Bool per latent, [F] or [L].
    """

    latents: Tensor
    is_given: Tensor

    @classmethod
    def prefix(cls, clean: Tensor, num_latents: int, axis: int) -> "GivenLatents":
        """Give the first latents of a clip.

        Args:
            clean: Their values, at most `num_latents` along `axis`.
            num_latents: Latents of the whole clip.
            axis: Axis of time, 2 for video and 1 for audio.
        """
        num_given = min(clean.shape[axis], num_latents)
        shape = list(clean.shape)
        shape[axis] = num_latents - num_given
        latents = torch.cat([clean.narrow(axis, 0, num_given), clean.new_zeros(shape)], dim=axis)
        return cls(latents, torch.arange(num_latents, device=clean.device) < num_given)

    def joined(self, other: "GivenLatents") -> "GivenLatents":
        """These latents, and those of another that these do not give."""
        return GivenLatents(self.impose(other.latents), self.is_given | other.is_given)

    @property
    def covers_all(self) -> bool:
        """Whether nothing is left to generate."""
        return bool(self.is_given.all())

    def impose(self, latents: Tensor) -> Tensor:
        """Put the clean latents in place of what `latents` holds there."""
        shape = (1, 1, -1, 1, 1) if latents.ndim == 5 else (1, -1, 1)
        return torch.where(self.is_given.view(shape), self.latents.to(latents), latents)

    def timesteps(self, timestep: Tensor) -> Tensor:
        """Timesteps per latent, [B, F] or [B, L], from one per sample [B]: 0 where a latent is given."""
        return timestep[:, None] * ~self.is_given


def repeat_to_batch(name: str, rows: Tensor, batch_size: int) -> Tensor:
    """Rows of one clip, or of one per prompt, to one per clip: [1 or P, ...] -> [B, ...]."""
    if batch_size % rows.shape[0]:
        raise ValueError(
            f"`{name}` must be one for all clips or one per prompt, got {rows.shape[0]} for {batch_size} clips; "
            "pass one, or as many as there are prompts"
        )
    return rows.repeat_interleave(batch_size // rows.shape[0], dim=0)


def check_repeats(name: str, number: int, num_prompts: int) -> None:
    """Refuse so many of something that they are neither one for all clips nor one per prompt."""
    if number not in (1, num_prompts):
        prompts = "1 prompt" if num_prompts == 1 else f"{num_prompts} prompts"
        raise ValueError(
            f"`{name}` must be one for all clips or one per prompt, got {number} for {prompts}; pass one, or as many "
            "as there are prompts"
        )
