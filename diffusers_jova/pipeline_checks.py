"""What a call of `JoVAPipeline` may be given, and an error for every way to be wrong."""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from jova_cli.clip_limits import CALL_WORDS, ClipLimits, GivenLengths, check_largest_size, check_length
from jova_cli.clip_limits import LengthWords as LengthWords  # for the nodes of ComfyUI, as the two below
from jova_cli.clip_limits import check_size as check_size
from jova_cli.latent_lengths import check_frames_fill_rows as check_frames_fill_rows
from jova_cli.latent_lengths import check_whole_frames as check_whole_frames

from .finite import check_finite_inputs
from .generation_defaults import GenerationDefaults
from .media_arrays import MAX_FRAME_RATE_HZ, MIN_FRAME_RATE_HZ, SILENT
from .number_arguments import whole_number
from .pictures import STILLS, Fit, check_fit
from .prompt import JoVAPrompt, PromptEmbeds, check_text
from .transformer_jova import MODALITIES


Prompts = str | JoVAPrompt | list[str] | list[JoVAPrompt]
OUTPUT_TYPES = ("pil", "np", "pt", "latent")


@dataclass(frozen=True, kw_only=True)
class CallInputs:
    """What a call is given, all but the values that a checkpoint has defaults for; see `JoVAPipeline.__call__`.

    Once settled, `image` and `last_image` are lists of pictures [H, W, 3], `keyframes` is a dict of such lists by
    frame and `video` an array [N, H, W, 3], all in one form (see `pictures.py`), `audio` a batch [B, C, S], and
    `audio_sampling_rate` is that of a given `audio`.
    """

    prompt: Prompts | None
    negative_prompt: Prompts | None
    audio_negative_prompt: Prompts | None
    image: Any
    last_image: Any
    keyframes: Any
    audio: Any
    video: Any
    audio_sampling_rate: int | None
    frame_rate: float | None
    fit: Fit
    speaker_embeds: Tensor | None
    reference_audio: Any
    reference_transcript: str | list[str] | None
    reference_audio_sampling_rate: int | None
    num_frames: int | None
    modalities: Sequence[str]
    num_videos_per_prompt: int
    generator: torch.Generator | list[torch.Generator] | None
    latents: Tensor | None
    audio_latents: Tensor | None
    prompt_embeds: PromptEmbeds | Tensor | None
    negative_prompt_embeds: PromptEmbeds | Tensor | None
    audio_negative_prompt_embeds: PromptEmbeds | Tensor | None
    output_type: str
    callback_on_step_end: Callable[..., dict[str, Any] | None] | None
    callback_on_step_end_tensor_inputs: Sequence[str]

    @property
    def reference_s(self) -> float:
        """Seconds of a reference voice, once settled; 0 without."""
        if self.reference_audio is None or self.reference_audio_sampling_rate is None:
            return 0.0
        return np.shape(self.reference_audio)[-1] / self.reference_audio_sampling_rate

    @property
    def negatives(self) -> dict[str, tuple[Prompts | None, PromptEmbeds | Tensor | None]]:
        """Negative prompts and their features, by the name of the argument."""
        return {
            "negative_prompt": (self.negative_prompt, self.negative_prompt_embeds),
            "audio_negative_prompt": (self.audio_negative_prompt, self.audio_negative_prompt_embeds),
        }

    @property
    def num_prompts(self) -> int:
        """Prompts of the call."""
        return count_prompts(self.prompt, self.prompt_embeds)

    @property
    def num_clips(self) -> int:
        """Clips of the call."""
        return self.num_prompts * self.num_videos_per_prompt


