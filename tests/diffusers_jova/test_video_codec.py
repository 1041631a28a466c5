from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan

from diffusers_jova import JoVAVideoCodec, video_codec
from tests.tiny_pipeline import build_vae


@pytest.fixture(scope="module")
def codec() -> JoVAVideoCodec:
    return JoVAVideoCodec(build_vae())


@pytest.mark.parametrize("num_frames", [1, 5, 9])
def test_a_clip_has_the_latents_that_the_codec_says_and_comes_back_in_its_size(
    codec: JoVAVideoCodec, num_frames: int
) -> None:
    frames = torch.rand(1, 3, num_frames, 16, 24) * 2 - 1
    with torch.no_grad():
        latents = codec.encode(frames)
        decoded = codec.decode(latents)
    assert latents.shape == (1, *codec.latent_shape(num_frames, 16, 24))
    assert latents.dtype == torch.float32
    assert decoded.shape == frames.shape
    assert decoded.abs().max() <= 1


def test_the_first_latent_sees_the_first_frame_only(codec: JoVAVideoCodec) -> None:
    frames = torch.rand(1, 3, 5, 16, 16) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(codec.encode(frames)[:, :, :1], codec.encode(frames[:, :, :1]))


def test_normalised_latents_have_the_statistics_of_the_config(codec: JoVAVideoCodec) -> None:
    mean, std = (torch.tensor(codec.vae.config[name]) for name in ("latents_mean", "latents_std"))
    latents = (mean + 2 * std)[None, :, None, None, None]
    torch.testing.assert_close(codec.normalize(latents), torch.full_like(latents, 2))
    torch.testing.assert_close(codec.denormalize(codec.normalize(latents)), latents)


def test_encoding_is_normalising_the_mean_of_the_posterior(codec: JoVAVideoCodec) -> None:
    frames = torch.rand(1, 3, 1, 16, 16) * 2 - 1
    with torch.no_grad():
        mean = codec.vae.encode(frames).latent_dist.mean
        torch.testing.assert_close(codec.denormalize(codec.encode(frames)), mean)


# one pass or chunks


class _Inverted(AutoencoderKLWan):
    def decode(self, *args: Any, **options: Any) -> tuple[torch.Tensor]:
        return (-super().decode(*args, **options)[0],)


CHUNKED: dict[str, Callable[[Any], Any]] = {
    "tiling": lambda vae: vae.enable_tiling(),
    "slicing": lambda vae: vae.enable_slicing(),
    "a subclass": lambda vae: setattr(vae, "__class__", _Inverted),
    "a method of its own": lambda vae: setattr(vae, "decode", torch.no_grad()(vae.decode)),
    "hooks of accelerate": lambda vae: setattr(vae, "_hf_hook", object()),
    "hooks on its parts": lambda vae: vae.decoder.register_forward_hook(lambda *_: None),
    "a compiled part": lambda vae: vae.decoder.compile(),
    "a compiled part in its place": lambda vae: setattr(vae, "decoder", torch.compile(vae.decoder)),
    "a GPU": lambda vae: setattr(vae, "execution_device", "cuda"),
}


@pytest.mark.parametrize("reason", CHUNKED)
def test_a_vae_that_somebody_changed_is_called_by_its_own_methods(reason: str) -> None:
    codec = JoVAVideoCodec(build_vae())
    assert codec.takes_one_pass(1, 9, 16, 24)
    CHUNKED[reason](codec.vae)
    assert not codec.takes_one_pass(1, 9, 16, 24)


def test_what_a_subclass_decodes_is_what_comes_out() -> None:
    codec = JoVAVideoCodec(build_vae())
    latents = torch.randn(1, codec.num_channels, 2, 2, 3)
    with torch.no_grad():
        decoded = codec.decode(latents)
        codec.vae.__class__ = _Inverted
        torch.testing.assert_close(codec.decode(latents), -decoded, atol=1e-5, rtol=1e-4)


def test_large_clips_keep_the_memory_of_chunks(codec: JoVAVideoCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = torch.rand(2, 3, 9, 16, 24) * 2 - 1
    with torch.no_grad():
        latents = codec.encode(frames)
        decoded = codec.decode(latents)
        monkeypatch.setattr(video_codec, "ONE_PASS_BYTES", 0)
        assert not codec.takes_one_pass(2, 9, 16, 24)
        torch.testing.assert_close(codec.encode(frames), latents, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(codec.decode(latents), decoded, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("num_frames", [2, 3, 4, 6])
def test_frames_that_fill_no_latent_are_left_to_the_vae(codec: JoVAVideoCodec, num_frames: int) -> None:
    frames = torch.rand(1, 3, num_frames, 16, 16) * 2 - 1
    with torch.no_grad():
        expected = codec.normalize(codec.vae.encode(frames).latent_dist.mode())
        torch.testing.assert_close(codec.encode(frames), expected)


def test_latents_have_the_frames_of_the_clip_they_are_of(codec: JoVAVideoCodec) -> None:
    latents = torch.empty(1, *codec.latent_shape(9, 16, 24))
    assert codec.frame_shape(latents) == (9, 16, 24)


def test_a_still_is_the_latent_of_a_picture_that_others_of_it_stand_before(codec: JoVAVideoCodec) -> None:
    picture = torch.rand(2, 3, 1, 16, 16) * 2 - 1
    with torch.no_grad():
        still = codec.encode_still(picture)
        clip = codec.encode(picture.expand(-1, -1, 9, -1, -1))
    torch.testing.assert_close(still, clip[:, :, 2:])
    assert (still - clip[:, :, :1]).abs().max() > 0.01  # that of a first frame is another
