import pytest

from jova_cli.clip_limits import Bucket
from jova_cli.latent_lengths import check_whole_frames, num_frames_of, num_latent_frames, whole_frames


@pytest.mark.parametrize("factor", [1, 4, 8])
def test_frames_and_latents_belong_together(factor: int) -> None:
    for num_latents in range(1, 30):
        num_frames = num_frames_of(num_latents, factor)
        assert num_latent_frames(num_frames, factor) == num_latents
        assert num_frames_of(num_latents + 1, factor) == num_frames + factor


@pytest.mark.parametrize("factor", [1, 4, 8])
def test_whole_frames_are_the_most_that_fill_latents(factor: int) -> None:
    whole = {num_frames_of(num_latents, factor) for num_latents in range(1, 61)}
    for num_frames in range(1, 60):
        assert whole_frames(num_frames, factor) == max(x for x in whole if x <= num_frames)
    assert whole_frames(0, factor) == whole_frames(-3, factor) == 1


@pytest.mark.parametrize(("num_frames", "near"), [(80, "77 or 81"), (0, "1 or 5"), (-3, "1 or 5"), (2, "1 or 5")])
def test_clips_and_buckets_obey_the_same_rule(num_frames: int, near: str) -> None:
    with pytest.raises(ValueError, match=rf"`num_frames` must be 4k \+ 1 .*, got {num_frames}; use {near}"):
        check_whole_frames(num_frames, 4)
    with pytest.raises(ValueError, match=rf"of a bucket must be 4k \+ 1 .*, got {num_frames}x32x32; use {near}"):
        Bucket(num_frames, 32, 32).check(4, 16)
    for whole in map(int, near.split(" or ")):
        check_whole_frames(whole, 4)
        Bucket(whole, 32, 32).check(4, 16)
