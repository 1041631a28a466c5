import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import PIL.Image
import pytest
import torch
from accelerate import cpu_offload
from diffusers import DiffusionPipeline, UniPCMultistepScheduler
from torch import Tensor

from diffusers_jova import JoVAPipeline, JoVAPrompt, PromptEmbeds
from tests.tiny_pipeline import (
    NAVA_SHARING,
    build_text_encoder,
    build_tiny_pipeline,
    build_tokenizer,
    build_transformer,
    build_wan_transformer,
)


ROUND_OFF = {"atol": 1e-4, "rtol": 1e-3}  # float32 through two steps of a random network with guidance
RATE = 16000


TRANSFORMERS = {
    "jova": build_transformer,
    "wan": partial(build_wan_transformer, in_channels=36),
    "nava": partial(build_wan_transformer, **{"in_channels": 36, **NAVA_SHARING}),
}
Build = Callable[..., Any]


@pytest.fixture(scope="module", params=TRANSFORMERS)
def build(request: pytest.FixtureRequest) -> Build:
    """Builds a transformer of each kind: the same pipeline runs them all."""
    return TRANSFORMERS[request.param]


@pytest.fixture(scope="module")
def pipeline(build: Build) -> JoVAPipeline:
    return build_tiny_pipeline(transformer=build())


@pytest.fixture
def forwards(pipeline: JoVAPipeline) -> Any:
    """Batch sizes of the forwards of the transformer, as they happen."""
    sizes: list[int] = []
    hook = pipeline.transformer.register_forward_pre_hook(
        lambda _, __, arguments: sizes.append(arguments["timestep"].shape[0]), with_kwargs=True
    )
    yield sizes
    hook.remove()


def seed(value: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(value)


def generate(pipeline: JoVAPipeline, prompt: Any = "a dog", **arguments: Any) -> tuple[Any, Any]:
    arguments = {"generator": seed(), "output_type": "latent", "num_frames": 5, **arguments}
    if "audio" in arguments:
        arguments = {"audio_sampling_rate": RATE, **arguments}
    return pipeline(prompt, return_dict=False, **arguments)


def sound(num_samples: int) -> np.ndarray:
    return 0.5 * np.sin(np.arange(num_samples, dtype=np.float32) / 20)


def picture(value: int = 0) -> PIL.Image.Image:
    return PIL.Image.fromarray(np.random.default_rng(value).integers(0, 255, (32, 32, 3), dtype=np.uint8))


def assert_same(actual: tuple[Any, Any], expected: tuple[Any, Any], **tolerance: float) -> None:
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, **(tolerance or ROUND_OFF))


def differ(one: Tensor, other: Tensor) -> bool:
    return not torch.allclose(one, other, atol=1e-3)


# Seeds and batches


def test_a_seed_reproduces_a_clip_and_another_does_not(pipeline: JoVAPipeline) -> None:
    first = generate(pipeline)
    assert_same(generate(pipeline), first, atol=0, rtol=0)
    other = generate(pipeline, generator=seed(1))
    assert differ(first[0], other[0])
    assert differ(first[1], other[1])


def test_a_clip_does_not_depend_on_its_batch(pipeline: JoVAPipeline) -> None:
    prompts = ["a dog", JoVAPrompt(video="a man speaks", transcript="well, hello")]
    batch = generate(pipeline, prompts, generator=[seed(3), seed(4)])
    for index, prompt in enumerate(prompts):
        alone = generate(pipeline, prompt, generator=[seed(3 + index)])
        assert_same(tuple(part[index : index + 1] for part in batch), alone)


def test_the_first_clip_of_one_generator_is_that_of_a_call_of_its_own(pipeline: JoVAPipeline) -> None:
    few: dict[str, Any] = {"num_inference_steps": 2, "output_type": "latent", "return_dict": False}
    alone = pipeline("a dog", generator=torch.Generator().manual_seed(5), **few)
    both = pipeline(["a dog", "a dog"], generator=torch.Generator().manual_seed(5), **few)
    for one, several in zip(alone, both, strict=True):
        torch.testing.assert_close(several[:1], one, atol=1e-4, rtol=1e-4)  # a batch sums in another order
        assert (several[1] - several[0]).abs().max() > 0.1, "the second clip has the noise of the first"


