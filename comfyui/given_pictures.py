"""Pictures at given frames of a clip as raw latents: the first one and later ones.

A model that reads condition channels with grey frames has all pictures encoded at once, at their frames among grey
ones; for the others each picture is a latent of its own. `diffusers_jova/keyframes.py` tells why.

Letters in shapes: B clips, C channels, F latent frames, h, w latent height and width, H, W pixels.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .package import jova


logger = logging.getLogger(__name__)

PICTURES_KEY = "jova_pictures"  # of a conditioning: `GivenPictures`


@dataclass(frozen=True)
class GivenPictures:
    """Pictures of a clip by their frames.

    Args:
        frames: Each [1 or B, 3, 1, H, W] in [-1, 1], by its frame from 0.
        latents: Raw latents [B, C, K, h, w] of the K latent frames that hold pictures, or of all with grey frames.
        indices: Which latent frames these are.
        num_frames: Of the clip.
    """

    frames: Mapping[int, Tensor]
    latents: Tensor
    indices: Sequence[int]
    num_frames: int

    def scattered(self, num_latent_frames: int, codec: Any, device: torch.device) -> Tensor:
        """Normalised latents [B, C, F, h, w], zeros where there are none.

        Args:
            num_latent_frames: F.
            codec: Video codec of the model.
            device: Of the result.
        """
        found = codec.normalize(self.latents.to(device))
        batch_size, num_channels, _, *size = found.shape
        latents = torch.zeros(batch_size, num_channels, num_latent_frames, *size, device=device)
        latents[:, :, list(self.indices)] = found
        return latents


def num_condition_channels(config: Any) -> int:
    """Video input channels that hold what is given."""
    return config["in_channels"] - config["out_channels"]


def picture_places(outline: Any, transformer: Any) -> Any:
    """`PicturePlaces` of a model, as the pipeline has them.

    Args:
        outline: Of the pipeline, without a transformer.
        transformer: Config of its transformer.
    """
    num_channels = num_condition_channels(transformer)
    num_mask_channels = num_channels - outline.video_codec.num_channels if num_channels > 0 else None
    encodes_grey = bool(outline.config.fills_image_with_grey) and num_channels > 0
    return jova("pipeline_media").PicturePlaces(outline.temporal_factor, num_mask_channels, encodes_grey)


def add_picture(
    given: GivenPictures | None, vae: Any, frame: int, picture: Tensor, places: Any, shape: Any
) -> GivenPictures:
    """The pictures of a clip with another one.

    Args:
        given: Those that it has.
        vae: Of the model.
        frame: Of the new one, from 0.
        picture: [1 or B, 3, 1, H, W] in [-1, 1].
        places: Of the model.
        shape: `ClipShape` of the clips.
    """
    frames = {**({} if given is None else given.frames), frame: picture}
    if places.encodes_grey:
        clips = jova("pipeline_media").among_grey(frames, shape.num_frames)
        encoded = repeated("image", torch.cat([encode(vae, clip) for clip in clips]), shape.batch_size)
        return GivenPictures(frames, encoded, range(encoded.shape[2]), shape.num_frames)
    still = repeated("image", torch.cat([encode_still(vae, one, frame, places) for one in picture]), shape.batch_size)
    latents, indices = still, [jova("pipeline_media").latent_of_frame(frame, places.temporal_factor)]
    if given is not None:
        earlier = repeated("image", given.latents, shape.batch_size)
        latents, indices = torch.cat([earlier, still], dim=2), [*given.indices, *indices]
    return GivenPictures(frames, latents, indices, shape.num_frames)


def encode(vae: Any, frames: Tensor) -> Tensor:
    """Raw latents [1, C, F, h, w] of frames [3, N, H, W] in [-1, 1]."""
    latents: Tensor = vae.encode(to_image(frames.movedim(0, 1)))
    return latents


def encode_still(vae: Any, picture: Tensor, frame: int, places: Any) -> Tensor:
    """Raw latent [1, C, 1, h, w] of a picture [3, 1, H, W] that fills that of its frame, as `encode_still` has it."""
    if frame == 0:
        return encode(vae, picture)
    num_frames = 1 + places.temporal_factor * (1 + jova("video_codec").NUM_STILL_BEFORE)
    return encode(vae, picture.expand(-1, num_frames, -1, -1))[:, :, -1:]


def repeated(name: str, latents: Tensor, batch_size: int) -> Tensor:
    """Latents of one clip, or of one per clip, for all clips."""
    found: Tensor = jova("conditions").repeat_to_batch(name, latents, batch_size)
    return found


def place_picture(frame: int, given: GivenPictures | None, clip: Any, name: str) -> int:
    """Frame of a new picture behind the first one, from 0.

    Args:
        frame: Of the widget, negative from the end.
        given: Pictures that the clip has.
        clip: Whose frame it is.
        name: Of the widget, or of the socket of a picture whose frame is known.

    Raises:
        ValueError: It lies outside the clip, within given frames, or where another one is.
    """
    listed = [(name, earlier) for earlier in (() if given is None else given.frames) if earlier > 0]
    num_given_frames = 0 if clip.given_video is None else len(clip.given_video)
    try:
        placed: int = jova("keyframes").place_frames([*listed, (name, frame)], clip.num_frames, num_given_frames)[-1]
        clip.places.check(dict.fromkeys((*(() if given is None else given.frames), placed), name))
    except ValueError as error:
        raise ValueError(in_words_of_nodes(str(error), name)) from error
    return placed


def in_words_of_nodes(message: str, name: str) -> str:
    """A sentence of `diffusers_jova/keyframes.py` with sockets and widgets in the place of its arguments.

    Args:
        message: The sentence.
        name: Of the widget of JoVA Keyframe that it is about, or of a socket of JoVA Generate.
    """
    is_keyframe = name == "frame"
    words = {
        "the given `video`": "JoVA Given Video" if is_keyframe else "`own_video`",
        "`num_frames`": "`length`",
        "first frame is `image`": f"first frame is {'JoVA Image to Video' if is_keyframe else '`image`'}",
        f"`{name}` must be None": f"{'JoVA Keyframe' if is_keyframe else f'`{name}`'} must be left out",
    }
    for ours, theirs in words.items():
        message = message.replace(ours, theirs)
    return message


def first_place(given: GivenPictures | None) -> int:
    """Frame 0, if no picture stands there."""
    if given is not None and 0 in given.frames:
        raise ValueError(
            "`image` must be the only first frame of a clip, got one beside another; take one JoVA Image to Video out"
        )
    return 0


def check_same_clip(given: GivenPictures | None, shape: Any) -> None:
    """Refuse a picture for clips of another size, length or number than those of the pictures before it."""
    if given is None:
        return
    size = list(next(iter(given.frames.values())).shape[3:])
    wanted = given.num_frames, *size, given.latents.shape[0]
    found = shape.num_frames, shape.height, shape.width, shape.batch_size
    if found != wanted:
        raise ValueError(
            f"`latent` must be that of the pictures before this one, {describe(*wanted)}, got {describe(*found)}; "
            "give all of them the latent that is sampled"
        )


def check_clip(given: GivenPictures, shape: Sequence[int], places: Any) -> None:
    """Refuse pictures that were made for clips of another size, length or number, or for another model.

    Args:
        given: Made before sampling.
        shape: Of the video latents that are sampled, [B, C, F, h, w].
        places: Of the model.
    """
    if list(given.latents.shape[3:]) != list(shape[3:]):
        raise ValueError(
            f"`image` must have the size of the latents that are sampled, {list(shape[3:])}, got "
            f"{list(given.latents.shape[3:])}; give JoVA Image to Video and JoVA Keyframe the latent that is sampled"
        )
    num_clips = given.latents.shape[0]
    if num_clips not in (1, shape[0]):
        raise ValueError(
            f"`image` must be one for all clips that are sampled or one per clip, got {num_clips} for {shape[0]}; "
            "give JoVA Image to Video and JoVA Keyframe the latent that is sampled"
        )
    is_alone = not places.encodes_grey and [*given.indices] == [0]  # it stands in a clip of any length
    num_frames = (shape[2] - 1) * places.temporal_factor + 1
    num_wanted = shape[2] if places.encodes_grey else len(given.frames)
    if (given.num_frames != num_frames and not is_alone) or len(given.indices) != num_wanted:
        raise ValueError(
            f"`image` must be that of a clip of {num_frames} frames with {num_wanted} latents for this model, got "
            f"{given.num_frames} and {len(given.indices)}; give JoVA Image to Video and JoVA Keyframe the latent "
            "that is sampled, made with the audio VAE of the same model"
        )


def describe(num_frames: int, height: int, width: int, num_clips: int) -> str:
    """Clips in words."""
    return f"{num_frames} frames of {width} x {height} in a batch of {num_clips}"


def fitted(name: str, pictures: Sequence[Any], shape: Any, fit: str) -> Tensor:
    """Pictures in one form [h, w, 3] at the size of the clip, [P, 3, 1, H, W] in [-1, 1]; says what is cut."""
    return torch.cat([fit_frames(name, picture[None], shape, fit) for picture in pictures])[:, :, None]


def fit_frames(name: str, frames: Any, shape: Any, fit: str) -> Tensor:
    """Frames in one form [N, h, w, 3] at the size of the clip, [N, 3, H, W] in [-1, 1]; says what is cut."""
    tools = jova("pictures")
    if change := tools.describe_fit(name, frames.shape[1:3], (shape.height, shape.width), fit):
        logger.warning(change)
    signed: Tensor = tools.to_signed(tools.fit_pictures(frames, shape.height, shape.width, fit))
    return signed


def to_image(signed: Tensor) -> Tensor:
    """IMAGE [N, H, W, 3] in [0, 1] of frames [N, 3, H, W] in [-1, 1]."""
    return (signed / 2 + 0.5).movedim(1, -1)
