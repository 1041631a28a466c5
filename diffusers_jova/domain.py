"""What a model of few things knows, as its pipeline's config tells: a name and all words of its prompts."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from diffusers.utils import logging

from .prompt import JoVAPrompt


logger = logging.get_logger(__name__)

TAG = re.compile(r"<[^<>]*>")  # of a prompt template, such as `<S>`
WORD = re.compile(r"(?:[^\W_]|')+")  # of any alphabet
PICTURES = "<pictures>"  # among words that were told of; no word has such letters
NO_WORDS = "<no words>"  # likewise
EMPTY_PROMPT = "the prompt is empty: what the clip shows is left to the model"


def words_of(text: str) -> set[str]:
    """The words of a prompt, in small letters and without tags."""
    return set(WORD.findall(TAG.sub(" ", text).lower()))


def check_domain(domain: Mapping[str, Any] | None) -> None:
    """Refuse a `domain` without its two entries."""
    if domain is not None and not (set(domain) == {"name", "words"} and isinstance(domain["name"], str)):
        raise ValueError(f"`domain` must have the entries `name` and `words`, got {domain!r}; pass both, or None")


def describe_strangers(domain: Mapping[str, Any] | None, text: str, has_image: bool) -> str | None:
    """Say in one line that a model may not know what is asked for; None for models of the world and for known words.

    Args:
        domain: Of the pipeline's config.
        text: The prompt.
        has_image: Whether a picture is given, which no word describes.
    """
    if domain is None:
        return None
    strangers = sorted(words_of(text) - set(domain["words"]))
    if not strangers and not has_image:
        return None
    given = [f"the words {', '.join(strangers[:5])}{' ...' if len(strangers) > 5 else ''}"] if strangers else []
    given += ["other pictures"] if has_image else []
    return f"this model knows {domain['name']} only, and not {' or '.join(given)}: see its card"


def tell_size(
    domain: Mapping[str, Any] | None, size: tuple[int, int], own_size: tuple[int, int], told: set[str]
) -> None:
    """Say in one line that a model of few things has seen them in one size alone, once of each other size.

    Args:
        domain: Of the pipeline's config.
        size: Height and width of a clip.
        own_size: Those of the model's own clips.
        told: What was told of; gets the size.
    """
    asked, own = (f"{width}x{height}" for height, width in (size, own_size))
    if domain is not None and size != own_size and asked not in told:
        told.add(asked)
        logger.warning(f"this model knows {domain['name']} of {own} pixels only: at {asked} it repeats or cuts them")


def tell_rate(domain: Mapping[str, Any] | None, frame_rate: float, own_rate: float, told: set[str]) -> None:
    """Say in one line that a model of few things has seen them at one frame rate alone, once of each other rate.

    Args:
        domain: Of the pipeline's config.
        frame_rate: Of a clip, in frames per second.
        own_rate: That of the model's own clips.
        told: What was told of; gets the rate.
    """
    asked = f"{frame_rate:g} per second"
    if domain is not None and frame_rate != own_rate and asked not in told:
        told.add(asked)
        logger.warning(
            f"this model knows {domain['name']} at {own_rate:g} frames per second only, and not at {frame_rate:g}: "
            "see its card"
        )


def text_of(prompts: str | JoVAPrompt | Sequence[str | JoVAPrompt] | None) -> str:
    """All that prompts say, as one text."""
    prompts = [prompts] if isinstance(prompts, str | JoVAPrompt) else prompts or []
    parts = [[prompt] if isinstance(prompt, str) else [*asdict(prompt).values()] for prompt in prompts]
    return " ".join(part for of_prompt in parts for part in of_prompt)


def tell_empty(prompts: str | JoVAPrompt | Sequence[str | JoVAPrompt] | None, told: set[str]) -> None:
    """Log once that a prompt which is given has no words, which a forgotten variable looks like.

    Args:
        prompts: Of a call; None where it is given otherwise.
        told: What was told of; gets this.
    """
    given = [prompts] if isinstance(prompts, str | JoVAPrompt) else prompts or []
    if any(not text_of(prompt).strip() for prompt in given) and NO_WORDS not in told:
        told.add(NO_WORDS)
        logger.warning(EMPTY_PROMPT)


def tell_strangers(domain: Mapping[str, Any] | None, text: str, has_image: bool, told: set[str]) -> None:
    """Log what `describe_strangers` says of words and pictures that were not told of before.

    Args:
        domain: Of the pipeline's config.
        text: The prompt.
        has_image: Whether a picture is given.
        told: Words that were told of, and `PICTURES`; gets those of this call.
    """
    if domain is None:
        return
    new = words_of(text) - told
    said = describe_strangers(domain, " ".join(new), has_image and PICTURES not in told)
    told |= new | ({PICTURES} if has_image else set())
    if said is not None:
        logger.warning(said)
