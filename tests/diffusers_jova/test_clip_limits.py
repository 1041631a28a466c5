import pytest
import torch

from diffusers_jova.clip_limits import BEYOND_DEFAULT, limits_of
from tests.tiny_pipeline import DEFAULTS, build_tiny_pipeline, build_wan_transformer


def test_the_limits_of_tables_are_the_largest_that_a_call_takes() -> None:
    pipeline = build_tiny_pipeline()
    limits = limits_of(pipeline)
    most = {"num_frames": limits.num_frames, "num_inference_steps": 1, "output_type": "latent"}
    with torch.no_grad():
        assert pipeline("a dog", **most).frames.shape[2] == (limits.num_frames - 1) // limits.frame_multiple + 1
        with pytest.raises(ValueError, match="rows per axis"):
            pipeline("a dog", **{**most, "num_frames": limits.num_frames + limits.frame_multiple})
        pipeline("a dog", **{**most, "num_frames": 1}, height=limits.height, width=limits.width)
        for name in ("height", "width"):
            too_much = {name: getattr(limits, name) + limits.size_multiple}
            with pytest.raises(ValueError, match="rows per axis"):
                pipeline("a dog", **{**most, "num_frames": 1}, **too_much)


def test_a_model_without_tables_has_limits_beside_its_defaults() -> None:
    limits = limits_of(build_tiny_pipeline(transformer=build_wan_transformer()))
    assert limits.height == BEYOND_DEFAULT * DEFAULTS["height"]
    assert limits.num_frames == 17  # 4k + 1, at most twice the 9 of the defaults
