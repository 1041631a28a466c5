"""Pictures reach networks as transformers' own readers bring them, without torchvision."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import BitImageProcessorPil, CLIPImageProcessorPil

from diffusers_jova.evaluation.network_pictures import read_picture_form


@pytest.mark.parametrize("size", [(97, 64), (64, 97), (50, 50), (300, 171)])
@pytest.mark.parametrize("kind", [BitImageProcessorPil, CLIPImageProcessorPil])
def test_pictures_are_those_of_transformers(tmp_path: Path, kind: type, size: tuple[int, int]) -> None:
    reader = kind(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32})
    reader.save_pretrained(tmp_path)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8))
    expected = reader(picture, return_tensors="np")["pixel_values"][0]
    (found,) = read_picture_form(tmp_path)([picture])
    assert np.abs(found.numpy() - expected).max() < 1e-5  # rounding of float32


def test_old_files_and_those_of_processors_say_the_same(tmp_path: Path) -> None:
    common = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 3, "do_center_crop": True}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**common, "size": 40, "crop_size": 32}))
    old = read_picture_form(tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    form = {**common, "size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}}
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": form}))
    assert read_picture_form(tmp_path) == old
    assert old.crop == (32, 32)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**common, "size": 40}))  # as VideoMAE's
    assert read_picture_form(tmp_path).crop == (40, 40)
    (tmp_path / "preprocessor_config.json").unlink()
    form |= {"do_center_crop": False, "size": {"height": 24, "width": 48}}
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": form}))
    assert read_picture_form(tmp_path)([Image.new("RGB", (99, 20))]).shape == (1, 3, 24, 48)


@pytest.mark.parametrize(
    "change", [{"size": "large"}, {"image_mean": [0.5]}, {"rescale_factor": 1.0}, {"resample": 77}]
)
def test_a_folder_that_does_not_say_it_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    common = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": 40, "crop_size": 32}
    with pytest.raises(ValueError, match="no word on how pictures are shown"):
        read_picture_form(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(common | change))
    with pytest.raises(ValueError, match="no word on how pictures are shown"):
        read_picture_form(tmp_path)
