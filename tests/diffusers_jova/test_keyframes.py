"""Pictures at given frames: where the transformer gets them, what of them comes back, and what is refused."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor

from diffusers_jova import JoVAPipeline
from diffusers_jova.drawn.avatars import make_clip
from diffusers_jova.drawn.corpus import HELD_OUT_SEED
from diffusers_jova.evaluation.fidelity import psnr_db
from diffusers_jova.long_clip import LongClip, ScriptLine
from diffusers_jova.media import write_video
from diffusers_jova.pictures import to_uint8_frames
from diffusers_jova.provenance import read_provenance
from jova_cli.main import main
from jova_cli.shipped import find_model
from tests.tiny_pipeline import ONE_OF_EACH_CLASS, TRANSFORMERS, build_tiny_pipeline, build_transformer


SHORT = {"num_frames": 9, "num_inference_steps": 1, "guidance_scale": 1.0, "modalities": ["video"]}


@pytest.fixture(scope="module")
def pipelines() -> dict[str, JoVAPipeline]:
    """Of condition channels with zeros, of such with grey frames, and of clean latents."""
    return {
        "zeros": build_tiny_pipeline(),
        "grey": build_tiny_pipeline(fills_image_with_grey=True),
        **{name: build_tiny_pipeline(transformer=TRANSFORMERS[name]()) for name in ONE_OF_EACH_CLASS[1:]},
    }


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (32, 32, 3), dtype=np.uint8)


def signed(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image).movedim(2, 0)[None, :, None] / 127.5 - 1


def first_call(pipeline: JoVAPipeline, **arguments: Any) -> tuple[dict[str, Any], Any]:
    """What the transformer is called with first, and what the pipeline returns."""
    calls: list[dict[str, Any]] = []
    hook = pipeline.transformer.register_forward_pre_hook(
        lambda _, __, call: calls.append(dict(call)), with_kwargs=True
    )
    call = {"prompt": "a dog", "generator": torch.Generator().manual_seed(0), "output_type": "latent", **SHORT}
    try:
        output = pipeline(**{**call, **arguments})
    finally:
        hook.remove()
    return calls[0], output


def encoded(pipeline: JoVAPipeline, frames: Tensor) -> Tensor:
    with torch.no_grad():
        return pipeline.video_codec.encode(frames)


def still(pipeline: JoVAPipeline, image: np.ndarray) -> Tensor:
    with torch.no_grad():
        return pipeline.video_codec.encode_still(signed(image))


# 1. Where they stand


def test_a_last_image_stands_in_the_condition_channels_of_the_last_latent(pipelines: dict[str, JoVAPipeline]) -> None:
    pipeline = pipelines["zeros"]
    call, _ = first_call(pipeline, image=picture(0), last_image=PIL.Image.fromarray(picture(1)))
    channels, mask = call["hidden_states"][:, 16:32], call["hidden_states"][:, 32:]
    torch.testing.assert_close(channels[:, :, :1], encoded(pipeline, signed(picture(0))))
    torch.testing.assert_close(channels[:, :, 2:], still(pipeline, picture(1)))
    assert not channels[:, :, 1].any()
    assert mask[0, :, :, 0, 0].tolist() == [[1, 0, 1]] * 4
    assert call["timestep"].shape == (1,)


def test_grey_frames_stand_between_pictures_at_their_very_frames(pipelines: dict[str, JoVAPipeline]) -> None:
    pipeline = pipelines["grey"]
    call, _ = first_call(pipeline, image=picture(0), keyframes={6: picture(2), 7: picture(3)}, last_image=picture(1))
    clip = torch.zeros(1, 3, 9, 32, 32)
    for frame, seed in ((0, 0), (6, 2), (7, 3), (8, 1)):
        clip[:, :, frame] = signed(picture(seed))[:, :, 0]
    torch.testing.assert_close(call["hidden_states"][:, 16:32], encoded(pipeline, clip))
    mask = call["hidden_states"][0, 32:, :, 0, 0]
    assert mask.T.tolist() == [[1, 1, 1, 1], [0, 0, 0, 0], [0, 1, 1, 1]]  # by latent: its frames


@pytest.mark.parametrize("name", ONE_OF_EACH_CLASS[1:])
def test_a_picture_is_a_clean_latent_of_models_without_channels(pipelines: dict[str, JoVAPipeline], name: str) -> None:
    pipeline = pipelines[name]
    call, made = first_call(pipeline, image=picture(0), keyframes={-1: picture(1)})
    assert call["timestep"][0].tolist() == [0, call["timestep"][0, 1], 0]
    assert call["timestep"][0, 1] > 0
    for latents in (call["hidden_states"], made.frames):  # from the first step to what comes back
        torch.testing.assert_close(latents[:, :, :1], encoded(pipeline, signed(picture(0))))
        torch.testing.assert_close(latents[:, :, 2:], still(pipeline, picture(1)))
    lone, _ = first_call(pipeline, keyframes={5: picture(1)})
    assert (lone["timestep"][0] == 0).tolist() == [False, False, True]


def test_a_given_beginning_goes_on_to_a_given_end(pipelines: dict[str, JoVAPipeline]) -> None:
    for name in ("zeros", "nava"):
        call, made = first_call(pipelines[name], video=[picture(0)] * 5, last_image=picture(1), num_frames=13)
        assert (call["timestep"][0] == 0).tolist() == [True, True, False, name == "nava"]
        beginning = encoded(pipelines[name], signed(picture(0)).expand(-1, -1, 5, -1, -1))
        torch.testing.assert_close(made.frames[:, :, :2], beginning)


def test_each_prompt_may_have_its_own_picture(pipelines: dict[str, JoVAPipeline]) -> None:
    two = {"prompt": ["a dog", "a cat"], "last_image": [picture(1), picture(2)], "image": picture(0)}
    for name in ("zeros", "grey"):
        channels = first_call(pipelines[name], **two)[0]["hidden_states"][:, 16:]
        for index, last in enumerate(two["last_image"]):
            own = first_call(pipelines[name], image=picture(0), last_image=last)[0]["hidden_states"][0, 16:]
            torch.testing.assert_close(channels[index], own)


# 2. What is told of them


def test_pictures_come_back_as_decoded_and_the_record_names_their_frames(pipelines: dict[str, JoVAPipeline]) -> None:
    pipeline = pipelines["nava"]
    given = {"keyframes": {5: picture(2)}, "last_image": picture(1), "num_frames": 13}
    _, latent = first_call(pipeline, **given)
    _, made = first_call(pipeline, **given, output_type="pt")
    with torch.no_grad():
        expected = pipeline.video_processor.postprocess_video(pipeline.decode_latents(latent.frames), output_type="pt")
    torch.testing.assert_close(made.frames, expected)
    assert made.provenance[0]["given"] == ["last_image", "keyframes"]
    assert made.provenance[0]["settings"]["keyframes"] == [5]
    assert made.provenance[0]["digital_source_type"].endswith("/trainedAlgorithmicMedia")


def test_windows_of_a_long_clip_get_the_pictures_of_their_frames(pipelines: dict[str, JoVAPipeline]) -> None:
    pipeline, timesteps = pipelines["nava"], []
    hook = pipeline.transformer.register_forward_pre_hook(
        lambda _, __, call: timesteps.append((call["timestep"][0] == 0).tolist()), with_kwargs=True
    )
    arguments = {"num_inference_steps": 1, "guidance_scale": 1.0, "modalities": ("video",)}
    arguments |= {"keyframes": {4: picture(2)}, "last_image": picture(1)}
    lines = [ScriptLine(0.0, "a dog")]
    clip = LongClip(pipeline=pipeline, lines=lines, num_frames=17, seed=0, overlap_frames=1, arguments=arguments)
    try:
        list(clip.pieces())
    finally:
        hook.remove()
    assert [window.first_frame for window in clip.windows] == [0, 8]
    assert timesteps == [[False, True, False], [True, False, True]]
    assert clip.record["settings"]["keyframes"] == [4, 16]
    assert "keyframes" in clip.record["given"]


def test_the_content_of_pictures_decides_the_clip_of_a_list(
    tiny_pipeline_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    PIL.Image.fromarray(picture(1)).save(tmp_path / "a.png")
    row = {"output": "a.mp4", "prompt": "a dog", "seed": 1, "last_image": "a.png", "keyframe": "4=a.png"}
    (tmp_path / "list.jsonl").write_text(json.dumps(row))
    words = ["generate", "--model", str(tiny_pipeline_folder), "--prompts", str(tmp_path / "list.jsonl"), "--output"]
    words += [str(tmp_path / "clips"), "--steps", "1", "--num-frames", "9", "--guidance-scale", "1"]
    main(words)
    record = read_provenance(tmp_path / "clips" / "a.mp4")
    assert record["given"] == ["last_image", "keyframes"]
    assert record["settings"]["keyframes"] == [4]
    main(words)
    assert "made 0, there already 1, refused 0" in capsys.readouterr().out
    PIL.Image.fromarray(picture(2)).save(tmp_path / "a.png")
    with pytest.raises(SystemExit):
        main(words)
    assert "made 0, there already 0, refused 1" in capsys.readouterr().out


@pytest.mark.slow
def test_jova_tiny_ends_where_it_is_told_although_it_was_not_trained_to() -> None:
    pipeline = JoVAPipeline.from_pretrained(find_model("jova-tiny"))
    clips = [make_clip(HELD_OUT_SEED + index) for index in range(4)]
    prompts, first = [clip.caption for clip in clips], [clip.frames[0] for clip in clips]

    def end_db(last: list[np.ndarray], **given: Any) -> float:
        """Signal-to-noise ratio of the last frames to wanted ones."""
        generators = [torch.Generator().manual_seed(seed) for seed in range(len(clips))]
        made: Any = pipeline(prompts, image=first, generator=generators, output_type="np", **given)
        ends = [to_uint8_frames(frames)[-1] for frames in made.frames]
        return float(np.mean([psnr_db(end, wanted) for end, wanted in zip(ends, last, strict=True)]))

    last = [clip.frames[-1] for clip in clips]
    strange = [*last[1:], last[0]]  # who is neither in the first frame nor in the prompt
    free, told, misled = end_db(last), end_db(last, last_image=last), end_db(strange, last_image=strange)
    print(f"last frame: {free:.1f} dB not given, {told:.1f} dB given, {misled:.1f} dB of somebody else")
    assert told > free + 6  # 20.2, 30.8 and 26.7 dB were measured; its first frames have 32.2
    assert told > misled


def test_a_dict_without_pictures_is_none(pipelines: dict[str, JoVAPipeline], caplog: pytest.LogCaptureFixture) -> None:
    _, made = first_call(pipelines["nava"], keyframes={}, fit="contain")
    assert "`fit` is not used: no picture or `video` is given" in caplog.text
    assert made.provenance[0]["given"] == []
    first_call(pipelines["nava"], keyframes={}, modalities=["audio"])


def test_the_fit_of_a_long_clip_is_told_once_and_of_all_its_windows(
    pipelines: dict[str, JoVAPipeline], caplog: pytest.LogCaptureFixture
) -> None:
    arguments = {"num_inference_steps": 1, "guidance_scale": 1.0, "modalities": ("video",), "fit": "contain"}
    settings = {"pipeline": pipelines["nava"], "lines": [ScriptLine(0.0, "a dog")], "num_frames": 17, "seed": 0}
    clip = LongClip(**settings, arguments=arguments | {"last_image": picture()})
    list(clip.pieces())
    assert "`fit`" not in caplog.text
    assert clip.record["settings"]["fit"] == "contain"


def test_what_is_cut_of_pictures_is_told_once_by_their_own_names(
    pipelines: dict[str, JoVAPipeline], caplog: pytest.LogCaptureFixture
) -> None:
    wide = np.zeros((32, 64, 3), np.uint8)
    of_pictures = [
        f"`{name}` of 64x32 pixels in a clip of 32x32: 16 columns on either side are cut (`fit` = 'cover')"
        for name in ("image", "keyframes", "last_image")
    ]
    given = {"image": wide, "last_image": wide, "keyframes": {4: wide}}
    first_call(pipelines["zeros"], prompt=["a", "b"], **given | {"image": [wide] * 2, "keyframes": {1: wide}})
    assert sorted(record.message for record in caplog.records) == of_pictures
    for name in ("zeros", "nava"):
        caplog.clear()
        arguments = {"num_inference_steps": 1, "guidance_scale": 1.0, "modalities": ("video",), **given}
        clip = LongClip(
            pipeline=pipelines[name],
            lines=[ScriptLine(0.0, "a dog")],
            num_frames=25,
            seed=0,
            window_frames=9,
            overlap_frames=1,
            tries=2,
            arguments=arguments,
        )
        assert len([*clip.pieces()]) > 2
        assert sorted(record.message for record in caplog.records) == of_pictures


# 3. What is refused


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"keyframes": [picture()]},
            "`keyframes` must be a dict of pictures by their frames, got list; pass {40",
        ),
        ({"keyframes": {"4": picture()}}, "`frame in keyframes` must be a whole number, got '4'"),
        ({"keyframes": {True: picture()}}, "`frame in keyframes` must be a whole number, got True"),
        ({"keyframes": {9: picture()}}, "`keyframes` must be at a frame from 1 to 8 of this clip"),
        (
            {"keyframes": {8: picture()}, "last_image": picture()},
            "got frame 8 from `last_image` as well; leave",
        ),
        (
            {"keyframes": {5: picture(), 7: picture()}},
            "which holds the frames 5 to 8, got the frames 5 and 7",
        ),
        (
            {"keyframes": {4: picture()}, "video": [picture()] * 5},
            "`keyframes` must be behind the 5 frames of the",
        ),
        ({"last_image": picture(), "video": [picture()] * 9}, "`last_image` must be behind the 9 frames of the given"),
        ({"last_image": np.full((32, 32, 3), np.nan)}, "`last_image` of floats must lie in [0, 1], got [nan, nan]"),
        ({"keyframes": {4: "dog.png"}}, "read the file first, by `media.read_image('dog.png')`"),
        (
            {"keyframes": [], "modalities": ["audio"]},
            "`keyframes` must be a dict of pictures by their frames, got list",
        ),
        (
            {"image": picture(), "last_image": picture(), "num_frames": 5},
            "something must be left to generate, got given pictures (`image` and `last_image`) for the whole",
        ),
        (
            {"prompt": ["a", "b"], "num_videos_per_prompt": 3, "last_image": [picture()] * 3},
            "`last_image` must be one for all clips or one per prompt, got 3 for 2 prompts; pass one, or as many",
        ),
        (
            {"prompt": ["a", "b", "c", "d"], "image": [picture()] * 2},
            "`image` must be one for all clips or one per prompt, got 2 for 4 prompts; pass one, or as many",
        ),
        ({"last_image": [picture()] * 2}, "`last_image` must be one for all clips or one per prompt, got 2 for 1"),
        (
            {"last_image": picture(), "modalities": ["audio"]},
            "`last_image` must be None where `modalities` lacks",
        ),
    ],
)
def test_pictures_without_a_place_are_refused(
    pipelines: dict[str, JoVAPipeline], given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        first_call(pipelines["nava"], **given)


def test_condition_channels_without_a_mask_cannot_say_where_a_picture_stands() -> None:
    pipeline = build_tiny_pipeline(transformer=build_transformer(in_channels=32))
    with pytest.raises(ValueError, match="`last_image` must be None for a model whose condition channels hold no"):
        first_call(pipeline, last_image=picture())


def test_a_picture_within_a_given_video_is_refused_by_its_option_before_weights_are_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(JoVAPipeline, "from_pretrained", None)
    PIL.Image.fromarray(picture()).save(tmp_path / "a.png")
    write_video(tmp_path / "a.mp4", [picture()] * 9, 16.0)
    words = ["generate", "--prompt", "a dog", "--video", str(tmp_path / "a.mp4"), "--num-frames", "17"]
    with pytest.raises(SystemExit):
        main([*words, "--keyframe", f"4={tmp_path / 'a.png'}", "--output", str(tmp_path / "b.mp4")])
    assert "`--keyframe` must be behind the 9 frames of the given `--video`, got frame 4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"keyframes": {13: picture(), 15: picture()}}, "holds the frames 13 to 16, got the frames 13 and 15"),
        ({"keyframes": {13: "a.png"}}, "read the file first, by `media.read_image('a.png')`"),
        ({"keyframes": {13.5: picture()}}, "`frame in keyframes` must be a whole number, got 13.5"),
        ({"keyframes": {"13": picture()}}, "`frame in keyframes` must be a whole number, got '13'"),
        ({"keyframes": [picture()]}, "`keyframes` must be a dict of pictures by their frames, got list"),
        ({"last_image": [picture()] * 2}, "`last_image` must be one for all clips or one per prompt, got 2 for 1"),
        ({"image": [picture()] * 2}, "`image` must be one for all clips or one per prompt, got 2 for 1"),
    ],
)
def test_pictures_of_a_long_clip_are_refused_before_its_first_window(
    pipelines: dict[str, JoVAPipeline], given: dict[str, Any], message: str
) -> None:
    settings = {"pipeline": pipelines["nava"], "lines": [ScriptLine(0.0, "a dog")], "num_frames": 17, "seed": 0}
    with pytest.raises(ValueError, match=re.escape(message)):
        LongClip(**settings, arguments=given)


def test_windows_of_a_model_without_masks_are_not_begun_with_pictures() -> None:
    pipeline = build_tiny_pipeline(transformer=build_transformer(in_channels=32))
    settings = {"pipeline": pipeline, "lines": [ScriptLine(0.0, "a dog")], "num_frames": 17, "seed": 0}
    with pytest.raises(ValueError, match="`last_image` must be None for a model whose condition channels hold no"):
        LongClip(**settings, arguments={"last_image": picture()})
