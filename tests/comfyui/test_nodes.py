"""What the pack promises to saved workflows, and what it does where the package is missing; without ComfyUI."""

import asyncio
import json
import os
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from jova_cli import __version__
from tests.comfyui.stub import PACK, loaded_pack
from tests.places import DATA, ROOT


SNAPSHOT = DATA / "comfyui_nodes.json"
TEXTS = ("tooltip", "description", "display_name", "category")  # may change: no workflow stores them


@pytest.fixture
def pack(tmp_path: Path) -> Iterator[ModuleType]:
    (tmp_path / "input").mkdir()
    with loaded_pack(tmp_path) as loaded:
        yield loaded


def schemas(pack: ModuleType) -> dict[str, dict[str, Any]]:
    """What each node declares, by its id."""
    nodes = asyncio.run(asyncio.run(pack.comfy_entrypoint()).get_node_list())
    declared = [node.define_schema() for node in nodes]
    return {schema["node_id"]: schema for schema in declared}


def interface(schema: dict[str, Any]) -> dict[str, Any]:
    """What a saved workflow relies on."""
    return {
        name: [{key: value for key, value in socket.items() if key not in TEXTS} for socket in schema[name]]
        for name in ("inputs", "outputs")
    }


def test_ids_sockets_and_defaults_are_those_of_saved_workflows(pack: ModuleType) -> None:
    found = {name: interface(schema) for name, schema in schemas(pack).items()}
    stored = json.loads(SNAPSHOT.read_text())
    assert json.loads(json.dumps(found)) == stored, "a published id, socket or default never changes: add a new one"


def test_every_widget_and_socket_says_what_it_is_for(pack: ModuleType) -> None:
    for name, schema in schemas(pack).items():
        assert schema["description"], name
        assert schema["display_name"].startswith(("JoVA", "Load JoVA", "Empty JoVA")), name
        for socket in schema["inputs"]:
            assert socket.get("tooltip", "").endswith((".", ")")), (name, socket["id"])


def test_every_number_has_limits_and_a_step(pack: ModuleType) -> None:
    for name, schema in schemas(pack).items():
        for socket in schema["inputs"]:
            if socket["type"] in ("Int", "Float"):
                assert socket["min"] <= socket["default"] <= socket["max"], (name, socket["id"])
                assert socket.get("step") or socket["id"] == "seed", (name, socket["id"])


def test_ids_do_not_collide_with_other_packs(pack: ModuleType) -> None:
    assert all(name.startswith("Jova") for name in schemas(pack))


@pytest.mark.parametrize(
    ("node", "socket", "words"),
    [
        ("JovaEmptyLatent", "batch_size", "one long video"),
        ("JovaEmptyLatent", "length", "never rounded"),
        ("JovaEmptyLatent", "frame_rate", "24000/1001"),
        ("JovaGenerate", "seed", "The same seed in Python draws other noise"),
        ("JovaSetAudio", "audio", "resampled and mixed"),
        ("JovaLoader", "dtype", "VAEs and vocoder always run in fp32"),
    ],
)
def test_what_surprises_people_stands_in_a_tooltip(pack: ModuleType, node: str, socket: str, words: str) -> None:
    (tooltip,) = [x["tooltip"] for x in schemas(pack)[node]["inputs"] if x["id"] == socket]
    assert words in tooltip


def test_models_are_listed_when_comfyui_asks_not_when_it_starts(pack: ModuleType, tmp_path: Path) -> None:
    for name, kind in (("mine", "JoVAPipeline"), ("other", "WanPipeline")):
        folder = tmp_path / "models" / "diffusers" / name
        folder.mkdir(parents=True)
        (folder / "model_index.json").write_text(json.dumps({"_class_name": kind}))
    (options,) = [x["options"] for x in schemas(pack)["JovaLoader"]["inputs"] if x["id"] == "model"]
    assert options == ["jova-tiny", "mine"]


