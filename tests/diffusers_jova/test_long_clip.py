import json
import re
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import MagCacheConfig, UniPCMultistepScheduler
from PIL import Image

from diffusers_jova import FlowMatchAudioVideoScheduler, JoVACacheConfig, JoVAPipeline, JoVAPrompt, media
from diffusers_jova.long_clip import LongClip, MadeWindow, Piece, ScriptLine
from diffusers_jova.origin import OriginError, check_origin, keep_origin, read_origin
from diffusers_jova.pictures import fit_pictures
from diffusers_jova.provenance import read_provenance
from diffusers_jova.window_folder import WindowFolder, folder_of, window_folder
from jova_cli.generate import parse, said_of_interrupt
from jova_cli.main import main
from jova_cli.parser import NOTHING_WRITTEN
from tests.tiny_pipeline import build_spoken_pipeline, build_tiny_pipeline


NUM_FRAMES = 17  # two windows
SECOND = np.zeros((1, 16000), np.float32)
LINES = (
    ScriptLine(0.0, JoVAPrompt(video="a man", transcript="one two three")),
    ScriptLine(0.5, JoVAPrompt(video="a dog", transcript="four")),
)


@pytest.fixture(scope="module")
def pipeline() -> JoVAPipeline:
    return build_tiny_pipeline()


def long_clip(pipeline: JoVAPipeline, **options: Any) -> LongClip:
    arguments = {"num_inference_steps": 1, "guidance_scale": 1.0, **options.pop("arguments", {})}
    return LongClip(
        **{"pipeline": pipeline, "lines": LINES, "num_frames": NUM_FRAMES, "seed": 3, **options}, arguments=arguments
    )


def joined(pieces: Iterator[Piece]) -> tuple[torch.Tensor, torch.Tensor]:
    frames, sound = zip(*pieces, strict=True)
    return torch.cat(frames), torch.cat(sound, dim=1)


# 1. Pieces


def test_pieces_have_the_frames_and_the_samples_of_one_clock(pipeline: JoVAPipeline) -> None:
    frame_rate = 23.976  # of which no frame begins with a sample
    clip = long_clip(pipeline, lines=[ScriptLine(0.0, "a dog")], arguments={"frame_rate": frame_rate})
    frame = 0
    for piece in clip.pieces():
        frame += len(piece.frames)
        assert piece.audio is not None
        begun = clip.sample_at(frame - len(piece.frames))
        assert piece.audio.shape == (1, clip.sample_at(frame) - begun)
        assert abs(begun / 16000 - (frame - len(piece.frames)) / float(media.exact_frame_rate(frame_rate))) < 1 / 16000
        assert 0 <= float(piece.frames.min()) <= float(piece.frames.max()) <= 1
    assert frame == NUM_FRAMES
    assert len(clip.fades) == len(clip.windows) - 1


def voice(duration_s: float, rate: int = 16000) -> np.ndarray:
    """A sound that is nowhere the same."""
    return (0.3 * np.sin(np.arange(round(duration_s * rate)) ** 1.2 / 40)).astype(np.float32)[None]


def test_a_given_sound_drives_all_windows_and_comes_back_as_it_was(
    pipeline: JoVAPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Mapping[str, Any]] = []
    monkeypatch.setattr(JoVAPipeline, "__call__", recording(JoVAPipeline.__call__, calls))
    sound = voice(2.5)
    clip = long_clip(pipeline, num_frames=None, lines=LINES[:1], audio=sound, audio_sampling_rate=16000)
    assert clip.num_frames == 41  # the first 4k + 1 that hold 2.5 s at 16 per second
    frames, made = joined(clip.pieces())
    assert frames.shape[0] == 41
    assert made.shape == (1, 41000)
    np.testing.assert_array_equal(made[:, :40000], sound)
    assert not made[:, 40000:].any()
    assert clip.fades == []
    assert len(calls) == len(clip.windows) > 2
    for call, window in zip(calls, clip.windows, strict=True):
        first, end = clip.sample_at(window.first_frame), clip.sample_at(window.end_frame)
        np.testing.assert_array_equal(call["audio"], made[:, first:end])
        assert ("video" in call) == (window.num_overlap > 0)
    assert "audio" in clip.record["given"]


def moving_frames(num_frames: int, height: int = 48, width: int = 32) -> np.ndarray:
    """Frames that are nowhere the same, of another shape than the clips."""
    return np.random.default_rng(0).integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)


