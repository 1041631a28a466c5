"""Steps that are the model's own go with the model's own solver."""

import logging
from importlib import import_module
from pathlib import Path

import pytest

from tests.comfyui.stub import PACK, loaded_pack


def test_own_steps_bring_their_own_solver_and_a_line_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with loaded_pack(tmp_path), caplog.at_level(logging.INFO):
        choose = import_module(f"{PACK}.steps").steps_and_sampler
        assert choose(24, "euler", 8, "unipc") == (24, "euler")
        assert choose(0, "euler", 50, "euler") == (50, "euler")
        assert choose(0, "heun", 50, "SomeScheduler") == (50, "heun")  # of diffusers, which core does not have
        assert not caplog.records
        assert choose(0, "euler", 8, "unipc") == (8, "uni_pc")
    assert "the model's own 8 steps are those of `uni_pc`, which takes the place of `euler`" in caplog.text
