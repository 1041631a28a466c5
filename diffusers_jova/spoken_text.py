"""What is said as indices of characters, for models whose audio tower reads these in place of a caption.

UniAVGen (MCG-NJU/Sora2-mini @ 6d9a41b) reads the characters of a transcript as they are, and Chinese as F5-TTS does:
words are told apart, and each of their characters becomes a space and its syllable in pinyin with the digit of its
tone. A reference voice is read with its own transcript in front of what is to be said.

Letters in shapes: S characters.
"""

import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from .spoken_text_encoder import FILLER


MIN_UNITS = 10  # shorter texts are filled up, and the fillers are read
NOTHING = " "  # what the predictions without the prompt read
CHINESE = re.compile("[\u3100-\u9fff]")
ASCII_WORD = re.compile(r"[A-Za-z0-9]+(?:\.[0-9]+)?%?|.", re.DOTALL)
NO_SPACE_BEHIND = " :'\""  # in front of a word of ASCII


class UnsayableError(ValueError):
    """What is said holds characters that the model cannot say."""


def spoken_ids(name: str, text: str, tokenizer: Any) -> Tensor:
    """Indices of the units of a text, int64 [1, S], with fillers up to `MIN_UNITS`.

    Args:
        name: Argument that the text came from.
        text: What is said.
        tokenizer: From `diffusers_jova.conversion.spoken_characters`.

    Raises:
        UnsayableError: The tokenizer does not know a unit; the originals read a space in its place, without a word.
    """
    units = spoken_units(tokenizer.backend_tokenizer.normalizer.normalize_str(text))
    ids = tokenizer.convert_tokens_to_ids(units)
    unknown = (unit for unit, index in zip(units, ids, strict=True) if index == tokenizer.unk_token_id)
    if signs := ", ".join(repr(unit) for unit in dict.fromkeys(unknown)):
        raise UnsayableError(
            f"`{name}` must be of characters that the model can say, got {signs}; write it in other words"
        )
    return torch.tensor([ids + [FILLER] * (MIN_UNITS - len(ids))], dtype=torch.long)


def spoken_units(text: str) -> list[str]:
    """Units of a text: its characters, or where it holds Chinese, ASCII characters and syllables with their tones."""
    if not CHINESE.search(text):
        return list(text)
    units: list[str] = []
    for word in chinese_words(text.replace(";", ",")):
        if word.isascii():
            if len(word) > 1 and units and units[-1] not in NO_SPACE_BEHIND:
                units.append(" ")
            units += word
        else:
            for character, syllable in zip(word, syllables(word), strict=True):
                units += [" ", syllable] if CHINESE.match(character) else [syllable]
    return units


def chinese_words(text: str) -> Iterator[str]:
    """Words of a text that holds Chinese, those of ASCII in whole words, numbers and single signs."""
    for word in import_chinese("rjieba").cut(text):
        if word.isascii():
            yield from ASCII_WORD.findall(word)
        else:
            yield word


def syllables(word: str) -> list[str]:
    """One unit for each character of a word; a word that is not of East Asian characters alone has no sandhi."""
    pinyin = import_chinese("pypinyin")
    options = {"style": pinyin.Style.TONE3, "tone_sandhi": True}
    if all(len(character.encode()) == 3 for character in word):
        found: list[str] = pinyin.lazy_pinyin(word, **options, errors=list)
        return found
    return [pinyin.lazy_pinyin(one, **options)[0] if CHINESE.match(one) else one for one in word]


def import_chinese(module: str) -> Any:
    """A package that Chinese needs."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(
            f"a transcript in Chinese needs the package {module}; run `pip install 'diffusers_jova[chinese]'`"
        ) from error
