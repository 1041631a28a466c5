"""The shipped workflows fit the nodes: what one names exists, and links end where their type belongs; no ComfyUI."""

import asyncio
import copy
import io
from collections.abc import Callable, Iterator
from typing import Any

import PIL.Image
import pytest

from tests.comfyui.example_workflows import (
    BYPASSED,
    CONTROLS,
    CORE,
    FOLDER,
    NORMAL,
    NOTE,
    SEED,
    TO_CHOOSE,
    NodeType,
    difference,
    names,
    node_type,
    read,
    to_prompt,
    widget_names,
    widget_values,
)
from tests.comfyui.stub import loaded_pack
from tests.places import ROOT


LARGEST_THUMBNAIL = 40_000  # bytes: the page loads all of them at once
NUMBERS: dict[str, type | tuple[type, ...]] = {"INT": int, "FLOAT": (int, float), "STRING": str, "BOOLEAN": bool}


@pytest.fixture(scope="module")
def schemas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("comfyui")
    (folder / "input").mkdir()
    with loaded_pack(folder) as pack:
        nodes = asyncio.run(asyncio.run(pack.comfy_entrypoint()).get_node_list())
        yield {schema["node_id"]: schema for schema in (node.define_schema() for node in nodes)}


@pytest.fixture(scope="module")
def types(schemas: dict[str, Any]) -> dict[str, NodeType]:
    """Every node that a workflow may name."""
    return CORE | {name: node_type(schema) for name, schema in schemas.items()} | {NOTE: NodeType({"": "STRING"})}


# --- what is looked at ---


def faults(name: str, workflow: dict[str, Any], types: dict[str, NodeType]) -> list[str]:
    """What does not fit, one line each."""
    found = format_faults(workflow)
    for node in workflow["nodes"]:
        where = f"node {node['id']}, {node['type']}"
        if node["type"] not in types:
            found.append(f"{where}: no such node")
            continue
        found += [f"{where}: {fault}" for fault in node_faults(name, node, types[node["type"]])]
    return found + link_faults(workflow)


def format_faults(workflow: dict[str, Any]) -> list[str]:
    """What the page would not have saved so."""
    ids = {kind: [entry["id"] if kind == "nodes" else entry[0] for entry in workflow[kind]] for kind in KINDS}
    found = [f"{kind} have the same id twice" for kind in KINDS if len(set(ids[kind])) < len(ids[kind])]
    found += [
        f"{last} is not the largest id" for kind, last in KINDS.items() if max(ids[kind], default=0) > workflow[last]
    ]
    if workflow["version"] != 0.4:
        found.append(f"format {workflow['version']}")
    return found


KINDS = {"nodes": "last_node_id", "links": "last_link_id"}


def node_faults(name: str, node: dict[str, Any], kind: NodeType) -> list[str]:
    """What a node of the workflow has and its type has not, or the other way round."""
    if node["type"] == NOTE:
        return [] if node["widgets_values"][0].strip() else ["an empty note"]
    found = []
    sockets = {x["name"]: x for x in node["inputs"] if "widget" not in x}
    widgets = [x["widget"]["name"] for x in node["inputs"] if "widget" in x]
    if [*sockets] != kind.sockets or widgets != kind.widgets:
        found.append(f"inputs {[*sockets]} and {widgets}, not {kind.sockets} and {kind.widgets}")
        return found
    found += [f"{x} is {s['type']}" for x, s in sockets.items() if s["type"] != kind.inputs[x]]
    found += [f"{x} is not linked" for x, s in sockets.items() if s["link"] is None and x not in kind.optional]
    outputs = tuple((x["name"], x["type"]) for x in node["outputs"])
    if outputs != kind.outputs:
        found.append(f"outputs {outputs}, not {kind.outputs}")
    if node["mode"] not in (NORMAL, BYPASSED):
        found.append(f"mode {node['mode']}")
    if len(widget_names(node)) != len(node["widgets_values"]):
        return [*found, f"values {node['widgets_values']} for {widget_names(node)}"]
    for widget, value in widget_values(node).items():
        if TO_CHOOSE.get((name, node["type"], widget)) != value and not is_allowed(value, kind, widget):
            found.append(f"{widget} is {value!r}")
    return found


