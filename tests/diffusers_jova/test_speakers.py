import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.utils import logging
from safetensors.torch import save_file
from torch import Tensor

from diffusers_jova import JoVAPipeline, PromptEmbeds
from diffusers_jova.conversion.pipeline import guidance_defaults
from diffusers_jova.speakers import Speakers, find_speakers, mark_speakers, read_voices
from tests.tiny_pipeline import (
    DEFAULTS,
    NAVA_SHARING,
    build_tiny_pipeline,
    build_tokenizer,
    build_transformer,
    build_wan_transformer,
)


ROUND_OFF = {"atol": 1e-4, "rtol": 1e-3}  # float32 through a random network, scaled by guidance
TOKEN = "<extra_id_2>"
DIM = NAVA_SHARING["speaker_dim"]
DIALOGUE, NARRATION, SILENCE = "two men: <S>hello<E>, <S>hi<E>", "she says <S>well<E>", "rain"
PLACES = {DIALOGUE: [12, 26], NARRATION: [12], SILENCE: []}  # of the token behind "<S>"; other tokens are characters
ALONE = {"guidance_scale": 1.0, "coupling_scale": 1.0, "audio_guidance_scale": 1.0, "audio_coupling_scale": 1.0}
ALONE |= {"audio_speaker_scale": 1.0}


def build_pipeline(**overrides: Any) -> JoVAPipeline:
    """As a converted NAVA: shared blocks, zero-padded text, its guidance."""
    tokenizer = build_tokenizer()
    tokenizer.add_tokens([TOKEN], special_tokens=True)
    parts = {
        "tokenizer": tokenizer,
        "transformer": build_wan_transformer(**NAVA_SHARING),
        "speaker_token": TOKEN,
        "pads_text_with_zeros": True,
        "defaults": {**DEFAULTS, **guidance_defaults("nava"), "num_frames": 5, "num_inference_steps": 1},
    }
    return build_tiny_pipeline(**{**parts, **overrides})


@pytest.fixture(scope="module")
def pipeline() -> JoVAPipeline:
    return build_pipeline()


def voices(*shape: int) -> Tensor:
    return torch.randn(*shape, DIM, generator=torch.Generator().manual_seed(7))


def generate(pipeline: JoVAPipeline, prompt: Any, embeds: Tensor | None = None, **arguments: Any) -> Any:
    num_clips = len(prompt) if isinstance(prompt, list) else 1
    seeds = [torch.Generator().manual_seed(0) for _ in range(num_clips * arguments.get("num_videos_per_prompt", 1))]
    arguments = {"generator": seeds, "output_type": "latent", **arguments}
    return pipeline(prompt, speaker_embeds=embeds, return_dict=False, **arguments)


def velocities(pipeline: JoVAPipeline, prompts: list[str], **arguments: Any) -> tuple[Tensor, Tensor]:
    """The transformer's own answers for the noise that `generate` starts from."""
    embeds = pipeline.encode_texts([mark_speakers(text, TOKEN) for text in prompts], DEFAULTS["max_sequence_length"])
    video, audio = noise(len(prompts))
    with torch.no_grad():
        return pipeline.transformer(
            video,
            audio,
            embeds.features,
            torch.full((len(prompts),), 1000.0),
            frame_rate=16.0,
            audio_latent_rate_hz=pipeline.audio_codec.latent_rate_hz,
            return_dict=False,
            **arguments,
        )


def noise(num_clips: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    one = torch.randn(1, 16, 2, 4, 4, generator=generator), torch.randn(1, 10, 4, generator=generator)
    return tuple(part.repeat(num_clips, *[1] * (part.ndim - 1)) for part in one)


def assert_same(actual: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, **ROUND_OFF)


def differ(one: Tensor, other: Tensor) -> bool:
    return not torch.allclose(one, other, atol=1e-3)


# Places


def test_every_speech_is_marked_once() -> None:
    assert mark_speakers("<S>a<E><S>b<E>", "<x>") == "<S><x>a<E><S><x>b<E>"
    assert mark_speakers("<S><x>a<E><S>b<E>", "<x>") == "<S><x>a<E><S><x>b<E>"
    assert mark_speakers("nobody", "<x>") == "nobody"


def test_speakers_stand_behind_the_start_of_their_speech(pipeline: JoVAPipeline) -> None:
    prompts, _, _ = pipeline.encode_prompt([DIALOGUE, NARRATION, SILENCE], num_videos_per_prompt=2)
    places = [PLACES[text] + [-1] * (2 - len(PLACES[text])) for text in (DIALOGUE, NARRATION, SILENCE)]
    assert prompts.speaker_positions.tolist() == [row for row in places for _ in range(2)]
    assert PLACES[DIALOGUE] == [DIALOGUE.index("<S>") + 3, DIALOGUE.rindex("<S>") + 4]  # one token more before it


def test_a_pipeline_without_a_speaker_token_leaves_prompts_as_they_are() -> None:
    prompts, _, _ = build_tiny_pipeline().encode_prompt(NARRATION)
    assert prompts.speaker_positions is None
    assert prompts.features.shape[1] == len(NARRATION) + 1


def test_a_token_that_the_tokenizer_does_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match="`speaker_token` must be one token of the tokenizer, got '<extra_id_2>'"):
        find_speakers(build_tokenizer(), torch.zeros(1, 3, dtype=torch.long), TOKEN)


