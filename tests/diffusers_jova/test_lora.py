import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffusers_jova import JoVAPipeline
from diffusers_jova.hub_access import HubAccessError
from tests.tiny_pipeline import build_tiny_pipeline, build_transformer, build_wan_transformer


TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
ROUND_OFF = {"atol": 1e-4, "rtol": 1e-3}  # float32 through two steps of a random network


def generate(pipeline: JoVAPipeline, **arguments: Any) -> Tensor:
    arguments = {"generator": torch.Generator().manual_seed(0), "num_frames": 5, "output_type": "latent", **arguments}
    video, audio = pipeline("a dog", return_dict=False, guidance_scale=1.0, **arguments)
    return torch.cat([video.flatten(), audio.flatten()])


@pytest.fixture(scope="module")
def plain() -> Tensor:
    return generate(build_tiny_pipeline())


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two saved adapters, of all attention projections and of the audio stream's."""
    folders = {}
    targets = {"voice": TARGETS, "sound": r".*attn\.audio\.(to_q|to_v)"}
    for seed, (name, modules) in enumerate(targets.items()):
        transformer = build_transformer()
        torch.manual_seed(seed)
        config = LoraConfig(r=2, lora_alpha=6, target_modules=modules, init_lora_weights=False)
        transformer.add_adapter(config, "default")
        folders[name] = tmp_path_factory.mktemp(name)
        JoVAPipeline.save_lora_weights(
            folders[name],
            transformer_lora_layers=get_peft_model_state_dict(transformer),
            transformer_lora_adapter_metadata=transformer.peft_config["default"].to_dict(),
        )
    return folders


def load(adapters: dict[str, Path], *names: str) -> JoVAPipeline:
    pipeline = build_tiny_pipeline()
    for name in names:
        pipeline.load_lora_weights(adapters[name], adapter_name=name)
    return pipeline


def test_saved_keys_name_the_transformer_then_the_stream_then_the_projection(adapters: dict[str, Path]) -> None:
    keys = load_file(adapters["voice"] / "pytorch_lora_weights.safetensors").keys()
    assert "transformer.transformer_blocks.0.attn.audio_text.to_q.lora_A.weight" in keys
    assert "transformer.single_transformer_blocks.0.attn.video.to_out.0.lora_B.weight" in keys


def test_an_adapter_changes_both_modalities_and_unloads(adapters: dict[str, Path], plain: Tensor) -> None:
    pipeline = load(adapters, "voice")
    changed = generate(pipeline)
    num_video = 16 * 2 * 4 * 4
    assert not torch.allclose(changed[:num_video], plain[:num_video], atol=1e-3)
    assert not torch.allclose(changed[num_video:], plain[num_video:], atol=1e-3)
    pipeline.unload_lora_weights()
    torch.testing.assert_close(generate(pipeline), plain, **ROUND_OFF)


def test_the_scale_of_a_call_weighs_the_adapter(adapters: dict[str, Path], plain: Tensor) -> None:
    pipeline = load(adapters, "voice")
    off = generate(pipeline, attention_kwargs={"scale": 0.0})
    half = generate(pipeline, attention_kwargs={"scale": 0.5})
    torch.testing.assert_close(off, plain, **ROUND_OFF)
    pipeline.set_adapters("voice", 0.5)
    torch.testing.assert_close(generate(pipeline), half, **ROUND_OFF)


