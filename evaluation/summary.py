"""Many clips in few numbers: means, and the difference between two sets of clips with its uncertainty."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.stats


CONFIDENCE = 0.95
MIN_CLIPS = 3  # fewer have no interval that means anything
ROUNDING = 16 * float(np.finfo(np.float64).eps)  # of the largest value, what a difference may be by arithmetic alone


def summarize(rows: Sequence[Mapping[str, float | None]]) -> dict[str, dict[str, float]]:
    """Mean and standard error of each measure over clips, without those to which it does not apply (None or NaN)."""
    summary = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = np.array([value for row in rows if (value := row.get(name)) is not None and not math.isnan(value)])
        if len(values):
            error = values.std(ddof=min(len(values) - 1, 1)) / np.sqrt(len(values))
            summary[name] = {"mean": float(values.mean()), "standard_error": float(error), "count": len(values)}
    return summary


class Difference(NamedTuple):
    """How one set of clips differs from another in a measure.

    Attributes:
        mean: Of the first.
        other_mean: Of the second.
        difference: The first less the second.
        low: Lower end of the interval that holds the true difference in 95 of 100 cases; None for too few clips.
        high: Upper end.
        num_pairs: Clips of the same name that were compared; 0 where the sets were compared as a whole.
    """

    mean: float
    other_mean: float
    difference: float
    low: float | None
    high: float | None
    num_pairs: int

    @property
    def is_certain(self) -> bool:
        """Whether the interval is finite and leaves zero out."""
        if self.low is None or self.high is None or not math.isfinite(self.high - self.low):
            return False
        return not self.low <= 0 <= self.high


def compare(ours: Mapping[str, float], theirs: Mapping[str, float], *, is_paired: bool) -> Difference | None:
    """Compare a measure of two sets of clips by a t interval, of differences of pairs or Welch's; None without clips.

    Without a difference, one comparison in twenty is certain all the same: of 20 measures one, by chance.

    Args:
        ours: Finite values by the clip's name.
        theirs: Likewise.
        is_paired: Whether clips of the same name are compared with each other; clips without a partner do not count.
    """
    if is_paired:
        names = [name for name in ours if name in theirs]
        ours, theirs = ({name: values[name] for name in names} for values in (ours, theirs))
    if not ours or not theirs:
        return None
    first, second = (np.array(list(values.values()), np.float64) for values in (ours, theirs))
    rounding = ROUNDING * max(float(np.abs(values).max()) for values in (first, second))
    means = float(first.mean()), float(second.mean())
    difference = _without(means[0] - means[1], rounding)
    half_width = _half_width([first - second] if is_paired else [first, second])
    low = high = None
    if half_width is not None:
        half_width = _without(half_width, rounding)
        low, high = difference - half_width, difference + half_width
    return Difference(*means, difference, low, high, len(first) if is_paired else 0)


def _half_width(samples: Sequence[npt.NDArray[np.float64]]) -> float | None:
    """Of the interval of a mean (Student 1908), or of the difference of two (Welch, Biometrika 34, 1947)."""
    counts = np.array([len(sample) for sample in samples])
    if counts.min() < MIN_CLIPS:
        return None
    variances = np.array([sample.var(ddof=1) for sample in samples]) / counts  # of the means
    if not variances.any():
        return 0.0
    shares = variances / variances.sum()
    degrees_of_freedom = 1 / (shares**2 / (counts - 1)).sum()
    return float(scipy.stats.t.ppf((1 + CONFIDENCE) / 2, degrees_of_freedom) * np.sqrt(variances.sum()))


def _without(value: float, rounding: float) -> float:
    """A value, 0 where it is no more than rounding."""
    return value if abs(value) > rounding else 0.0
