import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers.hooks._helpers import TransformerBlockRegistry
from diffusers.pipelines.pipeline_loading_utils import LOADABLE_CLASSES

import diffusers_jova
from diffusers_jova import FlowMatchAudioVideoScheduler, JoVATransformer3DModel
from diffusers_jova.registration import register
from tests.places import ROOT
from tests.tiny_pipeline import DUAL_TOWERS, NAVA_SHARING, build_dual_tower, build_transformer, build_wan_transformer


CLASSES = (
    *("JoVAPipeline", "JoVATransformer3DModel", "JoVAWanTransformer3DModel", "JoVADualTowerTransformer3DModel"),
    "FlowMatchAudioVideoScheduler",
)
ALL_TRANSFORMERS = pytest.mark.parametrize(
    "build",
    [
        build_transformer,
        partial(build_wan_transformer, **NAVA_SHARING),
        *(partial(build_dual_tower, name) for name in DUAL_TOWERS),
    ],
    ids=["jova", "wan", *DUAL_TOWERS],
)


@pytest.mark.parametrize("name", CLASSES)
def test_diffusers_finds_our_classes_by_name(name: str) -> None:
    assert getattr(diffusers, name) is getattr(diffusers_jova, name)
    assert diffusers.pipelines.JoVAPipeline is diffusers_jova.JoVAPipeline


@pytest.mark.parametrize("base", ["ModelMixin", "SchedulerMixin", "DiffusionPipeline", "BaseGuidance"])
def test_the_package_offers_the_base_classes_that_loaders_look_for(base: str) -> None:
    assert base in LOADABLE_CLASSES["diffusers_jova"]
    assert hasattr(diffusers_jova, base)


def test_every_kind_of_block_is_known_to_the_cache_hooks_as_one_packed_tensor() -> None:
    jova, wan, towers = build_transformer(), build_wan_transformer(), build_dual_tower()
    for block in (*jova.transformer_blocks, *jova.single_transformer_blocks, *wan.blocks, *towers.blocks):
        metadata = TransformerBlockRegistry.get(type(block))
        assert metadata.return_hidden_states_index == 0
        assert metadata.return_encoder_hidden_states_index is None


def test_registering_twice_changes_nothing() -> None:
    before = dict(LOADABLE_CLASSES["diffusers_jova"])
    register((diffusers_jova.JoVATransformer3DModel,), (diffusers_jova.JoVAPipeline,), ())
    assert LOADABLE_CLASSES["diffusers_jova"] == before
    assert "diffusers_jova" not in LOADABLE_CLASSES["diffusers"]


@ALL_TRANSFORMERS
@pytest.mark.parametrize("repeated", ["_no_split_modules", "_repeated_blocks"])
def test_class_names_that_diffusers_matches_exist_in_the_model(build: Callable[..., Any], repeated: str) -> None:
    model = build()
    present = {type(module).__name__ for module in model.modules()}
    assert set(getattr(model, repeated)) <= present


@ALL_TRANSFORMERS
def test_modules_that_stay_in_float32_or_are_not_cast_exist_in_the_model(build: Callable[..., Any]) -> None:
    model = build()
    names = [name for name, _ in (*model.named_modules(), *model.named_parameters())]
    for pattern in (*model._keep_in_fp32_modules, *model._skip_layerwise_casting_patterns):
        assert any(pattern in name for name in names), pattern


def test_an_index_with_full_module_paths_loads(tiny_pipeline_folder: Path, tmp_path: Path) -> None:
    """Folders saved before the registration existed name modules, not the package."""
    index = json.loads((tiny_pipeline_folder / "model_index.json").read_text())
    index["transformer"][0] = "diffusers_jova.transformer_jova"
    index["scheduler"][0] = "diffusers_jova.scheduling_flow_match_av"
    for part in tiny_pipeline_folder.iterdir():
        (tmp_path / part.name).symlink_to(part)
    (tmp_path / "model_index.json").unlink()
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    loaded = diffusers_jova.JoVAPipeline.from_pretrained(tmp_path)
    assert isinstance(loaded.transformer, diffusers_jova.JoVATransformer3DModel)


def test_components_of_a_shipped_model_are_loaded_by_its_name() -> None:
    transformer = JoVATransformer3DModel.from_pretrained("jova-tiny", subfolder="transformer", dtype=torch.bfloat16)
    assert transformer.dtype == torch.bfloat16
    config = JoVATransformer3DModel.load_config("jova-tiny", subfolder="transformer")
    assert config["num_layers"] == transformer.config.num_layers
    scheduler = FlowMatchAudioVideoScheduler.from_pretrained("jova-tiny", subfolder="scheduler", shift=7.0)
    assert (scheduler.config["shift"], scheduler.config["solver"]) == (7.0, "unipc")


def test_the_import_says_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", "import diffusers_jova"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout + done.stderr == ""
