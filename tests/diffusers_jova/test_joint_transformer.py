"""What all transformers share: their arguments, the descriptions of these, and what audio takes from video."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, SeaCacheConfig, UniPCMultistepScheduler
from safetensors.torch import load_file, save_file
from torch import nn

from diffusers_jova import (
    FlowMatchAudioVideoScheduler,
    JoVADualTowerTransformer3DModel,
    JoVATransformer3DModel,
    JoVAWanTransformer3DModel,
)
from diffusers_jova.joint_transformer import ARGUMENTS, describe_arguments
from diffusers_jova.log_mel import JoVALogMel
from diffusers_jova.spoken_text_encoder import JoVASpokenTextEncoder
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


# What a forward refuses: `inputs()` are 2 samples of 3 latent frames and 8 audio latents, with 6 rows of text

REFUSED = {
    "another batch of sound": ({"audio_hidden_states": torch.zeros(1, 8, 4)}, "must be of one batch, got 2 and 1"),
    "no sound latents": ({"audio_hidden_states": torch.zeros(2, 0, 4)}, r"must hold latents, got \[2, 0, 4\]"),
    "no frames": ({"hidden_states": torch.zeros(2, 36, 0, 4, 4)}, r"must hold latents, got \[2, 36, 0, 4, 4\]"),
    "another batch of text": ({"encoder_hidden_states": torch.zeros(1, 6, 16)}, r"must be features \[2, S, 16\]"),
    "wide text": ({"encoder_hidden_states": torch.zeros(2, 6, 17)}, r"features \[2, S, 16\].*got \[2, 6, 17\]"),
    "no text": ({"encoder_hidden_states": None}, r"`encoder_hidden_states` must be features.*got None"),
    "a number as timestep": ({"timestep": 500.0}, r"`timestep` must be a tensor \[2\].*got 500.0"),
    "one timestep for two samples": ({"timestep": torch.zeros(1)}, r"`timestep` must be a tensor \[2\].*got \[1\]"),
    "timesteps of one sample": ({"timestep": torch.zeros(1, 3)}, r"or \[2, 3\], one per latent, got \[1, 3\]"),
    "a mask that is added": (
        {"encoder_attention_mask": torch.tensor([[0.0] * 5 + [-1e4]] * 2)},
        "`encoder_attention_mask` must be bool, True where a row is read.*got torch.float32",
    ),
    "a short mask": ({"encoder_attention_mask": torch.ones(2, 5).bool()}, r"must be \[2, 6\].*got \[2, 5\]"),
    "a tensor of lengths": ({"text_lengths": torch.tensor([6, 6])}, "must be ints of Python, got a tensor"),
    "no frame rate": ({"frame_rate": 0.0}, "`frame_rate` must be positive and finite"),
    "a frame rate that is none": ({"frame_rate": float("nan")}, "`frame_rate` must be positive and finite"),
    "a backward rate of sound": ({"audio_latent_rate_hz": -31.25}, "`audio_latent_rate_hz` must be positive"),
    "a rate that is not given": ({"audio_latent_rate_hz": None}, "`audio_latent_rate_hz` must be positive"),
    "coupling by nothing": ({"coupled": None}, "`coupled` must be True, False, 'a2v' or 'v2a', got None"),
    "latents of numpy": (
        {"hidden_states": torch.zeros(2, 36, 3, 4, 4).numpy()},
        "`hidden_states` must be a tensor",
    ),
    "a list of sound": ({"audio_hidden_states": [[0.0]]}, "`audio_hidden_states` must be a tensor, got list; "),
    "a list of features": (
        {"encoder_hidden_states": [torch.zeros(6, 16)] * 2},
        "`encoder_hidden_states` must be a t",
    ),
    "a mask of Python": ({"encoder_attention_mask": [[True] * 6] * 2}, "`encoder_attention_mask` must be a tensor"),
    "a rate in quotes": (
        {"audio_latent_rate_hz": "31"},
        "`audio_latent_rate_hz` must be positive and finite.*'31'",
    ),
    "flat lengths": ({"text_lengths": [3, 5]}, r"`text_lengths` must be 1 per sample, .* got \[3, 5\]"),
    "a number as lengths": ({"text_lengths": 3}, "`text_lengths` must be 1 per sample, .* got 3"),
    "broken lengths": ({"text_lengths": [(3.5,), (5,)]}, "`text_lengths` must be between 1 and the rows"),
    "timesteps per frame alone": (
        {"timestep": torch.full((2, 3), 500.0)},
        r"`audio_timestep` must .*got \[2, 3\], the `timestep` of the video; give `audio_timestep` beside it",
    ),
    "as many frames as sound": (
        {"timestep": torch.full((2, 3), 500.0), "audio_hidden_states": torch.zeros(2, 3, 4)},
        r"`audio_timestep` must .*got \[2, 3\], the `timestep` of the video; give `audio_timestep` beside it",
    ),
    "coupling by a number": ({"coupled": 1}, "`coupled` must be True, False, 'a2v' or 'v2a', got 1"),
}


@pytest.mark.parametrize("wrong", REFUSED.values(), ids=REFUSED.keys())
@pytest.mark.parametrize("kind", BUILDERS)
def test_a_forward_names_the_argument_that_does_not_fit(kind: str, wrong: tuple[dict[str, Any], str]) -> None:
    arguments, message = wrong
    with pytest.raises(ValueError, match=message):
        BUILDERS[kind]()(**{**inputs(), **arguments})


@pytest.mark.parametrize("kind", BUILDERS)
def test_a_mask_of_whole_numbers_reads_what_one_of_bools_does(kind: str) -> None:
    model, mask = BUILDERS[kind](), torch.tensor([[1, 1, 1, 1, 0, 0]] * 2)
    with torch.no_grad():
        outputs = [model(**inputs(), encoder_attention_mask=one) for one in (mask, mask.bool())]
    for one, other in zip(*outputs, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(("saved", "cls"), [("jova", CLASSES[1]), ("wan", CLASSES[2]), ("bridge", CLASSES[0])])
def test_weights_of_another_class_are_not_left_out_for_random_ones(saved: str, cls: Any, tmp_path: Path) -> None:
    model = BUILDERS[saved]()
    model.save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=f"must be that of a {cls.__name__}, got one of a {type(model).__name__}; load"
    ):
        cls.from_pretrained(tmp_path)


@pytest.mark.parametrize("kind", ["jova", "wan", "bridge"])
def test_a_transformer_whose_checkpoint_lacks_weights_is_refused(kind: str, tmp_path: Path) -> None:
    model = BUILDERS[kind]()
    model.save_pretrained(tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    tensors = load_file(file)
    lost = next(iter(tensors))
    save_file({name: weight for name, weight in tensors.items() if name != lost}, file, {"format": "pt"})
    with pytest.raises(ValueError, match=f"weights of `transformer` must all .*, got none for `{lost}`; "):
        type(model).from_pretrained(tmp_path)
    _, told = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert lost in told["missing_keys"]


def test_a_config_that_asks_for_weights_that_were_not_saved_is_named_by_its_fields() -> None:
    message = r"must all .*, got none for `.*`; download or save it anew, or leave out `fusion`, which may ask for wei"
    with pytest.raises(ValueError, match=message):
        JoVATransformer3DModel.from_pretrained("jova-tiny", subfolder="transformer", fusion="cross_linear")
    model = JoVATransformer3DModel.from_pretrained("jova-tiny", subfolder="transformer", rope_theta=5000.0)
    assert model.config.rope_theta == 5000.0


def test_a_class_of_the_users_own_loads_the_weights_of_ours(tmp_path: Path) -> None:
    class Own(JoVATransformer3DModel):
        """Of the user."""

    model = BUILDERS["jova"]()
    model.save_pretrained(tmp_path)
    own = Own.from_pretrained(tmp_path)
    for name, weight in model.state_dict().items():
        assert torch.equal(own.state_dict()[name], weight)


def stored_config(kind: str) -> dict[str, Any]:
    """The config of a tiny model as its file holds it, with the name of the class."""
    model = BUILDERS[kind]()
    return {**model.config, "_class_name": type(model).__name__}


@pytest.mark.parametrize("cls", CLASSES)
def test_a_config_of_another_class_is_refused_where_it_is_given_as_a_dict(cls: type[Any]) -> None:
    small = {"num_layers": 1, "num_attention_heads": 1, "attention_head_dim": 12, "ffn_dim": 8}
    configs = [*map(stored_config, ("jova", "wan", "bridge")), {"_class_name": "AutoencoderKLWan"} | small]
    for config in [config for config in configs if config["_class_name"] != cls.__name__]:
        with (
            pytest.raises(
                ValueError,
                match=f"`config` must be that of a {cls.__name__}, got one of a {config['_class_name']}; load",
            ),
            torch.device("meta"),
        ):
            cls.from_config(config)


def test_configs_of_its_own_class_of_subclasses_and_without_a_class_are_taken() -> None:
    class Own(JoVATransformer3DModel):
        """Of the user."""

    config = stored_config("jova")
    with torch.device("meta"):
        assert isinstance(Own.from_config(config), Own)
        own = Own.from_config(config)
        assert own.config["_class_name"] == "Own"
        assert isinstance(JoVATransformer3DModel.from_config(own.config), JoVATransformer3DModel)
        del config["_class_name"]
        assert isinstance(JoVATransformer3DModel.from_config(config), JoVATransformer3DModel)


def test_other_components_refuse_the_configs_of_other_classes_too() -> None:
    config = stored_config("jova")
    for cls in (FlowMatchAudioVideoScheduler, JoVASpokenTextEncoder, JoVALogMel):
        with pytest.raises(ValueError, match=f"must be that of a {cls.__name__}, got one of a JoVATransformer3DM"):
            cls.from_config(config)
    for other in (FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler, DDIMScheduler):
        scheduler = FlowMatchAudioVideoScheduler.from_config({**other().config, "_class_name": other.__name__})
        assert isinstance(scheduler, FlowMatchAudioVideoScheduler)


WRONG_FIELDS: dict[str, tuple[Any, str]] = {
    "too few axes of patches": ({"patch_size": (1, 2)}, "`patch_size` must be three whole numbers"),
    "a number of patches": ({"patch_size": 2}, "`patch_size` must be three whole numbers.*got 2; "),
    "no patch": ({"patch_size": (1, 0, 2)}, r"`patch_size\[1\]` must be at least 1, got 0"),
    "a broken patch": ({"patch_size": (1, 2.0, 2)}, r"`patch_size\[1\]` must be a whole number, got 2.0"),
    "patches as text": ({"patch_size": "122"}, "`patch_size` must be three whole numbers"),
    "no base": ({"rope_theta": 0}, "`rope_theta` must be positive and finite, got 0; "),
    "a negative base": ({"rope_theta": -5.0}, "`rope_theta` must be positive and finite, got -5.0; "),
    "a negative epsilon": ({"eps": -1}, "`eps` must be positive and finite, got -1; "),
    "an epsilon in quotes": ({"eps": "1e-6"}, "`eps` must be a number, got '1e-6'; "),
    "two axes": ({"rope_axes_dim": (6, 6)}, r"`rope_axes_dim` must be three even numbers.*got \[6, 6\]"),
    "four axes": ({"rope_axes_dim": (4, 4, 2, 2)}, "`rope_axes_dim` must be three even numbers"),
    "a negative axis": ({"rope_axes_dim": (16, -4, 0)}, r"`rope_axes_dim` must be three even .*got \[16, -4, 0\]"),
    "broken axes": ({"rope_axes_dim": (4.0, 4.0, 4.0)}, "`rope_axes_dim` must be three even numbers"),
    "one axis": ({"rope_axes_dim": 12}, "`rope_axes_dim` must be three even numbers.*got 12"),
    "odd axes": ({"rope_axes_dim": (5, 5, 2)}, "`rope_axes_dim` must be even numbers"),
    "no alignment": (
        {"temporal_alignment": None},
        "`temporal_alignment` must be 'time', 'none' or a number, got None",
    ),
    "a broken alignment": ({"temporal_alignment": float("nan")}, "`temporal_alignment` must be finite"),
    "few tables": ({"position_table_sizes": (8, 8)}, "`position_table_sizes` must be three whole numbers"),
    "an empty table": ({"position_table_sizes": (8, 8, 0)}, r"`position_table_sizes\[2\]` must be at least 1"),
    "no second text": ({"text_dim_2": 0}, "`text_dim_2` must be at least 1, got 0"),
    "no voice": ({"speaker_dim": 0}, "`speaker_dim` must be at least 1, got 0"),
    "axes of sound": ({"audio_rope_axes_dim": (6, 6)}, "`audio_rope_axes_dim` must be three even numbers"),
    "a flag in quotes": ({"audio_text_rotates": "no"}, "`audio_text_rotates` must be True or False, got 'no'"),
}


@pytest.mark.parametrize("wrong", WRONG_FIELDS.values(), ids=WRONG_FIELDS.keys())
@pytest.mark.parametrize("kind", ["jova", "wan", "bridge"])
def test_a_field_that_no_model_can_have_is_refused_where_the_model_is_built(
    kind: str, wrong: tuple[dict[str, Any], str]
) -> None:
    fields, message = wrong
    model = BUILDERS[kind]()
    if not {*fields} <= {*inspect.signature(type(model).__init__).parameters}:
        return
    with pytest.raises((ValueError, TypeError), match=message):
        type(model).from_config({**model.config, **fields, "_use_default_values": []})


def test_too_much_sound_is_told_of_the_table_of_sound() -> None:
    sound = torch.zeros(2, 129, 4)
    with pytest.raises(ValueError, match=r"audio latents must have at most \[128\] .*\(`audio_position_table_size`\)"):
        BUILDERS["jova"]()(**{**inputs(), "audio_hidden_states": sound})
    frames = torch.zeros(2, 36, 17, 4, 4)
    with pytest.raises(ValueError, match=r"^latents must have at most .*\(`position_table_sizes`\), got \[17, 2, 2\]"):
        BUILDERS["jova"]()(**{**inputs(), "hidden_states": frames})


@pytest.mark.parametrize("wrong", ["reference_hidden_states", "audio_reference_hidden_states"])
def test_a_reference_is_a_tensor(wrong: str) -> None:
    with pytest.raises(ValueError, match=f"`{wrong}` must be a tensor, got list"):
        BUILDERS["aligned"]()(**inputs(), **{wrong: [0.0]})


@pytest.mark.parametrize("wrong", ["speaker_embeds", "speaker_positions"])
def test_voices_are_tensors(wrong: str) -> None:
    voices: dict[str, Any] = {"speaker_embeds": torch.zeros(2, 1, 5), "speaker_positions": torch.zeros(2, 1).long()}
    with pytest.raises(ValueError, match=f"`{wrong}` must be a tensor, got list"):
        BUILDERS["nava"]()(**inputs(), **{**voices, wrong: [0.0]})