def test_an_adapter_whose_name_is_part_of_others_lacks_nothing(
    adapters: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    pipeline = build_tiny_pipeline()
    for name, folder in zip(("a", "b"), adapters.values(), strict=False):  # all keys hold a b, of `lora_B`, say
        pipeline.load_lora_weights(folder, adapter_name=name)
    assert "missing keys" not in caplog.text


def test_adapters_add_up_with_their_weights(adapters: dict[str, Path]) -> None:
    pipeline = load(adapters, "voice", "sound")
    assert pipeline.get_list_adapters() == {"transformer": ["voice", "sound"]}
    pipeline.set_adapters(["voice", "sound"], [1.0, 0.0])
    torch.testing.assert_close(generate(pipeline), generate(load(adapters, "voice")), **ROUND_OFF)
    pipeline.set_adapters(["voice", "sound"], [1.0, 1.0])
    both = generate(pipeline)
    assert not torch.allclose(both, generate(load(adapters, "voice")), atol=1e-3)
    pipeline.delete_adapters("voice")
    torch.testing.assert_close(generate(pipeline), generate(load(adapters, "sound")), **ROUND_OFF)


def test_a_fused_adapter_gives_the_same_and_can_be_taken_out(adapters: dict[str, Path], plain: Tensor) -> None:
    pipeline = load(adapters, "voice")
    expected = generate(pipeline)
    pipeline.fuse_lora()
    torch.testing.assert_close(generate(pipeline), expected, **ROUND_OFF)
    pipeline.unfuse_lora()
    pipeline.disable_lora()
    torch.testing.assert_close(generate(pipeline), plain, **ROUND_OFF)


def test_the_settings_of_training_travel_with_the_adapter(adapters: dict[str, Path]) -> None:
    config = load(adapters, "voice").transformer.peft_config["voice"]
    assert (config.r, config.lora_alpha) == (2, 6)
    _, metadata = JoVAPipeline.lora_state_dict(adapters["voice"], return_lora_metadata=True)
    assert metadata["transformer.lora_alpha"] == 6


def test_an_unknown_adapter_is_named_in_the_error(adapters: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match=r"Adapter name\(s\) \{'face'\} not in the list of present adapters"):
        load(adapters, "voice").set_adapters("face")


def test_a_file_of_another_model_is_refused_and_nothing_is_left_behind(tmp_path: Path) -> None:
    pipeline = build_tiny_pipeline()
    with pytest.raises(OSError, match="no file named"):
        pipeline.load_lora_weights(tmp_path)
    assert pipeline.get_list_adapters() == {}
    alien = {
        "blocks.9.attn.to_q.lora_A.weight": torch.zeros(2, 4),
        "blocks.9.attn.to_q.lora_B.weight": torch.zeros(4, 2),
    }
    JoVAPipeline.save_lora_weights(tmp_path, transformer_lora_layers=alien)
    with pytest.raises(
        ValueError, match=r"must change linear layers of this JoVATransformer3DModel, got `blocks.9.attn.to_q`"
    ):
        pipeline.load_lora_weights(tmp_path)
    assert pipeline.get_list_adapters() == {}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "`adapter` must be a folder, a file, a hub name or a dict of tensors, got None"),
        (3, "`adapter` must be a folder, a file, a hub name or a dict of tensors, got 3"),
        ("nothere", "`adapter` must be an existing path or a hub name owner/name, got nothere"),
    ],
)
def test_what_is_no_adapter_is_refused_without_asking_the_hub(source: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        build_tiny_pipeline().load_lora_weights(source)
    assert not isinstance(caught.value, HubAccessError)


RANKS = {"transformer_blocks.0.attn.video.to_q": 4, "single_transformer_blocks.0.attn.audio.to_out.0": 2}
ALPHAS = {"transformer_blocks.0.attn.video.to_q": 12.0, "single_transformer_blocks.0.attn.audio.to_out.0": 3.0}


def matrices() -> dict[str, Tensor]:
    """Two modules with ranks and scales of their own."""
    torch.manual_seed(0)
    down = {f"{module}.lora_A.weight": torch.randn(rank, 24) for module, rank in RANKS.items()}
    return down | {f"{module}.lora_B.weight": torch.randn(24, rank) for module, rank in RANKS.items()}


def config() -> dict[str, Any]:
    """What peft would store of them."""
    (q, out), (rank, other), (alpha, another) = RANKS, RANKS.values(), ALPHAS.values()
    patterns = {"rank_pattern": {out: other}, "alpha_pattern": {out: another}}
    return {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "target_modules": [q, out], **patterns}


def write_diffusers(folder: Path) -> Path:
    header = json.dumps({f"transformer.{name}": value for name, value in config().items()})
    tensors = {f"transformer.{name}": tensor for name, tensor in matrices().items()}
    path = folder / "pytorch_lora_weights.safetensors"
    save_file(tensors, path, metadata={"lora_adapter_metadata": header})
    return path


def write_peft(folder: Path) -> Path:
    tensors = {f"base_model.model.{name}": tensor for name, tensor in matrices().items()}
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(config()))
    return folder


