import json
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from tests.comfyui.stub import PACK, loaded_pack


GRID = SimpleNamespace(temporal_compression_decode=lambda: 4, spacial_compression_decode=lambda: 8)  # of a VAE


@pytest.fixture
def mouths(tmp_path: Path) -> Iterator[ModuleType]:
    with loaded_pack(tmp_path):
        yield import_module(f"{PACK}.mouths")


def test_the_mask_covers_the_cells_of_given_boxes_in_every_frame_of_their_latents(
    mouths: ModuleType, tmp_path: Path
) -> None:
    boxes = [[None] * 10]  # of the file, one for every frame
    boxes[0][5:10] = [[9, 17, 20, 22]] * 5  # the frames of latent 2, and the one beyond it
    file = tmp_path / "clip.boxes.json"
    file.write_text(json.dumps(boxes))
    images = torch.zeros(10, 32, 48, 3)  # one frame more than whole latents
    drawn, mask = mouths.preview_mouths(images, GRID, str(file), 16.0)
    expected = torch.zeros(9, 32, 48)
    expected[5:9, 16:24, 8:24] = 1
    assert torch.equal(mask, expected)
    assert drawn.shape == (9, 32, 48, 3)
    assert bool(drawn[5].any())
    assert not bool(drawn[0].any())


def test_what_is_cut_of_the_frames_is_told_by_the_name_of_their_socket(
    mouths: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "clip.boxes.json"
    file.write_text(json.dumps([[None] * 6]))
    drawn, _ = mouths.preview_mouths(torch.zeros(6, 30, 47, 3), GRID, str(file), 16.0)
    assert drawn.shape == (5, 24, 40, 3)
    assert [record.message for record in caplog.records] == [
        "`images` of 6 frames is cut to its first 5: latents hold 4k + 1",
        "`images` of 47 x 30 pixels are cut to their upper left 40 x 24: latents hold 8 x 8",
    ]


def test_without_a_detector_the_message_says_how_to_get_one(
    mouths: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffusers_jova.training.data.mouth_detector.LiteFaceMeshMouths", refuse)
    monkeypatch.setattr("diffusers_jova.training.data.mouth_detector._is_installed", lambda _: False)
    with pytest.raises(ValueError, match="install the package with its extra `face`") as caught:
        mouths.preview_mouths(torch.zeros(1, 16, 16, 3), GRID, "", 16.0)
    assert str(caught.value).count("\n") == 0


def test_a_file_of_boxes_that_is_not_there_is_refused_by_the_name_of_its_widget(mouths: ModuleType) -> None:
    with pytest.raises(
        ValueError, match=r"^`boxes` must name a file of mouth boxes, got nowhere\.json; give its whole"
    ):
        mouths.preview_mouths(torch.zeros(1, 16, 16, 3), GRID, "nowhere.json", 16.0)


def refuse() -> None:
    raise ImportError("no ai_edge_litert")


def test_boxes_outside_of_the_frames_are_refused(mouths: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "clip.boxes.json"
    file.write_text(json.dumps([[[300, 600, 700, 800]] * 5]))
    with pytest.raises(ValueError, match="its picture of 48 x 32, got boxes that all lie outside of it"):
        mouths.preview_mouths(torch.zeros(5, 32, 48, 3), GRID, str(file), 16.0)
