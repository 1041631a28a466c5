"""Which models there are, where their files lie, and whether these have changed."""

from pathlib import Path

import folder_paths


SHIPPED = ("jova-tiny",)  # models that come with the package


def pipeline_names() -> list[str]:
    """Shipped models, then the folders in `models/diffusers` that hold a saved JoVAPipeline."""
    found = []
    for root in folder_paths.get_folder_paths("diffusers"):
        for index in sorted(Path(root).glob("**/model_index.json")):
            if '"JoVAPipeline"' in index.read_text(encoding="utf-8", errors="replace"):
                found.append(index.parent.relative_to(root).as_posix())
    return [*SHIPPED, *(name for name in dict.fromkeys(found) if name not in SHIPPED)]


def pipeline_source(name: str) -> str:
    """Folder of a model in `models/diffusers`, or the name of a shipped one."""
    for root in folder_paths.get_folder_paths("diffusers"):
        if (Path(root) / name / "model_index.json").is_file():
            return str(Path(root) / name)
    return name


def pipeline_fingerprint(name: str) -> str:
    """Changes when the files of a model in `models/diffusers` do; a shipped one stays as it is."""
    source = pipeline_source(name)
    return name if source in SHIPPED else fingerprint(source)


def fingerprint(path: str | Path) -> str:
    """Changes when a file, or a file in a folder, is written anew; contents are not read."""
    path = Path(path)
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return ";".join(f"{file}:{file.stat().st_mtime_ns}" for file in files if file.is_file())
