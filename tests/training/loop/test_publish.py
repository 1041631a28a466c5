"""Publishing: the repository is ready before the first step, the result arrives with its card and nothing else."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import HfApi
from huggingface_hub.utils import filter_repo_objects

from diffusers_jova.training.loop.publish import UploadError, write_model_card
from diffusers_jova.training.loop.trainer import Trainer
from diffusers_jova.training.train import InputError, run
from tests.tiny_training import different, result, tiny_config


def stub_repository(monkeypatch: pytest.MonkeyPatch, is_private: dict[str, bool]) -> None:
    """A Hub with the repositories of ``is_private``, which says of each whether it is private."""
    monkeypatch.setattr(HfApi, "create_repo", lambda _, name, private, **__: is_private.setdefault(name, private))
    monkeypatch.setattr(HfApi, "repo_info", lambda _, name: SimpleNamespace(private=is_private[name]))


@pytest.mark.parametrize(("settings", "is_private"), [({}, True), ({"hub_private_repo": False}, False)])
def test_the_repository_is_made_before_the_first_step_and_is_private_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, bool], is_private: bool
) -> None:
    hub: dict[str, bool] = {}
    stub_repository(monkeypatch, hub)
    monkeypatch.setattr(Trainer, "train", lambda _: pytest.fail("the run began") if not hub else Path("nowhere"))
    monkeypatch.setattr(Trainer, "step", 0, raising=False)
    run(tiny_config(tmp_path, push_to_hub="me/jova-mine", **settings))
    assert hub == {"me/jova-mine": is_private}


def test_a_repository_that_cannot_take_the_result_is_refused_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "train", lambda _: pytest.fail("the run began"))
    config = tiny_config(tmp_path, push_to_hub="me/jova-mine")
    with pytest.raises(InputError, match=r"`me/jova-mine` \(.*\); run `hf auth login` with a token that may write"):
        run(config)  # the tests have no network
    with pytest.raises(InputError, match="`push_to_hub` must be an owner and a name, got 'jova-mine'"):
        run(replace(config, push_to_hub="jova-mine"))
    stub_repository(monkeypatch, {"me/jova-mine": False})
    with pytest.raises(InputError, match="`push_to_hub` must be a private repository, got the public `me/jova-mine`"):
        run(config)


def test_a_result_that_could_not_be_uploaded_is_by_the_same_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(tmp_path, steps=1, push_to_hub="me/jova-mine")
    stub_repository(monkeypatch, {})

    def offline(_: HfApi, **__: object) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(HfApi, "upload_folder", offline)
    with pytest.raises(UploadError, match=r"run` is complete .* `me/jova-mine` \(no network\); run the same command"):
        run(config)
    before, uploads = result(tmp_path / "run"), []
    monkeypatch.setattr(HfApi, "upload_folder", lambda _, **arguments: uploads.append(arguments["repo_id"]))
    run(config)
    assert uploads == ["me/jova-mine"]
    assert different(before, result(tmp_path / "run")) == []


def test_the_result_is_uploaded_with_its_card_and_without_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploads = {}
    stub_repository(monkeypatch, {})
    monkeypatch.setattr(HfApi, "upload_folder", lambda _, **arguments: uploads.update(arguments))
    run(tiny_config(tmp_path, steps=1, push_to_hub="me/jova-mine"))
    files = {path.relative_to(tmp_path / "run").as_posix() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    uploaded = set(filter_repo_objects(files, allow_patterns=uploads["allow_patterns"]))
    assert files - uploaded == {path for path in files if path.startswith("checkpoint-")}
    card = (tmp_path / "run" / "README.md").read_text()
    assert 'JoVATransformer3DModel.from_pretrained("me/jova-mine", subfolder="transformer")' in card
    assert "{" not in card
    assert "base_model:" not in card  # the Hub refuses cards that name files of this machine there
    assert "JoVAPipeline" not in card  # of which there is none for a model that starts from random weights


def test_a_card_names_the_hub_model_that_it_comes_from_and_the_pipeline_that_loads_it(tmp_path: Path) -> None:
    Trainer(tiny_config(tmp_path, steps=1)).train()
    config = replace(tiny_config(tmp_path, steps=1), model="them/base", pipeline="them/pipeline")
    card = write_model_card(tmp_path / "run", config).read_text()
    assert "base_model: them/base\n" in card
    assert 'JoVAPipeline.from_pretrained("them/pipeline", transformer=transformer)' in card
    card = write_model_card(tmp_path / "run", replace(config, train="lora")).read_text()
    assert ", from the adapter" not in card
    begun = replace(config, train="lora", init_adapter=str(tmp_path / "anna"))
    (tmp_path / "anna").mkdir()
    assert "clips per process, from the adapter `anna` on" in write_model_card(tmp_path / "run", begun).read_text()
    assert 'JoVAPipeline.from_pretrained("them/pipeline", dtype=torch.bfloat16)' in card
