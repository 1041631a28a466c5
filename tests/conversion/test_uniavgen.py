"""UniAVGen as released: what its sampler computes, and a whole pipeline made of tiny files in the released layout."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Qwen2_5OmniToken2WavBigVGANModel, UMT5Config, UMT5EncoderModel

from diffusers_jova import FlowMatchAudioVideoScheduler, JoVALogMel, JoVAPipeline, JoVAPrompt, PromptEmbeds
from diffusers_jova.conditions import GivenLatents
from diffusers_jova.conversion import uniavgen
from diffusers_jova.conversion.convert import main
from diffusers_jova.conversion.pipeline import guidance_defaults
from diffusers_jova.denoising import JoVADenoiser, TextConditions
from diffusers_jova.generation_defaults import GenerationDefaults
from diffusers_jova.media import Sound
from diffusers_jova.scheduling_flow_match_av import PRESETS
from diffusers_jova.spoken_text import MIN_UNITS
from diffusers_jova.spoken_text_encoder import FILLER, JoVASpokenTextEncoder
from tests.diffusers_jova.test_transformer_jova_dual_tower import UNIAVGEN, uniavgen_parts
from tests.places import needs_references
from tests.rounding import relative_error


# What the original samples, stored in float64. Its own code in float32 is off by up to 4.9e-6 of the largest value, a
# forward by 5e-7 here; six steps add these up and guidance multiplies them by 3.
SAMPLED = 1e-5
TASKS = {  # what is given whole, and the directions that are left with the prompt and without it
    "joint": (None, True, True),
    "reference_voice": (None, "a2v", True),
    "a2v": ("audio", "a2v", "a2v"),
    "v2a": ("video", "v2a", "v2a"),
}


def filled(ids: Tensor) -> Tensor:
    return torch.nn.functional.pad(ids, (0, max(0, MIN_UNITS - ids.shape[1])), value=FILLER)


def conditions(stored: dict[str, Tensor], encoder: JoVASpokenTextEncoder, with_voice: bool) -> TextConditions:
    def features(text: str, ids: Tensor) -> PromptEmbeds:
        rows = torch.zeros(1, 16, 32)
        rows[0, : len(stored[f"inputs.{text}"])] = stored[f"inputs.{text}"]
        return PromptEmbeds(rows, audio_features=encoder(filled(ids)))

    said, unsaid = stored["inputs.audio_text_ids"], torch.zeros(1, 1, dtype=torch.long)
    if with_voice:
        unsaid = stored["inputs.reference_text_ids"]
        said = torch.cat([unsaid, said], dim=1)
    return TextConditions(features("video_text", said), features("negative_video_text", unsaid))


@needs_references
@pytest.mark.numeric
@pytest.mark.parametrize("is_sequential", [False, True])
@pytest.mark.parametrize("task", TASKS)
@torch.no_grad()
def test_every_task_is_sampled_as_the_original_samples_it(task: str, is_sequential: bool) -> None:
    stored = load_file(UNIAVGEN / "sampler.safetensors")
    settings = json.loads((UNIAVGEN / "sampler.json").read_text())
    transformer, encoder = uniavgen_parts()
    whole, coupling, negative_coupling = TASKS[task]
    image = stored["inputs.reference_image"][None]
    given = {"video": GivenLatents.prefix(stored["inputs.given_video"][None] if whole == "video" else image, 3, axis=2)}
    references = {"video": image} if whole == "video" else {}
    if whole == "audio":
        given["audio"] = GivenLatents.prefix(stored["inputs.given_audio"][None], 56, axis=1)
    if task == "reference_voice":
        references["audio"] = stored["inputs.reference_audio"][None]
    scheduler = FlowMatchAudioVideoScheduler(**PRESETS["uniavgen"])
    scheduler.set_timesteps(settings["steps"])
    scheduler.set_begin_index(0)
    engine = JoVADenoiser(
        transformer=transformer,
        scheduler=scheduler,
        guidance=GenerationDefaults(**guidance_defaults("uniavgen")).guidance(),
        given=given,
        channels=None,
        frame_rate=16.0,
        audio_latent_rate_hz=100.0,
        coupling=coupling,
        negative_coupling=negative_coupling,
        references=references,
        negative_skip_layer=settings["skipped_layer"],
        is_sequential=is_sequential,
    )
    text = conditions(stored, encoder, task == "reference_voice")
    noise = {name: stored[f"inputs.noise_{name}"][None] for name in ("video", "audio")}
    samples = engine.impose(noise)
    for step in range(settings["steps"]):
        samples = engine.step(step, samples, text)
    expected = engine.impose({name: stored[f"{task}.{name}"][None] for name in noise})
    for name, sample in samples.items():
        assert relative_error(sample, expected[name]) < SAMPLED, name
        assert relative_error(noise[name], expected[name]) > 0.1, "something has to be sampled"


@needs_references
@pytest.mark.numeric
@pytest.mark.parametrize("num_steps", [50, 8, 6])
def test_its_schedule_is_that_of_the_release_in_float32(num_steps: int) -> None:
    stored = load_file(UNIAVGEN / "schedule.safetensors")
    scheduler = FlowMatchAudioVideoScheduler(**PRESETS["uniavgen"])
    scheduler.set_timesteps(num_steps)
    for ours in (scheduler.timesteps, scheduler.audio_timesteps):
        assert relative_error(ours, stored[f"timesteps_float32.{num_steps}"][:-1]) < 1e-6
    assert relative_error(scheduler.sigmas, stored[f"sigmas_float64.{num_steps}"]) < 1e-6
