"""What only the Wan class has; `test_transformer_jova.py` holds both classes to the same properties."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file
from torch import Tensor

from diffusers_jova import JoVAWanTransformer3DModel
from diffusers_jova.conversion import nava, ovi, wan
from diffusers_jova.conversion.checkpoint import from_state_dict
from diffusers_jova.conversion.output import Parameter
from tests.places import DATA, PARITY, needs_references
from tests.rounding import relative_error
from tests.tiny_pipeline import (
    DEFAULTS,
    NAVA_SHARING,
    WAN_TRANSFORMER_CONFIG,
    build_tiny_pipeline,
    build_wan_transformer,
)


NAVA = DATA / "nava_tiny.safetensors"
# The originals take the sines of the timestep in float64, diffusers in float32, whose exponential and product are off
# by an eps each: at timestep 999 by 999 * 2 * eps = 2.4e-4 of a radian. These networks make 2e-6 to 5e-6 of it, on
# every instruction set tried; a timestep cut by half a step makes 5e-2.
SINUSOID_ERROR = 5e-5
ROUND_OFF = {"atol": 2e-6, "rtol": 1e-4}
CLOCK = {"frame_rate": 24.0, "audio_latent_rate_hz": 25.0, "return_dict": False}


def inputs(batch_size: int = 2, text_rows: int = 6) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    return {
        "hidden_states": torch.randn(batch_size, 16, 3, 4, 4, generator=generator),
        "audio_hidden_states": torch.randn(batch_size, 8, 4, generator=generator),
        "encoder_hidden_states": torch.randn(batch_size, text_rows, 16, generator=generator),
        "timestep": torch.full((batch_size,), 500.0),
        **CLOCK,
    }


@torch.no_grad()
def run(model: Any, **arguments: Any) -> tuple[Tensor, Tensor]:
    return model(**{**inputs(), **arguments})


def assert_same(actual: tuple[Any, ...], expected: tuple[Any, ...]) -> None:
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, **ROUND_OFF)


def converted(config: Mapping[str, Any], found: list[Parameter], **overrides: Any) -> JoVAWanTransformer3DModel:
    model = JoVAWanTransformer3DModel(**{**config, **overrides})
    model.load_state_dict({parameter.name: parameter.make() for parameter in found})
    return model.eval()


def reference_weights(path: Path) -> dict[str, Tensor]:
    return {name.removeprefix("sd."): t.float() for name, t in load_file(path).items() if name.startswith("sd.")}


# The originals' numbers


@needs_references
@pytest.mark.numeric
def test_a_converted_wan_computes_what_the_original_computes_block_by_block() -> None:
    stored = load_file(PARITY / "wan21_t2v_tiny.safetensors")
    weights = reference_weights(PARITY / "wan21_t2v_tiny.safetensors")
    model = converted(*wan.convert_tower(from_state_dict(weights)))
    states: list[Tensor] = []
    for block in model.blocks:
        block.register_forward_hook(lambda *call: states.append(call[-1]))
    with torch.no_grad():
        sample, _ = model(stored["in.x"], None, stored["in.context"], stored["in.t"], **CLOCK)
    assert relative_error(sample, stored["out.sample"]) < SINUSOID_ERROR
    for index, state in enumerate(states):
        assert relative_error(state, stored[f"out.block{index}"]) < SINUSOID_ERROR


@needs_references
@pytest.mark.numeric
def test_uncoupled_towers_of_ovi_compute_what_the_originals_compute_alone() -> None:
    weights = reference_weights(PARITY / "ovi_fusion_tiny.safetensors")
    config, found, _ = ovi.convert_fusion(from_state_dict(weights))
    model = converted(config, found)
    video, audio = (load_file(PARITY / f"ovi_{name}_tower_tiny.safetensors") for name in ("video", "audio"))
    clean = video["in.t"][:, None].repeat(1, 3)
    clean[:, 0] = 0  # the first latent frame is given
    with torch.no_grad():
        for timestep, name in ((video["in.t"], "t2v"), (clean, "i2v_firstframeclean")):
            arguments = (video["in.x"], audio["in.x"], video["in.context"], timestep, audio["in.t"])
            sample, audio_sample = model(*arguments, coupled=False, **CLOCK)
            assert relative_error(sample, video[f"out.{name}_fp32"]) < SINUSOID_ERROR
            assert relative_error(audio_sample, audio["out.fp32"]) < SINUSOID_ERROR
        coupled, _ = model(*arguments, **CLOCK)
    assert relative_error(coupled, sample) > 0.01


def nava_model() -> tuple[JoVAWanTransformer3DModel, dict[str, Tensor]]:
    config, found = nava.convert_transformer(from_state_dict(reference_weights(NAVA)))
    heads = {"num_attention_heads": 2, "attention_head_dim": 6, "rope_axes_dim": (2, 2, 2)}  # 128 wide when released
    return converted(config, found, **heads), load_file(NAVA)


@pytest.mark.numeric
@pytest.mark.parametrize("case", ["coupled", "uncoupled", "video_only", "audio_only", "i2v", "speaker"])
def test_a_converted_nava_computes_what_the_original_computes(case: str) -> None:
    """The file holds random weights, inputs and what NAVA's own modules made of them in float32."""
    model, stored = nava_model()
    timestep = stored["in.timestep"]
    clean = timestep[:, None].repeat(1, 3)
    clean[:, 0] = 0
    arguments: dict[str, Any] = {
        "hidden_states": None if case == "audio_only" else stored["in.video"],
        "audio_hidden_states": None if case == "video_only" else stored["in.audio"],
        "encoder_hidden_states": stored["in.text"],
        "timestep": clean if case == "i2v" else timestep,
        "audio_timestep": timestep,
        "coupled": case != "uncoupled",
    }
    if case == "speaker":  # one voice per sample, the second is unknown
        arguments |= {"speaker_embeds": stored["in.speaker"][:, None], "speaker_positions": torch.tensor([[1], [4]])}
    with torch.no_grad():
        outputs = model(**arguments, **CLOCK)
    for name, output in zip(("video", "audio"), outputs, strict=True):
        reference = stored.get(f"out.{case}.{name}")
        assert (output is None) == (reference is None)
        if reference is not None:
            assert relative_error(output, reference) < SINUSOID_ERROR