def write_peft_file(folder: Path) -> Path:
    return write_peft(folder) / "adapter_model.safetensors"


def with_alphas(tensors: dict[str, Tensor], prefix: str, folder: Path) -> Path:
    alphas = {f"{module}.alpha": torch.tensor(alpha) for module, alpha in ALPHAS.items()}
    path = folder / "adapter.safetensors"
    save_file({f"{prefix}{name}": tensor for name, tensor in (tensors | alphas).items()}, path)
    return path


def write_peft_with_alphas(folder: Path) -> Path:
    return with_alphas(matrices(), "base_model.model.", folder)


def write_comfy(folder: Path) -> Path:
    return with_alphas(matrices(), "diffusion_model.", folder)


def write_kohya(folder: Path) -> Path:
    return with_alphas(downs_and_ups(), "diffusion_model.", folder)


def downs_and_ups() -> dict[str, Tensor]:
    return {name.replace("lora_A", "lora_down").replace("lora_B", "lora_up"): t for name, t in matrices().items()}


LAYOUTS = [write_peft, write_peft_file, write_peft_with_alphas, write_comfy, write_kohya]


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Tensor:
    """What the adapter in diffusers' own layout makes of the clip."""
    pipeline = build_tiny_pipeline()
    pipeline.load_lora_weights(write_diffusers(tmp_path_factory.mktemp("diffusers")))
    return generate(pipeline)


@pytest.mark.parametrize("write", LAYOUTS)
def test_an_adapter_does_the_same_in_every_layout_bit_for_bit(
    write: Callable[[Path], Path], adapted: Tensor, plain: Tensor, tmp_path: Path
) -> None:
    pipeline = build_tiny_pipeline()
    pipeline.load_lora_weights(write(tmp_path))
    assert torch.equal(generate(pipeline), adapted)
    assert not torch.allclose(adapted, plain, atol=1e-3)


@pytest.mark.parametrize("write", [write_diffusers, *LAYOUTS])
def test_the_scale_of_every_module_is_its_alpha_over_its_rank(write: Callable[[Path], Path], tmp_path: Path) -> None:
    pipeline = build_tiny_pipeline()
    pipeline.load_lora_weights(write(tmp_path), adapter_name="it")
    for module, rank in RANKS.items():
        layer = pipeline.transformer.get_submodule(module)
        assert (layer.r["it"], layer.scaling["it"]) == (rank, ALPHAS[module] / rank)


def test_without_alphas_the_scale_is_one() -> None:
    tensors = {f"diffusion_model.{name}": tensor for name, tensor in downs_and_ups().items()}
    pipeline = build_tiny_pipeline()
    pipeline.load_lora_weights(tensors, adapter_name="it")
    assert {pipeline.transformer.get_submodule(module).scaling["it"] for module in RANKS} == {1.0}


def test_a_folder_that_peft_itself_wrote_loads_with_its_scale(tmp_path: Path) -> None:
    torch.manual_seed(0)
    targets = r".*attn\.audio\.to_(q|v)"
    wrapped = get_peft_model(
        build_transformer(), LoraConfig(r=2, lora_alpha=6, target_modules=targets, init_lora_weights=False)
    )
    wrapped.save_pretrained(tmp_path)
    pipeline = build_tiny_pipeline()
    pipeline.load_lora_weights(tmp_path)
    assert torch.equal(generate(pipeline), generate(build_tiny_pipeline(transformer=wrapped.base_model.model)))


def test_a_rank_stabilised_scale_of_peft_is_kept(tmp_path: Path) -> None:
    write_peft(tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps(config() | {"use_rslora": True}))
    pipeline = build_tiny_pipeline()
    pipeline.load_lora_weights(tmp_path, adapter_name="it")
    for module, rank in RANKS.items():
        scaling = pipeline.transformer.get_submodule(module).scaling["it"]
        assert scaling == pytest.approx(ALPHAS[module] / rank**0.5)


