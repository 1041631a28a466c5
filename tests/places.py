"""Where the tests find what lies outside of them."""

from pathlib import Path


ROOT = Path(__file__).parents[1]
CARDS = ROOT / "model_cards"
CONFIGS = ROOT / "training" / "configs"
DATA = ROOT / "tests" / "data"
PARITY = ROOT.parent / "shared" / "parity"  # tensors made with the original code of other projects
