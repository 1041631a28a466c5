import os
from pathlib import Path

import pytest


os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before diffusers is imported: a test that wants the network fails


@pytest.fixture(scope="session")
def tiny_pipeline_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved pipeline of tiny real components with random weights; tests must not write into it."""
    from tests.tiny_pipeline import build_tiny_pipeline  # imports diffusers, which reads the environment

    folder = tmp_path_factory.mktemp("pipelines") / "tiny"
    build_tiny_pipeline().save_pretrained(folder)
    return folder
