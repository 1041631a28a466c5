from collections.abc import Iterator
from fractions import Fraction
from importlib import import_module
from pathlib import Path
from types import ModuleType

import av
import pytest
import torch

from diffusers_jova.provenance import SOURCE_TYPES, basic_record, read_provenance
from tests.comfyui.stub import PACK, loaded_pack


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
