from typing import Any

import pytest
import torch
from torch import Tensor

from diffusers_jova.temporal_rope import (
    JoVARotaryPosEmbed,
    apply_rotary_emb,
    audio_positions,
    text_positions,
    video_positions,
)


CPU = torch.device("cpu")
POSITION_TOLERANCE = 1e-4  # video latents: 25 microseconds at 16 fps, a few float32 roundings


def audio_at(num: int, frame_rate: float, rate_hz: float, alignment: float | str = "time", factor: int = 4) -> Tensor:
    return audio_positions(num, alignment, frame_rate, rate_hz, factor, CPU)


def rope() -> JoVARotaryPosEmbed:
    return JoVARotaryPosEmbed((44, 42, 42), theta=10000.0)


def phases(positions: Tensor) -> Tensor:
    return torch.stack(rope()(positions))


def video_mid_time_s(index: float, frame_rate: float) -> float:
    """Latent 0 shows frame 0, latent i the frames 4i-3 .. 4i; a frame is on screen for 1 / frame_rate."""
    return 0.5 / frame_rate if index == 0 else (4 * index - 1) / frame_rate


@pytest.mark.parametrize("rate_hz", [31.25, 44100 / 1024, 25.0])
@pytest.mark.parametrize("frame_rate", [16.0, 24.0])
def test_tokens_at_the_same_second_share_their_rotary_phase(frame_rate: float, rate_hz: float) -> None:
    video = phases(video_positions(40, 1, 1, CPU))
    positions = audio_at(round(7 * rate_hz), frame_rate, rate_hz)[:, 0]
    times_s = (torch.arange(len(positions)) + 0.5) / rate_hz
    for index in range(2, 40):
        # between the audio latents around it, the clock is linear: read it at the middle of the video latent
        j = int((times_s < video_mid_time_s(index, frame_rate)).sum())
        if j == len(positions):
            break
        weight = (video_mid_time_s(index, frame_rate) - times_s[j - 1]) * rate_hz
        position = torch.lerp(positions[j - 1], positions[j], weight)
        audio = phases(torch.stack([position, torch.zeros(()), torch.zeros(())])[None])
        torch.testing.assert_close(audio[:, 0], video[:, index], atol=2e-4, rtol=0)
    assert index > 25, "the clip is long enough to see a drift"


@pytest.mark.parametrize("frame_rate", [16.0, 24.0, 23.976])
def test_audio_in_the_middle_of_a_video_latent_has_its_position(frame_rate: float) -> None:
    for index in range(20):
        # an audio rate whose latent 0 has its middle at the wanted time
        rate_hz = 0.5 / video_mid_time_s(index, frame_rate)
        position = audio_at(1, frame_rate, rate_hz)[0, 0].item()
        assert position == pytest.approx(index, abs=POSITION_TOLERANCE)


@pytest.mark.parametrize("rate_hz", [31.25, 44100 / 1024, 25.0])
@pytest.mark.parametrize("frame_rate", [16.0, 24.0])
def test_time_between_two_video_latents_is_linear_and_goes_on_beyond_both_ends(
    frame_rate: float, rate_hz: float
) -> None:
    num_latents = round(10 * rate_hz)
    positions = audio_at(num_latents, frame_rate, rate_hz)[:, 0].double()
    times_s = (torch.arange(num_latents, dtype=torch.float64) + 0.5) / rate_hz
    knots = [video_mid_time_s(index, frame_rate) for index in range(30)]  # the sound lasts longer
    for time_s, position in zip(times_s.tolist(), positions.tolist(), strict=True):
        index = min(max(0, sum(knot <= time_s for knot in knots) - 1), 28)  # the outer segments go on
        left, right = knots[index], knots[index + 1]
        assert position == pytest.approx(index + (time_s - left) / (right - left), abs=POSITION_TOLERANCE)


