"""Whether a file is an image, a sound or a video that can be read, as its header tells Pillow and PyAV, without torch.

Both are imported when a file is opened: most commands are given none.
"""

import functools
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .container_size import lacks_index, missing_bytes
from .moving_pictures import as_film, frames_in_time, num_frames


PathLike = str | os.PathLike[str]
STILLS = ("_pipe", "image2")  # in which names of libav's formats of pictures end
TAKE_TRUNCATED = ", or take what is there by `allow_truncated`"
MAX_SAMPLING_RATE_HZ = 768_000  # of the fastest converters; a header may claim anything


@functools.cache
def image_suffixes() -> frozenset[str]:
    """Suffixes, in small letters, of the kinds of pictures that Pillow can read here."""
    import PIL.Image

    PIL.Image.init()
    return frozenset(
        suffix
        for suffix, kind in PIL.Image.registered_extensions().items()
        if kind in PIL.Image.OPEN and PIL.Image.MIME.get(kind, "").startswith("image/")
    )


def is_still(path: PathLike) -> bool:
    """Whether a file is named as a picture; one that moves is a video."""
    return Path(path).suffix.lower() in image_suffixes() and num_frames(path) < 2


def check_image(path: PathLike) -> None:
    """Refuse what is no image."""
    with opened_image(path):
        pass


def check_sound(path: PathLike, audio_track: int | None = None, *, allow_truncated: bool = False) -> None:
    """Refuse what is no file with the sound track that is asked for, as `find_audio_stream` counts it."""
    with open_for_reading(path, allow_truncated=allow_truncated) as container:
        find_audio_stream(container, path, audio_track)


def check_video(path: PathLike, *, allow_truncated: bool = False) -> None:
    """Refuse what is no file with a picture that moves."""
    with open_for_reading(path, allow_truncated=allow_truncated) as container:
        video_stream(container, path)
        if container.format.name.endswith(STILLS) or num_frames(path) == 1:
            raise ValueError(f"`path` must be a video, got the picture {path}; a clip begins with it as `image`")


@contextmanager
def opened_image(path: PathLike) -> Iterator[Any]:
    """Open an image of Pillow, and turn every failure while it is open into one helpful error.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no readable image, or one that moves.
    """
    import PIL.Image

    path = existing_file(path)
    num = 1
    try:
        with warnings.catch_warnings(action="ignore", category=PIL.Image.DecompressionBombWarning):
            opened = PIL.Image.open(path)
        with opened as image:
            num = frames_in_time(image)
            if num == 1:
                yield image
    except PIL.Image.DecompressionBombError as error:
        limit = 2 * (PIL.Image.MAX_IMAGE_PIXELS or 0)  # Pillow warns of half as many
        raise ValueError(
            f"`path` must be an image of at most {limit / 1e6:.0f} megapixels, got {path} ({error}); scale it down"
        ) from error
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for broken files
        advice = "save one of its frames as a picture" if is_video(path) else "open and save it again, as JPEG or PNG"
        raise ValueError(f"`path` must be a readable image, got {path} ({error}); {advice}") from error
    if num > 1:
        raise ValueError(
            f"`path` must be a picture that stands still, got {path} of {num} frames; save the one that is meant"
        )


def is_video(path: PathLike) -> bool:
    """Whether a file holds a picture that moves, whatever its name says."""
    try:
        check_video(path, allow_truncated=True)
    except (OSError, ValueError, ImportError):
        return False
    return True


def import_av() -> Any:
    """The library that media files need, or how to get it."""
    try:
        import av
    except ImportError as error:
        raise ImportError("media files need PyAV, which is not installed; run `pip install av`") from error
    return av


def existing_file(path: PathLike) -> Path:
    """The path of a file that must be there.

    Raises:
        ValueError: If it is no path.
        FileNotFoundError: If there is no such file.
    """
    if not isinstance(path, str | os.PathLike):
        raise ValueError(f"`path` must be the path of a file, got {path!r}; give one file")
    if not Path(path).is_file():
        raise FileNotFoundError(f"`path` must be an existing file, got {path}; check the spelling")
    return Path(path)


