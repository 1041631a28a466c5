"""A training clip, how files become one, and why one does not.

Letters: F frames, H x W pixels, P persons.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffusers_jova.pictures import Fit, check_fit
from diffusers_jova.training.data.segments import Segment
from diffusers_jova.training.data.subtitles import Speech
from jova_cli.clip_arguments import MIN_LUFS
from jova_cli.clip_limits import Bucket
from jova_cli.number_options import MAX_RATE_HZ, check_between


Cut = Literal["first", "all", "pauses"]


class SkippedClipError(Exception):
    """A readable clip that does not suit the data set; the message says why.

    Args:
        measured: The message.
        told: The same for people, where a number says little to them.

    Attributes:
        length_s: Seconds of the recording, once they are known.
    """

    length_s: float = 0.0

    def __init__(self, measured: str, told: str = "") -> None:
        super().__init__(measured)
        self.told = told or measured


class BrokenFileError(Exception):
    """A file that cannot be read; the message says why."""


@dataclass(frozen=True, kw_only=True)
class ClipSettings:
    """How files become clips.

    Attributes:
        buckets: Allowed sizes; a clip takes the one of the nearest aspect ratio, and of these the longest that fits. A
            still image takes one of those of one frame, or without such one of any as if it had one frame, and clips
            take the others.
        frame_rate: Frames per second of every clip.
        cut: `first` takes one clip of a file, at its beginning; `all` as many as fit; `pauses` those that begin and
            end where the sound pauses. No clip spans a cut of the picture, and where the times of words are known,
            every clip begins and ends between them.
        fit: How pictures of another shape become clips: `cover` crops them, `contain` fills up with black, `stretch`
            bends them.
        follow_face: Where a crop cuts something away, keep the faces in it; without, it stays at the centre.
        audio_track: Which sound track of a file, counted from 0; None takes the one that players choose.
        allow_truncated: Take what is there of a file that announces more than it holds.
        upscale: Accept files that are smaller than their bucket.
        num_channels: Mix the sound to the channels of the model, in which records hold it; None leaves those of the
            file.
        loudness_lufs: Normalise the sound of a file to this loudness; None leaves it.
        require_mouth: Skip clips in which less than half of the frames show a mouth.
        require_sound: Skip clips without sound, or with silence; still images stay.
        require_words: Skip clips with sound of which nobody knows what is said; still images stay.
        min_sync: Skip clips in which mouth and sound correlate less than this, see `sync_of`; None keeps all, and
            still images stay.
    """

    buckets: tuple[Bucket, ...]
    frame_rate: float
    cut: Cut = "first"
    fit: Fit = "cover"
    follow_face: bool = True
    audio_track: int | None = None
    allow_truncated: bool = False
    upscale: bool = False
    num_channels: int | None = None
    loudness_lufs: float | None = None
    require_mouth: bool = False
    require_sound: bool = False
    require_words: bool = False
    min_sync: float | None = None

    def __post_init__(self) -> None:
        """Refuse a fit that there is not, and numbers that no clip can have."""
        check_fit(self.fit)
        check_between("frame_rate", self.frame_rate, 1 / MAX_RATE_HZ, MAX_RATE_HZ, "24, say")
        check_between("loudness_lufs", self.loudness_lufs, MIN_LUFS, 0, "-23, say")
        check_between("min_sync", self.min_sync, -1, 1, "0.5, say")


class Heard(NamedTuple):
    """A sound as its file has it, silence too, and not filled up where it ends early.

    Attributes:
        scaled: float32 [channels, samples], times `gain`.
        sampling_rate: Samples per second.
        gain: By which it was multiplied for its loudness.
    """

    scaled: NDArray[np.float32]
    sampling_rate: int
    gain: float = 1.0

    @property
    def audio(self) -> NDArray[np.float32]:
        """The sound [channels, samples] before its loudness was changed."""
        return self.scaled if self.gain == 1 else self.scaled / np.float32(self.gain)

    def part(self, start_s: float, end_s: float) -> Heard:
        """What is heard between two times."""
        first, last = (round(time_s * self.sampling_rate) for time_s in (start_s, end_s))
        return self._replace(scaled=self.scaled[:, first:last])


class Clip(NamedTuple):
    """One training clip.

    Attributes:
        bucket: Its size; for sound alone, the number of frames that last as long.
        frames: uint8 [F, H, W, 3]; None for sound alone.
        audio: float32 [channels, samples] as long as the frames; None for a silent clip.
        sampling_rate: Samples per second of the sound; 0 without.
        mouth_boxes: float32 [P, F, 4] xyxy in pixels of the crop, NaN = no mouth.
        reference_image: uint8 [H, W, 3] to condition on; None stands for the first frame.
        shape_share: What the shapes of file and clip have in common: the part of the picture that a crop keeps, or of
            the clip that is not black.
        start_s: Where it begins in its file, in seconds.
        words: What is said in it; None where only the sample's transcript, or nobody, knows.
        cut_share: Part of its faces that the crop cuts into.
        speech: What is said in it when, from its beginning on; None where nobody knows.
        seen: Where a mouth was found, bool [P, F]: not those of `mouth_boxes` that are interpolated.
        heard: Its sound as the file has it; None without a track of sound.
        face_boxes: Of the faces around them likewise, NaN = no face, or none that is known; None where none is.
    """

    bucket: Bucket
    frames: NDArray[np.uint8] | None
    audio: NDArray[np.float32] | None
    sampling_rate: int
    mouth_boxes: NDArray[np.float32]
    reference_image: NDArray[np.uint8] | None
    shape_share: float = 1.0
    start_s: float = 0.0
    words: str | None = None
    cut_share: float = 0.0
    speech: tuple[Speech, ...] | None = None
    seen: NDArray[np.bool_] | None = None
    heard: Heard | None = None
    face_boxes: NDArray[np.float32] | None = None


class Recording(NamedTuple):
    """The clips of one file, cut one at a time, so that one of them is in memory however long the file is.

    Attributes:
        clips: In the order of time, to be gone through once. Raises `BrokenFileError` where the file cannot be read
            on, and at the end `SkippedClipError` if none is as required.
        segments: Where those clips, and others that are not as required, lie in the file.
        length_s: Seconds of the file.
        unused_s: Seconds that are in no clip, for each reason; complete once all clips have been gone through.
    """

    clips: Iterator[Clip]
    segments: Sequence[Segment]
    length_s: float
    unused_s: dict[str, float]
