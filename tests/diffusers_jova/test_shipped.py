from pathlib import Path

import pytest

from diffusers_jova import JoVAPipeline, shipped
from diffusers_jova.recipes.evidence import load_pipeline, measure, summarize
from diffusers_jova.recipes.generation import FIRST_SEED, generate, held_out_clips


LARGEST_MB = 40
LEAST_CORRELATION = 0.7  # of mouth and envelope over four clips in eight steps; with the sound of others it is 0.3


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


def test_the_shipped_model_is_small_and_free_of_what_does_not_ship() -> None:
    folder = Path(shipped.find_model("jova-tiny"))
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < LARGEST_MB * 1e6
    assert all(len(path.relative_to(folder).parts) <= 2 for path in files), "setup.cfg packs two levels"
    assert {path.suffix for path in files} == {".json", ".md", ".safetensors"}
    assert not any("_name_or_path" in path.read_text() for path in folder.rglob("*.json")), "a folder of the maker's"


def test_the_shipped_model_speaks_in_sync_and_looks_as_asked(tmp_path: Path) -> None:
    pipeline = load_pipeline(shipped.model_folder("jova-tiny"))
    references = held_out_clips(pipeline, range(FIRST_SEED - 4, FIRST_SEED), subject="speaker", speech="formant")
    made = generate(pipeline, references, tmp_path, num_inference_steps=8)
    reached = summarize(measure([(clip.frames, clip.waveform) for clip in made], references, "formant"))
    assert reached["sync_within_one_frame"]["mean"] == 1
    assert reached["envelope_correlation"]["mean"] > LEAST_CORRELATION
    assert reached["identity_correct"]["mean"] == 1
