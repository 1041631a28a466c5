"""A given sound of a clip that is made by windows: on the clock of the whole clip, to be dealt out to the windows.

Letters in shapes: C channels, S samples.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .clip_shape import fill_with_silence, frames_of_given_media, lacks_frames, set_length
from .conditions import check_repeats
from .given_media import to_waveform_batch, unpack_audio
from .media_arrays import Audio, check_sampling_rate, resample
from .number_arguments import whole_number
from .pipeline_jova import JoVAPipeline


class GivenSound(NamedTuple):
    """A sound as a caller has it.

    Attributes:
        samples: [S] or [channels, S].
        sampling_rate: Samples per second.
    """

    samples: Audio
    sampling_rate: int

    @classmethod
    def of(cls, audio: Any, sampling_rate: int | None) -> "GivenSound":
        """The sound of a `media.Sound` or `media.Video` as a whole, or of an array with its rate."""
        samples, rate_hz = unpack_audio(audio, sampling_rate)
        check_sampling_rate("audio_sampling_rate", whole_number("audio_sampling_rate", rate_hz))
        return cls(samples, rate_hz)

    def num_frames(self, frame_rate: float, temporal_factor: int) -> int:
        """Frames of the clip that holds all of it, whole latents of them.

        Args:
            frame_rate: Frames per second.
            temporal_factor: Frames per latent after the first.
        """
        found = frames_of_given_media(None, self.samples, self.sampling_rate, frame_rate, temporal_factor)
        assert found is not None
        return found

    def on_clock(self, pipeline: JoVAPipeline, num_frames: int, frame_rate: float, num_samples: int) -> Tensor:
        """The sound [C, S] as the codec reads it, filled up with silence to the end of the clip; says how much.

        Args:
            pipeline: Whose codec it is.
            num_frames: Of the clip.
            frame_rate: Frames per second.
            num_samples: Of the clip, S.

        Raises:
            ValueError: It lasts longer than the clip, or ends two frames before it or earlier: windows do not go on
                with a sound.
        """
        codec = pipeline.audio_codec
        sound = to_waveform_batch(self.samples, codec.num_channels)
        check_repeats("audio", len(sound), 1)
        if self.sampling_rate != codec.sampling_rate:
            sound = torch.from_numpy(resample(sound.numpy(), self.sampling_rate, codec.sampling_rate))
        own_frames = self.num_frames(frame_rate, pipeline.temporal_factor)
        is_short = own_frames < num_frames and lacks_frames(
            num_samples - sound.shape[2], codec.sampling_rate, frame_rate
        )
        if is_short or own_frames > num_frames:
            raise ValueError(
                f"`audio` must last as long as the clip that is made by windows, {num_frames / frame_rate:.3f} s, got "
                f"{sound.shape[2] / codec.sampling_rate:.3f} s; leave the number of frames out, which makes "
                f"{own_frames} of them"
            )
        filled = fill_with_silence(sound, num_samples / codec.sampling_rate, codec.sampling_rate)
        return set_length(filled, num_samples)[0]
