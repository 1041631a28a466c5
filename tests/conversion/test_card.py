import json
from pathlib import Path

import pytest
from safetensors.torch import save_file

from diffusers_jova.conversion import nava
from diffusers_jova.conversion.card import BIGVGAN, MMAUDIO, OVI, WAN, Licence, copied_licence, model_card
from diffusers_jova.conversion.components import NAMES
from diffusers_jova.conversion.convert import main
from jova_cli.model_info import front_matter, licence_of
from tests.conversion.test_wan import small_wan


LTX = "---\nlicense: other\nlicense_name: ltx-2-community-license-agreement\n---\n"


def write_components(folder: Path, names: tuple[str, ...], whole: str, **own: str) -> Path:
    """A repository of components; `own` gives the README of a component's own folder."""
    for name in names:
        (folder / name).mkdir(parents=True)
        if name in own:
            (folder / name / "README.md").write_text(own[name])
    (folder / "README.md").write_text(whole)
    (folder / "model_index.json").write_text(json.dumps({name: ["diffusers", "Any"] for name in names}))
    return folder


def card_of(folder: Path, licences: list[Licence]) -> dict[str, object]:
    (folder / "README.md").write_text(model_card("title", licences, [], "pass"))
    return front_matter(folder)


def test_the_card_of_a_converted_pipeline_states_the_licence_of_every_component(tmp_path: Path) -> None:
    wan = write_components(tmp_path / "wan", ("tokenizer", "text_encoder", "vae"), "---\nlicense: apache-2.0\n---\n")
    audio = write_components(
        tmp_path / "audio", ("audio_vae", "vocoder"), LTX, vocoder="---\nlicense: cc-by-nc-4.0\n---\n"
    )
    save_file(small_wan(), tmp_path / "wan.safetensors")
    main(["wan", str(tmp_path / "wan.safetensors"), str(tmp_path / "out"), "--components", str(wan), str(audio)])
    expected = {
        **dict.fromkeys(("transformer", "tokenizer", "text_encoder", "vae"), "apache-2.0"),
        "audio_vae": "ltx-2-community-license-agreement",
        "vocoder": "cc-by-nc-4.0",
    }
    assert front_matter(tmp_path / "out")["component_licenses"] == expected
    assert {name: licence_of(tmp_path / "out", name) for name in expected} == expected
    assert front_matter(tmp_path / "out")["license"] == "cc-by-nc-4.0"


def test_the_strictest_component_decides_about_the_whole(tmp_path: Path) -> None:
    community = Licence("audio_vae", "somebody", "ltx-2-community-license-agreement", "")
    unknown = Licence("vae", "somebody", "not stated", "")
    assert card_of(tmp_path, [WAN, OVI])["license"] == "apache-2.0"
    assert card_of(tmp_path, [BIGVGAN])["license"] == "mit"
    assert card_of(tmp_path, [WAN, MMAUDIO, community])["license"] == "cc-by-nc-4.0"
    for licence in (community, unknown):
        card = card_of(tmp_path, [WAN, licence])
        assert (card["license"], card["license_name"]) == ("other", licence.identifier)


def test_one_component_needs_no_list_of_components(tmp_path: Path) -> None:
    assert "component_licenses" not in card_of(tmp_path, nava.FAMILY.licences)


def test_a_component_without_a_stated_licence_is_not_given_one(tmp_path: Path) -> None:
    folder = write_components(tmp_path / "own", ("vae",), "no front matter")
    licence = copied_licence("vae", folder / "vae")
    assert (licence.component, licence.origin, licence.identifier) == ("vae", "own", "not stated")


@pytest.mark.parametrize("name", NAMES)
def test_a_component_out_of_the_cache_of_the_hub_is_credited_to_its_repository(name: str, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--Wan-AI--Wan2.2-TI2V-5B-Diffusers" / "snapshots" / "b8f"
    write_components(snapshot, (name,), "---\nlicense: apache-2.0\n---\n")
    licence = copied_licence(name, snapshot / name)
    assert (licence.origin, licence.identifier) == ("Wan-AI/Wan2.2-TI2V-5B-Diffusers", "apache-2.0")
