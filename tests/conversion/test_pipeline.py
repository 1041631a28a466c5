from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan, MMAudioVAE, ModelMixin
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from diffusers_jova import JoVAPipeline, JoVATransformer3DModel
from diffusers_jova.conversion import mova, nava, ovi, wan
from diffusers_jova.conversion.card import copied_licence, model_card
from diffusers_jova.conversion.components import find_components, locate
from diffusers_jova.conversion.mmaudio import mmaudio_vocoder
from diffusers_jova.conversion.output import Options, new_folder
from diffusers_jova.conversion.pipeline import Family, assemble, guidance_defaults
from diffusers_jova.conversion.source import local_path
from diffusers_jova.generation_defaults import GenerationDefaults
from diffusers_jova.guidance import PRESETS
from diffusers_jova.prompt import JoVAPrompt
from tests.tiny_pipeline import build_dual_tower, build_tiny_pipeline


def write_components(wan_folder: Path, audio_folder: Path) -> None:
    """Tiny components, in two repositories as they are published."""
    tokenizer = Tokenizer(WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2}, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>").save_pretrained(
        wan_folder / "tokenizer"
    )
    sizes = UMT5Config(vocab_size=8, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    UMT5EncoderModel(sizes).save_pretrained(wan_folder / "text_encoder")
    AutoencoderKLWan(base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1).save_pretrained(wan_folder / "vae")
    (wan_folder / "model_index.json").write_text(
        '{"tokenizer": ["transformers", "PreTrainedTokenizerFast"], "vae": ["diffusers", "AutoencoderKLWan"],'
        '"text_encoder": ["transformers", "UMT5EncoderModel"]}'
    )
    MMAudioVAE(latent_channels=4, hidden_channels=16).save_pretrained(audio_folder / "audio_vae")
    mmaudio_vocoder(
        {"mel_bins": 128, "hidden": 64, "rates": [8, 4, 2, 2, 2, 2], "kernels": [16, 8, 4, 4, 4, 4], "branches": [3]}
    ).save_pretrained(audio_folder / "vocoder")


def transformer_of(family: Family) -> ModelMixin:
    """A tiny transformer that can do what the pipelines of a family ask for."""
    if family is ovi.FAMILY:
        return build_dual_tower("text_cross", num_layers=12, audio_num_layers=12)  # of which one is skipped
    if family is mova.FAMILY:
        return build_dual_tower("bridge")
    torch.manual_seed(0)
    return JoVATransformer3DModel(
        audio_in_channels=4,
        num_layers=1,
        num_single_layers=1,
        num_attention_heads=1,
        attention_head_dim=16,
        rope_axes_dim=(8, 4, 4),
        text_dim=16,
        text_dim_2=None,
    )


@pytest.mark.parametrize(
    "family", [wan.FAMILY, ovi.FAMILY, nava.FAMILY, mova.FAMILY], ids=["wan", "ovi", "nava", "mova"]
)
def test_an_assembled_folder_loads_as_a_pipeline_with_the_defaults_of_its_family(
    family: Family, tmp_path: Path
) -> None:
    transformer = transformer_of(family)
    write_components(tmp_path / "wan", tmp_path / "audio")
    components = find_components([tmp_path / "wan", tmp_path / "audio"], Options())
    with new_folder(tmp_path / "out") as folder:
        transformer.save_pretrained(folder / "transformer")
        assemble(folder, type(transformer).__name__, family, components)
    pipe = JoVAPipeline.from_pretrained(tmp_path / "out")
    assert pipe.defaults == GenerationDefaults(**family.defaults)
    assert {name: pipe.config[name] for name in family.config} == family.config
    (text,) = pipe.render_prompts(JoVAPrompt(video="seen", audio="heard", transcript="said"))
    assert text.startswith("seen ")
    assert "heard" in text
    assert "said<E>" in text or '"said"' in text
    assert pipe.config.pads_text_with_zeros
    assert pipe.config.speaker_token == family.speaker_token
    assert pipe.scheduler.config.shift == 5
    assert pipe.audio_codec.latent_channels == 4
    original = UMT5EncoderModel.from_pretrained(tmp_path / "wan" / "text_encoder").state_dict()
    assert all(torch.equal(tensor, original[name]) for name, tensor in pipe.text_encoder.state_dict().items())


def test_navas_defaults_guide_by_voices_and_its_prompts_have_a_place_for_each() -> None:
    scales = {name: value for name, value in nava.FAMILY.defaults.items() if "scale" in name}
    assert scales == {
        "guidance_scale": 4.0,
        "audio_guidance_scale": 3.0,
        "coupling_scale": 4.0,
        "audio_coupling_scale": 3.0,
        "audio_speaker_scale": 4.0,
    }
    pipe = build_tiny_pipeline(prompt_template=nava.FAMILY.prompt_template, speaker_token=nava.FAMILY.speaker_token)
    parts = JoVAPrompt(video="seen", audio="heard", transcript="said")
    assert pipe.render_prompts([parts, "a <S>b<E>"]) == [
        "seen heard <S><extra_id_2>said<E>",
        "a <S><extra_id_2>b<E>",
    ]


def test_a_family_moves_away_from_what_its_release_moves_away_from() -> None:
    wan_text, nava_text = (family.defaults["negative_prompt"] for family in (wan.FAMILY, nava.FAMILY))
    about_sound = nava_text.removeprefix(wan_text)
    assert about_sound.startswith(", \u97f3\u9891")  # audio
    assert "audio_negative_prompt" not in nava.FAMILY.defaults  # its modalities read one text
    assert (ovi.FAMILY.defaults["negative_prompt"], ovi.FAMILY.defaults["audio_negative_prompt"]) == (
        "jitter, bad hands, blur, distortion",
        "robotic, muffled, echo, distorted",
    )


def test_a_component_that_no_folder_has_is_named_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "vae").mkdir()
    with pytest.raises(ValueError, match=r"got no `tokenizer`, `text_encoder`, `audio_vae`, `vocoder` in"):
        locate([tmp_path])


