from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from diffusers_jova import media
from diffusers_jova.conditions import (
    GivenLatents,
    condition_channels,
    continue_sound,
    repeat_to_batch,
    to_waveform_batch,
    unpack_audio,
    unpack_video,
)


def test_the_reference_image_stands_at_the_first_latent_frame_with_mask_one() -> None:
    latents, image = torch.randn(2, 16, 3, 4, 4), torch.randn(2, 16, 1, 4, 4)
    channels = condition_channels(latents, image, num_mask_channels=4)
    assert channels.shape == (2, 20, 3, 4, 4)
    assert torch.equal(channels[:, :16, :1], image)
    assert bool((channels[:, 16:, 0] == 1).all())
    assert not channels[:, :, 1:].any()


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


def test_sound_gets_its_batch_and_channel_axes() -> None:
    mono = np.linspace(-1, 1, 5, dtype=np.float32)
    assert torch.equal(to_waveform_batch(mono, 1), to_waveform_batch(torch.from_numpy(mono)[None], 1))
    assert to_waveform_batch(np.zeros((3, 2, 5)), 2).shape == (3, 2, 5)


def test_any_number_of_channels_is_mixed_to_those_of_the_model() -> None:
    channels = np.array([[0.5, 0.25], [-0.5, 0.25], [0.3, 0.25]], np.float32)
    assert torch.allclose(to_waveform_batch(channels, 1), torch.tensor([[[0.1, 0.25]]]))
    assert to_waveform_batch(channels, 2).shape == (1, 2, 2)
    assert to_waveform_batch(np.zeros((3, 6, 5)), 2).shape == (3, 2, 5)
    assert to_waveform_batch(np.zeros(5), 2).shape == (1, 2, 5)


@pytest.mark.parametrize("kind", [np.array, torch.from_numpy])
@pytest.mark.parametrize(
    ("numbers", "half"), [("int16", 2**14), ("int32", 2**30), ("uint8", 192), ("int8", 64), ("float64", 0.5)]
)
def test_sound_of_whole_numbers_is_scaled_by_its_type(kind: Any, numbers: str, half: float) -> None:
    sound = kind(np.full(5, half, numbers))
    assert torch.equal(to_waveform_batch(sound, 1), torch.full((1, 1, 5), 0.5))


def test_floats_that_hold_whole_numbers_are_refused_and_some_overshoot_is_clipped() -> None:
    with pytest.raises(ValueError, match=r"`audio` of floats must lie in \[-1, 1\], got a peak of 12000; divide"):
        to_waveform_batch(np.array([3.0, -12000.0]), 1)
    assert to_waveform_batch(np.array([1.25, 0.0]), 1).max() == 1  # as the warning says


@pytest.mark.parametrize("audio", [np.zeros(0), np.zeros((1, 1, 1, 5))])
def test_sound_of_another_shape_is_refused(audio: np.ndarray) -> None:
    with pytest.raises(
        ValueError, match=r"`audio` must be \[S\], \[channels, S\] or \[B, channels, S\] with S > 0, got"
    ):
        to_waveform_batch(audio, 1)


def test_sound_with_its_channels_last_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`audio` must have its samples last, got \[16000, 2\]; transpose it"):
        to_waveform_batch(np.zeros((16000, 2)), 1)


def test_sound_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="`audio` must be finite, got NaN or infinity"):
        to_waveform_batch(np.array([0, np.nan]), 1)


def test_sound_of_numbers_without_a_scale_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`audio` must be float in \[-1, 1\] or one of .*, got int64; divide it by"):
        to_waveform_batch(np.zeros(5, np.int64), 1)


def test_the_name_of_a_sound_file_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`audio` must be an array or a tensor, got str; `media.read_audio` reads"):
        unpack_audio("voice.wav", 16000)


def test_what_was_read_from_a_file_brings_its_rates() -> None:
    sound, frames = np.zeros((2, 9), np.float32), np.zeros((5, 4, 4, 3), np.uint8)
    clip = media.Video(frames, Fraction(30000, 1001), sound, 44100)
    assert unpack_audio(media.Sound(sound, 8000), None) == (sound, 8000)
    assert unpack_audio(clip, 44100) == (sound, 44100)
    assert unpack_video(clip, None) == (frames, 30000 / 1001)
    assert unpack_video(clip, 29.97) == (frames, 30000 / 1001)
    assert unpack_video(frames, None) == (frames, None)
    with pytest.raises(ValueError, match=r"`audio_sampling_rate` must be that of the given `audio`, 8000, got 16000"):
        unpack_audio(media.Sound(sound, 8000), 16000)
    with pytest.raises(ValueError, match=r"`frame_rate` must be that of the given `video`, 29.97, got 16; leave"):
        unpack_video(clip, 16.0)
    with pytest.raises(ValueError, match="`audio` must hold sound, got a video without; leave it out"):
        unpack_audio(clip._replace(audio=None, sampling_rate=None), None)
    with pytest.raises(ValueError, match="`audio_sampling_rate` must be given with an array of sound, got None"):
        unpack_audio(sound, None)


def test_a_given_sound_goes_on_without_a_jump() -> None:
    given, generated = 0.5 * torch.ones(1, 1, 100), -0.5 * torch.ones(1, 1, 300)
    joined = continue_sound(given, generated, num_fade_samples=50)
    assert torch.equal(joined[..., :100], given)
    assert torch.equal(joined[..., 150:], generated[..., 150:])
    assert joined.diff().abs().max() < 0.04
    short = continue_sound(given, generated[..., :110], num_fade_samples=50)
    assert short.shape == (1, 1, 110)
