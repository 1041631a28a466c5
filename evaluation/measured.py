"""What a measure says of a clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Measured(NamedTuple):
    """The numbers of one group of measures.

    Attributes:
        values: By the name of the measure; None where it cannot be judged.
        reason: Why something cannot be judged; empty if all is.
        texts: What was heard, for a reader.
        curves: Tracks to draw, by their name, at evenly spaced times.
    """

    values: Mapping[str, float | None]
    reason: str = ""
    texts: Mapping[str, str] = {}
    curves: Mapping[str, Sequence[float | None]] = {}
