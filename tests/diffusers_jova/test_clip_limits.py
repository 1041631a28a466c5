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
from jova_cli.clip_limits import ClipLimits, GivenLengths, check_length, clip_limits
from jova_cli.latent_lengths import AudioClock
from jova_cli.model_clips import (
    MEL_FRAMES_PER_LATENT,
    PATCH_SIZE,
    VAE_FACTORS,
    audio_clock,
    describe_clips,
    describe_steps,
    read_geometry,
)
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
        (
            {"video": np.zeros((75, 32, 32, 3), np.uint8), "frame_rate": 30, "num_frames": 89} | sound(2.5),
            r"`audio` must last at most 2.03 s, .* or by `--duration 2.03`, or read the video by "
            r"`media.read_video\(path, frame_rate=16\)`$",
        ),
        (
            {"video": np.zeros((75, 32, 32, 3), np.uint8), "frame_rate": 30},
            r"got 75 frames; .* its beginning, or read the video by `media.read_video\(path, frame_rate=16\)`$",
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


def test_a_size_that_nobody_gave_is_told_to_be_a_default(pipeline: JoVAPipeline) -> None:
    message = "`height` must be at most 256 for this model, got 480 by the `defaults` of the pipeline; use 256"
    with pytest.raises(ValueError, match=message):
        JoVAPipeline(**pipeline.components)("a", num_frames=5)


def test_a_video_that_is_refused_is_not_said_to_be_cut(
    pipeline: JoVAPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ValueError, match="`video` must last at most"):
        pipeline("a", video=np.zeros((75, 32, 32, 3), np.uint8), frame_rate=30)
    assert not caplog.records


def test_frames_without_their_rate_are_told_at_which_they_are_taken(
    pipeline: JoVAPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    options: dict[str, Any] = {"num_inference_steps": 1, "output_type": "latent"}
    pipeline("a", video=np.zeros((6, 32, 32, 3), np.uint8), **options)
    rate, cut = (record.message for record in caplog.records)
    assert rate.startswith(
        "`video` is taken at 16 frames per second, as this model makes clips; give its `frame_rate`"
    )
    assert cut == "`video` of 6 frames at 16 per second is cut to its first 5: latents hold 4k + 1"
    caplog.clear()
    pipeline("a", video=np.zeros((5, 32, 32, 3), np.uint8), frame_rate=16, **options)
    assert not caplog.records


@pytest.mark.parametrize("arguments", [sound(3.81), {"num_frames": 61}, {"modalities": ["audio"], "num_frames": 65}])
def test_the_longest_clip_is_made(arguments: dict[str, Any], pipeline: JoVAPipeline) -> None:
    made: Any = pipeline("a", num_inference_steps=1, guidance_scale=1.0, output_type="latent", **arguments)
    assert made.frames is None or made.frames.shape[2] == 16


def test_positions_that_are_computed_have_no_end() -> None:
    assert clip_limits(build_wan_transformer().config, 4, 8) is None


def test_sound_can_be_what_limits_a_clip() -> None:
    limits = ClipLimits(num_frames=61, height=1, width=1, num_audio_latents=31)
    assert limits.longest(16.0, AudioClock(16000, 512), 4) == 13  # 1.008 s at most
    assert limits.longest(16.0, None, 4) == 61


def test_info_names_the_longest_clip(tiny_pipeline_folder: Any) -> None:
    own, longest = describe_clips(tiny_pipeline_folder).splitlines()
    assert own == "makes 9 frames of 32x32 pixels at 16 per second, 0.56 s, unless told otherwise"
    assert longest == "longest clip: 3.81 s, 61 frames at 16 per second; sizes up to 256x256 pixels, made for 32x32"


def test_the_rate_of_audio_latents_is_read_from_a_config_as_the_codec_has_it(tiny_pipeline_folder: Any) -> None:
    pipeline = JoVAPipeline.from_pretrained(tiny_pipeline_folder)
    codec = JoVAAudioCodec(pipeline.audio_vae, pipeline.vocoder)
    assert audio_clock(tiny_pipeline_folder) == codec.clock
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
    clocks = (AudioClock(48000, 6, "up"), AudioClock(24000, 240, "down"))
    for name, module, clock in zip(("dac", "mel"), (dac, JoVALogMel()), clocks, strict=True):
        module.save_pretrained(tmp_path / name / "audio_vae")
        assert audio_clock(tmp_path / name) == clock


@pytest.mark.parametrize(
    ("num_latents", "longest", "hop_length_samples", "frame_rate"),
    [
        *((14, 1, 10, 16.0), (15, 5, 10, 16.0), (16, 5, 10, 16.0), (26, 5, 10, 16.0), (27, 9, 10, 16.0)),
        (52, 21, 100, 23.04),  # 25 frames begin their 53rd latent
        (52, 25, 10, 23.04),  # here they do so by less than a sample
    ],
)
def test_the_longest_clip_has_no_more_latents_than_positions_by_the_rule_of_its_codec(
    num_latents: int, longest: int, hop_length_samples: int, frame_rate: float, tmp_path: Path
) -> None:
    """At 16 frames and 48 latents per second a frame is 3 latents; 5 frames begin 15 and 9 begin 27."""
    rates = (hop_length_samples // 5, 5)
    dac = JoVAAutoencoderKLDAC(
        encoder_dim=2,
        encoder_rates=rates,
        decoder_dim=4,
        decoder_rates=rates[::-1],
        latent_dim=4,
        sample_rate=48 * hop_length_samples,
    )
    transformer = build_transformer(audio_position_table_size=num_latents)
    pipeline = build_tiny_pipeline(transformer=transformer, audio_vae=dac, vocoder=None)
    limits = pipeline.clip_limits(("video", "audio"), frame_rate)
    assert limits is not None
    assert limits.num_frames == longest
    assert pipeline.audio_codec.num_latents_for(longest / frame_rate) <= num_latents
    pipeline.save_pretrained(tmp_path)
    geometry = read_geometry(tmp_path)
    assert geometry is not None
    assert geometry.limits_of_call(("video", "audio"), frame_rate) == limits


def test_what_is_given_too_long_may_be_gone_through_by_windows() -> None:
    for given in (GivenLengths(num_samples=80000, sampling_rate=16000), GivenLengths(num_frames=81)):
        with pytest.raises(ValueError, match=r"must last at most .*, or make the clip by windows, by `LongClip` or "):
            check_length(81, 16.0, 61, given)


@pytest.mark.parametrize(
    ("defaults", "said"),
    [
        ({"guidance_scale": 1.5, "coupling_scale": None}, "denoises in 8 steps, guidance 1.5 by text and coupling"),
        ({"guidance_scale": 5.0}, "denoises in 8 steps, guidance 5.0 by text"),
        ({"guidance_scale": 5.0, "coupling_scale": 3.0}, "8 steps, guidance 5.0 by text and 3.0 by coupling"),
        ({"guidance_scale": 1.0, "coupling_scale": 1.0}, "denoises in 8 steps, without guidance"),
        (
            {"guidance_scale": 3.0, "audio_guidance_scale": 7.0, "audio_coupling_scale": 2.0},
            "guidance 3.0 by text; sound 7.0 by text and 2.0 by coupling",
        ),
        ({"guidance_scale": 3.0, "audio_guidance_scale": 7.0}, "guidance 3.0 by text; sound 7.0 by text"),
    ],
)
def test_the_steps_and_the_guidance_of_a_model_are_told(defaults: dict[str, Any], said: str, tmp_path: Path) -> None:
    index = {"_class_name": "JoVAPipeline", "defaults": {"num_inference_steps": 8, **defaults}}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    assert describe_steps(tmp_path).endswith(said)
