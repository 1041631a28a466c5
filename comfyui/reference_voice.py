"""A reference voice: a recording that is read in front of a clip, and what it says, in front of what is said there.

Letters in shapes: B batch, C channels, S units of text, D feature width, R latents of the voice.
"""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from .package import jova
from .sampling_checks import REFERENCE_KEY, REFERENCE_TEXT_KEY, SAID_KEY
from .text import JovaCLIP, changed


NODE = "JoVA Reference Voice"


def with_reference(
    conditionings: Sequence[list[Any]], clip: Any, audio_vae: Any, audio: Mapping[str, Any], transcript: str
) -> list[list[Any]]:
    """CONDITIONINGs whose sound is spoken with the voice of a recording.

    Args:
        conditionings: Stay as they are.
        clip: Of the model.
        audio_vae: Of the model.
        audio: AUDIO of any rate and channels, one for all clips or one per clip.
        transcript: What it says; empty for models that do not read it.

    Raises:
        ValueError: The model reads no reference voice, or the recording or what it says is none that it can read.
    """
    if not isinstance(clip, JovaCLIP):
        raise ValueError(
            f"`clip` must come from Load JoVA, which knows what the sound reads, got a {type(clip).__name__}; connect "
            "CLIP of the same Load JoVA"
        )
    codec, rate_hz, name = audio_vae.codec, audio["sample_rate"], "reference_audio"
    voice = jova("given_media").to_waveform_batch(audio["waveform"], codec.num_channels, name)
    told = transcript.strip() or None
    inputs = SimpleNamespace(
        reference_audio=voice,
        reference_s=voice.shape[2] / rate_hz,
        reference_transcript=told,
        prompt_embeds=None,
        negative_prompt_embeds=None,
    )
    jova("pipeline_checks").check_reference(inputs, audio_vae.outline.config.max_reference_s, clip.reads_transcripts)
    texts = {said: clip.spoken(said, told) for said in said_in(conditionings)} if clip.reads_transcripts else {}
    sound = jova("pipeline_media").with_silence_behind(voice, rate_hz, codec.sampling_rate)
    latents = audio_vae.encode_sound(sound, name)

    def add(options: dict[str, Any]) -> dict[str, Any]:
        return {REFERENCE_KEY: latents, REFERENCE_TEXT_KEY: texts[options[SAID_KEY]] if texts else None}

    return [changed(conditioning, add) for conditioning in conditionings]


def said_in(conditionings: Sequence[list[Any]]) -> set[str]:
    """What is said in the entries of some CONDITIONINGs.

    Raises:
        ValueError: One does not tell it.
    """
    found = [entry[1].get(SAID_KEY) for conditioning in conditionings for entry in conditioning]
    if None in found:
        raise ValueError(
            "`positive` and `negative` must be encoded by the text encoders of this model, whose sound reads what is "
            "said, got a prompt without; connect CLIP of the same Load JoVA to JoVA Prompt and JoVA Negative Prompt"
        )
    return {*found}


def voice_conds(conds: Mapping[str, Any], generated: Sequence[str], checkpoint: Any, config: Any) -> dict[str, Tensor]:
    """What the sound reads of a reference voice, and what is said; nothing of the voice where the sound is given.

    Args:
        conds: Of core.
        generated: Modalities of which something is generated.
        checkpoint: Of the model.
        config: Of its transformer.
    """
    name = str(conds.get("prompt_type") or "positive")
    if checkpoint.reads_transcripts and conds.get("jova_audio_text") is None:
        raise ValueError(
            f"`{name}` must tell what is said, which the sound of this model reads, got a prompt without; connect "
            "CLIP of the same Load JoVA to JoVA Prompt or JoVA Negative Prompt"
        )
    voice, text = conds.get(REFERENCE_KEY), conds.get(REFERENCE_TEXT_KEY)
    if voice is None or "audio" not in generated:
        return {}
    is_read = jova("reference_rows").reads_references(config) and voice.shape[2] == config.audio_in_channels
    if not is_read or (text is None) == checkpoint.reads_transcripts:
        raise ValueError(
            f"`{name}` must bring a reference voice of this model, or none, got one of another; take {NODE} out, or "
            "connect CLIP and audio VAE of the same Load JoVA to it"
        )
    if voice.shape[0] not in (1, len(conds["noise"])):
        raise ValueError(
            f"`reference_audio` must be one for all clips that are sampled or one per clip, got {voice.shape[0]} for "
            f"{len(conds['noise'])}; use another `batch_size`"
        )
    return {REFERENCE_KEY: voice} if text is None else {REFERENCE_KEY: voice, "jova_audio_text": text}


def reference_argument(conds: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Tensor]:
    """The voice as the transformer takes it, if there is one.

    Args:
        conds: From `voice_conds`, on the device.
        dtype: Of the transformer's activations.
    """
    voice = conds.get(REFERENCE_KEY)
    return {} if voice is None else {"audio_reference_hidden_states": voice.to(dtype)}


def check_same_voice(conds: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Refuse a voice in one of both prompts alone: predictions without the prompt read it as well.

    Args:
        conds: Of a guider: entries by the name of their socket.
    """
    voices = {name: {id(entry.get(REFERENCE_KEY)) for entry in entries} for name, entries in conds.items()}
    if len(set().union(*voices.values())) > 1:
        raise ValueError(
            "`positive` and `negative` must bring the same reference voice, got unlike ones; connect both to one "
            f"{NODE}"
        )
