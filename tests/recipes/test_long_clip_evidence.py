import importlib.util
from pathlib import Path

import numpy as np
import pytest

from diffusers_jova.drawn.avatars import make_clip
from diffusers_jova.recipes.long_clip_evidence import GOALS, Goal, click, colour_drift, main, table
from jova_cli.json_text import read_object


RATE = 16000


def test_a_cut_clicks_and_a_fade_in_a_pause_does_not() -> None:
    times = np.arange(RATE) / RATE
    sound = (np.sin(2 * np.pi * 220 * times) * (np.abs(times - 0.5) > 0.02)).astype(np.float32)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.clip((np.abs(times - 0.5) - 0.02) / 0.1, 0, 0.5))
    smooth = (sound * window).astype(np.float32)
    fade = [slice(RATE // 2 - 160, RATE // 2 + 160)]
    assert click(smooth, fade, RATE) < 0.01
    cut = smooth.copy()
    cut[RATE // 2 :] += 0.3
    assert click(cut, fade, RATE) > 1


def test_only_a_change_of_colours_counts_as_drift() -> None:
    frames = make_clip(0, subject="speaker", num_frames=64).frames
    parts = ("background", "skin", "shirt")
    same = colour_drift([frames[:32], frames[32:]], parts)
    assert all(max(values) < 1 for values in same.values())
    lighter = np.clip(frames[32:].astype(int) + 5, 0, 255).astype(np.uint8)
    drifted = colour_drift([frames[:32], lighter], parts)
    assert all(values[0] == 0 for values in drifted.values())
    assert drifted["skin"][1] > 3


def test_a_missed_goal_is_told() -> None:
    report: dict[str, object] = {goal.measure: 1.0 for goal in GOALS}
    assert "**no**" not in table([report])
    lines = table([report, {**report, "colour_drift": 2.5}]).splitlines()
    assert [line for line in lines if "**no**" in line] == [line for line in lines if "1, 2.5" in line] != []
    assert Goal("x", "x", least=1.0).is_met(1.0)
    assert not Goal("x", "x", most=1.0).is_met(1.1)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("espeakng_loader") is None, reason="needs the extra `espeak`")
def test_half_a_minute_of_jova_tiny_reaches_the_goals(tmp_path: Path) -> None:
    words = ["--clips", "1", "--tries", "8", "--work", str(tmp_path), "--output", str(tmp_path / "report.json")]
    assert main(words) == 0
    (clip,) = read_object(tmp_path / "report.json")["clips"]
    assert len(clip["sync_offsets"]) == 20
    assert clip["identity_kept"] == 1
