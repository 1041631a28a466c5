"""How much moves in a clip: the mean length of the optical flow, as Verse-Bench takes it, and by time and picture.

Letters: F frames, B pairs of frames, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from diffusers_jova.evaluation.clip_signals import PictureTracks, frames_at
from diffusers_jova.evaluation.measured import Measured
from diffusers_jova.evaluation.raft import LEAST_PX, STRIDE_PX
from diffusers_jova.media import exact_frame_rate
from diffusers_jova.training.data.scene_cuts import THUMBNAIL_PX, CutFinder


Frames = npt.NDArray[np.uint8]
Flow = Callable[[Tensor, Tensor], Tensor]  # as `Raft`

RATE = Fraction(8)  # pictures a second that are compared, where a file has as many
SHORT_PX, MAX_SHAPE = 256, 4  # of the shorter side, as the network sees it; the longer side, in shorter ones
HALVED_PX = 640  # Verse-Bench halves pictures whose longer side has more
MAX_PAIRS = 256  # of a clip
STILL = 1.0  # of 255, mean difference of small copies: the same picture
BATCH = 2  # pairs in memory at a time


class Steps(NamedTuple):
    """What is compared.

    Attributes:
        rate: At which frames are taken.
        first: Numbers of the frames that are compared with the next one.
    """

    rate: Fraction
    first: Sequence[int]


def measure_motion(video: Path | None, picture: PictureTracks | None, flow: Flow) -> Measured:
    """Measure a clip in both ways.

    Args:
        video: The file of the pictures; None for sound alone.
        picture: Its tracks.
        flow: The network.

    Raises:
        ValueError: If the file cannot be read.
    """
    if video is None or picture is None:
        return Measured({}, "no picture")
    num_steps = len(picture.luma) - 1
    if num_steps < 1 or (picture.copies is not None and picture.copies.all()):
        return Measured({}, "fewer than two frames are stored")
    own_rate = exact_frame_rate(picture.frame_rate)
    rate = min(RATE, own_rate)
    by_time, all_steps = (
        Steps(rate, _some_of(_within_scenes(frames_at(video, picture, rate)))),
        Steps(own_rate, _some_of(range(num_steps))),
    )
    values: dict[str, float | None] = {}
    reasons: list[str] = []
    for name, steps, measure, why_not in (
        ("motion_score", by_time, _speed, _why_no_speed(picture.size, by_time)),
        ("motion_score_verse_bench", all_steps, _verse_bench, _why_no_verse_bench(picture.size)),
    ):
        frames = frames_at(video, picture, steps.rate)
        value = None if why_not else measure(frames, steps, picture.size, flow)
        is_number = value is not None and np.isfinite(value)
        values[name] = value if is_number else None
        reasons += [] if is_number else [why_not or "the flow is not finite"]
    return Measured(values, "; ".join(dict.fromkeys(reasons)))


def _within_scenes(frames: Iterable[Frames]) -> list[int]:
    """Numbers of the frames after which the same scene goes on.

    Cuts are looked for among pictures that differ: a clip that moves by jerks has no cut at each of them.
    """
    finder, changed, last, number = CutFinder(), list[int](), None, -1
    for number, frame in enumerate(frames):
        small = np.asarray(Image.fromarray(frame).resize(THUMBNAIL_PX, Image.Resampling.BOX))
        if last is None or np.abs(small.astype(np.float32) - last).mean() >= STILL:
            finder.add(small)
            changed.append(number)
            last = small.astype(np.float32)
    cuts = {changed[cut] for cut in finder.cuts()}
    return [first for first in range(number) if first + 1 not in cuts]


def _some_of(numbers: Sequence[int]) -> list[int]:
    """Up to `MAX_PAIRS` of them, evenly spaced from first to last."""
    chosen = np.unique(np.rint(np.linspace(0, len(numbers) - 1, min(len(numbers), MAX_PAIRS))).astype(int))
    return [numbers[number] for number in chosen]


def _why_no_speed(size: tuple[int, int], steps: Steps) -> str:
    if max(size) > MAX_SHAPE * min(size):
        return f"a picture of {size[1]} x {size[0]}, longer than {MAX_SHAPE} times its shorter side"
    return "" if steps.first else f"no two pictures of one scene {float(1 / steps.rate):.3g} s apart"


def _why_no_verse_bench(size: tuple[int, int]) -> str:
    seen = padded(halved(size))
    if min(seen) < LEAST_PX:
        return f"pictures of {seen[1]} x {seen[0]} as Verse-Bench shows them, where RAFT needs {LEAST_PX} x {LEAST_PX}"
    return ""


def _speed(frames: Iterable[Frames], steps: Steps, size: tuple[int, int], flow: Flow) -> float:
    """Mean length of the flow by time: per cent of the shorter side a second; a picture that stays has none."""
    height, width = seen_size(size)

    def see(frame: Frames) -> Tensor:
        resized = Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(resized, np.float32)).movedim(-1, 0)

    sides = torch.tensor([size[1] / width, size[0] / height], dtype=torch.float64) / min(size)  # of a pixel
    lengths = []
    for pairs in _batches(_pairs(frames, steps, see)):
        moved = [pair for pair in pairs if not torch.equal(*pair)]
        lengths += [0.0] * (len(pairs) - len(moved))
        if moved:
            parts = _flow_of(flow, moved) * sides[:, None, None]
            lengths += parts.norm(dim=1).mean((1, 2)).tolist()
    return 100 * float(steps.rate) * float(np.mean(lengths))


def _verse_bench(frames: Iterable[Frames], steps: Steps, size: tuple[int, int], flow: Flow) -> float:
    """Mean of the flow's parts to the side and down, as distances in pixels, edges that fill up included.

    Dorniwang/Verse-Bench @ 5645a09, raft/raft_inferencer.py and `evaluate_raft_video` of calculate_metrics.py.
    """

    def see(frame: Frames) -> Tensor:
        return filled_up(shrunk(torch.from_numpy(frame).movedim(-1, 0).float(), halved(size)))

    distances = []
    for pairs in _batches(_pairs(frames, steps, see)):
        distances += _flow_of(flow, pairs).abs().mean((1, 2, 3)).tolist()
    return float(np.mean(distances))


def _flow_of(flow: Flow, pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Flow of pairs of pictures, float64 [B, 2, H, W]."""
    firsts, seconds = zip(*pairs, strict=True)
    return flow(torch.stack(firsts), torch.stack(seconds)).double()


