"""Empty JoVA Latent makes the clips that a call of the pipeline makes of the same media, and refuses the same."""

from collections.abc import Iterator
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from diffusers_jova import JoVAPipeline
from diffusers_jova.pipeline_checks import CallInputs
from diffusers_jova.saved_pipeline import SavedPipeline
from tests.comfyui.stub import PACK, loaded_pack


RATE = 16000
OWN = {"width": 0, "height": 0, "length": 0, "frame_rate": 0.0}  # the model's own
LONGEST = "3.81 s, 61 frames at 16 per second, the longest clip of this model"


@pytest.fixture
def clip_length(tmp_path: Path) -> Iterator[ModuleType]:
    with loaded_pack(tmp_path):
        yield import_module(f"{PACK}.clip_length")


@pytest.fixture(scope="module")
def parts(tiny_pipeline_folder: Path) -> tuple[SavedPipeline, JoVAPipeline]:
    saved = SavedPipeline(tiny_pipeline_folder)
    return saved, saved.load("vae", "audio_vae", "vocoder")


def sound(seconds: float) -> dict[str, Any]:
    return {"waveform": torch.ones(1, 1, round(seconds * RATE)), "sample_rate": RATE}


@pytest.mark.parametrize("audio_s", [None, 0.3, 1.0, 2.0])
@pytest.mark.parametrize("num_images", [None, 17, 20])
@pytest.mark.parametrize("length", [0, 33])
def test_length_and_silence_are_those_of_the_pipeline(
    clip_length: ModuleType, parts: Any, audio_s: float | None, num_images: int | None, length: int
) -> None:
    images = None if num_images is None else torch.zeros(num_images, 32, 32, 3)
    audio = None if audio_s is None else sound(audio_s)
    settings, fills = clip_length.settle_clip(*parts, **{**OWN, "length": length}, audio=audio, images=images)
    waveform, rate = (None, None) if audio is None else (audio["waveform"], RATE)
    given = None if images is None else images.numpy()
    arguments: dict[str, Any] = dict.fromkeys(field.name for field in fields(CallInputs))
    arguments |= {"video": given, "audio": waveform, "audio_sampling_rate": rate, "num_frames": length or None}
    settled = parts[1].settle_length(CallInputs(**arguments), settings.frame_rate)
    settled = parts[1].fit_to_length(settled, settings.frame_rate, is_asked=bool(length))
    assert settings.num_frames == (settled.num_frames or parts[1].defaults.num_frames)
    if audio is not None:  # a sound as long as the clip needs none
        needs = audio["waveform"].shape[2] < round(settings.num_frames / settings.frame_rate * RATE)
        assert (fills and needs) == (settled.audio.shape[2] > audio["waveform"].shape[2])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"length": 65}, rf"`length` must be at most 61 \({LONGEST}\), got 65; use 61"),
        ({"length": 64}, rf"`length` must be at most 61 \({LONGEST}\), got 64; use 61"),  # not 65 either
        ({"length": 1000, "height": 999}, rf"`length` must be at most 61 \({LONGEST}\), got 1000"),
        ({"length": 32}, "`length` must be 4k .*, got 32; use 29 or 33"),
        ({"audio": sound(60)}, rf"`audio` must last at most {LONGEST}, got 60.00 s; cut it with TrimAudioDuration"),
        (
            {"images": torch.zeros(200, 32, 32, 3)},
            rf"`images` must last at most {LONGEST}, got 200 frames; set `length` to 61",
        ),
        ({"height": 272}, "`height` must be at most 256 for this model, got 272; use 256"),
    ],
)
def test_what_is_too_long_or_too_large_is_refused_before_sampling(
    clip_length: ModuleType, parts: Any, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        clip_length.settle_clip(*parts, **{**OWN, **given})


def test_the_longest_clip_is_made(clip_length: ModuleType, parts: Any) -> None:
    for given in ({"length": 61}, {"audio": sound(3.81)}, {"images": torch.zeros(61, 32, 32, 3)}):
        assert clip_length.settle_clip(*parts, **{**OWN, **given})[0].num_frames == 61
