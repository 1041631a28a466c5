"""Whether a clip shows whom its reference image shows, by DINO with the user's weights.

DINOv3 (arXiv:2508.10104) and DINOv2 (arXiv:2304.07193) see pictures, not persons.

Letters: N pictures, T tokens of one (its class, registers, patches), D numbers of a token, P persons, F frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F
from transformers import Dinov2Model, Dinov2WithRegistersModel, DINOv3ViTModel

from diffusers_jova.evaluation.clip_signals import PictureTracks
from diffusers_jova.evaluation.given_network import Wanted, read_network
from diffusers_jova.evaluation.measured import Measured
from diffusers_jova.evaluation.network_pictures import read_picture_form
from diffusers_jova.evaluation.seen_frames import read_frames, see_image
from diffusers_jova.training.data.mouth_detector import MouthDetector


FloatArray = npt.NDArray[np.floating]

WANTED = Wanted(
    "--identity",
    {"dinov3_vit": DINOv3ViTModel, "dinov2": Dinov2Model, "dinov2_with_registers": Dinov2WithRegistersModel},
    "a DINOv3 or DINOv2",
    "facebook/dinov3-vitl16-pretrain-lvd1689m",
    unread=("mask_token", "embeddings.mask_token"),  # of pictures with holes
)
BATCH = 8  # pictures at a time
VERSE_BENCH_TOKEN = -2  # a patch at the right lower edge


class Dino:
    """Pictures as tokens.

    Args:
        folder: Of a `DINOv3ViTModel`, `Dinov2Model` or `Dinov2WithRegistersModel` of transformers.
        device: Where it runs.

    Raises:
        ValueError: If the folder holds another network.
    """

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        self._network = read_network(folder, WANTED, device)
        self._form = WANTED.read(folder, read_picture_form)

    def __call__(self, pictures: Sequence[Image.Image]) -> Tensor:
        """All tokens of pictures in RGB, [N, T, D]."""
        batches = self._form(pictures).split(BATCH)
        with torch.inference_mode():
            return torch.cat(
                [self._network(batch.to(self._network.device)).last_hidden_state.cpu() for batch in batches]
            )


def measure_identity(
    video: Path | None, picture: PictureTracks | None, reference: Path | None, dino: Dino, detector: MouthDetector
) -> Measured:
    """Compare the frames of a clip with its reference image; with its own first frame where there is none.

    Args:
        video: The file of the pictures; None for sound alone.
        picture: Its tracks, with mouth boxes where they are known.
        reference: The image that the clip was made from.
        dino: With its weights.
        detector: Finds the face in that image.

    Raises:
        ValueError: If a file cannot be read.
    """
    if video is None or picture is None:
        return Measured({}, "no picture")
    frames = read_frames(video, picture)
    if reference is None:
        known, frames, told = frames[0], frames[1:], "the first frame, for want of a reference image"
    else:
        known, told = see_image(reference, detector), reference.name
    if not frames:
        return Measured({}, "one frame alone, and no reference image")
    cut = ImageOps.fit(known.picture, frames[0].picture.size, Image.Resampling.LANCZOS)  # as a clip of it is cut
    wanted, wanted_as_it_is = dino([cut])[0], dino([known.picture])[0]  # [T, D] each
    tokens = dino([frame.picture for frame in frames])  # [N, T, D]
    values: dict[str, float | None] = {
        "identity_picture": mean_cosine(tokens[:, 0], wanted[0]),
        "identity_verse_bench": mean_cosine(tokens[:, VERSE_BENCH_TOKEN], wanted_as_it_is[VERSE_BENCH_TOKEN]),
        "identity_face": None,
    }
    vectors = {"dino": F.normalize(tokens[:, 0].double(), dim=-1).mean(0).numpy().round(8).tolist()}
    measured = Measured(values, texts={"identity": told}, vectors=vectors)
    faces = [frame.picture.crop(frame.face) for frame in frames if frame.face is not None]
    if picture.bad_boxes or not faces or known.face is None:
        no_face = "no face" if not faces else f"no face in {'the first frame' if reference is None else told}"
        return measured._replace(reason=picture.bad_boxes or no_face, has_failed=bool(picture.bad_boxes))
    own = dino([known.picture.crop(known.face)])[0, 0]
    return measured._replace(values=values | {"identity_face": mean_cosine(dino(faces)[:, 0], own)})


def mean_cosine(tokens: Tensor, wanted: Tensor) -> float:
    """Mean cosine between tokens [N, D] and one [D]."""
    return float(F.cosine_similarity(tokens.double(), wanted.double()[None], dim=-1).mean())