class TextWidths(NamedTuple):
    """Widths of the features that a transformer reads, by their names in `PromptEmbeds`; None for those it has not."""

    features: int
    features_2: int | None
    audio_features: int | None

    @classmethod
    def of(cls, config: Mapping[str, Any], reads_transcripts: bool) -> "TextWidths":
        """Those of a config, and of whether the sound reads the transcript alone."""
        audio = config.get("audio_text_dim", config["text_dim"]) if reads_transcripts else None
        return cls(config["text_dim"], config.get("text_dim_2"), audio)

    @classmethod
    def of_embeds(cls, embeds: PromptEmbeds) -> "TextWidths":
        """Those of encoded prompts."""
        parts = (embeds.features, embeds.features_2, embeds.audio_features)
        features, features_2, audio_features = (None if part is None else part.shape[2] for part in parts)
        assert features is not None
        return cls(features, features_2, audio_features)


def count_prompts(prompt: Prompts | None, prompt_embeds: PromptEmbeds | Tensor | None) -> int:
    """Prompts of a call."""
    if prompt is not None:
        return len(prompt) if isinstance(prompt, list) else 1
    features = prompt_embeds.features if isinstance(prompt_embeds, PromptEmbeds) else prompt_embeds
    assert features is not None
    return features.shape[0]


def check_prompts(
    prompt: Prompts | None,
    prompt_embeds: PromptEmbeds | Tensor | None,
    negatives: Mapping[str, tuple[Prompts | None, PromptEmbeds | Tensor | None]],
    widths: TextWidths,
) -> None:
    """Refuse prompts that are missing, doubled, of a wrong type or shape, or as many as fit nothing.

    Args:
        prompt: Texts of the clips.
        prompt_embeds: Or their features.
        negatives: Negative prompts and their features, by the name of the argument.
        widths: Of features that the transformer reads.
    """
    if (prompt is None) == (prompt_embeds is None):
        raise ValueError("exactly one of `prompt` and `prompt_embeds` must be given; describe the clip in `prompt`")
    check_prompt_type("prompt", prompt)
    check_embeds("prompt_embeds", prompt_embeds, widths)
    num_prompts = count_prompts(prompt, prompt_embeds)
    for name, (negative_prompt, embeds) in negatives.items():
        check_prompt_type(name, negative_prompt)
        check_embeds(f"{name}_embeds", embeds, widths)
        if negative_prompt is not None and embeds is not None:
            raise ValueError(f"`{name}` and `{name}_embeds` must not both be given; leave one out")
        if embeds is not None and (num_negative := count_prompts(None, embeds)) != num_prompts:
            raise ValueError(f"`{name}_embeds` must be one per prompt, got {num_negative} for {num_prompts}")
        if isinstance(negative_prompt, list) and len(negative_prompt) != num_prompts:
            raise ValueError(
                f"`{name}` must be one for all or one per prompt, got {len(negative_prompt)} for {num_prompts}"
            )


def check_prompt_type(name: str, prompt: Prompts | None) -> None:
    """Refuse what is no text."""
    listed = prompt if isinstance(prompt, list) else [prompt]
    if prompt is not None and (not listed or not all(isinstance(item, str | JoVAPrompt) for item in listed)):
        raise ValueError(f"`{name}` must be a str, a JoVAPrompt or a list of them, got {prompt!r}")
    for item in listed if prompt is not None else ():
        for part, text in asdict(item).items() if isinstance(item, JoVAPrompt) else [("", item)]:
            check_text(name, text, part)


def describe_tensor(value: Any) -> str:
    """The shape of a tensor, what else a value is."""
    if isinstance(value, Tensor):
        kind = "" if value.is_floating_point() else f" of {value.dtype}"
        return f"{list(value.shape)}{kind}"
    return f"an array {list(value.shape)}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"


def check_tensor(name: str, value: Any, form: str, advice: str) -> None:
    """Refuse what is no tensor, arrays above all, which look alike.

    Args:
        name: Argument, or part of one.
        value: What is given.
        form: What it must be, in words.
        advice: What to do where it is no array.
    """
    if not isinstance(value, Tensor):
        advice = "turn it into one by `torch.from_numpy`" if isinstance(value, np.ndarray) else advice
        raise ValueError(f"`{name}` must be {form}, got {describe_tensor(value)}; {advice}")


