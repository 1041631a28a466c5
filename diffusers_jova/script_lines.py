"""The lines of a long clip: what holds from which second on, and until when its words are said."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from diffusers.utils import logging

from .number_arguments import finite_number
from .pipeline_checks import check_prompt_type
from .prompt import JoVAPrompt


logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class ScriptLine:
    """What holds from a time on, until the next line or the end of the clip.

    Args:
        start_s: Seconds from the beginning of the clip.
        prompt: What is seen, heard and said; a `JoVAPrompt` has its words spread evenly over the windows of the line.
        end_s: Until when its words are said, as `end` of a script for the command line; what is seen and heard holds
            on. None until the next line. A plain text has no words of its own, and holds on as it is.

    Raises:
        ValueError: A time that is none, or no prompt.
    """

    start_s: float
    prompt: str | JoVAPrompt
    end_s: float | None = None

    def __post_init__(self) -> None:
        for name in ("start_s", "end_s"):
            if (value := getattr(self, name)) is not None or name == "start_s":
                seconds = finite_number(name, value, "give seconds from the beginning of the clip")
                if seconds < 0:
                    raise ValueError(f"`{name}` must be 0 s or later, got {seconds:g}; 0 is the beginning of the clip")
                object.__setattr__(self, name, seconds)
        if self.end_s is not None and self.end_s <= self.start_s:
            raise ValueError(f"`end_s` must come after `start_s`, {self.start_s:g}, got {self.end_s:g}; correct it")
        if not isinstance(self.prompt, str | JoVAPrompt):
            raise ValueError(
                f"`prompt` of a line must be a str or a JoVAPrompt, got {self.prompt!r}; pass one of them"
            )
        check_prompt_type("prompt", self.prompt)

    @property
    def silent(self) -> "ScriptLine":
        """What holds when its words are said."""
        assert self.end_s is not None
        prompt = self.prompt if isinstance(self.prompt, str) else replace(self.prompt, transcript="")
        return ScriptLine(self.end_s, prompt)


def check_lines(lines: Sequence[ScriptLine]) -> None:
    """Refuse lines whose times do not ascend from 0, or that overlap."""
    if not lines or lines[0].start_s != 0:
        found = [line.start_s for line in lines[:1]]
        raise ValueError(f"`lines` must begin at 0 s, got {found}; say what the clip begins with")
    for before, line in itertools.pairwise(lines):
        if not before.start_s < line.start_s:
            raise ValueError(
                f"`lines` must have ascending times, got {line.start_s} s after {before.start_s} s; sort them"
            )
        if before.end_s is not None and before.end_s > line.start_s:
            raise ValueError(
                f"`lines` must not overlap, got one from {line.start_s} s before `end_s` {before.end_s} of the last; "
                "correct one of them"
            )


def tell_late_words(lines: Sequence[ScriptLine], duration_s: float, latent_s: float) -> None:
    """Say which words of a script end a latent or more behind their clip."""
    for line in lines:
        if line.end_s is not None and line.end_s - duration_s >= latent_s:
            logger.warning(
                f"the words of the line at {line.start_s:g} s end at {line.end_s:g} s, the clip at {duration_s:.3f} "
                "s: it may lack the last of them"
            )
