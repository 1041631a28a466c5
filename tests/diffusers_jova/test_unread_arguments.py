"""Nothing that a caller gives is dropped without a word."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from diffusers_jova import JoVAPipeline
from tests.tiny_pipeline import DEFAULTS, build_tiny_pipeline


FEW: dict[str, Any] = {"num_inference_steps": 2, "num_frames": 5, "output_type": "latent"}
VIDEO, AUDIO = {"modalities": ["video"]}, {"modalities": ["audio"]}
RATE = 16000


@pytest.fixture(scope="module")
def pipeline() -> JoVAPipeline:
    return build_tiny_pipeline()


UNREAD: list[tuple[dict[str, Any], str, str]] = [
    (VIDEO, "audio_guidance_scale", "no sound is generated"),
    (VIDEO | {"audio_guidance_scale": 4.0}, "audio_sigmas", "no sound is generated"),
    (VIDEO, "audio_guidance_rescale", "no sound is generated"),
    (VIDEO, "audio_apg_threshold", "no sound is generated"),
    (VIDEO, "audio_cfg_zero_star", "no sound is generated"),
    (VIDEO, "audio_zero_init_steps", "no sound is generated"),
    (AUDIO | {"audio_cfg_zero_star": False}, "cfg_zero_star", "no video is generated, and sound has its own"),
    (AUDIO | {"audio_zero_init_steps": 0}, "zero_init_steps", "no video is generated, and sound has its own"),
    ({"guidance_scale": 1.0}, "cfg_zero_star", "no prediction is made without the prompt"),
    ({"guidance_scale": 1.0}, "audio_cfg_zero_star", "no prediction is made without the prompt"),
    (VIDEO, "audio_negative_prompt", "sound takes no part"),
    (VIDEO, "coupling_scale", "video and audio are not guided by each other"),
    (AUDIO, "audio_coupling_scale", "video and audio are not guided by each other"),
    (AUDIO | {"audio_guidance_scale": 4.0}, "guidance_scale", "no video is generated, and sound has its own"),
    (AUDIO | {"audio_guidance_rescale": 0.2}, "guidance_rescale", "no video is generated, and sound has its own"),
    (AUDIO | {"audio_sigmas": [1.0, 0.5]}, "sigmas", "no video is generated, and sound has its own"),
    (AUDIO | {"audio_negative_prompt": "noise"}, "negative_prompt", "no video is generated, and sound has its own"),
    (AUDIO, "apg_threshold", "no video is generated"),
    (AUDIO, "height", "video takes no part"),
    ({"guidance_scale": 1.0}, "negative_prompt", "guidance by text is off"),
    ({"guidance_scale": 1.0}, "negative_prompt_embeds", "guidance by text is off"),
    ({"guidance_scale": 1.0}, "audio_negative_prompt", "guidance by text is off"),
    ({"guidance_scale": 1.0}, "guidance_interval", "guidance by text is off"),
    ({"guidance_scale": 1.0, "audio_guidance_scale": 2.0}, "apg_threshold", "the video is not guided"),
    ({"audio_guidance_scale": 1.0, "guidance_scale": 2.0}, "audio_apg_threshold", "the sound is not guided"),
    ({"audio_guidance_scale": 1.0, "guidance_scale": 2.0}, "audio_guidance_rescale", "the sound is not guided"),
    ({"guidance_scale": 1.0}, "guidance_rescale", "guidance is off"),
    ({}, "coupling_interval", "video and audio are not guided by each other"),
    ({}, "uncoupled_text", "video and audio are not guided by each other"),
    ({}, "audio_speaker_scale", "no `speaker_embeds` are given"),
    ({}, "apg_eta", "no `apg_threshold` is given"),
    ({"apg_threshold": 1.0, "guidance_scale": 1.0}, "apg_eta", "guidance is off"),
    (VIDEO | {"audio_apg_threshold": 3.0}, "apg_eta", "no `apg_threshold` is given"),
    ({}, "audio_sampling_rate", "no `audio` is given"),
    ({}, "fit", "no picture or `video` is given"),
    ({}, "callback_on_step_end_tensor_inputs", "no `callback_on_step_end` is given"),
    ({}, "attention_kwargs", "no adapter is active"),
    ({"audio": np.zeros(RATE * 5 // 16, np.float32), "audio_sampling_rate": RATE}, "audio_latents", "no sound is g"),
]
VALUES: dict[str, Any] = {
    "audio_guidance_scale": 5.0,
    "audio_sigmas": [1.0, 0.5],
    "sigmas": [1.0, 0.5],
    "audio_guidance_rescale": 0.5,
    "guidance_rescale": 0.5,
    "audio_apg_threshold": 3.0,
    "apg_threshold": 3.0,
    "apg_eta": 0.5,
    "cfg_zero_star": True,
    "audio_cfg_zero_star": True,
    "zero_init_steps": 1,
    "audio_zero_init_steps": 1,
    "negative_prompt": "ugly",
    "audio_negative_prompt": "ugly",
    "negative_prompt_embeds": torch.zeros(1, 3, 16),
    "coupling_scale": 2.0,
    "audio_coupling_scale": 2.0,
    "guidance_scale": 5.0,
    "height": 48,
    "guidance_interval": (0.0, 0.5),
    "coupling_interval": (0.0, 0.5),
    "uncoupled_text": "kept",
    "audio_speaker_scale": 2.0,
    "audio_sampling_rate": 8000,
    "fit": "contain",
    "callback_on_step_end_tensor_inputs": ["audio_latents"],
    "audio_latents": torch.zeros(1, 10, 4),
    "attention_kwargs": {"scale": 0.5},
}


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if "not used" in record.message]


@pytest.mark.parametrize(("call", "name", "reason"), UNREAD, ids=[f"{name}-{why}" for _, name, why in UNREAD])
def test_an_argument_that_nothing_reads_is_named_in_one_line_with_the_reason(
    pipeline: JoVAPipeline, caplog: pytest.LogCaptureFixture, call: dict[str, Any], name: str, reason: str
) -> None:
    def generate(**more: Any) -> Any:
        generator = torch.Generator().manual_seed(0)
        return pipeline("a dog", generator=generator, return_dict=False, **FEW, **call, **more)

    plain = generate()
    assert not [said for said in warnings_of(caplog) if f"`{name}`" in said]
    caplog.clear()
    told = generate(**{name: VALUES[name]})
    (said,) = [said for said in warnings_of(caplog) if f"`{name}`" in said]
    assert reason in said
    assert "\n" not in said
    for one, other in zip(plain, told, strict=True):
        assert one is other is None or torch.equal(one, other), "it is read, after all"


READ: list[dict[str, Any]] = [
    {"negative_prompt": "ugly", "audio_negative_prompt": "noise", "guidance_interval": (0.0, 0.5)},
    {"guidance_scale": 1.0, "audio_guidance_scale": 3.0, "negative_prompt": "ugly"},
    {"guidance_scale": 1.0, "coupling_scale": 2.0, "coupling_interval": (0.0, 0.5), "negative_prompt": "ugly"},
    AUDIO | {"guidance_scale": 5.0, "negative_prompt": "noise", "guidance_rescale": 0.5, "sigmas": [1.0, 0.5]},
    {"guidance_scale": 1.0, "zero_init_steps": 1, "audio_zero_init_steps": 0, "cfg_zero_star": False},
    AUDIO | {"cfg_zero_star": True, "zero_init_steps": 1},
    VIDEO
    | {"height": 48, "apg_threshold": 3.0, "apg_eta": 0.5, "fit": "contain", "image": Image.new("RGB", (64, 32))},
    # what says that something is off agrees with its being off
    VIDEO | {"audio_guidance_scale": 1.0, "coupling_scale": 1.0, "audio_guidance_rescale": 0.0},
    {"guidance_scale": 1.0, "negative_prompt": "", "guidance_interval": (0.0, 1.0), "fit": "cover"},
    {"attention_kwargs": {"scale": 1.0}},
]


@pytest.mark.parametrize("call", READ)
def test_what_is_read_or_off_anyway_is_not_named(
    pipeline: JoVAPipeline, caplog: pytest.LogCaptureFixture, call: dict[str, Any]
) -> None:
    pipeline("a dog", **(FEW | call))
    assert warnings_of(caplog) == []


REFUSED: list[tuple[dict[str, Any], str]] = [
    (AUDIO | {"latents": torch.zeros(1, 16, 2, 4, 4)}, "`latents` must be None where `modalities` lacks 'video'"),
    (
        VIDEO | {"audio_latents": torch.zeros(1, 10, 4)},
        "`audio_latents` must be None where `modalities` lacks 'audio'",
    ),
    ({"max_sequence_length": 0}, "`max_sequence_length` must be at least 1, got 0"),
    ({"attention_kwargs": {"scal": 0.5}}, r"`attention_kwargs` must have no entries but `scale`, got \['scal'\]"),
    ({"attention_kwargs": {"scale": "1"}}, r"`attention_kwargs\['scale'\]` must be a number, got '1'"),
    ({"attention_kwargs": {"scale": float("nan")}}, r"`attention_kwargs\['scale'\]` must be finite, got nan"),
    ({"attention_kwargs": 0.5}, "`attention_kwargs` must be a dict, got 0.5"),
    ({"generator": 3}, "`generator` must be a torch.Generator or a list of them, got 3; "),
    ({"generator": [3]}, r"`generator` must be a torch.Generator or a list of them, got \[3\]; "),
]


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[message[:50] for _, message in REFUSED])
def test_what_cannot_be_read_is_refused_by_name(pipeline: JoVAPipeline, call: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pipeline("a dog", **(FEW | call))


def test_the_transformers_refuse_attention_arguments_that_they_do_not_read(pipeline: JoVAPipeline) -> None:
    arguments = {
        "hidden_states": torch.zeros(1, 36, 2, 4, 4),
        "audio_hidden_states": None,
        "encoder_hidden_states": torch.zeros(1, 3, 16),
        "timestep": torch.zeros(1),
        "frame_rate": 16.0,
        "audio_latent_rate_hz": 31.25,
    }
    with pytest.raises(ValueError, match=r"`attention_kwargs` must have no entries but `scale`, got \['ip_adapter'\]"):
        pipeline.transformer(**arguments, attention_kwargs={"scale": 1.0, "ip_adapter": 3})


def test_features_that_a_callback_takes_away_are_refused(pipeline: JoVAPipeline) -> None:
    with pytest.raises(ValueError, match=r"`prompt_embeds` of a callback must stay \[1, 6, 16\], got None"):
        pipeline("a dog", callback_on_step_end=lambda *_: {"prompt_embeds": None}, **FEW)


@pytest.mark.parametrize("value", ["3", None, float("nan"), True])
def test_a_scale_that_a_callback_sets_must_be_a_number(pipeline: JoVAPipeline, value: Any) -> None:
    def change(pipe: Any, *_: Any) -> None:
        pipe._guidance_scale = value

    with pytest.raises(ValueError, match=r"`guidance_scale` must be (a number|finite), got"):
        pipeline("a dog", callback_on_step_end=change, **FEW)


def test_no_audio_scale_set_by_a_callback_follows_video_as_none_in_a_call_does(pipeline: JoVAPipeline) -> None:
    def follow(pipe: Any, *_: Any) -> None:
        pipe._audio_guidance_scale = None

    def generate(**arguments: Any) -> Any:
        generator = torch.Generator().manual_seed(0)
        return pipeline("a dog", generator=generator, guidance_scale=5.0, return_dict=False, **(FEW | arguments))

    alike = generate(audio_guidance_scale=2.0, callback_on_step_end=follow)
    apart = generate(audio_guidance_scale=2.0)
    assert not torch.allclose(alike[1], apart[1], atol=1e-3)
    assert pipeline.audio_guidance_scale == 2.0, "the call without the callback came last"
    same = generate(
        audio_guidance_scale=2.0, callback_on_step_end=lambda pipe, *_: setattr(pipe, "_audio_guidance_scale", 5.0)
    )
    for one, other in zip(alike, same, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("typo", ["latent", "audio_latent", "prompt_embed", "guidance_scale"])
def test_a_misspelt_answer_of_a_callback_is_refused(pipeline: JoVAPipeline, typo: str) -> None:
    with pytest.raises(ValueError, match=rf"`callback_on_step_end` must return tensors of .*, got \['{typo}'\]"):
        pipeline("a dog", callback_on_step_end=lambda *_: {typo: torch.zeros(1)}, **FEW)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            {"guidance_scale": 0},
            ["`guidance_scale` of 0 leaves the prompt out; without guidance it is 1, not 0"],
        ),
        ({"guidance_scale": 0.5}, ["`guidance_scale` of 0.5 weakens the prompt; without guidance it is 1"]),
        ({"audio_guidance_scale": -1.0}, ["`audio_guidance_scale` of -1 avoids the prompt; without guidance it is 1"]),
        ({"guidance_scale": 1.0}, []),
        (AUDIO | {"guidance_scale": 0.0, "audio_guidance_scale": 2.0}, []),  # told to be unread
    ],
)
def test_a_scale_that_takes_from_the_prompt_is_told(
    arguments: dict[str, Any], said: list[str], pipeline: JoVAPipeline, log: pytest.LogCaptureFixture
) -> None:
    pipeline("a dog", **FEW, **arguments)
    lines = [record.getMessage() for record in log.records if "without guidance it is 1" in record.getMessage()]
    assert len(lines) == len(said)
    assert all(line.startswith(start) for line, start in zip(lines, said, strict=True))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"sigmas": [0.5, 0.2]}, ["`sigmas` begin at 0.5, and what is drawn is noise of level 1: give `latents`"]),
        ({"audio_sigmas": [0.25, 0.2]}, ["`audio_sigmas` begin at 0.25, and what is drawn is noise of level 1"]),
        ({"sigmas": [0.9995, 0.5]}, []),
        ({"sigmas": [0.5, 0.2], "latents": torch.zeros(1, 16, 2, 4, 4), "audio_sigmas": [1.0, 0.5]}, []),
        (AUDIO | {"sigmas": [0.5, 0.2], "audio_sigmas": [1.0, 0.5]}, []),  # told to be unread
    ],
)
def test_levels_that_begin_below_the_noise_are_told(
    arguments: dict[str, Any], said: list[str], pipeline: JoVAPipeline, log: pytest.LogCaptureFixture
) -> None:
    pipeline("a dog", **FEW, **arguments)
    lines = [record.getMessage() for record in log.records if "what is drawn is noise" in record.getMessage()]
    assert len(lines) == len(said)
    assert all(line.startswith(start) for line, start in zip(lines, said, strict=True))


@pytest.mark.parametrize("kind", ["guidance", "coupling"])
def test_an_interval_that_no_step_lies_within_is_told(
    pipeline: JoVAPipeline, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    pipeline("a dog", **FEW, **{f"{kind}_scale": 3.0, f"{kind}_interval": (0.0, 0.5)})
    assert not warnings_of(caplog)
    pipeline("a dog", **FEW, **{f"{kind}_scale": 3.0, f"{kind}_interval": (0.4, 0.6)})
    (said,) = warnings_of(caplog)
    assert f"`{kind}_scale`, `{kind}_interval` are not used: none of the steps lies within `{kind}_interval`" in said


@pytest.mark.parametrize(
    ("arguments", "is_told"),
    [
        ({"guidance_scale": 1}, True),
        ({"guidance_scale": 1.0, "audio_guidance_scale": 2.0}, True),
        ({"guidance_scale": 1.0, "coupling_scale": 1.5}, False),
        ({"guidance_scale": 1.0, "coupling_scale": 1.0}, False),
        ({"guidance_scale": 2.0}, False),
        ({"guidance_scale": 1.0, **VIDEO}, False),  # which nothing couples
        ({}, False),
    ],
)
def test_guidance_by_coupling_that_stays_without_that_by_text_is_told(
    arguments: dict[str, Any], is_told: bool, log: pytest.LogCaptureFixture
) -> None:
    pipeline = build_tiny_pipeline(defaults={**DEFAULTS, "coupling_scale": 1.5})
    pipeline("a dog", **FEW, **arguments)
    assert ("that by coupling stays at 1.5" in log.text) == is_told
