"""Networks of the user measure validation clips as `jova evaluate` does; each has a setting, and none moves a run."""

from __future__ import annotations

import json
import sys
from dataclasses import fields
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image

from diffusers_jova.evaluation import audiobox, clap, evaluate, meter, sound_classes
from diffusers_jova.evaluation.measures import MEASURES, PARTLY
from diffusers_jova.training.data.mouth_detector import NoMouths
from diffusers_jova.training.data.record import EMPTY_PROMPT, write_record
from diffusers_jova.training.loop.config import Measures, TrainConfig, from_values
from diffusers_jova.training.loop.validation_measures import CLIPS, FOLDER, JUDGED
from diffusers_jova.training.train import assemble, run
from jova_cli.evaluate import FOLDERS, NETWORKS, VALIDATED, option_of
from jova_cli.shipped import TRAINING
from jova_cli.training_settings import check_files, read_settings
from tests.evaluation.test_audiobox import MeanOfHeard
from tests.tiny_networks import save_clap, save_classifier, save_clip, save_dino
from tests.tiny_pipeline import DEFAULTS, build_tiny_pipeline
from tests.tiny_training import different, forget_accelerate, result, tiny_config, write_clips


JUDGING = {group for group in NETWORKS if any(measure.group == group for measure in MEASURES)}
PLACES = {"model": "a.json", "data": "b", "output_dir": "c"}
ASKED = {"validate_every": 1, "validation_prompts": ["a dog <AUDCAP>it barks<ENDAUDCAP>", "rain"]}


