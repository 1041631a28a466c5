"""Components in the layouts of Wan's and NAVA's releases; the numbers are those of the original code."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLLTX2Audio, AutoencoderKLWan
from diffusers.pipelines.ltx2.vocoder import LTX2VocoderWithBWE
from safetensors.torch import save_file
from torch import Tensor
from transformers import UMT5EncoderModel

from diffusers_jova import JoVAAutoencoderKLDAC, JoVAPipeline
from diffusers_jova.conversion.checkpoint import from_state_dict
from diffusers_jova.conversion.components import NAMES, converted, find_components, locate
from diffusers_jova.conversion.convert import main
from diffusers_jova.conversion.output import Options
from diffusers_jova.conversion.wan_vae import convert_vae
from jova_cli.model_info import front_matter
from tests.conversion.test_dac import released_names, small_dac
from tests.conversion.test_wan import nava_names
from tests.released_parts import RELEASED_FILES, filled, released_checkpoint, result
from tests.rounding import assert_computes
from tests.tiny_checkpoints import save_random
from tests.tiny_pipeline import build_tokenizer


FROM = {"text_encoder": "umt5", "vae": "wan_2.2_vae", "audio_vae": "ltx2_audio", "vocoder": "ltx2_audio"}


def write_released(folder: Path, part: str, state: dict[str, Tensor] | None = None) -> Path:
    path = folder / RELEASED_FILES[part]
    path.parent.mkdir(parents=True, exist_ok=True)
    state = released_checkpoint(part) if state is None else state
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


def write_release(folder: Path) -> Path:
    """The files of NAVA's repository that are not NAVA."""
    for part in ("umt5", "wan_2.2_vae"):
        write_released(folder / "Wan2.2-TI2V-5B", part)
    write_released(folder / "params" / "LTX2", "ltx2_audio")
    tokenizer = build_tokenizer()
    tokenizer.add_tokens(["<extra_id_2>"], special_tokens=True)
    tokenizer.save_pretrained(folder / "Wan2.2-TI2V-5B" / "google" / "umt5-xxl")
    return folder


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of a release; tests must not write among them."""
    return write_release(tmp_path_factory.mktemp("released") / "release")


@pytest.fixture(scope="module")
def convert(release: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the folder of a component that took the way of a conversion."""
    components = {component.name: component for component in find_components([release], Options())}
    output = tmp_path_factory.mktemp("converted")

    def written(name: str) -> Path:
        components[name].write(output / name)
        return output / name

    return written


@pytest.mark.numeric
@pytest.mark.parametrize(("part", "size"), [("wan_2.1_vae", 16), ("wan_2.2_vae", 32)])
def test_a_released_video_vae_computes_what_the_original_computes(part: str, size: int, tmp_path: Path) -> None:
    component = converted("vae", write_released(tmp_path, part), Options())
    component.write(tmp_path / "vae")
    vae = AutoencoderKLWan.from_pretrained(tmp_path / "vae")
    video, latents = filled([1, 3, 5, size, size], 1), filled([1, 4, 2, 2, 2], 2)
    assert_computes(vae, lambda dtype: vae.encode(video.to(dtype)).latent_dist.mode(), result(f"{part}.encoded"))
    assert_computes(vae, lambda dtype: vae.decode(latents.to(dtype)).sample, result(f"{part}.decoded"))


@pytest.mark.numeric
def test_a_released_text_encoder_computes_what_the_original_computes(convert: Callable[[str], Path]) -> None:
    encoder = UMT5EncoderModel.from_pretrained(convert("text_encoder"))
    assert encoder.encoder.embed_tokens.weight.any()
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[1, 5:] = 0
    tokens, reference = torch.arange(18).view(2, 9) * 7 % 32, result("umt5.encoded")
    assert_computes(encoder, lambda _: encoder(tokens, mask).last_hidden_state[:, :5], reference[:, :5])
    assert_computes(encoder, lambda _: encoder(tokens, mask).last_hidden_state[0], reference[0])


