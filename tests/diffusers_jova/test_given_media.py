"""What is given to a pipeline is used as it is: shape, values, sound, length."""

from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from diffusers_jova import JoVAPipeline
from diffusers_jova.video_codec import JoVAVideoCodec
from tests.tiny_pipeline import build_tiny_pipeline


RATE, FRAME_RATE = 16000, 16.0  # of the tiny pipeline


@pytest.fixture(scope="module")
def pipeline() -> JoVAPipeline:
    return build_tiny_pipeline()


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """What the video VAE encodes, as it happens."""
    seen: list[torch.Tensor] = []
    encode = JoVAVideoCodec.encode
    monkeypatch.setattr(JoVAVideoCodec, "encode", lambda codec, x: seen.append(x) or encode(codec, x))
    return seen


# 1. Pictures


def circle(height: int, width: int, diameter: int) -> np.ndarray:
    """A white disc in the middle of a black picture."""
    rows, columns = np.ogrid[:height, :width]
    inside = (rows - (height - 1) / 2) ** 2 + (columns - (width - 1) / 2) ** 2 <= (diameter / 2) ** 2
    return np.repeat(255 * inside[..., None].astype(np.uint8), 3, axis=-1)


def extent(picture: np.ndarray) -> tuple[int, int]:
    """Rows and columns of what is bright."""
    bright = picture.mean(-1) > picture.max() / 2
    return int(bright.any(1).sum()), int(bright.any(0).sum())


@pytest.mark.parametrize("as_video", [False, True])
def test_a_circle_of_a_picture_of_another_shape_stays_a_circle(
    pipeline: JoVAPipeline, as_video: bool, encoded: list[torch.Tensor]
) -> None:
    portrait = PIL.Image.fromarray(circle(96, 192, 60))
    given: dict[str, Any] = {"video": [portrait] * 5} if as_video else {"image": portrait}
    pipeline("a ball", height=32, width=32, num_frames=5, num_inference_steps=1, **given)
    rows, columns = extent(encoded[0][0, :, 0].movedim(0, -1).numpy() + 1)
    assert abs(rows - 60 / 3) <= 1
    assert abs(columns - 60 / 3) <= 1


@pytest.mark.parametrize("form", ["RGBA", "L", "P", "I;16", "uint8", "video of uint8"])
def test_white_reaches_the_video_vae_as_white(pipeline: JoVAPipeline, form: str, encoded: list[torch.Tensor]) -> None:
    white = np.full((32, 32, 3), 255, np.uint8)
    forms: dict[str, Any] = {
        "I;16": PIL.Image.fromarray(np.full((32, 32), 65535, np.uint16)),
        "uint8": white,
        "video of uint8": white[None],
    }
    picture = forms.get(form) if form in forms else PIL.Image.fromarray(white).convert(form)
    given = {"video": picture, "num_frames": 1} if form.startswith("video") else {"image": picture, "num_frames": 1}
    pipeline("snow", num_inference_steps=1, **given)
    assert bool((encoded[0] == 1).all())
