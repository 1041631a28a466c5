"""A VIDEO that is saved as it is: core's own rounds the frame rate to thousandths."""

import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

from comfy_api.v0_0_2 import InputImpl, Types

from .package import jova


COMMON_RATE_HZ = 48000  # for sound of a rate that an mp4 does not take
AS_IT_IS = ("auto", "mp4"), ("auto", "h264")  # containers and codecs for which core copies the streams of an mp4
CRF, SOURCE_CRF = 18, 1  # of the file that is copied, and of one that core encodes anew; 0 is a profile players refuse


class JovaVideo(InputImpl.VideoFromComponents):
    """Frames and sound that are written at their exact rates, starting together, with a record of their origin.

    Args:
        components: Of core.
        record: Of the origin.
    """

    def __init__(self, components: Any, record: dict[str, Any]) -> None:
        super().__init__(components)
        self.record = record

    def save_to(
        self,
        path: Any,
        format: Any = Types.VideoContainer.AUTO,
        codec: Any = Types.VideoCodec.AUTO,
        metadata: Any = None,
        **encoding: Any,
    ) -> None:
        """Write it.

        Args:
            path: File, or buffer.
            format: Of core; what is no mp4 is made from one.
            codec: Of core.
            metadata: Prompt and workflow.
            encoding: What a core asks for besides (0.33: `bit_depth`, `crf`, `color_space`); None leaves it as it is.
        """
        encoding = {name: value for name, value in encoding.items() if value is not None}
        is_copied = format in AS_IT_IS[0] and codec in AS_IT_IS[1] and not encoding
        parts, media = self.get_components(), jova("media")
        sound = rate = None
        if parts.audio is not None:
            sound, rate = parts.audio["waveform"][0].numpy(), parts.audio["sample_rate"]
            if rate not in media.AAC_SAMPLING_RATES_HZ:
                sound, rate = media.resample(sound, rate, COMMON_RATE_HZ), COMMON_RATE_HZ
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "clip.mp4"
            crf = CRF if is_copied else SOURCE_CRF
            frames = parts.images.numpy()
            media.write_video(file, frames, parts.frame_rate, sound, rate, crf=crf, provenance=self.record)
            InputImpl.VideoFromFile(str(file)).save_to(path, format=format, codec=codec, metadata=metadata, **encoding)


def make_video(frames: Any, sound: dict[str, Any], frame_rate: Fraction, *, is_recorded: bool) -> JovaVideo:
    """A VIDEO of IMAGE and AUDIO.

    Args:
        frames: IMAGE.
        sound: AUDIO.
        frame_rate: Exact.
        is_recorded: Whether some of it was given, and is no model's.
    """
    components = Types.VideoComponents(images=frames, audio=sound, frame_rate=frame_rate)
    return JovaVideo(components, jova("provenance").basic_record(is_recorded=is_recorded))