def test_sound_before_the_middle_of_the_first_frame_lies_before_latent_zero() -> None:
    position = audio_at(1, 16.0, 31.25)[0, 0].item()  # middle at 16 ms, the first frame's at 31.25 ms
    assert position == pytest.approx((16.0 / 31.25 * 0.5 - 0.5) / 2.5, abs=POSITION_TOLERANCE)
    assert position < 0


def test_twice_the_speed_of_both_clocks_changes_no_position() -> None:
    torch.testing.assert_close(audio_at(64, 16.0, 31.25), audio_at(64, 32.0, 62.5))


def test_a_number_is_a_fixed_factor_and_none_counts_audio_latents() -> None:
    torch.testing.assert_close(audio_at(5, 16.0, 31.25, 0.24)[:, 0], 0.24 * torch.arange(5.0))
    torch.testing.assert_close(audio_at(5, 16.0, 31.25, "none")[:, 0], torch.arange(5.0))


def test_a_zero_position_is_no_rotation_so_text_is_left_alone() -> None:
    query = torch.randn(2, 3, 4, 128)
    assert torch.equal(apply_rotary_emb(query, rope()(text_positions(3, CPU))), query)


def test_audio_rotates_only_the_temporal_channels() -> None:
    torch.manual_seed(0)
    query = torch.randn(1, 7, 2, 128)
    rotated = apply_rotary_emb(query, rope()(audio_at(7, 16.0, 31.25)))
    assert torch.equal(rotated[..., 44:], query[..., 44:])
    assert not torch.isclose(rotated[..., :44], query[..., :44]).any(dim=(0, 2, 3)).all()


def test_rotation_keeps_lengths_and_reads_only_differences_of_positions() -> None:
    query, key = torch.randn(2, 1, 1, 1, 128).unbind(0)
    here, there = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[4.5, 1.0, 7.0]])
    shift = torch.tensor([[2.25, 5.0, -3.0]])

    def score(a: Tensor, b: Tensor) -> Tensor:
        return (apply_rotary_emb(query, rope()(a)) * apply_rotary_emb(key, rope()(b))).sum()

    torch.testing.assert_close(apply_rotary_emb(query, rope()(here)).norm(), query.norm())
    torch.testing.assert_close(score(here, there), score(here + shift, there + shift), atol=1e-4, rtol=1e-4)
    assert not torch.isclose(score(here, there), score(here + shift, there), atol=1e-2)


def test_video_positions_run_through_width_first_and_frames_last() -> None:
    positions = video_positions(2, 2, 3, CPU).tolist()
    assert positions[:4] == [[0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 1, 0]]
    assert positions[6] == [1, 0, 0]


def test_rotary_angles_do_not_lose_precision_when_the_model_is_cast() -> None:
    positions = video_positions(50, 1, 1, CPU)
    before = rope()(positions)
    after = rope().to(torch.bfloat16)(positions)
    assert torch.equal(before[0], after[0])
    assert after[0].dtype == torch.float32


def test_odd_axes_are_refused() -> None:
    with pytest.raises(ValueError, match="`rope_axes_dim` must be even numbers, got \\[3, 4, 5\\]"):
        JoVARotaryPosEmbed((3, 4, 5), 10000.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3, 16.0, 31.25, "tim"), "`temporal_alignment` must be 'time', 'none' or a number, got 'tim'"),
        ((3, 16.0, 31.25, 0.0), "`temporal_alignment` must be positive, got 0.0; 'time' is exact"),
        ((3, 16.0, 31.25, -1.0), "`temporal_alignment` must be positive, got -1.0"),
        ((3, 0.0, 31.25), "`frame_rate` must be positive and finite, in Hz, got 0.0"),
        ((3, torch.tensor([16.0, 16.0]), 31.25), "`frame_rate` must be positive and finite, in Hz, got tensor"),
        ((3, 16.0, float("nan")), "`audio_latent_rate_hz` must be positive and finite, in Hz, got nan"),
        ((-2, 16.0, 31.25), "`num_audio_latents` must be at least 0, got -2"),
    ],
)
def test_positions_without_a_clock_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        audio_at(*arguments)
