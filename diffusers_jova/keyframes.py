"""Pictures at given frames of a clip behind the first: in one form, at their place, or refused.

What a causal VAE makes of time decides what can be given. Its latents hold 4 frames each, but for the first:

- On condition channels with grey frames (MOVA), the clip is encoded with each picture at its frame among grey ones,
  and a mask channel stands for each frame of a latent, as `WanImageToVideoPipeline` has it for its `last_image`.
- On the others (JoVA), and as a clean latent at timestep 0 (Wan towers, Ovi, NAVA, UniAVGen), a picture is its latent:
  that of a clip in which it stands still. LTX-2 encodes a picture alone and adds it as rows of their own, at the time
  of its frame, which its weights were trained for; its `index` counts latents, ours counts frames.
"""

from collections.abc import Mapping, Sized
from typing import Any, NamedTuple

import numpy as np

from jova_cli.keyframes import LAST, PicturePlaces, place_frames

from .conditions import check_repeats
from .moviepy_clips import unpack_moviepy
from .number_arguments import whole_number
from .pictures import Fit, tell_fit, to_pictures


class Keyframe(NamedTuple):
    """What is given for one frame.

    Attributes:
        name: Argument that it came from.
        pictures: [H, W, 3], one for all clips or one per prompt, in one form (see `pictures.py`).
    """

    name: str
    pictures: list[np.ndarray]


def given_keyframes(keyframes: Any) -> Mapping[Any, Any] | None:
    """Pictures by their frames as a call is given them; None where it is given none."""
    if keyframes is not None and not isinstance(keyframes, Mapping):
        raise ValueError(
            f"`keyframes` must be a dict of pictures by their frames, got {type(keyframes).__name__}; pass "
            "{40: picture}, say"
        )
    return keyframes or None


def settle_keyframes(
    last_image: Any, keyframes: Any
) -> tuple[list[np.ndarray] | None, dict[int, list[np.ndarray]] | None]:
    """The pictures at given frames of a call in one form, `last_image` and `keyframes`."""
    if last_image is not None:
        last_image = to_pictures("last_image", unpack_moviepy("last_image", last_image))
    settled = {
        whole_number("frame in keyframes", frame): to_pictures("keyframes", unpack_moviepy("keyframes", pictures))
        for frame, pictures in (given_keyframes(keyframes) or {}).items()
    }
    return last_image, settled or None


def place_keyframes(
    last_image: list[np.ndarray] | None,
    keyframes: Mapping[int, list[np.ndarray]] | None,
    num_frames: int,
    video: Sized | None = None,
) -> dict[int, Keyframe]:
    """Settled pictures by their frames in a clip, ascending.

    Args:
        last_image: In one form.
        keyframes: In one form.
        num_frames: Of the clip.
        video: Given frames that it begins with.

    Raises:
        ValueError: A frame is outside the clip, within the given video, or given twice.
    """
    found = [] if last_image is None else [(LAST, Keyframe("last_image", last_image))]
    found += [(frame, Keyframe("keyframes", pictures)) for frame, pictures in (keyframes or {}).items()]
    num_given_frames = 0 if video is None else len(video)
    frames = place_frames([(given.name, frame) for frame, given in found], num_frames, num_given_frames)
    return dict(sorted(zip(frames, (given for _, given in found), strict=True), key=lambda pair: pair[0]))


def check_keyframes(keyframes: Mapping[int, Keyframe], num_prompts: int, places: PicturePlaces) -> None:
    """Refuse pictures that a model has no place for, or as many as fit no prompts.

    Args:
        keyframes: By their frames.
        num_prompts: Of the call.
        places: Of the model.
    """
    for given in keyframes.values():
        check_repeats(given.name, len(given.pictures), num_prompts)
    places.check({frame: given.name for frame, given in keyframes.items()})


def tell_fits(keyframes: Mapping[int, Keyframe], target: tuple[int, int], fit: Fit) -> None:
    """Say what is cut or filled of pictures at given frames, once for each argument and size; see `tell_fit`."""
    for name in dict.fromkeys(given.name for given in keyframes.values()):
        pictures = [picture for given in keyframes.values() if given.name == name for picture in given.pictures]
        tell_fit(name, pictures, target, fit)
