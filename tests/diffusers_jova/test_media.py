"""What is written is read again: every frame, every sample, every rate."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from diffusers.utils import encode_video

from diffusers_jova import media
from tests.made_clips import SAMPLING_RATE, clicks, lag_samples, moving_square, psnr_db


NTSC_FILM = Fraction(24000, 1001)
RATES = (16, 23.976, 24, 25, 30)


@pytest.mark.parametrize("frame_rate", RATES)
@pytest.mark.parametrize("num_frames", [5, 17, 33, 49, 81])
def test_every_frame_and_every_sample_survives_a_round_trip(
    tmp_path: Path, num_frames: int, frame_rate: float
) -> None:
    rate = media.exact_frame_rate(frame_rate)
    num_channels = 1 + num_frames % 3 % 2
    frames = moving_square(num_frames)
    sound = clicks(int(num_frames / rate * SAMPLING_RATE), num_channels)
    media.write_video(tmp_path / "clip.mp4", frames, frame_rate, sound, SAMPLING_RATE)
    video = media.read_video(tmp_path / "clip.mp4")
    assert video.frame_rate == rate
    assert video.sampling_rate == SAMPLING_RATE
    assert video.frames.shape == frames.shape
    # The nearest original of each decoded frame is its own.
    small, small_reference = video.frames[:, ::4, ::4].astype(float), frames[:, ::4, ::4].astype(float)
    distances = ((small[:, None] - small_reference[None]) ** 2).mean((2, 3, 4))
    assert (distances.argmin(1) == np.arange(num_frames)).all()
    assert video.audio is not None
    assert video.audio.shape == sound.shape
    assert [lag_samples(*pair) for pair in zip(video.audio, sound, strict=True)] == [0] * num_channels


@pytest.mark.parametrize("sampling_rate", [16000, 22050, 44100, 48000])
def test_stereo_keeps_its_sides_and_its_length_at_every_sampling_rate(tmp_path: Path, sampling_rate: int) -> None:
    sound = clicks(sampling_rate + 17, 2)
    media.write_video(tmp_path / "clip.mp4", moving_square(25), 23.976, sound, sampling_rate)
    decoded, rate = media.read_audio(tmp_path / "clip.mp4")
    assert rate == sampling_rate
    assert decoded.shape == sound.shape
    correlations = np.corrcoef(np.concatenate([decoded, sound]))
    assert correlations[0, 2] > 0.9 > 0.3 > correlations[0, 3]
    assert correlations[1, 3] > 0.9 > 0.3 > correlations[1, 2]


def test_colours_come_back_as_they_were(tmp_path: Path) -> None:
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [200, 120, 60]], np.uint8)
    frames = np.broadcast_to(np.repeat(colours, 16, axis=0)[None, :, None], (5, 64, 64, 3))
    media.write_video(tmp_path / "clip.mp4", frames, 24)
    centres = media.read_video(tmp_path / "clip.mp4").frames[:, 8::16, 32]
    assert np.abs(centres.astype(int) - colours).max() <= 4


def test_we_agree_with_diffusers_where_both_work(tmp_path: Path) -> None:
    frames, sound = moving_square(49), clicks(int(49 / 24 * SAMPLING_RATE), 2)
    media.write_video(tmp_path / "ours.mp4", frames, 24, sound, SAMPLING_RATE)
    encode_video(
        torch.from_numpy(frames),
        fps=24,
        output_path=str(tmp_path / "theirs.mp4"),
        audio=torch.from_numpy(sound),
        audio_sample_rate=SAMPLING_RATE,
    )
    ours, theirs = (media.read_video(tmp_path / name) for name in ("ours.mp4", "theirs.mp4"))
    assert ours.frames.shape == theirs.frames.shape
    assert ours.frame_rate == theirs.frame_rate
    assert psnr_db(ours.frames, theirs.frames) > 30
    assert ours.audio is not None
    assert theirs.audio is not None
    assert lag_samples(ours.audio[0], theirs.audio[0]) == 0
    assert ours.sampling_rate == theirs.sampling_rate


def test_all_kinds_of_frames_mean_the_same_pixels() -> None:
    frames = moving_square(5)
    kinds = {
        "pil": [PIL.Image.fromarray(frame) for frame in frames],
        "np": frames.astype(np.float64) / 255,
        "pt": torch.from_numpy(frames).movedim(-1, 1).float() / 255,
        "last": torch.from_numpy(frames),
    }
    for name, kind in kinds.items():
        np.testing.assert_array_equal(media.to_uint8_frames(kind), frames, err_msg=name)


def test_a_frame_rate_may_be_a_fraction_wherever_one_is_given(tmp_path: Path) -> None:
    media.write_video(tmp_path / "a.mp4", moving_square(30), Fraction(30000, 1001))
    stored = media.read_video(tmp_path / "a.mp4")
    assert stored.frame_rate == Fraction(30000, 1001)
    video = media.read_video(tmp_path / "a.mp4", frame_rate=NTSC_FILM)
    assert video.frame_rate == NTSC_FILM
    assert np.array_equal(video.frames, media.read_video(tmp_path / "a.mp4", frame_rate=23.976).frames)
    assert np.array_equal(video.frames[::4], stored.frames[::5][: len(video.frames[::4])])  # 24 of 30 is 4 of 5


def test_wav_files_keep_every_sample_to_16_bits(tmp_path: Path) -> None:
    sound = clicks(5000, 2).clip(-0.99, 0.99)
    media.write_audio(tmp_path / "sound.wav", torch.from_numpy(sound), 44100)
    decoded, rate = media.read_audio(tmp_path / "sound.wav")
    assert rate == 44100
    np.testing.assert_allclose(decoded, sound, rtol=0, atol=0.51 / 32768)


def test_decimal_frame_rates_mean_the_exact_fractions() -> None:
    assert [media.exact_frame_rate(rate) for rate in (23.976, 23.98, 29.97, 59.94, 24, 24.0, 12.5)] == [
        NTSC_FILM, NTSC_FILM, Fraction(30000, 1001), Fraction(60000, 1001), 24, 24, Fraction(25, 2)
    ]  # fmt: skip


def test_a_sound_that_was_read_knows_its_rate(tmp_path: Path) -> None:
    sound = media.Sound(np.sin(np.arange(4410) / 9).astype(np.float32)[None], 44100)
    media.write_audio(tmp_path / "a.wav", sound)
    media.write_audio(tmp_path / "b.wav", *sound)
    assert media.read_audio(tmp_path / "a.wav").sampling_rate == 44100
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()
    with pytest.raises(ValueError, match="must be that of the sound, 44100, got 16000; leave it out"):
        media.write_audio(tmp_path / "c.wav", sound, 16000)
    with pytest.raises(ValueError, match="`sampling_rate` must be given with samples alone, got none"):
        media.write_audio(tmp_path / "c.wav", sound.audio)
    assert not (tmp_path / "c.wav").exists()


def test_wrong_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`frame_rate` must be a positive number"):
        media.write_video(tmp_path / "clip.mp4", moving_square(5), 0)
    with pytest.raises(ValueError, match="`crf` must be from 0 to 51, got 60"):
        media.write_video(tmp_path / "clip.mp4", moving_square(5), 24, crf=60)
    with pytest.raises(ValueError, match=r"`path` must end in \.mp4"):
        media.write_video(tmp_path / "clip.avi", moving_square(5), 24)
    with pytest.raises(ValueError, match="`sampling_rate` must be a positive whole number"):
        media.write_audio(tmp_path / "sound.wav", clicks(100), 16000.5)
    with pytest.raises(ValueError, match="`target_rate` must be a positive whole number"):
        media.resample(np.zeros((1, 9)), 16000, 0)


def test_a_video_is_written_whole_as_it_was_read(tmp_path: Path) -> None:
    sound = np.sin(np.arange(8000) / 5)[None].astype(np.float32) / 2
    media.write_video(tmp_path / "first.mp4", moving_square(12), 24, sound, 16000)
    first = media.read_video(tmp_path / "first.mp4")
    media.write_video(tmp_path / "second.mp4", first)
    second = media.read_video(tmp_path / "second.mp4")
    assert (second.frame_rate, second.sampling_rate) == (24, 16000)
    assert second.frames.shape == first.frames.shape
    assert second.audio is not None
    media.write_video(tmp_path / "third.mp4", first, 12)  # what is given counts
    assert media.read_video(tmp_path / "third.mp4").frame_rate == 12
    with pytest.raises(ValueError, match="`frame_rate` must be given with frames alone, got none"):
        media.write_video(tmp_path / "fourth.mp4", first.frames)
