"""The settings of a training run, read from the text of their class: importing it would load torch."""

import ast
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from .parser import did_you_mean
from .shipped import TRAINING


SOURCE = TRAINING / "loop" / "config.py"
CLASS = "TrainConfig"
INDENT = " " * 6


class Setting(NamedTuple):
    """One field of `diffusers_jova.training.loop.config.TrainConfig`.

    Attributes:
        name: What stands before the `=`.
        default: As Python writes it; empty where it must be given.
        choices: Values it can have, where they are listed.
        purpose: Its line of the docstring.
    """

    name: str
    default: str
    choices: tuple[str, ...]
    purpose: str


def read_settings(source: Path = SOURCE, name_of_class: str = CLASS) -> list[Setting]:
    """Read names, defaults, choices and purposes of all settings, in their order.

    Args:
        source: File of their class.
        name_of_class: In that file.
    """
    tree = ast.parse(source.read_text(encoding="utf-8"))
    (cls,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name_of_class)
    choices = dict(_literals(tree.body))
    purposes = dict(_purposes(ast.get_docstring(cls) or ""))
    fields = [node for node in cls.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)]
    return [
        Setting(
            name := ast.unparse(field.target),
            ast.unparse(field.value) if field.value else "",
            choices.get(ast.unparse(field.annotation).removesuffix(" | None"), ()),
            purposes.get(name, ""),
        )
        for field in fields
    ]


def split_settings(words: Iterable[str]) -> dict[str, str]:
    """Split words of the form name=value.

    Raises:
        ValueError: If a word has another form, or sets what an earlier one has set.
    """
    values = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"an override must have the form name=value, got {word!r}")
        if name.lstrip("-") in values:
            raise ValueError(f"a setting must be given once, got `{name}` several times; leave all but one out")
        values[name.lstrip("-")] = value
    return values


def check_names(names: Iterable[str], known: Sequence[str], source: str) -> None:
    """Refuse names that are no setting.

    Args:
        names: What was given.
        known: All settings.
        source: Where the names stand, for the message.
    """
    for name in names:
        if name not in known:
            hint = did_you_mean(str(name), known, f"the fields are {', '.join(known)}")
            raise ValueError(f"`{name}` in {source} is not a setting of a training run; {hint}")


def check_words(words: Iterable[str]) -> None:
    """Refuse words of a command line that set nothing."""
    check_names(split_settings(words), [setting.name for setting in read_settings()], "the command line")


def describe_settings() -> str:
    """All settings as the end of a help text."""
    return "\n".join(["settings, all of which a preset may hold and a word name=value may change:", *_entries()])


def _entries() -> Iterable[str]:
    for setting in read_settings():
        yield f"  {setting.name}={setting.default}" if setting.default else f"  {setting.name}=... (must be given)"
        choices = f" One of {', '.join(setting.choices)}." if setting.choices else ""
        yield textwrap.fill(setting.purpose + choices, 100, initial_indent=INDENT, subsequent_indent=INDENT)


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
