"""Pictures at given frames of a clip: the words that name them, and the frames that they mean."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from .latent_lengths import latent_of_frame, num_frames_of


LAST = -1  # frame of the clip


class Keyframe(NamedTuple):
    """A picture at a frame of a clip, which counts from its end where it is negative."""

    frame: int
    path: Path


class PicturePlaces(NamedTuple):
    """Where a model has places for pictures.

    Attributes:
        temporal_factor: Frames per latent after the first.
        num_mask_channels: Condition channels that say what is given; None for a model that reads clean tokens.
        encodes_grey: Whether pictures are encoded at their frames among grey ones; otherwise one fills its latent.
    """

    temporal_factor: int
    num_mask_channels: int | None
    encodes_grey: bool

    def check(self, names: Mapping[int, str]) -> None:
        """Refuse pictures that the model has no place for.

        Args:
            names: Argument of each, by its frame, counted from the beginning.
        """
        if names and self.num_mask_channels == 0:
            raise ValueError(
                f"`{next(iter(names.values()))}` must be None for a model whose condition channels hold no mask, "
                "which would say where a picture stands, got pictures; leave them out"
            )
        frame_of_latent: dict[int, int] = {}
        for frame, name in sorted(names.items()):
            latent = latent_of_frame(frame, self.temporal_factor)
            if latent in frame_of_latent and not self.encodes_grey:
                last = num_frames_of(latent + 1, self.temporal_factor) - 1
                raise ValueError(
                    f"`{name}` must be the only picture of its latent, which holds the frames "
                    f"{last - self.temporal_factor + 1} to {last}, got the frames {frame_of_latent[latent]} and "
                    f"{frame}; leave one out"
                )
            frame_of_latent[latent] = frame


def parse_keyframe(text: str) -> Keyframe:
    """Split FRAME=FILE."""
    frame, _, path = text.partition("=")
    try:
        return Keyframe(int(frame), Path(path)) if path else Keyframe(int(""), Path())
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"`--keyframe` must be FRAME=FILE with a whole number, got {text!r}; write 40=picture.png, say"
        ) from error


def named_frames(args: argparse.Namespace) -> list[tuple[str, int]]:
    """Argument and frame of each picture that the words of a clip give for a frame."""
    last = [] if args.last_image is None else [("last_image", LAST)]
    return last + [("keyframes", keyframe.frame) for keyframe in args.keyframe]


def place_frames(given: Sequence[tuple[str, int]], num_frames: int, num_given_frames: int = 0) -> list[int]:
    """Frames of a clip, counted from its beginning.

    Args:
        given: Argument and frame of each, negative from the end.
        num_frames: Of the clip.
        num_given_frames: Of a given video that the clip begins with.

    Raises:
        ValueError: One lies outside the clip, in what the video gives, or is given twice.
    """
    names: dict[int, str] = {}
    for name, frame in given:
        if num_frames == 1:
            raise ValueError(f"`{name}` must go with a clip of several frames, got one; raise `num_frames`")
        placed = frame + num_frames if frame < 0 else frame
        if not 0 < placed < num_frames:
            raise ValueError(
                f"`{name}` must be at a frame from 1 to {num_frames - 1} of this clip, or from -1 to "
                f"{1 - num_frames} from its end, got {frame}; the first frame is `image`"
            )
        if placed < num_given_frames:
            raise ValueError(
                f"`{name}` must be behind the {num_given_frames} frames of the given `video`, got frame {placed}; "
                "leave it out, or raise `num_frames`"
            )
        if placed in names:
            raise ValueError(
                f"`{name}` must be at a frame of its own, got frame {placed} from `{names[placed]}` as well; leave "
                "one out"
            )
        names[placed] = name
    return list(names)