def test_a_peft_repository_of_the_hub_loads_with_its_scale(tmp_path: Path, adapted: Tensor) -> None:
    (tmp_path / "models--owner--voice" / "refs").mkdir(parents=True)
    (tmp_path / "models--owner--voice" / "refs" / "main").write_text("0" * 40)
    snapshot = tmp_path / "models--owner--voice" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    write_peft(snapshot)
    pipeline = build_tiny_pipeline()
    pipeline.load_lora_weights("owner/voice", weight_name="adapter_model.safetensors", cache_dir=str(tmp_path))
    assert torch.equal(generate(pipeline), adapted)


def test_an_adapter_of_a_plain_wan_model_changes_the_video_tower() -> None:
    torch.manual_seed(0)
    pair = {"lora_A": torch.randn(2, 24), "lora_B": torch.randn(24, 2)}
    loaded = []
    for module in ("diffusion_model.blocks.1.self_attn.o", "transformer.blocks.1.attn1.video.to_out.0"):
        pipeline = build_tiny_pipeline(transformer=build_wan_transformer(in_channels=36))
        pipeline.load_lora_weights({f"{module}.{side}.weight": tensor for side, tensor in pair.items()})
        loaded.append(generate(pipeline))
    assert torch.equal(*loaded)
    names = ("blocks.0.self_attn.q", "blocks.0.cross_attn.k_img")
    tensors = {f"diffusion_model.{name}.{side}.weight": tensor for name in names for side, tensor in pair.items()}
    with pytest.raises(ValueError, match=r"must change linear layers of this .*, got `blocks.0.cross_attn.k_img`"):
        pipeline.load_lora_weights(tensors)


def test_an_adapter_that_is_not_finite_is_not_saved(adapters: dict[str, Path], tmp_path: Path) -> None:
    tensors = load_file(adapters["voice"] / "pytorch_lora_weights.safetensors")
    layers = {name.removeprefix("transformer."): tensor * float("nan") for name, tensor in tensors.items()}
    with pytest.raises(ValueError, match=r"`transformer_lora_layers\['.*'\]` must be finite, got NaN or infinity"):
        JoVAPipeline.save_lora_weights(tmp_path / "nan", transformer_lora_layers=layers)
    assert not (tmp_path / "nan").exists()


def test_a_file_that_holds_no_adapter_is_told_in_a_short_sentence() -> None:
    tensors = {f"blocks.{n}.attn.to_q.weight": torch.ones(1) for n in range(30)}
    with pytest.raises(
        ValueError, match=r"_q\.weight` and 27 more: these are other tensors; name the file of an adap"
    ):
        build_tiny_pipeline().load_lora_weights(tensors)


@pytest.mark.parametrize("prefix", ["base_model.model.", "diffusion_model."])
def test_keys_that_are_no_part_of_a_lora_are_listed(prefix: str) -> None:
    pipeline = build_tiny_pipeline()
    module = next(iter(ALPHAS))
    whole = {f"{prefix}{name}": tensor for name, tensor in matrices().items()}
    whole |= {f"{prefix}{name}.alpha": torch.tensor(alpha) for name, alpha in ALPHAS.items()}
    one, other = f"{prefix}{module}.lora_mid.weight", f"{prefix}{module}.lokr_t2"
    cases = [
        (
            {one: torch.ones(1), other: torch.ones(1)},
            f"and end in one of .*, got `{one}`, `{other}`; save the adapter",
        ),
        ({"text_encoder.q.lora_A.weight": torch.ones(1)}, "got `text_encoder.q.lora_A.weight`; adapters of text"),
        ({f"{prefix}elsewhere.alpha": torch.tensor(1.0)}, "both matrices of every module, got one or none for `else"),
        ({f"{prefix}{module}.lora_down.weight": torch.ones(4, 24)}, f"each matrix once, got two of `{module}.lora_A"),
        (
            {f"{prefix}{module}.lora_B.weight": torch.ones(24, 3)},
            f"both matrices of `{module}` must have one rank, got 4",
        ),
        (
            {f"{prefix}x.lora_{side}.weight": torch.ones(2, 2) for side in "AB"},
            "must change linear layers of this .*, got `x`",
        ),
    ]
    for extra, message in cases:
        with pytest.raises(ValueError, match=message):
            pipeline.load_lora_weights(whole | extra)
        assert pipeline.get_list_adapters() == {}


