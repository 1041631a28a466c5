"""Models that the package brings along: their names stand for their folders."""

import os
from pathlib import Path


WEIGHTS = Path(__file__).parent / "weights"


def find_model(name: str | os.PathLike[str]) -> str:
    """Folder of a shipped model for its name; a folder of that name here, and any other name, stay as they are."""
    shipped = WEIGHTS / name
    is_known = shipped.parent == WEIGHTS and (shipped / "model_index.json").is_file()
    return str(shipped) if is_known and not Path(name).exists() else str(name)


def model_folder(name: str | os.PathLike[str]) -> Path:
    """The same as a path, for what reads the files of a saved model itself."""
    return Path(find_model(name))
