"""Calls of the pipeline with weights of MOVA and UniAVGen end where the loops of their own code end; both in bfloat16.

What would encode media gives the latents that the originals were given; everything else is the pipeline's own.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import load_file
from torch import Tensor
from transformers import Qwen2_5OmniToken2WavBigVGANModel

from diffusers_jova import (
    FlowMatchAudioVideoScheduler,
    JoVAAutoencoderKLDAC,
    JoVADualTowerTransformer3DModel,
    JoVALogMel,
    JoVAPipeline,
    PromptEmbeds,
)
from diffusers_jova.clip_shape import ClipShape
from diffusers_jova.conversion import mova, uniavgen
from diffusers_jova.media import Sound
from diffusers_jova.scheduling_flow_match_av import PRESETS
from tests.conversion.test_uniavgen import SAMPLED, conditions
from tests.diffusers_jova.test_transformer_jova_dual_tower import (
    FLOAT32,
    MOVA,
    UNIAVGEN,
    mova_arguments,
    mova_model,
    mova_with_both_experts,
    ovi_arguments,
    ovi_model,
    uniavgen_arguments,
    uniavgen_parts,
)
from tests.places import PARITY, needs_references
from tests.rounding import relative_error
from tests.tiny_checkpoints import WAN_2_2_VAE
from tests.tiny_pipeline import build_tiny_pipeline, build_vae


pytestmark = [needs_references, pytest.mark.numeric]


def latents_of(pipe: JoVAPipeline, **arguments: Any) -> dict[str, Tensor]:
    output = pipe(output_type="latent", **arguments)
    return {"video": output.frames, "audio": output.audio}


def as_class(pipe: JoVAPipeline, cls: type[JoVAPipeline], stored: dict[str, Tensor]) -> JoVAPipeline:
    pipe.__class__ = cls
    pipe.stored = stored
    pipe.set_progress_bar_config(disable=True)
    return pipe


# MOVA


class StoredMova(JoVAPipeline):
    """Takes the stored condition, whose image is random in all frames, and the stored number of audio latents."""

    def condition_channels(self, *_: Any) -> Tensor:
        mask, image = self.stored["in.condition"].split([4, 16], dim=1)
        return torch.cat([image, mask], dim=1)

    def clip_shape(self, *arguments: Any) -> ClipShape:
        return super().clip_shape(*arguments)._replace(num_audio_latents=self.stored["in.audio_latents"].shape[2])


def mova_pipeline(stored: dict[str, Tensor], audio_shift: float) -> JoVAPipeline:
    codec = JoVAAutoencoderKLDAC(
        encoder_dim=2, encoder_rates=[2, 3, 4, 5, 8], latent_dim=10, decoder_dim=32,
        decoder_rates=[8, 5, 4, 3, 2], sample_rate=48000,
    )  # fmt: skip
    pipe = build_tiny_pipeline(
        transformer=mova_with_both_experts(),
        vae=build_vae(),
        audio_vae=codec.eval(),
        vocoder=None,
        scheduler=FlowMatchAudioVideoScheduler(**PRESETS["mova"] | {"audio_shift": audio_shift}),
        defaults=mova.FAMILY.defaults,
        **mova.FAMILY.config,
    )
    return as_class(pipe, StoredMova, stored)


@pytest.mark.parametrize("is_sequential", [False, True])
@pytest.mark.parametrize(
    ("case", "settings", "audio_shift"),
    [
        ("text_cfg_5_steps", {"num_inference_steps": 5}, 5.0),
        ("text_cfg_6_steps", {"num_inference_steps": 6}, 5.0),
        ("text_cfg_5_steps_shift_5_1", {"num_inference_steps": 5}, 1.0),
        ("dual_cfg_5_steps", {"num_inference_steps": 5, "coupling_scale": 3.0}, 5.0),
    ],
)
def test_a_call_of_mova_ends_where_its_own_loop_ends(
    case: str, settings: dict[str, Any], audio_shift: float, is_sequential: bool
) -> None:
    stored = load_file(MOVA / "dual_tower_mini_trajectories.safetensors")
    _, _, num_latents, height, width = stored["in.latents"].shape
    found = latents_of(
        mova_pipeline(stored, audio_shift),
        prompt_embeds=PromptEmbeds(stored["in.text"]),
        negative_prompt_embeds=PromptEmbeds(stored["in.negative_text"]),
        latents=stored["in.latents"],
        audio_latents=stored["in.audio_latents"].mT.contiguous(),
        height=8 * height,
        width=8 * width,
        num_frames=4 * num_latents - 3,
        sequential_guidance=is_sequential,
        **settings,
    )
    assert relative_error(found["video"], stored[f"out.{case}.exact.video"]) < FLOAT32
    assert relative_error(found["audio"].mT, stored[f"out.{case}.exact.audio"]) < FLOAT32


# UniAVGen


class StoredUniAVGen(JoVAPipeline):
    """Encodes every medium to the latents that are stored for it."""

    def encode_picture(self, *_: Any) -> Tensor:
        return self.stored["inputs.reference_image"][None]

    def encode_video(self, *_: Any) -> Tensor:
        return self.stored["inputs.given_video"][None]

    def encode_audio(self, *_: Any) -> Tensor:
        return self.stored["inputs.given_audio"][None]

    def encode_voice(self, *_: Any) -> Tensor:
        return self.stored["inputs.reference_audio"][None]


def uniavgen_pipeline(stored: dict[str, Tensor], skipped_layer: int) -> JoVAPipeline:
    transformer, encoder = uniavgen_parts()
    vocoder = Qwen2_5OmniToken2WavBigVGANModel.config_class(mel_dim=80, upsample_initial_channel=64)
    pipe = build_tiny_pipeline(
        tokenizer=None,
        text_encoder=None,
        transformer=transformer,
        vae=AutoencoderKLWan(**WAN_2_2_VAE).eval(),
        audio_vae=JoVALogMel(mel_bins=80),
        vocoder=Qwen2_5OmniToken2WavBigVGANModel(vocoder).eval(),
        spoken_tokenizer=None,
        spoken_text_encoder=encoder,
        scheduler=FlowMatchAudioVideoScheduler(**PRESETS["uniavgen"]),
        defaults=uniavgen.FAMILY.defaults,
        **uniavgen.FAMILY.config | {"negative_skip_layer": skipped_layer},
    )
    return as_class(pipe, StoredUniAVGen, stored)


GIVEN = {  # media of a call, whatever they show
    "joint": ("image",),
    "reference_voice": ("image", "reference_audio"),
    "a2v": ("image", "audio"),
    "v2a": ("image", "video"),
}


@pytest.mark.parametrize("task", GIVEN)
def test_a_call_of_uniavgen_ends_where_its_own_loop_ends_in_every_task(task: str) -> None:
    stored = load_file(UNIAVGEN / "sampler.safetensors")
    settings = json.loads((UNIAVGEN / "sampler.json").read_text())
    pipe = uniavgen_pipeline(stored, settings["skipped_layer"])
    with torch.no_grad():
        text = conditions(stored, pipe.spoken_text_encoder, task == "reference_voice")
    sound = Sound(np.sin(np.arange(13500, dtype=np.float32))[None] / 2, 24000)
    media = {"image": np.zeros((128, 96, 3), np.uint8), "video": np.zeros((9, 128, 96, 3), np.uint8)}
    media |= {"audio": sound, "reference_audio": sound}
    found = latents_of(
        pipe,
        prompt_embeds=text.prompt,
        negative_prompt_embeds=text.negative_prompt,
        latents=stored["inputs.noise_video"][None],
        audio_latents=stored["inputs.noise_audio"][None],
        height=128,
        width=96,
        num_frames=9,
        num_inference_steps=settings["steps"],
        **{name: media[name] for name in GIVEN[task]},
    )
    if task != "v2a":
        assert relative_error(found["video"][0][:, 1:], stored[f"{task}.video"][:, 1:]) < SAMPLED
    if task != "a2v":
        assert relative_error(found["audio"][0], stored[f"{task}.audio"]) < SAMPLED


# One prediction in bfloat16

BFLOAT16 = 2e-2  # of the references; correct conversions measure 5e-3 to 1e-2, a rounded timestep 0.23


def mova_call() -> tuple[Any, dict[str, Any], tuple[Tensor, Tensor]]:
    stored = load_file(MOVA / "dual_tower_tiny_io.safetensors")
    results = stored["out.coupled.video"], stored["out.coupled.audio"].mT
    return mova_model("tiny"), mova_arguments(stored), results


def uniavgen_call() -> tuple[Any, dict[str, Any], tuple[Tensor, Tensor]]:
    stored = load_file(UNIAVGEN / "forward.safetensors")
    model, encoder = uniavgen_parts()
    arguments = uniavgen_arguments("joint", stored, encoder)
    return model, arguments, (stored["joint.video_velocity"][None, :, 1:], stored["joint.audio_velocity"][None])


def ovi_call() -> tuple[Any, dict[str, Any], tuple[Tensor, Tensor]]:
    stored = load_file(PARITY / "ovi_fusion_tiny.safetensors")
    names = ("hidden_states", "audio_hidden_states", "encoder_hidden_states", "timestep", "audio_timestep")
    arguments = dict(zip(names, ovi_arguments(stored), strict=True))
    arguments |= {"frame_rate": 24.0, "audio_latent_rate_hz": 31.25}
    return ovi_model(stored), arguments, (stored["out.video_fp32"], stored["out.audio_fp32"])


@pytest.mark.parametrize("call", [mova_call, uniavgen_call, ovi_call])
@torch.no_grad()
def test_a_model_loaded_in_bfloat16_is_off_by_its_rounding_alone(call: Any, tmp_path: Path) -> None:
    model, arguments, expected = call()
    model.save_pretrained(tmp_path)
    rounded = JoVADualTowerTransformer3DModel.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    arguments = {
        name: value.bfloat16() if isinstance(value, Tensor) and "timestep" not in name else value
        for name, value in arguments.items()
    }
    outputs = rounded(**arguments | {"return_dict": False})
    for output, result in zip(outputs, expected, strict=True):
        assert relative_error(output.float(), result) < BFLOAT16
