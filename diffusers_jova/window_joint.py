"""Where two windows of a long clip meet: the pictures and the sound of what both hold become one.

Letters in shapes: C channels of the sound, O frames or samples that both windows hold, H, W height and width.
"""

import torch
from torch import Tensor


SOUND_FADE_S = 0.02  # longer than a click, shorter than a syllable
EDGE_SHARE = 0.125  # of the overlap at either end, where a codec knows one side of the sound only


def joined_frames(before: Tensor, after: Tensor) -> Tensor:
    """Frames [O, 3, H, W] that go over from those of one window to those of the next, evenly."""
    weight = torch.arange(1, len(before) + 1) / (len(before) + 1)
    weight = weight.view(-1, 1, 1, 1)
    return before * (1 - weight) + after * weight


def joined_sound(before: Tensor, after: Tensor, fade: slice) -> Tensor:
    """Sound [C, O] that goes over from that of one window to that of the next.

    The weights keep the power: they sum to 1 where both windows hold the same waveform, and their squares do where
    they hold the same sound in other phases, as vocoders leave them.

    Args:
        before: Of the earlier window, [C, O].
        after: Of the later one, [C, O].
        fade: Samples of the cross-fade.
    """
    length = fade.stop - fade.start
    weight = torch.arange(1, length + 1) / (length + 1)
    cross = 2 * weight * (1 - weight) * alikeness(before[:, fade], after[:, fade])
    norm = (weight.square() + (1 - weight).square() + cross).sqrt()
    faded = (before[:, fade] * (1 - weight) + after[:, fade] * weight) / norm
    return torch.cat([before[:, : fade.start], faded, after[:, fade.stop :]], dim=1)


def quietest(before: Tensor, after: Tensor, length: int) -> slice:
    """The samples of least energy of two sounds [C, O], away from the ends where there is room.

    Args:
        before: Of the earlier window.
        after: Of the later one.
        length: Samples, as far as there are so many.
    """
    power = (before.square() + after.square()).sum(0)
    length = min(length, len(power))
    margin = min(round(EDGE_SHARE * len(power)), (len(power) - length) // 2)
    sums = torch.cat([power.new_zeros(1, dtype=torch.float64), power.double().cumsum(0)])
    energies = (sums[length:] - sums[: len(sums) - length])[margin : len(power) - length - margin + 1]
    first = margin + int(energies.argmin())
    return slice(first, first + length)


def alikeness(before: Tensor, after: Tensor) -> float:
    """Correlation of two sounds [C, O], 0 where they are unlike or silent, 1 where they are the same."""
    scale = float(before.norm() * after.norm())
    return min(max(float((before * after).sum()) / scale, 0.0), 1.0) if scale > 0 else 0.0
