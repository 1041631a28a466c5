"""Values of settings as their types say, from YAML and the command line, or one sentence about them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin


KINDS: dict[type, str] = {float: "a finite number", int: "a whole number", str: "a text", bool: "true or false"}


def convert(name: str, value: Any, hint: Any) -> Any:
    """Check one value against its field's type; YAML 1.1 reads `1e-4` as text and has no tuples."""
    options = [option for option in get_args(hint) if option is not type(None)]
    if value is None and type(None) in get_args(hint):
        return None
    if options and get_origin(hint) is not tuple and get_origin(options[0]) is Literal:
        hint = options[0]
    if get_origin(hint) is Literal:
        value = "no" if value is False and "no" in get_args(hint) else value  # YAML 1.1 reads a bare no as false
        require(value in get_args(hint), name, f"one of {', '.join(get_args(hint))}", value)
        return value
    if options and get_origin(options[0]) is Mapping:
        return _convert_mapping(name, value, *get_args(options[0]))
    if get_origin(hint) is tuple:
        return _convert_tuple(name, value, get_args(hint))
    return _convert_scalar(name, value, options[0] if options else hint)


def _convert_tuple(name: str, value: Any, items: tuple[Any, ...]) -> tuple[Any, ...]:
    """Check a list: of any length where the type is `tuple[X, ...]`, else of the given one."""
    require(isinstance(value, (list, tuple)), name, "a list", value)
    item_types = [items[0]] * len(value) if items[-1] is Ellipsis else list(items)
    require(len(item_types) == len(value), name, f"a list of {len(item_types)}", value)
    return tuple(convert(name, item, kind) for item, kind in zip(value, item_types, strict=True))


def _convert_mapping(name: str, value: Any, keys: Any, kind: type) -> dict[str, Any]:
    """Check `name: value` pairs whose names are known."""
    known = ", ".join(get_args(keys))
    require(isinstance(value, Mapping) and len(value) > 0, name, f"names with numbers, of {known}", value)
    for key in value:
        require(key in get_args(keys), name, f"of {known}", key)
    return {key: _convert_scalar(f"{name}.{key}", item, kind) for key, item in value.items()}


def _convert_scalar(name: str, value: Any, kind: type) -> Any:
    """Check a finite number, a text or a truth value; a truth value is no number."""
    if kind is float and isinstance(value, (int, str)) and not isinstance(value, bool):
        with contextlib.suppress(ValueError):
            value = float(value)
    require(type(value) is kind, name, KINDS[kind], value)
    require(kind is not float or math.isfinite(value), name, "finite", value)
    return value


def require(holds: bool, name: str, rule: str, value: Any, remedy: str | None = None) -> None:
    """Raise the error of a field that breaks its rule."""
    if not holds:
        raise ValueError(f"`{name}` must be {rule}, got {value!r}" + (f"; {remedy}" if remedy else ""))
