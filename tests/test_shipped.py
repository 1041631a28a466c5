from pathlib import Path

import pytest

from diffusers_jova import JoVAPipeline, shipped


@pytest.fixture
def weights(tiny_pipeline_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "some-model").symlink_to(tiny_pipeline_folder)
    monkeypatch.setattr(shipped, "WEIGHTS", folder)
    monkeypatch.chdir(tmp_path)
    return folder


def test_a_shipped_model_loads_by_its_name(weights: Path) -> None:
    assert shipped.find_model("some-model") == str(weights / "some-model")
    assert JoVAPipeline.from_pretrained("some-model").transformer is not None


@pytest.mark.usefixtures("weights")
def test_a_folder_of_the_same_name_comes_first(tmp_path: Path) -> None:
    (tmp_path / "some-model").mkdir()
    assert shipped.find_model("some-model") == "some-model"


@pytest.mark.usefixtures("weights")
@pytest.mark.parametrize("name", ["owner/some-model", "other-model", "weights/some-model", "/some-model", "..", ""])
def test_every_other_name_stays_as_it_is(name: str) -> None:
    assert shipped.find_model(name) == name
