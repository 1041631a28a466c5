"""What a set of clips is worth by itself, without a reference: the inception score of its sounds.

Letters: N clips, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import entr

from diffusers_jova.evaluation.measures import FIELD_WAY
from diffusers_jova.evaluation.set_distance import DRAWS, as_it_is
from diffusers_jova.evaluation.summary import MIN_CLIPS


FloatArray = npt.NDArray[np.floating]


class ScoreMeasure(NamedTuple):
    """A number of one set.

    Attributes:
        name: In reports.
        label: For a reader.
        vectors: Of the clips.
        score: Of those, [N, C].
        way: As `measures.WAYS` says of a clip's.
        source: Where it comes from.
        blind: What it cannot see.
        unit: Of the number; empty for a plain one.
        better: "higher" or "lower".
        limits: The least and the largest that it can be, of so many clips and classes.
    """

    name: str
    label: str
    vectors: str
    score: Callable[[FloatArray], float]
    way: str
    source: str
    blind: str
    unit: str
    better: str
    limits: Callable[[int, int], tuple[float, float]]


class SetScore(NamedTuple):
    """A number of a set with its uncertainty.

    Attributes:
        name: Of the measure.
        label: For a reader.
        way: "as the field does", "corrected", or empty.
        value: The number.
        low: Lower end of the interval of 95 %; None for too few clips.
        high: Upper end.
        num_clips: That count.
        warning: What makes the number worth little; empty if nothing does.
        source: Where it comes from.
        cannot_see: What it is blind for.
        unit: Of the number.
        better: Which way is.
    """

    name: str
    label: str
    way: str
    value: float
    low: float | None
    high: float | None
    num_clips: int
    warning: str
    source: str
    cannot_see: str
    unit: str
    better: str


def inception_score(logs: FloatArray) -> float:
    """Of log-probabilities of classes [N, C], in [1, min(N, C)].

    Salimans et al. (arXiv:1606.03498v1), Sec. 4:  exp(E_x KL(p(y | x) || p(y)))

    The mean divergence from the mean is the entropy of the mean less the mean of the entropies.
    """
    shares = np.exp(np.asarray(logs, np.float64))
    shares /= shares.sum(1, keepdims=True)
    return max(1.0, float(np.exp(entr(shares.mean(0)).sum() - entr(shares).sum(1).mean())))


# fmt: off
SCORES = (
    ScoreMeasure("is_classes", "IS of the sound (classes)", "classes", inception_score, FIELD_WAY,
                 "inception score (Salimans et al. 2016) of all clips at once, by AST, weights of `--classifier` "
                 "(others take PANNs or PaSST); sound at a peak of -1 dB, softmax of mean logits",
                 "whether a sound is the one that was asked for, and variety within a class: a set of one sound for "
                 "each class is best", "", "higher", lambda clips, classes: (1.0, float(min(clips, classes)))),
)
# fmt: on


def set_scores(rows: Sequence[Any], clips: str = "") -> list[SetScore]:
    """All numbers of a set that its rows have vectors for.

    Args:
        rows: Of the report.
        clips: Which clips count, a kind of `Row.kinds`; empty for all.
    """
    found: list[SetScore] = []
    for measure in SCORES:
        counted = [row for row in rows if measure.vectors in row.vectors and (not clips or clips in row.kinds)]
        if len(counted) > 1:
            found.append(_score(measure, np.array([row.vectors[measure.vectors] for row in counted])))
    return found


def _score(measure: ScoreMeasure, vectors: FloatArray) -> SetScore:
    num_clips, num_classes = vectors.shape
    draws = np.random.default_rng(0)
    drawn = [measure.score(vectors[draws.integers(0, num_clips, num_clips)]) for _ in range(DRAWS)]
    value, *ends = as_it_is(measure.score(vectors), np.array(drawn))
    least, most = measure.limits(num_clips, num_classes)
    low, high = (min(max(least, end), most) if num_clips >= MIN_CLIPS else None for end in ends)
    warning = (
        f"{num_clips} clips for {num_classes} classes: the score of few clips is too small, and never more than "
        "their number; compare with scores of as many clips alone"
    )
    return SetScore(
        measure.name,
        measure.label,
        measure.way,
        value,
        low,
        high,
        num_clips,
        warning if num_clips <= num_classes else "",
        measure.source,
        measure.blind,
        measure.unit,
        measure.better,
    )
