import pytest
import torch

from diffusers_jova.conditions import GivenLatents, condition_channels, frame_mask, repeat_to_batch


def test_the_reference_image_stands_at_the_first_latent_frame_with_mask_one() -> None:
    latents, image = torch.randn(2, 16, 3, 4, 4), torch.randn(2, 16, 1, 4, 4)
    channels = condition_channels(latents, image, num_mask_channels=4)
    assert channels.shape == (2, 20, 3, 4, 4)
    assert torch.equal(channels[:, :16, :1], image)
    assert bool((channels[:, 16:, 0] == 1).all())
    assert not channels[:, :, 1:].any()


def test_grey_frames_behind_the_reference_image_have_mask_zero() -> None:
    latents, image = torch.randn(2, 16, 3, 4, 4), torch.randn(2, 16, 3, 4, 4)
    channels = condition_channels(latents, image, num_mask_channels=4)
    assert torch.equal(channels[:, :16], image)
    assert bool((channels[:, 16:, 0] == 1).all())
    assert not channels[:, 16:, 1:].any()


def test_without_a_reference_image_all_condition_channels_are_zero() -> None:
    assert not condition_channels(torch.randn(1, 16, 3, 4, 4), None, 4).any()


@pytest.mark.parametrize(("shape", "axis"), [((2, 3, 5, 2, 2), 2), ((2, 5, 3), 1)], ids=["video", "audio"])
def test_a_given_prefix_is_imposed_and_the_rest_is_left(shape: tuple[int, ...], axis: int) -> None:
    clean, noise = torch.randn(shape).narrow(axis, 0, 2), torch.randn(shape)
    given = GivenLatents.prefix(clean, num_latents=5, axis=axis)
    imposed = given.impose(noise)
    assert torch.equal(imposed.narrow(axis, 0, 2), clean)
    assert torch.equal(imposed.narrow(axis, 2, 3), noise.narrow(axis, 2, 3))
    assert not given.covers_all


def test_given_latents_have_timestep_zero_and_the_others_that_of_their_sample() -> None:
    given = GivenLatents.prefix(torch.zeros(2, 2, 4), num_latents=4, axis=1)
    assert given.timesteps(torch.tensor([700.0, 37.5])).tolist() == [[0, 0, 700, 700], [0, 0, 37.5, 37.5]]


def test_what_is_longer_than_the_clip_covers_it_all() -> None:
    clean = torch.randn(1, 6, 4)
    given = GivenLatents.prefix(clean, num_latents=5, axis=1)
    assert given.covers_all
    assert torch.equal(given.impose(torch.zeros(1, 5, 4)), clean[:, :5])


def test_what_is_given_once_or_per_prompt_is_repeated_for_all_clips() -> None:
    rows = torch.tensor([[1], [2]])
    assert repeat_to_batch("image", rows, 4).flatten().tolist() == [1, 1, 2, 2]
    assert repeat_to_batch("image", rows[:1], 3).flatten().tolist() == [1, 1, 1]
    with pytest.raises(
        ValueError, match="`image` must be one for all clips or one per prompt, got 2 for 3 clips; pass one"
    ):
        repeat_to_batch("image", rows, 3)


def test_a_mask_has_a_channel_for_each_frame_of_a_latent_or_counts_latents() -> None:
    by_frame = frame_mask([0, 3, 8], 3, temporal_factor=4, num_channels=4, by_frame=True)
    assert by_frame.T.tolist() == [[True] * 4, [False, False, True, False], [False, False, False, True]]
    by_latent = frame_mask([3], 3, temporal_factor=4, num_channels=4, by_frame=False)
    assert by_latent.tolist() == [[False, True, False]] * 4
    assert frame_mask([3], 3, temporal_factor=4, num_channels=1, by_frame=True).tolist() == [[False, True, False]]


def test_what_is_given_twice_keeps_its_first_form() -> None:
    beginning = GivenLatents.prefix(torch.ones(1, 2, 2, 1, 1), num_latents=4, axis=2)
    other = GivenLatents(torch.full((1, 2, 4, 1, 1), 2.0), torch.tensor([True, False, False, True]))
    joined = beginning.joined(other)
    assert joined.is_given.tolist() == [True, True, False, True]
    assert joined.impose(torch.zeros(1, 2, 4, 1, 1))[0, 0, :, 0, 0].tolist() == [1, 1, 0, 2]


LATENTS = torch.zeros(2, 16, 3, 4, 4)  # [B, C, F, H, W]


@pytest.mark.parametrize(
    ("latents", "image", "num_mask_channels", "mask", "message"),
    [
        (LATENTS[:, 0, 0], None, 1, None, r"`latents` must be video latents \[B, C, F, H, W\], got \[2, 4, 4\]; "),
        (LATENTS, None, -1, None, "`num_mask_channels` must be at least 0, got -1"),
        (LATENTS, None, 1.0, None, "`num_mask_channels` must be a whole number"),
        (LATENTS, LATENTS[:, :, 0], 4, None, r"`image_latents` must be video latents \[B, C, F, H, W\]"),
        (LATENTS, LATENTS[:, :1], 4, None, r"`image_latents` must be \[2, 16, 1, 4, 4\], or with as many as 3 latent"),
        (LATENTS, LATENTS[:, :, :, :1], 4, None, r"`image_latents` must be \[2, 16, 1, 4, 4\], .*got \[2, 16, 3, 1"),
        (LATENTS[:1], LATENTS, 4, None, r"`image_latents` must be \[1, 16, 1, 4, 4\]"),
        (LATENTS[:, :, :1], LATENTS, 4, None, r"`image_latents` must be \[2, 16, 1, 4, 4\]"),
        (LATENTS, LATENTS, 4, torch.ones(1, 3), r"`mask` must be \[4, 3\] or \[2, 4, 3\], got \[1, 3\]; "),
        (LATENTS, None, 4, torch.ones(4, 3), "`mask` must be None without `image_latents`, got one"),
        (
            LATENTS,
            LATENTS[:, :, :2],
            4,
            None,
            "`image_latents` must have 1 or 3 latent frames without a `mask`",
        ),
        (LATENTS, LATENTS, 4, torch.ones(3, 4, 3), r"`mask` must be \[4, 3\] or \[2, 4, 3\], got \[3, 4, 3\]; "),
    ],
)
def test_condition_channels_are_those_of_the_latents(
    latents: torch.Tensor,
    image: torch.Tensor | None,
    num_mask_channels: int,
    mask: torch.Tensor | None,
    message: str,
) -> None:
    with pytest.raises(ValueError, match=message):
        condition_channels(latents, image, num_mask_channels, mask)
    assert condition_channels(LATENTS, LATENTS[:1, :, :1], 0).shape == LATENTS.shape
