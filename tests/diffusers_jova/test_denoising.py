from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers.hooks import HookRegistry, ModelHook
from diffusers.hooks.hooks import BaseState, CacheContext, StateManager
from torch import Tensor

from diffusers_jova import FlowMatchAudioVideoScheduler, JoVAWanTransformer3DModel, PromptEmbeds
from diffusers_jova.conditions import GivenLatents
from diffusers_jova.denoising import JoVADenoiser, TextConditions
from diffusers_jova.generation_defaults import GenerationDefaults
from tests.tiny_pipeline import build_dual_tower, build_tiny_pipeline, build_transformer, build_wan_transformer


ROUND_OFF = {"atol": 1e-5, "rtol": 1e-4}
BATCH_SIZE = 2


def samples() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "video": torch.randn(BATCH_SIZE, 16, 3, 4, 4, generator=generator),
        "audio": torch.randn(BATCH_SIZE, 8, 4, generator=generator),
    }


def text(num_negative_rows: int = 3) -> TextConditions:
    generator = torch.Generator().manual_seed(1)
    return TextConditions(
        PromptEmbeds(torch.randn(BATCH_SIZE, 5, 16, generator=generator)),
        PromptEmbeds(torch.randn(BATCH_SIZE, num_negative_rows, 16, generator=generator)),
    )


def denoiser(given: dict[str, GivenLatents] | None = None, num_steps: int = 4, **settings: Any) -> JoVADenoiser:
    scheduler = FlowMatchAudioVideoScheduler(shift=3.0)
    scheduler.set_timesteps(num_steps)
    scheduler.set_begin_index(0)
    return JoVADenoiser(
        transformer=build_transformer(in_channels=16),
        scheduler=scheduler,
        guidance=GenerationDefaults(**settings).guidance(),
        given=given or {},
        channels=None,
        frame_rate=16.0,
        audio_latent_rate_hz=31.25,
    )


@torch.no_grad()
def first_step(engine: JoVADenoiser, conditions: TextConditions | None = None) -> dict[str, Tensor]:
    return engine.step(0, engine.impose(samples()), conditions or text())


def record(engine: JoVADenoiser) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = []
    engine.transformer.register_forward_pre_hook(lambda _, __, call: calls.append(call), with_kwargs=True)
    return calls


def test_a_step_moves_along_the_guided_velocity() -> None:
    engine = denoiser(guidance_scale=3.0)
    start, stepped = samples(), first_step(engine)
    arguments = {
        "hidden_states": start["video"],
        "audio_hidden_states": start["audio"],
        "timestep": torch.full((BATCH_SIZE,), 1000.0),
        "frame_rate": 16.0,
        "audio_latent_rate_hz": 31.25,
        "return_dict": False,
    }
    with torch.no_grad():
        with_text, without = (
            engine.transformer(encoder_hidden_states=prompt.features, **arguments)
            for prompt in (text().prompt, text().negative_prompt)
        )
    schedules = (engine.scheduler.sigmas, engine.scheduler.audio_sigmas)
    for index, (name, sigmas) in enumerate(zip(("video", "audio"), schedules, strict=True)):
        step = sigmas[1] - sigmas[0]
        velocity = without[index] + 3 * (with_text[index] - without[index])
        torch.testing.assert_close(stepped[name], start[name] + step * velocity, **ROUND_OFF)


def test_what_is_given_has_timestep_zero_and_does_not_move() -> None:
    clean = torch.randn(BATCH_SIZE, 16, 1, 4, 4)
    engine = denoiser({"video": GivenLatents.prefix(clean, 3, axis=2)}, guidance_scale=1.0)
    calls = record(engine)
    stepped = first_step(engine)
    assert torch.equal(stepped["video"][:, :, :1], clean)
    assert calls[0]["timestep"].tolist() == [[0, 1000, 1000]] * BATCH_SIZE
    assert calls[0]["audio_timestep"].tolist() == [1000] * BATCH_SIZE
    assert not torch.equal(stepped["video"][:, :, 1:], samples()["video"][:, :, 1:])


def test_a_modality_that_is_given_wholly_is_read_but_neither_guided_nor_moved() -> None:
    clean = torch.randn(BATCH_SIZE, 8, 4)
    engine = denoiser({"audio": GivenLatents.prefix(clean, 8, axis=1)}, guidance_scale=1.0, audio_guidance_scale=5.0)
    calls = record(engine)
    stepped = first_step(engine)
    assert torch.equal(stepped["audio"], clean)
    assert [call["timestep"].shape[0] for call in calls] == [BATCH_SIZE], "audio guidance asks for nothing"
    assert not engine.needs_negative_prompt(["video", "audio"])


