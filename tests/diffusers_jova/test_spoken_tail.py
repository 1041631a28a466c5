import torch

from diffusers_jova.spoken_tail import ends_in_pause, words_at_end


RATE = 16000


def spoken(*parts: tuple[float, bool]) -> torch.Tensor:
    """Sound [1, S] of stretches of seconds, with speech or without."""
    generator = torch.Generator().manual_seed(0)
    return torch.cat(
        [torch.randn(1, round(RATE * s), generator=generator) * (0.2 if loud else 1e-4) for s, loud in parts], dim=1
    )


def test_words_at_the_end_are_those_whose_sound_lies_there() -> None:
    sound = spoken((0.5, False), (0.9, True), (0.1, False))
    assert words_at_end("one two six", sound, round(0.4 * RATE), RATE) == ["six"]
    assert words_at_end("one two six", sound, round(0.7 * RATE), RATE) == ["two", "six"]
    assert words_at_end("one two six", sound, round(0.08 * RATE), RATE) == []
    assert words_at_end("one two six", sound, sound.shape[1], RATE) == ["one", "two", "six"]


def test_a_word_that_is_cut_counts() -> None:
    sound = spoken((0.5, True), (0.5, True))
    assert words_at_end("hello robot", sound, round(0.3 * RATE), RATE) == ["robot"]


def test_silence_says_nothing() -> None:
    sound = spoken((1.0, False))
    assert words_at_end("hello", sound, 8000, RATE) == []
    assert words_at_end("", spoken((1.0, True)), 8000, RATE) == []
    assert ends_in_pause(sound, 8000, RATE)


def test_a_pause_is_told_from_speech() -> None:
    sound = spoken((0.5, True), (0.3, False))
    assert ends_in_pause(sound, round(0.25 * RATE), RATE)
    assert not ends_in_pause(sound, round(0.35 * RATE), RATE)
