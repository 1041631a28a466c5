"""A cache that computes sound in every step and video in some: exact where it can be, near where it spares work."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.hooks.hooks import CacheContext
from peft import LoraConfig
from torch import Tensor, nn

from benchmarks.sound_cache import generate as measured
from benchmarks.sound_cache import nearness, operation_counter
from diffusers_jova import FlowMatchAudioVideoScheduler, JoVACacheConfig, JoVAPipeline
from diffusers_jova.joint_attention import JoVAJointAttention
from diffusers_jova.kept_rows import StoredTensor
from diffusers_jova.sound_cache import (
    HOOK,
    SoundCacheHook,
    apply_sound_cache,
    extrapolate,
    is_full_step,
    kept_bytes,
    num_full_steps,
)
from tests.tiny_pipeline import (
    DUAL_TOWERS,
    NAVA_SHARING,
    build_dual_tower,
    build_spoken_pipeline,
    build_tiny_pipeline,
    build_transformer,
    build_wan_transformer,
    one_of_each_class,
)


BUILDERS: dict[str, Callable[..., Any]] = {
    "jova": build_transformer,
    "cross": partial(build_transformer, fusion="cross"),
    "cross_linear": partial(build_transformer, fusion="cross_linear"),
    "wan": partial(build_wan_transformer, in_channels=36),
    "nava": partial(build_wan_transformer, in_channels=36, **NAVA_SHARING),
    **{name: partial(build_dual_tower, name, in_channels=36) for name in DUAL_TOWERS},
}
ROUND_OFF = {"atol": 2e-6, "rtol": 1e-4}  # float32, another order of the same sums
SEVERAL_STEPS = {"atol": 1e-5, "rtol": 1e-3}  # the same, through the steps of a call
NUM_STEPS = 8
TEXT_MASK = torch.tensor([[True] * 7, [True] * 4 + [False] * 3])
TEXT_LENGTHS = [(7,), (4,)]


SLOW_KINDS = [pytest.param(kind, marks=pytest.mark.slow) for kind in BUILDERS if kind not in ("jova", "bridge")]


@pytest.fixture(params=one_of_each_class(BUILDERS, "cross"))  # which keeps the rows of another attention
def model(request: pytest.FixtureRequest) -> Any:
    """A tiny transformer of each class and kind of fusion."""
    return BUILDERS[request.param]()


@pytest.fixture
def pipeline(model: Any) -> JoVAPipeline:
    return build_tiny_pipeline(transformer=model)


def generate(pipeline: JoVAPipeline, **arguments: Any) -> tuple[Tensor, Tensor]:
    """Latents of both modalities after a few guided steps."""
    settings = {"num_frames": 5, "num_inference_steps": NUM_STEPS, "guidance_scale": 3.0, "output_type": "latent"}
    generator = torch.Generator().manual_seed(0)
    return pipeline("a dog", return_dict=False, generator=generator, **{**settings, **arguments})


def inputs(**changed: Any) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    return {
        "hidden_states": torch.randn(2, 36, 3, 4, 4, generator=generator),
        "audio_hidden_states": torch.randn(2, 11, 4, generator=generator),
        "encoder_hidden_states": torch.randn(2, 7, 16, generator=generator),
        "timestep": torch.full((2,), 500.0),
        "frame_rate": 16.0,
        "audio_latent_rate_hz": 31.25,
        "return_dict": False,
        **changed,
    }


@torch.no_grad()
def walk(model: nn.Module, num_steps: int, steps: int, *names: str, **changed: Any) -> list[tuple[Tensor, Tensor]]:
    """What a transformer answers in the first steps of a call, with the same input in each, for the last branch."""
    answers = []
    for step in range(steps):
        for name in names or ("text",):
            sigma = 1 - step / num_steps
            with model.cache_context(name, step_index=step, sigma=sigma, num_inference_steps=num_steps):
                answer = model(**inputs(**changed))
        answers.append(answer)
    return answers


def hook_of(model: Any) -> SoundCacheHook:
    return model._diffusers_hook.get_hook(HOOK)


@pytest.fixture
def steps_taken(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The kinds of steps that the cache takes, one letter each."""
    taken: list[str] = []
    for letter, name in (("F", "full_step"), ("a", "audio_step")):
        step = getattr(SoundCacheHook, name)
        monkeypatch.setattr(
            SoundCacheHook,
            name,
            lambda *args, step=step, letter=letter: taken.append(letter) or step(*args),
        )
    return taken


