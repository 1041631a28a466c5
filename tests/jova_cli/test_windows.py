import itertools
import random
import re
from collections.abc import Iterator, Sequence

import pytest

from jova_cli.windows import Window, WindowSize, plan_windows, with_shorter_overlap


SIZE = WindowSize(num_frames=33, num_overlap=9, factor=4)


@pytest.mark.parametrize("starts_s", [[0], [0, 3, 6], [0, 0.5, 1.7, 20], [0, 29.4]], ids=str)
@pytest.mark.parametrize("num_frames", [481, 477])
def test_windows_cover_a_clip_once_and_overlap_in_whole_latents(starts_s: list[float], num_frames: int) -> None:
    windows = plan_windows(starts_s, num_frames, 16, SIZE)
    assert (windows[0].first_frame, windows[0].num_overlap, windows[-1].end_frame) == (0, 0, num_frames)
    for before, window in itertools.pairwise(windows):
        assert before.end_frame - window.num_overlap == window.first_frame >= 0
        assert window.num_overlap < before.num_frames
    for window in windows:
        assert window.num_frames <= SIZE.num_frames
        assert window.num_frames % 4 == 1
        assert window.num_overlap % 4 == (window is not windows[0])
    assert {window.line for window in windows} == {*range(len(starts_s))}


def random_plans(number: int) -> Iterator[tuple[list[Window], WindowSize, int]]:
    draw = random.Random(0)
    for _ in range(number):
        factor = draw.choice([4, 8])
        num_frames = factor * draw.randint(2, 9) + 1
        size = WindowSize.of_model(num_frames, None, factor, None, draw.choice([None, 1, 1 + factor]))
        latents = [draw.choice([1, 1, 2, 3, 5, 17]) for _ in range(draw.randint(1, 7))]
        starts_s = [0, *(factor * number / 16 for number in itertools.accumulate(latents[:-1]))]
        length = factor * sum(latents) + 1
        yield plan_windows(starts_s, length, 16, size), size, length


def check_cover(windows: Sequence[Window], factor: int, num_frames: int) -> None:
    for before, window in itertools.pairwise(windows):
        assert window.first_frame - before.first_frame >= factor
        assert window.first_frame + window.num_overlap == before.end_frame
        assert window.num_overlap % factor == window.num_frames % factor == 1
    assert (windows[0].first_frame, windows[-1].end_frame) == (0, num_frames)


def test_every_window_of_any_script_has_a_latent_of_its_own_and_is_given_no_more_than_half() -> None:
    for windows, size, num_frames in random_plans(500):
        check_cover(windows, size.factor, num_frames)
        for window in windows[1:]:
            assert window.num_overlap <= max(size.num_overlap, (window.num_frames + 1) // 2)


def test_windows_that_share_less_still_cover_the_clip_once() -> None:
    draw = random.Random(1)
    for windows, size, num_frames in random_plans(500):
        shorter = windows
        for index in range(1, len(windows)):
            least = min(shorter[index].num_overlap, 1 + size.factor)
            num_overlap = draw.randrange(least, shorter[index].num_overlap + 1, size.factor)
            made = shorter[:index]
            shorter = with_shorter_overlap(shorter, index, num_overlap, size.factor)
            assert shorter[:index] == made
            assert shorter[index].num_overlap == num_overlap
            check_cover(shorter, size.factor, num_frames)
        assert [window.end_frame for window in shorter] == [window.end_frame for window in windows]


def test_a_new_part_begins_within_half_a_latent_of_its_line() -> None:
    starts_s = [0, 1.13, 4.4, 9.99]
    first = {}
    for window in plan_windows(starts_s, 321, 16, SIZE):
        first.setdefault(window.line, window.first_frame + window.num_overlap)
    for line, start_s in enumerate(starts_s[1:], start=1):
        assert abs(first[line] - 16 * start_s) <= 2


def test_the_shares_of_a_line_follow_each_other_and_are_even() -> None:
    windows = plan_windows([0, 6, 12], 321, 16, SIZE)
    shares = [window.share for window in windows if window.line == 1]
    assert shares[0][0] == 0
    assert shares[-1][1] == 1
    assert all(before[1] == after[0] for before, after in itertools.pairwise(shares))
    lengths = [end - begin for begin, end in shares]
    assert max(lengths) - min(lengths) <= 4 / 96 + 1e-9


def test_a_clip_that_fits_is_one_window() -> None:
    (window,) = plan_windows([0], 33, 16, SIZE)
    assert (window.num_frames, window.share) == (33, (0, 1))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ((65, None), "`window_frames` must be at most 61, the longest clip of this model, got 65; use 33"),
        ((34, None), "`window_frames` must be 4k + 1 (the video VAE compresses time by 4), got 34; use 33 or 37"),
        ((1, None), "`window_frames` must be at least 5, got 1; use 33"),
        ((33, 21), "`overlap_frames` must be from 1 to 17, half of a window of 33, got 21; leave it out"),
        ((33, 0), "`overlap_frames` must be from 1 to 17, half of a window of 33, got 0; leave it out"),
        ((33, 8), "`overlap_frames` must be 4k + 1 (the video VAE compresses time by 4), got 8; use 5 or 9"),
    ],
)
def test_a_window_that_the_model_does_not_make_is_refused(asked: tuple[int, int | None], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        WindowSize.of_model(33, 61, 4, *asked)


def test_the_model_says_how_long_windows_are() -> None:
    assert WindowSize.of_model(33, 61, 4) == SIZE
    assert WindowSize.of_model(33, 21, 4).num_frames == 21
    assert WindowSize.of_model(81, None, 4, 121, 13) == (121, 13, 4)


@pytest.mark.parametrize(
    ("starts_s", "message"),
    [
        ([0, 2.1], "`start` must come before the end of the clip, 2.0625 s, by 0.25 s at least, got 2.1; lengthen"),
        ([0, 0.1], "`start` must come 0.25 s, a latent, after that of the line before at least, got 0.1 after 0"),
        ([0, 1, 1.1], "`start` must come 0.25 s, a latent, after that of the line before at least, got 1.1 after 1"),
    ],
)
def test_lines_without_room_are_refused(starts_s: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        plan_windows(starts_s, 33, 16, SIZE)