def check_embeds(name: str, embeds: Any, widths: TextWidths) -> None:
    """Refuse encoded prompts of other types or shapes than the transformer reads.

    Args:
        name: Argument that they are given as.
        embeds: A tensor stands for features of one encoder; None for nothing.
        widths: Of features that the transformer reads.
    """
    if embeds is None:
        return
    advice = "take it from `encode_prompt` of this pipeline"
    if not isinstance(embeds, PromptEmbeds):
        form = f"a tensor [B, S, {widths.features}] or `PromptEmbeds`"
        check_tensor(name, embeds, form, advice)
        embeds = PromptEmbeds(embeds)
    for part, mask_name in (("features", "mask"), ("features_2", "mask_2"), ("audio_features", "audio_mask")):
        features, mask = getattr(embeds, part), getattr(embeds, mask_name)
        if features is not None or part == "features":
            check_part(name if part == "features" else f"{name}.{part}", features, getattr(widths, part), advice)
        if features is not None and features.shape[0] != embeds.features.shape[0]:
            raise ValueError(
                f"`{name}.{part}` must be as many prompts as its `features`, {embeds.features.shape[0]}, got "
                f"{features.shape[0]}; {advice}"
            )
        check_mask(name, mask, features)
    if widths.features_2 is not None and embeds.features_2 is None:
        raise ValueError(
            f"`{name}` must be `PromptEmbeds` with `features_2` for this model, which has a second text encoder, got "
            f"none; {advice}"
        )
    if (positions := embeds.speaker_positions) is not None:
        check_tensor(f"{name}.speaker_positions", positions, "a tensor of rows of the features [B, P]", advice)


def check_part(name: str, features: Any, width: int | None, advice: str) -> None:
    """Refuse features that are not [B, S, width], and such that the transformer does not read."""
    if width is None:
        raise ValueError(f"`{name}` must be None for this model, which reads none, got {describe_tensor(features)}")
    form = f"a tensor of floats [B, S, {width}]"
    check_tensor(name, features, form, advice)
    is_whole = features.ndim == 3 and features.shape[2] == width and 0 not in features.shape
    if not is_whole or not features.is_floating_point():
        raise ValueError(f"`{name}` must be {form}, got {describe_tensor(features)}; {advice}")


def check_mask(name: str, mask: Any, features: Tensor | None) -> None:
    """Refuse a mask of encoded prompts that does not belong to their features."""
    if mask is None:
        return
    if features is None:
        raise ValueError(f"mask of `{name}` must go with features, got it alone; leave it out")
    shape = list(features.shape[:2])
    if not isinstance(mask, Tensor) or list(mask.shape) != shape:
        found = list(mask.shape) if isinstance(mask, Tensor) else describe_tensor(mask)
        raise ValueError(
            f"mask of `{name}` must be {shape}, one value per row of its features, got {found}; pad both alike"
        )
    if mask.is_floating_point():
        raise ValueError(
            f"mask of `{name}` must be bool, True for rows that are read, got {mask.dtype}; `mask == 1`, say"
        )


def check_template(template: str) -> None:
    """Refuse a prompt template that `JoVAPrompt.render` cannot fill in."""
    if not isinstance(template, str) or "{video}" not in template:
        raise ValueError(
            f"`prompt_template` must be a str with a form such as '{{video}}' per line, got {template!r}; "
            f"see `diffusers_jova.prompt.PROMPT_TEMPLATE`"
        )


