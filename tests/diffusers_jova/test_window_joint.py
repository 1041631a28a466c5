import numpy as np
import pytest
import torch

from diffusers_jova.window_joint import alikeness, joined_frames, joined_sound, quietest


RATE, LENGTH = 16000, 320


def tone(phase: float, num_samples: int = 4000) -> torch.Tensor:
    return torch.sin(torch.arange(num_samples) * 0.1 + phase)[None] / 2


def test_what_both_windows_hold_stays_as_it_is() -> None:
    sound = torch.randn(2, 4000, generator=torch.Generator().manual_seed(0))
    fade = quietest(sound, sound, LENGTH)
    torch.testing.assert_close(joined_sound(sound, sound, fade), sound, rtol=0, atol=1e-6)
    frames = torch.rand(5, 3, 4, 4)
    torch.testing.assert_close(joined_frames(frames, frames), frames, rtol=0, atol=1e-6)


def test_frames_go_over_in_even_steps() -> None:
    joined = joined_frames(torch.zeros(4, 3, 1, 1), torch.ones(4, 3, 1, 1))
    torch.testing.assert_close(joined[:, 0, 0, 0], torch.tensor([0.2, 0.4, 0.6, 0.8]))


@pytest.mark.parametrize("phase", [0.5, 1.5, 2.5, 3.1])
def test_sounds_of_other_phases_keep_their_power_and_do_not_click(phase: float) -> None:
    before, after = tone(0), tone(phase)
    joined = joined_sound(before, after, slice(2000, 2000 + LENGTH))[0].numpy()
    assert np.square(np.diff(joined, 2)).max() <= 4 * np.square(np.diff(before[0].numpy(), 2)).max()
    cut = torch.cat([before[0, :2160], after[0, 2160:]]).numpy()  # what a joint without a fade does
    assert np.square(np.diff(joined, 2)).max() < np.square(np.diff(cut, 2)).max()


def test_noises_that_are_unlike_keep_their_power() -> None:
    generator = torch.Generator().manual_seed(0)
    before, after = torch.randn(2, 1, 40000, generator=generator)
    joined = joined_sound(before, after, slice(0, 40000))
    for part in joined[0].split(8000):  # of 8000 samples, power has a deviation of sqrt(2 / 8000), 1.6 %
        assert abs(float(part.square().mean()) - 1) < 0.08


def test_the_fade_lies_in_a_pause_where_there_is_one() -> None:
    sound = tone(0)
    sound[:, 1500:2000] = 0
    fade = quietest(sound, tone(1).where(sound != 0, torch.zeros(())), LENGTH)
    assert fade.start >= 1500
    assert fade.stop <= 2000


@pytest.mark.parametrize("num_samples", [1, 100, 320, 500])
def test_a_short_overlap_has_a_short_fade(num_samples: int) -> None:
    before, after = torch.rand(2, 1, num_samples)
    fade = quietest(before, after, LENGTH)
    assert 0 <= fade.start < fade.stop <= num_samples
    assert joined_sound(before, after, fade).shape == (1, num_samples)


def test_silence_is_like_nothing() -> None:
    assert alikeness(torch.zeros(1, 9), torch.zeros(1, 9)) == 0
    assert alikeness(tone(0), tone(0)) == pytest.approx(1, abs=1e-6)
    assert alikeness(tone(0), -tone(0)) == 0
