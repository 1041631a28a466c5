"""Pictures as networks of transformers were trained to see them: resized, cropped, scaled, by Pillow alone.

transformers' own readers of some networks need torchvision, and round otherwise with it than without.

Letters: N pictures, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from jova_cli.json_text import read_object


FILES = ("preprocessor_config.json", "processor_config.json")
SCALE = 1 / 255


@dataclass(frozen=True)
class PictureForm:
    """How a network wants to see pictures.

    Attributes:
        size: Height and width to resize to; one number for the shorter side.
        crop: Height and width that are cut out of the middle; None for all.
        resample: Number of Pillow's filter.
        mean: Of the channels, in [0, 1].
        std: Likewise.
    """

    size: tuple[int, ...]
    crop: tuple[int, int] | None
    resample: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Pictures, in RGB, as the network sees them: float32 [N, 3, H, W]."""
        return torch.stack([self._one(picture) for picture in pictures])

    def cut(self, picture: Image.Image) -> Image.Image:
        """A picture as small as the network sees it; one that is, as it is."""
        seen = picture.resize(self._resized(picture), Image.Resampling(self.resample))
        if self.crop is None:
            return seen
        height, width = self.crop
        left, top = (seen.width - width) // 2, (seen.height - height) // 2
        return seen.crop((left, top, left + width, top + height))

    def _one(self, picture: Image.Image) -> Tensor:
        values = (np.asarray(self.cut(picture), np.float32) * SCALE - np.array(self.mean)) / np.array(self.std)
        return torch.from_numpy(values.astype(np.float32)).movedim(-1, 0)

    def _resized(self, picture: Image.Image) -> tuple[int, int]:
        """Width and height."""
        if len(self.size) == 2:
            return self.size[1], self.size[0]
        short, long = sorted(picture.size)
        longer = int(self.size[0] * long / short)
        return (self.size[0], longer) if picture.width <= picture.height else (longer, self.size[0])


def read_picture_form(folder: Path) -> PictureForm:
    """Read how the network of a folder wants to see pictures.

    Raises:
        ValueError: If no file of the folder says it.
    """
    values = _written(folder)
    try:
        size = _sizes(values["size"])
        cut_to = values.get("crop_size", values["size"])  # of old files the same
        crop = _sizes(cut_to) if values.get("do_center_crop") else None
        mean, std = (tuple(map(float, values[name])) for name in ("image_mean", "image_std"))
        resample = int(values.get("resample", Image.Resampling.BILINEAR))
        if len(mean) != 3 or len(std) != 3 or abs(float(values.get("rescale_factor", SCALE)) - SCALE) > SCALE / 1000:
            raise ValueError("values of another kind")
        cut = None if crop is None else (crop[0], crop[-1])
        return PictureForm(size, cut, int(Image.Resampling(resample)), mean, std)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"no word on how pictures are shown to it ({error!r})") from error


def _written(folder: Path) -> dict[str, Any]:
    for path in (folder / name for name in FILES):
        if path.is_file():
            values = read_object(path)
            found = values.get("image_processor", values)
            if "image_mean" in found:
                return dict(found)
    return {}


def _sizes(value: Any) -> tuple[int, ...]:
    """One number of the shorter side, or height and width; old files write a number."""
    if isinstance(value, int):
        return (value,)
    return (int(value["shortest_edge"]),) if "shortest_edge" in value else (int(value["height"]), int(value["width"]))
