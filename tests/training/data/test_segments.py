"""Clips lie in one shot and end between words, and every frame that is in none has a reason."""

import numpy as np
import pytest

from diffusers_jova.training.data.segments import (
    BETWEEN_WORDS,
    FIRST_ONLY,
    OTHER_SHOT,
    REST,
    Plan,
    Segment,
    plan_segments,
    quiet_edges,
    quiet_frames,
    word_edges,
)
from diffusers_jova.training.data.subtitles import Speech


def plan(shots: list[range], lengths: list[int], closed: set[int] | None = None, **options: bool) -> Plan:
    edges = closed or set()
    result = plan_segments(shots, lambda n: [x for x in lengths if x <= n], lambda at: at not in edges, **options)
    assert sum(s.num_frames for s in result.segments) + sum(result.unused.values()) == sum(map(len, shots))
    for segment in result.segments:
        assert any(segment.start in shot and segment.start + segment.num_frames <= shot.stop for shot in shots)
        assert not edges & {segment.start, segment.start + segment.num_frames}
    return result


def test_clips_follow_each_other_inside_their_shots() -> None:
    result = plan([range(25), range(25, 30), range(30, 43)], [10])
    assert result.segments == [Segment(0, 10), Segment(10, 10), Segment(30, 10)]
    assert +result.unused == {REST: 8, OTHER_SHOT: 5}
    assert plan([range(19)], [13, 5]).segments == [Segment(0, 13), Segment(13, 5)]


def test_only_the_first_clip_is_taken_where_one_is_asked_for() -> None:
    result = plan([range(4), range(4, 30), range(30, 50)], [10], only_first=True)
    assert result.segments == [Segment(4, 10)]
    assert +result.unused == {OTHER_SHOT: 4, FIRST_ONLY: 36}


def test_a_clip_begins_and_ends_where_it_may() -> None:
    result = plan([range(30)], [10], {0, 1, 2, *range(14, 20), 23})
    assert result.segments == [Segment(3, 10), Segment(20, 10)]
    assert +result.unused == {BETWEEN_WORDS: 10}
    assert plan([range(30)], [10], {10}).segments == [Segment(1, 10), Segment(11, 10)]
    assert plan([range(12)], [10], {0, 1, 2}).segments == []
    assert plan([range(12)], [10, 6], {10, 11, 12}).segments == [Segment(0, 6)]  # a shorter one fits


def test_edges_lie_between_words_and_words_may_touch() -> None:
    free = word_edges([Speech("a", 0.0, 0.5), Speech("b", 0.5, 1.02), Speech("c", 1.2, 2.05)], 20, 10)
    assert np.flatnonzero(free).tolist() == [0, 5, 10, 11, 12, 20]


@pytest.mark.parametrize("loud", [0.5, 0.05])
def test_pauses_are_where_the_sound_is_low_for_its_range(loud: float) -> None:
    time_s = np.arange(48000) / 16000
    speaks = ((time_s > 0.5) & (time_s < 1.2)) | ((time_s > 1.25) & (time_s < 2.0))
    sound = (np.sin(time_s * 2000) * np.where(speaks, loud, loud / 50)).astype(np.float32)[None]
    free = np.flatnonzero(quiet_edges(sound, 16000, 30, 10))
    assert free.tolist() == [*range(5), *range(21, 31)]  # not in the closure of 50 ms
    assert quiet_frames(sound, 16000, 30, 10)[[2, 25]].all()
    hum = np.sin(time_s * 2000).astype(np.float32)[None]
    assert quiet_edges(hum, 16000, 30, 10).all()
    assert not quiet_frames(hum, 16000, 30, 10).any()
