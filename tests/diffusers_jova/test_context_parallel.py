"""Several processes that share the rows of every stream predict and learn what one process does."""

import warnings
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FirstBlockCacheConfig
from diffusers.models._modeling_parallel import ContextParallelConfig
from torch import Tensor, distributed

from diffusers_jova import JoVACacheConfig, JoVAPipeline
from diffusers_jova.context_parallel import key_mask
from diffusers_jova.processes import Processes
from tests.processes import start
from tests.tiny_pipeline import DUAL_TOWERS, NAVA_SHARING, build_dual_tower, build_transformer, build_wan_transformer


ROUND_OFF = {"atol": 2e-6, "rtol": 1e-4}  # float32, another order of the same sums
GRADIENT_ROUND_OFF = 2e-6  # of the longest gradient; the same float32 sums, forth and back
PIPELINE_ROUND_OFF = {"atol": 2e-5, "rtol": 1e-4}  # two steps of six blocks of width 192
BUILDERS: dict[str, Callable[..., Any]] = {
    "jova": build_transformer,
    "cross": partial(build_transformer, fusion="cross"),
    "cross_linear": partial(build_transformer, fusion="cross_linear"),
    "wan": partial(build_wan_transformer, in_channels=36),
    "nava": partial(build_wan_transformer, in_channels=36, **NAVA_SHARING),
    **{name: partial(build_dual_tower, name, in_channels=36) for name in DUAL_TOWERS},
    "experts": partial(build_dual_tower, "bridge", in_channels=36, boundary=0.9),
}
SOME_KINDS = ("jova", "cross", "nava", "bridge", "aligned")  # of each way to meet, by default
KEEPS_ROWS = ("jova", "cross", "nava", *DUAL_TOWERS)  # of these, those on which audio steps are tried
# of a build for GPUs on a machine without one
LACKS_ITS_DEVICE = torch.accelerator.current_accelerator() is not None and not torch.accelerator.is_available()
TEXT_MASK = torch.tensor([[True] * 7, [True] * 4 + [False] * 3])

# Neither 2 nor 3 divides the 5 rows of video, the 11 of audio or the 7 of text.
CASES: dict[str, dict[str, Any]] = {
    "coupled": {},
    "uncoupled": {"coupled": False},
    "masked": {"encoder_attention_mask": TEXT_MASK},
    "lengths_one_way": {"coupled": [True, "a2v"], "text_lengths": [(7,), (4,)]},
    "the_other_way": {"coupled": "v2a"},
    "video_alone": {"audio_hidden_states": None},
    "audio_alone": {"hidden_states": None},
    "timesteps_per_latent": {
        "timestep": torch.tensor([[0.0, 500.0, 700.0, 700.0, 900.0]] * 2),
        "audio_timestep": torch.linspace(0, 999, 22).view(2, 11),
    },
    "own_text_of_audio": {"audio_encoder_hidden_states": torch.linspace(-2, 2, 2 * 5 * 16).view(2, 5, 16)},
    "one_row": {"audio_hidden_states": torch.ones(2, 1, 4), "encoder_hidden_states": torch.ones(2, 1, 16)},
    "divisible": {
        "hidden_states": torch.linspace(-2, 2, 2 * 36 * 96).view(2, 36, 6, 4, 4),
        "audio_hidden_states": torch.linspace(-2, 2, 2 * 12 * 4).view(2, 12, 4),
        "encoder_hidden_states": torch.linspace(-2, 2, 2 * 6 * 16).view(2, 6, 16),
    },
}
WHOLE = ("jova", "nava", "aligned")  # of each way in which streams meet, one that takes all cases by default
MEETINGS = ("coupled", "lengths_one_way", "the_other_way", "own_text_of_audio")  # the cases of the others
ON_THREE = ("coupled", "uncoupled", "lengths_one_way", "timesteps_per_latent", "one_row", "divisible")


def kinds_of(num_processes: int, everything: bool) -> tuple[str, ...]:
    """Models for so many processes, which are as many as their heads."""
    if num_processes == 3:
        return ("jova", "cross", "nava", "aligned")
    return tuple(BUILDERS) if everything else SOME_KINDS


def cases_of(kind: str, num_processes: int, everything: bool) -> dict[str, dict[str, Any]]:
    if everything:
        return CASES
    names = ON_THREE if num_processes == 3 else CASES if kind in WHOLE else MEETINGS
    return {name: CASES[name] for name in names}


def inputs() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    return {
        "hidden_states": torch.randn(2, 36, 5, 2, 2, generator=generator),
        "audio_hidden_states": torch.randn(2, 11, 4, generator=generator),
        "encoder_hidden_states": torch.randn(2, 7, 16, generator=generator),
        "timestep": torch.full((2,), 500.0),
        "frame_rate": 16.0,
        "audio_latent_rate_hz": 31.25,
        "return_dict": False,
    }


