"""A model whose condition channels show grey frames, as MOVA's: trained on pictures as it is called with them."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from diffusers_jova import JoVAPipeline
from diffusers_jova.media import read_video
from diffusers_jova.training.data.encoder import draw_given
from diffusers_jova.training.loop.trainer import Trainer
from diffusers_jova.training.prepare import main as prepare
from tests.prepared_clips import write_clips
from tests.tiny_pipeline import build_dual_tower, build_tiny_pipeline
from tests.tiny_training import tiny_config


NAMES = ("a", "b", "c", "d", "e", "f")
OPTIONS = ["--buckets", "9x32x32", "--no-mouth", "--dtype", "fp32"]
SETTINGS = {"keyframe_probability": 1.0, "mouth_weight": 0, "caption_dropout": 0.0, "batch_size": 1}


def build(starts_white: bool) -> JoVAPipeline:
    transformer = build_dual_tower("bridge", in_channels=36, boundary=0.5)
    return build_tiny_pipeline(transformer=transformer, fills_image_with_grey=True, starts_white=starts_white)


@pytest.fixture(scope="module", params=[True, False], ids=["starts white", "starts anyhow"])
def prepared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips beside the pipeline that has prepared them, which always begins with an image or not."""
    folder = tmp_path_factory.mktemp("grey")
    build(request.param).save_pretrained(folder / "model")
    write_clips(folder / "source", NAMES, num_frames=9)
    prepare([str(folder / "source"), str(folder / "clips"), "--model", str(folder / "model"), "--keyframes", *OPTIONS])
    return folder / "clips"


def called_with(pipe: JoVAPipeline, **pictures: Any) -> Tensor:
    """Condition channels [1, C, F, h, w] of a call."""
    calls: list[Tensor] = []
    hook = pipe.transformer.register_forward_pre_hook(
        lambda _, __, call: calls.append(call["hidden_states"]), with_kwargs=True
    )
    pipe("x", num_frames=9, num_inference_steps=1, output_type="latent", modalities=["video"], **pictures)
    hook.remove()
    return calls[0][:1, 16:]


def test_the_model_of_a_run_is_shown_what_the_model_of_a_call_with_pictures_is_shown(
    prepared: Path, tmp_path: Path
) -> None:
    pipe = JoVAPipeline.from_pretrained(prepared.parent / "model")
    pipe.set_progress_bar_config(disable=True)
    run = {"data": str(prepared), "model": str(prepared.parent / "model"), "image_probability": 1.0}
    trainer = Trainer(tiny_config(tmp_path, **SETTINGS | run))
    for index, header in enumerate(trainer.dataset.headers):
        frames = read_video(prepared.parent / "source" / f"{header.path.name[0]}.mp4").frames
        is_given = load_file(header.path)["keyframe_frames"]
        given = {frame: frames[frame] for frame in is_given.nonzero().flatten().tolist()}
        assert len(is_given) == 9
        assert {*given} - {0}
        first = given.pop(0, None)
        assert first is not None or not pipe.config.starts_white
        seen = trainer.conditioning(trainer.dataset.batch([index]), seed=0).arguments["hidden_states"][:, 16:]
        torch.testing.assert_close(seen, called_with(pipe, image=first, keyframes=given), rtol=1e-4, atol=1e-4)
    trainer.train()


def test_a_run_without_keyframes_is_shown_first_frames_as_before(prepared: Path, tmp_path: Path) -> None:
    run = {"data": str(prepared), "model": str(prepared.parent / "model"), "image_probability": 1.0}
    trainer = Trainer(tiny_config(tmp_path, **SETTINGS | run | {"keyframe_probability": 0.0}))
    seen = trainer.conditioning(trainer.dataset.batch([0]), seed=0).arguments["hidden_states"][:, 16:]
    pipe = JoVAPipeline.from_pretrained(prepared.parent / "model")
    pipe.set_progress_bar_config(disable=True)
    first = read_video(prepared.parent / "source" / "a.mp4").frames[0]
    torch.testing.assert_close(seen, called_with(pipe, image=first), rtol=1e-4, atol=1e-4)


def test_the_same_clips_are_given_the_same_frames(prepared: Path, tmp_path: Path) -> None:
    source, model = prepared.parent / "source", prepared.parent / "model"
    prepare([str(source), str(tmp_path / "again"), "--model", str(model), "--keyframes", *OPTIONS])
    for path in prepared.glob("*.safetensors"):
        one, other = (load_file(folder / path.name)["keyframe_frames"] for folder in (prepared, tmp_path / "again"))
        assert torch.equal(one, other)


@pytest.mark.parametrize("begins_without", [True, False])
def test_given_frames_are_the_last_any_or_both_in_equal_parts(begins_without: bool) -> None:
    draws = [draw_given(9, begins_without, seed) for seed in range(3000)]
    behind = Counter(tuple(frame for frame in draw if frame) for draw in draws)
    shares = {(8,): 1 / 3 + 2 / 24, **{(frame,): 1 / 24 for frame in range(1, 8)}}
    shares |= {(frame, 8): 1 / 24 for frame in range(1, 8)}
    assert behind.keys() == shares.keys()
    for kind, share in shares.items():
        assert abs(behind[kind] / 3000 - share) < 4 * (share * (1 - share) / 3000) ** 0.5
    with_first = sum(0 in draw for draw in draws) / 3000
    assert with_first == 1 if not begins_without else abs(with_first - 0.5) < 4 * (0.25 / 3000) ** 0.5


def test_single_pictures_are_no_pictures_among_grey_frames(prepared: Path, tmp_path: Path) -> None:
    build(starts_white=True).save_pretrained(tmp_path / "model")
    index = tmp_path / "model" / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"fills_image_with_grey": False}))
    run = {"data": str(prepared), "model": str(tmp_path / "model"), "image_probability": 1.0}
    with pytest.raises(ValueError, match="`image_latents` must have 1 latent frames for this `model`"):
        Trainer(tiny_config(tmp_path, **SETTINGS | run))
