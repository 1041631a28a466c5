import ast
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import MMAudioVAE, MMAudioVocoder
from diffusers.pipelines.ltx2 import LTX2Vocoder
from safetensors.torch import save_file

from diffusers_jova.conversion import mmaudio
from diffusers_jova.conversion.checkpoint import from_state_dict
from diffusers_jova.conversion.output import Options, Parameter, check_fits, parameters
from diffusers_jova.conversion.rules import plan
from diffusers_jova.torch_files import read_pickle
from tests.places import PARITY, needs_references
from tests.rounding import assert_computes, relative_error


EPS = float(np.finfo(np.float32).eps)
VAE_ERROR = 1e-5  # its norms insist on float32, so float64 is no reference; two float32 differ by at most 6e-7
FILTER_ERROR = 4 * EPS  # of the highest filter: a quotient of differences, and its scale
MEL_ERROR = 16 * EPS  # of the frame's loudest mel; each of the two is off by at most 5 against float64


def state_dict(found: list[Parameter]) -> dict[str, torch.Tensor]:
    return {parameter.name: parameter.make() for parameter in found}


def small_vae(raw: bool = True, mel_bins: int = 80) -> dict[str, torch.Tensor]:
    """State dict of a small network in the released layout."""
    torch.manual_seed(0)
    model = MMAudioVAE(mel_bins=mel_bins, latent_channels=4, hidden_channels=16, scaling_factor=1.0).vae
    tensors = {name: torch.randn_like(value).add(0.1) for name, value in model.state_dict().items()}
    if not raw:
        tensors = {n: mmaudio.fold_row_norm(t) if n.endswith(".weight") else t for n, t in tensors.items()}
    return tensors


def small_vocoder(spelling: str) -> dict[str, torch.Tensor]:
    """State dict of a small BigVGAN v2 whose convolutions are spelled in one of the three ways."""
    torch.manual_seed(0)
    model = mmaudio.mmaudio_vocoder(
        {"mel_bins": 128, "hidden": 64, "rates": [8, 4, 2, 2, 2, 2], "kernels": [16, 8, 4, 4, 4, 4], "branches": [3]}
    )
    tensors = {}
    for name, value in model.state_dict().items():
        path, _, kind = name.rpartition(".")
        if "activation" in path:
            path = path.replace("downsample", "downsample.lowpass") if "lowpass" not in path else path
        if kind != "weight" or spelling == "plain":
            tensors[f"{path}.{kind}"] = value
            continue
        magnitude = value.flatten(1).norm(dim=1)[:, None, None]
        pair = mmaudio.WEIGHT_NORMS[spelling]
        tensors |= {pair[0].format(path=path): magnitude, pair[1].format(path=path): 3 * value}
    return tensors


@needs_references
@pytest.mark.numeric
@pytest.mark.parametrize("name", ["16k", "44k"])
def test_the_converted_vae_encodes_and_decodes_like_the_original(name: str, tmp_path: Path) -> None:
    mmaudio.convert(PARITY / f"vae_{name}_tiny.pth", tmp_path / "vae", Options())
    vae = MMAudioVAE.from_pretrained(tmp_path / "vae")
    reference = np.load(PARITY / f"vae_{name}_tiny.npz")
    unit = math.log(10) if name == "16k" else 1.0  # the original's mels are log10 at 16 kHz
    for case in ("speech", "sweep_odd", "batch2", "floor"):
        with torch.no_grad():
            moments = vae.vae.encode(torch.from_numpy(reference[f"mel_{case}"]) * unit)
            decoded = vae.decode(torch.from_numpy(reference[f"mean_{case}"])).sample
        assert relative_error(moments, torch.from_numpy(reference[f"moments_{case}"])) < VAE_ERROR
        assert relative_error(decoded, torch.from_numpy(reference[f"dec_{case}"]) * unit) < VAE_ERROR


@needs_references
@pytest.mark.numeric
def test_the_converted_front_end_gives_the_original_mels_in_natural_log(tmp_path: Path) -> None:
    mmaudio.convert(PARITY / "vae_16k_tiny.pth", tmp_path / "vae", Options())
    vae = MMAudioVAE.from_pretrained(tmp_path / "vae")
    reference = np.load(PARITY / "mel_16k.npz")
    filters = reference["mel_basis"]
    np.testing.assert_allclose(
        vae.mel_converter.mel_basis.numpy(), filters, rtol=0, atol=FILTER_ERROR * float(filters.max())
    )
    for case in ("sweep", "speech", "odd", "batch2", "int8s"):
        waveform = torch.from_numpy(reference[f"wav_{case}"])
        mel = vae.mel_converter(waveform if waveform.ndim == 2 else waveform[None]).double().exp()
        expected = 10 ** torch.from_numpy(reference[f"mel_{case}"]).double()
        # a quiet bin beside a loud one holds the loud one's rounding, which the logarithm blows up: compared before it
        assert ((mel - expected).abs() / expected.amax(dim=1, keepdim=True)).max() < MEL_ERROR


