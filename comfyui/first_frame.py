"""The first frame of a clip as raw latents: a given one, or the white one of a model that never starts without."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import comfy.utils
import torch
from torch import Tensor

from .latent_parts import named_parts
from .package import jova


logger = logging.getLogger(__name__)

IMAGE_KEY = "jova_image"  # of a conditioning: raw latents of the first frame, with grey frames where there are any


def num_condition_channels(config: Any) -> int:
    """Video input channels that hold what is given."""
    return config["in_channels"] - config["out_channels"]


def fills_image_with_grey(outline: Any, transformer: Any) -> bool:
    """Whether grey frames are encoded behind a first one: a pipeline says so, and only condition channels hold them.

    Args:
        outline: Of the pipeline.
        transformer: Config of its transformer.
    """
    return outline.config.fills_image_with_grey and num_condition_channels(transformer) > 0


def start_white(
    conds: Mapping[str, list[dict[str, Any]]],
    checkpoint: Any,
    transformer: Any,
    shapes: Sequence[Sequence[int]],
    mask: Tensor | None,
) -> None:
    """Give a model that never starts without a first frame a white one, where neither image nor video is given.

    Args:
        conds: Of the guider, which are copies of what its sockets carry; changed.
        checkpoint: Of the model that is sampled.
        transformer: Config of its transformer.
        shapes: Of the latents.
        mask: Denoise mask, packed as the latents are; None where all is generated.
    """
    video, _ = named_parts(shapes)
    entries = [entry for listed in conds.values() for entry in listed]
    if video is None or not checkpoint.outline.config.starts_white or any(IMAGE_KEY in entry for entry in entries):
        return
    if mask is not None:
        masked, _ = named_parts(comfy.utils.unpack_latents(mask, shapes))
        if not bool(masked[:, :, 0].any()):
            logger.warning(
                "given frames have no first frame beside them; give it to JoVA Image to Video as well, as "
                "this model was trained"
            )
            return
    codec, factor = checkpoint.outline.video_codec, checkpoint.outline.temporal_factor
    height, width = (size * codec.spatial_factor for size in video[3:])
    num_frames = (video[2] - 1) * factor + 1
    shape = jova("clip_shape").ClipShape(video[0], height, width, num_frames, checkpoint.defaults.frame_rate, 0)
    pictures = [jova("pipeline_media").white_picture(shape)]
    is_filled = fills_image_with_grey(checkpoint.outline, transformer)
    white = encode_pictures(checkpoint.vae, pictures, shape, "cover", is_filled)
    for entry in entries:
        entry[IMAGE_KEY] = white


def encode_pictures(vae: Any, pictures: Sequence[Any], shape: Any, fit: str, fills_with_grey: bool) -> Tensor:
    """Raw latents [B, C, 1, h, w] of first frames, or [B, C, F, h, w] with the grey frames behind them.

    Args:
        vae: Of the model.
        pictures: In one form [h, w, 3], one for all clips or one per clip.
        shape: `ClipShape` of the clips.
        fit: How pictures of another shape become those of the clip.
        fills_with_grey: Whether the model was trained with grey frames behind the first one.
    """
    media = jova("pipeline_media")
    encoded = []
    for picture in pictures:
        signed = fitted("image", picture[None], shape, fit).movedim(0, 1)[None]  # [1, 3, 1, H, W]
        signed = media.among_grey({0: signed}, shape.num_frames) if fills_with_grey else signed
        encoded.append(vae.encode(to_image(signed[0].movedim(0, 1))))
    return jova("conditions").repeat_to_batch("image", torch.cat(encoded), shape.batch_size)


def fitted(name: str, pictures: Any, shape: Any, fit: str) -> Tensor:
    """Pictures in one form [N, h, w, 3] at the size of the clip, [N, 3, H, W] in [-1, 1]; says what is cut."""
    tools = jova("pictures")
    if change := tools.describe_fit(name, pictures.shape[1:3], (shape.height, shape.width), fit):
        logger.warning(change)
    return tools.to_signed(tools.fit_pictures(pictures, shape.height, shape.width, fit))


def to_image(signed: Tensor) -> Tensor:
    """IMAGE [N, H, W, 3] in [0, 1] of frames [N, 3, H, W] in [-1, 1]."""
    return (signed / 2 + 0.5).movedim(1, -1)