def test_several_clips_per_prompt_lie_beside_each_other(pipeline: JoVAPipeline) -> None:
    seeds = [seed(value) for value in range(4)]
    clips = generate(pipeline, ["a dog", "a cat"], num_videos_per_prompt=2, generator=seeds)
    assert clips[0].shape[0] == 4
    alone = generate(pipeline, "a cat", generator=[seed(2)])
    assert_same(tuple(part[2:3] for part in clips), alone)


def test_given_latents_take_the_place_of_noise(pipeline: JoVAPipeline) -> None:
    generator = seed()
    video, audio = torch.randn(1, 16, 2, 4, 4, generator=generator), torch.randn(1, 10, 4, generator=generator)
    assert_same(generate(pipeline, latents=video, audio_latents=audio), generate(pipeline))
    with pytest.raises(
        ValueError, match=r"`latents` must be \[1, 16, 2, 4, 4\] for this clip, got \[1, 16, 2, 4, 5\]"
    ):
        generate(pipeline, latents=torch.zeros(1, 16, 2, 4, 5))


# Text and guidance


def test_the_prompt_moves_both_modalities(pipeline: JoVAPipeline) -> None:
    dog, cat = generate(pipeline, "a dog"), generate(pipeline, "a cat")
    assert differ(dog[0], cat[0])
    assert differ(dog[1], cat[1])


def test_encoded_prompts_give_what_their_texts_give(pipeline: JoVAPipeline) -> None:
    embeds, negative, audio_negative = pipeline.encode_prompt("a dog", "blurry", "silence")
    assert negative is not None
    encoded = generate(
        pipeline,
        None,
        prompt_embeds=embeds,
        negative_prompt_embeds=negative,
        audio_negative_prompt_embeds=audio_negative,
    )
    texts = generate(pipeline, negative_prompt="blurry", audio_negative_prompt="silence")
    assert_same(encoded, texts)
    assert differ(texts[1], generate(pipeline, negative_prompt="blurry")[1])


def test_a_tensor_stands_for_the_features_of_a_prompt(pipeline: JoVAPipeline) -> None:
    features = torch.randn(1, 5, 16)
    tensor = generate(pipeline, None, prompt_embeds=features)
    assert_same(tensor, generate(pipeline, None, prompt_embeds=PromptEmbeds(features)))


def test_a_second_text_encoder_is_read() -> None:
    pipeline = build_tiny_pipeline(
        transformer=build_transformer(text_dim_2=16),
        tokenizer_2=build_tokenizer(),
        text_encoder_2=build_text_encoder(),
    )
    plain = generate(pipeline)
    with torch.no_grad():
        pipeline.text_encoder_2.encoder.final_layer_norm.weight.mul_(2)
    assert differ(generate(pipeline)[0], plain[0])


@pytest.mark.parametrize("scales", [{}, {"coupling_scale": 2.0}, {"coupling_scale": 2.0, "uncoupled_text": "kept"}])
def test_guidance_in_one_batch_equals_guidance_in_sequence(
    pipeline: JoVAPipeline, forwards: list[int], scales: dict[str, Any]
) -> None:
    batched = generate(pipeline, negative_prompt="a longer negative prompt", **scales)
    num_branches = forwards[0]
    assert forwards == [num_branches] * 2
    forwards.clear()
    sequential = generate(pipeline, negative_prompt="a longer negative prompt", sequential_guidance=True, **scales)
    assert forwards == [1] * 2 * num_branches
    assert_same(sequential, batched)


def test_a_scale_of_one_asks_for_one_prediction_per_step(pipeline: JoVAPipeline, forwards: list[int]) -> None:
    generate(pipeline, guidance_scale=1.0, num_inference_steps=3)
    assert forwards == [1, 1, 1]
    assert not pipeline.do_classifier_free_guidance


