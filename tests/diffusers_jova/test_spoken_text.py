"""What is said becomes units: characters, and of Chinese syllables with their tones."""

import json
import sys
from importlib.util import find_spec

import pytest

from diffusers_jova.conversion.spoken_characters import character_tokenizer
from diffusers_jova.spoken_text import MIN_UNITS, spoken_ids, spoken_units
from diffusers_jova.spoken_text_encoder import FILLER
from tests.places import PARITY, needs_references


needs_chinese = pytest.mark.skipif(
    not (find_spec("rjieba") and find_spec("pypinyin")), reason="the extra `chinese` is not installed"
)


def test_units_without_chinese_are_the_characters_as_they_are() -> None:
    for text in ("", " ", "Hi;  O'Neil?", "caf\u00e9"):
        assert "".join(spoken_units(text)) == text


def test_a_short_text_is_filled_up_and_a_long_one_is_not() -> None:
    tokenizer = character_tokenizer([" ", "a", "b"])
    assert spoken_ids("transcript", "ab", tokenizer).tolist() == [[1, 2] + [FILLER] * (MIN_UNITS - 2)]
    assert spoken_ids("transcript", "", tokenizer).tolist() == [[FILLER] * MIN_UNITS]
    assert spoken_ids("transcript", "ab" * 9, tokenizer).tolist() == [[1, 2] * 9]


def test_characters_that_the_model_cannot_say_are_refused_once_each() -> None:
    with pytest.raises(ValueError, match="`transcript` must be of characters that the model can say, got 'x', '!'; w"):
        spoken_ids("transcript", "axx!a!", character_tokenizer([" ", "a"]))


@needs_references
@pytest.mark.parametrize("case", ["en", "en_short", "en_reference_voice", "zh", "zh_reference_voice"])
def test_units_are_those_of_uniavgen(case: str) -> None:
    if case.startswith("zh") and not (find_spec("rjieba") and find_spec("pypinyin")):
        pytest.skip("the extra `chinese` is not installed")
    given = json.loads((PARITY / "uniavgen" / "text_ids.json").read_text())[case]
    text = f"{given['reference_text']} {given['text']}" if given["reference_text"] else given["text"]
    assert spoken_units(text) == given["units"]


@needs_chinese
@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("GPT-40 \u5f88\u5f3a", ["G", "P", "T", "-", " ", "4", "0", " ", " ", "hen3", " ", "qiang2"]),
        ("A\u80a1\u4e0a\u6da83.5%", ["A", " ", "gu3", " ", "shang4", " ", "zhang3", " ", "3", ".", "5", "%"]),
        ("\u4f60;\u3053\u3093", [" ", "ni2", ",", "\u3053", "\u3093"]),
    ],
)
def test_words_of_mixed_characters_become_what_the_release_makes_of_them(text: str, units: list[str]) -> None:
    """Compared with its own code, jieba 0.42.1, on these and others."""
    assert spoken_units(text) == [unit.replace("ni2", "ni3") for unit in units]


def test_chinese_without_its_packages_is_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rjieba", None)
    with pytest.raises(ImportError, match=r"needs the package rjieba; run `pip install 'diffusers_jova\[chinese\]'`"):
        spoken_units("\u4f60\u597d")
    assert spoken_units("Hi") == ["H", "i"]