def check_output(inputs: CallInputs, known_tensors: Sequence[str]) -> None:
    """Refuse a fit, a number of clips, a type of output, a callback or tensors for it that cannot be.

    Args:
        inputs: Of the call.
        known_tensors: Names of the tensors that a callback may ask for.
    """
    check_fit(inputs.fit)
    num_videos, output_type, callback = inputs.num_videos_per_prompt, inputs.output_type, inputs.callback_on_step_end
    whole_number("num_videos_per_prompt", num_videos, least=1)
    if output_type not in OUTPUT_TYPES:
        raise ValueError(f"`output_type` must be one of {list(OUTPUT_TYPES)}, got {output_type!r}; use 'np', say")
    if callback is not None and not callable(callback):
        raise ValueError(f"`callback_on_step_end` must be callable, got {callback!r}; pass a function or leave it out")
    check_names("callback_on_step_end_tensor_inputs", inputs.callback_on_step_end_tensor_inputs, known_tensors)
    if unknown := [name for name in inputs.callback_on_step_end_tensor_inputs if name not in known_tensors]:
        if hasattr(callback, "tensor_inputs"):
            raise ValueError(
                f"`tensor_inputs` of a {type(callback).__name__} must be in {list(known_tensors)}, got {unknown}; "
                "use a callback that asks for no others, such as `SDCFGCutoffCallback`"
            )
        raise ValueError(
            f"`callback_on_step_end_tensor_inputs` must be in {list(known_tensors)}, got {unknown}; leave these out"
        )


def check_names(argument: str, names: Any, known: Sequence[str]) -> None:
    """Refuse what is no list of names, such as one of them alone.

    Args:
        argument: That they are given as.
        names: What is given.
        known: Those that there are, for advice.
    """
    is_list = isinstance(names, Sequence | Set) and not isinstance(names, str | bytes)
    if is_list and all(isinstance(name, str) for name in names):
        return
    example = [names] if isinstance(names, str) and names in known else [known[0]]
    raise ValueError(f"`{argument}` must be a list of names out of {list(known)}, got {names!r}; pass {example}, say")


GIVEN_FOR = (  # a modality
    *(("image", "video"), ("last_image", "video"), ("keyframes", "video"), ("video", "video"), ("latents", "video")),
    *(("audio", "audio"), ("speaker_embeds", "audio"), ("audio_latents", "audio")),
    *(("reference_audio", "audio"), ("reference_transcript", "audio")),
)


def check_modality_names(modalities: Any) -> None:
    """Refuse modalities that do not exist or come twice, and what is no list of them."""
    check_names("modalities", modalities, MODALITIES)
    if not modalities or any(name not in MODALITIES for name in modalities):
        raise ValueError(
            f"`modalities` must be a choice of {list(MODALITIES)}, got {list(modalities)}; None takes all"
        )
    if len({*modalities}) < len(modalities):
        raise ValueError(f"`modalities` must name each modality once, got {list(modalities)}; leave the others out")


def check_modalities(inputs: CallInputs, reads_reference_image: bool, needs_image: bool) -> None:
    """Refuse what is given for a modality that takes no part, and what excludes each other.

    Args:
        inputs: Of the call.
        reads_reference_image: Whether the model reads an image in front of a clip, which then may begin otherwise.
        needs_image: Whether no clip begins without a given first frame.
    """
    modalities = inputs.modalities
    for name, modality in GIVEN_FOR:
        if getattr(inputs, name) is not None and modality not in modalities:
            raise ValueError(f"`{name}` must be None where `modalities` lacks {modality!r}; leave one of them out")
    if needs_image and "video" in modalities and inputs.image is None and inputs.video is None:
        raise ValueError(
            "`image` must be given to this model, whose clips begin with one, got neither `image` nor `video`; pass "
            "the first frame, or `modalities=['audio']`"
        )
    if inputs.image is not None and inputs.video is not None and not reads_reference_image:
        raise ValueError("`image` and `video` must not both be given; a given video brings its first frame")


def check_generator(generator: Any, num_clips: int) -> None:
    """Refuse what is no source of noise, such as a seed, and a list that has not one for each clip."""
    listed = generator if isinstance(generator, list) else [generator]
    if generator is not None and not all(isinstance(item, torch.Generator) for item in listed):
        raise ValueError(
            f"`generator` must be a torch.Generator or a list of them, got {generator!r}; pass "
            "`torch.Generator().manual_seed(seed)`"
        )
    if isinstance(generator, list) and len(generator) != num_clips:
        raise ValueError(
            f"`generator` must be one for all clips or one per clip, got {len(generator)} for {num_clips}"
        )