def test_a_dora_as_diffusers_saves_it_does_what_peft_does(tmp_path: Path) -> None:
    torch.manual_seed(0)
    transformer = build_transformer()
    targets = r".*attn\.audio\.to_(q|v)"
    transformer.add_adapter(
        LoraConfig(r=2, lora_alpha=2, target_modules=targets, init_lora_weights=False, use_dora=True)
    )
    magnitudes = [tensor for name, tensor in transformer.named_parameters() if "magnitude" in name]
    assert magnitudes
    for magnitude in magnitudes:
        magnitude.data *= 1.5
    JoVAPipeline.save_lora_weights(tmp_path, transformer_lora_layers=get_peft_model_state_dict(transformer))
    pipeline = build_tiny_pipeline()
    pipeline.load_lora_weights(tmp_path)
    assert torch.equal(generate(pipeline), generate(build_tiny_pipeline(transformer=transformer)))


@pytest.mark.parametrize("alpha", ["NaN", "Infinity", "true", '"8"', "null"])
@pytest.mark.parametrize("field", ["lora_alpha", "alpha_pattern"])
def test_an_alpha_that_is_no_finite_number_is_refused(tmp_path: Path, field: str, alpha: str) -> None:
    path, config = write_peft_file(tmp_path), tmp_path / "adapter_config.json"
    given = (
        {"lora_alpha": alpha} if field == "lora_alpha" else {"lora_alpha": "8", field: f'{{"audio.to_q": {alpha}}}'}
    )
    config.write_text("{" + ", ".join(f'"{name}": {value}' for name, value in given.items()) + "}")
    got = {"NaN": "nan", "Infinity": "inf", "true": "True", '"8"': "8", "null": "None"}[alpha]
    with pytest.raises(ValueError, match=f"must be the config of a LoRA with a `lora_alpha`, got {got}; save it anew"):
        build_tiny_pipeline().load_lora_weights(path)


@pytest.mark.parametrize("weight", [np.float32(0.5), np.int64(1), [np.float64(0.5)], {"transformer": np.float32(0.5)}])
def test_numbers_of_numpy_weigh_adapters(adapters: dict[str, Path], weight: Any) -> None:
    pipeline, plain = load(adapters, "voice"), load(adapters, "voice")
    pipeline.set_adapters("voice", weight)
    value = weight["transformer"] if isinstance(weight, dict) else weight[0] if isinstance(weight, list) else weight
    plain.set_adapters("voice", float(value))
    assert torch.equal(generate(pipeline), generate(plain))


def test_weights_that_peft_saved_need_their_config_or_alphas(tmp_path: Path) -> None:
    path = write_peft_file(tmp_path)
    for text, message in (("{", "must be a JSON object"), ("{}", "must be the config of a LoRA with a `lora_alpha`")):
        (tmp_path / "adapter_config.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            build_tiny_pipeline().load_lora_weights(path)
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(
        ValueError, match=r"must lie beside their adapter_config.json, which holds the scale, got none"
    ):
        build_tiny_pipeline().load_lora_weights(path)


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        (float("nan"), ValueError, "must be finite, got nan"),
        ([float("inf")], ValueError, "must be finite, got inf"),
        ({"transformer": float("nan")}, ValueError, "must be finite, got nan"),
        (True, ValueError, "must be a number, got True"),
        ("1", ValueError, "must be a number, got '1'"),
        ([1.0, 0.5], ValueError, "must be one per adapter, got 2 for 1"),
        ((1.0, 0.5), ValueError, "must be one per adapter, got 2 for 1"),
        ({"unet": 1.0}, ValueError, r"must be for transformer, got \['unet'\]"),
        ({"transformer": {"voice": 1.0}}, ValueError, r"got `voice`; give parts of their names, such as `\S+to_\S+`"),
        (
            {"transformer": {"attn": {"audio": 0.5}}},
            ValueError,
            r"must be numbers by .* got {'audio': 0.5} for `attn`",
        ),
    ],
)
def test_weights_of_adapters_that_are_none_are_refused(
    adapters: dict[str, Path], weights: Any, error: type[Exception], message: str
) -> None:
    pipeline = load(adapters, "voice")
    with pytest.raises(error, match=message):
        pipeline.set_adapters("voice", weights)
    if not isinstance(weights, dict):
        with pytest.raises(error, match=message):
            pipeline.transformer.set_adapters("voice", weights)


