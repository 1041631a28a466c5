"""What only a GPU can show, on tiny models: `make gpu` runs these first."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import attention_backend
from torch import Tensor

from diffusers_jova import JoVAPipeline
from diffusers_jova.call_stages import PlannedCall
from diffusers_jova.memory_fitting import outline_of
from diffusers_jova.memory_plan import MemoryEstimate, MemoryPlan
from diffusers_jova.number_formats import cast_weights
from diffusers_jova.training.estimate import TrainingEstimate
from diffusers_jova.training.loop.block_swap import swapped_bytes
from diffusers_jova.training.loop.microbatches import MicroBatches
from diffusers_jova.training.loop.trainer import Trainer
from tests.diffusers_jova.memory_of_a_call import CALL, TOLERANCE, build_roomy_pipeline
from tests.diffusers_jova.test_transformer_jova import BUILDERS, CACHES, LORA, ROUND_OFF, assert_same, difference
from tests.tiny_pipeline import build_tiny_pipeline
from tests.tiny_training import forget_accelerate
from tests.training.memory_of_training import CASES, roomy_config


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

GPU = torch.device("cuda")
SIZES = {"num_attention_heads": 2, "attention_head_dim": 64, "rope_axes_dim": (24, 20, 20)}  # real kernels take these
NUM_BLOCKS = 2
# Roundings in a row between input and output: about 16 in a block (norm, modulation, projection, rotation, attention,
# gate and residual of each half) and 8 around the blocks. Independent relative errors of u each add up to sqrt(n) u,
# and the rounding of the weights, of as many, may double it.
NUM_ROUNDINGS = 16 * NUM_BLOCKS + 8
BFLOAT16_ERROR = 2 * math.sqrt(NUM_ROUNDINGS) * 2**-9  # u = 2^-9: 8 bits, rounded to nearest; 0.025
# the same count in float32, u = 2^-24, where sums over up to 512 terms in another order lose sqrt(512) u each
FLOAT32_ERROR = 2 * math.sqrt(NUM_ROUNDINGS * 512) * 2**-24  # 1.7e-5


@pytest.fixture(autouse=True)
def _settings() -> Iterator[None]:
    """Convolutions use TF32, 10 bits, unless told otherwise; a model's attention backend becomes everybody's."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    torch.cuda.reset_peak_memory_stats()
    with attention_backend("native"):
        yield
    torch.backends.cudnn.allow_tf32 = before
    torch.compiler.reset()


@pytest.fixture(params=BUILDERS)
def build(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Builds a tiny model of either class whose heads are of a usual size."""
    return lambda **overrides: BUILDERS[request.param](**{**SIZES, **overrides})


def inputs(device: torch.device = GPU, dtype: torch.dtype = torch.float32, seed: int = 0) -> dict[str, Any]:
    """Noise of two clips, drawn on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "hidden_states": (2, 36, 3, 16, 16),
        "audio_hidden_states": (2, 32, 4),
        "encoder_hidden_states": (2, 8, 16),
    }
    noise = {name: torch.randn(shape, generator=generator).to(device, dtype) for name, shape in shapes.items()}
    clock = {"frame_rate": 16.0, "audio_latent_rate_hz": 31.25, "return_dict": False}
    return {**noise, "timestep": torch.full((2,), 500.0, device=device), **clock}


@torch.no_grad()
def run(model: Any, **arguments: Any) -> tuple[Tensor, Tensor]:
    return tuple(part.float().cpu() for part in model(**arguments))


def in_bfloat16(model: Any) -> Any:
    """In the formats that `from_pretrained` gives it."""
    cast_weights(model, torch.bfloat16)
    return model.to(GPU)


def assert_near(
    outputs: tuple[Tensor, ...], expected: tuple[Tensor, ...], error: float, record: Callable[[str, object], None]
) -> None:
    """Relative difference of each modality."""
    found = max(difference(*pair) for pair in zip(outputs, expected, strict=True))
    record("difference", found)
    record("allowed", error)
    assert found < error


# One forward


def test_float32_on_the_gpu_equals_the_cpu(
    build: Callable[..., Any], record_property: Callable[[str, object], None]
) -> None:
    model = build()
    expected = run(model, **inputs(torch.device("cpu")))
    assert_near(run(model.to(GPU), **inputs()), expected, FLOAT32_ERROR, record_property)


def test_bfloat16_stays_near_float32(
    build: Callable[..., Any], record_property: Callable[[str, object], None]
) -> None:
    expected = run(build().to(GPU), **inputs())
    outputs = run(in_bfloat16(build()), **inputs(dtype=torch.bfloat16))
    assert_near(outputs, expected, BFLOAT16_ERROR, record_property)


