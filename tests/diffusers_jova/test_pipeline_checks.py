"""What is no list, no flag, no tensor, no number or no encoded prompt is refused at the door, with what to do."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffusers_jova import JoVAPipeline, JoVAPrompt, PromptEmbeds, media
from diffusers_jova.pipeline_checks import TextWidths, check_embeds
from diffusers_jova.pipeline_output import JoVAPipelineOutput
from tests.tiny_pipeline import build_tiny_pipeline, build_transformer


FEW: dict[str, Any] = {"num_inference_steps": 1, "num_frames": 5, "output_type": "latent", "return_dict": False}
RIGHT = torch.zeros(1, 3, 16)
ENCODED = "take it from `encode_prompt` of this pipeline"
ARRAY = "turn it into one by `torch.from_numpy`"

WRONG: list[tuple[dict[str, Any], str]] = [
    # encoded prompts
    (
        {"prompt_embeds": torch.zeros(1, 10, 8)},
        f"`prompt_embeds` must be a tensor of floats [B, S, 16], got [1, 10, 8]; {ENCODED}",
    ),
    ({"prompt_embeds": torch.zeros(4, 16)}, "must be a tensor of floats [B, S, 16], got [4, 16]; take"),
    ({"prompt_embeds": torch.zeros(1, 0, 16)}, "must be a tensor of floats [B, S, 16], got [1, 0, 16]; take"),
    ({"prompt_embeds": RIGHT.long()}, "must be a tensor of floats [B, S, 16], got [1, 3, 16] of torch.int64; take"),
    (
        {"prompt_embeds": RIGHT.numpy()},
        f"`prompt_embeds` must be a tensor [B, S, 16] or `PromptEmbeds`, got an array [1, 3, 16]; {ARRAY}",
    ),
    ({"prompt_embeds": [RIGHT]}, "`prompt_embeds` must be a tensor [B, S, 16] or `PromptEmbeds`, got a list; take"),
    ({"prompt_embeds": PromptEmbeds(RIGHT.numpy())}, f"of floats [B, S, 16], got an array [1, 3, 16]; {ARRAY}"),
    ({"prompt_embeds": PromptEmbeds(RIGHT, np.ones((1, 3)))}, "mask of `prompt_embeds` must be [1, 3], one"),
    ({"prompt_embeds": PromptEmbeds(RIGHT, features_2=RIGHT)}, "`prompt_embeds.features_2` must be None for this"),
    ({"prompt_embeds": PromptEmbeds(RIGHT, mask_2=RIGHT[..., 0])}, "mask of `prompt_embeds` must go with features"),
    (
        {"prompt_embeds": PromptEmbeds(RIGHT, speaker_positions=[[1]])},
        "`prompt_embeds.speaker_positions` must be a tensor of rows of the features [B, P], got a list; take",
    ),
    ({"negative_prompt_embeds": torch.zeros(1, 3, 8)}, "`negative_prompt_embeds` must be a tensor of floats"),
    ({"audio_negative_prompt_embeds": RIGHT.numpy()}, "`audio_negative_prompt_embeds` must be a tensor [B, S, "),
    # latents
    (
        {"latents": np.zeros((1, 16, 2, 4, 4))},
        f"`latents` must be a tensor [B, C, F, h, w], got an array [1, 16, 2, 4, 4]; {ARRAY}",
    ),
    ({"audio_latents": [[0.0]]}, "`audio_latents` must be a tensor [B, L, C], got a list; leave it out for noise"),
    # lists of names
    (
        {"modalities": "video"},
        "`modalities` must be a list of names out of ['video', 'audio'], got 'video'; pass ['video'], say",
    ),
    ({"modalities": 3}, "`modalities` must be a list of names out of ['video', 'audio'], got 3; pass ['video'], say"),
    ({"modalities": ["audio", "audio"]}, "`modalities` must name each modality once, got ['audio', 'audio']; leave"),
    ({"callback_on_step_end_tensor_inputs": "latents"}, "must be a list of names out of ['latents', "),
    ({"callback_on_step_end_tensor_inputs": "latents"}, "got 'latents'; pass ['latents'], say"),
    ({"callback_on_step_end_tensor_inputs": 3}, "got 3; pass ['latents'], say"),
    # flags
    ({"sequential_guidance": "yes"}, "`sequential_guidance` must be True or False, got 'yes'; write one of them"),
    ({"sequential_guidance": 1}, "`sequential_guidance` must be True or False, got 1; write one of them"),
    ({"return_dict": "no"}, "`return_dict` must be True or False, got 'no'; write one of them, without quotes"),
    ({"return_dict": None}, "`return_dict` must be True or False, got None"),
    # what to do about a value depends on the value
    ({"guidance_scale": True}, "`guidance_scale` must be a number, got True; give a number, no flag"),
    ({"guidance_scale": [1, 2]}, "`guidance_scale` must be a number, got [1, 2]; give a number alone"),
    ({"guidance_scale": torch.tensor(2.0)}, "must be a number, got tensor(2.); give a number of Python"),
    ({"guidance_scale": "2"}, "`guidance_scale` must be a number, got '2'; write it without quotes"),
    ({"height": float("nan")}, "`height` must be a whole number, got nan; give a whole number"),
    ({"height": 32.0}, "`height` must be a whole number, got 32.0; write it without a point"),
    ({"height": 32.5}, "`height` must be a whole number, got 32.5; give a whole number"),
    ({"audio": torch.zeros(3), "audio_sampling_rate": 16000}, "`audio` must last at least "),
]  # fmt: skip


@pytest.fixture(scope="module")
def pipeline() -> JoVAPipeline:
    return build_tiny_pipeline()


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=[message[:50] for _, message in WRONG])
def test_what_is_wrong_is_refused_with_what_to_do(
    pipeline: JoVAPipeline, arguments: dict[str, Any], message: str
) -> None:
    prompt = None if "prompt_embeds" in arguments else "a dog"
    with pytest.raises(ValueError, match=re.escape(message)):
        pipeline(prompt, **{**FEW, **arguments})


def test_modalities_of_none_are_those_that_the_pipeline_makes(pipeline: JoVAPipeline) -> None:
    frames, sound = pipeline("a dog", modalities=None, **FEW)
    assert frames is not None
    assert sound is not None
    silent = JoVAPipeline(**{**pipeline.components, "audio_vae": None, "vocoder": None})
    silent.set_progress_bar_config(disable=True)
    frames, sound = silent("a dog", height=32, width=32, guidance_scale=1.0, modalities=None, **FEW)
    assert frames is not None
    assert sound is None


def test_latents_are_no_pictures_and_no_sound_to_be_saved(pipeline: JoVAPipeline, tmp_path: Path) -> None:
    output = pipeline("a dog", **{**FEW, "return_dict": True})
    for name in ("clip.mp4", "clip.wav"):
        with pytest.raises(ValueError, match=r"`save` must have pictures or sound, got latents; call .*'pil'"):
            output.save(tmp_path / name)
    with pytest.raises(ValueError, match=r"`to_moviepy` must have pictures or sound, got latents; call"):
        output.to_moviepy()
    assert output._repr_html_() is None


def test_a_batch_without_an_index_writes_its_first_clip_and_says_so(
    tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    frames = np.stack([np.zeros((2, 16, 16, 3)), np.ones((2, 16, 16, 3))]).astype(np.float32)
    both = JoVAPipelineOutput(frames=frames, frame_rate=8.0)
    both.save(tmp_path / "first.mp4", metadata=False)
    assert "first.mp4` holds the first of 2 clips; save the others with `index`, each under its name" in log.text
    log.clear()
    both.save(tmp_path / "second.mp4", index=1, metadata=False)
    with pytest.raises(ValueError, match="`index` must be one of the 2 clips, counted from 0, got 2; use 0, say"):
        both.save(tmp_path / "third.mp4", index=2, metadata=False)
    JoVAPipelineOutput(frames=frames[:1], frame_rate=8.0).save(tmp_path / "alone.mp4", metadata=False)
    assert "clips" not in log.text
    assert [media.read_video(tmp_path / name).frames.mean() for name in ("first.mp4", "second.mp4")] == [0, 255]


def test_features_of_a_second_encoder_and_of_what_is_said_have_the_widths_that_are_read() -> None:
    widths = TextWidths(16, 8, 4)
    right = PromptEmbeds(RIGHT, None, RIGHT[..., :8], audio_features=RIGHT[..., :4])
    check_embeds("prompt_embeds", right, widths)
    wrong = {
        r"`prompt_embeds.features_2` must be a tensor of floats \[B, S, 8\], got": right._replace(features_2=RIGHT),
        r"`prompt_embeds.audio_features` must be a tensor of floats": right._replace(audio_features=RIGHT),
        "must be as many prompts as its `features`, 1, got 2": right._replace(features_2=torch.zeros(2, 3, 8)),
        "`prompt_embeds` must be `PromptEmbeds` with `features_2` for this model": right._replace(features_2=None),
    }
    for message, embeds in wrong.items():
        with pytest.raises(ValueError, match=message):
            check_embeds("prompt_embeds", embeds, widths)


@pytest.mark.parametrize(("num_frames", "near"), [(1, 5), (9, 5), (17, 13)])
def test_frames_that_leave_half_a_row_of_the_transformer_are_refused_by_their_number(
    num_frames: int, near: int
) -> None:
    pipeline = build_tiny_pipeline(transformer=build_transformer(patch_size=(2, 2, 2)))
    message = rf"`num_frames` must make a multiple of 2 latents, .*, got {num_frames}, which make .*; use {near}$"
    with pytest.raises(ValueError, match=message):
        pipeline("a dog", num_frames=num_frames)
    output = pipeline("a dog", num_frames=near, num_inference_steps=1, output_type="latent")
    assert output.frames.shape[2] == (near + 3) // 4


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (".", r"`path` must end in \.mp4, got \.; write to clip\.mp4"),
        ("", r"`path` must end in \.mp4, got \.; write to clip\.mp4"),
        ("/", r"`path` must end in \.mp4, got /; write to /clip\.mp4"),
        (3, "`path` must be the path of a file, got 3"),
        (["1.mp4", "2.mp4"], r"`path` must be the path of a file, got \['1\.mp4', '2\.mp4'\]; save each clip by its"),
    ],
)
def test_what_is_no_path_of_a_file_is_refused(path: Any, message: str, log: pytest.LogCaptureFixture) -> None:
    output = JoVAPipelineOutput(frames=[np.zeros((5, 16, 16, 3), np.float32)] * 2, frame_rate=16.0)
    with pytest.raises(ValueError, match=message):
        output.save(path, index=None if isinstance(path, list) else 0)
    assert "holds the first of" not in log.text
    with pytest.raises(ValueError, match=message.split(";")[0]):
        media.write_video(path, output.frames[0], 16.0)


def test_sound_that_is_no_array_and_clips_of_nobody_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`audio` must be an array or a tensor, got list; use `numpy\.asarray`"):
        media.write_audio(tmp_path / "a.wav", [0.0, 0.1], 16000)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must be a clip of moviepy, got 3; make one of it"):
        media.from_moviepy(3)


def test_all_that_is_given_whole_is_refused_with_what_can_be_done() -> None:
    pipeline = build_tiny_pipeline()
    given: dict[str, Any] = {"video": np.zeros((5, 32, 32, 3), np.uint8), "audio": np.zeros(5000, np.float32)}
    with pytest.raises(ValueError, match=r"for the whole clip; raise `num_frames` to continue it$"):
        pipeline("a dog", num_frames=5, audio_sampling_rate=16000, num_inference_steps=1, **given)


@pytest.mark.parametrize(("part", "value"), [("transcript", None), ("audio", 5), ("video", ["a dog"])])
def test_a_part_of_a_prompt_that_is_no_text_is_refused_by_its_name(part: str, value: Any) -> None:
    message = re.escape(f"`prompt` must be text, got {value!r} for its `{part}`; write it in quotes")
    with pytest.raises(ValueError, match=message):
        build_tiny_pipeline()(JoVAPrompt(**{part: value}), num_inference_steps=1)


@pytest.mark.parametrize("video", ["x.mp4", np.zeros((3, 3), np.uint8)])
def test_of_a_video_that_is_refused_nothing_else_is_told(video: Any, log: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match="`video`"):
        build_tiny_pipeline()("a dog", video=video, num_inference_steps=1)
    assert "is taken at" not in log.text
