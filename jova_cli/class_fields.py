"""The fields of a class, read from the text of its file: importing it would load torch."""

import ast
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple


class Field(NamedTuple):
    """One field of a class, as its text describes it.

    Attributes:
        name: Its name.
        default: As Python writes it; empty where it must be given.
        choices: Values it can have, or those in it where it is a list, as far as they are listed.
        is_list: Whether it can have several of them.
        purpose: Its line of the docstring.
    """

    name: str
    default: str
    choices: tuple[str, ...]
    is_list: bool
    purpose: str


def read_fields(source: Path, name_of_class: str) -> list[Field]:
    """Read names, defaults, choices and purposes of all fields of a class, in their order.

    Args:
        source: File of the class.
        name_of_class: In that file.
    """
    tree = ast.parse(source.read_text(encoding="utf-8"))
    (cls,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name_of_class)
    choices = dict(_literals(tree.body))
    purposes = dict(_purposes(ast.get_docstring(cls) or ""))
    fields = [node for node in cls.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)]
    return [
        Field(
            name := ast.unparse(field.target),
            ast.unparse(field.value) if field.value else "",
            choices.get(kind.removeprefix("tuple[").removesuffix(", ...]"), ()),
            kind.startswith("tuple["),
            purposes.get(name, ""),
        )
        for field in fields
        for kind in [ast.unparse(field.annotation).removesuffix(" | None")]
    ]


def _literals(body: Iterable[ast.stmt]) -> Iterable[tuple[str, tuple[str, ...]]]:
    """Find the types `Name = Literal[...]` and their values."""
    for node in body:
        if isinstance(node, ast.Assign) and ast.unparse(node.value).startswith("Literal["):
            assert isinstance(node.value, ast.Subscript)
            values = ast.literal_eval(node.value.slice)
            yield ast.unparse(node.targets[0]), values if isinstance(values, tuple) else (values,)


def _purposes(docstring: str) -> Iterable[tuple[str, str]]:
    """Find the entries `name: purpose` of a docstring's section `Attributes`."""
    _, _, section = docstring.partition("Attributes:\n")
    joined = textwrap.dedent(section).replace("\n    ", " ")  # an entry that goes on is indented
    for entry in joined.splitlines():
        name, _, purpose = entry.partition(": ")
        yield name, purpose
