"""A clip that goes through moviepy keeps every frame, and its sound to the sample."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffusers_jova import JoVAPipelineOutput, media
from diffusers_jova.moviepy_clips import is_moviepy_clip
from diffusers_jova.provenance import read_provenance
from tests.tiny_pipeline import build_tiny_pipeline


HEIGHT, WIDTH = 48, 64


@pytest.fixture
def moviepy() -> Any:
    return pytest.importorskip("moviepy")


def make_output(
    num_frames: int, frame_rate: float, sampling_rate: int, channels: int, seed: int
) -> JoVAPipelineOutput:
    """Frames and samples that are all different."""
    random = np.random.default_rng(seed)
    num_samples = round(num_frames / frame_rate * sampling_rate)
    return JoVAPipelineOutput(
        frames=random.integers(0, 256, (1, num_frames, HEIGHT, WIDTH, 3)) / np.float32(255),
        audio=random.uniform(-0.5, 0.5, (1, channels, num_samples)).astype(np.float32),
        frame_rate=frame_rate,
        sampling_rate=sampling_rate,
    )


def frames_of(output: JoVAPipelineOutput) -> np.ndarray:
    return media.to_uint8_frames(output.frames[0])


RATES = [(16.0, 16000, 1), (24.0, 44100, 2), (24000 / 1001, 16000, 1), (30.0, 22050, 2), (25.0, 16000, 1)]


@pytest.mark.usefixtures("moviepy")
@pytest.mark.parametrize(("frame_rate", "sampling_rate", "channels"), RATES)
@pytest.mark.parametrize("num_frames", [1, 5, 33, 81])
def test_there_and_back_is_the_same_to_the_bit(
    num_frames: int, frame_rate: float, sampling_rate: int, channels: int
) -> None:
    output = make_output(num_frames, frame_rate, sampling_rate, channels, 0)
    clip = media.from_moviepy(output.to_moviepy())
    assert np.array_equal(clip.frames, frames_of(output))
    assert np.array_equal(clip.audio, output.audio[0])
    assert (clip.frame_rate, clip.sampling_rate) == (media.exact_frame_rate(frame_rate), sampling_rate)


@pytest.mark.parametrize("method", ["chain", "compose"])
@pytest.mark.parametrize(("frame_rate", "sampling_rate", "channels"), [(16.0, 16000, 1), (25.0, 44100, 2)])
def test_concatenation_keeps_every_frame_and_the_sound_to_the_sample(
    moviepy: Any, frame_rate: float, sampling_rate: int, channels: int, method: str
) -> None:
    outputs = [
        make_output(length, frame_rate, sampling_rate, channels, seed) for seed, length in enumerate((33, 5, 81, 17))
    ]
    joined = moviepy.concatenate_videoclips([output.to_moviepy() for output in outputs], method=method)
    clip = media.from_moviepy(joined)
    assert np.array_equal(clip.frames, np.concatenate([frames_of(output) for output in outputs]))
    assert np.array_equal(clip.audio, np.concatenate([output.audio[0] for output in outputs], axis=1))


def test_a_title_changes_what_it_covers_while_it_is_shown_and_nothing_else(moviepy: Any, tmp_path: Path) -> None:
    output = make_output(33, 16.0, 16000, 1, 0)
    title = moviepy.TextClip(text="Hi", font_size=16, color="white", bg_color="black", size=(32, 20))
    title = title.with_start(0.5).with_duration(1.0).with_position((8, 10))
    clip = media.from_moviepy(moviepy.CompositeVideoClip([output.to_moviepy(), title]))
    changed = (clip.frames != frames_of(output)).any(-1)
    assert changed[8:24, 10:30, 8:40].mean() > 0.9
    changed[8:24, 10:30, 8:40] = False
    assert not changed.any()
    assert np.array_equal(clip.audio, output.audio[0])

    media.write_video(tmp_path / "titled.mp4", *clip, provenance=output.record())
    assert read_provenance(tmp_path / "titled.mp4")["generated"] is True
    assert len(media.read_video(tmp_path / "titled.mp4").frames) == 33


@pytest.mark.usefixtures("moviepy")
def test_cutting_a_part_out_takes_the_frames_and_samples_of_these_times() -> None:
    output = make_output(33, 16.0, 16000, 1, 0)
    clip = media.from_moviepy(output.to_moviepy().subclipped(0.5, 1.5))
    assert np.array_equal(clip.frames, frames_of(output)[8:24])
    assert np.array_equal(clip.audio, output.audio[0][:, 8000:24000])


def test_sound_alone_is_a_clip_of_sound(moviepy: Any) -> None:
    output = JoVAPipelineOutput(audio=make_output(9, 16.0, 16000, 2, 0).audio, sampling_rate=16000)
    clip = output.to_moviepy()
    assert isinstance(clip, moviepy.AudioClip)
    sound = media.from_moviepy(clip)
    assert np.array_equal(sound.audio, output.audio[0])
    assert sound.sampling_rate == 16000


def test_the_pipeline_takes_clips_of_moviepy_as_it_takes_the_arrays(moviepy: Any) -> None:
    pipeline = build_tiny_pipeline()
    output = make_output(9, 16.0, 16000, 1, 0)
    frames, clip = frames_of(output), output.to_moviepy()
    sound = {"audio": output.audio[0], "audio_sampling_rate": 16000}
    pairs = (
        ({"image": clip}, {"image": frames[0]}),
        ({"image": [moviepy.ImageClip(frames[3])]}, {"image": frames[3]}),
        ({"audio": clip}, sound),
        ({"audio": clip.audio, "num_frames": 9}, {**sound, "num_frames": 9}),
        ({"video": clip.without_audio()}, {"video": frames, "frame_rate": 16.0}),
        ({"video": clip, "audio": clip, "num_frames": 17}, {"video": frames, "frame_rate": 16.0, **sound}),
    )
    for given, arrays in pairs:
        made, same = (
            pipeline("a man", num_inference_steps=1, generator=torch.Generator().manual_seed(0), output_type="pt", **x)
            for x in (given, {**arrays, "num_frames": given.get("num_frames")})
        )
        assert torch.equal(made.frames, same.frames)
        assert torch.equal(made.audio, same.audio)


def test_what_is_transparent_in_moviepy_lies_on_white(moviepy: Any) -> None:
    picture = np.zeros((8, 8, 4), np.uint8)
    picture[:4] = (200, 10, 10, 255)
    clip = moviepy.ImageClip(picture, duration=0.5).with_fps(16)
    frames = media.from_moviepy(clip).frames
    assert (frames[:, :4] == (200, 10, 10)).all()
    assert (frames[:, 4:] == 255).all()


def test_clips_that_do_not_say_how_long_or_how_fast_they_are_are_refused(moviepy: Any) -> None:
    pipeline = build_tiny_pipeline()
    still = moviepy.ImageClip(np.zeros((32, 32, 3), np.uint8))
    tone = moviepy.AudioClip(lambda t: np.sin(t), duration=0.5)
    for given, said in (
        ({"video": still}, "`video` must be a clip with an end"),
        ({"video": still.with_duration(1)}, r"`video` must say how many .* use `clip.with_fps\(24\)`"),
        ({"audio": tone}, r"`audio` must say how many .* use `clip.with_fps\(44100\)`"),
        ({"audio": still.with_duration(1).with_fps(16)}, "`audio` must hold sound"),
        ({"video": tone.with_fps(16000)}, "`video` must hold pictures"),
        ({"image": tone.with_fps(16000)}, "`image` must be a picture"),
    ):
        with pytest.raises(ValueError, match=said):
            pipeline("a man", **given)


def test_the_library_that_edits_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "moviepy", None)
    output = make_output(5, 16.0, 16000, 1, 0)
    with pytest.raises(ImportError, match="install the package with its extra `moviepy`"):
        output.to_moviepy()


def test_nothing_else_is_taken_for_a_clip_of_moviepy() -> None:
    assert not any(
        is_moviepy_clip(given) for given in (None, np.zeros(3), "clip.mp4", make_output(1, 16.0, 16000, 1, 0))
    )
