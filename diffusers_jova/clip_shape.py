"""How large and how long the clips of one call are.

Letters in shapes: B batch, C channels, L audio latents, S samples.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from diffusers.utils import logging
from torch import Tensor
from torch.nn import functional as F

from jova_cli.latent_lengths import whole_frames

from .audio_codec import JoVAAudioCodec
from .media import resample
from .media_arrays import Audio


logger = logging.get_logger(__name__)

FAR_BEYOND = 4  # times the length that a model makes by itself


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

    def tell_length(self, own_num_frames: int) -> None:
        """Say in one line that the clips are far longer than those of the model.

        Args:
            own_num_frames: Frames of the clips that it makes by itself.
        """
        if self.num_frames > FAR_BEYOND * own_num_frames:
            logger.warning(
                f"`num_frames` of {self.num_frames} is {self.num_frames / own_num_frames:.0f} times the "
                f"{own_num_frames} of this model's own clips: memory and time grow with it, and such a clip hardly "
                "holds together; `LongClip` makes it window by window"
            )

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
        goes_on = lacks_frames(num_samples - waveform.shape[2], codec.sampling_rate, self.frame_rate)
        if not goes_on and (cut_s := (waveform.shape[-1] - num_samples) / codec.sampling_rate) >= 1e-3:
            logger.warning(f"`audio` loses {cut_s:.3f} s at its end, to fit the clip")
        return waveform if goes_on else set_length(waveform, num_samples)


def lacks_frames(num_missing: float, sampling_rate: int, frame_rate: float) -> bool:
    """Whether given sound is so much shorter than a clip, by two frames or more, that the clip goes on with it.

    Args:
        num_missing: Samples that it lacks.
        sampling_rate: Of them, per second.
        frame_rate: Frames per second of the clip.
    """
    return num_missing >= 2 * sampling_rate / frame_rate


def set_length(waveform: Tensor, num_samples: int) -> Tensor:
    """Cut a waveform [B, C, S] to `num_samples`, or fill it up with silence."""
    return F.pad(waveform, (0, num_samples - waveform.shape[2]))  # a negative padding cuts


def fill_with_silence(waveform: Tensor, duration_s: float, sampling_rate: int) -> Tensor:
    """Fill a waveform [B, C, S] that is shorter than `duration_s` up with silence; says how much."""
    num_samples = round(duration_s * sampling_rate)
    missing = num_samples - waveform.shape[2]
    if missing <= 0:
        return waveform
    logger.info(f"`audio` gets {missing / sampling_rate:.3f} s of silence at its end, to fill {duration_s:.3f} s")
    return set_length(waveform, num_samples)


def frames_of_given_media(
    video: np.ndarray | None, audio: Audio | None, sampling_rate: int | None, frame_rate: float, temporal_factor: int
) -> int | None:
    """Frames of a clip that a given video fills whole latents of, or that hold all of a given sound; None without.

    Of both, the video counts, unless the sound lasts longer by the frames of a latent: then the video goes on with it.

    Args:
        video: Frames, N first.
        audio: Sound, S last.
        sampling_rate: Samples per second of `audio`; None without.
        frame_rate: Frames per second of the clip.
        temporal_factor: Frames per latent after the first.
    """
    if audio is None or sampling_rate is None:
        return None if video is None else whole_frames(len(video), temporal_factor)
    num_sound_frames = math.ceil((np.shape(audio)[-1] - 0.5) / sampling_rate * frame_rate)  # clips round to samples
    if video is not None and num_sound_frames < len(video) + temporal_factor:
        return whole_frames(len(video), temporal_factor)
    return whole_frames(num_sound_frames + temporal_factor - 1, temporal_factor)


def tell_which_goes_on(
    num_video_frames: int, audio: Audio, sampling_rate: int, num_frames: int, frame_rate: float
) -> None:
    """Say in one line which of a given video and its given sound ends before the other, and is continued.

    Args:
        num_video_frames: Of the video, in whole latents.
        audio: Sound, S last.
        sampling_rate: Samples per second of `audio`.
        num_frames: Of the clip.
        frame_rate: Frames per second of the clip.
    """
    sound_s, clip_s = np.shape(audio)[-1] / sampling_rate, num_frames / frame_rate
    if num_video_frames < num_frames:
        ends = f"`video` ends after {num_video_frames} of {num_frames} frames, before `audio`"
    elif lacks_frames((clip_s - sound_s) * sampling_rate, sampling_rate, frame_rate):
        ends = f"`audio` ends after {sound_s:.2f} of {clip_s:.2f} s, before `video`"
    else:
        return
    logger.warning(f"{ends}: its rest is generated; `num_frames` sets another length")


def cut_video(
    video: np.ndarray,
    num_frames: int | None,
    temporal_factor: int,
    name: str = "video",
    frame_rate: float | None = None,
) -> np.ndarray:
    """The first frames of a given video that fill whole latents of the clip; says in one line what is cut.

    Args:
        video: Frames, N first.
        num_frames: Of the clip, if the caller asks for a number.
        temporal_factor: Frames per latent after the first.
        name: Argument, or socket, that it came from.
        frame_rate: Frames per second, where it is known.
    """
    length = len(video) if num_frames is None else min(len(video), num_frames)
    kept = whole_frames(length, temporal_factor)
    if kept < len(video):
        reason = f"the clip has {num_frames}" if num_frames == kept else f"latents hold {temporal_factor}k + 1"
        at = "" if frame_rate is None else f" at {frame_rate:g} per second"
        logger.warning(f"`{name}` of {len(video)} frames{at} is cut to its first {kept}: {reason}")
    return video[:kept]
