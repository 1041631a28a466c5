"""How far a set of clips is from another, by their embeddings: the Frechet distance, and distances of pairs.

Letters: N clips, F frames of one, D numbers of an embedding, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from diffusers_jova.evaluation.measures import CORRECTED_WAY, FIELD_WAY
from diffusers_jova.evaluation.summary import CONFIDENCE, MIN_CLIPS, compare
from jova_cli.progress import followed


FloatArray = npt.NDArray[np.floating]
Vectors = Mapping[str, FloatArray]  # by the clip's name

Drawn = dict[str, tuple[float, FloatArray]]  # a distance and those of drawn sets, by the vectors

DRAWS = 100  # of the bootstrap
ENDS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
VERSE_BENCH_FLOOR = 1e-6  # of a probability


class SetMeasure(NamedTuple):
    """A distance of two sets.

    Attributes:
        name: In reports.
        label: For a reader.
        vectors: Of the clips.
        pairs: A distance of two vectors, ours first, where clips of one name are compared; None for sets as wholes.
        way: As `measures.WAYS` says of a clip's.
        is_corrected: Whether what few clips add is taken off.
        source: Where it comes from.
        blind: What it cannot see.
        unit: Of the number.
    """

    name: str
    label: str
    vectors: str
    pairs: Callable[[FloatArray, FloatArray], float] | None
    way: str
    is_corrected: bool
    source: str
    blind: str
    unit: str = "squared units of the embedding"


class SetDistance(NamedTuple):
    """A distance with its uncertainty; less is nearer.

    Attributes:
        name: Of the measure.
        label: For a reader.
        way: "as the field does", "corrected", or empty.
        value: The distance.
        low: Lower end of the interval of 95 %; None for too few clips.
        high: Upper end.
        num_clips: Of ours.
        num_others: Of the other side; for pairs the same.
        are_pairs: Whether clips of one name were compared.
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
    num_others: int
    are_pairs: bool
    warning: str
    source: str
    cannot_see: str
    unit: str
    better: str = "lower"


def squared_distance(ours: FloatArray, theirs: FloatArray) -> float:
    """Of two embeddings; of unit vectors 2 less twice their cosine."""
    return float(((ours - theirs) ** 2).sum())


def verse_bench_divergence(ours: FloatArray, theirs: FloatArray) -> float:
    """KL(reference || ours + 1e-6) of log-probabilities [C], in the order in which Verse-Bench calls `infer`."""
    return float((np.exp(theirs) * (theirs - np.log(np.exp(ours) + VERSE_BENCH_FLOOR))).sum())


def reference_divergence(ours: FloatArray, theirs: FloatArray) -> float:
    """KL(reference || ours) of log-probabilities [C]."""
    return float((np.exp(theirs) * (theirs - ours)).sum())


