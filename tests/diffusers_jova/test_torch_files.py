"""Files of torch are read as tensors; what a pickle wants to do is not done."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch

from diffusers_jova.torch_files import read_pickle


class Code:
    """A pickle that would create a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.trace),)


def test_a_pickle_with_code_is_refused_and_not_executed(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1), "b": Code(tmp_path / "trace")}, tmp_path / "evil.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Code(tmp_path / "trace"), protocol=2))
    for name in ("evil.pth", "plain.pth"):
        with pytest.raises(ValueError, match=r"must hold tensors and nothing else, got a pickle that names code"):
            read_pickle(tmp_path / name)
    assert not (tmp_path / "trace").exists()