def test_audio_may_be_guided_where_video_is_not(pipeline: JoVAPipeline, forwards: list[int]) -> None:
    plain = generate(pipeline, guidance_scale=1.0, num_inference_steps=1)
    guided = generate(pipeline, guidance_scale=1.0, audio_guidance_scale=5.0, num_inference_steps=1)
    assert forwards == [1, 2]
    torch.testing.assert_close(guided[0], plain[0], **ROUND_OFF)
    assert differ(guided[1], plain[1])


def test_a_guidance_scale_of_zero_follows_the_negative_prompt(pipeline: JoVAPipeline) -> None:
    zero = generate(pipeline, "a dog", negative_prompt="a cat", guidance_scale=0.0)
    assert_same(zero, generate(pipeline, "a cat", guidance_scale=1.0))


# Tasks


def test_a_reference_image_moves_the_clip(pipeline: JoVAPipeline) -> None:
    plain, one, other = generate(pipeline), generate(pipeline, image=picture(0)), generate(pipeline, image=picture(1))
    assert differ(plain[0], one[0])
    assert differ(one[0], other[0])
    pair = generate(pipeline, ["a dog"] * 2, image=[picture(0), picture(1)], generator=[seed(), seed()])
    assert_same(tuple(part[1:] for part in pair), generate(pipeline, image=picture(1), generator=[seed()]))


