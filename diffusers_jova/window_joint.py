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


def joined_sound(before: Tensor, after: Tensor, num_fade_samples: int) -> Tensor:
    """Sound [C, O] that goes over from that of one window to that of the next where both are quietest.

    The weights keep the power: they sum to 1 where both windows hold the same waveform, and their squares do where
    they hold the same sound in other phases, as vocoders leave them.

    Args:
        before: Of the earlier window, [C, O].
        after: Of the later one, [C, O].
        num_fade_samples: Length of the cross-fade, as far as the overlap has room.
    """
    num_samples = before.shape[1]
    length = min(num_fade_samples, num_samples)
    first = quietest(before.square().sum(0) + after.square().sum(0), length)
    fade = slice(first, first + length)
    weight = torch.arange(1, length + 1) / (length + 1)
    norm = (weight.square() + (1 - weight).square() + 2 * alikeness(before[:, fade], after[:, fade]) * weight * (
        1 - weight
    )).sqrt()
    faded = (before[:, fade] * (1 - weight) + after[:, fade] * weight) / norm
    return torch.cat([before[:, :first], faded, after[:, first + length :]], dim=1)


def quietest(power: Tensor, length: int) -> int:
    """First sample of the stretch of least energy in power [O], away from the ends where there is room."""
    margin = min(round(EDGE_SHARE * len(power)), (len(power) - length) // 2)
    sums = torch.cat([power.new_zeros(1, dtype=torch.float64), power.double().cumsum(0)])
    energies = (sums[length:] - sums[: len(sums) - length])[margin : len(power) - length - margin + 1]
    return margin + int(energies.argmin())


def alikeness(before: Tensor, after: Tensor) -> float:
    """Correlation of two sounds [C, O], 0 where they are unlike or silent, 1 where they are the same."""
    scale = float(before.norm() * after.norm())
    return min(max(float((before * after).sum()) / scale, 0.0), 1.0) if scale > 0 else 0.0
