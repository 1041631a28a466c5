import pytest
import torch

from diffusers_jova import JoVAPrompt, PromptEmbeds
from diffusers_jova.prompt import PROMPT_TEMPLATE, concatenate_prompts


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