def learn(model: Any, case: dict[str, Any]) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Velocities of the modalities that are present, and the gradients of a loss over them."""
    model.zero_grad()
    velocities = [part for part in model(**{**inputs(), **case}) if part is not None]
    sum((part - 1).square().sum() for part in velocities).backward()
    gradients = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
    return [part.detach() for part in velocities], gradients


def summed(gradients: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gradients summed over all processes, in one exchange."""
    joined = torch.cat([gradient.flatten() for gradient in gradients.values()])
    distributed.all_reduce(joined)
    parts = joined.split([gradient.numel() for gradient in gradients.values()])
    return {name: part.view_as(gradients[name]) for name, part in zip(gradients, parts, strict=True)}


@torch.no_grad()
def keep_and_read(model: Any) -> list[Tensor]:
    """Velocities of a step that reads video rows which an earlier one has kept; some text is padding."""
    model.enable_cache(JoVACacheConfig())
    for step in range(3):
        with model.cache_context("text", step_index=step, sigma=1 - step / 9, num_inference_steps=9):
            velocities = model(**inputs(), **CASES["lengths_one_way"])
    model.disable_cache()
    return list(velocities)


def generate(pipeline: JoVAPipeline) -> list[Tensor]:
    """Latents of a clip whose streams have odd lengths."""
    output = pipeline(
        "a dogs",
        num_frames=13,
        height=32,
        width=32,
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(0),
        output_type="latent",
    )
    return [output.frames, output.audio]