# Voices


def test_every_voice_reaches_the_row_of_its_speaker(pipeline: JoVAPipeline) -> None:
    prompts, embeds = [DIALOGUE, NARRATION, SILENCE], voices(3, 2)
    embeds[1, 1] = embeds[2] = 0
    places = torch.tensor([PLACES[DIALOGUE], [*PLACES[NARRATION], -1], [-1, -1]])
    direct = velocities(pipeline, prompts, speaker_embeds=embeds, speaker_positions=places)
    expected = tuple(start - velocity for start, velocity in zip(noise(3), direct, strict=True))  # one step to sigma 0
    clips = generate(pipeline, prompts, embeds, **ALONE)
    assert_same(clips, expected)
    plain = generate(pipeline, prompts, **ALONE)
    for clip, silent in zip(clips, plain, strict=True):
        assert differ(clip[0], silent[0])
        assert differ(clip[1], silent[1])
        torch.testing.assert_close(clip[2], silent[2], **ROUND_OFF)


def test_the_order_of_voices_does_not_matter_to_a_model_that_reads_text_as_a_set(pipeline: JoVAPipeline) -> None:
    one_way = generate(pipeline, DIALOGUE, voices(2))
    assert_same(generate(pipeline, DIALOGUE, voices(2).flip(0)), one_way)
    assert differ(generate(pipeline, DIALOGUE, voices(1))[1], one_way[1])


def test_zeros_are_the_unknown_voice_which_speakers_without_one_have(pipeline: JoVAPipeline) -> None:
    one, two = voices(1), torch.cat([voices(1), torch.zeros(1, DIM)])
    partial = generate(pipeline, DIALOGUE, one)
    assert_same(partial, generate(pipeline, DIALOGUE, two))
    null = pipeline.transformer.speaker_embedding.null_token
    unknown = generate(pipeline, NARRATION, torch.zeros(1, DIM))
    assert differ(unknown[1], generate(pipeline, NARRATION)[1]), "an unknown voice is not a row of text"
    before = null.detach().clone()
    with torch.no_grad():
        null.add_(1)
    moved = generate(pipeline, NARRATION, torch.zeros(1, DIM))
    known = generate(pipeline, NARRATION, voices(1))
    with torch.no_grad():
        null.copy_(before)
    assert differ(moved[1], unknown[1])
    assert_same(known, generate(pipeline, NARRATION, voices(1)))


def test_one_set_of_voices_serves_all_prompts_and_all_clips_of_a_prompt(pipeline: JoVAPipeline) -> None:
    one, pair = voices(1), [NARRATION, "he: <S>no<E>"]
    same = generate(pipeline, pair, one)
    assert_same(same, generate(pipeline, pair, one.repeat(2, 1, 1)))
    own = generate(pipeline, pair, voices(2, 1), num_videos_per_prompt=2)
    for index, prompt in enumerate(pair):
        alone = generate(pipeline, prompt, voices(2, 1)[index])
        for clip in range(2):
            assert_same(tuple(part[2 * index + clip][None] for part in own), alone)


def test_encoded_prompts_bring_the_places_of_their_speakers(pipeline: JoVAPipeline) -> None:
    embeds, negative, _ = pipeline.encode_prompt(DIALOGUE)
    encoded = generate(pipeline, None, voices(2), prompt_embeds=embeds, negative_prompt_embeds=negative)
    assert_same(encoded, generate(pipeline, DIALOGUE, voices(2)))


# Guidance


def test_the_default_guidance_is_navas_formula(pipeline: JoVAPipeline) -> None:
    given = {"speaker_embeds": voices(1, 2), "speaker_positions": torch.tensor([PLACES[DIALOGUE]])}
    c = velocities(pipeline, [DIALOGUE], **given)
    u = velocities(pipeline, [""])
    m = velocities(pipeline, [DIALOGUE], coupled=False)
    n = velocities(pipeline, [DIALOGUE])
    video = c[0] + 3 * (c[0] - u[0]) + 3 * (c[0] - m[0])
    audio = c[1] + 2 * (c[1] - u[1]) + 2 * (c[1] - m[1]) + 3 * (c[1] - n[1])
    start = noise(1)
    assert_same(generate(pipeline, DIALOGUE, voices(2)), (start[0] - video, start[1] - audio))
    silent = n[1] + 2 * (n[1] - u[1]) + 2 * (n[1] - m[1])
    torch.testing.assert_close(generate(pipeline, DIALOGUE)[1], start[1] - silent, **ROUND_OFF)


