"""Arguments of a call that nothing reads, or that mean another thing elsewhere: each is named in one line, with why.

A value that says what holds anyway, such as a scale of 1 where guidance is off, is no such argument.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffusers.utils import logging

from .generation_defaults import GenerationDefaults
from .guidance import lies_within
from .pictures import STILLS


logger = logging.get_logger(__name__)

SAYS_NOTHING: Mapping[str, Any] = {  # values that change nothing; of other arguments None alone
    **dict.fromkeys(("guidance_scale", "audio_guidance_scale", "coupling_scale", "audio_coupling_scale"), 1),
    **dict.fromkeys(("guidance_rescale", "audio_guidance_rescale", "apg_eta"), 0),
    **dict.fromkeys(("zero_init_steps", "audio_zero_init_steps"), 0),
    **dict.fromkeys(("cfg_zero_star", "audio_cfg_zero_star"), False),
    **dict.fromkeys(("guidance_interval", "coupling_interval"), (0, 1)),
    **dict.fromkeys(("negative_prompt", "audio_negative_prompt"), ""),
    "audio_speaker_scale": 1,
    "uncoupled_text": "empty",
    "fit": "cover",
    "callback_on_step_end_tensor_inputs": ("latents",),
}
LOWEST_START = 0.9  # of schedules that are meant for noise; solvers begin a little below 1
NEGATIVES = ("negative_prompt", "negative_prompt_embeds", "audio_negative_prompt", "audio_negative_prompt_embeds")
OF_AUDIO = ("guidance_scale", "guidance_rescale", "cfg_zero_star", "zero_init_steps")  # twins with `audio_`
SHARED = (*OF_AUDIO, "sigmas", "negative_prompt", "negative_prompt_embeds")


@dataclass(frozen=True, kw_only=True)
class ReadingCall:
    """What decides which arguments of a call are read.

    Args:
        given: Its arguments by name; None for those that are not given.
        settings: With the defaults of the checkpoint.
        modalities: What takes part.
        generated: What of it is not given whole.
        reads_negative_prompt: Whether any step asks for a prediction without the prompt.
        has_adapters: Whether an adapter is active, and no part of the weights, in the transformer.
        num_steps: Steps of the solver in the call.
    """

    given: Mapping[str, Any]
    settings: GenerationDefaults
    modalities: Sequence[str]
    generated: Sequence[str]
    reads_negative_prompt: bool
    has_adapters: bool
    num_steps: int

    def lacks(self, *names: str) -> bool:
        """Whether none of these arguments is given."""
        return all(self.given[name] is None for name in names)

    @property
    def guides_by_text(self) -> bool:
        """Whether the text guides any modality."""
        return {self.settings.guidance_scale, self.settings.audio_guidance_scale} - {1, None} != set()

    @property
    def guides_by_coupling(self) -> bool:
        """Whether the modalities guide each other."""
        return any(own.coupling_scale != 1 for own in self.settings.guidance().values())

    def guides(self, modality: str) -> bool:
        """Whether anything guides a modality that is generated."""
        own = self.settings.guidance()[modality]
        return modality in self.generated and {own.guidance_scale, own.coupling_scale, own.speaker_scale} != {1}

    def holds_nowhere(self, interval: str) -> bool:
        """Whether no step lies within an interval."""
        fractions = getattr(self.settings, interval)
        return not any(lies_within(fractions, step, self.num_steps) for step in range(self.num_steps))

    @property
    def projects(self) -> bool:
        """Whether guidance of any modality that is generated is projected."""
        thresholds = {"video": self.settings.apg_threshold, "audio": self.settings.audio_apg_threshold}
        is_guided = self.guides_by_text or self.guides_by_coupling or self.settings.audio_speaker_scale != 1
        return is_guided and any(thresholds[name] is not None for name in self.generated)

    @property
    def scale_of_adapters(self) -> list[str]:
        """The argument that weighs adapters, where it does."""
        scale = (self.given["attention_kwargs"] or {}).get("scale", 1)
        return [] if scale == 1 else ["attention_kwargs"]

    @property
    def own_of_audio(self) -> list[str]:
        """Arguments of video that audio would follow, had it none of its own."""
        has_prompt = self.settings.audio_negative_prompt is not None
        has_prompt |= not self.lacks("audio_negative_prompt", "audio_negative_prompt_embeds")
        has_own = {
            **{name: getattr(self.settings, f"audio_{name}") is not None for name in OF_AUDIO},
            "sigmas": not self.lacks("audio_sigmas"),
            "negative_prompt": has_prompt,
            "negative_prompt_embeds": has_prompt,
        }
        return [name for name in SHARED if has_own[name]]


Rule = tuple[Callable[[ReadingCall], bool], Callable[[ReadingCall], Sequence[str]] | Sequence[str], str]
RULES: Sequence[Rule] = (  # where it holds, what is then not read, and why
    (
        lambda call: "audio" not in call.generated,
        (
            *(f"audio_{name}" for name in OF_AUDIO),
            *("audio_apg_threshold", "audio_speaker_scale"),
            *("audio_sigmas", "audio_latents", "reference_audio", "reference_transcript"),
        ),
        "no sound is generated",
    ),
    (lambda call: "video" not in call.generated, ("apg_threshold", "latents"), "no video is generated"),
    (
        lambda call: "video" not in call.modalities,
        lambda call: call.own_of_audio,
        "no video is generated, and sound has its own",
    ),
    (
        lambda call: "audio" not in call.modalities,
        ("audio_negative_prompt", "audio_negative_prompt_embeds"),
        "sound takes no part",
    ),
    (lambda call: "video" not in call.modalities, ("height", "width"), "video takes no part"),
    (
        lambda call: not call.guides_by_coupling,
        ("coupling_scale", "audio_coupling_scale", "coupling_interval", "uncoupled_text"),
        "video and audio are not guided by each other",
    ),
    (lambda call: not call.reads_negative_prompt, NEGATIVES, "guidance by text is off"),
    (lambda call: not call.guides_by_text, ("guidance_interval",), "guidance by text is off"),
    *(
        (
            lambda call, kind=kind: call.holds_nowhere(f"{kind}_interval"),
            (f"{kind}_scale", f"audio_{kind}_scale", f"{kind}_interval"),
            f"none of the steps lies within `{kind}_interval` as a whole",
        )
        for kind in ("guidance", "coupling")
    ),
    (lambda call: not call.guides("video"), ("apg_threshold",), "the video is not guided"),
    (
        lambda call: not call.guides("audio"),
        ("audio_apg_threshold", "audio_guidance_rescale"),
        "the sound is not guided",
    ),
    (
        lambda call: not (call.guides("video") or call.guides("audio")),
        ("guidance_rescale",),
        "guidance is off",
    ),
    (
        lambda call: not call.reads_negative_prompt,
        ("cfg_zero_star", "audio_cfg_zero_star"),
        "no prediction is made without the prompt",
    ),
    (lambda call: not call.projects, ("apg_eta",), "guidance is off, or no `apg_threshold` is given"),
    (lambda call: call.lacks("speaker_embeds"), ("audio_speaker_scale",), "no `speaker_embeds` are given"),
    (lambda call: call.lacks("audio"), ("audio_sampling_rate",), "no `audio` is given"),
    (
        lambda call: call.lacks("reference_audio"),
        ("reference_audio_sampling_rate",),
        "no `reference_audio` is given",
    ),
    (lambda call: call.lacks(*STILLS, "video"), ("fit",), "no picture or `video` is given"),
    (
        lambda call: call.lacks("callback_on_step_end"),
        ("callback_on_step_end_tensor_inputs",),
        "no `callback_on_step_end` is given",
    ),
    (lambda call: not call.has_adapters, lambda call: call.scale_of_adapters, "no adapter is active"),
)


def warn_of_arguments(call: ReadingCall) -> None:
    """Say, in one line each, what nothing reads and what means another thing than elsewhere."""
    warn_of_unread(call)
    warn_of_weak_prompt(call)
    warn_of_coupling_that_stays(call)
    warn_of_low_start(call)


def warn_of_unread(call: ReadingCall) -> None:
    """Say in one line per reason which arguments of a call nothing reads."""
    for reason, names in unread_arguments(call).items():
        said = ", ".join(f"`{name}`" for name in names)
        logger.warning(f"{said} {'is' if len(names) == 1 else 'are'} not used: {reason}")


def warn_of_weak_prompt(call: ReadingCall) -> None:
    """Say in one line that a scale below 1 takes from the prompt, where pipelines of diffusers have it as off."""
    unread = {name for names in unread_arguments(call).values() for name in names}
    for name in ("guidance_scale", "audio_guidance_scale"):
        scale = call.given[name]
        if scale is None or scale >= 1 or name in unread:
            continue
        effect = "leaves the prompt out" if scale == 0 else "weakens the prompt" if scale > 0 else "avoids the prompt"
        logger.warning(f"`{name}` of {scale:g} {effect}; without guidance it is 1, not 0 as in other pipelines")


def warn_of_coupling_that_stays(call: ReadingCall) -> None:
    """Say in one line that a call without guidance by text still has the model's own guidance by coupling."""
    scale = call.settings.guidance()["video"].coupling_scale
    if call.given["guidance_scale"] == 1 and call.lacks("coupling_scale") and scale != 1:
        logger.warning(
            f"guidance by text is off, and that by coupling stays at {scale:g}, the model's own: `coupling_scale` of "
            "1 turns it off, too"
        )


