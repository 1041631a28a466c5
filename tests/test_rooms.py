"""The rooms of the repository and the arrows between them: an import may only run downwards."""

import ast
import configparser
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

from tests.places import ROOT


# fmt: off
ARROWS = {  # room: the rooms that it may import from, besides itself and jova_cli/, which lies below all
    "jova_cli":        set(),
    "diffusers_jova":  set(),
    "conversion":      {"diffusers_jova"},
    "training/data":   {"diffusers_jova"},
    "evaluation":      {"diffusers_jova", "training/data"},
    "training/loop":   {"diffusers_jova", "training/data", "evaluation"},
    "drawn":           {"diffusers_jova", "training/data", "evaluation"},
    "training/codecs": {"diffusers_jova", "training/loop", "drawn"},
    "training":        {"diffusers_jova", "training/data", "training/loop", "evaluation"},
    "recipes":         {"diffusers_jova", "training", "training/data", "training/loop", "training/codecs", "drawn",
                        "evaluation"},
    "page":            {"diffusers_jova", "training", "training/data"},
    "benchmarks":      {"diffusers_jova", "training/data", "training/loop"},
    "comfyui":         set(),  # it asks for modules of the package by name, while a node runs
}
APART = {"benchmarks", "comfyui"}  # rooms that pip does not install
# fmt: on


def room_of(module: str) -> str | None:
    """The room that a module name of ours lies in; None for other people's."""
    first, *names = module.split(".")
    if first in ("benchmarks", "jova_cli"):
        return first
    if first != "diffusers_jova":
        return None
    folders = ["/".join(names[:depth]) for depth in (2, 1)]
    return next((folder for folder in folders if folder in ARROWS), first)


@cache
def imports_of(file: Path) -> list[ast.Import | ast.ImportFrom]:
    """What a file imports, within functions too."""
    return [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)]


def imported_modules(file: Path) -> set[str]:
    """Names of the modules that a file imports; `from x import y` counts as x.y, which may be a module."""
    package = "diffusers_jova" if file.parent.name == "diffusers_jova" else ""
    found = set()
    for node in imports_of(file):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        else:
            module = f"{package}.{node.module or ''}".strip(".") if node.level else str(node.module)
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return found


def test_imports_run_downwards_only() -> None:
    wrong = []
    for room, allowed in ARROWS.items():
        files = list((ROOT / room).glob("*.py"))
        assert files, f"{room} has no files"
        for file in files:
            targets = {target for module in imported_modules(file) if (target := room_of(module))}
            wrong += [f"{file.relative_to(ROOT)} > {target}" for target in targets - allowed - {room, "jova_cli"}]
    assert not wrong, wrong


def modules_beside(file: Path) -> set[str]:
    """Modules of the same room that a file imports."""
    nodes = [node for node in imports_of(file) if isinstance(node, ast.ImportFrom)]
    return {node.module for node in nodes if node.level == 1 and node.module}


def test_the_modules_of_a_room_import_each_other_in_no_circle() -> None:
    for room in ARROWS:
        imports = {file.stem: modules_beside(file) for file in (ROOT / room).glob("*.py")}
        TopologicalSorter(imports).prepare()  # raises an error that names the circle


def test_no_room_is_without_arrows() -> None:
    outside = {".venv", "build", "tests", "examples"}
    folders = {path.parent.relative_to(ROOT) for path in ROOT.glob("*/*.py")}
    folders |= {path.parent.relative_to(ROOT) for path in (ROOT / "training").glob("*/*.py")}
    assert {str(folder) for folder in folders if folder.parts[0] not in outside} == set(ARROWS)


def test_the_installed_packages_are_the_rooms_of_the_clone() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    packages = set(setup["options"]["packages"].split())
    mapped = {}
    for line in setup["options"]["package_dir"].split("\n"):
        if line:
            name, _, folder = line.partition("=")
            mapped[name.strip()] = folder.strip()
    own = {"diffusers_jova", "jova_cli"}
    below = {room.replace("/", ".") for room in ARROWS if room not in own | APART} | {"model_cards"}
    assert packages == own | {f"diffusers_jova.{room}" for room in below}
    for name, folder in mapped.items():
        assert (ROOT / folder).is_dir(), name
        link = ROOT / name.replace(".", "/")  # what a clone imports; without links an editable install maps the same
        assert not link.exists() or link.resolve() == ROOT / folder


def test_tests_mirror_the_rooms() -> None:
    beside = {"tests"}  # what is true of the whole repository
    for file in (ROOT / "tests").rglob("test_*.py"):
        folder = str(file.parent.relative_to(ROOT / "tests"))
        assert folder in ARROWS or file.parent.name in beside, f"{file} tests no room"
