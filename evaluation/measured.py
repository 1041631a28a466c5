"""What a measure says of a clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple


Vector = Sequence[float] | Sequence[Sequence[float]]  # of a clip, or of each of its frames


class Measured(NamedTuple):
    """The numbers of one group of measures.

    Attributes:
        values: By the name of the measure; None where it cannot be judged.
        reason: Why something cannot be judged; empty if all is.
        texts: What was heard, for a reader.
        curves: Tracks to draw, by their name, at evenly spaced times.
        vectors: Embeddings, by their name, of which a set of clips is compared with another.
        missing: Why a package that numbers need lacks; empty if none does.
        has_failed: Whether what was given made the measures impossible.
    """

    values: Mapping[str, float | None]
    reason: str = ""
    texts: Mapping[str, str] = {}
    curves: Mapping[str, Sequence[float | None]] = {}
    missing: str = ""
    has_failed: bool = False
    vectors: Mapping[str, Vector] = {}

    @property
    def is_final(self) -> bool:
        """Whether measuring the same again could say no more."""
        return not self.missing and not self.has_failed
