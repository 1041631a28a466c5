"""What all transformers share: their arguments, the descriptions of these, and what audio takes from video."""

import inspect
from typing import Any

import pytest
import torch
from diffusers import SeaCacheConfig
from torch import nn

from diffusers_jova import JoVADualTowerTransformer3DModel, JoVATransformer3DModel, JoVAWanTransformer3DModel
from diffusers_jova.joint_transformer import ARGUMENTS, describe_arguments
from tests.diffusers_jova.test_transformer_jova import BUILDERS, inputs


CLASSES = (JoVATransformer3DModel, JoVAWanTransformer3DModel, JoVADualTowerTransformer3DModel)
OWN = {"speaker_embeds", "speaker_positions"}  # arguments of one class
OWN |= {"reference_hidden_states", "audio_reference_hidden_states"}
OWN |= {"fusion_scale", "skip_layers", "return_face_masks"}


@pytest.mark.parametrize("cls", CLASSES)
def test_every_argument_of_a_forward_is_described_in_its_order(cls: type[nn.Module]) -> None:
    names = list(inspect.signature(cls.forward).parameters)[1:]
    assert cls.forward.__doc__
    lines = inspect.cleandoc(cls.forward.__doc__).splitlines()
    described = [line.strip().split(":")[0] for line in lines if line.startswith("    ") and line[4] != " "]
    assert described == [*names, next(line for line in lines if line.startswith("    Velocities")).strip()]
    assert max(map(len, lines)) < 120


def test_all_transformers_are_asked_alike() -> None:
    one, *others = (dict(inspect.signature(cls.forward).parameters) for cls in CLASSES)
    for other in others:
        assert set(ARGUMENTS) < set(one) & set(other)
        for name in set(one) & set(other):
            assert (one[name].kind, one[name].default) == (other[name].kind, other[name].default)
        assert list(one) == [name for name in other if name not in OWN]


def test_an_argument_without_a_description_and_a_description_without_an_argument_are_refused() -> None:
    def forward(self: Any, hidden_states: Any, unheard_of: Any) -> None:
        """Do nothing."""

    with pytest.raises(TypeError, match=r"each have a description, got \['unheard_of'\]"):
        describe_arguments()(forward)
    with pytest.raises(TypeError, match=r"each have a description, got \['old'\]"):
        describe_arguments(unheard_of="New.", old="Gone.")(forward)
    assert forward.__doc__ == "Do nothing."


@pytest.mark.parametrize("kind", BUILDERS)
def test_a_mask_of_the_audio_without_its_text_is_not_dropped(kind: str) -> None:
    mask = torch.ones(2, 6, dtype=torch.bool)
    with pytest.raises(ValueError, match="`audio_encoder_hidden_states` must be given with its mask"):
        BUILDERS[kind]()(**inputs(), audio_encoder_attention_mask=mask)


@pytest.mark.parametrize("kind", BUILDERS)
def test_a_hooked_model_shows_the_signature_of_its_class(kind: str) -> None:
    model = BUILDERS[kind]()
    expected = list(inspect.signature(model.forward).parameters)
    model.enable_cache(SeaCacheConfig())
    assert list(inspect.signature(model.forward).parameters) == expected
