"""What the nodes take from the package is there; they name it by text, so that nothing is imported too early."""

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.places import ROOT


FILES = sorted((ROOT / "comfyui").glob("*.py"))


def module_of(node: ast.AST) -> str | None:
    """The module that `jova("...")` names."""
    is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "jova"
    return ast.literal_eval(node.args[0]) if is_call else None  # type: ignore[attr-defined]


def pairs_of(assignment: ast.Assign) -> Iterator[tuple[ast.AST, ast.AST]]:
    """Targets of an assignment with their values."""
    for target in assignment.targets:
        if isinstance(target, ast.Tuple) and isinstance(assignment.value, ast.Tuple):
            yield from zip(target.elts, assignment.value.elts, strict=True)
        else:
            yield target, assignment.value


def names_taken(path: Path) -> set[tuple[str, str]]:
    """Modules of the package and the names in them that a file takes."""
    taken = set()
    for function in ast.walk(ast.parse(path.read_text())):
        if not isinstance(function, ast.FunctionDef):
            continue
        nodes = [*ast.walk(function)]
        held = {
            target.id: module
            for node in nodes
            if isinstance(node, ast.Assign)
            for target, value in pairs_of(node)
            if isinstance(target, ast.Name) and (module := module_of(value))
        }
        for node in nodes:
            if isinstance(node, ast.Attribute):
                module = module_of(node.value) or (
                    held.get(node.value.id) if isinstance(node.value, ast.Name) else None
                )
                taken |= {(module, node.attr)} if module else set()
    return taken


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_every_name_that_the_nodes_take_from_the_package_is_there(path: Path) -> None:
    for module, name in names_taken(path):
        assert hasattr(importlib.import_module(f"diffusers_jova.{module}"), name), f"{module}.{name}"


def test_the_names_are_found() -> None:
    taken = set().union(*map(names_taken, FILES))
    assert ("given_media", "to_waveform_batch") in taken
    assert ("pipeline_checks", "check_size") in taken
