"""CLIP tells frames that show what the caption says from others; a still picture is most like itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPModel, CLIPTokenizer

from diffusers_jova.evaluation.caption_score import Clip, measure_captions
from diffusers_jova.evaluation.clip_list import Captions
from diffusers_jova.evaluation.clip_signals import read_signals
from diffusers_jova.evaluation.evaluate import main
from diffusers_jova.evaluation.measured import Measured
from diffusers_jova.media import write_video
from diffusers_jova.training.data.manifest import read_clip
from tests.tiny_networks import save_clip, teach_texts


TEXTS = ("a red square", "green noise")


def red(draw: int) -> np.ndarray:
    """A red square that moves, [F, H, W, 3]."""
    frames = np.full((6, 48, 64, 3), 30 + draw, np.uint8)
    for number, frame in enumerate(frames):
        frame[10:34, 4 * number + draw : 4 * number + draw + 30] = (220, 20, 20)
    return frames


def green(draw: int) -> np.ndarray:
    frames = np.random.default_rng(draw).integers(0, 255, (6, 48, 64, 3), np.uint8)
    frames[..., ::2] //= 8
    return frames


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP whose texts were taught what two kinds of pictures are."""
    folder = save_clip(tmp_path_factory.mktemp("clip") / "taught")
    network, tokenizer = CLIPModel.from_pretrained(folder).eval(), CLIPTokenizer.from_pretrained(folder)
    clip = Clip(folder)
    seen = [clip.embed_frames([Image.fromarray(frame) for frame in make(0)]).mean(0) for make in (red, green)]
    tokens = tokenizer(list(TEXTS), padding=True, return_tensors="pt")
    teach_texts(network, tokens, torch.tensor(np.stack(seen)).float())
    network.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip(folder: Path) -> Clip:
    return Clip(folder)


def measured(path: Path, frames: np.ndarray, captions: Captions, clip: Clip) -> Measured:
    write_video(path, frames, 8)
    return measure_captions(path, read_signals(read_clip(path)).picture, captions, clip)


def score(path: Path, frames: np.ndarray, text: str, clip: Clip, name: str = "clip_score") -> float:
    value = measured(path, frames, Captions(seen=text), clip).values[name]
    assert value is not None
    return value


def test_frames_fit_their_own_captions_better_than_those_of_others(clip: Clip, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    for draw in (1, 2):
        assert score(path, red(draw), TEXTS[0], clip) > score(path, red(draw), TEXTS[1], clip) + 5
        assert score(path, green(draw), TEXTS[1], clip) > score(path, green(draw), TEXTS[0], clip) + 5
        assert score(path, red(draw), TEXTS[0], clip) > score(path, green(draw), TEXTS[0], clip) + 5


def test_the_score_is_a_hundred_times_the_mean_cosine_that_is_not_negative(clip: Clip, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    still = np.repeat(red(1)[:1], 6, axis=0)
    values = [score(path, still, text, clip) for text in TEXTS]
    vector, _ = clip.embed_text(TEXTS[0])
    (frame,) = clip.embed_frames([Image.fromarray(still[0])])
    assert max(values) == pytest.approx(100 * float(frame @ vector), abs=2)  # which a codec has touched
    assert min(values) == 0  # the opposite of what it shows
    assert np.linalg.norm(frame) == pytest.approx(1)
    for_both = [red(1)[0], green(1)[0], green(1)[1], green(1)[2]]
    cosines = [clip.embed_frames([Image.fromarray(picture)])[0] @ vector for picture in for_both]
    assert cosines[0] > 0 > cosines[1]
    found = score(path, np.stack(for_both), TEXTS[0], clip)
    assert found == pytest.approx(max(100 * np.mean(cosines), 0), abs=2)  # of the mean, not of each frame


def test_a_still_picture_is_most_like_itself_and_noise_least(clip: Clip, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    still, moving = np.repeat(red(1)[:1], 6, axis=0), red(1)
    cuts = np.stack([(red(1), green(1))[number % 2][number] for number in range(6)])
    likeness = [score(path, frames, TEXTS[0], clip, "clip_consistency") for frames in (still, moving, cuts)]
    assert likeness[0] > 0.9999
    assert likeness[0] > likeness[1] > likeness[2] + 0.05


def test_what_cannot_be_compared_says_why_and_what_is_not_read_is_told(clip: Clip, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    assert measure_captions(None, None, Captions("a"), clip).reason == "no picture"
    unasked = measured(path, red(1), Captions(heard="a hum"), clip)
    assert unasked.reason == "nobody wrote what should be seen"
    assert unasked.values["clip_score"] is None
    assert unasked.values["clip_consistency"] is not None
    one = measured(path, red(1)[:1], Captions(TEXTS[0]), clip)
    assert (one.values["clip_consistency"], one.reason) == (None, "one frame alone")
    assert one.values["clip_score"] is not None
    long = measured(path, red(1), Captions("red " * 20), clip)  # 60 tokens of a letter each, a beginning and an end
    assert long.texts["clip_score"].endswith("(without its last 30 tokens)")


def test_the_command_scores_clips_by_their_captions(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    for name, frames in (("red", red(1)), ("green", green(1))):
        write_video(tmp_path / "clips" / f"{name}.mp4", frames, 8)
        (tmp_path / "clips" / f"{name}.json").write_text(json.dumps({"video_caption": TEXTS[0]}))
    words = [str(tmp_path / "clips"), "--output", str(tmp_path / "report"), "--measures", "clip_score"]
    main([*words, "--clip-score", str(folder)])
    rows = {row["clip"]: row for row in json.loads((tmp_path / "report" / "report.json").read_text())["rows"]}
    assert rows["red"]["values"]["clip_score"] > rows["green"]["values"]["clip_score"] + 5
    assert rows["red"]["texts"]["clip_score"] == TEXTS[0]