def test_gradients_in_bfloat16_are_finite_with_and_without_checkpointing(build: Callable[..., Any]) -> None:
    model = in_bfloat16(build())

    def gradients() -> list[Tensor]:
        model.zero_grad()
        sum(part.float().square().mean() for part in model(**inputs(dtype=torch.bfloat16))).backward()
        return [weight.grad.float() for weight in model.parameters() if weight.grad is not None]

    plain = gradients()
    model.enable_gradient_checkpointing()
    for again, first in zip(gradients(), plain, strict=True):
        assert bool(first.isfinite().all())
        # the same kernels, but sums over rows may be atomic
        assert (again - first).norm() <= BFLOAT16_ERROR * first.norm() + 1e-12


BACKENDS = (
    *("native", "_native_math", "_native_efficient", "_native_flash", "_native_cudnn", "flex"),
    *("flash", "_flash_3", "sage", "xformers"),
)


@pytest.mark.parametrize("backend", BACKENDS)
def test_attention_backends_agree(
    build: Callable[..., Any], backend: str, record_property: Callable[[str, object], None]
) -> None:
    model = in_bfloat16(build())
    expected = run(model, **inputs(dtype=torch.bfloat16))
    try:
        model.set_attention_backend(backend)
    except (ImportError, RuntimeError, ValueError) as error:
        pytest.skip(f"not installed: {error}")
    outputs = run(model, **inputs(dtype=torch.bfloat16))
    assert_near(
        outputs, expected, 0.2 if backend == "sage" else BFLOAT16_ERROR, record_property
    )  # sage: 8-bit integers


# Compilation


def test_blocks_compile_without_a_break(
    build: Callable[..., Any], record_property: Callable[[str, object], None]
) -> None:
    model = in_bfloat16(build())
    expected = run(model, **inputs(dtype=torch.bfloat16))
    model.compile_repeated_blocks(fullgraph=True)
    outputs = run(model, **inputs(dtype=torch.bfloat16))
    assert_near(outputs, expected, BFLOAT16_ERROR, record_property)


def test_the_whole_forward_compiles_without_a_break(record_property: Callable[[str, object], None]) -> None:
    model = in_bfloat16(BUILDERS["jova"](**SIZES))
    expected = run(model, **inputs(dtype=torch.bfloat16))
    compiled = torch.compile(model, fullgraph=True)
    assert_near(run(compiled, **inputs(dtype=torch.bfloat16)), expected, BFLOAT16_ERROR, record_property)


# Memory


def test_offloaded_forwards_equal_the_plain_one_and_hold_less(
    build: Callable[..., Any], record_property: Callable[[str, object], None]
) -> None:
    sizes = {"num_attention_heads": 8, "num_layers": 6}
    model = build(**sizes).to(GPU)
    expected = run(model, **inputs())
    weights = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    plain = peak_of(model)
    del model
    for way in ({"offload_type": "block_level", "num_blocks_per_group": 1}, {"offload_type": "leaf_level"}):
        for use_stream in (False, True):
            grouped = build(**sizes)
            grouped.enable_group_offload(GPU, torch.device("cpu"), use_stream=use_stream, **way)
            assert_same(run(grouped, **inputs()), expected)
            held = peak_of(grouped)
            record_property(f"{way['offload_type']}{'_stream' * use_stream}_of_plain", held / plain)
            assert held < plain - weights / 3
            del grouped


def peak_of(model: Any) -> int:
    """Highest memory of a forward, in bytes."""
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    run(model, **inputs())
    return torch.cuda.max_memory_allocated()


ESTIMATED = {
    "resident": MemoryPlan(),
    "apart": MemoryPlan(branches_apart=True),
    "text_streamed": MemoryPlan(weights="text_streamed"),
    "offloaded": MemoryPlan(weights="offloaded"),
    "float8": MemoryPlan(float8=True),
    "streamed": MemoryPlan(weights="streamed"),
}


@pytest.mark.parametrize("plan", ESTIMATED.values(), ids=ESTIMATED.keys())
def test_a_call_takes_the_memory_that_is_estimated(
    plan: MemoryPlan, record_property: Callable[[str, object], None]
) -> None:
    pipeline = build_roomy_pipeline("jova")
    pipeline.transformer.to(torch.bfloat16)
    call = PlannedCall(settings=pipeline.defaults, device=GPU)
    peaks = MemoryEstimate(outline_of(pipeline), call).peaks(plan)
    estimated = max(peak for stage, peak in peaks if "decoding" not in stage.name)
    plan.apply(pipeline, GPU)
    pipeline.memory_plan = plan
    for _ in range(2):  # the second finds libraries and streams at work
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        pipeline(**CALL, generator=torch.Generator().manual_seed(0))
    measured = torch.cuda.max_memory_allocated()
    record_property("estimated_of_measured", estimated / measured)
    assert abs(estimated - measured) <= TOLERANCE * measured