@pytest.mark.numeric
def test_a_tower_without_the_other_is_diffusers_own_wan() -> None:
    model = build_wan_transformer()
    sizes = {
        name: value for name, value in WAN_TRANSFORMER_CONFIG.items() if "audio" not in name and "rope" not in name
    }
    original = WanTransformer3DModel(**sizes, patch_size=(1, 2, 2)).eval()
    weights = model.state_dict()
    original.load_state_dict({name: weights[wan.owned_name(name, "video")] for name in original.state_dict()})
    sample, _ = run(model, audio_hidden_states=None)
    with torch.no_grad():
        arguments = inputs()
        (expected,) = original(
            arguments["hidden_states"], arguments["timestep"], arguments["encoder_hidden_states"], return_dict=False
        )
    torch.testing.assert_close(sample, expected, **ROUND_OFF)


# Sharing


@pytest.mark.parametrize("sharing", [{}, NAVA_SHARING, {"shared_layers": (0,), "shared_parts": ("attention",)}])
@pytest.mark.parametrize("options", [{}, {"max_shard_size": "40KB"}], ids=["one", "shards"])
def test_a_saved_model_holds_every_tensor_once_and_predicts_the_same(
    tmp_path: Path, sharing: dict[str, Any], options: dict[str, str]
) -> None:
    model = build_wan_transformer(**sharing)
    model.save_pretrained(tmp_path, **options)
    files = [load_file(path) for path in tmp_path.glob("*.safetensors")]
    assert (len(files) > 1) == bool(options)
    assert sum(t.numel() for file in files for t in file.values()) == sum(p.numel() for p in model.parameters())
    for loader in (JoVAWanTransformer3DModel, diffusers.AutoModel):
        loaded = loader.from_pretrained(str(tmp_path))
        for one, other in zip(run(loaded), run(model), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("part", "module"),
    [
        ("attention", "blocks.0.attn1"),
        ("attention", "blocks.0.attn2"),
        ("feed_forward", "blocks.0.ffn"),
        ("feed_forward", "blocks.0.norm2"),
        ("modulation", "blocks.0.modulation"),
    ],
)
def test_a_shared_part_is_one_module_that_learns_from_both_modalities(part: str, module: str) -> None:
    model = build_wan_transformer(shared_parts=(part,))
    names = {name.split(".")[3] for name in model.state_dict() if name.startswith(f"{module}.")}
    assert names == {"shared"}
    gradients = []
    for absent in ("audio_hidden_states", "hidden_states"):
        model.zero_grad()
        output = next(part for part in model(**{**inputs(), absent: None}) if part is not None)
        output.square().sum().backward()
        shared = model.get_submodule(f"{module}.shared")
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in shared.parameters()]))
        assert gradients[-1].any()
    assert not torch.allclose(*gradients)


