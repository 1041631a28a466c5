"""Conditions in the form that a released model was trained with: its first frame, and what reads what is given."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from diffusers_jova import JoVAPipeline
from tests.tiny_pipeline import build_tiny_pipeline, build_transformer, build_wan_transformer


RATE = 16000


def generate(pipeline: JoVAPipeline, **arguments: Any) -> tuple[Any, Any]:
    few = {"num_frames": 9, "num_inference_steps": 1, "output_type": "latent", "return_dict": False}
    generator = torch.Generator().manual_seed(0)
    return pipeline(**{"prompt": "a dog", "generator": generator, **few, **arguments})


def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)


def calls_of(pipeline: JoVAPipeline, **arguments: Any) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = []
    hook = pipeline.transformer.register_forward_pre_hook(
        lambda _, __, call: calls.append(dict(call)), with_kwargs=True
    )
    generate(pipeline, **arguments)
    hook.remove()
    return calls


def channels_of(pipeline: JoVAPipeline, **arguments: Any) -> Tensor:
    """Condition channels that the transformer is given: image and mask."""
    return calls_of(pipeline, **arguments)[0]["hidden_states"][:1, 16:]


def encoded(pipeline: JoVAPipeline, frames: Tensor) -> Tensor:
    with torch.no_grad():
        return pipeline.video_codec.encode(frames)


def signed(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image).movedim(2, 0)[None, :, None] / 127.5 - 1


def test_grey_frames_are_encoded_behind_a_first_frame_where_the_model_was_trained_so() -> None:
    pipeline = build_tiny_pipeline(fills_image_with_grey=True)
    channels = channels_of(pipeline, image=picture())
    clip = torch.cat([signed(picture()), torch.zeros(1, 3, 8, 32, 32)], dim=2)
    torch.testing.assert_close(channels[:, :16], encoded(pipeline, clip))
    assert channels[:, :16, 1:].any()
    assert bool((channels[:, 16:, 0] == 1).all())
    assert not channels[:, 16:, 1:].any()


def test_a_first_frame_alone_has_zeros_behind_it() -> None:
    pipeline = build_tiny_pipeline()
    channels = channels_of(pipeline, image=picture())
    torch.testing.assert_close(channels[:, :16, :1], encoded(pipeline, signed(picture())))
    assert not channels[:, :, 1:].any()
    assert not channels_of(pipeline).any()


def test_grey_frames_change_nothing_where_the_image_is_a_clean_latent() -> None:
    transformer = build_wan_transformer()
    plain, filled = (
        build_tiny_pipeline(transformer=transformer, fills_image_with_grey=filled) for filled in (False, True)
    )
    for one, other in zip(generate(plain, image=picture()), generate(filled, image=picture()), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("has_channels", [True, False])
def test_a_model_that_never_starts_without_a_frame_starts_on_a_white_one(has_channels: bool) -> None:
    transformer = build_transformer() if has_channels else build_transformer(in_channels=16)
    plain, white = (build_tiny_pipeline(transformer=transformer, starts_white=white) for white in (False, True))
    image = np.full((32, 32, 3), 255, dtype=np.uint8)
    expected = generate(plain, image=image)
    for one, other in zip(generate(white), expected, strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(generate(plain)[0], expected[0])
    given = generate(white, image=picture())
    assert torch.equal(given[0], generate(plain, image=picture())[0])


@pytest.mark.parametrize("num_frames", [5, 9])
def test_given_frames_bring_the_first_one_to_a_model_that_never_starts_without(num_frames: int) -> None:
    settings = {"fills_image_with_grey": True, "starts_white": True}
    channels = channels_of(build_tiny_pipeline(**settings), video=[picture()] * num_frames)
    assert torch.equal(channels, channels_of(build_tiny_pipeline(**settings), image=picture()))
    assert not channels_of(build_tiny_pipeline(), video=[picture()] * num_frames).any()


def test_what_is_given_as_a_whole_reads_nothing_where_the_model_was_trained_so() -> None:
    num_samples = RATE * 9 // 16
    sound = (0.3 * np.sin(np.arange(num_samples) / 20)).astype(np.float32)
    tasks: dict[str, dict[str, Any]] = {
        "nothing": {},
        "sound": {"audio": sound, "audio_sampling_rate": RATE},
        "half a sound": {"audio": sound[: num_samples // 2], "audio_sampling_rate": RATE},
        "video": {"video": [picture()] * 9},
        "half a video": {"video": [picture()] * 5},
        "image": {"image": picture()},
    }
    one_way = {"sound": "a2v", "video": "v2a"}
    for is_one_way in (False, True):
        pipeline = build_tiny_pipeline(one_way_coupling=is_one_way)
        for task, given in tasks.items():
            calls = calls_of(pipeline, coupling_scale=2.0, **given)
            expected = one_way.get(task, True) if is_one_way else True
            assert {str(coupled) for call in calls for coupled in call["coupled"]} == {str(expected), "False"}, task


def test_given_sound_that_reads_nothing_still_drives_the_video() -> None:
    pipeline = build_tiny_pipeline(one_way_coupling=True)
    sound = (0.3 * np.sin(np.arange(RATE * 9 // 16) / 20)).astype(np.float32)
    one, other = (generate(pipeline, audio=each, audio_sampling_rate=RATE)[0] for each in (sound, sound[::-1].copy()))
    assert not torch.equal(one, other)