@needs_references
@pytest.mark.numeric
@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("bigvgan_16k_tiny", lambda model, mel: model(mel[:, None], time_last=True)),
        ("bigvgan_v2_44k_tiny", lambda model, mel: model(mel).sample),
    ],
)
def test_the_vocoders_compute_what_the_originals_compute_from_the_mels_they_were_trained_on(
    name: str, call: Any
) -> None:
    checkpoint = from_state_dict(read_pickle(PARITY / f"{name}.pt"))
    meta, found = mmaudio.convert_vocoder(checkpoint, natural_log=False)
    model = type(meta).from_config(meta.config)
    model.load_state_dict(state_dict(found))
    reference = {key: torch.from_numpy(value) for key, value in np.load(PARITY / f"{name}.npz").items()}
    for case in ("batch2", "short"):
        mel = reference[f"mel_{case}"]
        assert_computes(model, lambda dtype, mel=mel: call(model, mel.to(dtype)), reference[f"wav_{case}"])


@needs_references
@pytest.mark.numeric
def test_the_saved_16_khz_vocoder_takes_natural_log_mels(tmp_path: Path) -> None:
    mmaudio.convert(PARITY / "bigvgan_16k_tiny.pt", tmp_path / "vocoder", Options())
    model = LTX2Vocoder.from_pretrained(tmp_path / "vocoder")
    reference = np.load(PARITY / "bigvgan_16k_tiny.npz")
    mel, waveform = (torch.from_numpy(reference[name]) for name in ("mel_speech", "wav_speech"))
    assert_computes(model, lambda dtype: model(math.log(10) * mel.to(dtype)[:, None], time_last=True), waveform)
    assert model.config.output_sampling_rate == 16000


@needs_references
def test_full_size_key_lists_convert_with_nothing_left_over_and_nothing_missing() -> None:
    for name in ("16k", "44k"):
        checkpoint = from_state_dict(meta_tensors(PARITY / "keys" / f"mmaudio_vae_{name}.txt"))
        model, found = mmaudio.convert_vae(checkpoint, folded=False)
        check_fits(found, model)
    for name in ("bigvgan_16k", "bigvgan_v2_44k"):
        checkpoint = from_state_dict(meta_tensors(PARITY / "keys" / f"{name}.txt"))
        model, found = mmaudio.convert_vocoder(checkpoint)
        check_fits(found, model)


def meta_tensors(path: Path) -> dict[str, torch.Tensor]:
    rows = [line.split("\t") for line in path.read_text().splitlines() if not line.startswith("#")]
    return {name: torch.empty(ast.literal_eval(shape), device="meta") for name, shape, _ in rows}


def test_folding_is_done_once_and_never_again() -> None:
    raw, folded = from_state_dict(small_vae()), from_state_dict(small_vae(raw=False))
    assert not mmaudio.is_folded(raw)
    assert mmaudio.is_folded(folded)
    _, from_raw = mmaudio.convert_vae(raw, mmaudio.is_folded(raw))
    _, from_folded = mmaudio.convert_vae(folded, mmaudio.is_folded(folded))
    torch.testing.assert_close(state_dict(from_raw), state_dict(from_folded), rtol=0, atol=0)


def test_a_mixture_of_raw_and_folded_layers_is_refused() -> None:
    mixed = small_vae() | {"encoder.conv_in.weight": small_vae(raw=False)["encoder.conv_in.weight"]}
    with pytest.raises(ValueError, match=r"must be all raw or all folded, got 1 folded layers"):
        mmaudio.is_folded(from_state_dict(mixed))


def test_a_converted_vae_is_refused_by_a_second_conversion(tmp_path: Path) -> None:
    torch.save(small_vae(), tmp_path / "v1-16.pth")
    mmaudio.convert(tmp_path / "v1-16.pth", tmp_path / "vae", Options())
    with pytest.raises(ValueError, match="got a converted `MMAudioVAE`"):
        mmaudio.convert(tmp_path / "vae" / "diffusion_pytorch_model.safetensors", tmp_path / "again", Options())
    assert not (tmp_path / "again").exists()


def test_all_three_spellings_of_weight_norm_give_the_same_vocoder() -> None:
    plain = state_dict(mmaudio.convert_vocoder(from_state_dict(small_vocoder("plain")))[1])
    for spelling in mmaudio.WEIGHT_NORMS:
        merged = state_dict(mmaudio.convert_vocoder(from_state_dict(small_vocoder(spelling)))[1])
        torch.testing.assert_close(merged, plain)


def test_a_one_file_bundle_becomes_two_components_and_is_not_folded_again(tmp_path: Path) -> None:
    bundle = {f"vae.{n}": t for n, t in small_vae(raw=False, mel_bins=128).items()}
    bundle |= {f"vocoder.{n}": t for n, t in small_vocoder("plain").items()}
    bundle["mel_converter.mel_basis"] = torch.zeros(3)
    save_file(bundle, tmp_path / "bundle.safetensors")
    mmaudio.convert(tmp_path / "bundle.safetensors", tmp_path / "out", Options())
    converted = MMAudioVAE.from_pretrained(tmp_path / "out" / "audio_vae")
    torch.testing.assert_close(converted.vae.encoder.conv_in.weight.data, bundle["vae.encoder.conv_in.weight"])
    MMAudioVocoder.from_pretrained(tmp_path / "out" / "vocoder")


def test_tables_account_for_every_key() -> None:
    rules = mmaudio.vae_rules(folded=True, log_factor=1.0)
    checkpoint = from_state_dict(small_vae() | {"encoder.extra": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"1 tensors that no rule knows: `encoder.extra`"):
        parameters(plan(checkpoint, rules), checkpoint)