@contextmanager
def open_for_reading(path: PathLike, *, allow_truncated: bool = False) -> Iterator[Any]:
    """Open a file, and turn every failure of libav while it is open into one helpful error.

    Args:
        path: Of the file.
        allow_truncated: Whether a file that announces more bytes than it holds is opened.
    """
    av = import_av()
    path = existing_file(path)
    if not path.stat().st_size:
        raise ValueError(f"`path` must be a whole file, got {path}, which is empty; copy it again")
    if lacks_index(path):
        raise ValueError(
            f"`path` must be a whole file, got {path}, which ends before its index, without which nothing of it can "
            "be read; copy it again, or have it mended by a tool such as untrunc"
        )
    missing = missing_bytes(path)
    if missing and not allow_truncated:
        raise ValueError(
            f"`path` must be a whole file, got {path}, which lacks {missing} of the bytes that it announces; copy it "
            f"again{TAKE_TRUNCATED}"
        )
    unreadable = (
        f"`path` must be a whole file, got {path}, of which nothing can be read, as it lacks {missing} of the bytes "
        "that it announces; copy it again"
    )
    try:
        with av.open(as_film(path) or str(path.absolute())) as container:  # a relative `a:b.mp4` would be a protocol
            if missing and not (container.streams.video or container.streams.audio):
                raise ValueError(unreadable)
            yield container
    except av.error.FFmpegError as error:
        raise ValueError(
            unreadable
            if missing
            else f"`path` must be a media file that libav can decode, got {path} ({error.strerror}); convert it with "
            "ffmpeg"
        ) from error


def video_stream(container: Any, path: PathLike) -> Any:
    """The picture of an open file; the cover of a record is no video."""
    attached = import_av().stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & attached]
    if not streams:
        raise ValueError(
            f"`path` must be a file with a video stream, got {path}; give what holds sound alone as `audio`"
        )
    decodable = [stream for stream in streams if is_decodable(stream)]
    if not decodable:
        raise ValueError(
            f"`path` must be a media file that libav can decode, got {path}, whose picture is of a codec that it does "
            "not know; convert it with ffmpeg"
        )
    return first_default(decodable)


def is_decodable(stream: Any) -> bool:
    """Whether libav knows the codec of a stream; of another, nothing but its times can be read."""
    return stream.codec_context is not None


def find_audio_stream(container: Any, path: PathLike, audio_track: int | None) -> Any:
    """The sound track of an open file that is asked for, or that players choose."""
    streams = container.streams.audio
    if not streams:
        raise ValueError(f"`path` must be a file with sound, got {path}; choose a file with an audio stream")
    if audio_track is None:
        stream = first_default([stream for stream in streams if is_decodable(stream)] or streams)
    elif 0 <= audio_track < len(streams):
        stream = streams[audio_track]
    else:
        raise ValueError(
            f"`audio_track` must be from 0 to {len(streams) - 1} for {path}, got {audio_track}; choose one"
        )
    if not is_decodable(stream):
        raise ValueError(
            f"`path` must be a media file that libav can decode, got {path}, whose sound is of a codec that it does "
            "not know; convert it with ffmpeg"
        )
    if not 0 < stream.rate <= MAX_SAMPLING_RATE_HZ:
        raise ValueError(
            f"`path` must be a file of up to {MAX_SAMPLING_RATE_HZ} samples per second, got {path}, which claims "
            f"{stream.rate}; convert it with ffmpeg"
        )
    return stream


def first_default(streams: Sequence[Any]) -> Any:
    """The first stream that its file marks as default, else the first."""
    default = import_av().stream.Disposition.default
    return next((stream for stream in streams if stream.disposition & default), streams[0])
