import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch


torch.set_num_threads(1)  # the tensors are tiny, and a forked process must not inherit a thread pool
with torch.device("meta"):  # torch lists its constructors at the first use; transformers replaces some while it loads
    torch.empty(0)

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the same in processes that tests start
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before diffusers is imported: a test that wants the network fails


@pytest.fixture(autouse=True)
def _fresh_accelerate() -> Iterator[None]:
    from tests.tiny_training import forget_accelerate  # imports diffusers, which reads the environment

    forget_accelerate()
    yield
    forget_accelerate()


@pytest.fixture(scope="session")
def tiny_pipeline_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved pipeline of tiny real components with random weights; tests must not write into it."""
    from tests.tiny_pipeline import build_tiny_pipeline  # imports diffusers, which reads the environment

    folder = tmp_path_factory.mktemp("pipelines") / "tiny"
    build_tiny_pipeline().save_pretrained(folder)
    return folder
