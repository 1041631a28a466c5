"""Attention processors that users give: refused unless they take what ours take."""

from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from torch import nn

from diffusers_jova import JoVAJointAttnProcessor
from tests.diffusers_jova.test_transformer_jova import BUILDERS, inputs, run


@pytest.mark.parametrize("kind", ["jova", "wan", "bridge", "aligned"])
def test_processors_of_other_arguments_are_refused_before_one_is_set(kind: str) -> None:
    model = BUILDERS[kind]()
    before = dict(model.attn_processors)
    attention = next(module for module in model.modules() if hasattr(module, "set_processor"))
    for processor in (AttnProcessor2_0(), WanAttnProcessor(), nn.Linear(1, 1), "sdpa"):
        for set_it in (model.set_attn_processor, attention.set_processor):
            with pytest.raises(ValueError, match=r"an attention processor of JoVA\w+ must take \(attn, .*; derive it"):
                set_it(processor)
    with pytest.raises(ValueError, match=r"got AttnProcessor2_0 with \(attn, hidden_states, encoder_hidden_states, "):
        model.set_attn_processor({**before, next(reversed(before)): AttnProcessor2_0()})
    assert model.attn_processors == before


def test_processors_derived_from_ours_and_around_them_are_taken() -> None:
    class Own(JoVAJointAttnProcessor):
        """Of the user."""

    def around(attn: Any, streams: Any, *rest: Any) -> Any:
        return own(attn, streams, *rest)

    model, own = BUILDERS["jova"](), Own()
    plain = run(model, **inputs())[0]
    for processor in (own, around, dict(model.attn_processors)):
        model.set_attn_processor(processor)
        assert torch.equal(run(model, **inputs())[0], plain)


def test_a_dict_that_lacks_processors_is_refused_before_one_is_set() -> None:
    model = BUILDERS["jova"]()
    before = dict(model.attn_processors)
    first, *others = before
    with pytest.raises(ValueError, match=rf"each of {len(before)} layers, got none for `{others[0]}`.*; begin"):
        model.set_attn_processor({first: JoVAJointAttnProcessor()})
    assert model.attn_processors == before
