"""Characters of a transcript become their lines in a released list."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from diffusers_jova.conversion.spoken_characters import character_tokenizer, read_characters
from diffusers_jova.spoken_text import spoken_ids
from tests.places import PARITY, needs_references


LOST = {"en": {"\u2019": "'"}, "zh": {"\uff1b": ","}}  # what the release has not got, by case, and what is read here


def write_list(path: Path, characters: list[str], end: str = "\r\n") -> Path:
    path.write_bytes((end.join(characters) + end).encode())
    return path


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_index_of_a_character_is_its_line(tmp_path: Path, end: str) -> None:
    path = write_list(tmp_path / "vocab.txt", [" ", "!", "A", "a", "ni2", "\u2028", "\u3002"], end)
    characters = read_characters(path)
    assert characters == [" ", "!", "A", "a", "ni2", "\u2028", "\u3002"]
    tokenizer = character_tokenizer(characters)
    assert tokenizer("Aa  a!\u3002").input_ids == [2, 3, 0, 0, 3, 1, 6]


def test_what_is_not_in_the_list_can_be_told_and_curly_quotes_are_straight() -> None:
    tokenizer = character_tokenizer([" ", "'", '"', "a"])
    assert tokenizer("a\u2019a \u201ca\u201d").input_ids == [3, 1, 3, 0, 2, 3, 2]
    assert tokenizer("a\u00e9").input_ids == [3, tokenizer.unk_token_id]
    assert tokenizer.unk_token_id == 4
    tokenizer = character_tokenizer([" ", ".", "-", "a", "\u00e9"])
    assert tokenizer("a\u2026\u2014\u00a0a\r\na\ta").input_ids == [3, 1, 1, 1, 2, 0, 3, 0, 3, 0, 3]
    assert tokenizer("e\u0301").input_ids == [4], "however it is written"
    wide = character_tokenizer([" ", ",", ":", "\uff0c"])
    assert wide("\uff0c\uff1a,").input_ids == [3, 2, 1], "wide signs that it has stay, others become narrow"
    curly = character_tokenizer([" ", "'", "\u2019"])
    assert curly("'\u2019").input_ids == [1, 2], "a list that has them keeps them"


def test_a_saved_tokenizer_is_the_same(tmp_path: Path) -> None:
    character_tokenizer([" ", "'", "a"]).save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path)("a a\u2019").input_ids == [2, 0, 2, 1]


@pytest.mark.parametrize("characters", [["a", " "], [" ", "a", "a"], [" a"]])
def test_what_is_no_such_list_is_refused(tmp_path: Path, characters: list[str]) -> None:
    with pytest.raises(ValueError, match=r"must hold different characters, .* the first a space, got .*; take the"):
        read_characters(write_list(tmp_path / "vocab.txt", characters))


@needs_references
@pytest.mark.parametrize("case", ["en", "en_short", "en_reference_voice", "zh", "zh_reference_voice"])
def test_indices_are_those_of_uniavgen_but_for_what_it_loses(case: str) -> None:
    """Its list is not at hand: a list with the characters of the cases at their lines, and others between."""
    if case.startswith("zh") and not (find_spec("rjieba") and find_spec("pypinyin")):
        pytest.skip("the extra `chinese` is not installed")
    stored = json.loads((PARITY / "uniavgen" / "text_ids.json").read_text())
    lines = [f"<{index}>" for index in range(2545)]
    for each in stored.values():
        for unit, index in zip(each["units"], each["ids"], strict=False):
            lines[index] = unit if index or unit == " " else lines[index]
    lines[0], lines[7] = " ", "'"  # of ASCII, in order
    given = stored[case]
    text = f"{given['reference_text']} {given['text']}" if given["reference_text"] else given["text"]
    ids = spoken_ids("transcript", text, character_tokenizer(lines)).tolist()
    expected = list(given["ids"])
    for lost, kept in LOST.get(case, {}).items():
        index = given["units"].index(lost)
        assert expected[index] == 0, "the release reads a space"
        expected[index] = lines.index(kept)
    assert ids == [expected]
