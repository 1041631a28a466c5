import pytest
import torch
from diffusers import AutoencoderKLWan

from diffusers_jova.wan_clip import decode_clip, encode_clip, full_map_bytes
from tests.tiny_pipeline import WAN_VAES


ROUND_OFF = {"atol": 1e-5, "rtol": 1e-4}  # float32, another order of additions


@pytest.mark.parametrize("size", WAN_VAES)
@pytest.mark.parametrize("frames", [1, 9])
def test_one_pass_over_a_clip_gives_the_numbers_of_the_library_class(size: str, frames: int) -> None:
    torch.manual_seed(0)
    vae = AutoencoderKLWan(**WAN_VAES[size]).eval()
    video = torch.randn(2, 3, frames, 16, 16)
    with torch.no_grad():
        moments = vae.encode(video).latent_dist.parameters
        torch.testing.assert_close(encode_clip(vae, video).parameters, moments, **ROUND_OFF)
        decoded = vae.decode(moments[:, :4]).sample
        torch.testing.assert_close(decode_clip(vae, moments[:, :4]).clamp(-1, 1), decoded, **ROUND_OFF)


@pytest.mark.parametrize("size", WAN_VAES)
def test_the_size_of_a_full_map_is_that_of_what_the_decoder_makes(size: str) -> None:
    vae = AutoencoderKLWan(**WAN_VAES[size]).eval()
    sizes = []
    hook = vae.decoder.norm_out.register_forward_hook(lambda *call: sizes.append(call[-1].nbytes))
    with torch.no_grad():
        decode_clip(vae, torch.randn(1, 4, 3, 4, 4))
    hook.remove()
    factor = vae.config.patch_size or 1
    height = 4 * 2 ** (len(vae.config.dim_mult) - 1) * factor
    assert full_map_bytes(vae, 9, height, height) == sizes[0]
