"""How large and how long the clips of one call are.

Letters in shapes: B batch, C channels, L audio latents, S samples.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .audio_codec import JoVAAudioCodec
from .conditions import Audio
from .media import resample


class ClipShape(NamedTuple):
    """Size and length of the clips of one call.

    Args:
        batch_size: Clips, B.
        height: Pixels.
        width: Pixels.
        num_frames: Frames.
        frame_rate: Frames per second.
        num_audio_latents: Audio latents, L.
    """

    batch_size: int
    height: int
    width: int
    num_frames: int
    frame_rate: float
    num_audio_latents: int

    def num_samples(self, sampling_rate: int) -> int:
        """Samples of sound that last as long as the frames."""
        return round(self.num_frames / self.frame_rate * sampling_rate)

    def fit_given_audio(self, waveform: Tensor, sampling_rate: int, codec: JoVAAudioCodec) -> Tensor:
        """Resample given sound for the codec, cut it to the clip, and fill up with silence what all but covers it.

        Args:
            waveform: Sound [1 or B, C, S].
            sampling_rate: Samples per second.
            codec: Whose latents the sound becomes.

        Returns:
            [1 or B, C, S] at the codec's rate. What lacks two frames or more stays short, to be continued.
        """
        if sampling_rate != codec.sampling_rate:
            waveform = torch.from_numpy(resample(waveform.numpy(), sampling_rate, codec.sampling_rate))
        num_samples = max(self.num_samples(codec.sampling_rate), codec.num_samples_for(self.num_audio_latents))
        lacks_frames = num_samples - waveform.shape[2] >= 2 * codec.sampling_rate / self.frame_rate
        return waveform if lacks_frames else set_length(waveform, num_samples)


def set_length(waveform: Tensor, num_samples: int) -> Tensor:
    """Cut a waveform [B, C, S] to `num_samples`, or fill it up with silence."""
    return F.pad(waveform, (0, num_samples - waveform.shape[2]))  # a negative padding cuts


def frames_of_given_media(
    video: np.ndarray | None, audio: Audio | None, sampling_rate: int | None, frame_rate: float, temporal_factor: int
) -> int | None:
    """Frames that a given video has or that fit into a given sound; None without either.

    Args:
        video: Frames, N first.
        audio: Sound, S last.
        sampling_rate: Samples per second of `audio`; None without.
        frame_rate: Frames per second of the clip.
        temporal_factor: Frames per latent after the first.
    """
    if video is not None:
        return len(video)
    if audio is None or sampling_rate is None:
        return None
    duration_s = np.shape(audio)[-1] / sampling_rate
    num_frames = int(duration_s * frame_rate + 0.5)  # half a frame of silence is added at most
    return max(0, num_frames - 1) // temporal_factor * temporal_factor + 1