@pytest.mark.numeric
def test_a_released_audio_vae_computes_what_the_original_computes(convert: Callable[[str], Path]) -> None:
    vae = AutoencoderKLLTX2Audio.from_pretrained(convert("audio_vae"))
    mel, latents = filled([1, 2, 13, 64], 3), filled([1, 1, 4, 16], 4)

    def statistics(dtype: torch.dtype) -> list[Tensor]:  # per channel and bin
        return [tensor.to(dtype).view(1, 1, 1, 16) for tensor in (vae.latents_mean, vae.latents_std)]

    def encode(dtype: torch.dtype) -> Tensor:
        mean, std = statistics(dtype)
        return (vae.encode(mel.to(dtype)).latent_dist.mode() - mean) / std

    def decode(dtype: torch.dtype) -> Tensor:
        mean, std = statistics(dtype)
        return vae.decode(latents.to(dtype) * std + mean).sample

    assert_computes(vae, encode, result("ltx2_audio.encoded"))
    assert_computes(vae, decode, result("ltx2_audio.decoded"))


@pytest.mark.numeric
def test_a_released_vocoder_computes_what_the_original_computes(convert: Callable[[str], Path]) -> None:
    """The stored sound was computed in float64 and rounded once."""
    vocoder = LTX2VocoderWithBWE.from_pretrained(convert("vocoder"))
    mel, waveform = filled([1, 2, 13, 64], 3), result("ltx2_audio.waveform")
    assert 0.01 < waveform.std() < 0.5
    assert waveform.abs().max() < 1, "clipped samples hide differences"
    assert_computes(vocoder, lambda dtype: vocoder(mel.to(dtype)), waveform)


def test_latents_of_wan_2_2_keep_their_released_statistics() -> None:
    model, _ = convert_vae(from_state_dict(released_checkpoint("wan_2.2_vae")))
    assert [len(model.config[name]) for name in ("latents_mean", "latents_std")] == [48, 48]
    assert (model.config.latents_mean[0], model.config.latents_std[-1]) == (-0.2289, 0.7744)
    model, _ = convert_vae(from_state_dict(released_checkpoint("wan_2.1_vae")))
    assert model.config.latents_mean == AutoencoderKLWan().config.latents_mean


@pytest.mark.parametrize("name", list(FROM))
def test_a_released_file_with_another_tensor_or_without_one_is_refused(name: str, tmp_path: Path) -> None:
    whole = released_checkpoint(FROM[name])
    prefix = {"audio_vae": "audio_vae.encoder.", "vocoder": "vocoder.vocoder."}.get(name, "")
    one = next(key for key in whole if key.startswith(prefix) and "norm" not in key)
    for state, message in (
        (whole | {"elsewhere.weight": torch.ones(1)}, "`elsewhere.weight`"),
        ({key: tensor for key, tensor in whole.items() if key != one}, r"must (fit|hold) .* got (1 missing|none)"),
        (whole | {one: torch.ones(*whole[one].shape, 2)}, r"must (fit|hold) .*, 2\]"),
    ):
        path = write_released(tmp_path, FROM[name], state)
        with pytest.raises(ValueError, match=message):
            converted(name, path, Options())


def test_the_files_of_a_release_become_a_pipeline(tmp_path: Path) -> None:
    release = write_release(tmp_path / "NAVA")
    assert tuple(locate([release])) == NAMES
    save_random(release / "NAVA.safetensors", nava_names(dim=128, ffn=32, twins=1, shared=1))
    output = tmp_path / "out"
    main(["nava", str(release / "NAVA.safetensors"), str(output), "--components", str(release)])
    index = json.loads((output / "model_index.json").read_text())
    assert {name: index[name] for name in FROM} == {
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "vae": ["diffusers", "AutoencoderKLWan"],
        "audio_vae": ["diffusers", "AutoencoderKLLTX2Audio"],
        "vocoder": ["ltx2", "LTX2VocoderWithBWE"],
    }
    licences = front_matter(output)["component_licenses"]
    assert (licences["vae"], licences["vocoder"]) == ("apache-2.0", "ltx-2-community-license-agreement")
    small = {"transformer": None, "vae": None}  # their channels are fewer than the released statistics
    pipe = JoVAPipeline.from_pretrained(output, **small)
    assert pipe.audio_codec.sampling_rate == 48000
    assert pipe.tokenizer("a<extra_id_2>").input_ids[1] == pipe.tokenizer.convert_tokens_to_ids("<extra_id_2>")


