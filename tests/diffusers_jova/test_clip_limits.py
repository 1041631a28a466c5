"""A clip that the model has no positions for is refused before any work, by the longest one and by what to do."""

import inspect
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import AutoencoderKLLTX2Audio, AutoencoderKLWan

from diffusers_jova import (
    JoVAAutoencoderKLDAC,
    JoVALogMel,
    JoVAPipeline,
    JoVATransformer3DModel,
    JoVAWanTransformer3DModel,
)
from diffusers_jova.audio_codec import JoVAAudioCodec
from diffusers_jova.training.data.encoder import video_factors
from jova_cli.clip_limits import ClipLimits, clip_limits
from jova_cli.model_clips import MEL_FRAMES_PER_LATENT, PATCH_SIZE, VAE_FACTORS, describe_clips, latent_rate_hz
from tests.tiny_pipeline import build_tiny_pipeline, build_transformer, build_wan_transformer


RATE = 16000
LONGEST = "3.81 s, 61 frames at 16 per second, the longest clip of this model"


@pytest.fixture(scope="module")
def pipeline() -> JoVAPipeline:
    return build_tiny_pipeline()


def sound(seconds: float) -> dict[str, Any]:
    return {"audio": np.zeros(round(seconds * RATE), np.float32), "audio_sampling_rate": RATE}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_frames": 400_001}, rf"`num_frames` must be at most 61 \({LONGEST}\), got 400001; use 61"),
        (sound(60), rf"`audio` must last at most {LONGEST}, got 60.00 s; cut it, by `duration_s=3.81`"),
        (sound(60) | {"num_frames": 17}, rf"`audio` must last at most {LONGEST}, got 60.00 s; cut it, by"),
        (
            {"video": np.zeros((200, 32, 32, 3), np.uint8)},
            rf"`video` must last at most {LONGEST}, got 200 frames; set `num_frames=61`",
        ),
        ({"height": 272}, "`height` must be at most 256 for this model, got 272; use 256"),
        ({"modalities": ["audio"], "num_frames": 81}, r"`num_frames` must be at most 65 \(4.06 s"),
    ],
)
def test_what_is_too_long_or_too_large_is_refused_with_the_longest_clip(
    arguments: dict[str, Any], message: str, pipeline: JoVAPipeline
) -> None:
    with pytest.raises(ValueError, match=message):
        pipeline("a", num_inference_steps=1, **arguments)


@pytest.mark.parametrize("arguments", [sound(3.81), {"num_frames": 61}, {"modalities": ["audio"], "num_frames": 65}])
def test_the_longest_clip_is_made(arguments: dict[str, Any], pipeline: JoVAPipeline) -> None:
    made: Any = pipeline("a", num_inference_steps=1, guidance_scale=1.0, output_type="latent", **arguments)
    assert made.frames is None or made.frames.shape[2] == 16


def test_positions_that_are_computed_have_no_end() -> None:
    assert clip_limits(build_wan_transformer().config, 4, 8) is None


def test_sound_can_be_what_limits_a_clip() -> None:
    limits = ClipLimits(num_frames=61, height=1, width=1, num_audio_latents=31)
    assert limits.longest(16.0, 31.25, 4) == 13  # 1.008 s at most
    assert limits.longest(16.0, None, 4) == 61


def test_info_names_the_longest_clip(tiny_pipeline_folder: Any) -> None:
    own, longest = describe_clips(tiny_pipeline_folder).splitlines()
    assert own == "makes 9 frames of 32x32 pixels at 16 per second, 0.56 s, unless told otherwise"
    assert longest == "longest clip: 3.81 s, 61 frames at 16 per second; sizes up to 256x256 pixels"


def test_the_rate_of_audio_latents_is_read_from_a_config_as_the_codec_has_it(tiny_pipeline_folder: Any) -> None:
    pipeline = JoVAPipeline.from_pretrained(tiny_pipeline_folder)
    codec = JoVAAudioCodec(pipeline.audio_vae, pipeline.vocoder)
    assert latent_rate_hz(tiny_pipeline_folder) == codec.latent_rate_hz
    ltx2 = AutoencoderKLLTX2Audio(
        base_channels=16, ch_mult=(1, 2, 2), num_res_blocks=1, latent_channels=4, mel_bins=16
    )
    assert MEL_FRAMES_PER_LATENT[type(ltx2).__name__] == ltx2.temporal_compression_ratio


def test_fields_that_older_configs_leave_out_are_what_their_classes_take(
    tiny_pipeline_folder: Path, tmp_path: Path
) -> None:
    signature = inspect.signature(AutoencoderKLWan.__init__).parameters
    assert {name: signature[name].default for name in VAE_FACTORS} == VAE_FACTORS
    for cls in (JoVATransformer3DModel, JoVAWanTransformer3DModel):
        assert inspect.signature(cls.__init__).parameters["patch_size"].default == PATCH_SIZE
    folder = tmp_path / "older"
    shutil.copytree(tiny_pipeline_folder, folder)
    for name, fields in (("vae", VAE_FACTORS), ("transformer", ["patch_size"])):
        config = json.loads((folder / name / "config.json").read_text())
        kept = {field: value for field, value in config.items() if field not in fields}
        (folder / name / "config.json").write_text(json.dumps(kept))
    assert describe_clips(folder) == describe_clips(tiny_pipeline_folder)
    assert video_factors(folder) == video_factors(tiny_pipeline_folder)


def test_the_rate_of_sound_without_a_vocoder_or_a_vae_is_read_from_its_config(tmp_path: Path) -> None:
    dac = JoVAAutoencoderKLDAC(encoder_dim=2, encoder_rates=(2, 3), decoder_dim=4, decoder_rates=(3, 2))
    for name, module, rate_hz in (("dac", dac, 8000.0), ("mel", JoVALogMel(), 100.0)):
        module.save_pretrained(tmp_path / name / "audio_vae")
        assert latent_rate_hz(tmp_path / name) == rate_hz


@pytest.mark.parametrize(("num_latents", "longest"), [(14, 1), (15, 5), (16, 5), (26, 5), (27, 9)])
def test_the_longest_clip_has_no_more_latents_than_positions_by_the_rule_of_its_codec(
    num_latents: int, longest: int
) -> None:
    """At 16 frames and 48 latents per second a frame is 3 latents; 5 frames begin 15 and 9 begin 27."""
    dac = JoVAAutoencoderKLDAC(
        encoder_dim=2, encoder_rates=(2, 5), decoder_dim=4, decoder_rates=(5, 2), latent_dim=4, sample_rate=480
    )
    transformer = build_transformer(audio_position_table_size=num_latents)
    pipeline = build_tiny_pipeline(transformer=transformer, audio_vae=dac, vocoder=None)
    limits = pipeline.clip_limits(("video", "audio"), 16.0)
    assert limits is not None
    assert limits.num_frames == longest
    assert pipeline.audio_codec.num_latents_for(longest / 16) <= num_latents
