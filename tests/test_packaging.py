"""What an installed package offers to other programs; `make wheel` tries the rest in a new environment."""

import configparser
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from diffusers import DiffusionPipeline

from diffusers_jova import JoVAPipeline
from tests.places import ROOT


ENGINES = ("vllm_omni.general_plugins", "sglang.multimodal_gen.plugins")
ENGINE = """
import sys
import torch
from diffusers import DiffusionPipeline, ModelMixin, SchedulerMixin  # whose subclasses the package defines
from diffusers.guiders import BaseGuidance
before = set(sys.modules)
from importlib.metadata import EntryPoint
plugin = EntryPoint(name="diffusers_jova", value=sys.argv[1], group="any").load()
print(*sorted(set(sys.modules) - before))
plugin()
print(type(DiffusionPipeline.from_pretrained(sys.argv[2])).__name__)
"""


def entry_point(group: str, name: str) -> str:
    """The object that setup.cfg offers under a name."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    offered = dict(line.split(" = ") for line in setup["options.entry_points"][group].strip().splitlines())
    return offered[name]


def test_engines_are_offered_the_same_entry_point() -> None:
    assert {entry_point(group, "diffusers_jova") for group in ENGINES} == {"diffusers_jova:plugin"}


def test_the_entry_point_is_there_and_leaves_a_saved_pipeline_loadable(tiny_pipeline_folder: Path) -> None:
    value = entry_point(ENGINES[0], "diffusers_jova")
    EntryPoint(name="diffusers_jova", value=value, group=ENGINES[0]).load()()
    assert type(DiffusionPipeline.from_pretrained(tiny_pipeline_folder)) is JoVAPipeline


@pytest.mark.slow  # a process that imports everything
def test_an_engine_that_calls_the_entry_point_can_load_a_saved_pipeline_and_no_reader_of_media_is_loaded(
    tiny_pipeline_folder: Path,
) -> None:
    words = [entry_point(ENGINES[0], "diffusers_jova"), str(tiny_pipeline_folder)]
    ended = subprocess.run(
        [sys.executable, "-c", ENGINE, *words], cwd=ROOT, capture_output=True, text=True, check=True
    )
    *_, modules, pipeline = ended.stdout.splitlines()
    assert pipeline == "JoVAPipeline"
    assert "diffusers_jova.media" in modules.split()
    assert not set(modules.split()) & {"av", "scipy.signal", "scipy.io", "pyloudnorm", "mediapipe"}


def test_the_command_is_the_one_that_imports_no_torch() -> None:
    assert entry_point("console_scripts", "jova") == "jova_cli.main:main"