def is_allowed(value: Any, kind: NodeType, widget: str) -> bool:
    """Whether a widget can have a value."""
    if widget in SEED.values():
        return value in CONTROLS
    declared = kind.inputs[widget]
    if isinstance(declared, tuple):
        return value in declared
    return isinstance(value, NUMBERS[declared]) and (declared == "BOOLEAN" or not isinstance(value, bool))


def link_faults(workflow: dict[str, Any]) -> list[str]:
    """Links that do not run from one socket of their type to another, and sockets whose link is not listed."""
    starts = {
        (link, node["id"], slot, x["type"])
        for node in workflow["nodes"]
        for slot, x in enumerate(node["outputs"])
        for link in x["links"] or ()
    }
    ends = {
        (x["link"], node["id"], slot, x["type"])
        for node in workflow["nodes"]
        for slot, x in enumerate(node["inputs"])
        if x["link"] is not None
    }
    links = workflow["links"]
    sides = {
        "out of": (starts, {(number, origin, slot, kind) for number, origin, slot, _, _, kind in links}),
        "into": (ends, {(number, target, slot, kind) for number, _, _, target, slot, kind in links}),
    }
    return [
        f"link {number} as {kind} {side} slot {slot} of node {node}: the node and the list of links differ"
        for side, (known, listed) in sides.items()
        for number, node, slot, kind in sorted(known ^ listed)
    ]


# --- the shipped ones ---


def test_there_is_a_workflow_for_each_task() -> None:
    tasks = {
        "text_to_video",
        "image_to_video",
        "keyframes",
        "own_voice",
        "sound_for_video",
        "continuation",
        "avatar_lora",
    }
    assert {*names()} == tasks | {"nava", "one_node"}


@pytest.mark.parametrize("name", names())
def test_a_workflow_fits_the_nodes(name: str, types: dict[str, NodeType]) -> None:
    assert not faults(name, read(name), types)


@pytest.mark.parametrize("name", names())
def test_numbers_lie_in_the_limits_of_their_widgets(name: str, schemas: dict[str, Any]) -> None:
    for node in read(name)["nodes"]:
        for socket in schemas.get(node["type"], {"inputs": []})["inputs"]:
            if "min" in socket:
                value = widget_values(node)[socket["id"]]
                assert socket["min"] <= value <= socket["max"], (node["type"], socket["id"], value)


@pytest.mark.parametrize("name", names())
def test_a_workflow_saves_a_video_and_says_what_it_shows(name: str) -> None:
    kinds = [node["type"] for node in read(name)["nodes"]]
    assert kinds.count("SaveVideo") == 1
    assert NOTE in kinds
    assert f"`{name}`" in (ROOT / "comfyui" / "README.md").read_text()


@pytest.mark.parametrize("name", names())
def test_a_workflow_has_a_light_thumbnail(name: str) -> None:
    content = (FOLDER / f"{name}.jpg").read_bytes()
    assert len(content) < LARGEST_THUMBNAIL
    with PIL.Image.open(io.BytesIO(content)) as picture:
        assert picture.format == "JPEG"


def test_nothing_else_lies_beside_the_workflows() -> None:
    expected = {f"{name}.{ending}" for name in names() for ending in ("json", "jpg")}
    assert {path.name for path in FOLDER.iterdir()} == expected


def test_files_to_choose_are_those_that_workflows_name() -> None:
    found = {
        (name, node["type"], widget): value
        for name in names()
        for node in read(name)["nodes"]
        if node["type"] != NOTE
        for widget, value in widget_values(node).items()
        if (name, node["type"], widget) in TO_CHOOSE
    }
    assert found == TO_CHOOSE


# --- the look itself ---


def node_of(workflow: dict[str, Any], kind: str) -> dict[str, Any]:
    return next(node for node in workflow["nodes"] if node["type"] == kind)


def rename_input(workflow: dict[str, Any]) -> None:
    node_of(workflow, "KSampler")["inputs"][0]["name"] = "models"


def forget_a_link(workflow: dict[str, Any]) -> None:
    workflow["links"].pop()


def give_sound_for_pictures(workflow: dict[str, Any]) -> None:
    link = next(link for link in workflow["links"] if link[5] == "VIDEO")
    link[5] = "AUDIO"


def swap_outputs(workflow: dict[str, Any]) -> None:
    node_of(workflow, "JovaLoader")["outputs"].reverse()


