"""What `JoVAPipeline` returns: frames and sound with their rates, ready to be saved.

Letters in shapes: B batch, C channels, N frames, F latent frames, H, W height and width, L audio latents, S samples.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers.utils import BaseOutput

from .media import write_video


@dataclass
class JoVAPipelineOutput(BaseOutput):
    """A batch of clips.

    Args:
        frames: As `output_type` says: lists of PIL images, an array [B, N, H, W, 3] in [0, 1], a tensor
            [B, N, 3, H, W] in [0, 1], or latents [B, C, F, h, w]; None if no video was generated.
        audio: Waveform [B, channels, S] in [-1, 1], an array for `"np"` and a tensor otherwise, or latents [B, L, C];
            None if no audio was generated.
        frame_rate: Frames per second.
        sampling_rate: Samples per second.
    """

    frames: Any = None
    audio: Any = None
    frame_rate: float = 0.0
    sampling_rate: int = 0

    def save(self, path: str | Path, index: int = 0) -> None:
        """Write one clip of the batch, with its sound, as an mp4.

        Args:
            path: File to write; what is there is replaced once the new file is complete.
            index: Which clip.
        """
        if self.frames is None:
            raise ValueError("`save` must have frames, got none; use `media.write_audio` for sound alone")
        audio = None if self.audio is None else self.audio[index]
        write_video(path, self.frames[index], self.frame_rate, audio, self.sampling_rate)
