"""The shipped workflows as files, the nodes that they may use, and what of them goes to a server."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from tests.places import ROOT


FOLDER = ROOT / "comfyui" / "example_workflows"
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
SEED = {"seed": "control", "noise_seed": "control"}  # widgets that the page follows by one of its own
CONTROLS = ("fixed", "increment", "decrement", "randomize")
NORMAL, BYPASSED = 0, 4  # modes of a node
NOTE = "MarkdownNote"  # drawn by the page, unknown to the server


class NodeType(NamedTuple):
    """What a node offers.

    Args:
        inputs: Type of each socket and widget, in their order; a widget may be a tuple of choices.
        optional: Sockets that may stay empty.
        outputs: Name and type of each.
    """

    inputs: Mapping[str, str | tuple[str, ...]]
    outputs: tuple[tuple[str, str], ...] = ()
    optional: frozenset[str] = frozenset()

    @property
    def widgets(self) -> list[str]:
        return [name for name, kind in self.inputs.items() if kind in WIDGETS or isinstance(kind, tuple)]

    @property
    def sockets(self) -> list[str]:
        return [name for name in self.inputs if name not in self.widgets]


SAMPLERS = ("euler", "heun", "dpmpp_2m", "uni_pc")  # of core's many, those that examples may name
SIMPLE = ("simple",)  # the one scheduler that takes the model's noise levels
# fmt: off
CORE = {  # nodes of ComfyUI: since 0.10 they have had these, and later versions may add
    "KSampler":              NodeType({"model": "MODEL", "seed": "INT", "steps": "INT", "cfg": "FLOAT",
                                       "sampler_name": SAMPLERS, "scheduler": SIMPLE, "positive": "CONDITIONING",
                                       "negative": "CONDITIONING", "latent_image": "LATENT", "denoise": "FLOAT"},
                                      (("LATENT", "LATENT"),)),
    "SamplerCustomAdvanced": NodeType({"noise": "NOISE", "guider": "GUIDER", "sampler": "SAMPLER",
                                       "sigmas": "SIGMAS", "latent_image": "LATENT"},
                                      (("output", "LATENT"), ("denoised_output", "LATENT"))),
    "RandomNoise":           NodeType({"noise_seed": "INT"}, (("NOISE", "NOISE"),)),
    "KSamplerSelect":        NodeType({"sampler_name": SAMPLERS}, (("SAMPLER", "SAMPLER"),)),
    "BasicScheduler":        NodeType({"model": "MODEL", "scheduler": SIMPLE, "steps": "INT", "denoise": "FLOAT"},
                                      (("SIGMAS", "SIGMAS"),)),
    "VAEDecode":             NodeType({"samples": "LATENT", "vae": "VAE"}, (("IMAGE", "IMAGE"),)),
    "VAEDecodeAudio":        NodeType({"samples": "LATENT", "vae": "VAE"}, (("AUDIO", "AUDIO"),)),
    "ImageFromBatch":        NodeType({"image": "IMAGE", "batch_index": "INT", "length": "INT"},
                                      (("IMAGE", "IMAGE"),)),
    "BatchImagesNode":       NodeType({f"images.image{i}": "IMAGE" for i in range(3)},  # one more than is linked
                                      (("IMAGE", "IMAGE"),), frozenset({"images.image2"})),
    "TrimAudioDuration":     NodeType({"audio": "AUDIO", "start_index": "FLOAT", "duration": "FLOAT"},
                                      (("AUDIO", "AUDIO"),)),
    "AudioConcat":           NodeType({"audio1": "AUDIO", "audio2": "AUDIO", "direction": ("after", "before")},
                                      (("AUDIO", "AUDIO"),)),
    "CreateVideo":           NodeType({"images": "IMAGE", "fps": "FLOAT", "audio": "AUDIO"},
                                      (("VIDEO", "VIDEO"),), frozenset({"audio"})),
    "SaveVideo":             NodeType({"video": "VIDEO", "filename_prefix": "STRING", "format": ("auto", "mp4"),
                                       "codec": ("auto", "h264")}),
}
# fmt: on
TO_CHOOSE = {  # widgets that name a file of the user's: workflow, node and widget
    ("avatar_lora", "JovaLoraLoader", "lora"): "avatar.safetensors",
    ("nava", "JovaLoader", "model"): "nava",
    ("nava", "JovaVoices", "speaker_embeds"): "voice.npy",
}


def names() -> list[str]:
    """Of the shipped workflows."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def read(name: str) -> dict[str, Any]:
    """A shipped workflow, as the page saves it."""
    workflow: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return workflow


