from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLKVAEAudio, AutoencoderKLLTX2Audio, MMAudioVAE, MMAudioVocoder
from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder, LTX2VocoderWithBWE
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import Qwen2_5OmniToken2WavBigVGANModel

from diffusers_jova.audio_codec import JoVAAudioCodec
from diffusers_jova.autoencoder_kl_dac import JoVAAutoencoderKLDAC
from diffusers_jova.log_mel import JoVALogMel, centred_log_mel
from tests.places import PARITY, needs_references
from tests.rounding import relative_error


KINDS = ("mmaudio", "mmaudio-ltx2", "ltx2", "ltx2-bwe", "dac", "kvae", "log-mel")
CUTTING = tuple(kind for kind in KINDS if kind not in ("dac", "kvae"))  # what is shorter than a latent; those fill up
ROUND_OFF = 2e-6  # float32 convolutions sum in another order when the length differs
LAST_LAYERS = (
    *("conv_post.weight", "conv_out.weight", "vocoder.conv_out.weight", "bwe_generator.conv_out.weight"),
    "decoder.conv2.parametrizations.weight.original0",
)
VAE_16K = {"mel_bins": 80, "n_fft": 1024, "hop_length": 256}
VAE_44K = {"mel_bins": 128, "sample_rate": 44100, "n_fft": 2048, "hop_length": 512}
BIGVGAN_16K = {"factors": (4, 4, 2, 2, 2, 2), "kernels": (8, 8, 4, 4, 4, 4)}
BIGVGAN_44K = {"factors": (8, 4, 2, 2, 2, 2), "kernels": (16, 8, 4, 4, 4, 4)}