def _pairs(frames: Iterable[Frames], steps: Steps, see: Callable[[Frames], Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """The pictures that are compared, as the network sees them; no others are kept."""
    firsts: Collection[int] = set(steps.first)
    last: Tensor | None = None
    for number, frame in enumerate(frames):
        picture = see(frame) if number in firsts or number - 1 in firsts else None
        if number - 1 in firsts and last is not None and picture is not None:
            yield last, picture
        last = picture


def _batches(pairs: Iterator[tuple[Tensor, Tensor]]) -> Iterator[list[tuple[Tensor, Tensor]]]:
    while batch := list(islice(pairs, BATCH)):
        yield batch


def seen_size(size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of a picture whose shorter side is `SHORT_PX`, multiples of `STRIDE_PX`."""
    height, width = (max(1, round(side * SHORT_PX / min(size) / STRIDE_PX)) * STRIDE_PX for side in size)
    return height, width


def halved(size: tuple[int, int]) -> tuple[int, int]:
    """Height and width, halved until neither is over `HALVED_PX`."""
    while max(size) > HALVED_PX:
        size = size[0] // 2, size[1] // 2
    return size


def padded(size: tuple[int, int]) -> tuple[int, int]:
    """The next multiples of `STRIDE_PX`."""
    height, width = (side + -side % STRIDE_PX for side in size)
    return height, width


def shrunk(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """A picture [3, H, W] between its nearest four pixels, in whole levels, as OpenCV's INTER_LINEAR."""
    return F.interpolate(picture[None], size, mode="bilinear", align_corners=False, antialias=False)[0].round()


def filled_up(picture: Tensor) -> Tensor:
    """A picture [3, H, W] with its edges repeated to both sides until they are multiples of `STRIDE_PX`."""
    down, right = (-side % STRIDE_PX for side in picture.shape[-2:])
    return F.pad(picture[None], (right // 2, right - right // 2, down // 2, down - down // 2), mode="replicate")[0]
