"""What the end of a sound holds: a pause, or words, told by when it is loud.

A model that learned to go on from given beginnings read the words of the whole clip. Words that lie in the beginning
of a window and not in its prompt are taken for the first of its own, and these are left out.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


FRAME_S = 0.016  # in which loudness is told
LOUD_SHARE = 0.1  # of the loudest frame
SILENCE_RMS = 0.02  # of the loudest frame of a sound without speech
WORD_SHARE = 0.2  # of a word, in the end of a sound, that counts


def loud_frames(sound: Tensor, sampling_rate: int) -> Tensor:
    """Which frames of `FRAME_S` of a sound [C, S] are loud beside its loudest one, bool [F]; of silence none."""
    length = max(1, round(FRAME_S * sampling_rate))
    loudness = F.pad(sound, (0, -sound.shape[1] % length)).unflatten(1, (-1, length)).square().mean((0, 2)).sqrt()
    return loudness > max(LOUD_SHARE * float(loudness.max()), LOUD_SHARE * SILENCE_RMS)


def num_frames_before(sound: Tensor, num_end_samples: int, sampling_rate: int) -> int:
    """Frames of `FRAME_S` in front of the last samples of a sound [C, S]."""
    return int((sound.shape[1] - num_end_samples) / max(1, round(FRAME_S * sampling_rate)))


def ends_in_pause(sound: Tensor, num_end_samples: int, sampling_rate: int) -> bool:
    """Whether the last samples of a sound [C, S] are quiet."""
    first = num_frames_before(sound, num_end_samples, sampling_rate)
    return not bool(loud_frames(sound, sampling_rate)[first:].any())


def words_at_end(text: str, sound: Tensor, num_end_samples: int, sampling_rate: int) -> list[str]:
    """The words of a text that a sound says in its last samples, as far as the letters of each take as long.

    Args:
        text: What the whole sound says.
        sound: [C, S].
        num_end_samples: Of its end.
        sampling_rate: Samples per second.
    """
    words, is_loud = text.split(), loud_frames(sound, sampling_rate)
    if not words or not is_loud.any():
        return []
    first = num_frames_before(sound, num_end_samples, sampling_rate)
    spoken = float(is_loud[:first].sum() / is_loud.sum())  # share of the speech before the end
    sizes = torch.tensor([float(len(word)) for word in words])
    ends = sizes.cumsum(0) / sizes.sum()
    is_held = ends - spoken > WORD_SHARE * sizes / sizes.sum()
    return [word for word, held in zip(words, is_held.tolist(), strict=True) if held]
