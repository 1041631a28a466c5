"""The pictures of the README: the waveform lasts as long as the clip, and an animation keeps every frame."""

from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from diffusers_jova.evaluation.contact_sheet import BACKGROUND, INK
from diffusers_jova.media import read_video
from diffusers_jova.provenance import read_provenance
from diffusers_jova.recipes.pictures import LATER_INK, WAVE_PX, beside_waveform, main, save_animation
from tests.places import ROOT


MAX_BYTES = 1_000_000  # of all pictures: a clone and the page stay light


def test_the_waveform_is_dark_as_far_as_it_is_heard() -> None:
    frames = np.zeros((4, 64, 64, 3), np.uint8)
    waveform = np.zeros(4000, np.float32)
    waveform[2000:] = np.tile((0.25, -0.25), 1000)
    view = beside_waveform(frames, waveform)
    assert view.shape == (4, 64, 64 + WAVE_PX, 3)
    assert not view[:, :, :64].any()
    waves = view[:, :, 64:]
    is_dark, is_light = ((waves == ink).all(-1) for ink in (INK, LATER_INK))
    for index in range(4):
        heard = (index + 1) * WAVE_PX // 4
        assert not is_dark[index, :, heard:].any()
        assert not is_light[index, :, :heard].any()
    assert is_dark[3, 8, WAVE_PX // 2 + 1 :].all()  # loud, and drawn to the full height
    assert (waves[3, 8, : WAVE_PX // 2 - 1] == BACKGROUND).all()  # quiet


def test_an_animation_keeps_every_frame_and_lasts_as_long(tmp_path: Path) -> None:
    shades = np.linspace(0, 255, 33).round().astype(np.uint8)
    frames = np.broadcast_to(shades[:, None, None, None], (33, 32, 32, 3))
    save_animation(tmp_path / "a.webp", frames, 16)
    with PIL.Image.open(tmp_path / "a.webp") as image:
        assert image.n_frames == 33
        total_ms = 0
        for index in range(33):
            image.seek(index)
            image.load()
            total_ms += image.info["duration"]
            assert np.abs(np.asarray(image.convert("RGB")).astype(int) - int(shades[index])).max() <= 4  # lossy
    assert total_ms == round(33 * 1000 / 16)


def test_the_command_makes_all_pictures_of_a_model(tiny_pipeline_folder: Path, tmp_path: Path) -> None:
    main(["--model", str(tiny_pipeline_folder), "--output", str(tmp_path)])
    assert {path.name for path in tmp_path.iterdir()} == {"speaking.webp", "speaking.mp4", "mouth_mask.webp"}
    assert len(read_video(tmp_path / "speaking.mp4").frames) == 9
    assert read_provenance(tmp_path / "speaking.mp4")["seed"] == 0


@pytest.mark.parametrize("name", ["speaking.webp", "speaking.mp4", "mouth_mask.webp"])
def test_the_readme_shows_the_pictures_that_the_command_makes(name: str) -> None:
    path = ROOT / "model_cards" / "jova-tiny" / "samples" / name
    assert f"({path.relative_to(ROOT)})" in (ROOT / "README.md").read_text()
    assert sum(file.stat().st_size for file in path.parent.iterdir()) < MAX_BYTES
