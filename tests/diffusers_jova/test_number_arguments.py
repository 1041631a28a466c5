"""What counts as a number: refused by name at the door, or handled; never an error from deep below."""

import json
import math
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffusers_jova import (
    FlowMatchAudioVideoScheduler,
    JoVAAudioCodec,
    JoVADualTowerTransformer3DModel,
    JoVAPipeline,
    JoVATransformer3DModel,
)
from diffusers_jova.generation_defaults import GenerationDefaults
from diffusers_jova.guidance import Guidance
from diffusers_jova.number_arguments import finite_number
from diffusers_jova.scheduling_flow_match_av import SigmaMixture
from tests.diffusers_jova.test_transformer_jova import compiles
from tests.tiny_pipeline import (
    DUAL_TOWER_CONFIG,
    TRANSFORMER_CONFIG,
    WAN_TRANSFORMER_CONFIG,
    build_audio_vae,
    build_tiny_pipeline,
    build_vocoder,
    build_wan_transformer,
)


FEW: dict[str, Any] = {"num_inference_steps": 1, "num_frames": 5, "output_type": "latent", "return_dict": False}
COUNTS = ["height", "width", "num_frames", "num_inference_steps", "max_sequence_length", "num_videos_per_prompt"]
SCALES = ["frame_rate", "guidance_scale", "audio_guidance_scale", "coupling_scale", "audio_coupling_scale"]
SCALES += [
    "audio_speaker_scale",
    "guidance_rescale",
    "audio_guidance_rescale",
    "apg_threshold",
    "audio_apg_threshold",
    "apg_eta",
]
NO_COUNTS = ["9", 9.0, True, np.float32(9), np.bool_(True), math.nan, [9], torch.tensor(9.0)]
NO_NUMBERS = ["1", True, np.bool_(True), [1.0], 1j, math.nan, -math.inf, np.float32(math.inf)]


@pytest.fixture(scope="module")
def pipeline() -> JoVAPipeline:
    return build_tiny_pipeline()