def test_the_first_folder_that_has_a_component_wins(tmp_path: Path) -> None:
    for folder in ("first", "second"):
        for name in ("tokenizer", "text_encoder", "vae", "audio_vae", "vocoder"):
            if (folder, name) != ("first", "vae"):
                (tmp_path / folder / name).mkdir(parents=True)
    found = locate([tmp_path / "first", tmp_path / "second"])
    assert found["vocoder"] == tmp_path / "first" / "vocoder"
    assert found["vae"] == tmp_path / "second" / "vae"


def test_a_pipeline_with_a_non_commercial_part_is_tagged_so(tmp_path: Path) -> None:
    (tmp_path / "mm" / "vocoder").mkdir(parents=True)
    (tmp_path / "mm" / "vocoder" / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    copied = copied_licence("vocoder", tmp_path / "mm" / "vocoder")
    card = model_card("title", [*nava.FAMILY.licences, copied], [], "pass")
    assert card.splitlines()[1] == "license: cc-by-nc-4.0"
    assert model_card("title", nava.FAMILY.licences, [], "pass").splitlines()[1] == "license: apache-2.0"


def test_a_source_that_is_neither_a_path_nor_a_hub_id_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be an existing path or a hub id"):
        local_path("no/such/file.safetensors/at all")


@pytest.mark.parametrize("preset", PRESETS)
def test_a_converted_pipeline_guides_as_published_and_sound_follows_where_both_are_alike(preset: str) -> None:
    defaults = GenerationDefaults(**guidance_defaults(preset))
    video, audio = PRESETS[preset]
    assert [defaults.guidance()[name].guidance_scale for name in ("video", "audio")] == [
        video.guidance_scale,
        audio.guidance_scale,
    ]
    assert defaults.guidance()["audio"].coupling_scale == audio.coupling_scale
    if video.guidance_scale == audio.guidance_scale:
        assert defaults.override(guidance_scale=1.0).guidance()["audio"].guidance_scale == 1.0
