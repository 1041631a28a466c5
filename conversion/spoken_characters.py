"""A list of characters, one per line as F5-TTS and UniAVGen have it in `vocab.txt` -> a tokenizer of transformers.

The index of a character is its line. Both projects read a character that is not in the list as the first, a space, and
lose it without a word; curly quotes and apostrophes, which are not in it, become straight ones here.
"""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast


STRAIGHT = {"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"'}
UNKNOWN = "<unk>"  # behind the list, so that what is not in it can be told


def read_characters(path: Path) -> list[str]:
    """Read the list, whatever ends its lines.

    Raises:
        ValueError: It is no list of different characters that begins with the space.
    """
    # not `splitlines`, which ends lines at characters of the list
    lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    if lines[0] != " " or len(set(lines)) != len(lines):
        raise ValueError(
            f"`{path}` must hold different characters, one per line, the first a space, got {len(lines)} lines, "
            f"{len(set(lines))} of them different, the first {lines[0]!r}; take the list of the release"
        )
    return lines


def character_tokenizer(characters: list[str]) -> PreTrainedTokenizerFast:
    """Tokenizer that gives every character of a text its index, and `unk_token_id` to one that is not in the list."""
    vocabulary = {character: index for index, character in enumerate([*characters, UNKNOWN])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Replace(curly, straight) for curly, straight in STRAIGHT.items() if curly not in vocabulary]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=UNKNOWN)
