"""Contact sheets: frames of clips in a row, with the waveform below."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from diffusers_jova.whole_files import written_whole


BACKGROUND = (255, 255, 255)
INK = (40, 60, 120)
TEXT = (20, 20, 20)
LABEL_HEIGHT = 16
WAVE_HEIGHT = 40


def contact_sheet(
    clips: Sequence[tuple[npt.NDArray[np.uint8], npt.NDArray[np.floating]]],
    labels: Sequence[str] | None = None,
    *,
    num_frames: int = 11,
    frame_height: int = 96,
) -> Image.Image:
    """Draw one strip per clip: label, evenly spaced frames, waveform over the same time.

    Args:
        clips: Pairs of frames, uint8 [F, H, W, 3], and waveform, [samples] in [-1, 1].
        labels: A line of text per clip; none if `None`.
        num_frames: Frames to show of each clip.
        frame_height: Height at which a frame is shown, in pixels.
    """
    if labels is not None and len(labels) != len(clips):
        raise ValueError(f"`labels` must be one per clip, got {len(labels)} for {len(clips)} clips")
    strips = [_strip(frames, waveform, num_frames, frame_height) for frames, waveform in clips]
    label_height = LABEL_HEIGHT if labels is not None else 0
    height = sum(strip.height + label_height for strip in strips)
    sheet = Image.new("RGB", (max(strip.width for strip in strips), height), BACKGROUND)
    y = 0
    for strip, label in zip(strips, labels or [""] * len(strips), strict=True):
        ImageDraw.Draw(sheet).text((4, y + 2), label, fill=TEXT)
        sheet.paste(strip, (0, y + label_height))
        y += label_height + strip.height
    return sheet


def save_contact_sheet(
    path: str | Path,
    clips: Sequence[tuple[npt.NDArray[np.uint8], npt.NDArray[np.floating]]],
    labels: Sequence[str] | None = None,
) -> None:
    """Write `contact_sheet` as a PNG file."""
    with written_whole(Path(path)) as partial:
        contact_sheet(clips, labels).save(partial, format="PNG")


def _strip(
    frames: npt.NDArray[np.uint8], waveform: npt.NDArray[np.floating], num_frames: int, frame_height: int
) -> Image.Image:
    height, width = frames.shape[1:3]
    frame_width = round(frame_height * width / height)
    chosen = frames[np.linspace(0, len(frames) - 1, min(num_frames, len(frames))).round().astype(int)]
    strip = Image.new("RGB", (frame_width * len(chosen), frame_height + WAVE_HEIGHT), BACKGROUND)
    resampling = Image.Resampling.NEAREST if frame_height >= height else Image.Resampling.BOX
    for index, frame in enumerate(chosen):
        picture = Image.fromarray(np.ascontiguousarray(frame)).resize((frame_width, frame_height), resampling)
        strip.paste(picture, (index * frame_width, 0))
    draw_wave(strip, waveform, frame_height, WAVE_HEIGHT)
    return strip


def draw_wave(
    image: Image.Image,
    waveform: npt.NDArray[np.floating],
    top: int,
    height: int,
    ink: tuple[int, int, int] = INK,
) -> None:
    """Draw the extent of a waveform [samples] in each column of an image, `height` pixels from `top` on."""
    draw = ImageDraw.Draw(image)
    middle, half = top + height / 2, height / 2 - 2
    edges = np.linspace(0, len(waveform), image.width + 1).round().astype(int)[1:-1]  # equal times, to a sample
    for x, piece in enumerate(np.split(np.clip(waveform, -1, 1), edges)):
        low, high = (float(piece.min()), float(piece.max())) if len(piece) else (0.0, 0.0)
        draw.line((x, middle - half * high, x, middle - half * low), fill=ink)