def test_what_another_model_has_is_left_out_on_request() -> None:
    module, rank = next(iter(RANKS.items()))
    pair = {"lora_A": torch.ones(rank, 24), "lora_B": torch.ones(24, rank)}
    tensors = {f"transformer.{name}.{side}.weight": pair[side] for name in (module, "img_emb.0") for side in pair}
    pipeline = build_tiny_pipeline()
    pipeline.load_lora_weights(tensors, adapter_name="it", skip_unknown=True)
    assert pipeline.get_active_adapters() == ["it"]
    assert torch.equal(pipeline.transformer.get_submodule(module).lora_A["it"].weight, pair["lora_A"])


def test_while_one_is_merged_no_other_is_loaded_or_weighed(adapters: dict[str, Path]) -> None:
    pipeline = load(adapters, "voice", "sound")
    pipeline.set_adapters("voice")
    pipeline.fuse_lora()
    merged = generate(pipeline)
    with pytest.raises(ValueError, match="adapters must be weighed while none is merged, got `voice` from "):
        pipeline.set_adapters("sound")
    with pytest.raises(ValueError, match="adapters must be loaded while none is merged, got `voice` from "):
        pipeline.load_lora_weights(adapters["sound"], adapter_name="more")
    torch.testing.assert_close(generate(pipeline), merged)
    pipeline.unload_lora_weights()
    pipeline.load_lora_weights(adapters["sound"], adapter_name="more")
    both = load(adapters, "voice", "sound")
    both.set_adapters(["voice", "sound"])
    torch.testing.assert_close(generate(pipeline), generate(both), **ROUND_OFF)


def test_words_that_nothing_reads_are_told_where_an_adapter_is_loaded(
    adapters: dict[str, Path], log: pytest.LogCaptureFixture
) -> None:
    pipeline = build_tiny_pipeline()
    pipeline.load_lora_weights(adapters["voice"], scale=0.5, local_files_only=True, low_cpu_mem_usage=False)
    assert "`scale` is not used to load an adapter; weigh it by `set_adapters`" in log.text
    pipeline.load_lora_weights(adapters["voice"], adaptername="anna")
    assert "`adaptername` is not used to load an adapter; did you mean `adapter_name`?" in log.text


