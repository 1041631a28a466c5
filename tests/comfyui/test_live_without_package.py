"""A ComfyUI whose Python lacks `diffusers_jova`: every node is there, and says in one sentence what to install.

Runs where `test_live_server` does; `strangers/` is the pack that fills the sockets.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.comfyui.graphs import Graph
from tests.comfyui.live_server import Server, linked, python_without_package, started
from tests.comfyui.right_graphs import answer
from tests.places import DATA, ROOT


NODES = json.loads((DATA / "comfyui_nodes.json").read_text())
STRANGERS = {"MODEL": "model", "CLIP": "module", "VAE": "module", "LATENT": "nested latent"}
STRANGERS |= {"CONDITIONING": "conditioning", "IMAGE": "frames", "AUDIO": "sound"}
SAID = (
    "`diffusers_jova` must be installed to run JoVA nodes, got ModuleNotFoundError: No module named 'diffusers_jova'; "
    "run `pip install -U .` in its clone with the Python that runs ComfyUI, then start ComfyUI again"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("comfyui")
    for name in ("input", "models/loras", "models/diffusion_models"):
        (folder / name).mkdir(parents=True)
    np.save(folder / "input" / "voice.npy", np.ones((1, 5), np.float32))
    for name in ("loras", "diffusion_models"):
        save_file({"a": torch.ones(1)}, folder / "models" / name / "some.safetensors")
    pack = linked(Path(os.environ["COMFYUI_PATH"]), "jova_strangers", ROOT / "tests" / "comfyui" / "strangers")
    try:
        with started(folder, python_without_package(folder / "python"), has_package=False) as running:
            yield running
    finally:
        pack.unlink()


def test_every_node_is_there(server: Server) -> None:
    assert {*NODES} == {name for name in server.get("/object_info") if name in NODES}


@pytest.mark.parametrize("node", NODES)
def test_a_node_says_in_one_sentence_what_to_install(server: Server, node: str) -> None:
    graph, declared = Graph(), server.get(f"/object_info/{node}")[node]["input"]["required"]
    graph.add("JovaTestSink", value=[graph.add(node, **filled(graph, declared)), 0])
    assert answer(server, graph).partition(": ")[2] == SAID


def filled(graph: Graph, declared: dict[str, Any]) -> dict[str, Any]:
    """An input of its type for each that a node needs: what a widget shows, or a stranger."""
    given = {}
    for name, (kind, *options) in declared.items():
        if kind in STRANGERS:
            given[name] = [graph.add("JovaTestStranger", kind=STRANGERS[kind]), 0]
        elif isinstance(kind, list) or kind == "COMBO":
            choices = kind if isinstance(kind, list) else options[0]["options"]
            given[name] = options[0].get("default", choices[0]) if options else choices[0]
        else:
            given[name] = options[0]["default"]
    return given
