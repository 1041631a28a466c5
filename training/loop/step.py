"""A micro-batch of a run: what turns clips into what the model sees, and the loss of what it says."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from diffusers_jova.training.data.dataset import PrecomputedDataset
from diffusers_jova.training.loop.conditioning import Conditioning, ModelInputs
from diffusers_jova.training.loop.config import TrainConfig
from diffusers_jova.training.loop.distillation import Distillation
from diffusers_jova.training.loop.model import num_mask_channels
from diffusers_jova.training.loop.objective import LossTerms, face_mask_factor, face_mask_loss, jova_loss
from diffusers_jova.training.loop.phases import Phases


def build_conditioning(
    config: TrainConfig,
    dataset: PrecomputedDataset,
    transformer: Any,
    device: torch.device,
    phases: Phases | None = None,
) -> Conditioning:
    """Read the rates from the prepared clips and the channels from the transformer.

    Args:
        config: The run's settings.
        dataset: The prepared clips.
        transformer: To be trained; its config alone is read.
        device: Where the inputs are needed.
        phases: Levels of a teacher and its student; None for a run without.
    """
    header = dataset.headers[0]
    drops_captions = config.caption_dropout > 0 or (config.audio_caption_dropout or 0) > 0
    return Conditioning(
        config,
        dataset.empty_prompt() if drops_captions else None,
        num_mask_channels(transformer),
        frame_rate=max(layout.frame_rate for layout in dataset.layouts) or header.number("frame_rate"),
        audio_latent_rate_hz=header.number("audio_latent_rate_hz"),
        temporal_factor=int(header.number("temporal_factor")),
        device=device,
        boundary=transformer.config.get("boundary"),
        phases=phases,
    )


def step_loss(
    model: Callable[..., Any],
    inputs: ModelInputs,
    config: TrainConfig,
    distillation: Distillation | None = None,
    step: int = 0,
) -> LossTerms:
    """Predict the velocities of a micro-batch and compare them with the true ones, or with the teacher's.

    Args:
        model: The transformer that is trained.
        inputs: The micro-batch.
        config: The run's settings.
        distillation: What the teacher says; None without one.
        step: Of the run, by which the weight of the face masks falls.
    """
    arguments = inputs.arguments
    of_clips = (inputs.target, inputs.audio_target)
    targets = of_clips if distillation is None else distillation.targets(inputs)
    if inputs.face_mask is not None:
        arguments = {**arguments, "return_face_masks": True}
    velocity, audio_velocity, *face_masks = model(**arguments, return_dict=False)
    measure = partial(
        jova_loss,
        velocity,
        audio_velocity,
        mouth_mask=inputs.mouth_mask,
        has_video=None if velocity is None else inputs.has_video,
        has_audio=None if audio_velocity is None else inputs.has_audio,
        mouth_weight=config.mouth_weight,
        video_weight=config.video_weight,
        audio_weight=config.audio_weight,
        reduction=config.mouth_reduction,
    )
    terms = measure(*targets)
    if config.anchor_weight > 0:
        terms = terms.with_anchor(measure(*of_clips), config.anchor_weight)
    if inputs.face_mask is None:
        return terms
    factor = face_mask_factor(step, config.face_mask_weight, config.face_mask_steps)
    return terms.with_face(face_mask_loss(face_masks[0], inputs.face_mask), factor)