def test_uncoupled_predictions_lie_in_the_same_batch_as_coupled_ones() -> None:
    engine = denoiser(guidance_scale=3.0, coupling_scale=2.0, uncoupled_text="kept")
    calls = record(engine)
    first_step(engine)
    assert sorted(map(bool, calls[0]["coupled"])) == [False] * 2 + [True] * 4
    assert calls[0]["timestep"].shape[0] == 3 * BATCH_SIZE


def test_texts_of_different_lengths_go_with_their_lengths_and_without_a_mask() -> None:
    found = []
    for num_negative_rows in (5, 3):
        engine = denoiser(guidance_scale=3.0)
        calls = record(engine)
        first_step(engine, text(num_negative_rows))
        assert calls[0]["encoder_attention_mask"] is None
        found.append(calls[0]["text_lengths"])
    assert found == [None, [(5,), (5,), (3,), (3,)]]


def test_a_mask_that_keeps_other_rows_than_the_first_stays_one() -> None:
    engine, whole = denoiser(guidance_scale=3.0), text()
    mask = torch.tensor([[True] * 5, [False] + [True] * 4])  # padded in front
    calls = record(engine)
    first_step(engine, replace(whole, prompt=whole.prompt._replace(mask=mask)))
    assert calls[0]["text_lengths"] is None
    assert calls[0]["encoder_attention_mask"].sum(1).tolist() == [5, 4, 3, 3]


def test_the_audio_branch_reads_its_own_negative_prompt_only_where_there_is_no_prompt() -> None:
    engine = denoiser(guidance_scale=3.0)
    calls = record(engine)
    conditions = text()
    own = PromptEmbeds(torch.full((BATCH_SIZE, 3, 16), 7.0))
    first_step(engine, TextConditions(conditions.prompt, conditions.negative_prompt, own))
    audio = calls[0]["audio_encoder_hidden_states"]
    torch.testing.assert_close(audio[:BATCH_SIZE], conditions.prompt.features)
    torch.testing.assert_close(audio[BATCH_SIZE:, :3], own.features)