def node_type(schema: Mapping[str, Any]) -> NodeType:
    """What a node of the pack declares."""
    kinds = {
        socket["id"]: tuple(socket["options"]) if socket["type"] == "Combo" else socket["type"].upper()
        for socket in schema["inputs"]
    }
    outputs = tuple((socket["display_name"], socket["type"].upper()) for socket in schema["outputs"])
    optional = frozenset(socket["id"] for socket in schema["inputs"] if socket.get("optional"))
    return NodeType(kinds, outputs, optional)


def difference(expected: NodeType, info: Mapping[str, Any]) -> str:
    """Where a node of a server is not what a workflow of this pack takes it for; empty where it is.

    The page tells widgets by their order, and what a later version adds must do without a value.

    Args:
        expected: As in `CORE`.
        info: What `/object_info` says of it.
    """
    required, optional = info["input"].get("required", {}), info["input"].get("optional", {})
    declared = {**required, **optional}
    if "COMFY_AUTOGROW_V3" in (kind for kind, *_ in declared.values()):  # as many sockets as are linked
        return "" if {name.split(".")[0] for name in expected.inputs} == {*declared} else "other sockets"
    known, added = [*declared][: len(expected.inputs)], [*declared][len(expected.inputs) :]
    if known != [*expected.inputs]:
        return f"inputs {known}"
    if needed := {*added} & {*required}:
        return f"needs {sorted(needed)}"
    for widget, kind in expected.inputs.items():
        found, *options = declared[widget]
        if isinstance(kind, tuple):
            choices = found if isinstance(found, list) else options[0]["options"]
            keys = {choice["key"] if isinstance(choice, dict) else choice for choice in choices}
            if missing := {*kind} - keys:
                return f"{widget} without {sorted(missing)}"
        elif found != kind:
            return f"{widget} {found}"
    outputs = tuple(zip(info["output_name"], info["output"], strict=True))[: len(expected.outputs)]
    return "" if outputs == expected.outputs else f"outputs {outputs}"


def widget_names(node: Mapping[str, Any]) -> list[str]:
    """What each of `widgets_values` belongs to."""
    found = [socket["widget"]["name"] for socket in node["inputs"] if "widget" in socket]
    return [name for widget in found for name in (widget, *([SEED[widget]] if widget in SEED else []))]


def widget_values(node: Mapping[str, Any]) -> dict[str, Any]:
    """Values by name; those of the page are in it."""
    return dict(zip(widget_names(node), node["widgets_values"], strict=True))


def to_prompt(workflow: Mapping[str, Any]) -> dict[str, Any]:
    """The graph in API format, as the page sends it: without notes, and around bypassed nodes."""
    nodes = {node["id"]: node for node in workflow["nodes"]}
    links = {link[0]: link for link in workflow["links"]}

    def source(link: int) -> list[Any]:
        _, origin, slot, *_, kind = links[link]
        node = nodes[origin]
        if node["mode"] != BYPASSED:
            return [str(origin), slot]
        return source(next(socket["link"] for socket in node["inputs"] if socket["type"] == kind))

    return {
        str(node["id"]): {
            "class_type": node["type"],
            "inputs": {
                **{name: value for name, value in widget_values(node).items() if name not in SEED.values()},
                **{x["name"]: source(x["link"]) for x in node["inputs"] if x["link"] is not None},
            },
        }
        for node in nodes.values()
        if node["mode"] == NORMAL and node["type"] != NOTE
    }
