"""Which rows of padded samples exist, as Python ints: attention to them needs no mask, and compiled graphs stay whole.

Samples that follow each other with the same rows are a run, and attend in one call.

Letters in shapes: B batch, L rows, S text tokens of one encoder.
"""

from collections.abc import Sequence
from itertools import accumulate, chain
from numbers import Integral
from typing import NamedTuple

import torch
from torch import Tensor


Spans = tuple[tuple[int, int], ...]  # starts and ends of rows that exist, rising; None stands for all rows
TextLengths = Sequence[Sequence[int]]  # per sample, rows of each text encoder's features


class SpanRun(NamedTuple):
    """Consecutive samples of a batch with the same rows.

    Args:
        num_samples: How many they are.
        spans: Rows that exist of every tensor at hand, such as those of queries and those of keys.
    """

    num_samples: int
    spans: tuple[Spans | None, ...]


def span_runs(*spans: Sequence[Spans | None]) -> tuple[SpanRun, ...]:
    """Group neighbours of whose tensors the same rows exist, each tensor given by its rows per sample."""
    runs: list[SpanRun] = []
    for sample in zip(*spans, strict=True):
        is_alike = bool(runs) and runs[-1].spans == sample
        before = runs.pop().num_samples if is_alike else 0
        runs.append(SpanRun(before + 1, sample))
    return tuple(runs)


def joined_spans(parts: Sequence[tuple[Spans | None, int]]) -> Spans | None:
    """Rows that exist in several parts behind each other, each given with its number of rows."""
    if all(spans is None for spans, _ in parts):
        return None
    starts = accumulate((rows for _, rows in parts), initial=0)
    joined: list[tuple[int, int]] = []
    for (spans, rows), offset in zip(parts, starts, strict=False):
        for start, end in ((0, rows),) if spans is None else spans:
            if joined and joined[-1][1] == offset + start:
                joined[-1] = joined[-1][0], offset + end
            elif end > start:
                joined.append((offset + start, offset + end))
    return tuple(joined)


def text_spans(lengths: TextLengths, num_rows: Sequence[int]) -> tuple[Spans | None, ...]:
    """Rows of concatenated text that each sample has.

    Args:
        lengths: Rows that are read of each encoder's features, the first ones.
        num_rows: Rows of each encoder's features, padding included.
    """
    parts = ([(first_rows(n, rows), rows) for n, rows in zip(own, num_rows, strict=True)] for own in lengths)
    return tuple(joined_spans(own) for own in parts)


def first_rows(number: int, num_rows: int) -> Spans | None:
    """The first of some rows; None for all of them."""
    return None if number == num_rows else ((0, number),)


def check_text_lengths(name: str, lengths: TextLengths, batch_size: int, num_rows: Sequence[int]) -> None:
    """Refuse lengths that are none of a text.

    Args:
        name: Argument that they are given as.
        lengths: Per sample and encoder.
        batch_size: B.
        num_rows: Rows of each encoder's features.

    Raises:
        ValueError: Naming the argument.
    """
    if isinstance(lengths, Tensor):
        raise ValueError(f"`{name}` must be ints of Python, got a tensor; give `lengths.tolist()`, a list per sample")
    is_nested = hasattr(lengths, "__len__") and all(hasattr(own, "__len__") for own in lengths)
    if not is_nested or len(lengths) != batch_size or any(len(own) != len(num_rows) for own in lengths):
        raise ValueError(
            f"`{name}` must be {len(num_rows)} per sample, one for each text encoder, for {batch_size} samples, got "
            f"{[list(own) for own in lengths] if is_nested else lengths}; `{[(7, 5, 3)[: len(num_rows)]] * 2}`, say"
        )
    parts = [(part, rows) for own in lengths for part, rows in zip(own, num_rows, strict=True)]
    if any(not isinstance(part, Integral) or not 1 <= part <= rows for part, rows in parts):
        raise ValueError(
            f"`{name}` must be between 1 and the rows of the features, {list(num_rows)}, got "
            f"{[list(own) for own in lengths]}; leave rows that are not the first ones to a mask"
        )


def mask_of(spans: Sequence[Spans | None], num_rows: int, device: torch.device) -> Tensor | None:
    """Bool [B, L] of the rows that exist in each sample; None where all do."""
    if all(own is None for own in spans):
        return None
    mask = torch.zeros(len(spans), num_rows, dtype=torch.bool, device=device)
    for sample, own in zip(mask, spans, strict=True):
        for start, end in ((0, num_rows),) if own is None else own:
            sample[start:end] = True
    return mask


def existing(rows: Tensor, spans: Spans | None) -> Tensor:
    """Those of rows [B, L, ...] that exist."""
    if spans is None:
        return rows
    parts = [rows[:, start:end] for start, end in spans]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def put_back(rows: Tensor, spans: Spans | None, num_rows: int) -> Tensor:
    """Rows that exist at their places among zeros, [B, num_rows, ...]: the way back from `existing`."""
    if spans is None:
        return rows
    gaps = zip(chain((0,), (end for _, end in spans)), chain((start for start, _ in spans), (num_rows,)), strict=True)
    zeros = [rows.new_zeros(rows.shape[0], end - start, *rows.shape[2:]) for start, end in gaps]
    parts = rows.split([end - start for start, end in spans], dim=1)
    return torch.cat([*chain.from_iterable(zip(zeros, parts, strict=False)), zeros[-1]], dim=1)
