"""Which words the end of a sound holds, told by when it is loud: those that a window's beginning already says.

A model that learned to go on from given beginnings read the words of the whole clip. Without those that lie in its
beginning, it takes them for the first of its own and leaves these out.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


FRAME_S = 0.016  # in which loudness is told
LOUD_SHARE = 0.1  # of the loudest frame
SILENCE_RMS = 0.02  # of the loudest frame of a sound without speech
WORD_SHARE = 0.2  # of a word, in the end of a sound, that counts


def words_at_end(text: str, sound: Tensor, num_end_samples: int, sampling_rate: int) -> list[str]:
    """The words of a text that a sound says in its last samples, as far as the letters of each take as long.

    Args:
        text: What the whole sound says.
        sound: [C, S].
        num_end_samples: Of its end.
        sampling_rate: Samples per second.
    """
    words = text.split()
    length = max(1, round(FRAME_S * sampling_rate))
    loudness = F.pad(sound, (0, -sound.shape[1] % length)).unflatten(1, (-1, length)).square().mean((0, 2)).sqrt()
    if not words or float(loudness.max()) < SILENCE_RMS:
        return []
    is_loud = loudness > LOUD_SHARE * loudness.max()
    num_before = round((sound.shape[1] - num_end_samples) / length)
    spoken = float(is_loud[:num_before].sum() / is_loud.sum())  # share of the speech before the end
    sizes = torch.tensor([float(len(word)) for word in words])
    ends = sizes.cumsum(0) / sizes.sum()
    is_held = ends - spoken > WORD_SHARE * sizes / sizes.sum()
    return [word for word, held in zip(words, is_held.tolist(), strict=True) if held]
