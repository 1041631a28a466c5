"""Tests named `test_live_*` need a ComfyUI: without one they are skipped, file by file."""

import os
from collections.abc import Iterable
from pathlib import Path

import pytest


class LiveTests(pytest.Module):
    """A file of tests that send graphs to a server."""

    def collect(self) -> Iterable[pytest.Item | pytest.Collector]:
        """Its tests, or the reason why they are skipped, before the file is imported."""
        if "COMFYUI_PATH" not in os.environ:
            pytest.skip("COMFYUI_PATH names no checkout of ComfyUI", allow_module_level=True)
        self.add_marker(pytest.mark.comfyui)
        return super().collect()


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> LiveTests | None:
    """Tell live tests from others by the name of their file."""
    return LiveTests.from_parent(parent, path=module_path) if module_path.name.startswith("test_live_") else None
