import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from accelerate import cpu_offload
from diffusers import (
    FirstBlockCacheConfig,
    MagCacheConfig,
    PyramidAttentionBroadcastConfig,
    TaylorSeerCacheConfig,
)
from peft import LoraConfig
from torch import Tensor

from diffusers_jova import JoVATransformer3DModel
from diffusers_jova.latent_rows import unpatchify
from diffusers_jova.modulation import select_level
from tests.places import CARDS
from tests.tiny_pipeline import (
    DUAL_TOWERS,
    NAVA_SHARING,
    TRANSFORMER_CONFIG,
    build_dual_tower,
    build_transformer,
    build_wan_transformer,
)


MODALITIES = ("video", "audio")
ROUND_OFF = {"atol": 2e-6, "rtol": 1e-4}  # float32, another order of the same sums
BUILDERS: dict[str, Callable[..., Any]] = {
    "jova": build_transformer,
    "wan": partial(build_wan_transformer, in_channels=36),
    "nava": partial(build_wan_transformer, in_channels=36, **NAVA_SHARING),
    **{name: partial(build_dual_tower, name, in_channels=36) for name in DUAL_TOWERS},
}
LORA = LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v", "to_out.0"], init_lora_weights=False)


# its tracer does not follow named tuples; what runs without a compiler runs there
compiles = pytest.mark.skipif(torch.__version__ < "2.8", reason="torch 2.7 cannot compile the models")