def jova_tiny() -> JoVAPipeline:
    pipeline = JoVAPipeline.from_pretrained("jova-tiny")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def share_the_work(rank: int, num_processes: int, everything: bool, folder: Path) -> None:
    """Worker: everything that is tested on so many processes; rank 0 saves what came out."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # torch warns about the collective that diffusers calls
    meeting = f"file://{folder / 'meeting'}"
    distributed.init_process_group("gloo", meeting, timedelta(minutes=5), num_processes, rank)
    config = ContextParallelConfig(ulysses_degree=num_processes)
    results: dict[str, Any] = {}
    for kind in kinds_of(num_processes, everything):
        model = BUILDERS[kind](num_attention_heads=num_processes)
        model.enable_parallelism(config=config)
        if kind in ("jova", "nava", "bridge"):
            model.enable_gradient_checkpointing()
        for name, case in cases_of(kind, num_processes, everything).items():
            velocities, gradients = learn(model, case)
            results[f"{kind}-{name}"] = velocities, summed(gradients)
        if kind in KEEPS_ROWS:
            results[f"{kind}-kept"] = keep_and_read(model)
        with pytest.raises(ValueError, match="got `FirstBlockCacheConfig`, which looks at each shard alone"):
            model.enable_cache(FirstBlockCacheConfig())
    if num_processes == 2:
        results |= share_otherwise()
    else:
        pipeline = jova_tiny()
        pipeline.transformer.enable_parallelism(config=config)
        results["pipeline"] = generate(pipeline)
    if rank == 0:
        torch.save(results, folder / "results.pt")
    distributed.destroy_process_group()


@torch.no_grad()
def share_otherwise() -> dict[str, Any]:
    """Two processes, three heads; two processes, ring attention."""
    results = {}
    for kind, build in BUILDERS.items():
        model = build(num_attention_heads=3)
        if kind == "aligned":
            for options in ({"ulysses_degree": 2, "ulysses_anything": True}, {"ring_degree": 2}):
                with pytest.raises(ValueError, match="`ring_degree` must be 1 and `ulysses_anything` False for an"):
                    model.enable_parallelism(config=ContextParallelConfig(**options))
            continue
        model.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2, ulysses_anything=True))
        if not LACKS_ITS_DEVICE:
            results[f"{kind}-anything"] = model(**inputs(), encoder_attention_mask=TEXT_MASK)
        ring = build()
        ring.set_attention_backend("_native_cudnn")
        ring.enable_parallelism(config=ContextParallelConfig(ring_degree=2))
        with pytest.raises(
            ValueError, match=r"`ring_degree` must be 1 for .* that it does not divide, got 2 for .*(5|11)"
        ):
            ring(**inputs())
        ring.set_attention_backend("native")
    return results


Shared = tuple[int, bool, dict[str, Any]]  # number of processes, whether every kind took every case, what came out


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((2, False), id="2_processes"),
        pytest.param((3, False), id="3_processes", marks=pytest.mark.slow),
        pytest.param((2, True), id="2_processes_in_all_cases", marks=pytest.mark.slow),
        pytest.param((3, True), id="3_processes_in_all_cases", marks=pytest.mark.slow),
    ],
)
def shared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[int, bool, dict[str, Any]]:
    """Two or three processes share the work."""
    folder = tmp_path_factory.mktemp("shared")
    num_processes, everything = request.param
    start(share_the_work, (num_processes, everything, folder), num_processes)
    return num_processes, everything, torch.load(folder / "results.pt")


def test_processes_that_share_the_rows_predict_and_learn_as_one(shared: Shared) -> None:
    num_processes, everything, results = shared
    for kind in kinds_of(num_processes, everything):
        model = BUILDERS[kind](num_attention_heads=num_processes)
        seen: list[Tensor] = []
        for name, case in cases_of(kind, num_processes, everything).items():
            velocities, gradients = learn(model, case)
            predicted = torch.cat([part.flatten() for part in velocities])
            assert not any(torch.equal(predicted, other) for other in seen)  # each case asks something else
            seen.append(predicted)
            assert_learnt(f"{kind}-{name}", results[f"{kind}-{name}"], (velocities, gradients))
        if kind in KEEPS_ROWS:
            torch.testing.assert_close(results[f"{kind}-kept"], keep_and_read(model), **ROUND_OFF)


def assert_learnt(case: str, actual: Any, expected: tuple[list[Tensor], dict[str, Tensor]]) -> None:
    torch.testing.assert_close(actual[0], expected[0], msg=lambda text: f"{case}: {text}", **ROUND_OFF)
    assert actual[1].keys() == expected[1].keys()
    longest = max(gradient.norm() for gradient in expected[1].values())
    for parameter, gradient in expected[1].items():
        error = (actual[1][parameter] - gradient).norm() / longest
        assert error < GRADIENT_ROUND_OFF, f"{case}, {parameter}: {error}"


@pytest.mark.slow
@pytest.mark.parametrize("shared", [(3, False)], indirect=True)
def test_a_pipeline_generates_on_three_processes_what_it_does_on_one(shared: Shared) -> None:
    *_, results = shared
    torch.testing.assert_close(results["pipeline"], generate(jova_tiny()), **PIPELINE_ROUND_OFF)


@pytest.mark.skipif(LACKS_ITS_DEVICE, reason="diffusers gathers lengths on the device that torch was built for")
@pytest.mark.parametrize("shared", [(2, False)], indirect=True)
def test_heads_that_do_not_divide_are_shared_where_the_user_asks_for_it(
    shared: tuple[int, bool, dict[str, Any]],
) -> None:
    *_, results = shared
    for kind, build in BUILDERS.items():
        if kind == "aligned":  # refused
            continue
        with torch.no_grad():
            expected = build(num_attention_heads=3)(**inputs(), encoder_attention_mask=TEXT_MASK)
        torch.testing.assert_close(results[f"{kind}-anything"], expected, **ROUND_OFF)


# One process


def test_heads_that_the_devices_cannot_share_are_refused() -> None:
    transformer = jova_tiny().transformer
    message = r"`ulysses_degree` must divide the 3 attention heads, got 2; use one of \[3\]"
    with pytest.raises(ValueError, match=message):
        transformer.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2))


def test_processes_that_cannot_share_the_heads_are_told_by_the_option_that_asked_for_them() -> None:
    with pytest.raises(ValueError, match=r"`--context-parallel` must divide the 3 attention heads, got 2; use one of"):
        Processes(num_processes=2, share_clips=True).share_clip(jova_tiny())


@pytest.mark.parametrize("kind", BUILDERS)
def test_what_is_refused_leaves_the_model_as_it_was(kind: str) -> None:
    model = BUILDERS[kind]()
    before, _ = learn(model, {})
    for config, message in (
        (
            ContextParallelConfig(ring_degree=2),
            r"`ring_degree` must be 1 (on the attention backend 'native'|and .* aligned fusion)",
        ),
        (ContextParallelConfig(ulysses_degree=3), "`ulysses_degree` must divide the 2 attention heads, got 3"),
    ):
        with pytest.raises(ValueError, match=message):
            model.enable_parallelism(config=config)
    with pytest.raises(RuntimeError, match=r"torch\.distributed must be available and initialized"):
        model.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2))
    with pytest.raises(ValueError, match=r"`cp_plan` must be None, got \['proj_out'\]"):
        model.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2), cp_plan={"proj_out": None})
    after, _ = learn(model, {})
    torch.testing.assert_close(after, before, atol=0, rtol=0)


def test_a_cache_that_looks_at_each_shard_alone_is_refused() -> None:
    model = build_transformer()
    model.enable_cache(FirstBlockCacheConfig())
    with pytest.raises(ValueError, match="`FirstBlockCacheConfig`, which looks at each shard alone"):
        model.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2))


def test_there_is_a_mask_only_where_something_is_padded() -> None:
    config = ContextParallelConfig(ulysses_degree=2)
    device = torch.device("cpu")
    streams: dict[str, Tensor | None] = {"video": None, "audio": None}
    assert key_mask(streams, {"video": 4, "audio": 2}, 1, device, config) is None
    assert key_mask(streams, {"video": 3, "audio": 1}, 1, device, None) is None
    mask = key_mask(streams, {"video": 3, "audio": 1}, 1, device, config)
    assert mask is not None
    assert mask[0, :, 0].tolist() == [[True, True, True], [True, False, False]]  # video, video, audio of each device
