"""Text encoders as a CLIP socket carries them, and what prompts become in a CONDITIONING.

The features stand where core's nodes expect them, with the rest beside them under the names that the model reads.
Letters in shapes: B prompts, S tokens, D feature width, P voices.
"""

import copy
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.model_management
import torch
from torch import Tensor, nn

from .casting import make_castable
from .codecs import Component, to_socket
from .package import jova
from .sampling_checks import PLACES_KEY, SAID_KEY, VOICE_KEYS


logger = logging.getLogger(__name__)

BYTES_PER_TOKEN = 2**20  # of activations: 5120 wide, 27648 in the feed-forward, a few copies alive


class JovaCLIP(Component):
    """One or two text encoders.

    Args:
        saved: The pipeline that they belong to.
        dtype: Of their weights.
    """

    def __init__(self, saved: Any, dtype: torch.dtype) -> None:
        management = comfy.model_management
        names = jova("saved_pipeline").TEXT
        devices = (management.text_encoder_device(), management.text_encoder_offload_device())
        super().__init__(saved, names, *devices, dtype=dtype)
        self.defaults = saved.defaults

    def prepare(self, module: nn.Module) -> None:
        """Let core keep layers elsewhere: text encoders are larger than many a card."""
        make_castable(module)

    # what core's nodes call

    @property
    def cond_stage_model(self) -> nn.Module:
        """Where core's LoRA nodes look for modules; adapters of text encoders are not made for these models."""
        return self.module

    def clone(self) -> "JovaCLIP":
        """Another handle of the same encoders, with patches of its own."""
        clone = copy.copy(self)
        clone._patcher = self.patcher.clone()
        return clone

    def add_patches(self, patches: Any, strength_patch: float = 1.0, strength_model: float = 1.0) -> Any:
        """Patch weights, as core's LoRA nodes do."""
        return self.patcher.add_patches(patches, strength_patch, strength_model)

    def tokenize(self, text: str, **_: Any) -> dict[str, list[str]]:
        """Text as `encode_from_tokens_scheduled` takes it: tokens are made there."""
        return {"texts": [text]}

    def encode_from_tokens_scheduled(
        self, tokens: dict[str, list[str]], unprojected: bool = False, add_dict: Any = None, show_pbar: bool = True
    ) -> list[Any]:
        """A CONDITIONING of plain text."""
        return self.encode_prompt(tokens["texts"][0], **(add_dict or {}))

    # what our nodes call

    @property
    def reads_transcripts(self) -> bool:
        """Whether the sound reads what is said alone, and the picture the rest of a prompt."""
        is_spoken: bool = self.saved.has("spoken_text_encoder")
        return is_spoken

    def encode_prompt(
        self, prompt: Any, said: str | None = None, said_by: str = "transcript", **extras: Any
    ) -> list[Any]:
        """A CONDITIONING of a string or a `JoVAPrompt`.

        Args:
            prompt: What is seen, and heard where one text serves both.
            said: What is said, for models whose sound reads that alone; None says nothing.
            said_by: Widget that it came from.
            extras: Further options of it.
        """
        embeds = self.features(prompt)
        options = {"pooled_output": None, **named(embeds, "jova_text"), PLACES_KEY: embeds.speaker_positions, **extras}
        options.pop("jova_text")
        if self.reads_transcripts:
            said = jova("spoken_text").NOTHING if said is None else said
            options |= {SAID_KEY: said, "jova_audio_text": self.spoken(said, name=said_by)}
        return [[to_socket(embeds.features), options]]

    def spoken(self, said: str, reference: str | None = None, name: str = "transcript") -> Tensor:
        """Features [1, S, D] of what is said, behind what a reference voice says.

        Args:
            said: What is said.
            reference: What the voice says; None without one.
            name: Widget that what is said came from.

        Raises:
            ValueError: A character is none that the model can say.
        """
        pipeline = self.at_work()
        features, _ = pipeline.encode_spoken(name, pipeline.joined_texts(name, [said], reference))
        return to_socket(features)

    def at_work(self) -> Any:
        """The pipeline with its text encoders on the device."""
        pipeline = self.ready(self.defaults.max_sequence_length * BYTES_PER_TOKEN, is_whole=False)
        for part in self.module.values():  # type: ignore[operator]
            part.execution_device = self.patcher.load_device
        return pipeline

    def features(self, prompt: Any) -> Any:
        """`PromptEmbeds` of a string or a `JoVAPrompt`."""
        pipeline, length = self.at_work(), self.defaults.max_sequence_length
        if not isinstance(prompt, str):
            pipeline.warn_of_unread_parts(prompt)
        texts = pipeline.render_prompts(prompt)
        if said := jova("domain").describe_strangers(pipeline.config.get("domain"), texts[0], has_image=False):
            logger.warning(said)
        return pipeline.encode_texts(texts, length)


