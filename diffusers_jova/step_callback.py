"""What a callback after a step is offered, and what becomes of its answers.

A callback sees the features of prompts as plain tensors, as those of diffusers' pipelines do. Prompts and negative
prompts never share a tensor here, so there are no unconditional rows that a callback would have to cut off.

Letters in shapes: B clips, S tokens, D feature width, C channels, F latent frames, h, w latent sizes, L audio latents.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .denoising import TextConditions
from .generation_defaults import GenerationDefaults
from .pipeline_checks import CallInputs, TextWidths, check_embeds
from .prompt import PromptEmbeds


LATENTS_OF = {"video": "latents", "audio": "audio_latents"}
TEXTS = ("prompt", "negative_prompt", "audio_negative_prompt")
EMBEDS_OF = {text: f"{text}_embeds" for text in TEXTS}  # of the first text encoder; `_2` behind it for the second's
CALLBACK_TENSORS = [*LATENTS_OF.values(), *(name + end for name in EMBEDS_OF.values() for end in ("", "_2"))]


def call_back(
    pipeline: Any, inputs: CallInputs, step: int, timestep: Tensor, samples: dict[str, Tensor], text: TextConditions
) -> tuple[dict[str, Tensor], TextConditions]:
    """Let the callback of a call see a step, and take what it returns.

    Args:
        pipeline: Whose call it is.
        inputs: Of the call.
        step: Index of the step.
        timestep: Video timestep of the step, a scalar.
        samples: Latents after the step, video [B, C, F, h, w] and audio [B, L, C].
        text: What the step read.
    """
    assert inputs.callback_on_step_end is not None
    tensors = offered_tensors(samples, text)
    chosen = {name: tensors[name] for name in inputs.callback_on_step_end_tensor_inputs}
    answer = check_answer(inputs.callback_on_step_end(pipeline, step, timestep, chosen))
    return replaced_samples(samples, answer), replaced_text(text, answer)


def offered_tensors(samples: Mapping[str, Tensor], text: TextConditions) -> dict[str, Any]:
    """Tensors of `CALLBACK_TENSORS` by name; None for what a call has not got."""
    tensors: dict[str, Any] = {name: samples.get(modality) for modality, name in LATENTS_OF.items()}
    for field, name in EMBEDS_OF.items():
        embeds: PromptEmbeds | None = getattr(text, field)
        tensors[name] = None if embeds is None else embeds.features
        tensors[f"{name}_2"] = None if embeds is None else embeds.features_2
    return tensors


def check_answer(answer: Any) -> dict[str, Any]:
    """The tensors that a callback returned by name, after refusing what has no place."""
    if answer is None:
        return {}
    if not isinstance(answer, dict):
        raise ValueError(
            f"`callback_on_step_end` must return a dict of tensors or None, got {type(answer).__name__}; "
            "return `{'latents': latents}`, say"
        )
    if unknown := [name for name in answer if name not in CALLBACK_TENSORS]:
        raise ValueError(
            f"`callback_on_step_end` must return tensors of {CALLBACK_TENSORS}, got {unknown}; leave these out"
        )
    return answer


def replaced_samples(samples: Mapping[str, Tensor], answer: Mapping[str, Any]) -> dict[str, Tensor]:
    """Samples by modality, with the latents that a callback returned."""
    replaced = dict(samples)
    for modality, name in LATENTS_OF.items():
        old, new = samples.get(modality), answer.get(name)
        if new is old or name not in answer:
            continue
        expected, got = (list(x.shape) if isinstance(x, Tensor) else type(x).__name__ for x in (old, new))
        if old is None or expected != got:
            raise ValueError(
                f"`{name}` of a callback must stay {'None' if old is None else expected}, got {got}; return it in the "
                "shape it came in"
            )
        assert isinstance(new, Tensor)
        replaced[modality] = new.to(old)
    return replaced


def replaced_text(text: TextConditions, answer: Mapping[str, Any]) -> TextConditions:
    """Text of both kinds of predictions, with the features that a callback returned."""
    num_clips, widths = text.prompt.features.shape[0], TextWidths.of_embeds(text.prompt)
    changes: dict[str, Any] = {}
    for field, name in EMBEDS_OF.items():
        embeds: PromptEmbeds | None = getattr(text, field)
        for part, key in (("features", name), ("features_2", f"{name}_2")):
            old: Any = None if embeds is None else getattr(embeds, part)
            new = answer.get(key)
            if key not in answer or new is old:
                continue
            if new is None:
                raise ValueError(
                    f"`{key}` of a callback must stay {list(old.shape)}, got None; leave it out to keep it"
                )
            if isinstance(new, PromptEmbeds):
                check_features(key, new.features, num_clips, widths.features)
                check_embeds(key, new, widths)
                embeds = new
            else:
                embeds = replaced_features(key, embeds, part, new, (num_clips, getattr(widths, part)))
            changes[field] = embeds
    return replace(text, **changes) if changes else text


def replaced_features(
    key: str, embeds: PromptEmbeds | None, part: str, new: Any, size: tuple[int, int | None]
) -> PromptEmbeds:
    """Encoded prompts with other features of one text encoder; `size` is clips and width.

    The last row alone changes nothing: so callbacks of diffusers drop unconditional rows, and there are none here.
    """
    if embeds is None:
        check_features(key, new, *size)
        if part != "features":
            raise ValueError(f"`{key}` of a callback must stay None without `{key[:-2]}`; return both, or neither")
        return PromptEmbeds(new)
    old = getattr(embeds, part)
    if old is not None and isinstance(new, Tensor) and new.shape == old[-1:].shape and torch.equal(new, old[-1:]):
        return embeds
    check_features(key, new, *size)
    mask = embeds.mask if part == "features" else embeds.mask_2
    if mask is not None and mask.shape[1] != new.shape[1]:
        raise ValueError(
            f"`{key}` of a callback must keep its {mask.shape[1]} rows, which have a mask, got {new.shape[1]}; return "
            "`PromptEmbeds` with another mask"
        )
    return embeds._replace(**{part: new})


def check_features(key: str, features: Any, num_clips: int, width: int | None) -> None:
    """Refuse features that are not [num_clips, S, width]; any width where a model reads none, which is refused."""
    shape = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
    form = f"[{num_clips}, S, {'D' if width is None else width}]"
    is_fit = isinstance(shape, list) and len(shape) == 3 and [shape[0], shape[2]] == [num_clips, width or shape[2]]
    if not is_fit:
        raise ValueError(
            f"`{key}` of a callback must be a tensor {form}, one row per clip, got {shape}; return it in the shape it "
            "came in"
        )


def settings_after_callback(
    settings: GenerationDefaults, guidance_scale: float, audio_guidance_scale: float | None
) -> GenerationDefaults:
    """Settings of a call with the guidance scales that a callback may have set.

    A 0 that a callback sets is off, as those of diffusers mean it: that of video for both modalities, that of audio
    for audio. A 0 that the call came with stays a 0.

    Args:
        settings: Of the call as it began.
        guidance_scale: Attribute of the pipeline; the very object in `settings` where no callback set it.
        audio_guidance_scale: The same for audio.
    """
    if audio_guidance_scale is not settings.audio_guidance_scale and audio_guidance_scale == 0:
        audio_guidance_scale = 1.0
    if guidance_scale is not settings.guidance_scale and guidance_scale == 0:
        guidance_scale = audio_guidance_scale = 1.0
    return replace(settings, guidance_scale=guidance_scale, audio_guidance_scale=audio_guidance_scale)