def check_speakers(
    speaker_embeds: Tensor | None,
    speaker_dim: int | None,
    speaker_token: str | None,
    prompt_embeds: PromptEmbeds | Tensor | None,
) -> None:
    """Refuse voices that the model cannot read or that have no place in the prompt.

    Args:
        speaker_embeds: Voices [P, D] or [B, P, D].
        speaker_dim: D of the transformer; None for one without voices.
        speaker_token: Token that voices replace; None for a pipeline without.
        prompt_embeds: Encoded prompts, if they take the place of text.
    """
    if speaker_embeds is None:
        return
    if speaker_dim is None:
        raise ValueError(
            "`speaker_embeds` must be None for a transformer without `speaker_dim`, got voices; leave them out, or "
            "load a model that reads them, such as NAVA"
        )
    shape = list(speaker_embeds.shape) if isinstance(speaker_embeds, Tensor) else type(speaker_embeds).__name__
    if not isinstance(shape, list) or len(shape) not in (2, 3) or shape[-1] != speaker_dim:
        raise ValueError(
            f"`speaker_embeds` must be a tensor [P, {speaker_dim}] or [B, P, {speaker_dim}], got {shape}; use the "
            f"speaker encoder that the model was trained with"
        )
    check_finite_inputs({"speaker_embeds": speaker_embeds}, "use zeros for an unknown voice")
    if prompt_embeds is not None:
        check_speaker_positions(prompt_embeds)
    elif speaker_token is None:
        raise ValueError(
            "`speaker_token` must be in the config of a pipeline that is given `speaker_embeds`, got None; pass "
            "`speaker_token='<extra_id_2>'` to `from_pretrained` for NAVA"
        )


def check_reference(
    inputs: CallInputs, longest_s: float | None, reads_transcripts: bool, is_guided: bool = True
) -> None:
    """Refuse a reference voice that the model cannot read, or a transcript that does not go with one.

    Args:
        inputs: Settled.
        longest_s: Longest reference voice in seconds that the model reads; None for one that reads none.
        reads_transcripts: Whether the sound reads what is said, that of the reference voice too.
        is_guided: Whether predictions without the prompt are made, which read what the voice says as well.
    """
    if inputs.reference_audio is None:
        if inputs.reference_transcript is not None:
            raise ValueError(
                "`reference_transcript` must go with `reference_audio`, got it alone; pass the voice that says it"
            )
        return
    if longest_s is None:
        raise ValueError(
            "`reference_audio` must be None for a model that reads no reference voice, which `max_reference_s` in the "
            "config of its pipeline tells, got sound; give it as the beginning of the clip, `audio` with a "
            "`num_frames` beyond it and its words in front of those of the prompt, or load one that does, such as "
            "UniAVGen"
        )
    if inputs.reference_s > longest_s:
        raise ValueError(
            f"`reference_audio` must last at most {longest_s:g} s beside a clip of this model, got "
            f"{inputs.reference_s:.3f} s; cut it"
        )
    if np.abs(np.asarray(inputs.reference_audio)).max(initial=0) < SILENT:
        raise ValueError(
            "`reference_audio` must hold a voice, got silence in what its channels have in common; use another "
            "recording, or one of its channels"
        )
    texts = inputs.reference_transcript
    said = texts if isinstance(texts, list) else [texts]
    for text in said if texts is not None else ():
        check_text("reference_transcript", text)
    if not reads_transcripts and texts is not None:
        raise ValueError(
            f"`reference_transcript` must be None for a model without `spoken_text_encoder`, got {texts!r}; leave it "
            "out"
        )
    negative = inputs.negative_prompt_embeds
    is_encoded = inputs.prompt_embeds is not None and (
        not is_guided or (isinstance(negative, PromptEmbeds) and negative.audio_features is not None)
    )
    if reads_transcripts and not is_encoded and not all(isinstance(text, str) and text.strip() for text in said):
        raise ValueError(
            "`reference_transcript` must be what `reference_audio` says, which this model reads with it, got "
            f"{texts!r}; write it down"
        )