def test_a_model_without_condition_channels_keeps_the_image_as_its_clean_first_latent(build: Build) -> None:
    pipeline = build_tiny_pipeline(transformer=build(in_channels=16))
    video, _ = generate(pipeline, image=picture())
    pixels = pipeline.video_processor.preprocess(picture(), 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(video[:, :, :1], pipeline.video_codec.encode(pixels[:, :, None]))


def test_given_sound_comes_back_and_drives_the_video(pipeline: JoVAPipeline) -> None:
    num_samples = RATE * 5 // 16  # as long as five frames
    frames, waveform = generate(pipeline, audio=sound(num_samples), num_frames=None, output_type="pt")
    assert frames.shape == (1, 5, 3, 32, 32)
    np.testing.assert_allclose(waveform[0, 0], sound(num_samples))
    louder = generate(pipeline, audio=1.5 * sound(num_samples))
    assert differ(louder[0], generate(pipeline, audio=sound(num_samples))[0])


def test_given_sound_of_another_rate_is_resampled(pipeline: JoVAPipeline) -> None:
    _, waveform = generate(
        pipeline, audio=sound(2 * RATE * 5 // 16), audio_sampling_rate=2 * RATE, num_frames=None, output_type="np"
    )
    assert waveform.shape == (1, 1, RATE * 5 // 16)


@pytest.mark.parametrize("rate", [0, -RATE, 0.5])
@pytest.mark.parametrize("num_frames", [None, 5])
def test_a_sampling_rate_that_no_sound_has_is_refused(
    pipeline: JoVAPipeline, rate: float, num_frames: int | None
) -> None:
    with pytest.raises(ValueError, match=f"`audio_sampling_rate` must be a (positive )?whole number.*, got {rate}; "):
        generate(pipeline, audio=sound(RATE), audio_sampling_rate=rate, num_frames=num_frames)


def test_given_video_comes_back_and_gets_a_sound(pipeline: JoVAPipeline) -> None:
    frames = [picture(index) for index in range(5)]
    returned, waveform = generate(pipeline, video=frames, num_frames=None, output_type="np")
    np.testing.assert_allclose(returned[0], np.stack([np.asarray(frame) / 255 for frame in frames]), atol=1e-6)
    assert waveform.shape == (1, 1, RATE * 5 // 16)
    other = generate(pipeline, video=frames[::-1])
    assert differ(other[1], generate(pipeline, video=frames)[1])


def test_continuation_keeps_the_latents_of_the_prefix_exactly_in_every_step(pipeline: JoVAPipeline) -> None:
    frames = [picture(index) for index in range(5)]
    prefix = pipeline.video_processor.preprocess_video(frames, height=32, width=32)
    with torch.no_grad():
        clean = pipeline.video_codec.encode(prefix)
    seen = []
    video, audio = generate(
        pipeline,
        video=frames,
        audio=sound(RATE * 5 // 16),
        num_frames=9,
        callback_on_step_end=lambda *step: seen.append(step[3]["latents"][:, :, :2]) or {},
    )
    assert len(seen) == 2
    assert all(torch.equal(part, clean) for part in (*seen, video[:, :, :2]))
    assert video.shape[2] == 3
    num_given = pipeline.audio_codec.num_latents_for(5 / 16)
    longer = generate(pipeline, video=frames, audio=sound(RATE * 5 // 16), num_frames=9, generator=seed(1))
    torch.testing.assert_close(audio[:, : num_given - 1], longer[1][:, : num_given - 1])
    assert differ(audio[:, num_given + 1 :], longer[1][:, num_given + 1 :])


@pytest.mark.parametrize(("modality", "absent"), [("audio", 0), ("video", 1)])
def test_one_modality_alone_leaves_the_other_out(
    pipeline: JoVAPipeline, forwards: list[int], modality: str, absent: int
) -> None:
    output = generate(pipeline, modalities=[modality], coupling_scale=3.0)
    assert output[absent] is None
    assert output[1 - absent] is not None
    assert forwards == [2, 2], "there is no coupling to guide"


# Outputs, steps, callbacks


@pytest.mark.parametrize(
    ("output_type", "frames_shape", "audio_type"),
    [("np", (1, 5, 32, 32, 3), np.ndarray), ("pt", (1, 5, 3, 32, 32), Tensor), ("latent", (1, 16, 2, 4, 4), Tensor)],
)
def test_output_types_have_their_shapes(
    pipeline: JoVAPipeline, output_type: str, frames_shape: tuple[int, ...], audio_type: type
) -> None:
    output = pipeline("a dog", output_type=output_type, num_frames=5)
    assert output.frames.shape == frames_shape
    assert isinstance(output.audio, audio_type)
    assert output.audio.shape == ((1, 10, 4) if output_type == "latent" else (1, 1, RATE * 5 // 16))
    assert (output.frame_rate, output.sampling_rate) == (16, RATE)


def test_pil_frames_are_written_with_their_sound(pipeline: JoVAPipeline, tmp_path: Path) -> None:
    output = pipeline("a dog", num_frames=5)
    assert [frame.size for frame in output.frames[0]] == [(32, 32)] * 5
    output.save(tmp_path / "clip.mp4")
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 5
        assert container.streams.audio[0].sample_rate == RATE


def test_custom_sigmas_are_walked_as_given(pipeline: JoVAPipeline) -> None:
    times: list[float] = []
    arguments = {"callback_on_step_end": lambda *step: times.append(float(step[2])) or {}}
    generate(pipeline, sigmas=[1.0, 0.7, 0.3], **arguments)
    assert times == pytest.approx([1000, 700, 300])
    assert pipeline.num_timesteps == 3


def test_a_scheduler_of_diffusers_serves_both_modalities() -> None:
    pipeline = build_tiny_pipeline()
    euler = generate(pipeline, num_inference_steps=4)
    pipeline.scheduler = UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction")
    unipc = generate(pipeline, num_inference_steps=4)
    assert differ(unipc[0], euler[0])
    assert differ(unipc[1], euler[1])


def test_a_callback_reads_and_replaces_tensors(pipeline: JoVAPipeline) -> None:
    def silence(_: Any, step: int, __: Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        assert set(tensors) == set(pipeline._callback_tensor_inputs)
        return {"audio_latents": torch.zeros_like(tensors["audio_latents"])} if step == 1 else {}

    names = pipeline._callback_tensor_inputs
    _, audio = generate(pipeline, callback_on_step_end=silence, callback_on_step_end_tensor_inputs=names)
    assert not audio.any()


def test_a_callback_that_returns_nothing_only_looks_on(pipeline: JoVAPipeline) -> None:
    assert_same(generate(pipeline, callback_on_step_end=lambda *_: None), generate(pipeline))


def test_a_callback_may_change_the_guidance_scale(pipeline: JoVAPipeline, forwards: list[int]) -> None:
    def switch_off(pipe: Any, *_: Any) -> dict[str, Any]:
        pipe._guidance_scale = 1.0
        return {}

    generate(pipeline, callback_on_step_end=switch_off)
    assert forwards == [2, 1]

    def switch_on(pipe: Any, *_: Any) -> dict[str, Any]:
        pipe._guidance_scale = 3.0
        return {}

    with pytest.raises(ValueError, match="`guidance_scale` must differ from 1 when a call begins"):
        generate(pipeline, guidance_scale=1.0, callback_on_step_end=switch_on)


def test_an_interrupt_skips_the_remaining_steps(pipeline: JoVAPipeline, forwards: list[int]) -> None:
    def stop(pipe: Any, *_: Any) -> dict[str, Any]:
        pipe._interrupt = True
        return {}

    generate(pipeline, callback_on_step_end=stop, num_inference_steps=5, guidance_scale=1.0)
    assert forwards == [1]
    generate(pipeline, guidance_scale=1.0)
    assert len(forwards) == 3, "the next call starts anew"


# Wrong inputs


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"prompt": None}, "exactly one of `prompt` and `prompt_embeds` must be given"),
    ({"prompt_embeds": torch.zeros(1, 2, 16)}, "exactly one of `prompt` and `prompt_embeds` must be given"),
    ({"prompt": 3}, "`prompt` must be a str, a JoVAPrompt or a list of them, got 3"),
    ({"prompt": []}, r"`prompt` must be a str, a JoVAPrompt or a list of them, got \[\]"),
    ({"negative_prompt": [3]}, r"`negative_prompt` must be a str, .* got \[3\]"),
    ({"negative_prompt": ["a", "b"]}, "`negative_prompt` must be one for all or one per prompt, got 2 for 1"),
    (
        {"negative_prompt": "a", "negative_prompt_embeds": torch.zeros(1, 2, 16)},
        "`negative_prompt` and `negative_prompt_embeds` must not both be given",
    ),
    ({"audio_negative_prompt": 3}, "`audio_negative_prompt` must be a str, a JoVAPrompt or a list of them, got 3"),
    (
        {"audio_negative_prompt_embeds": torch.zeros(2, 2, 16)},
        "`audio_negative_prompt_embeds` must be one per prompt, got 2 for 1",
    ),
    ({"num_videos_per_prompt": 0}, "`num_videos_per_prompt` must be at least 1, got 0; use 1"),
    ({"output_type": "mp4"}, r"`output_type` must be one of \['pil', 'np', 'pt', 'latent'\], got 'mp4'; use"),
    (
        {"callback_on_step_end_tensor_inputs": ["x"]},
        r"`callback_on_step_end_tensor_inputs` must be in .*\['x'\]; leave",
    ),
    ({"modalities": []}, r"`modalities` must be a choice of \['video', 'audio'\], got \[\]"),
    ({"modalities": ["text"]}, r"`modalities` must be a choice of .*, got \['text'\]"),
    ({"modalities": ["audio"], "image": picture()}, "`image` must be None where `modalities` lacks 'video'"),
    ({"modalities": ["video"], "audio": sound(9)}, "`audio` must be None where `modalities` lacks 'audio'"),
    ({"image": picture(), "video": [picture()]}, "`image` and `video` must not both be given"),
    ({"height": 40}, "`height` must be a positive multiple of 16, got 40; use 32"),
    ({"width": 0}, "`width` must be a positive multiple of 16, got 0; use 16"),
    ({"num_frames": 34}, r"`num_frames` must be 4k \+ 1 .*, got 34; use 33 or 37"),
    ({"num_frames": 0}, r"`num_frames` must be 4k \+ 1 .*, got 0; use 1 or 5"),
    ({"frame_rate": 0.0}, "`frame_rate` must be positive, from 0.001 to 1000, got 0.0; use 16 or 24"),
    ({"video": [picture()] * 5, "modalities": ["video"]}, "something must be left to generate, got given video for"),
    ({"guidance_scale": float("nan")}, "`guidance_scale` must be finite, got nan"),
    ({"audio": sound(RATE)}, r"`audio` must last at most as long as the clip, 0.312 s, got 1.000 s; cut it"),
    ({"audio": np.zeros((99, 2))}, r"`audio` must have its samples last, got \[99, 2\]; transpose it"),
    ({"audio": sound(99), "audio_sampling_rate": None}, "`audio_sampling_rate` must be given with an array of sound"),
    ({"audio": np.full(99, np.nan)}, "`audio` must be finite, got NaN or infinity"),
    (
        {"video": "clip.mp4"},
        r"`video` must be an array, .* got the name 'clip.mp4'; read .*, by `media.read_video\('clip.mp4'\)`",
    ),
    ({"audio": "voice.wav"}, r"got the name 'voice.wav'; read the file first, by `media.read_audio\('voice.wav'\)`"),
    ({"image": "portrait.jpg"}, r"got the name 'portrait.jpg'; .* by `media.read_image\('portrait.jpg'\)`"),
    ({"image": [Path("a.png")]}, r"got the name 'a.png'; read the file first, by `media.read_image"),
    ({"prompt": "a\ud800"}, r"`prompt` must be text of whole characters, got 'a\\ud800'; half of a surrogate pair"),
    ({"prompt": JoVAPrompt(transcript="a\udc00")}, "`prompt` must be text of whole characters"),
    ({"negative_prompt": "\ud83d"}, "`negative_prompt` must be text of whole characters"),
    ({"prompt": JoVAPrompt(video=5)}, "`prompt` must be text, got 5"),
    ({"frame_rate": 1e-5}, "`frame_rate` must be positive, from 0.001 to 1000, got 1e-05; use 16 or 24"),
    ({"frame_rate": 1e9}, "`frame_rate` must be positive, from 0.001 to 1000, got 1000000000.0"),
    ({"video": np.zeros((5, 32, 32))}, r"`video` must have the shape .*, got \[5, 32, 32\]"),
    (
        {"prompt": ["a"] * 3, "image": [picture()] * 2},
        "`image` must be one for all clips or one per prompt, got 2 for 3",
    ),
    ({"generator": [seed()] * 2}, "`generator` must be one for all clips or one per clip, got 2 for 1"),
    (
        {"prompt": None, "prompt_embeds": torch.zeros(2, 3, 16), "negative_prompt_embeds": torch.zeros(1, 3, 16)},
        "`negative_prompt_embeds` must be one per prompt, got 1 for 2",
    ),
    (
        {"negative_prompt_embeds": PromptEmbeds(torch.zeros(1, 3, 16), torch.ones(1, 2, dtype=torch.bool))},
        r"mask of `negative_prompt_embeds` must be \[1, 3\], one value per row of its features, got \[1, 2\]; pad",
    ),
    ({"audio_latents": torch.zeros(1, 3, 4)}, r"`audio_latents` must be \[1, 10, 4\] for this clip, got \[1, 3, 4\]"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=[message[:40] for _, message in WRONG])
def test_wrong_inputs_are_refused(pipeline: JoVAPipeline, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate(pipeline, **arguments)


def test_a_clip_larger_than_the_positions_that_a_model_learned_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`num_frames` must be at most 61 \(3.81 s, .*, got 65; use 61"):
        generate(build_tiny_pipeline(), num_frames=65)


def test_an_unknown_default_is_refused() -> None:
    with pytest.raises(
        ValueError, match="`defaults` must name arguments of the pipeline, got 'hight'; did you mean 'height'"
    ):
        build_tiny_pipeline(defaults={"hight": 32})


# Files


def test_a_saved_pipeline_generates_the_same(pipeline: JoVAPipeline, tmp_path: Path) -> None:
    expected = generate(pipeline)
    pipeline.save_pretrained(tmp_path)
    for loader in (JoVAPipeline, DiffusionPipeline):
        loaded = loader.from_pretrained(tmp_path)
        loaded.set_progress_bar_config(disable=True)
        assert type(loaded) is JoVAPipeline
        assert loaded.defaults == pipeline.defaults
        assert_same(generate(loaded), expected, atol=1e-5, rtol=1e-4)  # the weights lie elsewhere in memory


def test_the_index_of_a_saved_pipeline_is_stable(tiny_pipeline_folder: Path) -> None:
    index = json.loads((tiny_pipeline_folder / "model_index.json").read_text())
    assert index.pop("_diffusers_version")
    assert index.pop("defaults")["guidance_scale"] == 3
    assert index.pop("tokenizer")[0] == "transformers"  # its class name differs between versions of transformers
    assert index == {
        "_class_name": "JoVAPipeline",
        "audio_vae": ["diffusers", "MMAudioVAE"],
        "domain": None,
        "few_steps": None,
        "fills_image_with_grey": False,
        "max_reference_s": None,
        "needs_image": False,
        "negative_skip_layer": None,
        "one_way_coupling": False,
        "pads_text_with_zeros": False,
        "prompt_template": "{video}\n<S>{transcript}<E>\n<AUDCAP>{audio}<ENDAUDCAP>",
        "scheduler": ["diffusers_jova", "FlowMatchAudioVideoScheduler"],
        "speaker_token": None,
        "spoken_text_encoder": [None, None],
        "spoken_tokenizer": [None, None],
        "starts_white": False,
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "text_encoder_2": [None, None],
        "tokenizer_2": [None, None],
        "transformer": ["diffusers_jova", "JoVATransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLWan"],
        "vocoder": ["diffusers", "MMAudioVocoder"],
    }


def test_a_folder_without_an_index_gives_a_clear_error(tmp_path: Path, tiny_pipeline_folder: Path) -> None:
    with pytest.raises(OSError, match=r"model_index\.json"):
        JoVAPipeline.from_pretrained(tmp_path)
    shutil.copy(tiny_pipeline_folder / "model_index.json", tmp_path)
    with pytest.raises((OSError, ValueError)):  # diffusers' words, those of whichever component it tries first
        JoVAPipeline.from_pretrained(tmp_path)


def test_variants_and_replaced_components_load(pipeline: JoVAPipeline, build: Build, tmp_path: Path) -> None:
    pipeline.save_pretrained(tmp_path, variant="fp32")
    assert (tmp_path / "transformer" / "diffusion_pytorch_model.fp32.safetensors").exists()
    other = build()
    loaded = JoVAPipeline.from_pretrained(tmp_path, variant="fp32", transformer=other)
    assert loaded.transformer is other


def test_a_pipeline_in_bfloat16_generates_finite_clips(build: Build) -> None:
    pipeline = build_tiny_pipeline(transformer=build()).to(torch.bfloat16)
    frames, waveform = generate(pipeline, output_type="pt", image=picture(), audio=sound(RATE * 2 // 16))
    assert bool(frames.isfinite().all())
    assert waveform.dtype == torch.float32
    assert bool(waveform.isfinite().all())


def test_a_pipeline_whose_models_are_offloaded_generates_the_same(pipeline: JoVAPipeline, build: Build) -> None:
    arguments = {"image": picture(), "audio": sound(RATE * 2 // 16), "output_type": "pt"}
    expected = generate(pipeline, **arguments)
    offloaded = build_tiny_pipeline(transformer=build())
    for name in ("text_encoder", "transformer", "vae"):
        cpu_offload(getattr(offloaded, name), torch.device("cpu"), offload_buffers=True)
    assert_same(generate(offloaded, **arguments), expected)


def test_output_without_frames_cannot_be_saved_as_a_video(pipeline: JoVAPipeline, tmp_path: Path) -> None:
    output = pipeline("a dog", num_frames=5, modalities=["audio"])
    with pytest.raises(ValueError, match="`save` must have frames for an mp4, got none; use a wav for sound alone"):
        output.save(tmp_path / "clip.mp4")
    assert not list(tmp_path.iterdir())


def test_a_list_of_generators_has_one_for_each_clip(pipeline: JoVAPipeline) -> None:
    with pytest.raises(ValueError, match="`generator` must be one for all clips or one per clip, got 1 for 2"):
        pipeline(["a dog", "a cat"], num_frames=5, generator=[torch.Generator()])


def test_latents_are_decoded_to_what_the_call_would_have_given_and_saved(tmp_path: Path) -> None:
    pipeline = build_tiny_pipeline()
    call = partial(pipeline, "a dog", num_frames=5, num_inference_steps=1)
    latent = call(generator=seed(), output_type="latent")
    for output_type in ("pt", "np", "pil"):
        output, whole = pipeline.decode(latent, output_type), call(generator=seed(), output_type=output_type)
        if output_type == "pil":
            assert output.frames == whole.frames
        else:
            assert torch.equal(torch.as_tensor(output.frames), torch.as_tensor(whole.frames))
        assert torch.equal(torch.as_tensor(output.audio), torch.as_tensor(whole.audio))
        assert output.record() == whole.record()
        output.save(tmp_path / f"{output_type}.mp4")
    sound, whole = (call(generator=seed(), output_type=name, modalities=["audio"]) for name in ("latent", "pt"))
    assert torch.equal(pipeline.decode(sound).audio, whole.audio)
    assert pipeline.decode(sound).frames is None
    with pytest.raises(ValueError, match="`output` must hold latents, got pictures or sound; call with"):
        pipeline.decode(whole)
    with pytest.raises(ValueError, match=r"`output_type` must be one of \['pil', 'np', 'pt'\], got 'latent'"):
        pipeline.decode(sound, "latent")


def test_edited_latents_are_checked_before_they_are_decoded() -> None:
    pipeline = build_tiny_pipeline()
    latent = pipeline("a dog", num_frames=5, num_inference_steps=1, output_type="latent")
    frames, audio, edited = latent.frames, latent.audio, partial(replace, latent)
    num_channels, num_latents = frames.shape[1], audio.shape[1]
    video_rule = rf"`output.frames` must be latents \[1, {num_channels}, 2, h, w\] for 5 frames, got"
    sound_rule = rf"`output.audio` must be latents \[1, {num_latents}, {audio.shape[2]}\] for 5 frames, got"
    cases: list[tuple[Any, str]] = [
        ((frames, audio), "`output` must be a JoVAPipelineOutput, got tuple; call without `return_dict=False`"),
        (edited(frames=frames[:, :, :1]), rf"{video_rule} \[1, {num_channels}, 1, "),
        (edited(frames=frames[:, :3]), rf"{video_rule} \[1, 3, "),
        (edited(frames=frames[0]), video_rule),
        (edited(frames=frames[..., :0]), video_rule),
        (edited(audio=audio[:, 1:]), rf"{sound_rule} \[1, {num_latents - 1}, "),
        (edited(audio=audio[..., 1:]), sound_rule),
        (edited(audio=audio.repeat(2, 1, 1)), sound_rule),
        (edited(frames=frames.numpy()), "`output.frames` must be a tensor of floating point, got ndarray"),
        (edited(audio=audio.long()), "`output.audio` must be a tensor of floating point, got torch.int64"),
        (edited(frames=frames * torch.nan), "`output.frames` must be finite, got NaN or infinity"),
        (edited(audio=audio / 0), "`output.audio` must be finite, got NaN or infinity"),
        (edited(num_frames=4), r"`output.num_frames` must be 4k \+ 1 .* got 4"),
        (edited(num_frames=0), "`output.num_frames` must be"),
        (edited(frame_rate=0.0), "`output.frame_rate` must be"),
        (edited(audio=torch.tensor(0.0), frames=None, provenance=None), sound_rule),
        (edited(frames=None, audio=None), "`output` must hold latents of video or sound, got neither"),
    ]
    for output, message in cases:
        with pytest.raises(ValueError, match=f"^{message}"):
            pipeline.decode(output)
    one = edited(frames=frames[:, :, :1], audio=audio[:, :2], num_frames=1)
    shorter = pipeline.decode(one, "pt")
    assert shorter.frames.shape[1] == 1


def test_gradients_pass_through_a_decoder() -> None:
    pipeline = build_tiny_pipeline()
    latents = torch.zeros(1, 16, 1, 4, 4, requires_grad=True)
    pipeline.decode_latents(latents).sum().backward()
    assert latents.grad is not None
    assert latents.grad.any()
