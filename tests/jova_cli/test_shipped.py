from pathlib import Path

import diffusers
import pytest

from diffusers_jova import JoVAPipeline, JoVATransformer3DModel
from diffusers_jova.evaluation.summary import summarize
from diffusers_jova.recipes.evidence import load_pipeline, measure
from diffusers_jova.recipes.generation import FIRST_SEED, generate, held_out_clips
from jova_cli import shipped
from tests.places import ROOT


LARGEST_MB = 44
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
def test_a_shipped_model_loads_by_its_name_with_the_loader_of_diffusers() -> None:
    pipeline = diffusers.DiffusionPipeline.from_pretrained("some-model")
    assert isinstance(pipeline, JoVAPipeline)
    with pytest.raises(OSError, match="other-model"):
        diffusers.DiffusionPipeline.from_pretrained("other-model")


@pytest.mark.usefixtures("weights")
def test_a_folder_of_the_same_name_comes_first(tmp_path: Path) -> None:
    (tmp_path / "some-model").mkdir()
    assert shipped.find_model("some-model") == "some-model"


@pytest.mark.usefixtures("weights")
@pytest.mark.parametrize(
    "name", ["owner/some-model", "other-model", "weights/some-model", "/some-model", "..", "", "a" * 300, "a\0b"]
)
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


# Files and presets


@pytest.mark.parametrize(
    "name", ["training/configs/jova_tiny_transformer.json", "model_cards/jova-1.6b/transformer/config.json"]
)
def test_a_file_of_the_clone_is_found_from_anywhere(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Path(shipped.find_model(name)).samefile(ROOT / name)
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text("{}")
    assert shipped.find_model(name) == name


def test_a_config_in_a_folder_of_the_clone_is_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = JoVATransformer3DModel.load_config("model_cards/jova-1.6b", subfolder="transformer")
    assert config == JoVATransformer3DModel.load_config("model_cards/jova-1.6b/transformer")
    assert config["num_layers"] > 1


@pytest.mark.parametrize("name", ["training/../setup.cfg", "tests/places.py", "training", "setup.cfg", "/training/a"])
def test_other_files_are_not_looked_up_in_the_package(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert shipped.find_model(name) == name


def test_a_room_lies_beside_the_package_where_a_clone_has_no_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "diffusers_jova").mkdir()
    monkeypatch.setattr(shipped, "PACKAGE", tmp_path / "diffusers_jova")
    (tmp_path / "diffusers_jova" / "training").write_text("../training")  # what git writes in place of a link
    assert shipped.find_room("training") == tmp_path / "training"
    (tmp_path / "diffusers_jova" / "model_cards").mkdir()
    assert shipped.find_room("model_cards") == tmp_path / "diffusers_jova" / "model_cards"


def test_a_preset_is_found_by_name_and_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = shipped.preset_names()
    assert {"lora", "smoke", "stage2_joint"} <= set(names)
    assert "codecs_tiny" not in names
    for name in ("lora", "training/configs/lora.yaml"):
        assert shipped.find_preset("--config", name, names).samefile(shipped.CONFIGS / "lora.yaml")
    (tmp_path / "lora").write_text("steps: 1")
    assert shipped.find_preset("--config", "lora", names) == Path("lora")


def test_an_unknown_preset_names_those_that_exist() -> None:
    known = ", ".join(shipped.preset_names())
    with pytest.raises(ValueError, match=f"`--config` must be an existing YAML file or one of {known}, got lorra"):
        shipped.find_preset("--config", "lorra", shipped.preset_names())