def test_a_release_that_holds_a_part_twice_is_not_guessed_about(tmp_path: Path) -> None:
    release = write_release(tmp_path / "release")
    write_released(release, "wan_2.1_vae")
    with pytest.raises(ValueError, match=r"must hold one vae, got .*Wan2.1_VAE.pth.*Wan2.2_VAE.pth.*name the file"):
        locate([release])
    assert locate([release / "Wan2.1_VAE.pth", release])["vae"] == release / "Wan2.1_VAE.pth"


def test_the_audio_vae_of_mova_comes_in_its_folder_or_as_one_file_and_needs_no_vocoder(tmp_path: Path) -> None:
    """The folder's index names classes of its own project, which nobody else can import."""
    names = released_names(small_dac())
    release = write_release(tmp_path / "release")
    (release / "params" / "LTX2" / RELEASED_FILES["ltx2_audio"]).unlink()
    with pytest.raises(ValueError, match=r"got no `audio_vae`, `vocoder`"):
        find_components([release], Options())
    folder = tmp_path / "MOVA" / "audio_vae"
    folder.mkdir(parents=True)
    save_file(names, folder / "diffusion_pytorch_model.safetensors")
    (folder / "config.json").write_text('{"_class_name": "DAC"}')
    (folder.parent / "model_index.json").write_text('{"audio_vae": ["mova.diffusion.models", "DAC"]}')
    (tmp_path / "Foley").mkdir()
    torch.save(names, tmp_path / "Foley" / "vae_128d_48k.pth")
    write_released(release / "params" / "LTX2", "ltx2_audio")  # another audio VAE, with its vocoder
    for source in (folder.parent, tmp_path / "Foley"):
        parts = {part.name: part for part in find_components([source, release], Options())}
        assert "vocoder" not in parts
        assert parts["audio_vae"].entry == ("diffusers_jova", "JoVAAutoencoderKLDAC")
        assert parts["audio_vae"].licence.origin == "OpenMOSS/MOVA"
        parts["audio_vae"].write(tmp_path / source.name / "written")
        written = JoVAAutoencoderKLDAC.from_pretrained(tmp_path / source.name / "written").state_dict()
        assert all(torch.equal(written[name], tensor) for name, tensor in small_dac().state_dict().items())


def test_an_audio_vae_that_decodes_to_a_spectrogram_is_refused_without_its_vocoder(tmp_path: Path) -> None:
    release = write_release(tmp_path / "release")
    (release / "params" / "LTX2" / RELEASED_FILES["ltx2_audio"]).unlink()
    AutoencoderKLLTX2Audio(base_channels=4, ch_mult=(1,), num_res_blocks=1).save_pretrained(release / "audio_vae")
    with pytest.raises(ValueError, match=r"a vocoder beside a AutoencoderKLLTX2Audio, .* got no `vocoder`; add"):
        find_components([release], Options())


def test_a_component_of_an_unknown_library_is_refused(tmp_path: Path) -> None:
    release = write_release(tmp_path / "release")
    (tmp_path / "own" / "vae").mkdir(parents=True)
    (tmp_path / "own" / "model_index.json").write_text('{"vae": ["os", "system"]}')
    with pytest.raises(ValueError, match=r"must be one of diffusers, diffusers_jova, ltx2, transformers, got 'os'"):
        find_components([tmp_path / "own", release], Options())
