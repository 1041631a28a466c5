import ast
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import MMAudioVAE, MMAudioVocoder
from diffusers.pipelines.ltx2 import LTX2Vocoder
from safetensors.torch import save_file

from diffusers_jova.conversion import mmaudio
from diffusers_jova.conversion.checkpoint import from_state_dict, read_pickle
from diffusers_jova.conversion.output import Options, Parameter, check_fits, parameters
from diffusers_jova.conversion.rules import plan
from tests.places import PARITY


needs_references = pytest.mark.skipif(not PARITY.is_dir(), reason=f"reference tensors are not at {PARITY}")
FLOAT32_RELATIVE_ERROR = 1e-5  # measured: VAE 2e-7 to 9e-7, vocoders 0, with the ln 10 fold 9e-7
VOCODER_RELATIVE_ERROR = 1e-6  # measured 0 with the two threads of the reference, 5e-7 with one
MEL_ERROR = 1e-5  # largest log-mel difference; measured 4.8e-7


def relative_error(ours: torch.Tensor, reference: np.ndarray) -> float:
    expected = torch.from_numpy(reference).double()
    assert ours.shape == expected.shape
    return float((ours.double() - expected).norm() / expected.norm())


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
        assert relative_error(moments, reference[f"moments_{case}"]) < FLOAT32_RELATIVE_ERROR
        assert relative_error(decoded, reference[f"dec_{case}"] * np.float32(unit)) < FLOAT32_RELATIVE_ERROR


@needs_references
def test_the_converted_front_end_gives_the_original_mels_in_natural_log(tmp_path: Path) -> None:
    mmaudio.convert(PARITY / "vae_16k_tiny.pth", tmp_path / "vae", Options())
    vae = MMAudioVAE.from_pretrained(tmp_path / "vae")
    reference = np.load(PARITY / "mel_16k.npz")
    np.testing.assert_array_equal(vae.mel_converter.mel_basis.numpy(), reference["mel_basis"])
    for case in ("sweep", "speech", "odd", "batch2", "int8s"):
        waveform = torch.from_numpy(reference[f"wav_{case}"])
        mel = vae.mel_converter(waveform if waveform.ndim == 2 else waveform[None]) / math.log(10)
        assert (mel - torch.from_numpy(reference[f"mel_{case}"])).abs().max() < MEL_ERROR


@needs_references
def test_the_vocoders_are_bit_exact_when_fed_the_mels_they_were_trained_on() -> None:
    for name, call in (
        ("bigvgan_16k_tiny", lambda model, mel: model(mel[:, None], time_last=True)),
        ("bigvgan_v2_44k_tiny", lambda model, mel: model(mel).sample),
    ):
        checkpoint = from_state_dict(read_pickle(PARITY / f"{name}.pt"))
        meta, found = mmaudio.convert_vocoder(checkpoint, natural_log=False)
        model = type(meta).from_config(meta.config)
        model.load_state_dict(state_dict(found))
        reference = np.load(PARITY / f"{name}.npz")
        for case in ("speech", "batch2", "short"):
            with torch.no_grad():
                waveform = call(model, torch.from_numpy(reference[f"mel_{case}"]))
            assert relative_error(waveform, reference[f"wav_{case}"]) < VOCODER_RELATIVE_ERROR
        # only the longer clips depend on the number of threads, which decides the order of summation
        np.testing.assert_array_equal(waveform.numpy(), reference["wav_short"])


@needs_references
def test_the_saved_16_khz_vocoder_takes_natural_log_mels(tmp_path: Path) -> None:
    mmaudio.convert(PARITY / "bigvgan_16k_tiny.pt", tmp_path / "vocoder", Options())
    model = LTX2Vocoder.from_pretrained(tmp_path / "vocoder")
    reference = np.load(PARITY / "bigvgan_16k_tiny.npz")
    with torch.no_grad():
        waveform = model(math.log(10) * torch.from_numpy(reference["mel_speech"])[:, None], time_last=True)
    assert relative_error(waveform, reference["wav_speech"]) < FLOAT32_RELATIVE_ERROR
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
