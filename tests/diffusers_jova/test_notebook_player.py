"""In a notebook an output is a player that holds the clip, unless the clip is too large to be held."""

import base64
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffusers_jova import JoVAPipelineOutput, media, notebook_player


def make_output(num_clips: int = 1, **values: Any) -> JoVAPipelineOutput:
    random = np.random.default_rng(0)
    frames = random.random((num_clips, 5, 32, 48, 3), np.float32)
    audio = random.uniform(-0.5, 0.5, (num_clips, 1, 5000)).astype(np.float32)
    records = [{"generated": True, "package": "x 1", "model": "<b>", "seed": seed} for seed in range(num_clips)]
    defaults = {"frames": frames, "audio": audio, "frame_rate": 16, "sampling_rate": 16000, "provenance": records}
    return JoVAPipelineOutput(**{**defaults, **values})


def held(html: str, kind: str) -> list[bytes]:
    return [base64.b64decode(data) for data in re.findall(rf'src="data:{kind};base64,([^"]+)"', html)]


def test_a_player_holds_the_file_that_would_be_saved(tmp_path: Path) -> None:
    output = make_output(2)
    html = output._repr_html_()
    assert html is not None
    for index, content in enumerate(held(html, "video/mp4")):
        (tmp_path / "shown.mp4").write_bytes(content)
        output.save(tmp_path / "saved.mp4", index)
        shown, saved = (media.read_video(tmp_path / f"{name}.mp4") for name in ("shown", "saved"))
        assert np.array_equal(shown.frames, saved.frames)
        assert np.array_equal(shown.audio, saved.audio)
    assert index == 1
    assert html.count('width="256"') == 2  # small clips are enlarged
    assert re.findall(r"<figcaption>(.*?)</figcaption>", html) == ["&lt;b&gt;, seed 0", "&lt;b&gt;, seed 1"]
    assert "not shown" not in html


def test_clips_beyond_the_limit_are_counted_and_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    output = make_output(3)
    (first, *_) = held(output._repr_html_() or "", "video/mp4")
    monkeypatch.setattr(notebook_player, "MAX_SHOWN_BYTES", round(1.5 * len(first)))
    html = output._repr_html_()
    assert html is not None
    assert len(held(html, "video/mp4")) == 1
    assert "2 of 3 clips not shown" in html
    assert "<code>output.save(path, index)</code>" in html


def test_sound_alone_is_heard() -> None:
    (content,) = held(make_output(frames=None)._repr_html_() or "", "audio/wav")
    assert content.startswith(b"RIFF")


def test_latents_are_left_to_the_text() -> None:
    assert make_output(frames=np.full((1, 16, 3, 4, 4), -1.5, np.float32))._repr_html_() is None
    assert make_output(audio=np.zeros((1, 60, 20), np.float32))._repr_html_() is None
    assert JoVAPipelineOutput()._repr_html_() is None


def test_sound_of_a_rate_that_no_mp4_has_is_left_to_the_text() -> None:
    assert make_output(sampling_rate=20000)._repr_html_() is None
