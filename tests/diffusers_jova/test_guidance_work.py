"""A step of every kind of guidance does the work that its answers need, for every task, and answers the same."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.sound_cache import operation_counter
from diffusers_jova import FlowMatchAudioVideoScheduler, JoVACacheConfig, PromptEmbeds
from diffusers_jova.conditions import GivenLatents
from diffusers_jova.denoising import JoVADenoiser, TextConditions
from diffusers_jova.guidance import PRESETS, Guidance, required_branches
from diffusers_jova.sample_runs import Coupling
from tests.tiny_pipeline import build_dual_tower, build_tiny_pipeline, build_transformer


ROUND_OFF = {"atol": 2e-5, "rtol": 1e-3}  # sums of guidance in another order, times scales of up to 10
BOTH = ("video", "audio")
TASKS: dict[str, tuple[tuple[str, ...], str | None]] = {  # modalities that take part, the one that is given
    "both": (BOTH, None),
    "given_video": (BOTH, "video"),
    "given_audio": (BOTH, "audio"),
    "audio_alone": (("audio",), None),
    "video_alone": (("video",), None),
}
# Forwards of one sample: of both modalities that read each other, of both apart, of one.
CFG = {"both": (2, 0, 0), "given": (2, 0, 0), "alone": (0, 0, 2)}
DUAL = {"both": (2, 1, 0), "given": (2, 0, 1), "alone": (0, 0, 2)}
MINIMA = {
    **dict.fromkeys(("jova", "waver", "mova", "ovi"), CFG),
    **dict.fromkeys(("mova-dual", "ltx2", "nava"), DUAL),
    "uniavgen": {"both": (1, 1, 0), "given": (1, 0, 1), "alone": (0, 0, 2)},  # its first half; the second is CFG
}


def samples(names: Sequence[str] = BOTH) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"video": (1, 16, 3, 4, 4), "audio": (1, 8, 4)}
    drawn = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return {name: drawn[name] for name in names}


def text() -> TextConditions:
    generator = torch.Generator().manual_seed(1)
    return TextConditions(*(PromptEmbeds(torch.randn(1, 5, 16, generator=generator)) for _ in range(2)))


@pytest.fixture(scope="module")
def transformer() -> Any:
    return build_transformer(in_channels=16).requires_grad_(False)


def denoiser(transformer: Any, guidance: Sequence[Guidance], given: str | None, **options: Any) -> JoVADenoiser:
    scheduler = FlowMatchAudioVideoScheduler(shift=3.0)
    scheduler.set_timesteps(4)
    scheduler.set_begin_index(0)
    clean = {"video": torch.ones(1, 16, 3, 4, 4), "audio": torch.ones(1, 8, 4)}
    axis = {"video": 2, "audio": 1}
    latents = {given: GivenLatents.prefix(clean[given], clean[given].shape[axis[given]], axis[given])} if given else {}
    without_voices = (replace(one, speaker_scale=1.0) for one in guidance)
    return JoVADenoiser(
        transformer=transformer,
        scheduler=scheduler,
        guidance=dict(zip(BOTH, without_voices, strict=True)),
        given=latents,
        channels=None,
        frame_rate=16.0,
        audio_latent_rate_hz=31.25,
        **options,
    )


def counted(function: Any, *args: Any, **kwargs: Any) -> int:
    with operation_counter() as counter, torch.no_grad():
        function(*args, **kwargs)
    return counter.get_total_flops()


def work_of(engine: JoVADenoiser, names: Sequence[str], coupled: Coupling) -> int:
    """Operations of one prediction for one sample with rows of these modalities."""
    inputs, prompt = engine.impose(samples(names)), text().prompt
    times = {
        name: engine.given[name].timesteps(torch.ones(1)) if name in engine.given else torch.ones(1) for name in BOTH
    }
    return counted(
        engine.transformer,
        inputs.get("video"),
        inputs.get("audio"),
        prompt.features,
        times["video"],
        times["audio"],
        frame_rate=16.0,
        audio_latent_rate_hz=31.25,
        coupled=coupled,
    )


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("preset", PRESETS)
def test_the_work_of_a_step_is_the_least_that_its_answers_need(transformer: Any, preset: str, task: str) -> None:
    names, given = TASKS[task]
    engine = denoiser(transformer, PRESETS[preset], given)
    asked = MINIMA[preset][task.split("_")[0] if given else "alone" if len(names) == 1 else "both"]
    lone = [name for name in names if name != given][:1]
    kinds = ((names, True), (names, False), (lone, True))
    least = sum(number * work_of(engine, *kind) for number, kind in zip(asked, kinds, strict=True) if number)
    assert counted(engine.step, 0, engine.impose(samples(names)), text()) == least


def test_the_second_half_of_uniavgens_steps_is_plain_guidance(transformer: Any) -> None:
    engine = denoiser(transformer, PRESETS["uniavgen"], "video")
    engine.scheduler.set_begin_index(3)
    work = counted(engine.step, 3, engine.impose(samples()), text())
    assert work == 2 * work_of(engine, BOTH, True)


def test_a_term_of_one_modality_costs_rows_of_that_one_alone(transformer: Any) -> None:
    video, audio = Guidance(guidance_scale=3.0), Guidance(guidance_scale=3.0, coupling_scale=2.0)
    engine = denoiser(transformer, (video, audio), None)
    work = counted(engine.step, 0, samples(), text())
    assert work == 2 * work_of(engine, BOTH, True) + work_of(engine, ("audio",), True)


def test_a_modality_that_reads_nothing_is_asked_once_for_both_couplings(transformer: Any) -> None:
    """A given picture that does not read the sound, as in UniAVGen, and sound that reads nothing."""
    dual = Guidance(guidance_scale=3.0, coupling_scale=2.0)
    engine = denoiser(transformer, (dual, dual), "video", coupling="a2v", negative_coupling="a2v")
    assert counted(engine.step, 0, engine.impose(samples()), text()) == 2 * work_of(engine, ("audio",), True)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("preset", ["mova-dual", "uniavgen", "ltx2"])
@pytest.mark.parametrize("is_sequential", [False, True])
def test_the_answer_is_that_of_all_predictions_of_both_modalities(
    transformer: Any, preset: str, task: str, is_sequential: bool
) -> None:
    names, given = TASKS[task]
    engine = denoiser(transformer, PRESETS[preset], given, is_sequential=is_sequential)
    noisy = engine.impose(samples(names))
    with torch.no_grad():
        stepped = engine.step(0, noisy, text())
    sigmas = dict(zip(BOTH, (engine.scheduler.sigmas, engine.scheduler.audio_sigmas), strict=True))
    for name in names:
        if name == given:
            assert torch.equal(stepped[name], noisy[name])
            continue
        velocity = fully_guided(engine, noisy, name)
        expected = noisy[name] + (sigmas[name][1] - sigmas[name][0]) * velocity
        torch.testing.assert_close(stepped[name], expected, **ROUND_OFF)


@torch.no_grad()
def fully_guided(engine: JoVADenoiser, noisy: dict[str, Tensor], name: str) -> Tensor:
    """The velocity of the guidance formula as it is written, from forwards of all that takes part."""
    guidance, conditions = engine.guidance[name], text()
    times = dict.fromkeys(BOTH, engine.scheduler.timesteps[:1])
    times |= {kind: part.timesteps(times[kind]) for kind, part in engine.given.items()}
    weights = guidance.weights(0, 4)
    predictions = {}
    for branch in required_branches(weights):
        prompt = conditions.prompt if branch.text else conditions.negative_prompt
        assert prompt is not None
        velocities = engine.transformer(
            noisy.get("video"),
            noisy.get("audio"),
            prompt.features,
            times["video"],
            times["audio"],
            frame_rate=16.0,
            audio_latent_rate_hz=31.25,
            coupled=branch.coupled,
            return_dict=False,
        )
        predictions[branch] = velocities[BOTH.index(name)]
    return guidance.guide(predictions, weights, noisy[name], times[name] / 1000)


def test_a_cache_between_steps_serves_predictions_of_the_sound_alone_beside_others() -> None:
    pipeline = build_tiny_pipeline()
    call: dict[str, Any] = {
        "prompt": "a dog",
        "video": torch.zeros(5, 3, 32, 32),
        "num_frames": 5,
        "num_inference_steps": 6,
        "guidance_scale": 3.0,
        "coupling_scale": 2.0,
        "output_type": "latent",
    }
    plain = pipeline(**call, generator=torch.Generator().manual_seed(0)).audio
    pipeline.transformer.enable_cache(JoVACacheConfig(video_interval=1))
    exact = pipeline(**call, generator=torch.Generator().manual_seed(0)).audio
    assert torch.equal(exact, plain)
    pipeline.transformer.disable_cache()
    pipeline.transformer.enable_cache(JoVACacheConfig(video_interval=3))
    cached = pipeline(**call, generator=torch.Generator().manual_seed(0)).audio
    assert 0 < (cached - plain).norm() / plain.norm() < 0.2


def test_a_reference_goes_with_its_modality() -> None:
    """UniAVGen's image in front of a clip; the prediction without coupling is of the sound alone."""
    model = build_dual_tower("aligned")
    given = GivenLatents.prefix(torch.ones(1, 16, 3, 4, 4), 3, axis=2)
    engine = denoiser(model, PRESETS["uniavgen"], None, references={"video": torch.ones(1, 16, 1, 4, 4)})
    engine = replace(engine, given={"video": given})
    calls: list[dict[str, Any]] = []
    model.register_forward_pre_hook(lambda _, __, call: calls.append(call), with_kwargs=True)
    with torch.no_grad():
        engine.step(0, engine.impose(samples()), text())
    assert [call["hidden_states"] is None for call in calls] == [False, True]
    assert ["reference_hidden_states" in call for call in calls] == [True, False]
