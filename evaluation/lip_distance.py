"""LSE-C, LSE-D and the offset from SyncNet's embeddings: how near lips and sound lie at every shift.

Chung and Zisserman 2016, Sec. 4; the names LSE-D and LSE-C are of Prajwal et al., "A Lip Sync Expert Is All You Need"
(ACM MM 2020).

Letters: N windows, D numbers of an embedding.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


MAX_SHIFT = 15  # frames of 40 ms to either side


class LipDistance(NamedTuple):
    """What the embeddings of a face and a sound say.

    Attributes:
        lse_c: Confidence: the median of the mean distances over all shifts less the smallest of them.
        lse_d: The smallest of the mean distances.
        offset_frames: By which the lips come later than the sound, in frames of 25 a second; the opposite of the shift
            of the sound at which the distance is smallest.
    """

    lse_c: float
    lse_d: float
    offset_frames: int


def distances_by_shift(lips: Tensor, sounds: Tensor, *, is_padded: bool) -> Tensor:
    """Mean distances of lips [N, D] to sounds [N, D] that come -15 to 15 windows later, [31].

    Args:
        lips: Embeddings, one each frame.
        sounds: Of the same frames.
        is_padded: Whether lips without a partner at a shift count with their distance to a vector of zeros, as in
            the public code; they are left out otherwise.
    """
    if is_padded:
        padded = F.pad(sounds, (0, 0, MAX_SHIFT, MAX_SHIFT))
        rows = [F.pairwise_distance(lips, padded[start : start + len(lips)]) for start in range(2 * MAX_SHIFT + 1)]
        return torch.stack([row.mean() for row in rows])
    means = []
    for shift in range(-MAX_SHIFT, MAX_SHIFT + 1):
        first, last = max(0, -shift), len(lips) - max(0, shift)
        means.append(F.pairwise_distance(lips[first:last], sounds[first + shift : last + shift]).mean())
    return torch.stack(means)


def lip_distance(lips: Tensor, sounds: Tensor, *, is_padded: bool) -> LipDistance:
    """Search the shift at which lips [N, D] and sounds [N, D] lie nearest.

    Raises:
        ValueError: If there are too few windows, or they are not of one shape.
    """
    if lips.shape != sounds.shape or len(lips) <= MAX_SHIFT:
        raise ValueError(
            f"`lips` and `sounds` must be of one shape, more than {MAX_SHIFT} windows, "
            f"got {list(lips.shape)} and {list(sounds.shape)}; give a longer clip"
        )
    means = distances_by_shift(lips, sounds, is_padded=is_padded)
    nearest = int(means.argmin())
    smallest = float(means[nearest])
    return LipDistance(float(means.median()) - smallest, smallest, MAX_SHIFT - nearest)
