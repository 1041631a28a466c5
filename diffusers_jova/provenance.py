"""The record of how a clip was made, for its file to carry: model, adapters, seed, settings; JSON, and no paths.

`provenance_tags.py` says how it lies in a file, `read_provenance` reads it back.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from jova_cli import __version__
from jova_cli.clip_info import read_provenance
from jova_cli.model_info import MERGED
from jova_cli.shipped import HUB_NAME

from .generation_defaults import GenerationDefaults
from .pictures import STILLS
from .pipeline_checks import CallInputs
from .prompt import JoVAPrompt
from .sound_cache import JoVACacheConfig


__all__ = ["SOURCE_TYPES", "Record", "basic_record", "describe_call", "name_of_source", "read_provenance"]

Record = dict[str, Any]

# https://cv.iptc.org/newscodes/digitalsourcetype: all of it is made by a model, or some of it was recorded
SOURCE_TYPES = {
    name: f"http://cv.iptc.org/newscodes/digitalsourcetype/{name}"
    for name in ("trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia")
}
GENERIC_NAMES = {"pytorch_lora_weights", "adapter_model", "model", "diffusion_pytorch_model"}  # of files in a folder
GIVEN = (  # arguments that shape a clip and that a record does not hold, but names
    "image",
    "last_image",
    "keyframes",
    "audio",
    "video",
    "speaker_embeds",
    "reference_audio",
    "latents",
    "audio_latents",
    "prompt_embeds",
    "negative_prompt_embeds",
    "audio_negative_prompt_embeds",
    "callback_on_step_end",
)


def basic_record(*, is_recorded: bool = False) -> Record:
    """What is true of every clip that this package writes, where nothing else is known.

    Args:
        is_recorded: Whether a given sound or video is part of the clip as it was.
    """
    kind = "compositeWithTrainedAlgorithmicMedia" if is_recorded else "trainedAlgorithmicMedia"
    return {
        "generated": True,
        "package": f"diffusers_jova {__version__}",
        "digital_source_type": SOURCE_TYPES[kind],
    }


def describe_call(
    pipeline: Any,
    inputs: CallInputs,
    settings: GenerationDefaults,
    *,
    sigmas: Sequence[float] | None = None,
    audio_sigmas: Sequence[float] | None = None,
    attention_kwargs: Mapping[str, Any] | None = None,
) -> list[Record]:
    """One record for each clip of a call, made before the call draws its noise.

    Args:
        pipeline: That is called.
        inputs: Settled.
        settings: Settled.
        sigmas: Of the call.
        audio_sigmas: Of the call.
        attention_kwargs: Of the call.

    Returns:
        Records that JSON holds. `seed` makes the clip again: as the `clip`-th of a batch where one generator drew for
        several; it is None where the noise came from elsewhere, or from a generator that had been used before.
    """
    given = [name for name in GIVEN if getattr(inputs, name) is not None]
    is_recorded = bool({"audio", "video"} & set(given))  # comes back in the clip as it was
    values = {
        **{name: value for name, value in asdict(settings.explicit()).items() if "prompt" not in name},
        "sigmas": None if sigmas is None else [float(sigma) for sigma in sigmas],
        "audio_sigmas": None if audio_sigmas is None else [float(sigma) for sigma in audio_sigmas],
        "lora_scale": (attention_kwargs or {}).get("scale"),
        "modalities": list(inputs.modalities),
        "keyframes": [*(inputs.keyframes or {})] or None,  # their frames
        "fit": inputs.fit if {*STILLS, "video"} & {*given} else None,
        "scheduler": type(pipeline.scheduler).__name__,
        "dtype": str(pipeline.transformer.dtype).removeprefix("torch."),
        "cache": describe_cache(pipeline.transformer._cache_config),
        "memory_plan": None if pipeline.memory_plan is None else asdict(pipeline.memory_plan),
    }
    record = {
        **basic_record(is_recorded=is_recorded),
        "model": name_of_source(pipeline.config.get("_name_or_path")),
        "transformer": type(pipeline.transformer).__name__,
        **({} if pipeline.transformer_file is None else {"transformer_file": pipeline.transformer_file}),
        "handed_in": {name: describe_component(getattr(pipeline, name), name) for name in sorted(pipeline.handed_in)},
        "adapters": active_adapters(pipeline),
        "given": given,
        "settings": {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if value is not None
        },
    }
    texts = {
        "prompt": inputs.prompt,
        "negative_prompt": first_given(inputs.negative_prompt, settings.negative_prompt),
        "audio_negative_prompt": first_given(inputs.audio_negative_prompt, settings.audio_negative_prompt),
    }
    if inputs.reference_transcript is not None:
        texts["reference_transcript"] = inputs.reference_transcript
    records = []
    for index in range(inputs.num_clips):
        of_clip = {name: text_of_clip(text, index, inputs.num_videos_per_prompt) for name, text in texts.items()}
        records.append({**record, **seed_of_clip(inputs.generator, index), **of_clip})
    return records


def describe_cache(config: Any) -> Record | None:
    """The cache between steps that a transformer has, with its settings where they are ours; None for none."""
    if config is None:
        return None
    return {"class": type(config).__name__, **(config.described() if isinstance(config, JoVACacheConfig) else {})}


def first_given(*values: Any) -> Any:
    """The first value that is not None."""
    return next((value for value in values if value is not None), None)


def text_of_clip(text: Any, index: int, clips_per_prompt: int) -> Any:
    """The prompt of one clip of a batch, as JSON holds it."""
    own = text[index // clips_per_prompt % len(text)] if isinstance(text, list) else text
    return asdict(own) if isinstance(own, JoVAPrompt) else own


def seed_of_clip(generator: torch.Generator | Sequence[torch.Generator] | None, index: int) -> Record:
    """The seed of one clip of a batch, and which of its clips this is; see `describe_call`."""
    own, clip = (generator, index) if isinstance(generator, torch.Generator | None) else (generator[index], 0)
    if own is None:
        return {"seed": None, "clip": clip}
    seed = own.initial_seed()
    fresh = torch.Generator(own.device).manual_seed(seed)
    if torch.equal(own.get_state(), fresh.get_state()):
        return {"seed": seed, "clip": clip}
    return {"seed": None, "seed_of_used_generator": seed, "clip": clip}


def name_of_source(source: Any) -> str | None:
    """The name of a model or an adapter without the place where it lies; None where it comes from no file.

    Args:
        source: What it was loaded from: folder, file, address or hub name.
    """
    if not isinstance(source, str | Path) or not str(source):
        return None
    if not Path(source).exists() and HUB_NAME.fullmatch(str(source)):
        return str(source)
    place = Path(source).resolve() if ".." in Path(source).parts else Path(source).absolute()  # a link keeps its name
    parts = [part for part in re.split(r"[/\\]", str(place)) if part]
    name = Path(parts[-1]).stem if Path(parts[-1]).suffix in (".safetensors", ".bin", ".pt") else parts[-1]
    return parts[-2] if name in GENERIC_NAMES and len(parts) > 1 else name


def source_of(component: Any) -> Any:
    """What a component was loaded from, as its class remembers it; None where it does not."""
    source = getattr(getattr(component, "config", None), "_name_or_path", None)
    return getattr(component, "name_or_path", None) if source is None else source  # of a tokenizer


def describe_component(component: Any, name: str) -> Record:
    """Class of a component that came from elsewhere than the model, and the name of what it was loaded from, if any.

    Args:
        component: Of the pipeline.
        name: In the pipeline, as which its folder counts for nothing.
    """
    source = source_of(component)
    if isinstance(source, str | Path) and Path(source).name == name and Path(source).is_dir():
        source = Path(source).parent
    return {"class": type(component).__name__, "from": name_of_source(source)}


def active_adapters(pipeline: Any) -> list[Record]:
    """Name and scale of every adapter that takes part in a call, merged ones too, and those merged before a save."""
    names: dict[str, None] = dict.fromkeys(getattr(pipeline.transformer, "unloaded_adapters", ()))
    for layer in pipeline.transformer.modules():
        if isinstance(layer, BaseTunerLayer):
            is_merged = bool(layer.merged_adapters)  # which leaves the others unread
            used = layer.merged_adapters if is_merged or layer.disable_adapters else layer.active_adapters
            names |= dict.fromkeys(name for name in used if name in pipeline.transformer.peft_config)
    origins: Mapping[str, Any] = pipeline.adapter_origins
    found = [{"name": origins.get(name) or name, "scale": pipeline.adapter_scales.get(name, 1.0)} for name in names]
    return [*(pipeline.transformer.config.get(MERGED) or ()), *found]
