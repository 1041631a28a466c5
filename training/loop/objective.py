"""What training minimises: the flow-matching errors of both modalities and of the mouth.

JoVA (arXiv:2512.13677v1), Eq. 6 and 7, as one pure function of velocities and masks, and beside it what UniAVGen
(arXiv:2511.03334) adds for its face masks; there is no model in this file.

Legend of shapes: B samples, C channels, F latent frames, H x W latent pixels, L audio latents.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from diffusers_jova.flow_matching import check_axes
from diffusers_jova.number_arguments import finite_number
from diffusers_jova.training.loop.config import MouthReduction


@dataclass(frozen=True)
class LossTerms:
    """The terms of Eq. 6 for each sample, all [B]; a term that a sample has nothing for is 0.

    Attributes:
        video: Mean squared velocity error over the video latents.
        audio: Mean squared velocity error over the audio latents.
        mouth: The same error over the mouth, reduced as Eq. 7 or over the clip.
        face: Of the face masks of an aligned fusion, see `face_mask_loss`.
        total: Weighted sum of all.
    """

    video: Tensor
    audio: Tensor
    mouth: Tensor
    face: Tensor
    total: Tensor

    def with_face(self, face: Tensor, weight: float) -> LossTerms:
        """Adds the loss of face masks [B] with its weight."""
        return replace(self, face=face, total=self.total + weight * face)

    def with_anchor(self, anchor: LossTerms, weight: float) -> LossTerms:
        """Adds the loss on the clips, where the terms are those on a teacher; it is in the total alone."""
        return replace(self, total=self.total + weight * anchor.total)


def jova_loss(
    velocity: Tensor | None,
    audio_velocity: Tensor | None,
    target: Tensor | None,
    audio_target: Tensor | None,
    mouth_mask: Tensor | None = None,
    has_video: Tensor | None = None,
    has_audio: Tensor | None = None,
    *,
    mouth_weight: float = 5.0,
    video_weight: float = 1.0,
    audio_weight: float = 1.0,
    reduction: MouthReduction = "mask",
) -> LossTerms:
    """Computes the loss of each sample; a modality whose velocity is None is absent.

    JoVA (arXiv:2512.13677v1), Eq. 6 and 7, with m the mouth mask of Eq. 5 and e the squared velocity error:
        L = L_video + L_audio + lambda * L_mouth,        L_mouth = sum(m * e) / sum(m)

    Eq. 7 weighs an element inside a mask of fraction p by 1 + lambda / p. ``reduction="all"`` divides by the size of
    the clip instead, which weighs it by 1 + lambda whatever its size: what small pictures need.

    Args:
        velocity: Predicted video velocity, [B, C, F, H, W].
        audio_velocity: Predicted audio velocity, [B, L, C].
        target: True video velocity, noise - data, [B, C, F, H, W].
        audio_target: True audio velocity, noise - data, [B, L, C].
        mouth_mask: m, bool, or floats in [0, 1], 1 at mouth latents and 0 elsewhere, [B, 1, F, H, W]; whole numbers
            are inside where they are not 0. None where no clip shows a mouth.
        has_video: What of the video is to be learned, bool or 0 and 1, [B], or [B, F] per latent frame; None is all.
            Of an absent modality None, or nothing.
        has_audio: What of the audio is to be learned, likewise [B], or [B, L] per latent.
        mouth_weight: lambda.
        video_weight: Factor of the video term.
        audio_weight: Factor of the audio term.
        reduction: ``"mask"`` averages the mouth's error over the mask (Eq. 7), ``"all"`` over the clip.

    Raises:
        ValueError: A shape does not fit, a mask has values that it cannot have, something is given for a modality
            that is absent, a weight is no finite number, or both modalities are absent.

    The values of masks that are not bool are looked at, and of what is given of an absent modality, for which a GPU
    is waited for.
    """
    if reduction not in ("mask", "all"):
        raise ValueError(f"`reduction` must be 'mask' or 'all', got {reduction!r}; 'mask' is the paper's Eq. 7")
    present = velocity if velocity is not None else audio_velocity
    if present is None:
        raise ValueError("`velocity` and `audio_velocity` must not both be None; pass at least one modality")
    _check_given(velocity, audio_velocity, target, audio_target, mouth_mask)
    _check_absent(velocity, has_video, "velocity", "has_video")
    _check_absent(audio_velocity, has_audio, "audio_velocity", "has_audio")
    weights = {"mouth_weight": mouth_weight, "video_weight": video_weight, "audio_weight": audio_weight}
    for name, value in weights.items():
        if finite_number(name, value, "0 leaves the term out") < 0:
            raise ValueError(f"`{name}` must be 0 or more, got {value}; 0 leaves the term out")
    video = audio = mouth = present.new_zeros(len(present), dtype=torch.float32)
    if velocity is not None:
        error, weight = _squared_error(velocity, target, "has_video", has_video, channel_dim=1)  # [B, F, H, W]
        video = _mean(error, weight)
        if mouth_mask is not None:
            inside = _checked_mask("mouth_mask", mouth_mask).squeeze(1) * weight
            mouth = _mean(error, inside if reduction == "mask" else weight, within=inside)
    if audio_velocity is not None:
        error, weight = _squared_error(audio_velocity, audio_target, "has_audio", has_audio, channel_dim=-1)  # [B, L]
        audio = _mean(error, weight)
    total = video_weight * video + audio_weight * audio + mouth_weight * mouth
    return LossTerms(video, audio, mouth, torch.zeros_like(total), total)


def face_mask_loss(masks: Tensor, faces: Tensor) -> Tensor:
    """Computes how far the predicted masks are from the faces, for each sample; 0 for a clip without a known face.

    UniAVGen (arXiv:2511.03334), on the masks M^l of Eq. 8, one for each fusion l:
        L_m = sum over l of |M^l - M_gt|^2
    The square is averaged over the rows of the clip, so that its weight suits any size; the paper does not say whether
    it is. M_gt is 1 in the rows whose latents show a part of a face.

    Args:
        masks: M, [B, N, F, h, w], of N fusions, on the rows of the video.
        faces: 1 at latents that show a face, 0 elsewhere, [B, 1, F, H, W], of the types that `jova_loss` takes a mask
            of; a row covers H / h x W / w of them.

    Raises:
        ValueError: Their shape does not fit, or `faces` has values outside [0, 1].
    """
    if faces.ndim != 5:
        raise ValueError(
            f"`faces` must be [{len(masks)}, 1, F, H, W], got {list(faces.shape)}; make masks and faces of one clip"
        )
    sizes = [faces.shape[axis] // masks.shape[axis] for axis in (2, 3, 4)]
    rows = [size * number for size, number in zip(sizes, masks.shape[2:], strict=True)]
    if list(faces.shape) != [len(masks), 1, *rows]:
        raise ValueError(
            f"`faces` must be [{len(masks)}, 1, F, H, W], a whole number of latents for each row of the masks, "
            f"{list(masks.shape[2:])}, got {list(faces.shape)}; make both of the same clip"
        )
    faces = _checked_mask("faces", faces)
    target = F.max_pool3d(faces.float(), sizes)  # [B, 1, F, h, w]
    error = (masks.float() - target).square().flatten(2).mean(2).sum(1)
    return torch.where(faces.flatten(1).any(1), error, 0.0)


def face_mask_factor(step: int, weight: float, num_steps: int) -> float:
    """Computes lambda_m at a step: UniAVGen lets it fall linearly from ``weight`` to 0, here within ``num_steps``."""
    return weight * max(0.0, 1 - step / num_steps)


def mouth_fraction(mouth_mask: Tensor) -> Tensor:
    """Computes p of Eq. 7's weight: the masked part of the latents, over the clips that show a mouth; 0-dim."""
    inside = _checked_mask("mouth_mask", mouth_mask).flatten(1).float()
    return inside.sum() / (inside.any(1).sum() * inside.shape[1]).clamp(min=1)


