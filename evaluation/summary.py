"""Many clips in few numbers: means, and the difference between two sets of clips with its uncertainty."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.stats


NUM_RESAMPLES = 9999
CONFIDENCE = 0.95
MIN_CLIPS = 3  # fewer have no interval that means anything
SEED = 0  # of the resampling: the same clips give the same interval


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
        """Whether the interval leaves zero out."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


def compare(ours: Mapping[str, float], theirs: Mapping[str, float], *, is_paired: bool) -> Difference | None:
    """Compare a measure of two sets of clips, by a bootstrap over clips (BCa, Efron 1987); None without clips.

    Args:
        ours: Values by the clip's name.
        theirs: Likewise.
        is_paired: Whether clips of the same name are compared with each other; clips without a partner do not count.
    """
    if is_paired:
        names = [name for name in ours if name in theirs]
        ours, theirs = ({name: values[name] for name in names} for values in (ours, theirs))
    if not ours or not theirs:
        return None
    first, second = (np.array(list(values.values()), np.float64) for values in (ours, theirs))
    samples = (first - second,) if is_paired else (first, second)
    low, high = _interval(samples)
    means = float(first.mean()), float(second.mean())
    return Difference(*means, means[0] - means[1], low, high, len(first) if is_paired else 0)


def _interval(samples: Sequence[npt.NDArray[np.float64]]) -> tuple[float | None, float | None]:
    """Ends of the interval of a mean, or of the difference of two."""
    if min(map(len, samples)) < MIN_CLIPS:
        return None, None
    if all(np.ptp(sample) == 0 for sample in samples):  # no resampling can differ
        certain = float(_mean_difference(*samples))
        return certain, certain
    bootstrap = scipy.stats.bootstrap(
        samples,
        _mean_difference,
        n_resamples=NUM_RESAMPLES,
        confidence_level=CONFIDENCE,
        method="BCa",
        random_state=np.random.default_rng(SEED),
    ).confidence_interval
    return float(bootstrap.low), float(bootstrap.high)


def _mean_difference(*samples: npt.NDArray[np.float64], axis: int = -1) -> npt.NDArray[np.float64]:
    """The mean of one sample, or of the first less that of the second, along an axis."""
    means = [sample.mean(axis=axis) for sample in samples]
    return np.asarray(means[0] if len(means) == 1 else means[0] - means[1])
