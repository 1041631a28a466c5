"""What counts as a number where a caller gives one, or as a flag: numpy's do; others are refused by name."""

import math
import numbers
from collections.abc import Mapping
from typing import Any

import numpy as np

from jova_cli.number_options import MOST_COUNTED


def is_finite_number(value: Any) -> bool:
    """Whether a value is a finite real number."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(as_float(value))


def as_float(value: Any) -> float:
    """The float of a real number; infinite for one that is larger than all of them."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def whole_number(name: str, value: Any, least: int | None = None) -> int:
    """A count as an int; a float is none, even a round one.

    Args:
        name: Argument that it is given as.
        value: What is given.
        least: The smallest that it may be; what begins at 1 ends at `MOST_COUNTED`.

    Raises:
        ValueError: Naming the argument.
    """
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise ValueError(f"`{name}` must be a whole number, got {value!r}; {remedy(value, 'a whole number')}")
    if least is not None and value < least:
        raise ValueError(f"`{name}` must be at least {least}, got {value}; use {max(least, 1)}, say")
    if least and int(value) > MOST_COUNTED:
        raise ValueError(f"`{name}` must be at most {MOST_COUNTED}, got {value}; use fewer")
    return int(value)


def check_number(name: str, value: Any) -> None:
    """Refuse what is no real number; infinite ones and NaN are left to who knows the range.

    Args:
        name: Argument that it is given as.
        value: What is given.

    Raises:
        ValueError: Naming the argument.
    """
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise ValueError(f"`{name}` must be a number, got {value!r}; {remedy(value, 'a number')}")


def remedy(value: Any, wanted: str) -> str:
    """What to do about a value that is not the number that is wanted, by what it is.

    Args:
        value: No such number.
        wanted: In words.
    """
    if isinstance(value, str):
        return "write it without quotes"
    if isinstance(value, bool | np.bool_):
        return f"give {wanted}, no flag"
    if isinstance(value, numbers.Real):
        return (
            "write it without a point" if is_finite_number(value) and float(value).is_integer() else f"give {wanted}"
        )
    if hasattr(value, "item"):  # tensors and arrays
        return f"give {wanted} of Python, by `.item()` of one that holds it alone"
    return f"give {wanted} alone"


def check_flags(flags: Mapping[str, Any]) -> None:
    """Refuse flags by name that are neither True nor False.

    Raises:
        ValueError: Naming the argument.
    """
    for name, value in flags.items():
        if not isinstance(value, bool | np.bool_):
            raise ValueError(f"`{name}` must be True or False, got {value!r}; write one of them, without quotes")


def whole_numbers(counts: Mapping[str, Any], least: int) -> dict[str, int]:
    """Counts by name as ints, see `whole_number`."""
    return {name: whole_number(name, count, least) for name, count in counts.items()}


def finite_number(name: str, value: Any, advice: str = "leave it out for the model's own") -> float:
    """A finite real number as a float.

    Args:
        name: Argument that it is given as.
        value: What is given.
        advice: What to do where it is NaN or infinite.

    Raises:
        ValueError: Naming the argument.
    """
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise ValueError(f"`{name}` must be a number, got {value!r}; {remedy(value, 'a number')}")
    if not -math.inf < as_float(value) < math.inf:  # `math.isfinite` would break a compiled graph; NaN fails as well
        raise ValueError(f"`{name}` must be finite, got {value}; {advice}")
    return float(value)


def positive_number(name: str, value: Any, advice: str) -> float:
    """A finite number above 0 as a float.

    Args:
        name: Argument that it is given as.
        value: What is given.
        advice: What to do otherwise.

    Raises:
        ValueError: Naming the argument.
    """
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if is_number and not 0 < as_float(value) < math.inf:  # written so that NaN fails as well
        raise ValueError(f"`{name}` must be positive and finite, got {value}; {advice}")
    return finite_number(name, value, advice)