def drop_a_value(workflow: dict[str, Any]) -> None:
    node_of(workflow, "KSampler")["widgets_values"].pop()


def take_another_scheduler(workflow: dict[str, Any]) -> None:
    values = node_of(workflow, "KSampler")["widgets_values"]
    values[values.index("simple")] = "normal"


def unlink(workflow: dict[str, Any]) -> None:
    node_of(workflow, "JovaDecode")["inputs"][0]["link"] = None


def use_an_unknown_node(workflow: dict[str, Any]) -> None:
    node_of(workflow, "JovaDecode")["type"] = "JovaDecoder"


def use_an_id_twice(workflow: dict[str, Any]) -> None:
    workflow["nodes"][0]["id"] = workflow["nodes"][1]["id"]


def choose_a_missing_model(workflow: dict[str, Any]) -> None:
    node_of(workflow, "JovaLoader")["widgets_values"][0] = "nava"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (rename_input, "KSampler: inputs"),
        (forget_a_link, "the node and the list of links differ"),
        (give_sound_for_pictures, "as AUDIO"),
        (swap_outputs, "JovaLoader: outputs"),
        (drop_a_value, "KSampler: values"),
        (take_another_scheduler, "scheduler is 'normal'"),
        (unlink, "samples is not linked"),
        (use_an_unknown_node, "JovaDecoder: no such node"),
        (use_an_id_twice, "nodes have the same id twice"),
        (choose_a_missing_model, "model is 'nava'"),
    ],
)
def test_what_does_not_fit_is_found(
    change: Callable[[dict[str, Any]], None], words: str, types: dict[str, NodeType]
) -> None:
    workflow = copy.deepcopy(read("text_to_video"))
    change(workflow)
    assert any(words in fault for fault in faults("text_to_video", workflow, types))


def test_a_prompt_goes_around_bypassed_nodes_and_leaves_out_notes() -> None:
    prompt = to_prompt(read("nava"))
    kinds = {name: node["class_type"] for name, node in prompt.items()}
    assert "JovaVoices" not in kinds.values()
    assert NOTE not in kinds.values()
    (guider,) = (node for node in prompt.values() if node["class_type"] == "JovaGuider")
    assert kinds[guider["inputs"]["positive"][0]] == "JovaPrompt"
    assert all(
        value[0] in prompt for node in prompt.values() for value in node["inputs"].values() if isinstance(value, list)
    )


# --- what a later ComfyUI may change ---


COMBO = ["COMFY_DYNAMICCOMBO_V3", {"options": [{"key": "auto", "inputs": []}, {"key": "mp4", "inputs": []}]}]
EXPECTED = NodeType({"video": "VIDEO", "format": ("auto", "mp4")}, (("VIDEO", "VIDEO"),))


def told(required: dict[str, Any], optional: dict[str, Any], *outputs: str) -> dict[str, Any]:
    """A node as `/object_info` describes it."""
    return {"input": {"required": required, "optional": optional}, "output_name": outputs, "output": outputs}


@pytest.mark.parametrize(
    ("info", "said"),
    [
        (told({"video": ["VIDEO"], "format": [["mp4", "auto", "mkv"]]}, {}, "VIDEO"), ""),
        (told({"video": ["VIDEO"], "format": COMBO}, {"depth": ["INT"]}, "VIDEO", "FLOAT"), ""),
        (told({"video": ["VIDEO"], "format": COMBO, "depth": ["INT"]}, {}, "VIDEO"), "needs ['depth']"),
        (told({"video": ["VIDEO"], "depth": ["INT"], "format": COMBO}, {}, "VIDEO"), "inputs ['video', 'depth']"),
        (told({"video": ["VIDEO"], "format": [["auto"]]}, {}, "VIDEO"), "format without ['mp4']"),
        (told({"video": ["IMAGE"], "format": COMBO}, {}, "VIDEO"), "video IMAGE"),
        (told({"video": ["VIDEO"], "format": COMBO}, {}, "FLOAT", "VIDEO"), "outputs (('FLOAT', 'FLOAT'),)"),
    ],
)
def test_a_core_node_may_have_more_behind_what_a_workflow_knows(info: dict[str, Any], said: str) -> None:
    assert difference(EXPECTED, info) == said