def randomize(module: nn.Module, seed: int = 0) -> nn.Module:
    """Weights that let signals through, so that a wrong path shows, and a vocoder that never clips."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        fan_in = max(1, parameter[0].numel()) if parameter.ndim > 1 else 16
        spread = 0.3 if name.endswith(("alpha", "beta")) else fan_in**-0.5
        spread *= 0.02 if name in LAST_LAYERS else 1.0
        parameter.data = spread * torch.randn(parameter.shape, generator=generator)
    return module.eval().requires_grad_(False)


def mmaudio_vae(**changes: object) -> MMAudioVAE:
    config = {
        "mel_bins": 8,
        "latent_channels": 6,
        "hidden_channels": 8,
        "channel_multipliers": (1, 2),
        "layers_per_block": 1,
        "sample_rate": 16000,
        "n_fft": 128,
        "hop_length": 32,
        "scaling_factor": 0.5,
    }
    return randomize(MMAudioVAE(**{**config, **changes}))


def ltx2_audio_vae() -> AutoencoderKLLTX2Audio:
    vae = AutoencoderKLLTX2Audio(base_channels=16, ch_mult=(1, 2, 2), num_res_blocks=1, latent_channels=4, mel_bins=16)
    randomize(vae)
    vae.latents_mean.copy_(torch.linspace(-1, 1, 16))
    vae.latents_std.copy_(torch.linspace(0.5, 2, 16))
    return vae


def ltx2_vocoder(**changes: object) -> LTX2Vocoder:
    config = {
        "in_channels": 8,
        "hidden_channels": 16,
        "out_channels": 1,
        "upsample_kernel_sizes": [8, 8, 4],
        "upsample_factors": [4, 4, 2],
        "resnet_kernel_sizes": [3, 5],
        "resnet_dilations": [[1, 3], [1, 2]],
        "act_fn": "snakebeta",
        "antialias": True,
        "output_sampling_rate": 16000,
    }
    return randomize(LTX2Vocoder(**{**config, **changes}))


def ltx2_vocoder_with_bwe() -> LTX2VocoderWithBWE:
    vocoder = LTX2VocoderWithBWE(
        in_channels=32,
        hidden_channels=64,
        upsample_kernel_sizes=[11, 4, 4, 4, 4, 4],
        resnet_kernel_sizes=[3],
        resnet_dilations=[[1, 3]],
        bwe_in_channels=16,
        bwe_hidden_channels=32,
        bwe_resnet_kernel_sizes=[3],
        bwe_resnet_dilations=[[1, 3]],
        num_mel_channels=8,
    )
    randomize(vocoder)
    vocoder.bwe_generator.conv_out.weight *= 0.2
    generator = torch.Generator().manual_seed(1)
    basis = vocoder.mel_stft.stft_fn.forward_basis
    basis.copy_(torch.randn(basis.shape, generator=generator) / 20)
    vocoder.mel_stft.mel_basis.copy_(torch.rand(vocoder.mel_stft.mel_basis.shape, generator=generator))
    return vocoder


def mmaudio_vocoder() -> MMAudioVocoder:
    return randomize(
        MMAudioVocoder(
            num_mels=8,
            upsample_initial_channel=16,
            upsample_rates=(4, 4, 2),
            upsample_kernel_sizes=(8, 8, 4),
            resblock_kernel_sizes=(3, 5),
            resblock_dilation_sizes=((1, 3), (1, 2)),
        )
    )


def stereo_vocoder() -> LTX2Vocoder:
    return ltx2_vocoder(
        in_channels=32,
        hidden_channels=32,
        out_channels=2,
        upsample_kernel_sizes=[16, 15, 8, 4],
        upsample_factors=[6, 5, 4, 2],
        act_fn="leaky_relu",
        antialias=False,
        output_sampling_rate=24000,
    )


WAVEFORM_VAE = {"encoder_dim": 4, "encoder_rates": [2, 3], "decoder_dim": 8, "decoder_rates": [3, 2]}


def dac(**changes: object) -> JoVAAutoencoderKLDAC:
    return randomize(JoVAAutoencoderKLDAC(**{**WAVEFORM_VAE, "latent_dim": 6, **changes}))


def kvae() -> AutoencoderKLKVAEAudio:
    sizes = {"latent_dim": 8, "codebook_dim": 5, "attn_num_heads": 2, "num_channels": 2}
    return randomize(AutoencoderKLKVAEAudio(**WAVEFORM_VAE, **sizes))


def log_mel() -> JoVALogMel:
    mel = JoVALogMel(sample_rate=6000, n_fft=64, hop_length=12, mel_bins=10, max_frequency_hz=2000.0)
    mel.latents_mean.fill_(-5.0)
    mel.latents_std.copy_(torch.linspace(1, 3, 10))
    return mel


def qwen_vocoder() -> Qwen2_5OmniToken2WavBigVGANModel:
    config = Qwen2_5OmniToken2WavBigVGANModel.config_class(
        mel_dim=10,
        upsample_initial_channel=16,
        upsample_rates=[3, 2, 2],
        upsample_kernel_sizes=[7, 4, 4],
        resblock_kernel_sizes=[3, 5],
        resblock_dilation_sizes=[[1, 3, 5], [1, 3, 5]],
    )
    return randomize(Qwen2_5OmniToken2WavBigVGANModel(config))


def components(kind: str) -> tuple[nn.Module, nn.Module | None]:
    return {
        "dac": lambda: (dac(), None),
        "kvae": lambda: (kvae(), None),
        "log-mel": lambda: (log_mel(), qwen_vocoder()),
        "mmaudio": lambda: (mmaudio_vae(), mmaudio_vocoder()),
        "mmaudio-ltx2": lambda: (mmaudio_vae(), ltx2_vocoder()),
        "ltx2": lambda: (ltx2_audio_vae(), stereo_vocoder()),
        "ltx2-bwe": lambda: (ltx2_audio_vae(), ltx2_vocoder_with_bwe()),
    }[kind]()


def codec_of(kind: str) -> JoVAAudioCodec:
    return JoVAAudioCodec(*components(kind))


def random_latents(codec: JoVAAudioCodec, num_latents: int, batch_size: int = 2) -> Tensor:
    shape = (batch_size, num_latents, codec.latent_channels)
    return torch.randn(shape, generator=torch.Generator().manual_seed(2))


def random_waveform(codec: JoVAAudioCodec, num_samples: int, batch_size: int = 2) -> Tensor:
    shape = (batch_size, codec.num_channels, num_samples)
    return torch.rand(shape, generator=torch.Generator().manual_seed(3)) - 0.5


# --- geometry ---


@pytest.mark.parametrize(
    ("kind", "latent_rate_hz", "latent_channels", "sampling_rate", "num_channels"),
    [
        ("mmaudio", 250.0, 6, 16000, 1),
        ("mmaudio-ltx2", 250.0, 6, 16000, 1),
        ("ltx2", 25.0, 16, 24000, 2),
        ("ltx2-bwe", 25.0, 16, 48000, 2),
        ("dac", 8000.0, 6, 48000, 1),
        ("kvae", 8000.0, 5, 48000, 2),
        ("log-mel", 500.0, 10, 6000, 1),
    ],
)
def test_the_codec_reads_its_geometry_from_its_components(
    kind: str, latent_rate_hz: float, latent_channels: int, sampling_rate: int, num_channels: int
) -> None:
    codec = codec_of(kind)
    assert codec.latent_rate_hz == latent_rate_hz
    assert codec.latent_channels == latent_channels
    assert (codec.sampling_rate, codec.num_channels) == (sampling_rate, num_channels)


@pytest.mark.parametrize(
    ("vae", "generator", "latent_rate_hz", "num_latents", "reach_mel_frames"),
    [
        (VAE_16K, BIGVGAN_16K, 31.25, {2.048: 64, 2.0625: 64, 8: 250}, 38),
        (VAE_44K, BIGVGAN_44K, 43.06640625, {8: 345}, 21),
    ],
)
def test_released_geometries_have_their_known_rates_and_reach(
    vae: dict, generator: dict, latent_rate_hz: float, num_latents: dict, reach_mel_frames: int
) -> None:
    vocoder = MMAudioVocoder(
        num_mels=vae["mel_bins"],
        upsample_initial_channel=64,
        upsample_rates=generator["factors"],
        upsample_kernel_sizes=generator["kernels"],
    )
    codec = JoVAAudioCodec(mmaudio_vae(**vae), vocoder)
    assert codec.latent_rate_hz == latent_rate_hz
    assert {duration_s: codec.num_latents_for(duration_s) for duration_s in num_latents} == num_latents
    assert codec._vocoder.reach_mel_frames == reach_mel_frames


@pytest.mark.parametrize("kind", KINDS)
def test_the_number_of_samples_and_of_latents_belong_together(kind: str) -> None:
    codec = codec_of(kind)
    latents = random_latents(codec, num_latents=9)
    waveform = codec.decode(latents)
    assert waveform.shape == (2, codec.num_channels, codec.num_samples_for(9))
    assert waveform.dtype == torch.float32
    assert codec.encode(waveform.clamp(-1, 1)).shape == latents.shape


def test_the_waveform_vae_of_mova_has_the_latents_of_its_release() -> None:
    """mova_pipeline: ceil(int(48000 * num_frames / fps) / 960), written out in whole numbers."""
    with torch.device("meta"):
        codec = JoVAAudioCodec(JoVAAutoencoderKLDAC())
    assert codec.latent_rate_hz == 50
    assert (codec.num_latents_for(193 / 24), codec.num_latents_for(121 / 24)) == (403, 253)
    for frame_rate in (16, 24, 25, 30):
        for num_frames in range(1, 400, 4):
            num_samples = 48000 * num_frames // frame_rate
            assert codec.num_latents_for(num_frames / frame_rate) == -(-num_samples // 960)
    assert codec._vocoder.reach_mel_frames == 10  # measured on the original: 9419 samples before, 10352 behind


def test_the_mel_frames_of_uniavgen_are_those_of_its_release() -> None:
    with torch.device("meta"):
        vocoder = Qwen2_5OmniToken2WavBigVGANModel(Qwen2_5OmniToken2WavBigVGANModel.config_class())
        codec = JoVAAudioCodec(JoVALogMel(), vocoder)
    assert (codec.latent_rate_hz, codec.sampling_rate, codec.latent_channels) == (100, 24000, 80)
    assert codec.num_latents_for(81 / 16) == 506
    assert codec.num_samples_for(506) == 121440


@pytest.mark.parametrize("kind", ["mmaudio", "dac", "kvae", "log-mel"])
def test_a_clip_has_as_many_latents_as_its_sound_is_encoded_to(kind: str) -> None:
    codec = codec_of(kind)
    for num_latents in (60, 61):
        num_samples = codec.num_samples_for(num_latents)
        assert codec.num_latents_for(num_samples / codec.sampling_rate) == num_latents
        assert codec.encode(random_waveform(codec, num_samples, batch_size=1)).shape[1] == num_latents


@pytest.mark.parametrize("kind", ["dac", "kvae"])
def test_a_remainder_shorter_than_a_latent_is_filled_up_by_a_waveform_vae(kind: str) -> None:
    codec = codec_of(kind)
    for extra in (1, 3, 5):
        waveform = random_waveform(codec, 6 * 40 + extra, batch_size=1)
        latents = codec.encode(waveform)
        assert latents.shape[1] == 41 == codec.num_latents_for((6 * 40 + extra) / 48000)
        torch.testing.assert_close(latents, codec.encode(torch.nn.functional.pad(waveform, (0, 6 - extra))))


@pytest.mark.parametrize("kind", CUTTING)
def test_a_remainder_shorter_than_a_latent_is_dropped(kind: str) -> None:
    codec = codec_of(kind)
    whole = codec.num_samples_for(40)
    for extra in (0, 1, (codec.num_samples_for(41) - whole) // 2 - 1):
        assert codec.encode(random_waveform(codec, whole + extra, batch_size=1)).shape[1] == 40


# --- numbers ---


@pytest.mark.parametrize("kind", ["mmaudio", "ltx2"])
def test_encode_scales_the_posterior_mean_and_decode_takes_the_scale_back(kind: str) -> None:
    vae, vocoder = components(kind)
    codec, decoded = JoVAAudioCodec(vae, vocoder), []
    decode = vae.decode
    vae.decode = lambda z, return_dict: decoded.append(z) or decode(z, return_dict=return_dict)
    latents = codec.encode(random_waveform(codec, codec.num_samples_for(20)))
    codec.decode(latents)
    own = decoded[0]  # as the VAE itself speaks
    if kind == "mmaudio":
        torch.testing.assert_close(latents, 0.5 * own.transpose(1, 2))
    else:
        packed = own.transpose(1, 2).flatten(2)
        torch.testing.assert_close(latents, (packed - torch.linspace(-1, 1, 16)) / torch.linspace(0.5, 2, 16))
        assert own.shape == (2, 4, 20, 4)


def test_mmaudio_latents_are_those_of_the_vae_itself() -> None:
    vae, vocoder = components("mmaudio")
    codec = JoVAAudioCodec(vae, vocoder)
    waveform = random_waveform(codec, codec.num_samples_for(20))
    posterior = vae.encode(waveform[:, 0]).latent_dist
    torch.testing.assert_close(codec.encode(waveform), 0.5 * posterior.mode().mT)
    mel = vae.decode(posterior.mode()).sample
    torch.testing.assert_close(codec.decode(codec.encode(waveform)), vocoder(mel).sample)


def test_ltx2_latents_decode_as_in_the_host_pipeline() -> None:
    from diffusers import LTX2Pipeline

    vae, vocoder = components("ltx2")
    codec = JoVAAudioCodec(vae, vocoder)
    latents = random_latents(codec, 12)
    host = LTX2Pipeline._denormalize_audio_latents(latents, vae.latents_mean, vae.latents_std)
    host = LTX2Pipeline._unpack_audio_latents(host, 12, num_mel_bins=4)
    torch.testing.assert_close(codec.decode(latents), vocoder(vae.decode(host, return_dict=False)[0]))


def test_the_log_mel_front_end_finds_a_tone_in_its_band_at_its_time() -> None:
    time_s = torch.arange(16000) / 16000
    tone = torch.sin(2 * torch.pi * 1000 * time_s) * (time_s >= 0.5)
    mel = centred_log_mel(tone[None, None], 16000, 160, 64, 1024)
    assert mel.shape == (1, 1, 101, 64)
    loudest = mel[0, 0, 80].argmax().item()
    assert loudest == pytest.approx(64 * 15 / (15 + 27 / torch.tensor(6.4).log() * torch.tensor(8.0).log()), abs=1.5)
    energy = mel[0, 0, :, loudest].exp()
    assert (energy > energy[80] / 2).nonzero()[0] == 50  # frame 50 is centred on 0.5 s
    assert mel[0, 0, 20].max() == pytest.approx(torch.tensor(1e-5).log().item())  # the floor of silence


# --- chunks ---


@pytest.mark.numeric
@pytest.mark.parametrize("kind", KINDS)
def test_vocoding_in_chunks_equals_vocoding_the_whole(kind: str) -> None:
    vae, vocoder = components(kind)
    if "bwe" in kind:
        vocoder.double()  # the logarithm between its two stages magnifies the round-off of the first
    whole = JoVAAudioCodec(vae, vocoder, chunk_mel_frames=10**6)
    latents = random_latents(whole, 60 if kind.startswith("mm") else 40, batch_size=1)
    expected = whole.decode(latents)
    assert expected.std() > 0.01
    assert (expected.abs() < 1).float().mean() > 0.9  # what clips, hides
    for chunk_mel_frames in (16, 37):
        chunked = JoVAAudioCodec(vae, vocoder, chunk_mel_frames).decode(latents)
        torch.testing.assert_close(chunked, expected, atol=ROUND_OFF, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_reach_is_exactly_what_a_mel_frame_can_influence(kind: str) -> None:
    codec = codec_of(kind)
    vocoder, reach = codec._vocoder, codec._vocoder.reach_mel_frames
    vocoder.module.double()  # the outermost filter taps multiply to less than float32 can hold
    centre = reach + 3
    num_mels = codec._vae.num_channels if kind in CUTTING else 1  # latents come as one
    shape = (1, num_mels, 2 * centre + 1, vocoder.num_mel_bins // num_mels)
    mel = (0.01 * torch.randn(shape, generator=torch.Generator().manual_seed(4))).double().requires_grad_(True)
    hop = vocoder.hop_length_samples
    vocoder(mel)[..., centre * hop : (centre + 1) * hop].square().sum().backward()
    distances = (mel.grad.abs().sum((0, 1, 3)).nonzero().flatten() - centre).abs()
    assert distances.max() <= reach
    if "bwe" not in kind:  # there, the reach through both stages is a bound
        assert distances.max() == reach


# --- dtypes and hooks ---


@pytest.mark.parametrize("kind", ["mmaudio", "ltx2", "dac", "log-mel"])
def test_half_precision_components_encode_and_decode_and_keep_their_dtype(kind: str) -> None:
    vae, vocoder = components(kind)
    codec = JoVAAudioCodec(vae, vocoder)
    waveform = random_waveform(codec, codec.num_samples_for(20))
    expected = codec.encode(waveform)
    for module in filter(None, (vae, vocoder)):
        module.to(torch.bfloat16)
    latents = codec.encode(waveform)
    assert latents.dtype == codec.decode(latents).dtype == torch.float32
    assert {module.dtype for module in (vae, vocoder) if module is not None} == {torch.bfloat16}
    assert (latents - expected).norm() < 0.1 * expected.norm()


@pytest.mark.parametrize("kind", ["mmaudio", "ltx2", "dac", "log-mel"])
def test_components_in_float64_encode_and_decode(kind: str) -> None:
    vae, vocoder = components(kind)
    codec = JoVAAudioCodec(vae, vocoder)
    waveform = random_waveform(codec, codec.num_samples_for(20))
    latents = codec.encode(waveform)
    sound = codec.decode(latents)
    for module in filter(None, (vae, vocoder)):
        module.to(torch.float64)
    assert relative_error(codec.encode(waveform), latents) < 1e-4
    assert relative_error(codec.decode(latents), sound) < 1e-3
    assert {module.dtype for module in (vae, vocoder) if module is not None} == {torch.float64}


def test_the_components_are_called_as_offloading_hooks_expect() -> None:
    vae, vocoder = components("mmaudio")
    calls: list[str] = []

    class Hook:
        def pre_forward(self, module: nn.Module, *args: object, **kwargs: object) -> None:
            calls.append(type(module).__name__)

    vae._hf_hook = Hook()
    vocoder.register_forward_pre_hook(lambda module, _: calls.append(type(module).__name__))
    codec = JoVAAudioCodec(vae, vocoder)
    codec.decode(codec.encode(random_waveform(codec, codec.num_samples_for(8))))
    assert calls == ["MMAudioVAE", "MMAudioVAE", "MMAudioVocoder"]


# --- bad input ---


def test_a_vocoder_of_another_codec_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`vocoder\.num_mel_bins` must be 8 to fit `audio_vae`, got 16"):
        JoVAAudioCodec(mmaudio_vae(), ltx2_vocoder(in_channels=16))
    with pytest.raises(ValueError, match=r"`vocoder\.num_channels` must be 1 to fit `audio_vae`, got 2"):
        JoVAAudioCodec(mmaudio_vae(), ltx2_vocoder(out_channels=2))
    with pytest.raises(ValueError, match=r"`vocoder\.sampling_rate` must be 16000 to fit `audio_vae`, got 24000"):
        JoVAAudioCodec(mmaudio_vae(), ltx2_vocoder(output_sampling_rate=24000))
    with pytest.raises(ValueError, match=r"`vocoder\.sampling_rate` must be 8000 to fit `audio_vae`, got 16000"):
        JoVAAudioCodec(mmaudio_vae(hop_length=64), mmaudio_vocoder())
    with pytest.raises(ValueError, match="`chunk_mel_frames` must be at least 1, got 0"):
        JoVAAudioCodec(*components("mmaudio"), chunk_mel_frames=0)


def test_a_vocoder_is_there_exactly_where_it_has_something_to_do() -> None:
    with pytest.raises(ValueError, match=r"`vocoder` must be given to a MMAudioVAE, .* got None; load the vocoder"):
        JoVAAudioCodec(mmaudio_vae())
    with pytest.raises(
        ValueError, match=r"`vocoder` must be None for a JoVAAutoencoderKLDAC, .* got a MMAudioVocoder"
    ):
        JoVAAudioCodec(dac(), mmaudio_vocoder())
    with pytest.raises(ValueError, match="`n_fft` must exceed `hop_length` by an even number, got 64 and 13"):
        JoVALogMel(n_fft=64, hop_length=13)


@pytest.mark.parametrize("kind", ["mmaudio", "ltx2", "log-mel"])
def test_wrong_sound_and_latents_are_refused(kind: str) -> None:
    codec = codec_of(kind)
    with pytest.raises(ValueError, match=r"`waveform` must have the shape \[B, \d, S\], got \[1, 3, 5000\]"):
        codec.encode(torch.zeros(1, 3, 5000))
    with pytest.raises(ValueError, match=r"`waveform` must last at least 0\.\d+ s, got 0\.00"):
        codec.encode(torch.zeros(1, codec.num_channels, 8))
    with pytest.raises(ValueError, match=r"`latents` must have the shape \[B, L, \d+\], got \[1, 5, 3\]"):
        codec.decode(torch.zeros(1, 5, 3))
    with pytest.raises(ValueError, match="`duration_s` must be positive and finite, got 0"):
        codec.num_latents_for(0)


@needs_references
@pytest.mark.numeric
def test_log_mel_frames_and_their_vocoder_are_those_of_uniavgen(tmp_path: Path) -> None:
    mel = JoVALogMel()
    mel.latents_mean.fill_(-5.1753)
    mel.latents_std.fill_(2.1544)
    mel.save_pretrained(tmp_path / "mel")
    mel = JoVALogMel.from_pretrained(tmp_path / "mel")
    given = load_file(PARITY / "uniavgen" / "mel.safetensors")
    latents = mel.encode(given["waveform"])
    assert latents.shape == given["latents"].shape
    # silence lies at the floor of the logarithm, where rounding is enlarged: compared before it
    expected = given["log_mel"].mT.double().exp()
    assert ((mel.decode(latents).double().exp() - expected).abs() / expected.amax(2, keepdim=True)).max() < 1e-5
    assert (latents - given["latents"]).abs().max() < 5e-5 / 2.1544
    assert relative_error(latents, given["latents"]) < 1e-5

    stored = load_file(PARITY / "uniavgen" / "vocoder_tiny.safetensors")
    config = Qwen2_5OmniToken2WavBigVGANModel.config_class(mel_dim=80, upsample_initial_channel=64)
    vocoder = Qwen2_5OmniToken2WavBigVGANModel(config).eval()
    weights = {name.removeprefix("weights."): tensor for name, tensor in stored.items() if name.startswith("weights.")}
    assert not vocoder.load_state_dict(weights, strict=False).unexpected_keys
    latents = (stored["log_mel"].mT + 5.1753) / 2.1544
    with torch.no_grad():
        for chunk_mel_frames in (512, 7):
            waveform = JoVAAudioCodec(mel, vocoder, chunk_mel_frames).decode(latents)
            assert relative_error(waveform[:, 0], stored["waveform"]) < 1e-4


def test_sound_is_brought_to_the_peak_of_its_log_mel_frames_each_by_itself() -> None:
    sound = torch.randn(2, 2400, generator=torch.Generator().manual_seed(0)) * torch.tensor([[0.1], [0.01]])
    plain, peaked = JoVALogMel(), JoVALogMel(peak=0.5)
    expected = plain.encode(0.5 * sound / sound.abs().amax(1, keepdim=True))
    torch.testing.assert_close(peaked.encode(sound), expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(peaked.encode(torch.zeros(1, 2400)), plain.encode(torch.zeros(1, 2400)))
    for peak in (0, 1.5, float("nan")):
        with pytest.raises(ValueError, match="`peak` must "):
            JoVALogMel(peak=peak)


def test_the_shortest_sound_that_is_accepted_gives_latents() -> None:
    for kind in KINDS:
        codec = codec_of(kind)
        shortest = -(-codec._vae.min_num_samples * codec.sampling_rate // codec._vae.sampling_rate)
        assert codec.encode(torch.zeros(1, codec.num_channels, shortest)).shape[1] >= 1
