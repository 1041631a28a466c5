from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from diffusers_jova.cpu_convolutions import OneDNNConvolutions, fast_convolutions
from diffusers_jova.video_codec import JoVAVideoCodec
from tests.tiny_pipeline import build_vae


pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")

SMALL = (1, 4, 3, 9, 7)  # so few rows that torch takes its own kernel with one thread


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """With more, torch takes oneDNN more often."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def kernels(call: Callable[[], Any]) -> set[str]:
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        call()
    return {event.key for event in profiled.key_averages() if "conv" in event.key}


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3},
        {"kernel_size": (3, 1, 1), "stride": (2, 1, 1)},
        {"kernel_size": (1, 3, 3), "padding": 1, "dilation": (1, 2, 1), "bias": False},
        {"kernel_size": 1},
        {"kernel_size": 3, "groups": 2},
        {"kernel_size": 3, "padding": "same"},
        {"kernel_size": 3, "padding": 1, "padding_mode": "replicate"},
    ],
    ids=str,
)
def test_a_convolution_is_that_of_torch(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    layer, given = nn.Conv3d(4, 6, **options), torch.randn(SMALL)
    expected = layer(given)
    with OneDNNConvolutions():
        torch.testing.assert_close(layer(given), expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(layer(given.double().float()[0]), expected[0], atol=1e-5, rtol=1e-5)  # no batch


def test_gradients_are_those_of_torch() -> None:
    torch.manual_seed(0)
    layer = nn.Conv3d(4, 6, 3, padding=1)

    def gradients() -> list[Tensor]:
        given = torch.ones(SMALL, requires_grad=True)
        return list(torch.autograd.grad(layer(given).square().sum(), [given, *layer.parameters()]))

    expected = gradients()
    with OneDNNConvolutions():
        torch.testing.assert_close(gradients(), expected, atol=1e-3, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("work", ["encode", "decode"])
def test_no_chunk_of_a_clip_takes_the_slow_kernel(work: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffusers_jova.video_codec.ONE_PASS_BYTES", 0)
    codec = JoVAVideoCodec(build_vae())
    latents = torch.randn(1, codec.num_channels, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    plain = codec.vae.decode(codec.denormalize(latents), return_dict=False)[0]
    if work == "decode":
        assert "aten::slow_conv3d" in kernels(lambda: codec.vae.decode(latents))
        assert "aten::slow_conv3d" not in kernels(lambda: codec.decode(latents))
        torch.testing.assert_close(codec.decode(latents), plain, atol=1e-5, rtol=1e-5)
    else:
        assert "aten::slow_conv3d" in kernels(lambda: codec.vae.encode(plain))
        assert "aten::slow_conv3d" not in kernels(lambda: codec.encode(plain))
        expected = codec.normalize(codec.vae.encode(plain).latent_dist.mode())
        torch.testing.assert_close(codec.encode(plain), expected, atol=1e-5, rtol=1e-5)


CHANGES: dict[str, Callable[[Any], Any]] = {
    "compiled": lambda vae: vae.decoder.compile(),
    "a compiled part in its place": lambda vae: setattr(vae, "decoder", torch.compile(vae.decoder)),
    "on a GPU": lambda vae: setattr(vae, "execution_device", "cuda"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_compiled_or_elsewhere_is_left_alone(change: str) -> None:
    vae = build_vae()
    assert isinstance(fast_convolutions(vae), OneDNNConvolutions)
    CHANGES[change](vae)
    assert not isinstance(fast_convolutions(vae), OneDNNConvolutions)


def test_other_formats_and_small_maps_of_wide_layers_are_left_to_torch() -> None:
    wide, given = nn.Conv3d(4, 200, 3), torch.randn(SMALL)
    with OneDNNConvolutions():
        assert "aten::slow_conv3d" in kernels(lambda: wide(given))
        assert "aten::mkldnn_convolution" in kernels(lambda: nn.Conv3d(4, 6, 3)(given))
        torch.testing.assert_close(wide.double()(given.double()).float(), wide.float()(given), atol=1e-5, rtol=1e-5)