def warn_of_low_start(call: ReadingCall) -> None:
    """Say in one line that a schedule begins below the level of the noise that a clip is drawn from."""
    for modality, name, start in (("video", "sigmas", "latents"), ("audio", "audio_sigmas", "audio_latents")):
        if modality not in call.generated or not call.lacks(start) or call.lacks(name):
            continue
        if (level := float(call.given[name][0])) < LOWEST_START:
            logger.warning(
                f"`{name}` begin at {level:g}, and what is drawn is noise of level 1: give `{start}` of that level, "
                "or begin at 1"
            )


def unread_arguments(call: ReadingCall) -> dict[str, list[str]]:
    """Arguments that are given and not read, by the first reason that holds for each."""
    reasons: dict[str, str] = {}
    for holds, names, reason in RULES:
        if holds(call):
            unread = names(call) if callable(names) else names
            reasons = {name: reason for name in unread if says_something(name, call.given[name])} | reasons
    return {why: [name for name, other in reasons.items() if other == why] for why in dict.fromkeys(reasons.values())}


def says_something(name: str, value: Any) -> bool:
    """Whether an argument is given, with a value that would change something."""
    neutral = SAYS_NOTHING.get(name)
    if isinstance(value, list | tuple) and isinstance(neutral, tuple):
        return tuple(value) != neutral
    return value is not None and (neutral is None or value != neutral)
