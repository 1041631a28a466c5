import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch


os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before diffusers is imported: a test that wants the network fails


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--threads", type=int, default=1, help="threads of torch; more than one only for `-m numeric`")


def pytest_configure(config: pytest.Config) -> None:
    """One thread, whatever the shell says: the tensors are tiny, and a forked process must not inherit a pool."""
    torch.set_num_threads(config.getoption("threads"))
    os.environ["OMP_NUM_THREADS"] = str(config.getoption("threads"))  # the same in processes that tests start


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


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What diffusers' loggers say, ours among them."""
    from diffusers.utils import logging  # imports diffusers, which reads the environment

    logging.enable_propagation()
    yield caplog
    logging.disable_propagation()