@pytest.mark.parametrize(("interval", "num_asked"), [((0.0, 1.0), [2, 2, 2, 2]), ((0.0, 0.5), [2, 2, 1, 1])])
def test_steps_outside_the_guidance_interval_ask_once(interval: tuple[float, float], num_asked: list[int]) -> None:
    engine = denoiser(guidance_scale=3.0, guidance_interval=interval)
    calls = record(engine)
    moved = samples()
    with torch.no_grad():
        for step in range(4):
            moved = engine.step(step, moved, text())
    assert [call["timestep"].shape[0] // BATCH_SIZE for call in calls] == num_asked
    assert engine.needs_negative_prompt(["video", "audio"])


def test_a_perfect_model_lands_on_the_data_in_both_modalities() -> None:
    data = {name: torch.randn_like(x) for name, x in samples().items()}
    noise = samples()
    engine = denoiser(guidance_scale=1.0)

    def perfect(*_: Any) -> tuple[Tensor, Tensor]:
        return tuple(noise[name] - data[name] for name in ("video", "audio"))

    engine.transformer.register_forward_hook(perfect)
    moved = noise
    for step in range(4):
        moved = engine.step(step, moved, text())
    for name in data:
        torch.testing.assert_close(moved[name], data[name], **ROUND_OFF)


class ContextRecorder(ModelHook):
    """Notes what a cache hook is told of every forward."""

    _is_stateful = True

    def __init__(self) -> None:
        super().__init__()
        self.state_manager = StateManager(BaseState)
        self.contexts: list[CacheContext] = []

    def pre_forward(self, module: torch.nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        self.contexts.append(self.state_manager.context)
        return args, kwargs


@pytest.mark.parametrize("build", [build_transformer, build_wan_transformer, build_dual_tower])
@pytest.mark.parametrize("absent", [None, "audio", "video"])
def test_cache_hooks_are_told_the_step_its_noise_level_and_the_number_of_steps(
    build: Callable[..., Any], absent: str | None
) -> None:
    engine = replace(denoiser(audio_guidance_scale=3.0, guidance_scale=3.0), transformer=build(in_channels=16))
    engine.scheduler.register_to_config(audio_shift=1.0)
    engine.scheduler.set_timesteps(4)
    recorder = ContextRecorder()
    HookRegistry.check_if_exists_or_initialize(engine.transformer).register_hook(recorder, "recorder")
    latents, sigmas = samples(), engine.scheduler.sigmas
    if absent is not None:
        del latents[absent]
    if absent == "video":
        sigmas = engine.scheduler.audio_sigmas
    with torch.no_grad():
        for step in range(4):
            latents = replace(engine, is_sequential=step == 3).step(step, latents, text())
    told = [(context.step_index, context.sigma, context.num_inference_steps) for context in recorder.contexts]
    assert told == [(step, float(sigmas[step]), 4) for step in (0, 1, 2, 3, 3)]
    assert len({context.name for context in recorder.contexts}) == 3, "one name for the batch, one per branch alone"


class SkippingTransformer(JoVAWanTransformer3DModel):
    """A transformer that can leave blocks out."""

    def forward(self, *args: Any, skip_layers: Sequence[int] = (), **kwargs: Any) -> Any:
        blocks = self.blocks
        self.blocks = torch.nn.ModuleList(block for index, block in enumerate(blocks) if index not in skip_layers)
        try:
            return super().forward(*args, **kwargs)
        finally:
            self.blocks = blocks


def skipping_transformer() -> SkippingTransformer:
    source = build_wan_transformer()
    transformer = SkippingTransformer.from_config(source.config).eval()
    transformer.load_state_dict(source.state_dict())
    return transformer


@pytest.mark.parametrize("is_sequential", [False, True])
def test_predictions_without_the_prompt_leave_blocks_out_and_the_others_do_not(is_sequential: bool) -> None:
    transformer = skipping_transformer()
    settings: dict[str, Any] = {"guidance_scale": 3.0, "coupling_scale": 2.0}
    plain = replace(denoiser(**settings), transformer=transformer, is_sequential=is_sequential)
    skipping = replace(plain, negative_skip_layer=1)
    names = ["video", "audio"]
    weights = plain.plan(names).weights(plain.guidance, 0, len(plain.scheduler.timesteps))
    timesteps = {name: torch.full((BATCH_SIZE,), 700.0) for name in ("video", "audio")}
    with torch.no_grad():
        own, other, expected = (
            each.predict(each.plan(names), weights, samples(), timesteps, text(), 0)
            for each in (skipping, plain, replace(plain, transformer=fewer_blocks(transformer)))
        )
    for name, predictions in own.items():
        for branch, prediction in predictions.items():
            wanted = (other if branch.text else expected)[name][branch]
            torch.testing.assert_close(prediction, wanted, atol=1e-5, rtol=1e-4)
            if not branch.text:
                assert not torch.allclose(prediction, other[name][branch], atol=1e-3)


def fewer_blocks(transformer: SkippingTransformer) -> JoVAWanTransformer3DModel:
    """The same weights without the second block."""
    shorter = build_wan_transformer(num_layers=1)
    state = transformer.state_dict()
    shorter.load_state_dict({name: state[name] for name in shorter.state_dict()})
    return shorter


def test_blocks_are_left_out_by_a_whole_call_and_only_where_the_transformer_can() -> None:
    call: dict[str, Any] = {"prompt": "a dog", "num_frames": 5, "output_type": "latent", "return_dict": False}
    transformer = skipping_transformer()
    plain, skipping = (
        build_tiny_pipeline(transformer=transformer, negative_skip_layer=layer)(
            **call, generator=torch.Generator().manual_seed(0)
        )
        for layer in (None, 0)
    )
    assert not any(torch.equal(one, other) for one, other in zip(plain, skipping, strict=True))
    with pytest.raises(ValueError, match=r"must be None for a JoVAWanTransformer3DModel, .* got 1; leave it out"):
        build_tiny_pipeline(transformer=build_wan_transformer(), negative_skip_layer=1)
    with pytest.raises(ValueError, match=r"must be one of the 2 blocks of `transformer`, got 11; 0 is"):
        build_tiny_pipeline(transformer=transformer, negative_skip_layer=11)
    with pytest.raises(ValueError, match=r"`negative_skip_layer` must be .*, got -1"):
        build_tiny_pipeline(transformer=transformer, negative_skip_layer=-1)
