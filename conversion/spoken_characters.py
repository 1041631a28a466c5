"""A list of characters, one per line as F5-TTS and UniAVGen have it in `vocab.txt` -> a tokenizer of transformers.

The index of a character is its line. Both projects read a character that is not in the list as the first, a space, and
lose it without a word. Signs that text programs put in place of others, and that are not in the list, become these
others here: wide signs, curly quotes and apostrophes, long dashes, dots in one, ends of lines. What is then not in the
list gets an index of its own, by which `diffusers_jova.spoken_text` refuses it.
"""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast


WIDE = range(0xFF01, 0xFF5F)  # ASCII as wide as a Chinese character, in the same order
NARROWER = 0xFEE0
# fmt: off
PLAIN = {  # in this order
    **{chr(code): chr(code - NARROWER) for code in WIDE},
    "\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"',
    "\u2010": "-", "\u2011": "-", "\u2012": "-", "\u2013": "-", "\u2014": "-", "\u2026": "...",
    ";": ",", "\u00a0": " ", "\u202f": " ", "\t": " ", "\r\n": " ", "\n": " ",
}
# fmt: on
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
    plain = [normalizers.Replace(sign, other) for sign, other in PLAIN.items() if sign not in vocabulary]
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), *plain])
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=UNKNOWN)
