"""Clips whose lips and sound are known, scored with a network of the same form that needs no training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor, nn

from diffusers_jova.evaluation.clip_list import list_clips
from diffusers_jova.evaluation.clip_signals import read_signals
from diffusers_jova.evaluation.measured import Measured
from diffusers_jova.evaluation.syncnet_scores import PROTOCOLS, embed_sound, measure_syncnet, score
from diffusers_jova.media import read_video, write_video


SAMPLING_RATE = 16000
SIZE_PX = 192
LOWEST, RANGE = 30, 190  # brightness of a mouth that is shut, and how much brighter an open one is
AMPLITUDE, GROWTH = 0.002, 4.0  # of the hiss of a shut mouth; e to the power of that louder when open
PUBLIC, VERSE_BENCH, CORRECTED = PROTOCOLS


class BrightnessAndLoudness(nn.Module):
    """Embeds pictures by their brightness, and sound by its loudness: both follow how far a mouth is open."""

    def __init__(self) -> None:
        super().__init__()
        self.shut = nn.Parameter(torch.tensor(2 * np.log(32768 * AMPLITUDE) + np.log(388)), requires_grad=False)

    def embed_lips(self, windows: Tensor) -> Tensor:
        """[B, 3, 5, 224, 224] to [B, 5]."""
        return (windows[..., 100:125, 95:130].mean((1, 3, 4)) - LOWEST) / RANGE

    def embed_sound(self, windows: Tensor) -> Tensor:
        """[B, 1, 13, 20] to [B, 5]."""
        return (windows[:, 0, 0].unflatten(1, (5, 4)).mean(-1) - self.shut) / (2 * GROWTH)


def openness(seed: int, duration_s: float) -> np.ndarray:
    """How far a mouth is open, in [0, 1], a thousand numbers a second."""
    noise = np.random.default_rng(seed).normal(size=round(duration_s * 1000))
    smooth = gaussian_filter1d(noise, 60)
    return (smooth - smooth.min()) / np.ptp(smooth)


def write_clip(
    folder: Path, *, late_s: float = 0.0, seed: int = 0, heard: int = 0, rate: int = 25, duration_s: float = 3.0
) -> Path:
    """Write a mouth, its boxes, and a sound that begins later; its own, or that of another seed."""
    levels = openness(seed, duration_s)
    times = np.arange(round(duration_s * rate)) / rate
    frames = np.full((len(times), SIZE_PX, SIZE_PX, 3), 120, np.uint8)
    shown = levels[np.rint((times + 0.02) * 1000).astype(int).clip(max=len(levels) - 1)]
    frames[:, 90:130, 65:115] = (LOWEST + RANGE * shown)[:, None, None, None]
    sounding = np.roll(openness(heard, duration_s) if heard else levels, round(late_s * 1000)).repeat(16)
    hiss = np.random.default_rng(9).normal(size=len(sounding))
    path = folder / "clip.mp4"
    write_video(path, frames, rate, (AMPLITUDE * np.exp(GROWTH * sounding) * hiss).astype(np.float32), SAMPLING_RATE)
    (folder / "clip.boxes.json").write_text(json.dumps([[[70, 100, 110, 120]] * len(times)]))
    return path


def write_seen(folder: Path, brightness: np.ndarray) -> Path:
    """The same clip with another mouth, as bright as these numbers in [0, 1]."""
    path = write_clip(folder, duration_s=4.4)
    video = read_video(path)
    frames = video.frames.copy()
    frames[:, 90:130, 65:115] = (LOWEST + RANGE * brightness[: len(frames)])[:, None, None, None]
    write_video(path, frames, 25, video.audio, video.sampling_rate)
    return path


def measured(path: Path) -> Measured:
    (clip,) = list_clips([path])
    return measure_syncnet(path, read_signals(clip.sample), BrightnessAndLoudness())  # type: ignore[arg-type]


@pytest.mark.parametrize(("rate", "late_s"), [(25, -0.2), (24, 0.2), pytest.param(30, -0.2, marks=pytest.mark.slow)])
def test_the_offset_of_a_clip_is_found_at_any_frame_rate(tmp_path: Path, rate: int, late_s: float) -> None:
    found = measured(write_clip(tmp_path, late_s=late_s, rate=rate, duration_s=4.4))
    for name in ("syncnet_offset_frames", "syncnet_offset_corrected_frames"):
        assert abs(found.values[name] + round(late_s * 25)) <= (rate != 25)  # type: ignore[operator]
    assert ("taken at 25 by time" in found.texts["syncnet_frames"]) == (rate != 25)
    assert not found.reason


def test_lips_with_the_sound_of_another_fit_less(tmp_path: Path) -> None:
    own = measured(write_clip(tmp_path, duration_s=4.4)).values
    assert own["syncnet_offset_frames"] == own["syncnet_offset_corrected_frames"] == 0
    others = measured(write_clip(tmp_path, heard=7, duration_s=4.4)).values
    for suffix in ("", "_corrected"):
        assert own[f"lse_c{suffix}"] > 2 * others[f"lse_c{suffix}"]  # type: ignore[operator]
        assert own[f"lse_d{suffix}"] < others[f"lse_d{suffix}"] / 2  # type: ignore[operator]


def test_a_still_mouth_and_a_mouth_of_noise_fit_less_than_the_one_that_speaks(tmp_path: Path) -> None:
    own = measured(write_clip(tmp_path, duration_s=4.4)).values
    still, noise = np.full(110, 0.4), np.random.default_rng(0).uniform(size=110)
    for brightness in (still, noise):
        other = measured(write_seen(tmp_path, brightness)).values
        for suffix in ("", "_corrected"):
            assert own[f"lse_c{suffix}"] > 3 * other[f"lse_c{suffix}"]  # type: ignore[operator]
            assert own[f"lse_d{suffix}"] < other[f"lse_d{suffix}"] / 2  # type: ignore[operator]


def test_a_clip_of_three_seconds_has_no_score_of_the_public_code_and_says_why(tmp_path: Path) -> None:
    found = measured(write_clip(tmp_path))
    assert "lse_c" not in found.values
    assert found.values.keys() > {"lse_c_verse_bench", "lse_d_corrected"}
    assert found.reason == "syncnet: no face of more than 100 px is found in 101 frames of 25 a second with sound"


def test_silence_no_face_and_too_short_clips_have_a_reason_and_no_numbers(tmp_path: Path) -> None:
    path = write_clip(tmp_path, duration_s=1.0)
    short = measured(path)
    assert not short.values
    assert short.reason.count("is found in") == len(PROTOCOLS)
    (tmp_path / "clip.boxes.json").write_text(json.dumps([[None] * 25]))
    assert measured(path) == Measured({}, "no face")
    write_video(path, np.zeros((25, 32, 32, 3), np.uint8), 25, np.zeros(SAMPLING_RATE, np.float32), SAMPLING_RATE)
    assert measured(path) == Measured({}, "the sound is silence")
    write_video(path, np.zeros((25, 32, 32, 3), np.uint8), 25)
    assert measured(path) == Measured({}, "no sound")


def test_a_track_whose_sound_ends_early_has_no_score_and_no_error(tmp_path: Path) -> None:
    path = write_clip(tmp_path)
    frames = np.full((75, SIZE_PX, SIZE_PX, 3), 90, np.uint8)
    write_video(path, frames, 25, 0.1 * np.ones(4000, np.float32), SAMPLING_RATE)
    assert not measured(path).values


def pair(seed: int, late: int, noise: float) -> tuple[Tensor, Tensor]:
    """Lips, and sound that comes so many windows later, less or more alike."""
    generator = torch.Generator().manual_seed(seed)
    events = torch.randn(140, 32, generator=generator)
    return events[20:110], events[20 - late : 110 - late] + noise * torch.randn(90, 32, generator=generator)


def test_the_public_codes_take_the_mean_of_faces_and_the_corrected_one_the_best() -> None:
    near, far = pair(0, 2, 0.1), pair(1, 0, 1.0)
    both, alone, other = (score(dict.fromkeys(PROTOCOLS, pairs)).values for pairs in ([near, far], [near], [far]))
    for name in ("lse_c", "lse_d", "lse_c_verse_bench", "lse_d_verse_bench"):
        assert both[name] == pytest.approx((alone[name] + other[name]) / 2)  # type: ignore[operator]
    assert both["lse_c_corrected"] == alone["lse_c_corrected"]
    assert both["syncnet_offset_corrected_frames"] == -2


def test_verse_bench_has_no_score_of_a_clip_with_an_offset_near_its_limit() -> None:
    found = score({protocol: [pair(0, 14, 0.1)] for protocol in PROTOCOLS})
    assert "lse_c_verse_bench" not in found.values
    assert found.values["syncnet_offset_frames"] == -14
    assert found.reason == "verse_bench: an offset of more than 13 frames"
    assert "lse_c_verse_bench" in score({VERSE_BENCH: [pair(0, 13, 0.1)]}).values


def test_sound_beyond_a_face_is_not_heard_and_one_window_less_than_fits_is_embedded() -> None:
    network = BrightnessAndLoudness()
    assert len(embed_sound(np.zeros(640 * 30), network)) == 25  # type: ignore[arg-type]
    assert len(embed_sound(np.zeros(640 * 5), network)) == 0  # type: ignore[arg-type]
    assert len(embed_sound(np.zeros(0), network)) == 0  # type: ignore[arg-type]
