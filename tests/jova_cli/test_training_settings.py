from dataclasses import MISSING, fields
from typing import Literal, get_args, get_origin, get_type_hints

import pytest

from diffusers_jova.training.loop.config import TrainConfig
from jova_cli.training_settings import check_words, describe_settings, read_settings, split_settings


def test_the_settings_of_the_text_are_those_of_the_class() -> None:
    read = read_settings()
    assert [setting.name for setting in read] == [field.name for field in fields(TrainConfig)]
    for setting, field in zip(read, fields(TrainConfig), strict=True):
        assert (field.default is MISSING) == (setting.default == "")
        if setting.default:
            assert eval(setting.default, {}) == field.default
        assert setting.purpose, setting.name


def test_the_choices_of_the_text_are_those_of_the_class() -> None:
    hints = get_type_hints(TrainConfig)
    read = {setting.name: setting.choices for setting in read_settings() if setting.choices}
    choices = {
        name: hint if get_origin(hint) is Literal else (*get_args(hint), None)[0] for name, hint in hints.items()
    }
    literals = {name: get_args(hint) for name, hint in choices.items() if get_origin(hint) is Literal}
    assert read == literals


def test_every_setting_is_described_with_its_default() -> None:
    text = describe_settings()
    assert "  model=... (must be given)" in text
    assert "  learning_rate=0.0001" in text
    assert "One of none, nf4." in text
    groups = (
        "sync, syncnet, timing, sound, picture, words, speech, voice, clap, identity, classes, audiobox, clip_score"
    )
    assert f"Some of {groups}, desync, flow." in " ".join(text.split())


def test_words_are_split_at_the_first_equals_sign() -> None:
    assert split_settings(["model=a=b", "--steps=3"]) == {"model": "a=b", "steps": "3"}


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("steps", "must have the form name=value, got 'steps'"),
        ("lr=1", "`lr` in the command line is not .*; did you mean `learning_rate`"),
        ("network_dim=4", "`network_dim` in the command line is not .*; did you mean `lora_rank`"),
        ("lerning_rate=1", "`lerning_rate` in the command line is not .*; did you mean `learning_rate`"),
        ("zzz=1", "the fields are model, data, "),
    ],
)
def test_words_that_set_nothing_are_refused(word: str, message: str) -> None:
    check_words(["steps=1"])
    with pytest.raises(ValueError, match=message):
        check_words([word])