@pytest.fixture(params=BUILDERS.values(), ids=BUILDERS.keys())
def build(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Builds a tiny model of either class; the tests that take it hold for both."""
    return request.param


def inputs(batch_size: int = 2, text_rows: int = 6, seed: int = 0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "hidden_states": torch.randn(batch_size, 36, 3, 4, 4, generator=generator),
        "audio_hidden_states": torch.randn(batch_size, 8, 4, generator=generator),
        "encoder_hidden_states": torch.randn(batch_size, text_rows, 16, generator=generator),
        "timestep": torch.full((batch_size,), 500.0),
        "frame_rate": 16.0,
        "audio_latent_rate_hz": 31.25,
        "return_dict": False,
    }


@torch.no_grad()
def run(model: Any, **arguments: Any) -> tuple[Tensor, Tensor]:
    return model(**{**inputs(), **arguments})


def assert_same(actual: tuple[Any, ...], expected: tuple[Any, ...], **tolerance: float) -> None:
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, **(tolerance or ROUND_OFF))


def difference(actual: Tensor, expected: Tensor) -> float:
    return ((actual - expected).norm() / expected.norm()).item()


# What reads what


@pytest.mark.parametrize("layers", [(1, 0), (0, 1)], ids=["dual", "single"])
@pytest.mark.parametrize("fusion", ["joint", "cross", "cross_linear"])
@pytest.mark.parametrize(
    ("coupled", "video_hears", "audio_sees"),
    [(True, True, True), (False, False, False), ("a2v", True, False), ("v2a", False, True)],
)
def test_every_modality_has_gradient_to_every_other_exactly_where_coupled(
    layers: tuple[int, int], fusion: str, coupled: bool | str, video_hears: bool, audio_sees: bool
) -> None:
    model = build_transformer(num_layers=layers[0], num_single_layers=layers[1], fusion=fusion)
    assert_reads(model, coupled, video_hears, audio_sees)


def assert_reads(model: Any, coupled: bool | str, video_hears: bool, audio_sees: bool) -> None:
    arguments = {**inputs(), "coupled": coupled}
    sources = ("hidden_states", "audio_hidden_states", "encoder_hidden_states")
    for output, seen in ((0, (True, video_hears, True)), (1, (audio_sees, True, True))):
        leaves = {name: arguments[name].clone().requires_grad_() for name in sources}
        model(**{**arguments, **leaves})[output].square().sum().backward()
        gradients = [leaves[name].grad for name in sources]
        assert tuple(bool(grad is not None and grad.any()) for grad in gradients) == seen


@pytest.mark.parametrize("kind", ["wan", "nava", *DUAL_TOWERS])
@pytest.mark.parametrize(
    ("coupled", "video_hears", "audio_sees"),
    [(True, True, True), (False, False, False), ("a2v", True, False), ("v2a", False, True)],
)
def test_modalities_of_every_class_have_gradient_to_each_other_exactly_where_coupled(
    kind: str, coupled: bool | str, video_hears: bool, audio_sees: bool
) -> None:
    assert_reads(BUILDERS[kind](), coupled, video_hears, audio_sees)


def test_coupling_per_sample_equals_separate_calls(build: Callable[..., Any]) -> None:
    model = build()
    coupled = [True, False, "a2v", "v2a"]
    together = run(model, **inputs(4), coupled=coupled)
    for index, value in enumerate(coupled):
        alone = {
            name: value[index : index + 1] if isinstance(value, Tensor) else value for name, value in inputs(4).items()
        }
        assert_same(tuple(part[index : index + 1] for part in together), run(model, **alone, coupled=value))


def test_swapping_the_samples_of_a_batch_swaps_the_outputs(build: Callable[..., Any]) -> None:
    model = build()
    swapped = {name: value.flip(0) if isinstance(value, Tensor) else value for name, value in inputs().items()}
    assert_same(run(model, **swapped), tuple(part.flip(0) for part in run(model)))


def test_an_absent_modality_leaves_the_uncoupled_model_of_the_other(build: Callable[..., Any]) -> None:
    model = build()
    uncoupled = run(model, coupled=False)
    video = run(model, audio_hidden_states=None)
    audio = run(model, hidden_states=None)
    assert video[1] is None
    assert audio[0] is None
    assert_same((video[0], audio[1]), uncoupled)
    assert difference(run(model)[0], video[0]) > 1e-3
    with pytest.raises(ValueError, match="must not both be None"):
        run(model, hidden_states=None, audio_hidden_states=None)


def test_padded_text_with_a_mask_equals_trimmed_text() -> None:
    model = build_transformer(text_dim_2=8)
    second = torch.randn(2, 3, 8)
    trimmed = run(model, encoder_hidden_states_2=second)
    first = torch.cat([inputs()["encoder_hidden_states"], torch.randn(2, 2, 16)], dim=1)
    mask = torch.tensor([[True] * 6 + [False] * 2 + [True] * 3]).repeat(2, 1)
    padded = {"encoder_hidden_states": first, "encoder_hidden_states_2": second}
    assert_same(run(model, **padded, encoder_attention_mask=mask), trimmed)
    assert difference(run(model, **padded)[1], trimmed[1]) > 1e-3


def test_the_audio_branch_may_read_a_text_of_its_own(build: Callable[..., Any]) -> None:
    model = build()
    own = torch.randn(2, 4, 16)
    mask = torch.tensor([[True] * 4 + [False] * 2] * 2)
    padded = torch.cat([own, torch.randn(2, 2, 16)], dim=1)
    plain = run(model, audio_encoder_hidden_states=own)
    masked = run(model, audio_encoder_hidden_states=padded, audio_encoder_attention_mask=mask)
    assert_same(masked, plain)
    assert difference(run(model)[1], plain[1]) > 1e-3
    same = run(model, audio_encoder_hidden_states=inputs()["encoder_hidden_states"])
    assert_same(same, run(model))


def test_both_text_encoders_are_read() -> None:
    model = build_transformer(text_dim_2=8)
    one, other = torch.randn(2, 2, 3, 8).unbind(0)
    assert difference(run(model, encoder_hidden_states_2=one)[0], run(model, encoder_hidden_states_2=other)[0]) > 1e-3


def test_features_that_do_not_fit_the_text_encoders_of_the_model_are_refused() -> None:
    with pytest.raises(ValueError, match="`encoder_hidden_states_2` must be given for a model with `text_dim_2`"):
        run(build_transformer(text_dim_2=8))
    with pytest.raises(ValueError, match="`encoder_hidden_states_2` must be None for a model without `text_dim_2`"):
        run(build_transformer(), encoder_hidden_states_2=torch.randn(2, 3, 8))


# Time


def test_timesteps_per_latent_equal_one_timestep_where_all_are_equal(build: Callable[..., Any]) -> None:
    model = build()
    per_latent = run(model, timestep=torch.full((2, 3), 500.0), audio_timestep=torch.full((2, 8), 300.0))
    assert_same(per_latent, run(model, audio_timestep=torch.full((2,), 300.0)))


def test_a_clean_latent_is_modulated_with_timestep_zero_and_text_with_the_noisiest() -> None:
    embedding = build_transformer().embed["video"].time_embedding
    rows, text_rows = 12, 5

    def modulated_by(timestep: Tensor) -> tuple[Tensor, Tensor]:
        temb, media_level, text_level = embedding(timestep, rows, text_rows)
        return tuple(select_level(temb, level).expand(-1, len(level), -1) for level in (media_level, text_level))

    media, text = modulated_by(torch.tensor([[0.0, 500.0, 250.0]]))
    expected = [modulated_by(torch.tensor([time]))[0][:, :4] for time in (0.0, 500.0, 250.0)]
    torch.testing.assert_close(media, torch.cat(expected, dim=1))
    torch.testing.assert_close(text, modulated_by(torch.tensor([500.0]))[1])


def test_a_clean_first_frame_and_clean_sound_change_the_prediction(build: Callable[..., Any]) -> None:
    model = build()
    plain = run(model)
    clean_frame = run(model, timestep=torch.tensor([[0.0, 500.0, 500.0]] * 2), audio_timestep=torch.full((2,), 500.0))
    clean_sound = run(model, audio_timestep=torch.zeros(2))
    assert min(difference(clean_frame[0][:, :, 0], plain[0][:, :, 0]), difference(clean_sound[0], plain[0])) > 1e-3


def test_a_fraction_of_a_timestep_moves_the_output(build: Callable[..., Any]) -> None:
    model = build()
    whole, fraction = (run(model, timestep=torch.full((2,), time)) for time in (37.0, 37.5))
    assert not torch.equal(whole[0], fraction[0])


def test_only_the_exact_clock_reads_the_frame_rate() -> None:
    exact, counting = build_transformer(), build_transformer(temporal_alignment="none")
    assert difference(run(exact, frame_rate=24.0)[1], run(exact)[1]) > 1e-4
    assert_same(run(counting, frame_rate=24.0), run(counting))
    # the ratio of both clocks counts, not their unit
    assert_same(run(exact, frame_rate=32.0, audio_latent_rate_hz=62.5), run(exact))


def test_a_clip_that_is_cut_shows_the_same_patches() -> None:
    latents = torch.arange(2 * 3 * 1 * 4 * 6.0).view(1, 6, 1, 4, 6)
    rows = latents.view(1, 6, 1, 2, 2, 3, 2).permute(0, 2, 3, 5, 4, 6, 1).flatten(4).flatten(1, 3)
    assert torch.equal(unpatchify(rows, (1, 2, 3), (1, 2, 2)), latents)


# The same numbers by other ways


def test_fused_projections_equal_plain_ones(build: Callable[..., Any]) -> None:
    model = build()
    plain = run(model)
    model.fuse_qkv_projections()
    assert any("to_qkv" in name for name, _ in model.named_modules())
    assert_same(run(model), plain)
    model.unfuse_qkv_projections()
    assert_same(run(model), plain, atol=0, rtol=0)


def test_gradient_checkpointing_changes_neither_outputs_nor_gradients(build: Callable[..., Any]) -> None:
    model = build()

    def outputs_and_gradients() -> tuple[Tensor, ...]:
        model.zero_grad()
        outputs = model(**inputs())
        sum(part.square().mean() for part in outputs).backward()
        gradients = (parameter.grad for parameter in model.parameters())
        return *(part.detach() for part in outputs), *(grad.clone() for grad in gradients if grad is not None)

    plain = outputs_and_gradients()
    model.enable_gradient_checkpointing()
    assert_same(outputs_and_gradients(), plain)


@compiles
@pytest.mark.parametrize(
    "kind", [kind if kind in ("jova", "bridge") else pytest.param(kind, marks=pytest.mark.slow) for kind in BUILDERS]
)
def test_compiled_forward_is_one_graph_and_serves_every_timestep(kind: str) -> None:
    model, coupled = BUILDERS[kind](), (True, False)
    plain = [run(model, timestep=torch.full((2,), time), coupled=coupled) for time in (500.0, 37.5)]
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert_same(run(compiled, coupled=coupled), plain[0])
    with torch._dynamo.config.patch(error_on_recompile=True):
        assert_same(run(compiled, timestep=torch.full((2,), 37.5), coupled=coupled), plain[1])


@compiles
@pytest.mark.slow
@pytest.mark.parametrize("kind", BUILDERS)
def test_one_compiled_forward_serves_every_size_of_a_clip(kind: str) -> None:
    model = BUILDERS[kind]()
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="eager")
    no_recompiling = torch._dynamo.config.patch(error_on_recompile=True)
    with no_recompiling, torch.fx.experimental._config.patch(use_duck_shape=False):
        for size in ((4, 4), (4, 8), (8, 8)):
            video = torch.randn(2, 36, 3, *size)
            assert_same(run(compiled, hidden_states=video), run(model, hidden_states=video))


@compiles
@pytest.mark.parametrize(
    ("kind", "sizes", "num_graphs"),
    [
        ("jova", {"num_layers": 2, "num_single_layers": 2}, 2),  # dual and single
        ("bridge", {"num_layers": 4}, 2),  # with audio and without
        pytest.param("wan", {"num_layers": 3}, 1, marks=pytest.mark.slow),
        pytest.param("nava", {"num_layers": 4, "shared_layers": (2, 3)}, 2, marks=pytest.mark.slow),  # twin and shared
        pytest.param(  # coupled and not
            "aligned",
            {"num_layers": 4, "audio_num_layers": 4, "fusion_layers": (0, 2)},
            2,
            marks=pytest.mark.slow,
        ),
        pytest.param("text_cross", {"num_layers": 3, "audio_num_layers": 3}, 1, marks=pytest.mark.slow),
    ],
)
def test_blocks_compile_one_by_one_and_are_shared(kind: str, sizes: dict[str, Any], num_graphs: int) -> None:
    model = BUILDERS[kind](**sizes)
    plain = run(model)
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    model.compile_repeated_blocks(fullgraph=True, backend="eager")
    assert_same(run(model), plain)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == num_graphs


def test_layerwise_casting_computes_with_weights_that_are_stored_rounded(build: Callable[..., Any]) -> None:
    model, rounded = build(), build()
    model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    stored = {name: weight.dtype for name, weight in model.named_parameters()}
    with torch.no_grad():
        for name, weight in rounded.named_parameters():
            if stored[name] == torch.float8_e4m3fn:
                weight.copy_(weight.to(torch.float8_e4m3fn))
    assert_same(run(model), run(rounded))
    assert difference(run(model)[0], run(build())[0]) > 1e-4, "something has to be rounded"
    layers = [name for name in stored if name.endswith((".to_q.weight", ".to_out.0.weight", ".net.2.weight"))]
    assert layers
    assert {stored[name] for name in layers} == {torch.float8_e4m3fn}


def test_lora_layers_at_scale_zero_leave_the_forward_alone(build: Callable[..., Any]) -> None:
    model = build()
    plain = run(model)
    model.add_adapter(LORA)
    assert_same(run(model, attention_kwargs={"scale": 0.0}), plain)
    assert min(difference(*pair) for pair in zip(run(model), plain, strict=True)) > 1e-3


def test_offloaded_forwards_equal_the_plain_one(build: Callable[..., Any]) -> None:
    """On the CPU, whose hooks are those of an accelerator."""
    plain, cpu = run(build()), torch.device("cpu")
    sequential = build()
    cpu_offload(sequential, cpu, offload_buffers=True)
    assert all(parameter.is_meta for parameter in sequential.parameters())
    assert_same(run(sequential), plain)
    for offload_type in ("block_level", "leaf_level"):
        grouped = build()
        grouped.enable_group_offload(cpu, cpu, offload_type=offload_type, num_blocks_per_group=1)
        assert_same(run(grouped), plain)


def test_layerwise_casting_stays_near_the_plain_forward(build: Callable[..., Any]) -> None:
    model = build()
    plain = run(model)
    model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    dtypes = {name: parameter.dtype for name, parameter in model.named_parameters()}
    assert all(dtypes[name] == torch.float8_e4m3fn for name in dtypes if ".to_q." in name or ".net.2." in name)
    assert all(dtypes[name] == torch.float32 for name in dtypes if "patch_embedding" in name)
    for output, expected in zip(run(model), plain, strict=True):
        assert difference(output, expected) < 0.3  # float8 has 4 bits


CACHES = {
    "first block": FirstBlockCacheConfig(threshold=10.0),
    "mag": MagCacheConfig(
        threshold=10.0, max_skip_steps=3, retention_ratio=0.1, num_inference_steps=4, mag_ratios=[1.0] * 4
    ),
    "taylor": TaylorSeerCacheConfig(
        cache_interval=4,
        disable_cache_before_step=1,
        max_order=0,
    ),
    "broadcast": PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=4,
        spatial_attention_timestep_skip_range=(0, 1000),
        spatial_attention_block_identifiers=("transformer_blocks", "single_transformer_blocks", "blocks"),
        current_timestep_callback=lambda: 500,
    ),
}


@pytest.mark.parametrize("config", CACHES.values(), ids=CACHES.keys())
def test_caches_start_at_the_plain_forward_and_both_modalities_follow(build: Callable[..., Any], config: Any) -> None:
    model = build()
    near = {name: inputs()[name] + 0.05 * inputs(seed=1)[name] for name in ("hidden_states", "audio_hidden_states")}
    first, second = run(model), run(model, **near)
    model.enable_cache(config)
    with model.cache_context("test"):
        cached_first, cached_second = run(model), run(model, **near)
    model.disable_cache()
    assert_same(cached_first, first)
    for cached, plain in zip(cached_second, second, strict=True):
        assert 1e-6 < difference(cached, plain) < 0.2  # approximated, and not at all stale
    assert_same(run(model, **near), second)


@pytest.mark.parametrize("index", [0, 1], ids=MODALITIES)
def test_a_predicted_attention_serves_a_modality_alone_in_a_batch(build: Callable[..., Any], index: int) -> None:
    model = build()
    names = ("hidden_states", "audio_hidden_states")
    alone: dict[str, Any] = {names[1 - index]: None}
    near = {names[index]: inputs()[names[index]] + 0.05 * inputs(seed=1)[names[index]]}
    plain = run(model, **alone, **near)[index]
    model.enable_cache(CACHES["taylor"])
    with model.cache_context("test"):
        run(model, **alone)
        predicted = run(model, **alone, **near)[index]
    assert 1e-6 < difference(predicted, plain) < 0.2  # approximated, and not at all stale


def test_bfloat16_keeps_the_time_embedder_in_float32_and_stays_near(build: Callable[..., Any], tmp_path: Path) -> None:
    model = build()
    model.save_pretrained(tmp_path)
    half = type(model).from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    dtypes = {name: parameter.dtype for name, parameter in half.named_parameters()}
    assert all(dtypes[name] == torch.float32 for name in dtypes if "time_embedder" in name)
    assert all(dtypes[name] == torch.bfloat16 for name in dtypes if ".to_q." in name or ".net.2." in name)
    names = ("hidden_states", "audio_hidden_states", "encoder_hidden_states")
    outputs = run(half, **{name: inputs()[name].bfloat16() for name in names})
    for output, plain in zip(outputs, run(model), strict=True):
        assert output.dtype == torch.bfloat16
        assert difference(output.float(), plain) < 0.05  # bfloat16 has 8 bits


# Sizes, files, errors


@pytest.mark.parametrize(("card", "billions"), [("jova-12b", 24.62), ("jova-1.6b", 3.28)])
def test_presets_have_the_parameters_that_the_papers_state(card: str, billions: float) -> None:
    with torch.device("meta"):
        model = JoVATransformer3DModel.from_config(JoVATransformer3DModel.load_config(CARDS / card / "transformer"))
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e9, 2) == billions


def test_a_fresh_model_predicts_zero_velocity() -> None:
    video, audio = run(JoVATransformer3DModel(**TRANSFORMER_CONFIG))
    assert not video.any()
    assert not audio.any()


@pytest.mark.parametrize("options", [{}, {"variant": "fp32"}, {"max_shard_size": "20KB"}], ids=str)
def test_a_saved_model_predicts_the_same(tmp_path: Path, options: dict[str, str]) -> None:
    model = build_transformer(temporal_alignment=0.24, fusion="cross_linear")
    model.save_pretrained(tmp_path, **options)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == ("max_shard_size" in options)
    variant = {"variant": options["variant"]} if "variant" in options else {}
    for loader in (JoVATransformer3DModel, diffusers.AutoModel):
        loaded = loader.from_pretrained(str(tmp_path), **variant)
        assert {"temporal_alignment": 0.24, "fusion": "cross_linear"}.items() <= loaded.config.items()
        assert_same(run(loaded), run(model), atol=0, rtol=0)


def test_the_order_of_config_keys_means_nothing(tmp_path: Path) -> None:
    build_transformer().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(dict(sorted(config.items(), reverse=True))))
    assert_same(run(JoVATransformer3DModel.from_pretrained(tmp_path)), run(build_transformer()), atol=0, rtol=0)


def test_parameters_are_named_modality_first_and_projection_last() -> None:
    names = build_transformer().state_dict().keys()
    for stream in ("video", "video_text", "audio", "audio_text"):
        assert f"transformer_blocks.0.attn.{stream}.to_out.0.weight" in names
        assert f"transformer_blocks.0.ff.{stream}.net.0.proj.weight" in names
        assert f"transformer_blocks.0.modulation.{stream}.linear.weight" in names
    assert {name.split(".")[3] for name in names if name.startswith("single_transformer_blocks.0.attn.")} == {
        "video",
        "audio",
    }


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"rope_axes_dim": (4, 4, 2)}, "`rope_axes_dim` must add up to `attention_head_dim`, 12, got \\[4, 4, 2\\]"),
        ({"fusion": "add"}, "`fusion` must be 'joint', 'cross' or 'cross_linear', got 'add'"),
        ({"temporal_alignment": "seconds"}, "`temporal_alignment` must be 'time', 'none' or a number, got 'seconds'"),
    ],
)
def test_wrong_configs_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        JoVATransformer3DModel(**{**TRANSFORMER_CONFIG, **config})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hidden_states": torch.zeros(2, 16, 3, 4, 4)}, "`hidden_states` must be \\[B, 36, F, H, W\\]"),
        ({"hidden_states": torch.zeros(2, 36, 3, 4, 5)}, "divisible by \\[1, 2, 2\\], got \\[3, 4, 5\\]"),
        (
            {"audio_hidden_states": torch.zeros(2, 4, 8)},
            "`audio_hidden_states` must be \\[B, L, 4\\], got \\[2, 4, 8\\]",
        ),
        ({"audio_hidden_states": torch.zeros(2, 129, 4)}, "at most \\[128\\] .*got \\[129\\]; generate a shorter"),
        (
            {"timestep": torch.zeros(2, 2)},
            "`timestep` must be a tensor .*or \\[2, 3\\], one per latent, got \\[2, 2\\]",
        ),
        (
            {"timestep": torch.zeros(2, 3)},
            "`audio_timestep` must be a tensor \\[2\\].*or \\[2, 8\\], one per latent, got \\[2, 3\\]",
        ),
        ({"coupled": "both"}, "`coupled` must be True, False, 'a2v' or 'v2a', got 'both'"),
    ],
)
def test_wrong_inputs_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(build_transformer(), **arguments)


def test_what_the_second_text_of_the_sound_lacks_is_named_as_that() -> None:
    model = build_transformer(text_dim_2=8)
    given = {"encoder_hidden_states_2": torch.randn(2, 3, 8), "audio_encoder_hidden_states": torch.randn(2, 4, 16)}
    with pytest.raises(ValueError, match=r"^`audio_encoder_hidden_states_2` must be given for a model with"):
        run(model, **given)
    with pytest.raises(ValueError, match=r"one for each text encoder, .*; `\[\(7, 5\), \(7, 5\)\]`, say"):
        run(model, encoder_hidden_states_2=torch.randn(2, 3, 8), text_lengths=[(3,), (2,)])


def test_a_misspelt_field_is_told_where_a_transformer_is_built_or_loaded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = build_transformer()
    model.save_pretrained(tmp_path)
    type(model).from_pretrained(tmp_path, num_layer=3)
    assert caplog.text.count("`num_layer` is no field of a JoVATransformer3DModel; did you mean `num_layers`?") == 1
    type(model).from_config(model.config, num_layer=3)
    assert caplog.text.count("did you mean `num_layers`?") == 2