def test_a_given_video_of_any_length_gets_sound_and_comes_back_as_it_was(
    pipeline: JoVAPipeline, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[Mapping[str, Any]] = []
    monkeypatch.setattr(JoVAPipeline, "__call__", recording(JoVAPipeline.__call__, calls))
    given = media.Video(moving_frames(43), Fraction(10), voice(4.3), 16000)
    clip = long_clip(pipeline, num_frames=None, lines=LINES[:1], video=given)
    frames, sound = joined(clip.pieces())
    assert clip.num_frames == len(frames) == 41
    assert clip.frame_rate == 10
    assert sound.shape == (1, clip.sample_at(41))
    size = pipeline.defaults.height, pipeline.defaults.width
    expected = fit_pictures(given.frames[:41], *size, "cover")
    np.testing.assert_array_equal((frames * 255).round().byte().movedim(1, -1), expected)
    assert len(calls) == len(clip.windows) > 2
    for call, window in zip(calls, clip.windows, strict=True):
        np.testing.assert_array_equal(call["video"], expected[window.first_frame : window.end_frame])
        assert ("audio" in call) == (window.num_overlap > 0)  # the end of the sound before
    assert len(clip.fades) == len(clip.windows) - 1
    assert clip.record["given"] == ["video"]
    assert [record.message for record in caplog.records] == [
        "the sound of `video` is not used: that of the clip is made",
        "`video` of 43 frames at 10 per second is cut to its first 41: latents hold 4k + 1",
        "`video` of 32x48 pixels in a clip of 32x32: 8 rows above and below are cut (`fit` = 'cover')",
    ]
    other = long_clip(pipeline, num_frames=None, lines=LINES[:1], video=given._replace(frames=given.frames[::-1]))
    assert other.origin() != clip.origin()


def test_a_clip_ends_with_its_last_line_where_nothing_else_says_how_long_it_is(pipeline: JoVAPipeline) -> None:
    lines = [LINES[0], replace(LINES[1], start_s=1.0, end_s=2.55)]
    clip = long_clip(pipeline, lines=lines, num_frames=None)
    assert clip.windows[-1].end_frame == 41  # 2.5625 s at 16 per second
    assert long_clip(pipeline, lines=lines, num_frames=49).windows[-1].end_frame == 49


def test_words_that_end_behind_the_clip_are_told(pipeline: JoVAPipeline, caplog: pytest.LogCaptureFixture) -> None:
    sound = {"num_frames": None, "audio": voice(25 / 16), "audio_sampling_rate": 16000}
    long_clip(pipeline, lines=[replace(LINES[0], end_s=25 / 16 + 0.2)], **sound)
    assert not caplog.records
    long_clip(pipeline, lines=[replace(LINES[0], end_s=4.5)], **sound)
    (said,) = (record.message for record in caplog.records)
    assert said == "the words of the line at 0 s end at 4.5 s, the clip at 1.562 s: it may lack the last of them"


def test_another_sound_makes_another_clip(pipeline: JoVAPipeline) -> None:
    options = {"num_frames": 25, "lines": LINES[:1], "audio_sampling_rate": 16000}
    clips = [long_clip(pipeline, audio=sound, **options) for sound in (voice(25 / 16), voice(25 / 16)[:, ::-1] / 9)]
    assert clips[0].origin() != clips[1].origin()
    one, other = (joined(clip.pieces())[0] for clip in clips)
    assert not torch.equal(one, other)


def test_a_sound_of_another_rate_and_of_two_channels_is_brought_to_that_of_the_model(pipeline: JoVAPipeline) -> None:
    given = media.Sound(np.repeat(voice(25 / 16, 24000), 2, axis=0), 24000)
    clip = long_clip(pipeline, num_frames=None, lines=LINES[:1], audio=given)
    _, made = joined(clip.pieces())
    expected = media.resample(given.audio[:1], 24000, 16000)
    np.testing.assert_allclose(made, expected, atol=1e-6)


def test_the_first_window_is_the_clip_of_a_single_call(pipeline: JoVAPipeline) -> None:
    lines = [ScriptLine(0.0, "a dog")]
    (piece,) = long_clip(pipeline, lines=lines, num_frames=9).pieces()
    options = {"num_inference_steps": 1, "guidance_scale": 1.0, "output_type": "pt"}
    output: Any = pipeline("a dog", generator=torch.Generator().manual_seed(3), **options)
    assert torch.equal(piece.frames, output.frames[0])
    assert piece.audio is not None
    assert torch.equal(piece.audio, output.audio[0])


def test_every_window_but_the_first_begins_with_the_end_of_the_one_before(
    pipeline: JoVAPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Mapping[str, Any]] = []
    monkeypatch.setattr(JoVAPipeline, "__call__", recording(JoVAPipeline.__call__, calls))
    image = Image.new("RGB", (32, 32), "red")
    clip = long_clip(pipeline, arguments={"image": image})
    made: list[Any] = []
    decode = clip.decode
    clip.decode = lambda *args: made.append(decode(*args)) or made[-1]  # type: ignore[method-assign, func-returns-value]
    list(clip.pieces())
    assert [call.get("image") for call in calls] == [image, *[None] * (len(calls) - 1)]
    for call, before, window in zip(calls[1:], made, clip.windows[1:], strict=False):
        assert len(call["video"]) == window.num_overlap
        shared = before.frames[len(before.frames) - window.num_overlap :].movedim(1, -1).numpy()
        np.testing.assert_array_equal(call["video"][-1:], shared[-1:])  # behind the last joint nothing is mixed
        assert call["audio"].shape[1] <= 1000 * window.num_overlap
    own = ["one two three", "four"]  # behind the words of a beginning, which are told again
    assert all(call["prompt"].transcript.endswith(words) for call, words in zip(calls, own, strict=True))


def recording(call: Any, calls: list[Mapping[str, Any]]) -> Any:
    def recorded(self: JoVAPipeline, **arguments: Any) -> Any:
        calls.append(arguments)
        return call(self, **arguments)

    return recorded


def test_a_video_without_sound_is_made_and_no_more_than_two_windows_are_held(pipeline: JoVAPipeline) -> None:
    lines = [ScriptLine(0.0, "a dog")]
    clip = long_clip(pipeline, lines=lines, num_frames=25, arguments={"modalities": ["video"]})
    decoded: list[weakref.ref[torch.Tensor]] = []
    decode = clip.decode

    def watched(*args: Any) -> Any:
        made = decode(*args)
        decoded.append(weakref.ref(made.frames))
        return made

    clip.decode = watched  # type: ignore[method-assign]
    frames = 0
    for piece in clip.pieces():
        assert piece.audio is None
        frames += len(piece.frames)
        assert sum(made() is not None for made in decoded) <= 2
    assert (frames, len(decoded)) == (25, 3)


def test_a_model_that_reads_a_voice_reads_that_of_the_first_window() -> None:
    clip = long_clip(build_spoken_pipeline(), arguments={"image": Image.new("RGB", (32, 32))})
    heard = MadeWindow(torch.rand(9, 3, 32, 32), torch.rand(1, 200_000) - 0.5, num_filled=190_000)
    prompt = JoVAPrompt(transcript="one two")
    voice = clip.voice_of(heard, prompt)
    assert voice["reference_audio"].shape == (1, 10_000)
    assert voice["reference_transcript"] == "one two"
    whole = clip.voice_of(heard._replace(num_filled=0), prompt)["reference_audio"]
    assert whole.shape == (1, 5 * clip.pipeline.sampling_rate)  # as much as the model reads
    assert clip.voice_of(heard._replace(audio=torch.zeros(1, 9000), num_filled=0), prompt) == {}


def test_a_line_behind_one_as_long_as_a_window_is_made(pipeline: JoVAPipeline) -> None:
    lines = [ScriptLine(0.0, "a dog"), ScriptLine(9 / 16, "a cat")]  # of which the second wants all of the first
    clip = long_clip(pipeline, lines=lines, window_frames=17, arguments={"modalities": ["video"]})
    assert [len(piece.frames) for piece in clip.pieces()] == [4, 13]


def test_a_clip_is_as_long_as_it_says_where_a_window_that_begins_in_a_pause_can_give_less_to_the_next(
    pipeline: JoVAPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    paused = 25_000, 5_000  # samples of the first window, and of its quiet end
    told = "diffusers_jova.long_clip.ends_in_pause"
    monkeypatch.setattr(told, lambda sound, num_end, _: (sound.shape[1], num_end) == paused)
    lines = [ScriptLine(start / 16, JoVAPrompt(video="a man", transcript="one two")) for start in (0, 25, 29)]
    clip = long_clip(pipeline, lines=lines, num_frames=33, window_frames=25, overlap_frames=13)
    pieces = list(clip.pieces())
    assert [window.num_overlap for window in clip.planned] == [0, 13, 13]
    assert [window.num_overlap for window in clip.windows] == [0, 5, 5]
    assert [len(piece.frames) for piece in pieces] == [20, 4, 9]
    assert joined(iter(pieces))[1].shape[1] == clip.sample_at(33)


def test_pieces_that_do_not_make_up_the_clip_are_an_error_and_no_file(pipeline: JoVAPipeline, tmp_path: Path) -> None:
    def announce(*_: int) -> None:
        clip.windows[-1] = clip.planned[-1]._replace(num_frames=clip.planned[-1].num_frames - 4)

    clip = long_clip(pipeline, announce=announce)
    with pytest.raises(RuntimeError, match=r"pieces must hold 17 frames and 17000 samples, got 13 and 13000"):
        clip.save(tmp_path / "clip.mp4")
    assert not (tmp_path / "clip.mp4").exists()


# 2. Going on


def test_a_clip_that_goes_on_is_that_of_one_run(pipeline: JoVAPipeline, tmp_path: Path) -> None:
    frames, sound = joined(long_clip(pipeline).pieces(WindowFolder(tmp_path)))
    WindowFolder(tmp_path).path(1).unlink()
    assert WindowFolder(tmp_path).num_kept == 1
    again, again_sound = joined(long_clip(pipeline).pieces(WindowFolder(tmp_path)))
    assert torch.equal(again, frames)
    assert torch.equal(again_sound, sound)


def test_an_interrupted_file_goes_on_and_its_preview_can_be_watched(
    pipeline: JoVAPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "clip.mp4"
    with pytest.raises(KeyboardInterrupt):
        long_clip(pipeline, announce=interrupted_at(1)).save(path)
    assert not path.exists()
    seen = media.read_video(folder_of(path) / "preview.mp4")
    assert 0 < len(seen.frames) < NUM_FRAMES
    made: list[Mapping[str, Any]] = []
    monkeypatch.setattr(JoVAPipeline, "__call__", recording(JoVAPipeline.__call__, made))
    clip = long_clip(pipeline)
    clip.save(path)
    assert len(made) == len(clip.windows) - 1
    assert [file.name for file in tmp_path.iterdir()] == ["clip.mp4"]
    film = media.read_video(path)
    assert film.frames.shape == (NUM_FRAMES, 32, 32, 3)
    assert film.audio is not None
    assert film.audio.shape == (1, clip.sample_at(NUM_FRAMES))
    record = read_provenance(path)
    assert record is not None
    assert record["settings"]["num_frames"] == NUM_FRAMES
    assert [line["prompt"]["transcript"] for line in record["script"]] == ["one two three", "four"]


def test_a_clip_whose_windows_were_tried_again_tells_how_it_was_asked_for(
    pipeline: JoVAPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffusers_jova.long_clip.ends_in_pause", lambda *_: False)  # of any try
    clip = long_clip(pipeline, lines=[replace(LINES[0], end_s=0.4), LINES[1]], tries=2, overlap_frames=5)
    list(clip.pieces())
    assert clip.record is not None
    assert clip.record["seed"] == 3
    assert {name: clip.record["windows"][name] for name in ("tries", "overlap_frames")} == {
        "tries": 2,
        "overlap_frames": 5,
    }
    assert clip.record["script"][0]["end"] == 0.4


def interrupted_at(number: int) -> Any:
    def announce(index: int, _: int) -> None:
        if index == number:
            raise KeyboardInterrupt

    return announce


def test_a_kept_window_of_another_place_is_refused(pipeline: JoVAPipeline, tmp_path: Path) -> None:
    list(long_clip(pipeline).pieces(WindowFolder(tmp_path)))
    clip = long_clip(pipeline)
    clip.planned[-1] = clip.planned[-1]._replace(num_overlap=5)  # as where a sound is told to end otherwise
    with pytest.raises(OriginError, match=r"window-00001\.safetensors` must be made .*, got `window` \["):
        list(clip.pieces(WindowFolder(tmp_path)))


def test_a_folder_without_a_window_refuses_no_other_settings(pipeline: JoVAPipeline, tmp_path: Path) -> None:
    origin = long_clip(pipeline).origin()
    path = tmp_path / "clip.mp4"
    folder_of(path).mkdir()
    keep_origin(folder_of(path), origin)
    with window_folder(path, origin | {"seed": 4}) as kept:
        assert read_origin(kept.folder)["seed"] == 4
    keep_origin(folder_of(path), origin)
    WindowFolder(folder_of(path)).path(1).touch()
    with pytest.raises(OriginError, match="`seed` 3 there, 4 here"), window_folder(path, origin | {"seed": 4}):
        pass


OTHERS: dict[str, dict[str, Any]] = {
    "seed": {"seed": 4},
    "lines": {"lines": [ScriptLine(0.0, "a dog")]},
    "image": {"arguments": {"image": Image.new("RGB", (32, 32))}},
    "number of numpy": {"arguments": {"num_inference_steps": np.int64(2)}},
}


@pytest.mark.parametrize("change", OTHERS)
def test_windows_of_another_clip_are_not_gone_on_with(pipeline: JoVAPipeline, change: str) -> None:
    origin = long_clip(pipeline, arguments={"num_inference_steps": np.int64(1)}).origin()
    assert long_clip(pipeline).origin() == origin
    with pytest.raises(OriginError):
        check_origin(origin, long_clip(pipeline, **OTHERS[change]).origin(), Path("clip.mp4.windows"))


def changed_weight(component: str) -> Callable[[JoVAPipeline, pytest.MonkeyPatch], None]:
    def change(pipeline: JoVAPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
        weight = list(getattr(pipeline, component).parameters())[-1]
        monkeypatch.setattr(weight, "data", weight.data + 1)

    return change


def cached(config: Any) -> Callable[[JoVAPipeline, pytest.MonkeyPatch], None]:
    return lambda pipeline, monkeypatch: monkeypatch.setattr(pipeline.transformer, "_cache_config", config)


MODELS: dict[str, Callable[[JoVAPipeline, pytest.MonkeyPatch], None]] = {
    **{name: changed_weight(name) for name in ("transformer", "text_encoder", "vae", "audio_vae", "vocoder")},
    "cache": cached(JoVACacheConfig(video_interval=2)),
    "interval of a cache": cached(JoVACacheConfig(video_interval=3)),
    "format of a cache": cached(JoVACacheConfig(video_interval=2, storage_dtype=torch.float8_e4m3fn)),
    "cache of diffusers": cached(MagCacheConfig(mag_ratios=torch.ones(2), num_inference_steps=2)),
    "scheduler": lambda pipeline, monkeypatch: monkeypatch.setattr(pipeline, "scheduler", UniPCMultistepScheduler()),
    "shift": lambda pipeline, monkeypatch: monkeypatch.setattr(
        pipeline, "scheduler", FlowMatchAudioVideoScheduler(shift=7.0)
    ),
    "default": lambda pipeline, monkeypatch: monkeypatch.setattr(
        pipeline, "defaults", pipeline.defaults.override(guidance_rescale=0.5)
    ),
    "template": lambda pipeline, _: pipeline.register_to_config(prompt_template="{video}"),
}


def test_windows_of_another_model_or_other_settings_of_it_are_not_gone_on_with(pipeline: JoVAPipeline) -> None:
    origins = [long_clip(pipeline).origin()]
    template = pipeline.config["prompt_template"]
    for change in MODELS.values():
        with pytest.MonkeyPatch.context() as monkeypatch:
            change(pipeline, monkeypatch)
            origins.append(long_clip(pipeline).origin())
    pipeline.register_to_config(prompt_template=template)
    assert long_clip(pipeline).origin() == origins[0]
    texts = [json.dumps(origin, sort_keys=True) for origin in origins]
    same = [name for name, text in zip(["none", *MODELS], texts, strict=True) if texts.count(text) > 1]
    assert not same
    for name, origin in zip(MODELS, origins[1:], strict=True):
        with pytest.raises(OriginError):
            check_origin(origins[0], origin, Path(name))


def test_a_default_that_a_call_replaces_and_a_clip_that_was_made_change_no_origin(
    pipeline: JoVAPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = long_clip(pipeline).origin()
    list(long_clip(pipeline, lines=[ScriptLine(0.0, "a dog")], num_frames=9).pieces())
    monkeypatch.setattr(pipeline, "defaults", pipeline.defaults.override(guidance_scale=5.0))
    assert long_clip(pipeline).origin() == origin


# 3. Refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window_frames": 65}, "`window_frames` must be at most 61, the longest clip of this model, got 65; use 9"),
        ({"num_frames": 30}, "`num_frames` must be 4k + 1 (the video VAE compresses time by 4), got 30; use 29 or 33"),
        ({"tries": 0}, "`tries` must be at least 1, got 0; use 3, say"),
        ({"lines": []}, "`lines` must begin at 0 s, got []; say what the clip begins with"),
        ({"lines": [ScriptLine(1.0, "a")]}, "`lines` must begin at 0 s, got [1.0]; say what the clip begins with"),
        (
            {"lines": [ScriptLine(0.0, "a"), ScriptLine(0.0, "b")]},
            "`lines` must have ascending times, got 0.0 s after 0.0 s; sort them",
        ),
        (
            {"lines": [ScriptLine(0.0, "a", 0.9), ScriptLine(0.5, "b")]},
            "`lines` must not overlap, got one from 0.5 s before `end_s` 0.9 of the last; correct one of them",
        ),
        ({"lines": "hi"}, "`lines` must be a list of ScriptLine, got 'hi'; pass `[ScriptLine(0, prompt)]`"),
        ({"num_frames": "49"}, "`num_frames` must be a whole number, got '49'; write it without quotes"),
        ({"window_frames": 9.0}, "`window_frames` must be a whole number, got 9.0; write it without a point"),
        ({"seed": "x"}, "`seed` must be a whole number, got 'x'; write it without quotes"),
        ({"seed": -1}, "`seed` must be at least 0, got -1"),
        ({"seed": 2**64}, f"`seed` must be at most {2**64 - 1}, got {2**64}; use a smaller one"),
        ({"announce": 3}, "`announce` must be callable, got 3; pass a function or leave it out"),
        ({"arguments": {"hieght": 32}}, "`arguments` must be those of a call of the pipeline, got 'hieght'; did you"),
        (
            {"arguments": {"modalities": "video"}},
            "`modalities` must be a list of names out of ['video', 'audio'], got",
        ),
        (
            {"audio": SECOND, "audio_sampling_rate": 16000, "num_frames": 25},
            "`audio` must last as long as the clip that is",
        ),
        (
            {"audio": SECOND, "audio_sampling_rate": 16000, "num_frames": 9},
            "`audio` must last as long as the clip that is made by windows, 0.562 s, got 1.000 s; leave the number of "
            "frames out, which makes 17 of them",
        ),
        (
            {"audio": SECOND, "audio_sampling_rate": 16000, "num_frames": 0},
            "`num_frames` must be 4k + 1 (the video VAE compresses time by 4), got 0; use 1 or 5",
        ),
        (
            {"audio": SECOND, "audio_sampling_rate": 16000, "num_frames": 18},
            "`num_frames` must be 4k + 1 (the video VAE compresses time by 4), got 18; use 17 or 21",
        ),
        ({"audio": SECOND, "audio_sampling_rate": 0}, "`audio_sampling_rate` must be a positive whole number of samp"),
        (
            {"audio": SECOND, "audio_sampling_rate": "16000"},
            "`audio_sampling_rate` must be a whole number, got '16000'",
        ),
        ({"audio": SECOND}, "`audio_sampling_rate` must be given with an array of sound"),
        ({"audio_sampling_rate": 16000}, "`audio` must go with its rate, got the rate alone; pass the sound"),
        ({"num_frames": None}, "`num_frames` must be given without `audio`, got None; use 481, say"),
        (
            {"audio": SECOND, "audio_sampling_rate": 16000, "num_frames": 17, "tries": 2},
            "`tries` must be 1 beside `audio`, whose pauses no try moves, got 2; leave it out",
        ),
        (
            {"audio": SECOND, "audio_sampling_rate": 16000, "arguments": {"modalities": ["video"]}},
            "`modalities` must hold 'audio' beside a given `audio`, got frames alone; leave them out",
        ),
        (
            {"video": moving_frames(17), "num_frames": 25},
            "`video` must be as long as the clip that is made by windows, 25 frames, got 17; leave the number of "
            "frames out, which makes 17 of them",
        ),
        (
            {"video": moving_frames(17), "audio": SECOND, "audio_sampling_rate": 16000},
            "`audio` must be left out beside a `video` of the whole clip, got both; give one of them",
        ),
        (
            {"video": moving_frames(17), "arguments": {"modalities": ["video"]}},
            "`modalities` must hold 'audio' beside a given `video`, got frames alone; leave them out",
        ),
        (
            {"video": moving_frames(17), "arguments": {"image": moving_frames(1)[0]}},
            "`image` must be left out beside a `video` of the whole clip, which has all frames",
        ),
        (
            {"video": moving_frames(17), "arguments": {"last_image": moving_frames(1)[0]}},
            "`last_image` must be left out beside a `video` of the whole clip, which has all frames",
        ),
        ({"video": voice(1.0)}, "`video` must have the shape [N, H, W, C] or"),
        ({"arguments": {"video": 1}}, "`arguments` must leave `video` to the windows, got it; leave it out"),
        ({"arguments": {"modalities": ["audio"]}}, "`modalities` must hold 'video' in a long clip, got sound alone"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_a_clip_that_cannot_be_made_is_refused(pipeline: JoVAPipeline, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        long_clip(pipeline, **options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((float("nan"), "a"), "`start_s` must be finite, got nan; give seconds from the beginning of the clip"),
        ((-1, "a"), "`start_s` must be 0 s or later, got -1; 0 is the beginning of the clip"),
        (("0", "a"), "`start_s` must be a number, got '0'; write it without quotes"),
        ((None, "a"), "`start_s` must be a number, got None; give a number alone"),
        ((0, 3), "`prompt` of a line must be a str or a JoVAPrompt, got 3; pass one of them"),
        ((0, ["a"]), "`prompt` of a line must be a str or a JoVAPrompt, got ['a']; pass one of them"),
        ((2, "a", 1.5), "`end_s` must come after `start_s`, 2, got 1.5; correct it"),
    ],
)
def test_a_line_has_a_time_and_a_prompt(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        ScriptLine(*arguments)


def test_the_words_of_a_line_end_and_its_picture_holds_on(pipeline: JoVAPipeline) -> None:
    said, seen = JoVAPrompt(video="a man", transcript="one two"), JoVAPrompt(video="a man")
    lines = [ScriptLine(0.0, said, 0.5), ScriptLine(1.5, "a dog", 2.0)]
    clip = long_clip(pipeline, lines=lines, num_frames=49)
    assert [(line.start_s, line.prompt) for line in clip.lines] == [
        (0.0, said),
        (0.5, seen),
        (1.5, "a dog"),
        (2.0, "a dog"),
    ]
    ends = [ScriptLine(0.0, said, 0.9), ScriptLine(1.0, "a dog")]  # a pause of less than a latent, 0.25 s, is none
    assert len(long_clip(pipeline, lines=ends, num_frames=33).lines) == 2


def test_a_long_clip_is_made_by_a_loaded_pipeline() -> None:
    with pytest.raises(ValueError, match="`pipeline` must be a JoVAPipeline, got 'x'; load one by `from_pretrained`"):
        LongClip(pipeline="x", lines=LINES, num_frames=NUM_FRAMES, seed=3)


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_made(
    pipeline: JoVAPipeline, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"`path` must end in \.mp4, got .*clip\.avi"):
        long_clip(pipeline).save(tmp_path / "clip.avi")
    with pytest.raises(OSError, match="`path` must be a file that can be written, got"):
        long_clip(pipeline).save(tmp_path / "missing" / "clip.mp4")
    assert not list(tmp_path.iterdir())


# 4. The command


def test_a_script_becomes_a_long_clip(tiny_pipeline_folder: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.csv"
    script.write_text("start,end,transcript\n0,,one\n0.5,1,two\n")
    words = ["generate", "--model", str(tiny_pipeline_folder), "--script", str(script), "--video-caption", "a man"]
    main([*words, "--steps", "1", "--guidance-scale", "1", "--output", str(tmp_path / "clip.mp4"), "--seed", "1"])
    assert len(media.read_video(tmp_path / "clip.mp4").frames) == NUM_FRAMES
    record = read_provenance(tmp_path / "clip.mp4")
    assert record is not None
    assert [(line["start"], line["prompt"]["transcript"]) for line in record["script"]] == [(0, "one"), (0.5, "two")]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["clip.mp4", "script.csv"]


def test_a_sound_is_the_length_of_a_clip_whose_script_ends_earlier(tiny_pipeline_folder: Path, tmp_path: Path) -> None:
    script, sound = tmp_path / "script.csv", tmp_path / "voice.wav"
    script.write_text("start,end,transcript\n0,,one\n0.5,1,two\n")
    media.write_audio(sound, voice(1.5), 16000)
    words = ["generate", "--model", str(tiny_pipeline_folder), "--script", str(script), "--video-caption", "a man"]
    words += ["--audio", str(sound), "--steps", "1", "--guidance-scale", "1", "--output", str(tmp_path / "clip.mp4")]
    main(words)
    assert len(media.read_video(tmp_path / "clip.mp4").frames) == 25
    record = read_provenance(tmp_path / "clip.mp4")
    assert record is not None
    assert [(line["start"], line["prompt"]["transcript"]) for line in record["script"]] == [
        (0, "one"),
        (0.5, "two"),
        (1, ""),
    ]


def test_sound_is_made_for_a_video_of_any_length(
    tiny_pipeline_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = moving_frames(40, 32)
    media.write_video(tmp_path / "given.mp4", media.Video(frames, Fraction(16), voice(2.5), 16000))
    words = ["generate", "--model", str(tiny_pipeline_folder), "--prompt", "a dog", "--window-frames", "17"]
    words += ["--video", str(tmp_path / "given.mp4"), "--steps", "1", "--guidance-scale", "1"]
    main([*words, "--output", str(tmp_path / "clip.mp4")])
    made = media.read_video(tmp_path / "clip.mp4")
    assert len(made.frames) == 37
    assert made.audio is not None
    record = read_provenance(tmp_path / "clip.mp4")
    assert record is not None
    assert record["given"] == ["video"]
    assert "the sound of `--video` is left out: that of the clip is made" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*words, "--num-frames", "65", "--output", str(tmp_path / "more.mp4")])
    assert "`video` must be as long as the clip that is made by windows, 65 frames, got 40" in capsys.readouterr().err


def test_more_frames_than_the_model_makes_are_made_by_windows(
    tiny_pipeline_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["generate", "--model", str(tiny_pipeline_folder), "--prompt", "a dog", "--steps", "1"]
    words += ["--guidance-scale", "1", "--frame-rate", "2", "--num-frames", "9"]  # positions hold the sound of 5
    main([*words, "--output", str(tmp_path / "clip.mp4")])
    assert len(media.read_video(tmp_path / "clip.mp4").frames) == 9
    assert "preview.mp4` shows what is done" in capsys.readouterr().err


def test_ctrl_c_tells_where_the_windows_lie_if_there_are_any(
    tiny_pipeline_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--model", str(tiny_pipeline_folder), "--prompt", "a dog", "--num-frames", "65", "--output", "clip.mp4"]
    args = parse(words)[1]
    assert said_of_interrupt(args) == NOTHING_WRITTEN
    kept = WindowFolder(folder_of(Path("clip.mp4")))
    kept.folder.mkdir()
    kept.path(0).touch()
    assert said_of_interrupt(args) == "the windows in `clip.mp4.windows` are whole; the same command goes on"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--num-frames", "62"], "`num_frames` must be 4k + 1"),
        (["--num-frames", "65", "--frame-rate", "0"], "`--frame-rate` must be a number from 0.001 to 1000, got 0"),
        (["--num-frames", "65", "--window-frames", "65"], "`window_frames` must be at most 61"),
        (["--script", "none.csv"], "`--script` must be an existing .jsonl or .csv file, got none.csv"),
        (["--script", "script.csv"], "the length of the clip must be given by `--num-frames` or by the `end`"),
        (["--script", "script.csv", "--num-frames", "33"], "`start` must come before the end of the clip, 2.0625 s"),
        (
            ["--window-frames", "9", "--audio", "a.wav", "--video", "a.mp4"],
            "`--audio` must be left out of a clip made",
        ),
        (["--num-frames", "65", "--audio", "a.wav", "--tries", "2"], "`--tries` must be 1 beside `--audio`, whose"),
        (["--script", "script.csv", "--num-frames", "65", "--height", "20"], "`height` must be a positive multiple"),
        (["--script", "script.csv", "--prompts", "list.csv"], "must be used without `--prompts`, got both"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_long_clips_that_cannot_be_meant_are_refused_in_one_sentence(
    more: list[str],
    message: str,
    tiny_pipeline_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("script.csv").write_text("start,prompt\n0,a dog\n3,a cat\n")
    Path("list.csv").write_text("prompt\na dog\n")
    prompt = [] if "--script" in more else ["--prompt", "a dog"]
    output = "clips" if "--prompts" in more else "clip.mp4"
    with pytest.raises(SystemExit):
        main(["generate", "--model", str(tiny_pipeline_folder), *prompt, "--output", output, *more])
    (said,) = capsys.readouterr().err.strip().splitlines()
    assert message in said
    assert not Path(output).exists()