def effective_mouth_weight(fraction: Tensor, mouth_weight: float, reduction: MouthReduction) -> Tensor:
    """Computes how many times more an error inside the mask counts than one outside (1 where nothing is masked)."""
    weight = mouth_weight / fraction if reduction == "mask" else torch.full_like(fraction, mouth_weight)
    return torch.where(fraction > 0, 1 + weight, torch.ones_like(fraction))


def _check_given(
    velocity: Tensor | None,
    audio_velocity: Tensor | None,
    target: Tensor | None,
    audio_target: Tensor | None,
    mouth_mask: Tensor | None,
) -> None:
    """Refuses what would be broadcast or dropped in silence: another batch or mask, targets of an absent modality."""
    for name, one, other in (("", velocity, target), ("audio_", audio_velocity, audio_target)):
        if one is None and other is not None:
            raise ValueError(f"`{name}target` must be None without `{name}velocity`, got one; give both or neither")
    if velocity is not None and audio_velocity is not None and len(velocity) != len(audio_velocity):
        raise ValueError(
            f"`velocity` and `audio_velocity` must be of one batch, got {len(velocity)} and {len(audio_velocity)} "
            "samples; give the loss both of the same clips"
        )
    if mouth_mask is None:
        return
    wanted = None if velocity is None else [len(velocity), 1, *velocity.shape[2:]]
    if not isinstance(mouth_mask, Tensor) or list(mouth_mask.shape) != wanted:
        got = list(mouth_mask.shape) if isinstance(mouth_mask, Tensor) else type(mouth_mask).__name__
        raise ValueError(
            f"`mouth_mask` must be {'None without `velocity`' if wanted is None else f'a tensor {wanted}'}, one value "
            f"for each latent of the video, got {got}; `latent_mask` makes one of boxes in pixels"
        )


