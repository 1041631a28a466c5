import pytest
import torch

from diffusers_jova import JoVAPrompt, PromptEmbeds
from diffusers_jova.prompt import PROMPT_TEMPLATE, concatenate_prompts, encode_tokens, tokenize_text
from tests.tiny_pipeline import build_text_encoder, build_tokenizer


def test_the_template_renders_the_parts_in_its_order() -> None:
    prompt = JoVAPrompt(video="a dog", audio="barking", transcript="sit!")
    assert prompt.render(PROMPT_TEMPLATE) == "a dog <S>sit!<E> <AUDCAP>barking<ENDAUDCAP>"
    assert prompt.render("{audio} | \n{video}") == "barking |  a dog"


def test_empty_parts_leave_no_trace() -> None:
    assert JoVAPrompt(video="a dog").render(PROMPT_TEMPLATE) == "a dog"
    assert JoVAPrompt(audio=" wind ").render(PROMPT_TEMPLATE) == "<AUDCAP>wind<ENDAUDCAP>"
    assert JoVAPrompt().render(PROMPT_TEMPLATE) == ""


def test_braces_in_a_prompt_are_text() -> None:
    assert JoVAPrompt(video="{audio} {x}", audio="hum").render("{video}\n{audio}") == "{audio} {x} hum"


def encode(texts: list[str], max_length: int = 64, zeros: bool = False) -> tuple[torch.Tensor, torch.Tensor | None]:
    return encode_tokens(build_text_encoder(), tokenize_text(build_tokenizer(), texts, max_length), max_length, zeros)


def test_a_text_has_the_same_features_in_any_batch() -> None:
    alone, _ = encode(["a cat"])
    batch, mask = encode(["a cat", "a much longer text"])
    assert mask is not None
    torch.testing.assert_close(batch[:1, : alone.shape[1]], alone, atol=1e-5, rtol=1e-4)
    assert mask[0].sum() == alone.shape[1]
    assert not batch[0, alone.shape[1] :].any()


def test_zero_padding_fills_every_text_to_the_same_length_without_a_mask() -> None:
    masked, _ = encode(["a cat"])
    padded, mask = encode(["a cat"], max_length=20, zeros=True)
    assert mask is None
    assert padded.shape[1] == 20
    assert torch.equal(padded[:, : masked.shape[1]], masked)
    assert not padded[:, masked.shape[1] :].any()


def test_a_text_that_is_too_long_is_cut_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    from diffusers.utils import logging

    logging.enable_propagation()
    try:
        cut, _ = encode(["a text of many words"], max_length=8)
    finally:
        logging.disable_propagation()
    assert cut.shape[1] == 8
    assert "a prompt of 21 tokens was cut to `max_sequence_length` = 8" in caplog.text
    assert torch.equal(cut, encode(["a text "])[0]), "the end of the sentence is kept, the text cut"


def test_prompts_of_different_lengths_join_with_a_mask() -> None:
    short, long = PromptEmbeds(torch.ones(1, 2, 4)), PromptEmbeds(torch.ones(2, 3, 4))
    joined = concatenate_prompts([short, long])
    assert joined.features.shape == (3, 3, 4)
    assert joined.joint_mask() is not None
    assert joined.joint_mask().tolist() == [[True, True, False], [True] * 3, [True] * 3]
    assert not joined.features[0, 2].any()


def test_prompts_of_equal_lengths_need_no_mask() -> None:
    prompt = PromptEmbeds(torch.ones(1, 2, 4), torch.ones(1, 2, dtype=torch.bool))
    assert concatenate_prompts([prompt, prompt]).joint_mask() is None


def test_the_mask_covers_both_text_encoders() -> None:
    mask = torch.tensor([[True, False]])
    assert PromptEmbeds(torch.ones(1, 3, 4), None, torch.ones(1, 2, 5), mask).joint_mask().tolist() == [
        [True, True, True, True, False]
    ]


def test_copies_of_a_prompt_lie_beside_each_other() -> None:
    repeated = PromptEmbeds(torch.tensor([[[1.0]], [[2.0]]])).repeat(2)
    assert repeated.features.flatten().tolist() == [1, 1, 2, 2]
    assert repeated.features_2 is None


def test_prompts_of_one_and_of_two_encoders_do_not_mix() -> None:
    one = PromptEmbeds(torch.zeros(1, 2, 4))
    two = PromptEmbeds(torch.zeros(1, 2, 4), None, torch.zeros(1, 3, 6))
    with pytest.raises(ValueError, match="must have features of the same text encoders"):
        concatenate_prompts([two, one])
