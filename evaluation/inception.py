"""Frames of a clip as Inception sees them, by the package torch-fidelity with weights of the user: FID comes of them.

Szegedy et al. (arXiv:1512.00567): a classifier of pictures, in the form of 2015 that FID has been told by since Heusel
et al. (arXiv:1706.08500). Package and weights are under Apache-2.0; the package alone would download the weights, and
would execute what their file names.

Letters: F frames, D numbers of an embedding.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from diffusers_jova.evaluation.clip_signals import PictureTracks
from diffusers_jova.evaluation.given_network import as_numbers
from diffusers_jova.evaluation.measured import Measured
from diffusers_jova.evaluation.seen_frames import read_frames
from diffusers_jova.torch_files import check_weights, read_pickle
from jova_cli.parser import one_line


FloatArray = npt.NDArray[np.floating]

FILE = "weights-inception-2015-12-05-6726825d.pth"
ADVICE = f"give {FILE} of toshas/torch-fidelity"
LAYER = "2048"  # after the last pooling, of as many numbers
MAX_FRAMES = 8  # of a clip: each is 2,048 numbers that are kept, and frames of one clip are much alike
BATCH = 4  # frames at a time
FAULT = re.compile(r"(Missing|Unexpected) key\(s\) in state_dict: \"([^\"]+)\"|size mismatch for ([^:]+):")


class Inception:
    """Frames as embeddings.

    Args:
        path: Of the weights.
        device: Where the network runs.

    Raises:
        ImportError: If `torch_fidelity`, or `torchvision` that it imports, cannot be imported.
        ValueError: If the file cannot be read without executing what it names, or holds another network's weights.
    """

    def __init__(self, path: Path, device: str = "cpu") -> None:
        extractor, given = _extractor(), read_pickle(path)
        written = io.BytesIO()
        torch.save(given, written)  # tensors alone, because the package executes what the file that it reads names
        written.seek(0)
        try:
            network = extractor("inception", [LAYER], feature_extractor_weights_path=written)
        except RuntimeError as error:
            fault = _first_fault(str(error))
            raise ValueError(
                f"`{path}` must be the weights of Inception, got another network's ({fault}); {ADVICE}"
            ) from error
        check_weights(path, given, given, "Inception", ADVICE)  # that they are numbers: torch has compared the names
        self._network, self._device = network.to(device).eval(), device

    def __call__(self, frames: Sequence[Image.Image]) -> FloatArray:
        """Embed frames in RGB of one size, which the package resizes as TensorFlow did, [F, D]."""
        pixels = torch.from_numpy(np.stack([np.asarray(frame) for frame in frames])).movedim(-1, 1)
        with torch.inference_mode():
            return np.concatenate(
                [as_numbers(self._network(batch.to(self._device))[0]) for batch in pixels.split(BATCH)]
            )


def _extractor() -> Any:
    """The class of the package, whose import of torchvision fails in ways of its own.

    Raises:
        ImportError: Naming the package that cannot be imported.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        return FeatureExtractorInceptionV3
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "torchvision":
            raise
        raise ImportError("the package `torchvision`, which torch-fidelity imports, is not installed") from None
    except Exception as error:  # as a torchvision that was built for another torch
        raise ImportError(f"the package torch-fidelity, or its torchvision, fails: {one_line(error)}") from None


def _first_fault(told: str) -> str:
    """The first of the names that torch lists."""
    found = FAULT.search(told)
    if found is None:
        return told.splitlines()[0]
    kind, name, sized = found.groups()
    return f"{sized} of another size" if sized else f"no {name}" if kind == "Missing" else f"{name} beyond them"


def measure_frames(video: Path | None, picture: PictureTracks | None, network: Inception) -> Measured:
    """Embed up to `MAX_FRAMES` frames of a clip, evenly spaced: no number of a clip, but of sets of them.

    Args:
        video: The file of the pictures; None for sound alone.
        picture: Its tracks.
        network: With the user's weights.

    Raises:
        ValueError: If the file cannot be read.
    """
    if video is None or picture is None:
        return Measured({}, "no picture")
    frames = network([seen.picture for seen in read_frames(video, picture, MAX_FRAMES)])
    return Measured({}, vectors={"inception": frames.round(4).tolist()})
