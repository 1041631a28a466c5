import numpy as np
import pytest
import torch

from diffusers_jova import JoVAAudioCodec
from diffusers_jova.clip_shape import ClipShape, cut_video, frames_of_given_media, set_length, tell_which_goes_on
from tests.tiny_pipeline import build_audio_vae, build_tiny_pipeline, build_vocoder


RATE = 16000
FRAME = 1000  # samples of one frame


@pytest.fixture(scope="module")
def codec() -> JoVAAudioCodec:
    return JoVAAudioCodec(build_audio_vae(), build_vocoder())


def clip_of(num_frames: int, codec: JoVAAudioCodec) -> ClipShape:
    num_audio_latents = codec.num_latents_for(num_frames / 16)
    return ClipShape(1, 32, 32, num_frames, frame_rate=16.0, num_audio_latents=num_audio_latents)


def noise(num_samples: int) -> torch.Tensor:
    return torch.rand(1, 1, num_samples, generator=torch.Generator().manual_seed(0)) + 0.1


def test_a_given_video_sets_the_length_of_the_clip() -> None:
    assert frames_of_given_media(np.zeros((5, 8, 8, 3)), np.zeros(5 * FRAME), RATE, 16.0, 4) == 5


@pytest.mark.parametrize(
    ("num_samples", "num_frames"),
    [(9 * FRAME, 9), (9 * FRAME + 1, 13), (int(8.6 * FRAME), 9), (int(8.4 * FRAME), 9), (12 * FRAME, 13), (9, 1)],
)
def test_a_given_sound_sets_the_length_of_the_clip_to_whole_latents_that_hold_all_of_it(
    num_samples: int, num_frames: int
) -> None:
    assert frames_of_given_media(None, np.zeros((2, num_samples)), RATE, 16.0, 4) == num_frames


@pytest.mark.parametrize("frame_rate", [24000 / 1001, 30000 / 1001, 25.0, 16.0])
@pytest.mark.parametrize("sampling_rate", [16000, 22050, 44100])
def test_the_sound_of_a_clip_fits_into_a_clip_of_as_many_frames(frame_rate: float, sampling_rate: int) -> None:
    for num_frames in range(1, 200, 4):
        sound = np.zeros(round(num_frames / frame_rate * sampling_rate))
        assert frames_of_given_media(None, sound, sampling_rate, frame_rate, 4) == num_frames


def test_a_sound_that_is_longer_than_a_given_video_by_a_latent_sets_the_length() -> None:
    video = np.zeros((7, 8, 8, 3))
    assert frames_of_given_media(video, None, None, 16.0, 4) == 5
    assert frames_of_given_media(video, np.zeros(8 * FRAME), RATE, 16.0, 4) == 5
    assert frames_of_given_media(video, np.zeros(20 * FRAME), RATE, 16.0, 4) == 21


@pytest.mark.parametrize(("num_frames", "kept"), [(None, 73), (97, 73), (17, 17)])
def test_a_given_video_is_cut_to_whole_latents_in_one_line(
    num_frames: int | None, kept: int, caplog: pytest.LogCaptureFixture
) -> None:
    video = np.arange(75)[:, None]
    assert np.array_equal(cut_video(video, num_frames, 4), video[:kept])
    (record,) = caplog.records
    assert f"`video` of 75 frames is cut to its first {kept}: " in record.message
    assert cut_video(video[:73], 97, 4).shape == (73, 1)
    assert len(caplog.records) == 1


def test_without_given_media_the_length_is_open() -> None:
    assert frames_of_given_media(None, None, RATE, 16.0, 4) is None


def test_given_sound_is_cut_to_what_the_latents_of_the_clip_hold(codec: JoVAAudioCodec) -> None:
    clip, sound = clip_of(5, codec), noise(9 * FRAME)
    fitted = clip.fit_given_audio(sound, RATE, codec)
    assert fitted.shape[2] == max(5 * FRAME, codec.num_samples_for(clip.num_audio_latents))
    assert torch.equal(fitted, sound[..., : fitted.shape[2]])


def test_given_sound_that_lacks_less_than_two_frames_is_filled_up_and_other_sound_is_left(
    codec: JoVAAudioCodec,
) -> None:
    clip = clip_of(9, codec)
    num_samples = clip.fit_given_audio(noise(12 * FRAME), RATE, codec).shape[2]
    almost, short = noise(num_samples - 2 * FRAME + 1), noise(num_samples - 2 * FRAME)
    filled = clip.fit_given_audio(almost, RATE, codec)
    assert torch.equal(filled[..., : almost.shape[2]], almost)
    assert filled.shape[2] == num_samples
    assert not filled[..., almost.shape[2] :].any()
    assert clip.fit_given_audio(short, RATE, codec) is short


def test_given_sound_of_another_rate_is_resampled_before_it_is_measured(codec: JoVAAudioCodec) -> None:
    clip = clip_of(9, codec)
    fitted = clip.fit_given_audio(noise(2 * 4 * FRAME), 2 * RATE, codec)
    assert fitted.shape[2] == 4 * FRAME


def test_a_sound_of_a_set_length_begins_as_it_did() -> None:
    sound = noise(8)
    assert torch.equal(set_length(sound, 5), sound[..., :5])
    longer = set_length(sound, 11)
    assert torch.equal(longer[..., :8], sound)
    assert longer.shape[2] == 11
    assert not longer[..., 8:].any()


def test_sound_lasts_as_long_as_the_frames(codec: JoVAAudioCodec) -> None:
    assert clip_of(9, codec).num_samples(44100) == round(9 / 16 * 44100)


def test_a_clip_far_beyond_the_models_own_length_is_told_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    defaults = {"height": 32, "width": 32, "num_frames": 1, "num_inference_steps": 1}
    pipeline = build_tiny_pipeline(defaults=defaults)
    for num_frames, lines in ((1, 0), (5, 1)):
        caplog.clear()
        pipeline("a dog", num_frames=num_frames, output_type="latent")
        told = [record.message for record in caplog.records if "this model's own clips" in record.message]
        assert len(told) == lines
    assert told[0].startswith("`num_frames` of 5 is 5 times the 1 of this model's own clips: ")


@pytest.mark.parametrize(
    ("num_video_frames", "sound_s", "said"),
    [
        (21, 33 / 16, "`video` ends after 21 of 33 frames, before `audio`: its rest is generated"),
        (33, 1.0, "`audio` ends after 1.00 of 2.06 s, before `video`: its rest is generated"),
        (33, 2.0, ""),  # what lacks less than two frames is filled with silence
    ],
)
def test_which_of_a_video_and_its_sound_goes_on_is_told(
    num_video_frames: int, sound_s: float, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    tell_which_goes_on(num_video_frames, np.zeros((1, round(sound_s * 16000))), 16000, 33, 16.0)
    assert caplog.text.count("rest is generated") == bool(said)
    assert said in caplog.text
