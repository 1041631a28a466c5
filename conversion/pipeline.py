"""A converted transformer with the parts it needs around it: a folder for `JoVAPipeline.from_pretrained`.

What a call does where it is silent is what the release does: its scales, sizes, template and negative prompts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffusers import __version__ as diffusers_version

from diffusers_jova import guidance
from diffusers_jova.conversion.card import Licence
from diffusers_jova.conversion.components import Component
from diffusers_jova.scheduling_flow_match_av import PRESETS, FlowMatchAudioVideoScheduler


OPTIONAL = ("vocoder", "tokenizer_2", "text_encoder_2", "spoken_tokenizer", "spoken_text_encoder")
NEGATIVE_PROMPTS = Path(__file__).with_name("negative_prompts.json")  # of the releases, word for word
RUN = """
import diffusers_jova

pipe = diffusers_jova.JoVAPipeline.from_pretrained("{folder}")
"""


@dataclass(frozen=True)
class Family:
    """What every checkpoint of a model family shares.

    Attributes:
        title: Heading of the model card.
        licences: Terms of the weights.
        scheduler: Name of the scheduler's preset.
        prompt_template: Form of each part of a prompt, one per line.
        speaker_token: Token whose text row a voice replaces; None for models without voices.
        defaults: Values for arguments of a pipeline call.
        config: Other values of the pipeline's config, such as `fills_image_with_grey`; see `JoVAPipeline`.
    """

    title: str
    licences: Sequence[Licence]
    scheduler: str
    prompt_template: str
    speaker_token: str | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)


def guidance_defaults(preset: str) -> dict[str, Any]:
    """Defaults of a pipeline that guides as a published model does; see `diffusers_jova.guidance.PRESETS`.

    Scales of audio that are video's follow those of a call: its `guidance_scale=1` then switches off all guidance.
    """
    video, audio = guidance.PRESETS[preset]

    def own(scale: str) -> float | None:
        value: float = getattr(audio, scale)
        return None if value == getattr(video, scale) else value

    return {
        "guidance_scale": video.guidance_scale,
        "audio_guidance_scale": own("guidance_scale"),
        "coupling_scale": video.coupling_scale,
        "audio_coupling_scale": own("coupling_scale"),
        "audio_speaker_scale": audio.speaker_scale,
        "uncoupled_text": video.uncoupled_text,
        "guidance_interval": list(video.guidance_interval),
        "coupling_interval": list(video.coupling_interval),
    }


def negative_prompts(preset: str) -> dict[str, str]:
    """Defaults for the text that a published model moves away from; with another text its guidance is another one."""
    prompts: dict[str, dict[str, str]] = json.loads(NEGATIVE_PROMPTS.read_text(encoding="utf-8"))
    return prompts[preset]


def assemble(folder: Path, transformer: str, family: Family, components: Sequence[Component]) -> None:
    """Complete a pipeline folder whose `transformer` is written; the index comes last."""
    index: dict[str, Any] = {"_class_name": "JoVAPipeline", "_diffusers_version": diffusers_version}
    index["transformer"] = ["diffusers_jova", transformer]
    for component in components:
        index[component.name] = list(component.entry)
        print(f"writing {component.name} from {component.origin}", flush=True)
        component.write(folder / component.name)
    FlowMatchAudioVideoScheduler(**PRESETS[family.scheduler]).save_pretrained(folder / "scheduler")
    index["scheduler"] = ["diffusers_jova", "FlowMatchAudioVideoScheduler"]
    names = {component.name for component in components}
    index |= {name: [None, None] for name in OPTIONAL if name not in names}
    index |= {
        "prompt_template": family.prompt_template,
        "pads_text_with_zeros": True,
        "speaker_token": family.speaker_token,
        "defaults": dict(family.defaults),
        **family.config,
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
