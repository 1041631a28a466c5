"""What a clip by windows refuses before anything is made: arguments of other kinds, media beside each other."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from jova_cli.parser import did_you_mean

from .number_arguments import whole_number
from .pipeline_jova import JoVAPipeline
from .script_lines import ScriptLine


OWN = (  # arguments of a call that a long clip gives itself
    "prompt",
    "prompt_embeds",
    "audio",
    "video",
    "audio_sampling_rate",
    "num_frames",
    "num_videos_per_prompt",
    "generator",
    "latents",
    "audio_latents",
    "output_type",
    "return_dict",
)
LARGEST_SEED = 2**64 - 1  # of torch


class Asked(Protocol):
    """What a caller says of a `LongClip`, as it comes."""

    pipeline: JoVAPipeline
    lines: Any
    num_frames: int | None
    seed: int
    tries: int
    audio: Any
    audio_sampling_rate: int | None
    video: Any
    arguments: Mapping[str, Any]
    announce: Any

    @property
    def modalities(self) -> Sequence[str]:
        """What takes part."""
        ...


def check_kinds(clip: Asked) -> None:
    """Refuse what is of another kind than the arguments are, and arguments that no call has."""
    if not isinstance(clip.pipeline, JoVAPipeline):
        raise ValueError(f"`pipeline` must be a JoVAPipeline, got {clip.pipeline!r}; load one by `from_pretrained`")
    if not isinstance(clip.lines, list | tuple) or not all(isinstance(line, ScriptLine) for line in clip.lines):
        raise ValueError(f"`lines` must be a list of ScriptLine, got {clip.lines!r}; pass `[ScriptLine(0, prompt)]`")
    for name in ("num_frames", "seed", "window_frames", "overlap_frames", "tries"):
        value = getattr(clip, name)
        if value is not None or name in ("seed", "tries"):
            setattr(clip, name, whole_number(name, value, least=0 if name == "seed" else None))
    if clip.seed > LARGEST_SEED:
        raise ValueError(f"`seed` must be at most {LARGEST_SEED}, got {clip.seed}; use a smaller one")
    if not isinstance(clip.arguments, Mapping):
        raise ValueError(f"`arguments` must be a dict of arguments of a call, got {clip.arguments!r}; pass a dict")
    if unfit := [name for name in OWN if name in clip.arguments]:
        raise ValueError(f"`arguments` must leave `{unfit[0]}` to the windows, got it; leave it out")
    if clip.tries < 1:
        raise ValueError(f"`tries` must be at least 1, got {clip.tries}; use 3, say")
    if clip.announce is not None and not callable(clip.announce):
        raise ValueError(f"`announce` must be callable, got {clip.announce!r}; pass a function or leave it out")
    taken = inspect.signature(type(clip.pipeline).__call__).parameters
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values())
    for name in clip.arguments:
        if name not in taken and not takes_all:
            advice = did_you_mean(str(name), [*taken], "leave it out")
            raise ValueError(f"`arguments` must be those of a call of the pipeline, got {name!r}; {advice}")


def check_media(clip: Asked) -> None:
    """Refuse given sound and frames that do not go with each other, or with what takes part."""
    if "video" not in clip.modalities:
        raise ValueError("`modalities` must hold 'video' in a long clip, got sound alone; leave them out")
    if clip.audio is None and clip.audio_sampling_rate is not None:
        raise ValueError("`audio` must go with its rate, got the rate alone; pass the sound")
    if clip.audio is not None and clip.video is not None:
        raise ValueError("`audio` must be left out beside a `video` of the whole clip, got both; give one of them")
    for name in ("audio", "video"):
        if getattr(clip, name) is not None and "audio" not in clip.modalities:
            raise ValueError(
                f"`modalities` must hold 'audio' beside a given `{name}`, got frames alone; leave them out"
            )
    if clip.audio is not None and clip.tries > 1:
        raise ValueError(
            f"`tries` must be 1 beside `audio`, whose pauses no try moves, got {clip.tries}; leave it out"
        )