def test_only_named_parts_are_shared_and_shared_layers_share_all() -> None:
    model = build_wan_transformer(**NAVA_SHARING)
    twin, shared = ({name for name in model.state_dict() if name.startswith(f"blocks.{i}.")} for i in (0, 1))
    assert {name.split(".")[3] for name in shared} == {"shared"}
    for part, owners in (
        ("attn1", {"video", "audio"}),
        ("attn2", {"video", "audio"}),
        ("modulation", {"video", "audio"}),
        ("ffn", {"shared"}),
        ("norm2", {"shared"}),
    ):
        assert {name.split(".")[3] for name in twin if name.split(".")[2] == part} == owners
    assert "shared.condition_embedder.time_proj.weight" in model.state_dict()


def test_towers_that_share_nothing_equal_a_shared_model_with_copied_weights() -> None:
    everything = ("condition_embedder", "attention", "feed_forward", "modulation")
    shared = build_wan_transformer(shared_parts=everything)
    twins = build_wan_transformer()
    weights = shared.state_dict()
    for name, tensor in twins.state_dict().items():
        common = name.replace(".video.", ".shared.").replace(".audio.", ".shared.")
        common = common.replace("video.condition", "shared.condition").replace("audio.condition", "shared.condition")
        tensor.copy_(weights[name if name in weights else common])
    assert_same(run(twins), run(shared))


# Text, voices, time


def test_masked_text_rows_are_not_read() -> None:
    model = build_wan_transformer()
    text = inputs()["encoder_hidden_states"]
    padded = torch.cat([text, torch.randn(2, 3, 16)], dim=1)
    mask = torch.tensor([[True] * 6 + [False] * 3] * 2)
    plain = run(model)
    assert_same(run(model, encoder_hidden_states=padded, encoder_attention_mask=mask), plain)
    unmasked = run(model, encoder_hidden_states=padded)
    assert relative_error(unmasked[0], plain[0]) > 1e-3


def test_zero_rows_of_text_are_read_as_wan_reads_them() -> None:
    model = build_wan_transformer()
    padded = torch.cat([inputs()["encoder_hidden_states"], torch.zeros(2, 3, 16)], dim=1)
    assert relative_error(run(model, encoder_hidden_states=padded)[0], run(model)[0]) > 1e-4


def test_a_voice_replaces_one_row_of_text_and_minus_one_leaves_it_out() -> None:
    model = build_wan_transformer(**NAVA_SHARING)
    voice = torch.randn(2, 1, 5)
    plain = run(model)
    spoken = run(model, speaker_embeds=voice, speaker_positions=torch.tensor([[2], [-1]]))
    assert relative_error(spoken[1][0], plain[1][0]) > 1e-3
    assert_same(tuple(part[1] for part in spoken), tuple(part[1] for part in plain))
    other_text = inputs()["encoder_hidden_states"].clone()
    other_text[0, 2] += 1  # the row that the voice replaces
    again = run(
        model, encoder_hidden_states=other_text, speaker_embeds=voice, speaker_positions=torch.tensor([[2], [-1]])
    )
    assert_same(again, spoken)