def test_only_the_conditional_prediction_hears_the_voices(pipeline: JoVAPipeline) -> None:
    calls: list[dict[str, Any]] = []
    hook = pipeline.transformer.register_forward_pre_hook(
        lambda _, __, arguments: calls.append(arguments), with_kwargs=True
    )
    batched = generate(pipeline, DIALOGUE, voices(2))
    in_sequence = generate(pipeline, DIALOGUE, voices(2), sequential_guidance=True)
    generate(pipeline, DIALOGUE)
    hook.remove()
    assert calls[0]["speaker_positions"].tolist() == [PLACES[DIALOGUE], *[[-1, -1]] * 3]
    assert torch.equal(calls[0]["speaker_embeds"][0], voices(2))
    assert calls[0]["coupled"] == [True, True, False, True]
    assert ["speaker_embeds" in call for call in calls[1:]] == [True, False, False, False, False]
    assert calls[-1]["timestep"].shape[0] == 3, "without voices there is nothing to guide by"
    assert_same(batched, in_sequence)


# Wrong inputs


def embeds_of(positions: Any) -> PromptEmbeds:
    return PromptEmbeds(torch.zeros(1, 4, 16), speaker_positions=torch.tensor(positions))


WRONG: list[tuple[dict[str, Any], str]] = [
    (
        {"embeds": torch.ones(2, DIM)},
        "must be at most one per `<S>` of a prompt, got 2 for 1; give one set per prompt",
    ),
    ({"embeds": torch.ones(1, 3, DIM), "prompt": SILENCE}, "at most one per `<S>` of a prompt, got 3 for 0"),
    ({"embeds": torch.ones(1, DIM), "max_sequence_length": 8}, "at most one per `<S>` of a prompt, got 1 for 0"),
    ({"embeds": torch.ones(1, 6)}, r"must be a tensor \[P, 5\] or \[B, P, 5\], got \[1, 6\]; use the speaker encoder"),
    ({"embeds": torch.ones(DIM)}, r"must be a tensor \[P, 5\] or \[B, P, 5\], got \[5\]"),
    ({"embeds": [[1.0] * DIM]}, r"must be a tensor \[P, 5\] or \[B, P, 5\], got list"),
    ({"embeds": torch.full((1, DIM), torch.nan)}, "`speaker_embeds` must be finite, got NaN or infinity"),
    ({"embeds": torch.ones(2, 1, DIM)}, "`speaker_embeds` must be one for all clips or one per prompt, got 2 for 1"),
    (
        {"embeds": torch.ones(1, DIM), "modalities": ["video"]},
        "`speaker_embeds` must be None where `modalities` lacks",
    ),
    (
        {"embeds": torch.ones(1, DIM), "prompt": None, "prompt_embeds": torch.zeros(1, 4, 16)},
        "`prompt_embeds` must be `PromptEmbeds` with `speaker_positions` where `speaker_embeds` are given, got none",
    ),
    (
        {"embeds": torch.ones(1, DIM), "prompt": None, "prompt_embeds": embeds_of([[4]])},
        r"`speaker_positions` must be rows of the features, \[1, P\] with values below 4, got \[\[4\]\]; -1 is no row",
    ),
    (
        {"embeds": torch.ones(1, DIM), "prompt": None, "prompt_embeds": embeds_of([1])},
        r"`speaker_positions` must be rows of the features, \[1, P\] with values below 4, got \[1\]",
    ),
    ({"embeds": torch.ones(1, DIM), "audio_speaker_scale": torch.inf}, "`audio_speaker_scale` must be finite"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=[message[:50] for _, message in WRONG])
def test_wrong_voices_are_refused(pipeline: JoVAPipeline, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate(pipeline, **{"prompt": NARRATION, **arguments})


def test_voices_come_from_the_files_of_any_speaker_encoder(tmp_path: Path) -> None:
    values = torch.arange(10.0).reshape(2, 5)
    np.save(tmp_path / "one.npy", values[0].numpy().astype(np.float16))
    np.save(tmp_path / "two.npy", values.numpy())
    save_file({"voices": values.bfloat16()}, tmp_path / "two.safetensors")
    assert torch.equal(read_voices(tmp_path / "one.npy"), values[:1][None])
    for name in ("two.npy", "two.safetensors"):
        assert torch.equal(read_voices(tmp_path / name), values[None])


def archive_of_arrays() -> bytes:
    """An .npz file, which may have another name."""
    file = io.BytesIO()
    np.savez(file, np.ones(5))
    return file.getvalue()


NO_VOICES: dict[str, tuple[Any, str]] = {
    "missing.npy": (None, "must be a file of voices, got no file"),
    "text.npy": (b"no array", "must be a file of voices, got one that is damaged or of another kind"),
    "empty.npy": (b"", "must be a file of voices, got one that is damaged"),
    "text.safetensors": (b"no tensors", "must be a file of voices, got one that is damaged"),
    "objects.npy": (np.array([{"a": 1}], dtype=object), "must be a file of voices, got one that is damaged"),
    "archive.npy": (archive_of_arrays(), "must be a file of voices, got one that is damaged or of another kind"),
    "words.npy": (np.array([["a", "b"]]), "must hold numbers, got <U1"),
    "cube.npy": (np.ones((2, 2, 2)), r"must hold vectors \[D\] or \[voices, D\], got \[2, 2, 2\]"),
    "none.npy": (np.ones((0, 5)), r"must hold vectors \[D\] or \[voices, D\], got \[0, 5\]"),
    "nan.npy": (np.array([1.0, np.nan]), "must be finite, got NaN or infinity"),
    "two.safetensors": ({"a": torch.ones(5), "b": torch.ones(5)}, "must hold one tensor, got a, b"),
}


@pytest.mark.parametrize("name", NO_VOICES)
def test_a_file_without_voices_is_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    content, message = NO_VOICES[name]
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    elif isinstance(content, dict):
        save_file(content, tmp_path / name)
    elif content is not None:
        np.save(tmp_path / name, content)
    with pytest.raises(ValueError, match=rf"^`{name}` {message}.*; save the vectors of the speaker encoder alone"):
        read_voices(tmp_path / name)


@pytest.mark.parametrize("build", [build_transformer, build_wan_transformer])
def test_a_model_without_voices_refuses_them(build: Any) -> None:
    with pytest.raises(ValueError, match="`speaker_embeds` must be None for a transformer without `speaker_dim`"):
        generate(build_pipeline(transformer=build()), NARRATION, voices(1))


def test_a_pipeline_without_a_speaker_token_refuses_voices() -> None:
    with pytest.raises(ValueError, match="`speaker_token` must be in the config of a pipeline that is given"):
        generate(build_pipeline(speaker_token=None), NARRATION, voices(1))


def test_voices_without_a_place_are_refused_before_anything_is_encoded(
    pipeline: JoVAPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[str] = []
    for name, encode in (("text_encoder", "forward"), ("vae", "encode"), ("audio_vae", "encode")):
        module = getattr(pipeline, name)
        monkeypatch.setattr(module, encode, note_calls(getattr(module, encode), name, encoded))
    media = {
        "image": torch.rand(1, 3, 32, 32),
        "audio": torch.zeros(1, 1000),
        "audio_sampling_rate": 16000,
        "num_frames": 5,
    }
    embeds, _, _ = pipeline.encode_prompt(NARRATION)
    generate(pipeline, NARRATION, voices(1), **media)
    assert set(encoded) == {"text_encoder", "vae", "audio_vae"}
    encoded.clear()
    for arguments in ({"prompt": NARRATION}, {"prompt": None, "prompt_embeds": embeds}):
        with pytest.raises(ValueError, match="at most one per `<S>` of a prompt, got 2 for 1"):
            generate(pipeline, embeds=voices(2), **media, **arguments)
    with pytest.raises(ValueError, match="must be one for all clips or one per prompt, got 2 for 1"):
        generate(pipeline, NARRATION, voices(2, 1), **media)
    assert not encoded


def note_calls(function: Any, name: str, calls: list[str]) -> Any:
    def noted(*args: Any, **named: Any) -> Any:
        calls.append(name)
        return function(*args, **named)

    return noted


def test_a_prompt_with_voices_that_is_cut_is_told_once(
    pipeline: JoVAPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    logging.enable_propagation()
    generate(pipeline, NARRATION, voices(1), max_sequence_length=16)
    logging.disable_propagation()
    assert sum("was cut to `max_sequence_length` = 16" in message for message in caplog.messages) == 1


def test_prompts_of_different_numbers_of_speakers_are_filled_up() -> None:
    matched = Speakers.match(torch.tensor([[[1.0]], [[2.0]]]), torch.tensor([[4, 9], [2, -1]]))
    assert matched.embeds[..., 0].tolist() == [[1, 0], [2, 0]]
    assert matched.positions.tolist() == [[4, 9], [2, -1]]
    wide = Speakers.match(torch.tensor([[[1.0], [0.0]]]), torch.tensor([[4]]))
    assert wide.positions.tolist() == [[4, -1]]
