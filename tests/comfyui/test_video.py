from collections.abc import Iterator
from fractions import Fraction
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import av
import numpy as np
import pytest
import torch

from diffusers_jova import media
from diffusers_jova.provenance import SOURCE_TYPES, basic_record, read_provenance
from tests.comfyui.stub import PACK, LaterVideoFile, VideoFile, loaded_pack


@pytest.fixture
def video(tmp_path: Path) -> Iterator[ModuleType]:
    with loaded_pack(tmp_path):
        yield import_module(f"{PACK}.video")


@pytest.mark.parametrize("rate", [16000, 11000])  # the second is none that an mp4 takes
def test_the_file_that_core_gets_tells_that_a_model_made_it(video: ModuleType, tmp_path: Path, rate: int) -> None:
    sound = {"waveform": torch.zeros(1, 2, rate), "sample_rate": rate}
    clip = video.make_video(torch.zeros(16, 32, 32, 3), sound, Fraction(16), is_recorded=False)
    clip.save_to(str(tmp_path / "clip.mp4"))
    assert read_provenance(tmp_path / "clip.mp4") == basic_record()
    with av.open(str(tmp_path / "clip.mp4")) as container:
        tags = dict(container.metadata)
    assert tags["digital_source_type"] == basic_record()["digital_source_type"]
    assert tags["generated"] == "true"


def test_the_file_tells_that_the_sound_or_the_frames_were_given(video: ModuleType, tmp_path: Path) -> None:
    sound = {"waveform": torch.zeros(1, 2, 16000), "sample_rate": 16000}
    clip = video.make_video(torch.zeros(16, 32, 32, 3), sound, Fraction(16), is_recorded=True)
    clip.save_to(str(tmp_path / "clip.mp4"))
    kind = SOURCE_TYPES["compositeWithTrainedAlgorithmicMedia"]
    assert read_provenance(tmp_path / "clip.mp4") == {**basic_record(), "digital_source_type": kind}


def noisy_clip(video: ModuleType) -> Any:
    """A VIDEO without colour, of which H.264 loses what it may."""
    grey = torch.rand(8, 64, 64, 1, generator=torch.Generator().manual_seed(0))
    sound = {"waveform": torch.zeros(1, 2, 8000), "sample_rate": 16000}
    return video.make_video(grey.expand(-1, -1, -1, 3), sound, Fraction(16), is_recorded=False)


def picture_error(file: Path, clip: Any) -> float:
    """Mean difference of a file to its VIDEO, of 255 grey levels."""
    difference = media.read_video(file).frames.astype(np.float32) - 255 * clip.get_components().images.numpy()
    return float(np.abs(difference).mean())


NOTHING_ELSE = {"crf": None, "color_space": None}  # what the Save Video of core 0.33 passes where its widgets say auto


def test_a_core_that_asks_for_nothing_else_gets_the_file_of_one_that_cannot(
    video: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noisy_clip(video).save_to(str(tmp_path / "earlier.mp4"), format="auto", codec="auto", metadata={"prompt": "a"})
    assert VideoFile.asked[-1] == {"format": "auto", "codec": "auto", "metadata": {"prompt": "a"}}
    monkeypatch.setattr(video.InputImpl, "VideoFromFile", LaterVideoFile)
    noisy_clip(video).save_to(str(tmp_path / "later.mp4"), format="mp4", codec="h264", **NOTHING_ELSE)
    told = {"format": "mp4", "codec": "h264", "metadata": None, "bit_depth": None}
    assert VideoFile.asked[-1] == {**told, **NOTHING_ELSE}
    assert (tmp_path / "later.mp4").stat().st_size == (tmp_path / "earlier.mp4").stat().st_size


@pytest.mark.parametrize(
    "asked", [{"crf": 23.0}, {"color_space": "sRGB"}, {"bit_depth": 10}, {"format": "mkv"}, {"codec": "av1"}]
)
def test_what_core_encodes_anew_loses_nothing_before(
    video: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any]
) -> None:
    monkeypatch.setattr(video.InputImpl, "VideoFromFile", LaterVideoFile)
    clip = noisy_clip(video)
    clip.save_to(str(tmp_path / "kept.mp4"), **NOTHING_ELSE)
    clip.save_to(str(tmp_path / "source.mp4"), **{**NOTHING_ELSE, **asked})
    assert {name: VideoFile.asked[-1][name] for name in asked} == asked
    source, kept = (picture_error(tmp_path / f"{name}.mp4", clip) for name in ("source", "kept"))
    assert source < 1 < kept
