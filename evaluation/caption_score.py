"""Whether the frames of a clip show what its caption says, by CLIP with the user's weights.

Radford et al. (arXiv:2103.00020); Hessel et al. (arXiv:2104.08718) for the score. Scores of different weights must not
be compared with each other.

Letters: N frames, D numbers of an embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from transformers import CLIPModel, CLIPTokenizer

from diffusers_jova.evaluation.clip_list import Captions
from diffusers_jova.evaluation.clip_signals import PictureTracks
from diffusers_jova.evaluation.given_network import Wanted, as_numbers, read_network, unit
from diffusers_jova.evaluation.measured import Measured
from diffusers_jova.evaluation.network_pictures import read_picture_form
from diffusers_jova.evaluation.seen_frames import read_frames


FloatArray = npt.NDArray[np.floating]

WANTED = Wanted("--clip-score", {"clip": CLIPModel}, "a CLIP", "openai/clip-vit-large-patch14")
BATCH = 8  # frames at a time
SCALE = 100.0  # of a cosine, as torchmetrics writes the score


class Clip:
    """Frames and texts as unit vectors.

    Args:
        folder: Of a `CLIPModel` of transformers, with its tokenizer and the file that says how it sees pictures.
        device: Where it runs.

    Raises:
        ValueError: If the folder holds another network.
    """

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        self._network = read_network(folder, WANTED, device)
        self._form = WANTED.read(folder, read_picture_form)
        self._tokenizer = WANTED.read(folder, lambda path: CLIPTokenizer.from_pretrained(path, local_files_only=True))

    def embed_frames(self, frames: Sequence[Image.Image]) -> FloatArray:
        """Embed frames in RGB, [N, D]."""
        device = self._network.device
        with torch.inference_mode():
            found = [
                as_numbers(self._network.get_image_features(batch.to(device)).pooler_output)
                for batch in self._form(frames).split(BATCH)
            ]
        return unit(np.concatenate(found))

    def embed_text(self, text: str) -> tuple[FloatArray, int]:
        """Embed a text, [D]; and how many of its tokens were beyond what the network reads."""
        longest = self._network.config.text_config.max_position_embeddings
        num_tokens = len(self._tokenizer(text, verbose=False)["input_ids"])
        tokens = self._tokenizer([text], truncation=True, max_length=longest, return_tensors="pt")
        with torch.inference_mode():
            found = self._network.get_text_features(**tokens.to(self._network.device))
        return unit(as_numbers(found.pooler_output))[0], max(0, num_tokens - longest)


def measure_captions(video: Path | None, picture: PictureTracks | None, captions: Captions, clip: Clip) -> Measured:
    """Compare the frames of a clip with the caption of its picture, and with each other.

    Args:
        video: The file of the pictures; None for sound alone.
        picture: Its tracks.
        captions: Of which that of the picture counts.
        clip: With its weights.

    Raises:
        ValueError: If the file cannot be read.
    """
    if video is None or picture is None:
        return Measured({}, "no picture")
    frames = clip.embed_frames([frame.picture for frame in read_frames(video, picture)])
    neighbours = (frames[1:] * frames[:-1]).sum(-1)
    values: dict[str, float | None] = {
        "clip_score": None,
        "clip_consistency": float(neighbours.mean()) if len(neighbours) else None,
    }
    if not captions.seen:
        return Measured(values, "nobody wrote what should be seen")
    wanted, num_lost = clip.embed_text(captions.seen)
    told = captions.seen + (f" (without its last {num_lost} tokens)" if num_lost else "")
    values["clip_score"] = max(0.0, float((SCALE * frames @ wanted).mean()))
    return Measured(values, "" if len(neighbours) else "one frame alone", texts={"clip_score": told})