def test_a_clean_latent_frame_is_modulated_alone() -> None:
    """With attention and text cut, one latent frame at timestep 0 leaves the others as they are."""
    model = build_wan_transformer(num_layers=1)
    with torch.no_grad():
        model.blocks[0].attn1.video.to_out[0].weight.zero_()
    plain = run(model, audio_hidden_states=None)[0]
    clean = run(model, audio_hidden_states=None, timestep=torch.tensor([[0.0, 500.0, 500.0]] * 2))[0]
    torch.testing.assert_close(clean[:, :, 1:], plain[:, :, 1:], **ROUND_OFF)
    assert relative_error(clean[:, :, 0], plain[:, :, 0]) > 1e-3


def test_convolved_audio_reads_its_neighbours_and_linear_audio_does_not() -> None:
    def moved(kind: str) -> Tensor:
        embedding = build_wan_transformer(audio_embedding=kind).audio.patch_embedding
        rows = torch.zeros(1, 40, 4)
        changed = rows.clone()
        changed[:, 20] = 1
        return (embedding(changed) - embedding(rows)).abs().sum(-1)[0].nonzero().flatten()

    assert moved("linear").tolist() == [20]
    assert moved("conv").tolist() == list(range(11, 30))  # three convolutions of 7 rows, one beside another


# The pipeline, errors


@pytest.mark.parametrize("sharing", [{}, {"audio_embedding": "conv", "shared_layers": (1,)}], ids=["twins", "shared"])
def test_the_pipeline_takes_a_first_frame_as_a_clean_latent(sharing: dict[str, Any]) -> None:
    pipeline = build_tiny_pipeline(transformer=build_wan_transformer(**sharing))
    image = torch.rand(1, 3, DEFAULTS["height"], DEFAULTS["width"])
    settings = {"generator": torch.Generator().manual_seed(0), "output_type": "latent"}
    output = pipeline("a man speaks", image=image, **settings)
    settings["generator"] = torch.Generator().manual_seed(0)
    without = pipeline("a man speaks", **settings)
    assert output.frames.shape == without.frames.shape
    assert relative_error(output.frames[:, :, 1:], without.frames[:, :, 1:]) > 1e-3
    assert relative_error(output.audio, without.audio) > 1e-4


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"rope_axes_dim": (4, 4, 2)}, "`rope_axes_dim` must add up to `attention_head_dim`, 12, got \\[4, 4, 2\\]"),
        ({"audio_embedding": "deep"}, "`audio_embedding` must be 'linear', 'mlp' or 'conv', got 'deep'"),
        ({"temporal_alignment": "seconds"}, "`temporal_alignment` must be 'time', 'none' or a number, got 'seconds'"),
        ({"shared_layers": (0, 2)}, "`shared_layers` must be indices of the 2 blocks, got \\[2\\]"),
        ({"shared_parts": ("norms",)}, "`shared_parts` must be among \\['condition_embedder', .*got \\['norms'\\]"),
    ],
)
def test_wrong_configs_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_wan_transformer(**config)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"encoder_hidden_states_2": torch.zeros(2, 3, 8)}, "this model has one text encoder"),
        ({"hidden_states": torch.zeros(2, 36, 3, 4, 4)}, "`hidden_states` must be \\[B, 16, F, H, W\\]"),
        ({"audio_hidden_states": torch.zeros(2, 4, 8)}, "must be \\[B, L, 4\\], got \\[2, 4, 8\\]"),
        (
            {"timestep": torch.zeros(2, 12)},
            "`timestep` must be a tensor .*\\], one per latent, got",
        ),
        ({"speaker_embeds": torch.zeros(2, 1, 5)}, "`speaker_embeds` must come with `speaker_positions`"),
    ],
)
def test_wrong_inputs_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(build_wan_transformer(), **arguments)