@pytest.fixture
def networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Folders of small networks, by their option; they hear whatever sound there is, and no face is seen."""
    monkeypatch.setitem(sys.modules, "audiobox_aesthetics.model.aes", SimpleNamespace(AesMultiOutput=MeanOfHeard))
    for name in ("audiobox_aesthetics", "audiobox_aesthetics.model"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace())
    for module in (audiobox, clap, sound_classes):
        monkeypatch.setattr(module, "why_unheard", lambda _audio: "")
    monkeypatch.setattr(meter, "make_detector", NoMouths)
    save = {"clap": save_clap, "identity": save_dino, "classifier": save_classifier, "clip_score": save_clip}
    (tmp_path / "audiobox").mkdir()
    (tmp_path / "audiobox" / "model.safetensors").write_bytes(b"weights")
    return {**{name: write(tmp_path / name) for name, write in save.items()}, "audiobox": tmp_path / "audiobox"}


@pytest.fixture
def settings(tmp_path: Path, tiny_pipeline_folder: Path) -> dict[str, Any]:
    """Of a run of two steps, whose clips have texts as its pipeline encodes them."""
    data = write_clips(tmp_path / "prepared", channels=(16, 4, 16))
    empty = build_tiny_pipeline().encode_texts([""], DEFAULTS["max_sequence_length"]).features[0]
    write_record(data / EMPTY_PROMPT, {"prompt_embeds": empty}, {})
    return {"model": str(tiny_pipeline_folder), "data": str(data), "ema_decay": 0.9, "steps": 2, "log_every": 1}


def measuring(networks: dict[str, Path], **asked: Any) -> dict[str, Any]:
    """Settings by which those networks measure."""
    groups = [group for group, option in NETWORKS.items() if option in networks]
    named = {f"validation_{option}": str(path) for option, path in networks.items()}
    return {"validation_steps": 1, "validation_measures": groups, **named, **(asked or ASKED)}


def lines_of(folder: Path) -> list[dict[str, float]]:
    lines: list[dict[str, float]] = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return lines


def trained(folder: Path) -> list[dict[str, float]]:
    reports = [line for line in lines_of(folder) if "loss/video" in line]
    return [{name: value for name, value in line.items() if name != "samples_per_second"} for line in reports]


def test_the_log_has_what_evaluate_says_and_the_run_its_bits(
    tmp_path: Path, settings: dict[str, Any], networks: dict[str, Path]
) -> None:
    for name, measures in (("plain", {}), ("measured", measuring(networks))):
        (tmp_path / name).mkdir()
        run(tiny_config(tmp_path / name, **settings, **measures))
    plain, measured = (tmp_path / name / "run" for name in ("plain", "measured"))
    assert different(result(plain), result(measured)) == []
    assert trained(plain) == trained(measured)
    words = [str(measured / "validation"), "--output", str(tmp_path / "report"), "--measures"]
    words += [group for group, option in NETWORKS.items() if option in networks]
    for option, path in networks.items():
        words += [option_of(option), str(path)]
    evaluate.main(words)
    rows = json.loads((tmp_path / "report" / "report.json").read_text())["rows"]
    logged = [line for line in lines_of(measured) if any(name.startswith(JUDGED) for name in line)]
    assert [line["step"] for line in logged] == [1, 2]
    names = {measure.name for measure in MEASURES if NETWORKS.get(measure.group) in networks}
    for line in logged:
        of_step = [row["values"] for row in rows if row["clip"].startswith(f"step-{line['step']:08.0f}-")]
        assert len(of_step) == 2
        for name in names:
            numbers = [values[name] for values in of_step if values[name] is not None]
            assert line[f"{JUDGED}{name}"] == len(numbers) == (0 if name == "identity_face" else 2), name
            if numbers:
                assert line[f"{CLIPS}{name}"] == pytest.approx(fmean(numbers), rel=1e-4, abs=1e-6), name


def test_a_run_that_continues_measures_what_is_new_alone(
    tmp_path: Path, settings: dict[str, Any], networks: dict[str, Path]
) -> None:
    own = settings | measuring({"clip_score": networks["clip_score"]}) | {"checkpoint_every": 2}
    run(tiny_config(tmp_path, **own))
    kept = (tmp_path / "run" / FOLDER / "measured.jsonl").read_text()
    assert len(kept.splitlines()) == 4
    for steps in (2, 3):
        forget_accelerate()
        run(tiny_config(tmp_path, **own | {"steps": steps}))
        text = (tmp_path / "run" / FOLDER / "measured.jsonl").read_text()
        assert text.startswith(kept)
        assert len(text.splitlines()) == 2 * steps


def test_portraits_and_captions_come_from_the_list(
    tmp_path: Path, settings: dict[str, Any], networks: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)).save(tmp_path / "ann.png")
    row = {"output": "one.mp4", "image": "ann.png", "video_caption": "a woman", "audio_caption": "rain"}
    (tmp_path / "list.jsonl").write_text(json.dumps(row))
    given = {name: networks[name] for name in ("identity", "clap", "clip_score")}
    asked = measuring(given, validate_every=2, validation_list=str(tmp_path / "list.jsonl"))
    run(tiny_config(tmp_path, **settings, **asked))
    lines = (tmp_path / "run" / FOLDER / "measured.jsonl").read_text().splitlines()
    texts = {row["group"]: row["texts"] for row in map(json.loads, lines)}
    assert texts["identity"] == {"identity": "ann.png"}
    assert texts["clap"] == {"clap": "rain"}
    assert texts["clip_score"] == {"clip_score": "a woman"}
    (tmp_path / "colours").mkdir()
    asked |= {"validation_measures": ["identity"]} | {f"validation_{name}": None for name in given}
    run(tiny_config(tmp_path / "colours", **settings, **asked))
    (line,) = [line for line in lines_of(tmp_path / "colours" / "run") if f"{JUDGED}identity_colour" in line]
    assert (line[f"{JUDGED}identity_colour"], line[f"{JUDGED}identity_picture"]) == (1, 0)
    told = "identity leaves numbers out, first those of step-00000002-one: no DINO, which `validation_identity` gives"
    assert told in capfd.readouterr().err


def test_every_network_that_judges_a_clip_has_its_setting() -> None:
    named = {setting.name: setting for setting in read_settings()}
    assert set(get_args(Measures)) == {measure.group for measure in MEASURES}
    document = (TRAINING / "README.md").read_text()
    config = from_values(PLACES)
    for group in JUDGING:
        name = f"validation_{NETWORKS[group]}"
        assert VALIDATED[name] == group
        assert name in named, f"a training takes no network for {group}"
        assert name not in config.decisive_fields()
        assert f"`{name}=" in document
        assert f"`{group}`" in named["validation_measures"].purpose
        chosen = from_values({**PLACES, **ASKED, name: "here", "validation_measures": [group]})
        assert getattr(chosen, name) == "here"
    others = {"whisper", "language", "measures", "prompts", "list", "steps", "data"}
    networks = {field.name for field in fields(TrainConfig) if field.name.startswith("validation_")}
    assert networks - {f"validation_{name}" for name in others} <= VALIDATED.keys()


@pytest.mark.parametrize("group", sorted(JUDGING))
def test_a_network_and_its_group_go_together(group: str, tmp_path: Path) -> None:
    name = f"validation_{NETWORKS[group]}"
    with pytest.raises(ValueError, match=f"`{name}` is read where `validation_measures` has `{group}`; add it, or"):
        from_values({**PLACES, **ASKED, name: "here"})
    alone = {**PLACES, **ASKED, "validation_measures": [group]}
    if group in PARTLY:
        assert from_values(alone).validation_measures == (group,)
    else:
        with pytest.raises(ValueError, match=f"`{name}` must be given where `validation_measures` has `{group}`, got"):
            from_values(alone)
    kind = "folder" if NETWORKS[group] in FOLDERS else "file"
    with pytest.raises(ValueError, match=f"`{name}` must be an existing {kind}, got"):
        check_files({name: str(tmp_path / "nowhere")})


@pytest.mark.parametrize("option", ["clap", "identity", "classifier", "clip_score"])
def test_another_network_is_refused_before_the_first_step(
    tmp_path: Path, settings: dict[str, Any], networks: dict[str, Path], option: str
) -> None:
    other = networks["clap" if option != "clap" else "identity"]
    with pytest.raises(ValueError, match=f"`validation_{option}` must be the folder of an? .*, got another network"):
        assemble(tiny_config(tmp_path, **settings, **measuring({option: other})))


def test_weights_of_another_network_than_synchformer_are_refused_before_the_first_step(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="must be the weights of Synchformer, got another network's"):
        assemble(tiny_config(tmp_path, **settings, **measuring({"synchformer": tmp_path / "other.pth"})))


def test_a_measure_of_captions_is_refused_where_no_prompt_has_one(
    tmp_path: Path, settings: dict[str, Any], networks: dict[str, Path]
) -> None:
    asked = measuring({"clap": networks["clap"]}, validate_every=1, validation_prompts=["<S>hello<E>"])
    with pytest.raises(ValueError, match="must leave `clap` out where no validation clip has a caption, got"):
        assemble(tiny_config(tmp_path, **settings, **asked))


def test_a_package_that_a_network_needs_is_said_before_anything_is_loaded(
    tmp_path: Path, settings: dict[str, Any], networks: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("audiobox_aesthetics", "audiobox_aesthetics.model", "audiobox_aesthetics.model.aes"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr("diffusers_jova.training.train.Trainer", lambda *_: pytest.fail("weights are loaded"))
    message = r"must be those whose packages are installed, got `audiobox`: .*audiobox_aesthetics.*; leave it out"
    with pytest.raises(ValueError, match=message):
        run(tiny_config(tmp_path, **settings, **measuring({"audiobox": networks["audiobox"]})))