# 1. The idea


@pytest.mark.parametrize("settings", [{}, {"sequential_guidance": True}, {"coupling_scale": 2.0}])
def test_nothing_changes_where_every_step_is_full(pipeline: JoVAPipeline, settings: dict[str, Any]) -> None:
    plain = generate(pipeline, **settings)
    pipeline.transformer.enable_cache(JoVACacheConfig(video_interval=1))
    for latents, expected in zip(generate(pipeline, **settings), plain, strict=True):
        assert torch.equal(latents, expected)


CASES: dict[str, dict[str, Any]] = {
    "coupled": {},
    "uncoupled": {"coupled": False},
    "video_reads": {"coupled": "a2v"},
    "audio_reads": {"coupled": "v2a"},
    "each_its_own": {"coupled": [False, "v2a"]},
    "masked": {"encoder_attention_mask": TEXT_MASK},
    "masked_each_its_own": {"coupled": [True, "a2v"], "encoder_attention_mask": TEXT_MASK},
    "lengths_each_its_own": {"coupled": [True, "a2v"], "text_lengths": TEXT_LENGTHS},
    "video_text_of_lengths": {
        "text_lengths": TEXT_LENGTHS,
        "audio_encoder_hidden_states": torch.linspace(-2, 2, 2 * 5 * 16).view(2, 5, 16),
    },
    "video_text_masked": {
        "encoder_attention_mask": TEXT_MASK,
        "audio_encoder_hidden_states": torch.linspace(-2, 2, 2 * 5 * 16).view(2, 5, 16),
    },
    "audio_text_masked": {
        "audio_encoder_hidden_states": torch.linspace(-2, 2, 2 * 7 * 16).view(2, 7, 16),
        "audio_encoder_attention_mask": TEXT_MASK,
    },
    "timesteps_per_latent": {
        "timestep": torch.tensor([[0.0, 500.0, 700.0]] * 2),
        "audio_timestep": torch.linspace(0, 999, 22).view(2, 11),
    },
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_audio_alone_is_what_it_is_beside_the_video_whose_rows_are_kept(model: Any, case: dict[str, Any]) -> None:
    plain = model(**inputs(**case))
    model.enable_cache(JoVACacheConfig())
    answers = walk(model, 9, 4, **case)
    assert torch.equal(answers[1][1], plain[1])
    for step in (2, 3):  # the same input, of which the video is not looked at
        torch.testing.assert_close(answers[step][1], plain[1], **ROUND_OFF)
        torch.testing.assert_close(answers[step][0], plain[0], **ROUND_OFF)


def test_rows_kept_under_a_mask_are_read_beside_text_of_known_lengths() -> None:
    """A callback may replace the text between two steps."""
    model = build_transformer()
    model.enable_cache(JoVACacheConfig())
    *_, masked = walk(model, 9, 3, encoder_attention_mask=TEXT_MASK)
    walk(model, 9, 2, encoder_attention_mask=TEXT_MASK)
    with model.cache_context("text", step_index=2, sigma=1 - 2 / 9, num_inference_steps=9):
        answer = model(**inputs(text_lengths=TEXT_LENGTHS))
    torch.testing.assert_close(answer[1], masked[1], **ROUND_OFF)


REFERENCES = {
    "image": {"reference_hidden_states": torch.linspace(-2, 2, 2 * 36 * 16).view(2, 36, 1, 4, 4)},
    "voice": {"audio_reference_hidden_states": torch.linspace(-2, 2, 2 * 3 * 4).view(2, 3, 4)},
}


@pytest.mark.parametrize("given", [("image",), ("voice",), ("image", "voice")], ids=" and ".join)
def test_references_in_front_of_a_clip_are_read_in_audio_steps_as_in_full_ones(given: tuple[str, ...]) -> None:
    model = BUILDERS["aligned"]()
    case: dict[str, Any] = {"coupled": ["v2a", "a2v"]}
    for name in given:
        case |= REFERENCES[name]
    plain = model(**inputs(**case))
    model.enable_cache(JoVACacheConfig())
    for answer in walk(model, 9, 4, **case):
        torch.testing.assert_close(answer, plain, **ROUND_OFF)


FOUR_BLOCKS = {"num_layers": 4, "audio_num_layers": 4, "fusion_layers": (1, 2)}
LITTLE_TO_READ: dict[str, tuple[str, dict[str, Any], dict[str, Any], list[bool]]] = {  # and which fusions keep rows
    "no fusion": ("bridge", {"fusion_layers": ()}, {}, []),
    "one fusion": ("text_cross", {"fusion_layers": (1,)}, {}, [True]),
    "video alone reads": ("bridge", {}, {"fusion_scale": (1.0, 0.0)}, [False, False]),
    "a skipped end": ("bridge", {}, {"skip_layers": [0]}, [False, True]),
    "a skipped block": ("aligned", FOUR_BLOCKS, {"skip_layers": [1]}, [False, True]),
}


@pytest.mark.parametrize(("fusion", "config", "case", "keeps"), LITTLE_TO_READ.values(), ids=LITTLE_TO_READ.keys())
def test_towers_that_read_each_other_in_few_blocks_keep_what_these_read(
    fusion: str, config: dict[str, Any], case: dict[str, Any], keeps: list[bool]
) -> None:
    model = BUILDERS[fusion](**config)
    plain = model(**inputs(**case))
    model.enable_cache(JoVACacheConfig())
    for answer in walk(model, 9, 4, **case):
        torch.testing.assert_close(answer, plain, **ROUND_OFF)
    assert [rows.num_bytes > 0 for rows in hook_of(model).states.all()[0].kept] == keeps


def test_audio_hears_video_only_from_full_steps_on(model: Any) -> None:
    model.enable_cache(JoVACacheConfig())
    first = walk(model, 9, 3)
    hook = hook_of(model)
    for rows in hook.states.all()[0].kept:
        rows.value = rows.value._replace(values=rows.value.values + 1)
    with model.cache_context("text", step_index=3, sigma=0.5, num_inference_steps=9):
        changed = model(**inputs())
    assert not torch.allclose(changed[1], first[2][1])
    assert torch.equal(changed[0], first[2][0])


class Line(nn.Module):
    """A model whose video velocity lies on a line over its noise level, and whose audio velocity does not."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = JoVAJointAttention(4, 1, 4, ("shared",), "joint", 1e-6)
        self.seen: list[bool] = []

    def video_tower(self, timestep: Tensor) -> str:
        return "video"

    def forward(
        self, hidden_states: Tensor | None, audio_hidden_states: Tensor, timestep: Tensor, audio_timestep: Tensor
    ) -> tuple[Tensor | None, Tensor]:
        self.seen.append(hidden_states is not None)
        velocity = None if hidden_states is None else 3 * hidden_states - hidden_states * timestep / 1000
        return velocity, audio_hidden_states * audio_timestep**2


def test_a_velocity_on_a_line_is_extrapolated_exactly_whatever_the_audio_does() -> None:
    model = Line()
    apply_sound_cache(model, JoVACacheConfig(video_interval=4))
    hook, latents = hook_of(model), torch.tensor([[1.0, -2.0, 0.5]])
    sigmas = [1.0, 0.875, 0.5, 0.25, 0.125, 0.0625]  # whose products float32 holds
    for step, sigma in enumerate(sigmas):
        times = torch.tensor([1000 * sigma]), torch.tensor([1000 * sigma**3])
        hook.states.set_context(CacheContext("text", step, len(sigmas), sigma=sigma))
        velocity, audio = model(latents, latents, *times)
        assert torch.equal(velocity, 3 * latents - latents * sigma)
        assert torch.equal(audio, latents * times[1] ** 2)
    assert model.seen == [True, True, False, False, False, True]


def test_extrapolation_keeps_the_number_format_and_holds_where_both_points_are_one() -> None:
    latest, before = torch.tensor([3.0]), torch.tensor([2.0])
    assert torch.equal(extrapolate([(0.5, latest), (0.75, before)], 0.25), torch.tensor([4.0]))
    assert torch.equal(extrapolate([(0.5, latest), (0.5, before)], 0.25), latest)
    assert extrapolate([(0.5, latest.bfloat16()), (0.75, before.bfloat16())], 0.25).dtype == torch.bfloat16


# 2. Which steps are full


def test_the_first_two_steps_and_the_last_are_full_and_every_third_between(steps_taken: list[str]) -> None:
    pipeline = build_tiny_pipeline()
    for interval, expected in ((3, "FFaaFaaFaF"), (2, "FFaFaFaFaF"), (100, "FFaaaaaaaF"), (1, "F" * 10)):
        pipeline.transformer.enable_cache(JoVACacheConfig(video_interval=interval))
        steps_taken.clear()
        generate(pipeline, num_inference_steps=10)
        assert "".join(steps_taken) == expected
        config = pipeline.transformer._cache_config
        assert num_full_steps(config, 10) == expected.count("F")
        pipeline.transformer.disable_cache()


@pytest.mark.parametrize("interval", [1, 2, 3, 5])
@pytest.mark.parametrize(
    "within", [range(9), range(1), range(3, 3), range(1, 4), range(4, 9), range(5, 8), range(8, 9)]
)
def test_full_steps_are_counted_without_walking(interval: int, within: range) -> None:
    config = JoVACacheConfig(video_interval=interval)
    assert num_full_steps(config, 9, within) == sum(is_full_step(config, step, 9) for step in within)


def test_thresholds_make_steps_full_that_go_too_far(steps_taken: list[str]) -> None:
    pipeline = build_tiny_pipeline()

    def kinds(**thresholds: float) -> str:
        pipeline.transformer.enable_cache(JoVACacheConfig(video_interval=NUM_STEPS, **thresholds))
        steps_taken.clear()
        generate(pipeline)
        pipeline.transformer.disable_cache()
        return "".join(steps_taken)

    nothing, everything = kinds(), "F" * NUM_STEPS
    assert nothing == "FFaaaaaF"
    assert kinds(video_threshold=1e-9) == kinds(audio_threshold=1e-9) == everything
    assert kinds(video_threshold=1e9) == "FFFaaaaF"  # an error is known from the third full step on
    assert kinds(audio_threshold=1e9) == nothing
    assert kinds(video_threshold=1e9, audio_threshold=1e-9) == everything
    some = kinds(audio_threshold=0.5)
    assert nothing.count("F") < some.count("F") < NUM_STEPS, some


def test_branches_choose_alike_in_one_batch_and_one_after_the_other(steps_taken: list[str]) -> None:
    pipeline = build_tiny_pipeline()
    pipeline.transformer.enable_cache(JoVACacheConfig(video_interval=NUM_STEPS, audio_threshold=0.5))
    batch = generate(pipeline)
    kinds = "".join(steps_taken)
    steps_taken.clear()
    turns = generate(pipeline, sequential_guidance=True)
    assert "".join(steps_taken) == "".join(2 * kind for kind in kinds)
    for latents, expected in zip(turns, batch, strict=True):
        torch.testing.assert_close(latents, expected, **SEVERAL_STEPS)


def test_a_second_video_tower_begins_with_two_full_steps_and_audio_hears_it_alone(steps_taken: list[str]) -> None:
    def walk_on(*timesteps: float, first_step: int) -> list[tuple[Tensor, Tensor]]:
        answers = []
        for step, timestep in enumerate(timesteps, first_step):
            given = inputs(timestep=torch.full((2,), timestep), audio_timestep=torch.full((2,), 500.0))
            with model.cache_context("text", step_index=step, sigma=timestep / 1000, num_inference_steps=11):
                answers.append(model(**given))
        return answers

    model = build_dual_tower("bridge", in_channels=36, boundary=0.5)
    model.enable_cache(JoVACacheConfig())
    low = 450.0, 400.0, 350.0, 300.0, 200.0, 100.0, 50.0
    behind_the_other = walk_on(900.0, 800.0, 700.0, 600.0, *low, first_step=0)[4:]
    assert "".join(steps_taken) == "FFaaFFaaFaF"
    for answer, expected in zip(behind_the_other[:4], walk_on(*low[:4], first_step=0), strict=True):
        for velocity, alone in zip(answer, expected, strict=True):
            assert torch.equal(velocity, alone)


# 3. What a call gets


SETTINGS: dict[str, dict[str, Any]] = {
    "text": {},
    "coupling": {"coupling_scale": 2.0},
    "coupling, text kept": {"coupling_scale": 2.0, "uncoupled_text": "kept"},
    "two clips": {"num_videos_per_prompt": 2},
}


@pytest.mark.parametrize("model", ["jova", "bridge", *SLOW_KINDS], indirect=True)
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_both_modalities_follow_in_one_batch_as_one_after_the_other(
    pipeline: JoVAPipeline, settings: dict[str, Any]
) -> None:
    plain = generate(pipeline, **settings)
    pipeline.transformer.enable_cache(JoVACacheConfig(video_interval=2))
    batch = generate(pipeline, **settings)
    for latents, expected, bound in zip(batch, plain, (0.1, 0.03), strict=True):  # random weights turn fast
        assert 1e-6 < ((latents - expected).norm() / expected.norm()).item() < bound
    for latents, again in zip(generate(pipeline, **settings), batch, strict=True):
        assert torch.equal(latents, again), "one call must leave nothing behind for the next"
    for latents, expected in zip(generate(pipeline, sequential_guidance=True, **settings), batch, strict=True):
        torch.testing.assert_close(latents, expected, **SEVERAL_STEPS)
    pipeline.transformer.disable_cache()
    for latents, expected in zip(generate(pipeline, **settings), plain, strict=True):
        assert torch.equal(latents, expected)


def test_noise_levels_of_the_sound_may_differ_from_those_of_the_video() -> None:
    pipeline = build_tiny_pipeline(scheduler=FlowMatchAudioVideoScheduler(shift=3.0, audio_shift=1.0))
    plain = generate(pipeline)
    pipeline.transformer.enable_cache(JoVACacheConfig(video_interval=2))
    for latents, expected in zip(generate(pipeline), plain, strict=True):
        assert 1e-6 < ((latents - expected).norm() / expected.norm()).item() < 0.1


def test_guidance_on_an_interval_keeps_nothing_of_branches_that_have_ended() -> None:
    pipeline = build_tiny_pipeline()
    pipeline.transformer.enable_cache(JoVACacheConfig(video_interval=2))
    hook, kept = hook_of(pipeline.transformer), []
    generate(
        pipeline,
        num_inference_steps=12,
        guidance_interval=(0.0, 0.5),
        sequential_guidance=True,
        callback_on_step_end=lambda *_: kept.append(len(hook.states.all())) or {},
    )
    assert kept == [2] * 6 + [2] + [1] * 4 + [0]  # one step later it is known to have ended, and at last all is let go


GIVEN = {"audio": torch.zeros(1, round(5 / 16 * 16000)), "audio_sampling_rate": 16000}
NOTHING_TO_SPARE: dict[str, tuple[dict[str, Any], str]] = {
    "video alone": ({"modalities": ["video"]}, "it has no sound"),
    "sound alone": ({"modalities": ["audio"]}, "it has no video"),
    "given sound": (GIVEN, "its sound is given"),
    "few steps": ({"num_inference_steps": 3}, "it has 3 steps, of which the first 2 and the last are full"),
}


@pytest.mark.parametrize(("settings", "reason"), NOTHING_TO_SPARE.values(), ids=NOTHING_TO_SPARE.keys())
def test_where_nothing_can_be_spared_every_step_is_full_and_one_line_says_so(
    settings: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline = build_tiny_pipeline()
    plain = generate(pipeline, sequential_guidance=True, **settings)
    pipeline.transformer.enable_cache(JoVACacheConfig())
    caplog.clear()
    cached = generate(pipeline, sequential_guidance=True, **settings)
    for latents, expected in zip(cached, plain, strict=True):
        assert (latents is None and expected is None) or torch.equal(latents, expected)
    said = [record.message for record in caplog.records if "cache" in record.message]
    assert said == [f"the cache of video rows makes every step full in this call: {reason}"]


def test_sound_for_a_given_video_is_exact_where_the_video_reads_none(steps_taken: list[str]) -> None:
    video = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    pipeline = build_tiny_pipeline(one_way_coupling=True)
    plain = generate(pipeline, video=video)
    pipeline.transformer.enable_cache(JoVACacheConfig(video_interval=100))
    cached = generate(pipeline, video=video)
    assert "".join(steps_taken) == "FFaaaaaF"
    for latents, expected in zip(cached, plain, strict=True):
        torch.testing.assert_close(latents, expected, **SEVERAL_STEPS)


def test_a_clip_that_goes_on_and_one_with_a_first_frame_follow_the_plain_ones() -> None:
    frames = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    pipeline = build_tiny_pipeline()
    for settings in ({"video": frames, "num_frames": 9}, {"image": frames[0]}):
        plain = generate(pipeline, **settings)
        pipeline.transformer.enable_cache(JoVACacheConfig(video_interval=2))
        for latents, expected in zip(generate(pipeline, **settings), plain, strict=True):
            assert 1e-6 < ((latents - expected).norm() / expected.norm()).item() < 0.1
        pipeline.transformer.disable_cache()


@pytest.mark.parametrize("seconds", [0.0, 0.2])
def test_a_model_that_reads_an_image_and_a_voice_in_front_follows_the_plain_clip(
    seconds: float, steps_taken: list[str]
) -> None:
    pipeline, generator = build_spoken_pipeline(), torch.Generator().manual_seed(1)
    given: dict[str, Any] = {"image": torch.rand(3, 32, 32, generator=generator), "coupling_scale": 2.0}
    if seconds:
        voice = torch.rand(1, round(seconds * 16000), generator=generator)
        given |= {"reference_audio": voice, "reference_audio_sampling_rate": 16000, "reference_transcript": "hi"}
    plain = generate(pipeline, **given)
    pipeline.transformer.enable_cache(JoVACacheConfig(video_interval=2))
    for latents, expected in zip(generate(pipeline, **given), plain, strict=True):
        assert 1e-6 < ((latents - expected).norm() / expected.norm()).item() < 0.1
    assert "a" in steps_taken


def test_adapters_take_part_in_audio_steps(model: Any) -> None:
    torch.manual_seed(0)
    model.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v", "to_out.0"], init_lora_weights=False))
    plain = model(**inputs(attention_kwargs={"scale": 0.5}))
    model.enable_cache(JoVACacheConfig())
    *_, last = walk(model, 9, 3, attention_kwargs={"scale": 0.5})
    torch.testing.assert_close(last[1], plain[1], **ROUND_OFF)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["jova", "wan", *DUAL_TOWERS])
def test_compiled_blocks_keep_and_read_rows_without_a_break(kind: str) -> None:
    model = BUILDERS[kind]()
    model.enable_cache(JoVACacheConfig(storage_dtype=torch.float8_e4m3fn))
    eager = walk(model, 9, 4)
    torch.compiler.reset()
    model.compile_repeated_blocks(fullgraph=True, backend="eager")
    for answer, expected in zip(walk(model, 9, 4), eager, strict=True):
        torch.testing.assert_close(answer, expected, **ROUND_OFF)


# 4. What it saves and what it holds


def counted(model: nn.Module, *args: Any, **kwargs: Any) -> int:
    model.requires_grad_(False)
    with operation_counter() as counter:
        model(*args, **kwargs)
    return counter.get_total_flops()


def test_an_audio_step_counts_the_audio_branch_and_what_it_reads(model: Any) -> None:
    def counts(num_frames: int) -> list[int]:
        given = inputs(hidden_states=torch.zeros(2, 36, num_frames, 4, 4))
        model.enable_cache(JoVACacheConfig())
        found = []
        for step in range(3):
            with model.cache_context("text", step_index=step, sigma=1 - step / 9, num_inference_steps=9):
                found.append(counted(model, **given))
        model.disable_cache()
        plain = counted(model, **given)
        assert found[:2] == [plain, plain]
        return [plain, found[2]]

    short, long = counts(3), counts(6)
    alone = counted(model, **inputs(hidden_states=None))
    fusion = model.config.get("fusion")
    num_text = 7 if fusion == "joint" else 0
    num_blocks = 1 if fusion == "aligned" else 2
    num_projections = {"cross_linear": 1, "bridge": 2, "aligned": 2}.get(fusion, 0)  # of audio rows, for reading alone
    for num_frames, (_, audio) in ((3, short), (6, long)):
        num_rows = 4 if fusion == "aligned" else num_frames * 4 + num_text  # of the latent frame at its time alone
        attention = 2 * 2 * (11 + num_text) * num_rows * 24  # two products, width 24
        assert audio == alone + 2 * num_blocks * (attention + 2 * num_projections * 11 * 24 * 24)  # B = 2
    assert long[1] - short[1] < 0.1 * (long[0] - short[0])  # what more video costs


@pytest.mark.parametrize("settings", [{}, {"sequential_guidance": True}, {"coupling_scale": 2.0}])
@pytest.mark.parametrize("dtype", [None, torch.float8_e4m3fn, torch.float16])
def test_the_memory_is_what_the_estimate_says(model: Any, dtype: torch.dtype | None, settings: dict[str, Any]) -> None:
    pipeline = build_tiny_pipeline(transformer=model)
    config = JoVACacheConfig(video_interval=2, storage_dtype=dtype)
    model.enable_cache(config)
    hook, held = hook_of(model), []
    generate(
        pipeline,
        **settings,
        callback_on_step_end=lambda *_: held.append(sum(state.num_bytes for state in hook.states.all())) or {},
    )
    texts = (6, 1) if "sequential_guidance" in settings else (6, 6)  # "a dog" and its end; the end alone, or padded
    expected = sum(kept_bytes(model, config, (2, 4, 4), num_text, 1) for num_text in texts)
    velocity_bytes = 2 * 16 * 2 * 4 * 4 * 4  # two of an uncoupled prediction, which keeps nothing else
    assert max(held) == expected + (velocity_bytes if "coupling_scale" in settings else 0)
    assert held[-1] == 0


def test_rows_may_lie_elsewhere_and_in_eight_bits(model: Any) -> None:
    plain = model(**inputs())
    for config, bound in (
        (JoVACacheConfig(storage_device="cpu"), 1e-6),
        (JoVACacheConfig(storage_dtype=torch.float8_e4m3fn), 0.02),
        (JoVACacheConfig(storage_dtype=torch.float8_e5m2, storage_device="cpu"), 0.04),
    ):
        model.enable_cache(config)
        *_, last = walk(model, 9, 3)
        model.disable_cache()
        assert ((last[1] - plain[1]).norm() / plain[1].norm()).item() < bound


def test_eight_bits_hold_numbers_beyond_their_range() -> None:
    large = (
        torch.tensor([1e6, -1e5, 1e-4, 0.0]).view(1, 4, 1, 1).expand(1, 4, 2, 1) * torch.tensor([1.0, 0.0])[:, None]
    )
    stored = StoredTensor.of(large, torch.float8_e4m3fn, None)
    torch.testing.assert_close(stored.like(large), large, atol=1e6 / 448 / 16, rtol=1 / 16)


# 5. Refusals


REFUSED = {
    "interval": ({"video_interval": 0}, r"`video_interval` must be at least 1, got 0"),
    "half": ({"video_interval": 1.5}, r"`video_interval` must be a whole number, got 1\.5"),
    "threshold": ({"audio_threshold": -1.0}, r"`audio_threshold` must be positive and finite, got -1\.0"),
    "nan": ({"video_threshold": float("nan")}, r"`video_threshold` must be positive and finite, got nan"),
    "format": ({"storage_dtype": torch.int8}, r"`storage_dtype` must be a floating-point format .* got torch\.int8"),
    "device": ({"storage_device": "foo"}, r"`storage_device` must be a device of torch, got 'foo'"),
    "no device": ({"storage_device": []}, r"`storage_device` must be a device of torch, got \[\]"),
}


@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_numbers_that_mean_nothing_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        JoVACacheConfig(**arguments)


def test_a_call_that_does_not_say_where_it_stands_is_refused() -> None:
    model = build_transformer()
    model.enable_cache(JoVACacheConfig())
    with pytest.raises(ValueError, match="`cache_context` must tell `step_index`, `sigma` and `num_inference_steps`"):
        model(**inputs())
    with pytest.raises(ValueError, match="Caching has already been enabled"):
        model.enable_cache(JoVACacheConfig())


# 6. The shipped model


@pytest.mark.slow
def test_the_shipped_model_keeps_picture_and_sound() -> None:
    pipeline = JoVAPipeline.from_pretrained("jova-tiny")
    pipeline.scheduler = FlowMatchAudioVideoScheduler.from_config(pipeline.scheduler.config, solver="euler")
    pipeline.set_progress_bar_config(disable=True)

    pipeline.transformer.requires_grad_(False)
    pipeline.vocoder.requires_grad_(False)
    clips = [0, 1, 2, 3]  # single ones may choose another path
    plain = measured(pipeline, clips, 24)
    pipeline.transformer.enable_cache(JoVACacheConfig())
    made = measured(pipeline, clips, 24)
    medians = np.median(nearness(made, plain), axis=0)
    for db, least_db in zip(medians, (27, 26, 15), strict=True):  # 10 below what was measured
        assert db > least_db


@pytest.mark.parametrize(
    ("num_steps", "interval", "is_told"), [(8, 3, True), (23, 2, True), (24, 3, False), (8, 1, False), (3, 3, False)]
)
def test_a_cache_at_few_steps_is_told(
    num_steps: int, interval: int, is_told: bool, log: pytest.LogCaptureFixture
) -> None:
    pipeline = build_tiny_pipeline()
    pipeline.transformer.enable_cache(JoVACacheConfig(video_interval=interval))
    pipeline("a dog", num_frames=5, num_inference_steps=num_steps, output_type="latent", guidance_scale=3.0)
    said = f"the cache of video rows is for many steps, got {num_steps}: clips were measured to stay near at 24 and"
    assert log.text.count(said) == is_told
