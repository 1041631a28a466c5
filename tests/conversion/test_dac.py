"""The DAC of MOVA under its released names; the numbers are those of the original code."""

import ast
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from diffusers_jova import JoVAAudioCodec, JoVAAutoencoderKLDAC
from diffusers_jova.conversion.checkpoint import from_state_dict, open_checkpoint
from diffusers_jova.conversion.dac import convert_dac, rules
from diffusers_jova.conversion.output import Options, check_fits, save_model
from diffusers_jova.conversion.rules import inverse, plan
from tests.places import PARITY, needs_references
from tests.rounding import assert_computes, relative_error


def converted(path: Path, folder: Path) -> JoVAAutoencoderKLDAC:
    model, found = convert_dac(open_checkpoint(path))
    save_model(folder, model, found, Options())
    return JoVAAutoencoderKLDAC.from_pretrained(folder)


def released_names(vae: JoVAAutoencoderKLDAC) -> dict[str, Tensor]:
    """Names that the original gives to an untouched network of the same sizes, weights split."""
    state = vae.state_dict()
    moves = plan(state, inverse(rules(len(vae.config.encoder_rates))))
    return {target: state[move.sources[0]] for move in moves for target in move.targets}


def small_dac() -> JoVAAutoencoderKLDAC:
    torch.manual_seed(0)
    return JoVAAutoencoderKLDAC(encoder_dim=4, encoder_rates=(2, 3), latent_dim=6, decoder_dim=8, decoder_rates=(3, 2))


@needs_references
@pytest.mark.numeric
@pytest.mark.parametrize("file", ["audio_vae_tiny", "audio_vae_tiny_weight_norm"])
def test_a_released_dac_computes_what_the_original_computes(file: str, tmp_path: Path) -> None:
    vae = converted(PARITY / "mova" / f"{file}.safetensors", tmp_path / "vae")
    given = load_file(PARITY / "mova" / "audio_vae_tiny_io.safetensors")
    for case in range(3):
        wave = given[f"in.wave_{case}"]
        wave = F.pad(wave, (0, -wave.shape[2] % 30))

        def encode(dtype: torch.dtype, wave: Tensor = wave) -> Tensor:
            return vae.encode(wave.to(dtype)).latent_dist.mode()

        assert_computes(vae, encode, given[f"out.mean_{case}"])
        latents = given[f"out.mean_{case}"]
        assert_computes(vae, lambda dtype, z=latents: vae.decode(z.to(dtype)).sample, given[f"out.decoded_{case}"])
    latents = given["in.latents"]
    assert_computes(vae, lambda dtype: vae.decode(latents.to(dtype)).sample, given["out.decoded_latents"])


@needs_references
@pytest.mark.numeric
def test_the_codec_hears_and_speaks_what_the_original_does(tmp_path: Path) -> None:
    codec = JoVAAudioCodec(converted(PARITY / "mova" / "audio_vae_tiny.safetensors", tmp_path / "vae").eval())
    given = load_file(PARITY / "mova" / "audio_vae_tiny_io.safetensors")
    with torch.no_grad():
        for case in range(3):
            latents = codec.encode(given[f"in.wave_{case}"])  # the codec fills up what lacks to a latent
            assert relative_error(latents.mT, given[f"out.mean_{case}"]) < 1e-5
            assert relative_error(codec.decode(latents), given[f"out.decoded_{case}"]) < 1e-5


@needs_references
def test_the_full_list_of_released_names_is_converted_without_a_leftover() -> None:
    lines = (PARITY / "mova" / "keys" / "audio_vae.txt").read_text().splitlines()
    pairs = [line.split("\t") for line in lines if not line.startswith("#")]
    names = {name: torch.empty(ast.literal_eval(shape), device="meta") for name, shape in pairs}
    model, found = convert_dac(from_state_dict(names))
    check_fits(found, model)
    assert dict(model.config) == dict(model.config) | {
        "encoder_dim": 128,
        "encoder_rates": [2, 3, 4, 5, 8],
        "latent_dim": 128,
        "decoder_dim": 2048,
        "decoder_rates": [8, 5, 4, 3, 2],
    }


def test_a_converted_dac_is_the_one_that_the_names_came_from() -> None:
    vae = small_dac()
    model, found = convert_dac(from_state_dict(released_names(vae)))
    made = {parameter.name: parameter.make() for parameter in found}
    assert all(torch.equal(made[name], tensor) for name, tensor in vae.state_dict().items())
    assert model.config.encoder_rates == [2, 3]


def test_folded_weights_stay_what_they_are_in_the_product_of_length_and_direction() -> None:
    vae = small_dac()
    names = released_names(vae)
    folded = {name.removesuffix("_v"): tensor for name, tensor in names.items() if not name.endswith("weight_g")}
    _, found = convert_dac(from_state_dict(folded))
    vae.load_state_dict({parameter.name: parameter.make() for parameter in found})
    torch.testing.assert_close(vae.decoder.conv1.weight, folded["decoder.model.0.weight"])


@pytest.mark.parametrize("change", ["less", "more"])
def test_tensors_of_another_network_are_refused(change: str) -> None:
    names = released_names(small_dac())
    if change == "less":
        del names["decoder.model.1.block.0.alpha"]
    else:
        names["attn.to_q.weight"] = torch.ones(1, 1)
    with pytest.raises(ValueError, match=r"exactly the tensors of its table, got"):
        convert_dac(from_state_dict(names))