FRECHET = "Frechet distance (Heusel et al. 2017) of one embedding a clip"
ENDLESS = "less what few clips add by the bootstrap (Efron and Tibshirani 1993)"
AST = "AST, weights of `--classifier` (others take PaSST); sound at a peak of -1 dB, softmax of mean logits"
INCEPTION = (
    "Frechet distance (Heusel et al. 2017) of Inception's 2048 numbers of frames, package torch-fidelity, weights of "
    "`--inception`; up to 8 frames of each clip, evenly spaced; the bootstrap draws clips"
)
VIDEOMAE = (
    f"{FRECHET}, as Ge et al. 2024 by VideoMAE, weights of `--video-classifier`: mean of its tokens, normalised as "
    "in front of its classes, over windows of 16 frames at 7.5 a second that cover the clip"
)
ONE_CLIP = "a single clip: each may be wrong where all together are right"
STILL = f"motion, order in time, and how the frames of one clip belong together; {ONE_CLIP}"
WATCHED = f"what changes faster than 7.5 times a second, the edges of wide pictures; {ONE_CLIP}"
ONE_CLASS = "which of several sounds is meant, order in time"
# fmt: off
SET_MEASURES = (
    SetMeasure("fd_clap", "FD of the sound (CLAP)", "clap", None, FIELD_WAY, False, f"{FRECHET}; `--clap`", ONE_CLIP),
    SetMeasure("fd_clap_corrected", "FD of the sound (CLAP), corrected", "clap", None, CORRECTED_WAY, True,
               f"{FRECHET}; `--clap`; {ENDLESS}", ONE_CLIP),
    SetMeasure("fd_clap_verse_bench", "FD of each sound, as Verse-Bench", "clap_verse_bench", squared_distance,
               FIELD_WAY, False, "as Verse-Bench: 2 - 2 cos of CLAP, a mean over pairs, which is no distance of sets",
               "that another sound may be as good"),
    SetMeasure("fd_dino", "FD of the picture (DINO)", "dino", None, FIELD_WAY, False,
               f"{FRECHET}, the mean of its frames, so nobody's FID; `--identity`", STILL),
    SetMeasure("fd_dino_corrected", "FD of the picture (DINO), corrected", "dino", None, CORRECTED_WAY, True,
               f"{FRECHET}, the mean of its frames; `--identity`; {ENDLESS}", STILL),
    SetMeasure("fid", "FID of the frames (Inception)", "inception", None, FIELD_WAY, False, INCEPTION, STILL),
    SetMeasure("fid_corrected", "FID of the frames (Inception), corrected", "inception", None, CORRECTED_WAY, True,
               f"{INCEPTION}; {ENDLESS}", STILL),
    SetMeasure("fvd_videomae", "FVD of the picture (VideoMAE)", "videomae", None, FIELD_WAY, False, VIDEOMAE, WATCHED),
    SetMeasure("fvd_videomae_corrected", "FVD of the picture (VideoMAE), corrected", "videomae", None, CORRECTED_WAY,
               True, f"{VIDEOMAE}; {ENDLESS}", WATCHED),
    SetMeasure("kl_verse_bench", "KL of classes of sound, as Verse-Bench", "classes", verse_bench_divergence,
               FIELD_WAY, False, f"KL(reference || clip + 1e-6), mean over pairs; {AST}", ONE_CLASS, "nats"),
    SetMeasure("kl_av_benchmark", "KL of classes of sound, as av-benchmark", "classes", reference_divergence,
               FIELD_WAY, False, f"KL(reference || clip), mean over pairs; there of a window as loud as it is; {AST}",
               ONE_CLASS, "nats"),
)
# fmt: on


def frechet_distance(ours: FloatArray, theirs: FloatArray) -> float:
    """Of two sets of embeddings [N, D], as Gaussians.

    Heusel et al. (arXiv:1706.08500v6), Eq. (6):  |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))

    With centred rows A'A = S1 and B'B = S2 the last trace is the sum of the singular values of A B', whatever N and D.
    """
    sides = [np.asarray(side, np.float64) for side in (ours, theirs)]
    means = [side.mean(0) for side in sides]
    roots = [_root(side - mean) for side, mean in zip(sides, means, strict=True)]
    shared = np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum()
    spread = sum(float((root**2).sum()) for root in roots)
    return max(0.0, float(((means[0] - means[1]) ** 2).sum()) + spread - 2 * float(shared))


def _root(centred: FloatArray) -> FloatArray:
    """Rows R [min(N, D), D] with R'R the covariance of centred rows [N, D]."""
    root = centred / np.sqrt(max(len(centred) - 1, 1))
    return np.asarray(np.linalg.qr(root, mode="r")) if len(root) > root.shape[1] else root


def set_distances(rows: Sequence[Any], others: Sequence[Any], clips: str = "") -> list[SetDistance]:
    """All distances of two sides that their rows have vectors for.

    Args:
        rows: Ours, of the report.
        others: The reference.
        clips: Which clips count, a kind of `Row.kinds`; empty for all. A reference counts as well where our clip of
            its name does: nobody need have asked for it.
    """
    counted = [row for row in rows if not clips or clips in row.kinds]
    names = {row.name for row in counted}
    sides = [counted, [row for row in others if not clips or clips in row.kinds or row.name in names]]
    found: list[SetDistance] = []
    drawn: Drawn = {}
    for measure in SET_MEASURES:
        ours, theirs = (
            {row.name: np.array(row.vectors[measure.vectors]) for row in side if measure.vectors in row.vectors}
            for side in sides
        )
        if measure.pairs is None:
            distance = _of_sets(measure, ours, theirs, drawn)
        else:
            distance = _of_pairs(measure, ours, theirs)
        if distance is not None:
            found.append(distance)
    return found


