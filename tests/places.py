"""Where the files lie that tests read but do not make."""

from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]  # of the repository
CARDS = ROOT / "model_cards"
CONFIGS = ROOT / "training" / "configs"
DATA = ROOT / "tests" / "data"
PARITY = ROOT.parent / "shared" / "parity"  # results of other projects' code, beside a checkout and not in it
needs_references = pytest.mark.skipif(not PARITY.is_dir(), reason=f"reference tensors are not at {PARITY}")
