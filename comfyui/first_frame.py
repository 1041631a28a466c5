"""How a clip begins: with a picture or given frames where a model needs them, or with the white picture of some."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import comfy.utils
from torch import Tensor

from .given_pictures import PICTURES_KEY, add_picture, check_clip, fitted, picture_places
from .latent_parts import named_parts
from .package import jova


logger = logging.getLogger(__name__)

Conds = Mapping[str, list[dict[str, Any]]]  # of a guider: entries by the name of their prompt


def settle_first_frame(conds: Conds, model: Any, shapes: Sequence[Sequence[int]], mask: Tensor | None) -> None:
    """Give a clip the white first frame that some models start with, and refuse one that cannot begin as it does.

    Args:
        conds: Of the guider, which are copies of what its sockets carry; changed.
        model: That is sampled.
        shapes: Of the latents.
        mask: Denoise mask, packed as the latents are; None where all is generated.

    Raises:
        ValueError: It has no first frame where the model needs one, or two where the model reads one in front.
    """
    video, _ = named_parts(shapes)
    if video is None:
        return
    outline, is_given = model.checkpoint.outline, begins_given(mask, shapes)
    if outline.config.starts_white and not has_first_picture(conds):
        if is_given:
            logger.warning(
                "given frames have no first frame beside them; give it to JoVA Image to Video as well, as "
                "this model was trained"
            )
        else:
            start_white(conds, model, video)
    has_picture = has_first_picture(conds)
    if outline.config.needs_image and not (has_picture or is_given):
        raise ValueError(
            "`positive` must bring a first frame for this model, whose clips begin with one, got none; connect JoVA "
            "Image to Video"
        )
    if has_picture and is_given and jova("reference_rows").reads_references(model.diffusion_model.config):
        raise ValueError(
            "`image` must be left out beside given frames in ComfyUI for this model, which would read it in front of "
            "the clip, got both; take JoVA Image to Video out, or use `jova generate`"
        )


def has_first_picture(conds: Conds) -> bool:
    """Whether an entry of a guider's prompts brings a first frame."""
    entries = [entry for listed in conds.values() for entry in listed]
    return any(0 in entry[PICTURES_KEY].frames for entry in entries if entry.get(PICTURES_KEY) is not None)


def begins_given(mask: Tensor | None, shapes: Sequence[Sequence[int]]) -> bool:
    """Whether the first latent frame is given.

    Args:
        mask: Denoise mask, packed as the latents are; None where all is generated.
        shapes: Of the latents, video among them.
    """
    if mask is None:
        return False
    masked, _ = named_parts(comfy.utils.unpack_latents(mask, shapes))
    return not bool(masked[:, :, 0].any())


def start_white(conds: Conds, model: Any, video: Sequence[int]) -> None:
    """Put a white first frame into the entries of a guider's prompts.

    Args:
        conds: Changed.
        model: That is sampled.
        video: Shape of its latents, [B, C, F, h, w].
    """
    checkpoint = model.checkpoint
    codec, factor = checkpoint.outline.video_codec, checkpoint.outline.temporal_factor
    height, width = (size * codec.spatial_factor for size in video[3:])
    num_frames = (video[2] - 1) * factor + 1
    shape = jova("clip_shape").ClipShape(video[0], height, width, num_frames, checkpoint.defaults.frame_rate, 0)
    white = fitted("image", [jova("pipeline_media").white_picture(shape)], shape, "cover")
    places, found = picture_places(checkpoint.outline, model.diffusion_model.config), {}
    for entry in [entry for listed in conds.values() for entry in listed]:
        given = entry.get(PICTURES_KEY)
        if id(given) not in found:
            if given is not None:
                check_clip(given, video, places)
            found[id(given)] = add_picture(given, checkpoint.vae, 0, white, places, shape)
        entry[PICTURES_KEY] = found[id(given)]