def _check_absent(velocity: Tensor | None, present: Tensor | None, name: str, presence_name: str) -> None:
    """Refuses a velocity of the other modality, and that something is to be learned of one that is absent."""
    if velocity is not None:
        check_axes(name, velocity, "audio" if name.startswith("audio") else "video")
    elif present is not None and bool(torch.as_tensor(present).any()):
        raise ValueError(
            f"`{presence_name}` must be None without `{name}`, or 0 everywhere, got something that is to be learned; "
            "give both or neither"
        )


def _checked_mask(name: str, mask: Tensor) -> Tensor:
    """A mask as bool, which whole numbers become, or as floats in [0, 1]; a GPU is waited for by floats alone."""
    if not mask.is_floating_point():
        return mask.bool()
    if not ((mask >= 0) & (mask <= 1)).all():  # written so that NaN fails as well
        low, high = (x.item() for x in mask.aminmax())
        raise ValueError(
            f"`{name}` must lie in [0, 1], 1 inside and 0 outside, got values in [{low:g}, {high:g}]; give it as bool"
        )
    return mask


def _checked_presence(name: str, present: Tensor) -> Tensor:
    """What is to be learned, as bool; a GPU is waited for by other types alone."""
    if present.dtype != torch.bool and not ((present == 0) | (present == 1)).all():
        low, high = (x.item() for x in present.aminmax())
        raise ValueError(
            f"`{name}` must be bool, or 0 and 1, got values in [{low:g}, {high:g}]; the weights of the terms are "
            "`video_weight` and `audio_weight`"
        )
    return present.bool()


def _squared_error(
    velocity: Tensor, target: Tensor | None, name: str, present: Tensor | None, channel_dim: int
) -> tuple[Tensor, Tensor]:
    """Averages (velocity - target)^2 over channels and says with 0 or 1 which elements count; same shape both."""
    if target is None or target.shape != velocity.shape:
        shape = None if target is None else list(target.shape)
        raise ValueError(
            f"the target must have the shape of the velocity {list(velocity.shape)}, got {shape}; "
            "build both from the same latents"
        )
    difference = velocity.float() - target.float()
    if present is None:
        error = difference.square().mean(channel_dim)
        return error, torch.ones_like(error)
    along_time = [difference.shape[2 if channel_dim == 1 else 1]]
    shape = list(present.shape) if isinstance(present, Tensor) else type(present).__name__
    if shape not in ([len(difference)], [len(difference), *along_time]):
        raise ValueError(
            f"`{name}`, what is to be learned, must be [{len(difference)}], one value per sample, or "
            f"[{len(difference)}, {along_time[0]}], one per latent, got {shape}; leave it out for all of it"
        )
    spatial_dims = difference.ndim - 1 - present.ndim
    present = _checked_presence(name, present).reshape(*present.shape, *[1] * spatial_dims)
    # selecting before the square keeps even a NaN of an absent element out of the gradient, which a factor 0 would not
    error = torch.where(present.unsqueeze(channel_dim), difference, 0.0).square().mean(channel_dim)
    return error, present.expand_as(error).to(error)


def _mean(error: Tensor, weight: Tensor, within: Tensor | None = None) -> Tensor:
    """Sums ``error`` within a mask (by default ``weight``) and divides by the sum of ``weight``; [B, ...] -> [B]."""
    total = (error * (weight if within is None else within)).flatten(1).sum(1)
    return total / weight.flatten(1).sum(1).clamp(min=torch.finfo(torch.float32).tiny)  # nothing of nothing is 0
