"""A clip as VideoMAE sees it, a transformer of videos with the user's weights: a distance like FVD comes of it.

Tong et al. (arXiv:2203.12602) for the network; Ge et al. (arXiv:2404.12391) for its features in place of those of I3D,
which see contents rather than motion. Distances of different weights must not be compared with each other.

Letters: F frames, T tokens of a window, D numbers of an embedding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from transformers import AutoConfig, VideoMAEForVideoClassification, VideoMAEModel

from diffusers_jova.evaluation.clip_signals import frame_rate_of
from diffusers_jova.evaluation.given_network import Wanted, as_numbers, read_network
from diffusers_jova.evaluation.measured import Measured
from diffusers_jova.evaluation.network_pictures import PictureForm, read_picture_form
from diffusers_jova.training.data.frame_stream import decode_frames


FloatArray = npt.NDArray[np.floating]

WANTED = Wanted(
    "--video-classifier", {"videomae": VideoMAEModel}, "a VideoMAE", "MCG-NJU/videomae-base-finetuned-kinetics"
)
WITH_HEAD = replace(WANTED, classes={"videomae": VideoMAEForVideoClassification}, unread=("classifier.",))
FRAME_RATE = Fraction(30, 4)  # every fourth frame of 30 a second, as it is trained on Kinetics


class VideoMae:
    """Windows of frames as embeddings.

    Args:
        folder: Of a `VideoMAEForVideoClassification` or a `VideoMAEModel` of transformers, with the file that says how
            it sees pictures.
        device: Where it runs.

    Raises:
        ValueError: If the folder holds another network.
    """

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        config = WANTED.read(folder, lambda path: AutoConfig.from_pretrained(path, local_files_only=True))
        has_head = VideoMAEForVideoClassification.__name__ in (config.architectures or ())
        network = read_network(folder, WITH_HEAD if has_head else WANTED, device)
        self._network: Any = network.videomae if has_head else network
        self._norm: Any = network.fc_norm if has_head else None
        self.form = WANTED.read(folder, read_picture_form)
        self.num_frames: int = network.config.num_frames

    def __call__(self, frames: Sequence[Image.Image]) -> FloatArray:
        """The mean of windows that cover frames in RGB, `num_frames` or more, evenly, [D]."""
        last = len(frames) - self.num_frames
        starts = np.rint(np.linspace(0, last, -(-len(frames) // self.num_frames))).astype(int)
        windows = [self._embed(frames[start : start + self.num_frames]) for start in starts.tolist()]
        return np.asarray(np.mean(windows, axis=0))

    def _embed(self, window: Sequence[Image.Image]) -> FloatArray:
        """The mean of the tokens of a window, normalised as in front of the classifier where there is one, [D]."""
        with torch.inference_mode():
            tokens = self._network(self.form(window)[None].to(self._network.device)).last_hidden_state  # [1, T, D]
            mean = tokens.mean(1)
            return as_numbers(mean if self._norm is None else self._norm(mean))[0]


def read_frames_by_time(video: Path, form: PictureForm) -> list[Image.Image]:
    """What a clip shows at each 7.5th of a second before its end, as small as the network sees it."""
    rate, seen = frame_rate_of(video), list[Image.Image]()
    for number, frame in enumerate(decode_frames(video, rate)):
        due = math.ceil((number + 1) * FRAME_RATE / rate) - len(seen)  # while this frame is shown
        if due > 0:
            seen += [form.cut(Image.fromarray(frame))] * due
    return seen


def measure_video(video: Path | None, network: VideoMae) -> Measured:
    """Embed a clip: no number of it, but of sets of clips.

    Args:
        video: The file of the pictures; None for sound alone.
        network: With the user's weights.

    Raises:
        ValueError: If the file cannot be read.
    """
    if video is None:
        return Measured({}, "no picture")
    frames = read_frames_by_time(video, network.form)
    if len(frames) < network.num_frames:
        needed = f"{network.num_frames} frames at {float(FRAME_RATE):g} a second"
        return Measured({}, f"{len(frames)} frames in place of {needed}: the clip is too short")
    return Measured({}, vectors={"videomae": network(frames).round(8).tolist()})
