import pytest
import torch

from diffusers_jova import JoVAVideoCodec
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