def weight_bytes(model: Any) -> int:
    return sum(weight.nbytes for weight in model.parameters())


def num_block_weights(model: Any) -> int:
    """Weights of the attention and of the feed-forward layers in the blocks."""
    layers = [layer for name, layer in model.named_modules() if ".attn" in name or ".ff" in name]
    return sum(layer.weight.numel() for layer in layers if isinstance(layer, torch.nn.Linear))


def test_layerwise_casting_to_float8_stays_near_and_takes_less(
    build: Callable[..., Any], record_property: Callable[[str, object], None]
) -> None:
    sizes = {"num_attention_heads": 8, "num_layers": 4}
    model = in_bfloat16(build(**sizes))
    expected = run(model, **inputs(dtype=torch.bfloat16))
    before = weight_bytes(model)
    model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.bfloat16)
    record_property("memory_of_bfloat16", weight_bytes(model) / before)
    assert weight_bytes(model) <= before - num_block_weights(model)  # each takes one byte less; embeddings may stay
    outputs = run(model, **inputs(dtype=torch.bfloat16))
    assert_near(outputs, expected, 0.2, record_property)  # float8 has 4 bits, u = 2^-5


# Caches and adapters


@pytest.mark.parametrize("config", CACHES.values(), ids=CACHES.keys())
def test_caches_start_at_the_plain_forward_and_both_modalities_follow(build: Callable[..., Any], config: Any) -> None:
    model = build().to(GPU)
    near = {name: inputs()[name] + 0.05 * inputs(seed=1)[name] for name in ("hidden_states", "audio_hidden_states")}
    first, second = run(model, **inputs()), run(model, **{**inputs(), **near})
    model.enable_cache(config)
    with model.cache_context("test"):
        cached_first, cached_second = run(model, **inputs()), run(model, **{**inputs(), **near})
    model.disable_cache()
    assert_same(cached_first, first)
    for cached, plain in zip(cached_second, second, strict=True):
        assert 1e-6 < difference(cached, plain) < 0.2  # approximated, and not at all stale


def test_lora_layers_at_scale_zero_leave_the_forward_alone(build: Callable[..., Any]) -> None:
    model = build().to(GPU)
    plain = run(model, **inputs())
    model.add_adapter(LORA)
    assert_same(run(model, **inputs(), attention_kwargs={"scale": 0.0}), plain)
    assert min(difference(*pair) for pair in zip(run(model, **inputs()), plain, strict=True)) > 1e-3


# The pipeline


def generate(pipeline: JoVAPipeline, **arguments: Any) -> tuple[Tensor, Tensor]:
    """A clip of few steps from noise that is drawn on the CPU."""
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    output = pipeline("a red face says hello", generator=generator, output_type="pt", **arguments)
    return output.frames.float().cpu(), output.audio.float().cpu()


def shipped() -> JoVAPipeline:
    # as stored, its text encoder is in bfloat16, whose rounding differs between devices
    pipeline: JoVAPipeline = JoVAPipeline.from_pretrained("jova-tiny", dtype=torch.float32)
    return pipeline


def test_the_shipped_model_generates_on_the_gpu_what_it_generates_on_the_cpu(
    record_property: Callable[[str, object], None],
) -> None:
    pipeline, few = shipped(), {"num_inference_steps": 4, "num_frames": 17}
    frames, audio = generate(pipeline, **few)
    gpu_frames, gpu_audio = generate(pipeline.to(GPU), **few)
    record_property("largest_difference_of_a_pixel", (gpu_frames - frames).abs().max().item())
    record_property("difference_of_the_sound", difference(gpu_audio, audio))
    # four steps, each with float32 predictions that differ by FLOAT32_ERROR, then decoders of as many roundings
    assert (gpu_frames - frames).abs().max() < 1 / 255
    assert difference(gpu_audio, audio) < 100 * FLOAT32_ERROR


def test_the_shipped_model_generates_finite_clips_in_bfloat16(record_property: Callable[[str, object], None]) -> None:
    pipeline = JoVAPipeline.from_pretrained("jova-tiny", torch_dtype=torch.bfloat16).to(GPU)
    frames, audio = generate(pipeline)
    record_property("peak_mb", torch.cuda.max_memory_allocated() / 2**20)
    assert bool(frames.isfinite().all() and audio.isfinite().all())
    assert frames.std() > 0.02
    assert audio.std() > 1e-3