@pytest.mark.parametrize("value", NO_COUNTS, ids=repr)
@pytest.mark.parametrize("name", [*COUNTS, "audio_sampling_rate"])
def test_a_count_is_a_whole_number(pipeline: JoVAPipeline, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must be a whole number, got "):
        pipeline("a dog", **(FEW | {name: value}))


@pytest.mark.parametrize("name", COUNTS)
def test_a_count_is_one_that_a_machine_can_count(pipeline: JoVAPipeline, name: str) -> None:
    with pytest.raises(ValueError, match=rf"`{name}` must be at most \d+.*, got {10**30}"):
        pipeline("a dog", **(FEW | {name: 10**30}))


@pytest.mark.parametrize("name", SCALES)
def test_a_scale_beyond_every_float_is_infinite(pipeline: JoVAPipeline, name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must be (positive and )?finite, got 1000"):
        pipeline("a dog", **FEW, **{name: 10**400})


@pytest.mark.parametrize("value", NO_NUMBERS, ids=repr)
@pytest.mark.parametrize("name", SCALES)
def test_a_scale_is_a_finite_number(pipeline: JoVAPipeline, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must be (a number|finite), got "):
        pipeline("a dog", **FEW, **{name: value})


@pytest.mark.parametrize("value", [("0", 1), (0, True), (0, math.nan), (0, 1, 1), 0.5, "01"], ids=repr)
@pytest.mark.parametrize("name", ["guidance_interval", "coupling_interval"])
def test_an_interval_is_two_fractions(pipeline: JoVAPipeline, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must be (a number|finite|two rising fractions)"):
        pipeline("a dog", **FEW, **{name: value})


@pytest.mark.parametrize("value", [["1", "0.5"], [1.0, True], "10", 1.0, [1.0, math.nan], [[1.0, 0.5]]], ids=repr)
@pytest.mark.parametrize("name", ["sigmas", "audio_sigmas"])
def test_noise_levels_are_numbers(pipeline: JoVAPipeline, name: str, value: Any) -> None:
    few = {key: x for key, x in FEW.items() if key != "num_inference_steps"}
    with pytest.raises(ValueError, match=f"`{name}` must "):
        pipeline("a dog", **few, **{name: value})


def test_numbers_of_numpy_are_what_they_say(pipeline: JoVAPipeline) -> None:
    def generate(count: Any, real: Any) -> Any:
        counts = {"height": 32, "width": 32, "num_frames": 5, "num_inference_steps": 2, "num_videos_per_prompt": 1}
        reals = {"frame_rate": 16.0, "guidance_scale": 3.0, "audio_coupling_scale": 2.0, "apg_threshold": 4.0}
        return pipeline(
            "a dog",
            **{name: count(value) for name, value in counts.items()},
            **{name: real(value) for name, value in reals.items()},
            guidance_interval=(real(0), real(1)),
            generator=torch.Generator().manual_seed(0),
            output_type="latent",
            return_dict=False,
        )

    plain = generate(int, float)
    for count, real in ((np.int64, np.float32), (np.uint8, np.float64), (np.int32, Fraction), (int, np.int16)):
        for one, other in zip(generate(count, real), plain, strict=True):
            assert torch.equal(one, other), (count, real)
    settings = GenerationDefaults(cfg_zero_star=np.bool_(True), zero_init_steps=np.int64(1))
    assert json.loads(json.dumps(asdict(settings)))["cfg_zero_star"] is True


@pytest.mark.parametrize("value", ["3", True, None, [3.0], math.nan, math.inf, 0, -1.0], ids=repr)
@pytest.mark.parametrize("name", ["shift", "audio_shift"])
def test_a_shift_is_a_positive_number(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must be (a number|positive)"):
        FlowMatchAudioVideoScheduler(**{name: value})


@pytest.mark.parametrize("value", ["1000", 1000.0, True, 0, -1, math.nan], ids=repr)
def test_the_number_of_training_timesteps_is_a_count(value: Any) -> None:
    with pytest.raises(ValueError, match="`num_train_timesteps` must be "):
        FlowMatchAudioVideoScheduler(num_train_timesteps=value)


@pytest.mark.parametrize("value", ["2", 2.0, True, math.nan], ids=repr)
def test_a_scheduler_alone_counts_its_steps(value: Any) -> None:
    with pytest.raises(ValueError, match="`num_inference_steps` must be a whole number, got "):
        FlowMatchAudioVideoScheduler().set_timesteps(value)


@pytest.mark.parametrize("value", ["5", True, None, math.nan, math.inf, 0, -1.0], ids=repr)
def test_an_audio_codec_measures_and_counts_in_numbers(value: Any) -> None:
    with pytest.raises(ValueError, match=r"`duration_s` must be (a number|positive)"):
        JoVAAudioCodec(build_audio_vae(), build_vocoder()).num_latents_for(value)
    with pytest.raises(ValueError, match=r"`chunk_mel_frames` must be (a whole number|at least 1)"):
        JoVAAudioCodec(build_audio_vae(), build_vocoder(), chunk_mel_frames=value)


@pytest.mark.parametrize("value", ["1", True, math.nan, None], ids=repr)
def test_a_mixture_of_noise_levels_is_made_of_numbers(value: Any) -> None:
    with pytest.raises(ValueError, match=r"`shared` must be (a number|finite)"):
        SigmaMixture(shared=value)


def test_numbers_of_numpy_are_saved_as_numbers(tmp_path: Path) -> None:
    FlowMatchAudioVideoScheduler(np.float32(3), np.float64(5), np.int64(1000)).save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "scheduler_config.json").read_text())
    assert (stored["shift"], stored["audio_shift"], stored["num_train_timesteps"]) == (3.0, 5.0, 1000)
    defaults = {"height": np.int64(32), "guidance_scale": np.float32(3)}
    build_tiny_pipeline(defaults=defaults).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "model_index.json").read_text())["defaults"] == {"height": 32, "guidance_scale": 3.0}


@pytest.mark.parametrize("value", ["1", True, math.nan], ids=repr)
@pytest.mark.parametrize("name", ["guidance_scale", "coupling_scale", "speaker_scale", "guidance_rescale", "apg_eta"])
def test_guidance_is_made_of_numbers(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must be (a number|finite), got "):
        Guidance(**{name: value})


@pytest.mark.parametrize("value", ["2", 2.0, True, 0, -1], ids=repr)
@pytest.mark.parametrize("name", ["num_attention_heads", "attention_head_dim", "in_channels", "text_dim"])
def test_a_transformer_is_built_of_counts(name: str, value: Any) -> None:
    for cls, config in (
        (JoVATransformer3DModel, TRANSFORMER_CONFIG),
        (build_wan_transformer, WAN_TRANSFORMER_CONFIG),
        (JoVADualTowerTransformer3DModel, DUAL_TOWER_CONFIG),
    ):
        with pytest.raises(ValueError, match=f"`{name}` must be (a whole number|at least 1), got "):
            cls(**(config | {name: value}))


@pytest.mark.parametrize("value", ["0", -1, 1.5, True], ids=repr)
def test_blocks_are_counted(value: Any) -> None:
    with pytest.raises(ValueError, match=r"`num_layers` must be (a whole number|at least 0), got "):
        JoVATransformer3DModel(**(TRANSFORMER_CONFIG | {"num_layers": value}))
    with pytest.raises(ValueError, match=r"`num_layers` must be (a whole number|at least 1), got "):
        build_wan_transformer(num_layers=value)


def test_a_transformer_without_a_block_is_refused() -> None:
    with pytest.raises(ValueError, match="`num_layers` and `num_single_layers` must not both be 0"):
        JoVATransformer3DModel(**(TRANSFORMER_CONFIG | {"num_layers": 0, "num_single_layers": 0}))
    with pytest.raises(ValueError, match="`num_layers` must be at least 1, got 0"):
        build_wan_transformer(num_layers=0)
    for one, other in (("num_layers", "num_single_layers"), ("num_single_layers", "num_layers")):
        assert JoVATransformer3DModel(**(TRANSFORMER_CONFIG | {one: 0})).config[other] == 1


@pytest.mark.parametrize("value", [True, "32", 32.0, np.float32(32), None])
def test_a_size_among_defaults_is_a_whole_number(value: Any) -> None:
    if value is None:
        assert type(GenerationDefaults(height=np.int64(32)).height) is int
        return
    with pytest.raises(ValueError, match="`height` must be a whole number, got "):
        GenerationDefaults().override(height=value)


@pytest.mark.parametrize("value", [True, "3", math.nan, math.inf])
@pytest.mark.parametrize("name", ["frame_rate", "guidance_scale", "audio_guidance_scale", "apg_threshold"])
def test_a_scale_among_defaults_is_a_finite_number(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"`{name}` must be (a number|finite), got "):
        GenerationDefaults.from_dict({name: value})


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_shifts_and_noise_levels_are_finite(value: float) -> None:
    with pytest.raises(ValueError, match="`audio_shift` must be positive and finite"):
        FlowMatchAudioVideoScheduler(audio_shift=value)
    with pytest.raises(ValueError, match="`sigmas` must fall strictly within"):
        FlowMatchAudioVideoScheduler().set_timesteps(sigmas=[1.0, value])


@compiles
def test_a_number_is_checked_within_a_graph_that_serves_every_number() -> None:
    torch.compiler.reset()
    scaled = torch.compile(
        lambda rows, scale: rows * finite_number("scale", scale), fullgraph=True, dynamic=True, backend="eager"
    )
    for scale in (0.5, 0.25):
        assert torch.equal(scaled(torch.ones(2), scale), torch.full((2,), scale))
