"""What is given to a pipeline is used as it is: shape, values, sound, length."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from diffusers_jova import JoVAPipeline, media
from diffusers_jova.given_media import continue_sound, to_waveform_batch, unpack_audio, unpack_video
from diffusers_jova.video_codec import JoVAVideoCodec
from tests.tiny_pipeline import TRANSFORMERS, build_tiny_pipeline, one_of_each_class


RATE, FRAME_RATE = 16000, 16.0  # of the tiny pipeline


@pytest.fixture(scope="module")
def pipeline() -> JoVAPipeline:
    return build_tiny_pipeline()


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """What the video VAE encodes, as it happens."""
    seen: list[torch.Tensor] = []
    encode = JoVAVideoCodec.encode
    monkeypatch.setattr(JoVAVideoCodec, "encode", lambda codec, x: seen.append(x) or encode(codec, x))
    return seen


# 1. Pictures


def circle(height: int, width: int, diameter: int) -> np.ndarray:
    """A white disc in the middle of a black picture."""
    rows, columns = np.ogrid[:height, :width]
    inside = (rows - (height - 1) / 2) ** 2 + (columns - (width - 1) / 2) ** 2 <= (diameter / 2) ** 2
    return np.repeat(255 * inside[..., None].astype(np.uint8), 3, axis=-1)


def extent(picture: np.ndarray) -> tuple[int, int]:
    """Rows and columns of what is bright."""
    bright = picture.mean(-1) > picture.max() / 2
    return int(bright.any(1).sum()), int(bright.any(0).sum())


@pytest.mark.parametrize("as_video", [False, True])
def test_a_circle_of_a_picture_of_another_shape_stays_a_circle(
    pipeline: JoVAPipeline, as_video: bool, encoded: list[torch.Tensor]
) -> None:
    portrait = PIL.Image.fromarray(circle(96, 192, 60))
    given: dict[str, Any] = {"video": [portrait] * 5} if as_video else {"image": portrait}
    pipeline("a ball", height=32, width=32, num_frames=5, num_inference_steps=1, **given)
    rows, columns = extent(encoded[0][0, :, 0].movedim(0, -1).numpy() + 1)
    assert abs(rows - 60 / 3) <= 1
    assert abs(columns - 60 / 3) <= 1


@pytest.mark.parametrize("form", ["RGBA", "L", "P", "I;16", "uint8", "video of uint8"])
def test_white_reaches_the_video_vae_as_white(pipeline: JoVAPipeline, form: str, encoded: list[torch.Tensor]) -> None:
    white = np.full((32, 32, 3), 255, np.uint8)
    forms: dict[str, Any] = {
        "I;16": PIL.Image.fromarray(np.full((32, 32), 65535, np.uint16)),
        "uint8": white,
        "video of uint8": white[None],
    }
    picture = forms.get(form) if form in forms else PIL.Image.fromarray(white).convert(form)
    given = {"video": picture, "num_frames": 1} if form.startswith("video") else {"image": picture, "num_frames": 1}
    pipeline("snow", num_inference_steps=1, **given)
    assert bool((encoded[0] == 1).all())


# 2. Sound


def tone(duration_s: float, rate: int = RATE) -> np.ndarray:
    return (0.5 * np.sin(np.arange(round(duration_s * rate)) * (1400 / rate))).astype(np.float32)


def test_stereo_drives_a_mono_model_as_its_mix_does(pipeline: JoVAPipeline) -> None:
    stereo = np.stack([tone(0.5), -0.5 * tone(0.5)])
    output: Any = pipeline("a man", audio=stereo, audio_sampling_rate=RATE, num_inference_steps=1, output_type="np")
    heard = output.audio[0, 0]
    np.testing.assert_allclose(heard[:8000], stereo.mean(0), atol=1e-6)


def test_whole_numbers_of_16_bits_sound_as_their_floats_do(pipeline: JoVAPipeline) -> None:
    samples = (tone(0.3125) * 32768).round().astype(np.int16)
    output: Any = pipeline("a man", audio=samples, audio_sampling_rate=RATE, num_inference_steps=1, output_type="np")
    np.testing.assert_allclose(output.audio[0, 0], samples / 32768, atol=1e-6)
    with pytest.raises(ValueError, match="`audio` of floats must lie in"):
        pipeline("a man", audio=samples.astype(np.float64), audio_sampling_rate=RATE)


def test_an_array_of_sound_without_its_rate_is_refused(pipeline: JoVAPipeline) -> None:
    with pytest.raises(ValueError, match="`audio_sampling_rate` must be given with an array of sound"):
        pipeline("a man", audio=tone(0.3))


def test_what_was_read_from_a_file_is_passed_whole(pipeline: JoVAPipeline, tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (5, 32, 32, 3), np.uint8)
    media.write_video(tmp_path / "clip.mp4", frames, 24, tone(5 / 24, 48000), 48000)
    clip = media.read_video(tmp_path / "clip.mp4")
    short: dict[str, Any] = {"num_inference_steps": 1, "output_type": "np"}
    longer: Any = pipeline("a ball", video=clip, audio=clip, num_frames=9, **short)
    assert longer.frame_rate == 24
    assert longer.audio.shape[2] == round(9 / 24 * RATE)
    spoken: Any = pipeline("a man", audio=media.read_audio(tmp_path / "clip.mp4"), **short)
    assert spoken.audio.shape[2] == RATE * 5 // 16  # 0.208 s are 3.3 frames


# 3. Length


def test_a_given_voice_is_never_cut(pipeline: JoVAPipeline) -> None:
    voice = tone(0.6)  # 9.6 frames
    output: Any = pipeline("a man", audio=voice, audio_sampling_rate=RATE, num_inference_steps=1, output_type="np")
    assert output.frames.shape[1] == 13
    np.testing.assert_allclose(output.audio[0, 0, : len(voice)], voice, atol=1e-6)
    assert not output.audio[0, 0, len(voice) :].any()


@pytest.mark.parametrize(("num_frames", "kept"), [(None, 5), (5, 5), (9, 5)])
def test_a_given_video_of_any_length_is_cut_to_whole_latents(
    pipeline: JoVAPipeline, num_frames: int | None, kept: int, encoded: list[torch.Tensor]
) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (7, 32, 32, 3), np.uint8)
    output: Any = pipeline("a", video=frames, num_frames=num_frames, num_inference_steps=1, output_type="np")
    assert encoded[0].shape[2] == kept
    assert output.frames.shape[1] == (num_frames or 5)


# 4. A clip goes on


def test_a_clip_that_goes_on_begins_as_it_was_given(pipeline: JoVAPipeline) -> None:
    red = np.full((5, 32, 32, 3), (253, 0, 0), np.uint8)
    voice = tone(5 / 16)
    output: Any = pipeline(
        ["a", "b"],
        video=red,
        audio=voice,
        audio_sampling_rate=RATE,
        num_frames=9,
        num_inference_steps=1,
        output_type="np",
    )
    for frames, sound in zip(output.frames, output.audio, strict=True):
        np.testing.assert_allclose(frames[:5], red / 255, atol=1e-6)
        assert np.abs(frames[5:] - red[0] / 255).max() > 0.1
        np.testing.assert_allclose(sound[0, : len(voice)], voice, atol=1e-6)
        jump = np.abs(np.diff(sound[0, len(voice) - 1 :]))
        assert jump[0] <= np.abs(np.diff(voice)).max()


@pytest.mark.parametrize("name", one_of_each_class(TRANSFORMERS))
def test_a_voice_at_the_beginning_is_read_clean_and_the_sound_goes_on_behind_it(name: str) -> None:
    pipeline = build_tiny_pipeline(transformer=TRANSFORMERS[name]())
    calls: list[dict[str, Any]] = []
    pipeline.transformer.register_forward_pre_hook(lambda _, __, call: calls.append(dict(call)), with_kwargs=True)
    voice = tone(5 / 16)

    def make(sound: np.ndarray) -> Any:
        given = {"audio": sound, "audio_sampling_rate": RATE, "generator": torch.Generator().manual_seed(0)}
        return pipeline("what it said", num_frames=9, num_inference_steps=2, output_type="np", **given)

    output = make(voice)
    assert output.frames.shape[1] == 9
    assert output.audio.shape[-1] == RATE * 9 // 16
    np.testing.assert_allclose(output.audio[0, 0, : len(voice)], voice, atol=1e-6)
    clean = pipeline.audio_codec.encode(torch.from_numpy(voice)[None, None])
    for made in calls:
        is_given = made["audio_timestep"][0] == 0
        num_given = int(is_given.sum())
        assert is_given.tolist() == [True] * num_given + [False] * (len(is_given) - num_given)
        assert 0 < num_given <= clean.shape[1] < len(is_given)
        torch.testing.assert_close(made["audio_hidden_states"][0, : num_given - 1], clean[0, : num_given - 1])
    assert np.array_equal(make(voice).frames, output.frames)
    assert np.abs(make(0.1 * voice).frames - output.frames).max() > 1e-6, "the picture reads the voice"


def test_given_frames_come_back_as_given_beside_a_video_vae_of_half_precision() -> None:
    pipeline = build_tiny_pipeline()
    pipeline.vae.to(torch.bfloat16)
    frames = np.random.default_rng(0).random((5, 32, 32, 3), np.float32)
    output: Any = pipeline("a", video=frames, num_frames=9, num_inference_steps=1, output_type="np")
    np.testing.assert_allclose(output.frames[0, :5], frames, atol=1e-6)


def test_sound_gets_its_batch_and_channel_axes() -> None:
    mono = np.linspace(-1, 1, 5, dtype=np.float32)
    assert torch.equal(to_waveform_batch(mono, 1), to_waveform_batch(torch.from_numpy(mono)[None], 1))
    assert to_waveform_batch(np.zeros((3, 2, 5)), 2).shape == (3, 2, 5)


def test_any_number_of_channels_is_mixed_to_those_of_the_model() -> None:
    channels = np.array([[0.5, 0.25], [-0.5, 0.25], [0.3, 0.25]], np.float32)
    assert torch.allclose(to_waveform_batch(channels, 1), torch.tensor([[[0.1, 0.25]]]))
    assert to_waveform_batch(channels, 2).shape == (1, 2, 2)
    assert to_waveform_batch(np.zeros((3, 6, 5)), 2).shape == (3, 2, 5)
    assert to_waveform_batch(np.zeros(5), 2).shape == (1, 2, 5)


@pytest.mark.parametrize("kind", [np.array, torch.from_numpy])
@pytest.mark.parametrize(
    ("numbers", "half"), [("int16", 2**14), ("int32", 2**30), ("uint8", 192), ("int8", 64), ("float64", 0.5)]
)
def test_sound_of_whole_numbers_is_scaled_by_its_type(kind: Any, numbers: str, half: float) -> None:
    sound = kind(np.full(5, half, numbers))
    assert torch.equal(to_waveform_batch(sound, 1), torch.full((1, 1, 5), 0.5))


def test_floats_that_hold_whole_numbers_are_refused_and_some_overshoot_is_clipped() -> None:
    with pytest.raises(ValueError, match=r"`audio` of floats must lie in \[-1, 1\], got a peak of 12000; divide"):
        to_waveform_batch(np.array([3.0, -12000.0]), 1)
    assert to_waveform_batch(np.array([1.25, 0.0]), 1).max() == 1  # as the warning says


def test_sound_that_is_silent_throughout_is_told(caplog: pytest.LogCaptureFixture) -> None:
    assert not to_waveform_batch(np.zeros(5, np.int16), 1).any()
    assert [record.message for record in caplog.records] == ["`audio` is silent from its beginning to its end"]
    caplog.clear()
    to_waveform_batch(np.eye(5, dtype=np.float32)[0], 1)
    assert not caplog.records


@pytest.mark.parametrize("audio", [np.zeros(0), np.zeros((1, 1, 1, 5))])
def test_sound_of_another_shape_is_refused(audio: np.ndarray) -> None:
    with pytest.raises(
        ValueError, match=r"`audio` must be \[S\], \[channels, S\] or \[B, channels, S\] with S > 0, got"
    ):
        to_waveform_batch(audio, 1)


def test_sound_with_its_channels_last_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`audio` must have its samples last, got \[16000, 2\]; transpose it"):
        to_waveform_batch(np.zeros((16000, 2)), 1)


def test_sound_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="`audio` must be finite, got NaN or infinity"):
        to_waveform_batch(np.array([0, np.nan]), 1)


def test_sound_of_numbers_without_a_scale_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`audio` must be float in \[-1, 1\] or one of .*, got int64; divide it by"):
        to_waveform_batch(np.zeros(5, np.int64), 1)


def test_the_name_of_a_sound_file_is_refused() -> None:
    with pytest.raises(ValueError, match=r"got the name 'voice.wav'; read the file first, by `media.read_audio\("):
        unpack_audio("voice.wav", 16000)


def test_what_was_read_from_a_file_brings_its_rates() -> None:
    sound, frames = np.zeros((2, 9), np.float32), np.zeros((5, 4, 4, 3), np.uint8)
    clip = media.Video(frames, Fraction(30000, 1001), sound, 44100)
    assert unpack_audio(media.Sound(sound, 8000), None) == (sound, 8000)
    assert unpack_audio(clip, 44100) == (sound, 44100)
    assert unpack_video(clip, None) == (frames, 30000 / 1001)
    assert unpack_video(clip, 29.97) == (frames, 30000 / 1001)
    assert unpack_video(frames, None) == (frames, None)
    with pytest.raises(ValueError, match=r"`audio_sampling_rate` must be that of the given `audio`, 8000, got 16000"):
        unpack_audio(media.Sound(sound, 8000), 16000)
    with pytest.raises(ValueError, match=r"`frame_rate` must be that of the given `video`, 29.97, got 16; leave"):
        unpack_video(clip, 16.0)
    with pytest.raises(ValueError, match="`audio` must hold sound, got a video without; leave it out"):
        unpack_audio(clip._replace(audio=None, sampling_rate=None), None)
    with pytest.raises(ValueError, match="`audio_sampling_rate` must be given with an array of sound, got None"):
        unpack_audio(sound, None)


def test_a_given_sound_goes_on_without_a_jump() -> None:
    given, generated = 0.5 * torch.ones(1, 1, 100), -0.5 * torch.ones(1, 1, 300)
    joined = continue_sound(given, generated, num_fade_samples=50)
    assert torch.equal(joined[..., :100], given)
    assert torch.equal(joined[..., 150:], generated[..., 150:])
    assert joined.diff().abs().max() < 0.04
    short = continue_sound(given, generated[..., :110], num_fade_samples=50)
    assert short.shape == (1, 1, 110)