def test_a_model_is_loaded_again_once_its_files_have_changed(pack: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "adapter"
    file.write_text("first")
    before = pack.model_files.fingerprint(file)
    assert pack.model_files.fingerprint(file) == before
    later = file.stat().st_mtime_ns + 10**9
    os.utime(file, ns=(later, later))
    assert pack.model_files.fingerprint(file) != before


def test_a_diffusion_model_is_loaded_again_once_the_settings_of_its_pipeline_have_changed(
    pack: ModuleType, tmp_path: Path
) -> None:
    file, index = (
        tmp_path / "models" / name for name in ("diffusion_models/m.safetensors", "diffusers/p/model_index.json")
    )
    for path in (file, index):
        path.parent.mkdir(parents=True)
        path.write_text("first")
    fingerprint = pack.nodes_loading.JovaDiffusionModelLoader.fingerprint_inputs
    before = fingerprint(file="m.safetensors", pipeline="p", dtype="fp32")
    assert fingerprint(file="m.safetensors", pipeline="p", dtype="fp32") == before
    later = index.stat().st_mtime_ns + 10**9
    os.utime(index, ns=(later, later))
    assert fingerprint(file="m.safetensors", pipeline="p", dtype="fp32") != before


HEAVY = {"torch", "numpy", "diffusers", "transformers", "diffusers_jova", "jova_cli", "av", "PIL"}
LOADED = """
import sys
from pathlib import Path
from tests.comfyui.stub import loaded_pack
with loaded_pack(Path(sys.argv[1])):
    print(*sorted(name for name in sys.modules if "." not in name))
"""


def test_nothing_heavy_is_imported_before_a_node_runs(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", LOADED, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    imported = set(ended.stdout.split())
    assert "jova_pack" in imported
    assert imported & HEAVY == set()


def test_without_the_package_every_node_is_there_and_says_what_to_install(
    pack: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(schemas(pack)) == len(pack.NODES)
    monkeypatch.setitem(sys.modules, "diffusers_jova", None)  # as if it were not installed
    with pytest.raises(RuntimeError, match=r"run `pip install -U \.` in its clone") as caught:
        import_module(f"{PACK}.package").jova("prompt")
    assert str(caught.value).count("\n") == 0


def test_a_node_asks_for_the_package_before_it_looks_at_what_it_was_given(
    pack: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "diffusers_jova", None)
    said = {}
    for node in pack.NODES:
        strange = {socket.id: "a stranger" for socket in node.define_schema().inputs}
        with pytest.raises((RuntimeError, ValueError)) as caught:
            node.execute(**strange)
        said[node.__name__] = str(caught.value)
    assert not [(name, text) for name, text in said.items() if "run `pip install -U .` in its clone" not in text]


@pytest.mark.usefixtures("pack")
def test_a_dependency_that_fails_while_it_is_imported_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "diffusers_jova.py").write_text("raise AttributeError('diffusers of 2023')\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "diffusers_jova"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(RuntimeError, match="AttributeError: diffusers of 2023"):
        import_module(f"{PACK}.package").jova()


def test_the_registry_file_is_of_this_version_and_licence() -> None:
    project = tomllib.loads((ROOT / "comfyui" / "pyproject.toml").read_text())
    assert project["project"]["version"] == __version__
    assert project["project"]["license"]["text"] == "Apache-2.0"
    assert "comfyui" not in project["project"]["name"].lower()  # the registry asks for it
    assert project["tool"]["comfy"]["requires-comfyui"] == ">=0.10.0"
    requirements = (ROOT / "comfyui" / "requirements.txt").read_text()
    assert [line for line in requirements.splitlines() if not line.startswith("#")] == ["diffusers_jova"]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="the zip is made of what is committed")
def test_the_zip_holds_the_pack_and_its_licence(tmp_path: Path) -> None:
    archive = tmp_path / "pack.zip"
    subprocess.run(["make", "comfyui-pack", f"PACK={archive}"], cwd=ROOT, capture_output=True, check=True)
    with zipfile.ZipFile(archive) as opened:
        names = {*opened.namelist()}
        assert opened.read("jova/LICENSE") == (ROOT / "LICENSE").read_bytes()
    assert {"jova/__init__.py", "jova/pyproject.toml", "jova/requirements.txt", "jova/README.md"} <= names
    assert "jova/example_workflows/text_to_video.json" in names
    assert all(name.startswith("jova/") for name in names)


def test_the_page_tells_every_node(pack: ModuleType) -> None:
    page = (ROOT / "comfyui" / "README.md").read_text()
    for name, schema in schemas(pack).items():
        assert f"| {schema['display_name']} | `{name}` |" in page