def _of_pairs(measure: SetMeasure, ours: Vectors, theirs: Vectors) -> SetDistance | None:
    assert measure.pairs is not None
    names = [name for name in ours if name in theirs]
    distances = {name: measure.pairs(ours[name], theirs[name]) for name in names}
    compared = compare(distances, dict.fromkeys(names, 0.0), is_paired=True)
    if compared is None:
        return None
    low = None if compared.low is None else max(0.0, compared.low)
    value, high, num_pairs = compared.mean, compared.high, len(names)
    about = (measure.name, measure.label, measure.way)
    named = (measure.source, measure.blind, measure.unit)
    return SetDistance(*about, value, low, high, num_pairs, num_pairs, True, "", *named)


def _of_sets(measure: SetMeasure, ours: Vectors, theirs: Vectors, drawn: Drawn) -> SetDistance | None:
    if min(len(ours), len(theirs)) < 2:
        return None
    sides = [list(side.values()) for side in (ours, theirs)]
    if measure.vectors not in drawn:  # of which two numbers come
        drawn[measure.vectors] = frechet_distance(*map(np.vstack, sides)), bootstrap(*sides)
    plain, distances = drawn[measure.vectors]
    value, low, high = corrected(plain, distances) if measure.is_corrected else as_it_is(plain, distances)
    counts, width = [len(side) for side in sides], sides[0][0].shape[-1]
    is_chance = min(counts) <= width
    warning = (
        f"{counts[0]} and {counts[1]} clips for {width} numbers of an embedding: mostly chance, compare with "
        "distances of as many clips alone"
    )
    has_ends = min(counts) >= MIN_CLIPS and not (is_chance and measure.is_corrected)  # the bootstrap fails there
    return SetDistance(
        measure.name,
        measure.label,
        measure.way,
        value,
        low if has_ends else None,
        high if has_ends else None,
        counts[0],
        counts[1],
        are_pairs=False,
        warning=warning if is_chance else "",
        source=measure.source,
        cannot_see=measure.blind,
        unit=measure.unit,
    )


def bootstrap(ours: Sequence[FloatArray] | FloatArray, theirs: Sequence[FloatArray] | FloatArray) -> FloatArray:
    """Frechet distances of sets that are drawn from two with repetition, `DRAWS` of them.

    Args:
        ours: Of each clip an embedding [D], or those of its frames [F, D], which are drawn together: they are no more
            independent of each other than what they show.
        theirs: Likewise.
    """
    draws = np.random.default_rng(0)
    sides = (ours, theirs)
    return np.array(
        [
            frechet_distance(
                *(np.vstack([side[number] for number in draws.integers(0, len(side), len(side))]) for side in sides)
            )
            for _ in followed(range(DRAWS), DRAWS, "drawing sets of clips", unit="set")
        ]
    )


def as_it_is(plain: float, drawn: FloatArray) -> tuple[float, float, float]:
    """A distance, and what other sets of as many clips would have, by how drawn ones are spread."""
    low, high = np.quantile(drawn - drawn.mean(), ENDS)
    return plain, max(0.0, plain + float(low)), max(0.0, plain + float(high))


def corrected(plain: float, drawn: FloatArray) -> tuple[float, float, float]:
    """A distance less what few clips add to it, and the interval of that of endless sets.

    Efron and Tibshirani (1993), Eq. (10.41): drawn sets lie as much too far as the sets themselves; Davison and
    Hinkley (1997), Sec. 2.4: the basic bootstrap.
    """
    low, high = np.quantile(drawn, ENDS)
    ends = (2 * plain - float(drawn.mean()), 2 * plain - float(high), 2 * plain - float(low))
    return max(0.0, ends[0]), max(0.0, ends[1]), max(0.0, ends[2])