def test_an_adapter_whose_scale_nothing_tells_is_told_in_one_line(
    adapters: dict[str, Path], tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    said = "the adapter does not say its alpha for `single_transformer_blocks.0.attn"
    tensors = load_file(adapters["voice"] / "pytorch_lora_weights.safetensors")
    build_tiny_pipeline().load_lora_weights(adapters["voice"])
    assert said not in log.text
    save_file(tensors, tmp_path / "bare.safetensors")
    build_tiny_pipeline().load_lora_weights(tmp_path / "bare.safetensors")
    assert log.text.count(said) == 1
    log.clear()
    read = JoVAPipeline.lora_state_dict(adapters["voice"])
    build_tiny_pipeline().load_lora_weights(read)
    assert said not in log.text
    build_tiny_pipeline().load_lora_weights(dict(read))
    assert log.text.count(said) == 1
    log.clear()
    assert JoVAPipeline.lora_state_dict(tmp_path / "bare.safetensors")
    assert log.text.count(said) == 1
    log.clear()
    build_tiny_pipeline().load_lora_weights(tmp_path / "bare.safetensors", alpha=6)
    save_file(tensors, tmp_path / "headed.safetensors", metadata={"ss_network_alpha": "6"})
    build_tiny_pipeline().load_lora_weights(tmp_path / "headed.safetensors")
    assert said not in log.text


def test_tensors_that_were_read_load_as_their_file_does(adapters: dict[str, Path]) -> None:
    read, metadata = JoVAPipeline.lora_state_dict(adapters["voice"], return_lora_metadata=True)
    sources: list[tuple[Any, dict[str, Any]]] = [
        (adapters["voice"], {}),
        (read, {}),
        (dict(read), {"metadata": metadata}),
    ]
    changes = []
    for source, arguments in sources:
        pipeline = build_tiny_pipeline()
        pipeline.load_lora_weights(source, **arguments)
        changes.append(generate(pipeline))
    assert torch.equal(changes[0], changes[1])
    assert torch.equal(changes[0], changes[2])


def test_only_names_that_are_found_again_are_saved(adapters: dict[str, Path], tmp_path: Path) -> None:
    read = JoVAPipeline.lora_state_dict(adapters["voice"])
    with pytest.raises(ValueError, match=r"must name modules of the transformer without `transformer\.`"):
        JoVAPipeline.save_lora_weights(tmp_path, transformer_lora_layers=read)
    with pytest.raises(ValueError, match=r"adapter keys must|adapter must"):
        JoVAPipeline.save_lora_weights(tmp_path, build_tiny_pipeline().transformer)
    assert not [*tmp_path.iterdir()]
    bare = {name.removeprefix("transformer."): tensor for name, tensor in read.items()}
    wrapped = {f"base_model.model.{name}": tensor for name, tensor in bare.items()}  # of `peft.PeftModel`
    with pytest.raises(ValueError, match=r"without `base_model\.model\.`, got"):
        JoVAPipeline.save_lora_weights(tmp_path, wrapped)
    JoVAPipeline.save_lora_weights(tmp_path, bare)
    assert {*load_file(tmp_path / "pytorch_lora_weights.safetensors")} == {*read}


def test_a_scale_at_which_a_clip_is_noise_is_told_with_its_adapter(
    adapters: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    pipeline = load(adapters, "voice", "sound")  # of alpha 6 and rank 2
    for usual in (-1.0, 10.0, {"transformer": {"audio": -2.0}}):
        pipeline.set_adapters(["voice", "sound"], [usual, 0.0])
    generate(pipeline, attention_kwargs={"scale": -1.0})
    assert not caplog.records
    message = "the adapter `voice` counts {} times, its scale times alpha / rank: beyond 100 times noise is most of"
    pipeline.set_adapters(["voice", "sound"], [-1e9, 1.0])
    pipeline.set_adapters("voice", {"transformer": {"audio": 34.0}})
    pipeline.set_adapters("voice", 2.0)
    generate(pipeline, attention_kwargs={"scale": 20.0})
    pipeline.fuse_lora(lora_scale=-20.0)
    expected = [message.format(scale) for scale in ("-3e+09", "102", "120", "-120")]
    assert len(caplog.records) == len(expected)
    for record, start in zip(caplog.records, expected, strict=True):
        assert record.message.startswith(start)


@pytest.mark.skipif(os.name == "nt", reason="modes of POSIX")
def test_a_saved_adapter_is_readable_for_those_whom_the_process_lets_read(
    adapters: dict[str, Path], tmp_path: Path
) -> None:
    pipeline = load(adapters, "voice")
    layers = get_peft_model_state_dict(pipeline.transformer, adapter_name="voice")
    (tmp_path / "shared").mkdir(0o755)
    (tmp_path / "shared" / "own.txt").touch(0o600)
    before = os.umask(0o022)
    try:
        JoVAPipeline.save_lora_weights(tmp_path / "saved", layers)
        JoVAPipeline.save_lora_weights(tmp_path / "shared", layers, weight_name="a[1].safetensors")
        JoVAPipeline.save_lora_weights(tmp_path / "none", layers, is_main_process=False)
        pipeline.transformer.save_lora_adapter(tmp_path / "own", "voice")
        pipeline.transformer.save_lora_adapter(tmp_path / "shared", "voice", weight_name="b.safetensors")
        pipeline.unload_lora_weights()
        pipeline.transformer.save_pretrained(tmp_path / "model")
    finally:
        os.umask(before)
    files = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.rglob("*") if file.is_file()}
    assert files.pop("own.txt") == 0o600
    assert len(files) == 5  # two of one name
    assert {*files.values()} == {0o644}
