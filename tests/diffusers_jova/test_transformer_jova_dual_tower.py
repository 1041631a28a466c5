"""What only the class of two towers has; `test_transformer_jova.py` holds all classes to the same properties."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from diffusers_jova import FlowMatchAudioVideoScheduler, JoVADualTowerTransformer3DModel, PromptEmbeds
from diffusers_jova.adapter_keys import MOVA_EXPERTS
from diffusers_jova.aligned_fusion import audio_windows, interpolation
from diffusers_jova.conversion import dual_tower, mova, ovi, uniavgen
from diffusers_jova.conversion.checkpoint import from_state_dict
from diffusers_jova.conversion.output import Parameter, check_fits
from diffusers_jova.denoising import JoVADenoiser, TextConditions
from diffusers_jova.generation_defaults import GenerationDefaults
from diffusers_jova.reference_rows import ClipRows
from diffusers_jova.spoken_text_encoder import JoVASpokenTextEncoder
from diffusers_jova.wan_tower import NoiseCondition
from tests.places import CARDS, PARITY, needs_references
from tests.rounding import relative_error
from tests.tiny_pipeline import DUAL_TOWER_CONFIG, DUAL_TOWERS, build_dual_tower


MOVA = PARITY / "mova"
UNIAVGEN = PARITY / "uniavgen"
# Measured: 3e-7 to 1.0e-6; the originals' own float32 is 4e-7 to 1.6e-6 off their float64, and the smallest mistake in
# a fusion makes 2e-4.
FLOAT32 = 4e-6
MOVA_CALLS = (
    *("coupled", "uncoupled", "a2v", "v2a", "scale_0.5", "negative", "negative_uncoupled"),
    *("low_noise", "fps_16", "fps_25"),
)
HEAD_DIMS = {"tiny": 128, "mini": 12}
UNIAVGEN_CASES = {  # how the calls of the original differ from `coupled=True`
    "joint": {},
    "uncoupled": {"coupled": False},
    "a2v_only": {"coupled": "a2v"},
    "v2a_only": {"coupled": "v2a"},
    "negative": {"coupled": False, "skip_layers": [1]},
    "skip_layer_1_coupled": {"skip_layers": [1]},
    "skip_layer_2_coupled": {"skip_layers": [2]},
    "task_reference_voice": {"coupled": "a2v"},
    "task_reference_voice_coupled": {},
    "task_a2v": {"coupled": "a2v"},
    "task_a2v_short": {"coupled": "a2v"},
    "task_v2a": {"coupled": "v2a"},
    "continuation_video_2_coupled": {},
}


def weights_of(path: Path) -> dict[str, Tensor]:
    return {name: tensor.float() for name, tensor in load_file(path).items()}


def converted(config: Mapping[str, Any], found: list[Parameter]) -> JoVADualTowerTransformer3DModel:
    model = JoVADualTowerTransformer3DModel(**config)
    model.load_state_dict({parameter.name: parameter.make() for parameter in found})
    return model.eval()


# The originals' numbers


def ovi_model(stored: Mapping[str, Tensor]) -> JoVADualTowerTransformer3DModel:
    weights = {name[3:]: tensor.float() for name, tensor in stored.items() if name.startswith("sd.")}
    return converted(*ovi.convert_fused(from_state_dict(weights)))


def ovi_arguments(stored: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    clean = stored["in.t"][:, None].repeat(1, 3)
    clean[:, 0] = 0
    return stored["in.vid"], stored["in.audio"], stored["in.context"], clean, stored["in.t"]


@needs_references
@pytest.mark.numeric
@torch.no_grad()
def test_a_converted_ovi_computes_what_the_original_computes() -> None:
    stored = load_file(PARITY / "ovi_fusion_tiny.safetensors")
    model, arguments = ovi_model(stored), ovi_arguments(stored)
    output = model(*arguments, frame_rate=24.0, audio_latent_rate_hz=31.25)
    assert relative_error(output.sample, stored["out.video_fp32"]) < FLOAT32
    assert relative_error(output.audio_sample, stored["out.audio_fp32"]) < FLOAT32
    alone = model(*arguments, frame_rate=24.0, audio_latent_rate_hz=31.25, coupled=False)
    assert relative_error(alone.sample, output.sample) > 0.01


def mova_model(size: str, expert: str = "video_dit") -> JoVADualTowerTransformer3DModel:
    weights = weights_of(MOVA / f"dual_tower_{size}.safetensors")
    if expert != "video_dit":  # as the README of the references says
        weights = {
            name.replace("video_dit.", "video_dit_2."): tensor.flip(-1) if name.startswith("video_dit.") else tensor
            for name, tensor in weights.items()
        }
    return converted(*mova.convert_transformer(from_state_dict(weights), expert, HEAD_DIMS[size]))


def mova_arguments(stored: Mapping[str, Tensor]) -> dict[str, Any]:
    mask, image = stored["in.condition"].split([4, 16], dim=1)
    return {
        "hidden_states": torch.cat([stored["in.latents"], image, mask], dim=1),
        "audio_hidden_states": stored["in.audio_latents"].mT,
        "encoder_hidden_states": stored["in.text"],
        "timestep": stored["in.coupled.timestep"],
        "audio_timestep": stored["in.coupled.audio_timestep"],
        "frame_rate": 24.0,
        "audio_latent_rate_hz": 50.0,
        "return_dict": False,
    }


@needs_references
@pytest.mark.numeric
@pytest.mark.parametrize("size", HEAD_DIMS)
@torch.no_grad()
def test_a_converted_mova_computes_what_the_original_computes(size: str) -> None:
    stored = load_file(MOVA / f"dual_tower_{size}_io.safetensors")
    calls = json.loads((MOVA / f"dual_tower_{size}.json").read_text())["calls"]
    experts = {name: mova_model(size, name) for name in MOVA_EXPERTS}
    assert set(calls) == set(MOVA_CALLS)
    for name, call in calls.items():
        scales = [call.get("scale", 1.0) * call.get(direction, 1.0) for direction in ("a2v", "v2a")]
        arguments = mova_arguments(stored) | {
            "encoder_hidden_states": stored[f"in.{call['text']}"],
            "timestep": stored[f"in.{name}.timestep"],
            "audio_timestep": stored[f"in.{name}.audio_timestep"],
            "frame_rate": call["frame_rate"],
        }
        model = experts[call["expert"].split()[0]]
        video, audio = model(**arguments, fusion_scale=tuple(scales))
        assert relative_error(video, stored[f"out.{name}.video"]) < FLOAT32, name
        assert relative_error(audio.mT, stored[f"out.{name}.audio"]) < FLOAT32, name
    batch = {
        key: value.expand(4, *value.shape[1:]) if isinstance(value, Tensor) else value
        for key, value in mova_arguments(stored).items()
    }
    coupled = [True, False, "a2v", "v2a"]
    video, audio = experts["video_dit"](**batch, coupled=coupled)
    for index, name in enumerate(("coupled", "uncoupled", "a2v", "v2a")):
        assert relative_error(video[index : index + 1], stored[f"out.{name}.video"]) < FLOAT32
        assert relative_error(audio[index : index + 1].mT, stored[f"out.{name}.audio"]) < FLOAT32


def uniavgen_parts() -> tuple[JoVADualTowerTransformer3DModel, JoVASpokenTextEncoder]:
    checkpoint = from_state_dict(weights_of(UNIAVGEN / "tiny.safetensors"))
    config, found = uniavgen.convert_text_encoder(checkpoint)
    encoder = JoVASpokenTextEncoder(**config)
    encoder.load_state_dict({parameter.name: parameter.make() for parameter in found})
    return converted(*uniavgen.convert_transformer(checkpoint)), encoder.eval()


def uniavgen_arguments(name: str, stored: Mapping[str, Tensor], encoder: JoVASpokenTextEncoder) -> dict[str, Any]:
    case = json.loads((UNIAVGEN / "forward.json").read_text())["cases"][name]

    def given(what: str) -> Tensor:
        return stored.get(f"{name}.{what}", stored[f"base.{what}"] if f"base.{what}" in stored else torch.empty(0))

    video, audio = given("video").clone(), given("audio").clone()
    num_video, num_audio = case["video_cond"], case["audio_cond"]
    has_own_video = case["given_video"] != "reference_image"
    video[:, :num_video] = given("given_video" if has_own_video else "reference_image")[:, :num_video]
    audio[:num_audio] = given("given_audio")[:num_audio] if num_audio else audio[:0]
    timestep = torch.full((1, video.shape[1]), case["timestep"])
    timestep[:, :num_video] = 0
    text = torch.zeros(1, 16, 32)
    text[0, : len(given("video_text"))] = given("video_text")
    return {
        "hidden_states": video[None],
        "audio_hidden_states": audio[None],
        "encoder_hidden_states": text,
        "timestep": timestep,
        "audio_timestep": torch.full((1,), 0.0 if num_audio else case["timestep"]),
        "audio_encoder_hidden_states": encoder(given("audio_text_ids")),
        "reference_hidden_states": given("reference_image")[None] if has_own_video else None,
        "audio_reference_hidden_states": given("reference_audio")[None] if case["reference_audio"] else None,
        "frame_rate": 16.0,
        "audio_latent_rate_hz": 100.0,
        **UNIAVGEN_CASES[name],
    }


@needs_references
@pytest.mark.numeric
@torch.no_grad()
def test_a_converted_uniavgen_computes_what_the_original_computes() -> None:
    stored = load_file(UNIAVGEN / "forward.safetensors")
    model, encoder = uniavgen_parts()
    for name in UNIAVGEN_CASES:
        output = model(**uniavgen_arguments(name, stored, encoder))
        assert relative_error(output.sample[0], stored[f"{name}.video_velocity"][:, 1:]) < FLOAT32, name
        assert relative_error(output.audio_sample[0], stored[f"{name}.audio_velocity"]) < FLOAT32, name


@needs_references
@pytest.mark.numeric
@torch.no_grad()
def test_the_face_masks_of_uniavgen_are_those_of_the_original_coupled_or_not() -> None:
    stored = load_file(UNIAVGEN / "forward.safetensors")
    model, encoder = uniavgen_parts()
    arguments = uniavgen_arguments("joint", stored, encoder)
    masks = model(**arguments, return_face_masks=True).face_masks
    assert masks.shape == (1, 2, 4, 4, 3)
    for index in range(2):
        assert relative_error(masks[0, index].flatten(), stored[f"joint.trace.face_mask.{index}"].flatten()) < FLOAT32
    first = model(**{**arguments, "coupled": False}, return_face_masks=True).face_masks[:, 0]
    torch.testing.assert_close(first, masks[:, 0])  # in front of the first fusion nothing is coupled


@needs_references
@pytest.mark.numeric
@torch.no_grad()
def test_the_encoder_of_spoken_text_computes_what_the_original_computes() -> None:
    stored = load_file(UNIAVGEN / "speech_text.safetensors")
    model, encoder = uniavgen_parts()
    cases = [name.removesuffix(".ids") for name in stored if name.endswith(".ids")]
    assert len(cases) == 5
    for case in cases:
        features = encoder(stored[f"{case}.ids"])
        assert relative_error(features, stored[f"{case}.features"]) < 1e-5
        projected = model.audio.condition_embedder.text_embedder(features)
        assert relative_error(projected, stored[f"{case}.projected"]) < 1e-5


@needs_references
@pytest.mark.numeric
@pytest.mark.parametrize("sizes", ["81x4x4x3", "47x3x2x5", "10x5x3x2", "31x2x2x2"])
@torch.no_grad()
def test_an_aligned_fusion_alone_computes_what_the_original_computes(sizes: str) -> None:
    stored = load_file(UNIAVGEN / "aligners.safetensors")
    num_audio, *grid = (int(part) for part in sizes.split("x"))
    case = {name: stored[f"module.{sizes}.{name}"] for name in ("video", "audio", "temb")}
    model, _ = uniavgen_parts()
    fusion = model.blocks[2].fusion
    clip = {"video": ClipRows(0, math.prod(grid)), "audio": ClipRows(0, num_audio)}
    alignment = model.alignment(clip, tuple(grid), torch.device("cpu"))
    noise = NoiseCondition(case["temb"], torch.empty(0), torch.arange(math.prod(grid)))
    mask = fusion.face_mask(case["video"], noise)
    seen = fusion.video(case["video"], case["audio"], mask, alignment)
    heard = fusion.audio(case["audio"], mask * case["video"], alignment)
    for name, output in (("face_mask", mask), ("a2v_out", seen), ("v2a_out", heard)):
        assert relative_error(output, stored[f"module.{sizes}.{name}"]) < 1e-5, name


@needs_references
def test_windows_and_interpolation_are_those_of_the_original() -> None:
    stored = load_file(UNIAVGEN / "aligners.safetensors")
    lengths = {name.split(".")[1] for name in stored if name.startswith("window.")}
    assert len(lengths) == 10
    for text in lengths:
        num_audio, num_frames = (int(part) for part in text.split("x"))
        assert torch.equal(torch.tensor(audio_windows(num_audio, num_frames, 4)), stored[f"window.{text}"].long())
        table = f"interpolation.{text}."
        if f"{table}lower" not in stored:
            continue
        lower, upper, share = (torch.tensor(part) for part in interpolation(num_audio, num_frames, 4))
        is_last = stored[f"{table}weight_lower"] + stored[f"{table}weight_upper"] > 1.5
        assert torch.equal(lower == num_frames, is_last)
        assert torch.equal(lower.clamp(max=num_frames - 1), stored[f"{table}lower"].long())
        assert torch.equal(upper.clamp(max=num_frames - 1), stored[f"{table}upper"].long())
        torch.testing.assert_close(share[~is_last].float(), stored[f"{table}weight_upper"][~is_last])


# Full size


def key_list(path: Path, prefix: str = "") -> dict[str, Tensor]:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    names = [line.split(maxsplit=1) for line in lines]
    with torch.device("meta"):
        return {
            prefix + name: torch.empty([int(size) for size in shape[1 : shape.index(")")].split(",") if size.strip()])
            for name, shape in names
        }


def num_parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def assert_is_card(name: str, model: Any) -> None:
    stored = json.loads((CARDS / name / "transformer" / "config.json").read_text())
    values = {key: value for key, value in model.config.items() if not key.startswith("_")}
    del stored["_diffusers_version"]
    assert stored == json.loads(json.dumps(values)) | {"_class_name": "JoVADualTowerTransformer3DModel"}


@needs_references
def test_the_key_lists_of_the_releases_fit_with_nothing_left_over() -> None:
    folders = ("video_dit", "audio_dit", "dual_tower_bridge")
    lists = [key_list(MOVA / "keys" / f"{folder}.txt", f"{folder}.") for folder in folders]
    config, found = mova.convert_transformer(
        from_state_dict({name: one for part in lists for name, one in part.items()})
    )
    model = dual_tower.build(config)
    check_fits(found, model)
    assert num_parameters(model) == 14_288_901_184 + 1_419_193_472 + 2_659_737_600
    assert_is_card("mova-720p", model)
    assert_is_card("mova-360p", model)

    config, found = ovi.convert_fused(from_state_dict(key_list(PARITY / "keys" / "ovi_fusion_11b.txt")))
    model = dual_tower.build(config)
    check_fits(found, model)
    assert num_parameters(model) == 11_660_753_108

    checkpoint = from_state_dict(key_list(UNIAVGEN / "keys_uniavgen_7b.txt"))
    config, found = uniavgen.convert_transformer(checkpoint)
    model = dual_tower.build(config)
    check_fits(found, model)
    assert_is_card("uniavgen", model)
    encoder_config, encoder_found = uniavgen.convert_text_encoder(checkpoint)
    with torch.device("meta"):
        encoder = JoVASpokenTextEncoder(**encoder_config)
    check_fits(encoder_found, encoder)
    padding = 1536  # of batches of unequal length
    assert num_parameters(model) + num_parameters(encoder) + padding == 7_056_424_223


@needs_references
@pytest.mark.parametrize("family", ["mova", "ovi", "uniavgen"])
def test_an_unknown_key_is_refused(family: str) -> None:
    path, prefix, convert = {
        "mova": (MOVA / "dual_tower_mini.safetensors", "", lambda one: mova.convert_transformer(one, head_dim=12)),
        "ovi": (PARITY / "ovi_fusion_tiny.safetensors", "sd.", ovi.convert_fused),
        "uniavgen": (UNIAVGEN / "tiny.safetensors", "", uniavgen.convert_transformer),
    }[family]
    weights = {name[len(prefix) :]: one for name, one in load_file(path).items() if name.startswith(prefix)}
    with pytest.raises(ValueError, match=r"1 tensors that no rule knows: `blocks\.0\.new`"):
        convert(from_state_dict(weights | {"blocks.0.new": torch.zeros(1)}))


# Two experts


def test_the_timestep_of_the_video_chooses_the_tower_of_a_whole_step() -> None:
    model, single = build_dual_tower(boundary=0.9), build_dual_tower()
    high, low = (tiny_arguments() | {"timestep": torch.full((2,), time)} for time in (900.0, 899.5))
    weights = model.state_dict()
    assert {name for name in weights if "video_low" not in name} == set(single.state_dict())
    with torch.no_grad():
        outputs = {}
        for owner, arguments in (("video", high), ("video_low", low)):
            low_names = {name: low_noise_name(name) for name in single.state_dict()}
            tower = {name: weights[other if owner == "video_low" else name] for name, other in low_names.items()}
            single.load_state_dict(tower)
            outputs[owner] = model(**arguments)
            for one, other in zip(outputs[owner], single(**arguments), strict=True):
                assert torch.equal(one, other)
        assert relative_error(outputs["video_low"][0], outputs["video"][0]) > 0.1
        given = high | {"timestep": torch.tensor([[0.0, 950.0, 950.0]] * 2)}  # a given frame chooses nothing
        given["audio_timestep"] = torch.full((2,), 950.0)
        other_low = {name: value + 1 if "video_low" in name else value for name, value in weights.items()}
        before = model(**given)
        model.load_state_dict(other_low)
        for one, other in zip(model(**given), before, strict=True):
            assert torch.equal(one, other)
    with pytest.raises(ValueError, match="`timestep` must lie on one side of 900 for all samples"):
        model(**high | {"timestep": torch.tensor([950.0, 100.0])})


def mova_with_both_experts() -> JoVADualTowerTransformer3DModel:
    weights = weights_of(MOVA / "dual_tower_mini.safetensors")
    high = {name: tensor for name, tensor in weights.items() if name.startswith("video_dit.")}
    low = {name.replace("video_dit.", "video_dit_2."): tensor.flip(-1) for name, tensor in high.items()}
    return converted(*mova.convert_transformer(from_state_dict(weights | low), head_dim=12))


def low_noise_name(name: str) -> str:
    """Name of a parameter of the video tower in the tower for low noise; those of audio and fusion stay."""
    if "fusion" in name:
        return name
    return ".".join("video_low" if part == "video" else part for part in name.split("."))


@needs_references
@pytest.mark.numeric
@torch.no_grad()
def test_a_converted_mova_with_both_experts_holds_audio_and_bridge_once() -> None:
    model = mova_with_both_experts()
    assert model.config.boundary == 0.9
    weights = weights_of(MOVA / "dual_tower_mini.safetensors")
    copies = {name: 2 if name.startswith("video_dit.") else 1 for name in weights}
    assert num_parameters(model) == sum(copies[name] * tensor.numel() for name, tensor in weights.items())
    stored = load_file(MOVA / "dual_tower_mini_io.safetensors")
    for name in ("coupled", "low_noise"):
        times = {key: stored[f"in.{name}.{key}"] for key in ("timestep", "audio_timestep")}
        video, audio = model(**mova_arguments(stored) | times)
        assert relative_error(video, stored[f"out.{name}.video"]) < FLOAT32
        assert relative_error(audio.mT, stored[f"out.{name}.audio"]) < FLOAT32


@needs_references
@pytest.mark.numeric
@pytest.mark.parametrize(
    ("case", "num_steps", "audio_shift", "coupling_scale"),
    [
        ("text_cfg_5_steps", 5, 5.0, 1.0),
        ("text_cfg_6_steps", 6, 5.0, 1.0),
        ("text_cfg_5_steps_shift_5_1", 5, 1.0, 1.0),
        ("dual_cfg_5_steps", 5, 5.0, 3.0),
    ],
)
@torch.no_grad()
def test_both_experts_sample_what_the_original_samples(
    case: str, num_steps: int, audio_shift: float, coupling_scale: float
) -> None:
    stored = load_file(MOVA / "dual_tower_mini_trajectories.safetensors")
    mask, image = stored["in.condition"].split([4, 16], dim=1)
    scheduler = FlowMatchAudioVideoScheduler(shift=5.0, audio_shift=audio_shift)
    scheduler.set_timesteps(num_steps)
    scheduler.set_begin_index(0)
    scales = {"guidance_scale": 5.0, "coupling_scale": coupling_scale, "uncoupled_text": "empty"}
    engine = JoVADenoiser(
        transformer=mova_with_both_experts(),
        scheduler=scheduler,
        guidance=GenerationDefaults(**scales).guidance(),
        given={},
        channels=torch.cat([image, mask], dim=1),
        frame_rate=24.0,
        audio_latent_rate_hz=50.0,
    )
    text = TextConditions(PromptEmbeds(stored["in.text"]), PromptEmbeds(stored["in.negative_text"]))
    latents = {"video": stored["in.latents"], "audio": stored["in.audio_latents"].mT}
    for step in range(num_steps):
        latents = engine.step(step, latents, text)
    assert relative_error(latents["video"], stored[f"out.{case}.exact.video"]) < FLOAT32
    assert relative_error(latents["audio"].mT, stored[f"out.{case}.exact.audio"]) < FLOAT32


# Arguments of one fusion, errors


def tiny_arguments() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    return {
        "hidden_states": torch.randn(2, 16, 3, 4, 4, generator=generator),
        "audio_hidden_states": torch.randn(2, 8, 4, generator=generator),
        "encoder_hidden_states": torch.randn(2, 6, 16, generator=generator),
        "timestep": torch.full((2,), 500.0),
        "frame_rate": 16.0,
        "audio_latent_rate_hz": 25.0,
        "return_dict": False,
    }


@torch.no_grad()
def test_a_reference_is_read_and_not_predicted() -> None:
    model, arguments = build_dual_tower("aligned"), tiny_arguments()
    image, voice = torch.randn(2, 16, 1, 4, 4), torch.randn(2, 5, 4)
    plain = model(**arguments)
    copied = model(**arguments, reference_hidden_states=arguments["hidden_states"][:, :, :1])
    assert relative_error(copied[0], plain[0]) > 1e-4  # clean, where a copy has the timestep of its latent
    seen = model(**arguments, reference_hidden_states=image)
    heard = model(**arguments, audio_reference_hidden_states=voice)
    for outputs in (seen, heard):
        assert [part.shape for part in outputs] == [part.shape for part in plain]
    assert relative_error(seen[0], plain[0]) > 1e-3
    assert relative_error(heard[1], plain[1]) > 1e-3
    per_latent = model(
        **arguments | {"audio_timestep": torch.full((2, 8), 500.0)}, audio_reference_hidden_states=voice
    )
    for one, other in zip(per_latent, heard, strict=True):
        torch.testing.assert_close(one, other, atol=2e-6, rtol=1e-4)


@torch.no_grad()
def test_what_is_given_is_read_and_not_updated_by_an_aligned_fusion() -> None:
    model, arguments = build_dual_tower("aligned", num_layers=1, audio_num_layers=1), tiny_arguments()
    times = {
        "timestep": torch.tensor([[0.0, 500.0, 500.0]] * 2),
        "audio_timestep": torch.tensor([[0.0] * 3 + [500.0] * 5] * 2),
    }
    together, alone = (model(**arguments | times, coupled=coupled) for coupled in (True, False))
    torch.testing.assert_close(together[0][:, :, :1], alone[0][:, :, :1], atol=2e-6, rtol=1e-4)
    torch.testing.assert_close(together[1][:, :3], alone[1][:, :3], atol=2e-6, rtol=1e-4)
    assert relative_error(together[0][:, :, 1:], alone[0][:, :, 1:]) > 1e-3
    assert relative_error(together[1][:, 3:], alone[1][:, 3:]) > 1e-3


@pytest.mark.parametrize("fusion", DUAL_TOWERS)
@torch.no_grad()
def test_a_scale_of_the_fusion_lies_between_coupled_and_not(fusion: str) -> None:
    model, arguments = build_dual_tower(fusion), tiny_arguments()
    for scale, coupled in ((0.0, False), (1.0, True), ((1.0, 0.0), "a2v"), ((0.0, 1.0), "v2a")):
        for one, other in zip(
            model(**arguments, fusion_scale=scale), model(**arguments, coupled=coupled), strict=True
        ):
            torch.testing.assert_close(one, other, atol=2e-6, rtol=1e-4)
    half, whole = (model(**arguments, fusion_scale=scale) for scale in (0.5, 1.0))
    assert all(relative_error(one, other) > 1e-4 for one, other in zip(half, whole, strict=True))


def test_face_masks_have_gradient_with_checkpointing_and_without() -> None:
    arguments = tiny_arguments() | {"return_dict": True}
    gradients = []
    for checkpointing in (False, True):
        model = build_dual_tower("aligned")
        if checkpointing:
            model.enable_gradient_checkpointing()
        masks = model(**arguments, coupled=False, return_face_masks=True).face_masks
        assert masks.shape == (2, 1, 3, 2, 2)
        masks.square().sum().backward()
        gradients.append(model.blocks[0].fusion.mask_head.proj_out.weight.grad)
    torch.testing.assert_close(gradients[1], gradients[0])
    assert gradients[0].any()


def test_both_directions_read_what_no_fusion_has_updated() -> None:
    """What audio reads does not hang on what video reads: the gradient of one step of fusion is that of one way."""
    for fusion in DUAL_TOWERS:
        model, arguments = build_dual_tower(fusion, num_layers=1, audio_num_layers=1), tiny_arguments()
        with torch.no_grad():
            both, one_way = (model(**arguments, coupled=coupled)[1] for coupled in (True, "v2a"))
        torch.testing.assert_close(both, one_way, atol=2e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"fusion": "cross"}, r"`fusion` must be one of \['bridge', 'aligned', 'text_cross'\], got 'cross'"),
        (
            {"fusion_layers": (0, 2)},
            r"`fusion_layers` must be indices of the 2 blocks that both towers have, got \[2\]",
        ),
        ({"audio_rope_axes_dim": (4, 4, 2)}, r"`audio_rope_axes_dim` must add up to `attention_head_dim`, 12, got"),
        ({"audio_num_layers": 0}, "`audio_num_layers` must be at least 1, got 0"),
        ({"boundary": 900.0}, "`boundary` must lie between 0 and 1, got 900; None is one video tower"),
        ({"audio_text_embedding": "deep"}, "`audio_text_embedding` must be 'mlp' or 'linear', got 'deep'"),
    ],
)
def test_wrong_configs_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        JoVADualTowerTransformer3DModel(**DUAL_TOWER_CONFIG | config)


@pytest.mark.parametrize(
    ("fusion", "arguments", "message"),
    [
        ("bridge", {"reference_hidden_states": torch.zeros(2, 16, 1, 4, 4)}, "must go with that modality and a model"),
        ("bridge", {"return_face_masks": True}, "`return_face_masks` must go with video and a model of `fusion` 'al"),
        ("bridge", {"skip_layers": [3]}, r"`skip_layers` must be indices of the 3 blocks, got \[3\]"),
        ("bridge", {"fusion_scale": (1.0,)}, "`fusion_scale` must be a number or a pair of numbers"),
        ("bridge", {"fusion_scale": float("nan")}, "`fusion_scale` must be finite"),
        ("bridge", {"coupled": "both", "hidden_states": None}, "`coupled` must be True, False, 'a2v' or 'v2a'"),
        ("bridge", {"encoder_hidden_states_2": torch.zeros(2, 3, 8)}, "this model has one text encoder"),
        (
            "bridge",
            {"audio_encoder_hidden_states": torch.zeros(2, 3, 8)},
            r"`audio_encoder_hidden_states` must be features \[2, S, 16\].*got \[2, 3, 8\]",
        ),
        (
            "aligned",
            {"return_face_masks": True, "skip_layers": [0]},
            "a block that has a fusion and is not skipped",
        ),
        (
            "aligned",
            {"reference_hidden_states": torch.zeros(2, 16, 2, 4, 4)},
            r"`reference_hidden_states` must be \[2, 16, 1, 4, 4\], got \[2, 16, 2, 4, 4\]",
        ),
        (
            "aligned",
            {"audio_reference_hidden_states": torch.zeros(2, 5, 3)},
            r"`audio_reference_hidden_states` must be \[2, R, 4\], got \[2, 5, 3\]",
        ),
    ],
)
def test_wrong_inputs_are_refused(fusion: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_dual_tower(fusion)(**tiny_arguments() | arguments)