def check_spoken_features(name: str, embeds: PromptEmbeds | Tensor | None) -> None:
    """Refuse encoded prompts without what is said, for a model whose sound reads that alone."""
    if embeds is not None and (not isinstance(embeds, PromptEmbeds) or embeds.audio_features is None):
        raise ValueError(
            f"`{name}` must be `PromptEmbeds` with `audio_features` for this model, whose sound reads what is said, "
            "got none; take them from `encode_prompt`"
        )


def check_speaker_positions(prompt_embeds: PromptEmbeds | Tensor) -> None:
    """Refuse encoded prompts that do not say where their speakers stand."""
    positions = prompt_embeds.speaker_positions if isinstance(prompt_embeds, PromptEmbeds) else None
    if positions is None:
        raise ValueError(
            "`prompt_embeds` must be `PromptEmbeds` with `speaker_positions` where `speaker_embeds` are given, got "
            "none; take them from `encode_prompt`"
        )
    assert isinstance(prompt_embeds, PromptEmbeds)
    num_prompts, num_rows = prompt_embeds.features.shape[:2]
    if positions.ndim != 2 or positions.shape[0] != num_prompts or bool((positions >= num_rows).any()):
        raise ValueError(
            f"`speaker_positions` must be rows of the features, [{num_prompts}, P] with values below {num_rows}, got "
            f"{positions.tolist()}; -1 is no row"
        )


def check_something_is_generated(generated: Sequence[str], given: Sequence[str], inputs: CallInputs) -> None:
    """Refuse a call whose given media leave nothing to generate.

    Args:
        generated: Modalities of which something is left.
        given: Those of which something is given.
        inputs: Of the call.
    """
    if not generated:
        said = dict(zip(given, given, strict=True))
        if inputs.video is None and "video" in given:
            stills = [f"`{name}`" for name in STILLS if getattr(inputs, name) is not None]
            said["video"] = f"pictures ({' and '.join(stills)})"
        other = "" if len(inputs.modalities) > 1 else ", or let the other modality take part"
        raise ValueError(
            f"something must be left to generate, got given {' and '.join(said.values())} for the whole clip; "
            f"raise `num_frames` to continue it{other}"
        )


def check_frame_rate(frame_rate: float) -> None:
    """Refuse a rate that no clip has."""
    if not MIN_FRAME_RATE_HZ <= frame_rate <= MAX_FRAME_RATE_HZ:
        raise ValueError(
            f"`frame_rate` must be positive, from {MIN_FRAME_RATE_HZ:g} to {MAX_FRAME_RATE_HZ:g}, got {frame_rate}; "
            "use 16 or 24, say"
        )


def check_limits(
    inputs: CallInputs, settings: GenerationDefaults, limits: ClipLimits | None, own: GenerationDefaults
) -> None:
    """Refuse a clip that is longer or larger than the transformer has positions for, by what makes it so.

    Args:
        inputs: Of the call.
        settings: Of the call, the pipeline's own where it says nothing.
        limits: Of the transformer; None where it has none.
        own: What the pipeline takes where a call says nothing.
    """
    if limits is None:
        return
    words = CALL_WORDS
    if settings.frame_rate > own.frame_rate:
        words = words._replace(
            slower=f", or read the video by `media.read_video(path, frame_rate={own.frame_rate:g})`"
        )
    check_length(settings.num_frames, settings.frame_rate, limits.num_frames, given_lengths(inputs), words)
    if "video" in inputs.modalities:
        check_largest_size(settings, limits, own)


def given_lengths(inputs: CallInputs) -> GivenLengths:
    """How long the given media of settled inputs are."""
    num_frames = None if inputs.video is None else len(inputs.video)
    if inputs.audio is None or inputs.audio_sampling_rate is None:
        return GivenLengths(num_frames)
    return GivenLengths(num_frames, np.shape(inputs.audio)[-1], inputs.audio_sampling_rate)