@pytest.mark.parametrize("way", ["enable_model_cpu_offload", "enable_sequential_cpu_offload", "enable_group_offload"])
def test_an_offloaded_pipeline_generates_the_same(way: str, record_property: Callable[[str, object], None]) -> None:
    few = {"num_inference_steps": 2, "num_frames": 9}
    pipeline = shipped().to(GPU)
    expected = generate(pipeline, **few)
    del pipeline
    torch.cuda.empty_cache()
    offloaded, options = shipped(), {}
    if way == "enable_group_offload":
        options = {"onload_device": GPU, "offload_type": "leaf_level", "use_stream": True}
    getattr(offloaded, way)(**options)
    assert_same(generate(offloaded, **few), expected, atol=1e-5, rtol=1e-4)
    record_property("held_mb_after", torch.cuda.memory_allocated() / 2**20)


def test_a_wan_pipeline_is_offloaded_too() -> None:
    transformer = BUILDERS["nava"]()
    expected = generate(build_tiny_pipeline(transformer=transformer).to(GPU))
    offloaded = build_tiny_pipeline(transformer=BUILDERS["nava"]())
    offloaded.enable_model_cpu_offload()
    assert_same(generate(offloaded), expected, **ROUND_OFF)


# Training


@pytest.mark.parametrize("kind", ["jova", "wan"])
@pytest.mark.parametrize("values", [{}, {"train": "lora"}, {"train": "lora", "quantize": "nf4"}], ids=str)
def test_a_run_trains_on_the_gpu_and_saves_its_result(
    tmp_path: Path, kind: str, values: dict[str, Any], record_property: Callable[[str, object], None]
) -> None:
    from diffusers_jova.training.loop.trainer import Trainer
    from tests.tiny_training import MODELS, tiny_config

    if "quantize" in values:
        pytest.importorskip("bitsandbytes")
    settings = {"mixed_precision": "bf16", "gradient_checkpointing": True, "steps": 10, "learning_rate": 1e-2}
    trainer = Trainer(tiny_config(tmp_path, MODELS[kind], **{**settings, "log_every": 10}, **values))
    assert trainer.device.type == "cuda"
    assert all(weight.device.type == "cuda" for weight in trainer.transformer.parameters())
    before = [weight.detach().clone() for weight in trainer.trained]
    trainer.train()
    losses = [json.loads(line)["loss/video"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    record_property("losses", " ".join(f"{loss:.3f}" for loss in losses))
    assert all(map(math.isfinite, losses))
    assert any(not torch.equal(weight, first) for weight, first in zip(trainer.trained, before, strict=True))
    assert list((tmp_path / "run").rglob("*.safetensors"))


@pytest.mark.parametrize("mixed_precision", ["no", "bf16"])
@pytest.mark.parametrize("case", CASES)
def test_a_step_of_training_holds_what_is_estimated(
    case: str, mixed_precision: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    config = roomy_config(tmp_path / "roomy", case, mixed_precision=mixed_precision)
    estimated = TrainingEstimate(config, GPU).peak_bytes
    before = torch.cuda.memory_allocated()
    trainer = Trainer(config)
    batches = MicroBatches(config, trainer.dataset, None, 0, 1, 0)
    trainer.take_step(batches)  # makes states
    torch.cuda.reset_peak_memory_stats()
    trainer.take_step(batches)
    measured = torch.cuda.max_memory_allocated() - before
    record_property("estimated_of_measured", estimated / measured)
    assert abs(estimated - measured) <= TOLERANCE * measured, (estimated, measured)


def test_blocks_that_wait_on_the_host_spare_what_is_estimated_and_change_no_loss(tmp_path: Path) -> None:
    torch.use_deterministic_algorithms(True, warn_only=True)
    peaks, losses, spared = [], [], 0
    for number in (0, 3):
        settings = {"gradient_checkpointing": True, "blocks_to_swap": number}
        config = roomy_config(tmp_path / f"swap-{number}", "adapter", **settings)
        forget_accelerate()
        trainer = Trainer(config)
        batches = MicroBatches(config, trainer.dataset, None, 0, 1, 0)
        for _ in range(3):
            torch.cuda.reset_peak_memory_stats()
            trainer.take_step(batches)
        peaks.append(torch.cuda.max_memory_allocated())
        losses.append(trainer.loss(trainer._inputs(batches, 0)).total.detach().cpu())
        spared = swapped_bytes(trainer.transformer, 3)
        del trainer
        torch.cuda.empty_cache()
    torch.use_deterministic_algorithms(False)
    assert torch.equal(*losses)
    assert abs(peaks[0] - peaks[1] - spared) <= TOLERANCE * spared