def named(embeds: Any, prefix: str) -> dict[str, Tensor | None]:
    """`PromptEmbeds` under the names that the model reads."""
    parts = {prefix: embeds.features, f"{prefix}_2": embeds.features_2, f"{prefix}_mask": embeds.joint_mask()}
    return {
        name: to_socket(part) if name != f"{prefix}_mask" and part is not None else part
        for name, part in parts.items()
    }


def encode_parts(clip: Any, video: str, audio: str, transcript: str) -> list[Any]:
    """A CONDITIONING of the three parts of a prompt, in the form of the model."""
    prompt = jova("prompt").JoVAPrompt(video=video, audio=audio, transcript=transcript)
    if isinstance(clip, JovaCLIP):
        return clip.encode_prompt(prompt, said=prompt.transcript.strip())
    text = prompt.render(jova("prompt").PROMPT_TEMPLATE)
    encoded: list[Any] = clip.encode_from_tokens_scheduled(clip.tokenize(text))
    return encoded


def encode_negative(clip: Any, text: str, audio: str) -> list[Any]:
    """A CONDITIONING of negative prompts; what is empty is the model's own."""
    if not isinstance(clip, JovaCLIP):
        raise ValueError(
            f"`clip` must come from Load JoVA, which knows the model's negative prompts, got a {type(clip).__name__}; "
            "use CLIPTextEncode"
        )
    defaults = clip.defaults
    audio_text = audio.strip() or defaults.audio_negative_prompt
    negative = clip.encode_prompt(text.strip() or defaults.negative_prompt, said=audio_text, said_by="audio")
    if audio_text is None or clip.reads_transcripts:  # the sound reads what the picture reads, or it is in already
        return negative
    features = named(clip.features(audio_text), "jova_audio_text")
    return changed(negative, lambda _: features)


def with_voices(conditioning: list[Any], path: Path) -> list[Any]:
    """A CONDITIONING whose speakers have voices, behind those that it has already.

    Args:
        conditioning: With a place per speaker.
        path: File of vectors, [D] or [P, D].
    """
    voices = jova("speakers").read_voices(path)

    def add(options: dict[str, Any]) -> dict[str, Any]:
        places, given = options.get(PLACES_KEY), options.get(VOICE_KEYS[0])
        if places is None:
            raise ValueError(
                "`positive` must be a prompt of a model that reads voices, encoded by the CLIP of Load JoVA, got one "
                "without places for speakers; use NAVA, say"
            )
        num_given = 0 if given is None else int(options["jova_num_voices"])
        given = voices if given is None else torch.cat([given[:, :num_given], voices], dim=1)
        embeds, positions = jova("speakers").Speakers.match(given, places)
        return {
            **dict(zip(VOICE_KEYS, (embeds, positions), strict=True)),
            "jova_num_voices": num_given + voices.shape[1],
        }

    return changed(conditioning, add)


def changed(conditioning: list[Any], change: Callable[[dict[str, Any]], dict[str, Any]]) -> list[Any]:
    """A CONDITIONING with other options in each of its entries; the given one stays as it is."""
    return [[features, {**options, **change(options)}, *rest] for features, options, *rest in conditioning]
