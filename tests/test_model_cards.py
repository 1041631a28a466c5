"""Model cards state sizes, licences and commands that are true; their python blocks run in test_docs.py."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLLTX2Audio, AutoencoderKLWan, MMAudioVAE
from diffusers.pipelines.ltx2.vocoder import LTX2VocoderWithBWE
from torch import nn
from transformers import UMT5Config, UMT5EncoderModel

from benchmarks.random_transformer import presets, random_transformer
from diffusers_jova import JoVADualTowerTransformer3DModel, JoVATransformer3DModel, JoVAWanTransformer3DModel
from diffusers_jova.conversion import nava, ovi, wan
from diffusers_jova.conversion.mmaudio import ltx2_vocoder
from diffusers_jova.conversion.output import Parameter
from jova_cli.convert import parse
from jova_cli.model_clips import index_defaults, read_geometry
from jova_cli.model_info import front_matter, read_index
from jova_cli.shipped import model_folder
from tests.conversion.test_memory import FULL, ovi_shapes
from tests.conversion.test_wan import meta_checkpoint, nava_names, wan_tower
from tests.places import CARDS, ROOT
from tests.tiny_checkpoints import convert_as_told, convert_commands


CONVERTED = ("nava", "wan-ovi", "wan-1.3b-twice")
CLASSES = {
    cls.__name__: cls for cls in (JoVATransformer3DModel, JoVAWanTransformer3DModel, JoVADualTowerTransformer3DModel)
}
UMT5_XXL = {"vocab_size": 256384, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64}
WAN_2_2_VAE = {"base_dim": 160, "decoder_base_dim": 256, "z_dim": 48, "is_residual": True, "patch_size": 2}
WAN_2_2_VAE |= {"in_channels": 12, "out_channels": 12, "scale_factor_spatial": 16}
MMAUDIO_VAE = {"mel_bins": 80, "latent_channels": 20, "hidden_channels": 384, "sample_rate": 16000}
MMAUDIO_VAE |= {"n_fft": 1024, "hop_length": 256}
BIGVGAN = {"mel_bins": 80, "hidden": 1536, "rates": [4, 4, 2, 2, 2, 2], "kernels": [8, 8, 4, 4, 4, 4]}
BIGVGAN |= {"branches": [3, 7, 11]}
BUILDERS: dict[str, Callable[[], Any]] = {  # by what a card calls them
    "UMT5-xxl encoder": lambda: UMT5EncoderModel(UMT5Config(**UMT5_XXL)),
    "Wan2.1's": AutoencoderKLWan,
    "Wan2.2's": lambda: AutoencoderKLWan(**WAN_2_2_VAE),
    "LTX-2.3's": AutoencoderKLLTX2Audio,
    "LTX-2.3's with bandwidth extension": LTX2VocoderWithBWE,
    "MMAudio's, 16 kHz": lambda: MMAudioVAE(**MMAUDIO_VAE),
    "MMAudio's BigVGAN, 16 kHz": lambda: ltx2_vocoder(BIGVGAN),
}


def converted(name: str) -> tuple[dict[str, Any], list[Parameter]]:
    """Config and parameters that the conversion of the released file gives."""
    if name == "nava":
        return nava.convert_transformer(meta_checkpoint(nava_names()))
    if name == "wan-ovi":
        return ovi.convert_fusion(meta_checkpoint(ovi_shapes(30, **FULL)))[:2]
    return wan.convert_tower(meta_checkpoint(wan_tower(num_attention_heads=12, ffn_dim=8960, num_layers=30)))


def num_parameters(card: Path, component: str, what: str) -> int:
    with torch.device("meta"):
        if component == "transformer":
            config = json.loads((card / "transformer" / "config.json").read_text())
            model = CLASSES[config["_class_name"]].from_config(config)
        else:
            model = BUILDERS[what]()
    return sum(parameter.numel() for parameter in model.parameters())


def sizes(count: int) -> list[str]:
    """The cells of a card: parameters, bytes in bfloat16, bytes in float32."""
    return [f"{count / 1e9:.2f} B", f"{2 * count / 1e9:.1f} GB", f"{4 * count / 1e9:.1f} GB"]


def test_the_card_of_jova_tiny_states_the_sound_of_its_clips() -> None:
    geometry = read_geometry(model_folder("jova-tiny"))
    assert geometry is not None
    assert geometry.clock is not None
    defaults = index_defaults(read_index(model_folder("jova-tiny")))
    duration_s, clock = defaults["num_frames"] / defaults["frame_rate"], geometry.clock
    num_latents = clock.num_latents(duration_s)
    num_silent = round(duration_s * clock.sampling_rate) - num_latents * clock.samples_per_latent
    stated = f"{duration_s:g} s, of mono sound at 16 kHz, {num_latents} latents of it and {num_silent} samples of sil"
    assert stated in (CARDS / "jova-tiny" / "README.md").read_text()


@pytest.mark.parametrize("name", CONVERTED)
def test_the_memory_that_a_card_states_is_that_of_its_components(name: str) -> None:
    text = (CARDS / name / "README.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \| (.+?) \| (.+?) \|$", text, re.MULTILINE)
    assert [row[0] for row in rows] == ["transformer", "text_encoder", "vae", "audio_vae", "vocoder"]
    counts = [num_parameters(CARDS / name, component, what) for component, what, *_ in rows]
    for count, (*_, parameters, half, full) in zip(counts, rows, strict=True):
        assert [parameters, half, full] == sizes(count)
    assert f"| together | | {' | '.join(sizes(sum(counts)))} |" in text


@pytest.mark.parametrize("name", ["jova-12b", "jova-1.6b"])
def test_the_memory_of_the_sizes_of_the_paper_is_that_of_their_transformer(name: str) -> None:
    text = (CARDS / name / "README.md").read_text()
    stated = re.search(r"weights in bfloat16, float32 \| ([\d.]+) GB, ([\d.]+) GB", text)
    assert stated
    count = num_parameters(CARDS / name, "transformer", "")
    for number, size in zip(stated.groups(), (2, 4), strict=True):
        assert f"{size * count / 1e9:.{len(number.partition('.')[2])}f}" == number


@pytest.mark.parametrize("name", CONVERTED)
def test_the_config_beside_a_card_is_what_its_conversion_writes(name: str) -> None:
    config, _ = converted(name)
    stored = json.loads((CARDS / name / "transformer" / "config.json").read_text())
    del stored["_diffusers_version"]
    built = dict(wan.build(config).config)
    values = {key: value for key, value in built.items() if not key.startswith("_")}
    assert stored == json.loads(json.dumps(values)) | {"_class_name": "JoVAWanTransformer3DModel"}


@pytest.mark.parametrize("name", CONVERTED)
def test_a_card_makes_the_folder_that_it_is_about(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = convert_commands(CARDS / name / "README.md")
    monkeypatch.chdir(tmp_path)
    for word in {word for word in commands[-1] if re.fullmatch(r"[a-z][\w.-]+", word)} - {name}:
        Path(word).mkdir()
        Path(word, "config.json").write_text("{}")  # in place of what the commands above it make
    assert str(parse(commands[-1])[1].output) == name


@pytest.mark.parametrize("name", CONVERTED)
def test_a_card_states_the_licences_that_the_conversion_finds(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    output = convert_as_told(CARDS / name / "README.md")
    assert output is not None
    keys = ("license", "license_name", "component_licenses")
    stated, found = front_matter(CARDS / name), front_matter(output)
    assert [stated.get(key) for key in keys] == [found.get(key) for key in keys]
    assert stated["component_licenses"].keys() == {
        "transformer", "tokenizer", "text_encoder", "vae", "audio_vae", "vocoder",
    }  # fmt: skip


LISTED = {  # transformers of the README's table: of a card, or of a preset of the benchmarks
    "jova-tiny": model_folder("jova-tiny") / "transformer" / "config.json",
    "NAVA": "nava",
    "Wan2.1-1.3B, twice": "wan-1.3b-twice",
    "Ovi, towers only": "wan-ovi",
    "MOVA, both experts": "mova-720p",
    "UniAVGen": "uniavgen",
    "jova-1.6b": "jova-1.6b",
    "jova-12b": "jova-12b",
}


def listed_config(name: str) -> dict[str, Any]:
    if name == "Ovi":
        return presets(is_toy=False)["Ovi"].config
    place = LISTED[name]
    path = place if isinstance(place, Path) else CARDS / place / "transformer" / "config.json"
    return json.loads(path.read_text()) | ({"boundary": 0.9} if name == "MOVA, both experts" else {})


def test_the_sizes_that_the_readme_lists_are_those_of_the_configs() -> None:
    text = (ROOT / "README.md").read_text()
    rows = re.findall(
        r"^\| ([^|]+) \| `(JoVA\w+)` \| ([^|]+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \| [^|]+ \| [^|]+ \|$",
        text,
        re.MULTILINE,
    )
    assert {row[0] for row in rows} == {*LISTED, "Ovi"}
    for name, class_name, *cells in rows:
        transformer = random_transformer(listed_config(name), "meta", torch.bfloat16)
        assert type(transformer).__name__ == class_name
        weights = list(transformer.parameters())
        count = sum(weight.numel() for weight in weights)
        half = sum(weight.numel() * weight.element_size() for weight in weights)
        kept = (*transformer._skip_layerwise_casting_patterns, *(transformer._keep_in_fp32_modules or ()))
        small = sum(
            layer.weight.numel()
            for path, layer in transformer.named_modules()
            if isinstance(layer, nn.Linear) and not any(pattern in path for pattern in kept)
        )  # as `store_in_8_bits` of the nodes chooses them
        expected = [f"{count / 1e9:.2f}", *(f"{size / 1e9:.1f}" for size in (4 * count, half, half - small))]
        assert cells == expected, name
