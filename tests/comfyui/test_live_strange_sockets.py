"""Whatever comes through a socket of a node: it makes a clip, or one sentence names the socket and says what to do.

ComfyUI checks the types of connections, and of numbers those that are typed into a widget; other packs, core's own
nodes and damaged files send the rest. Runs where `test_live_server` does; `strangers/` is the pack that sends it.
"""

import re
from collections.abc import Iterator

import pytest

from tests.comfyui.graphs import TalkingGraph
from tests.comfyui.live_server import Server
from tests.comfyui.right_graphs import MAKES_A_CLIP, NODES, SMALL, answer, started_with_strangers


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with started_with_strangers(tmp_path_factory.mktemp("comfyui")) as running:
        yield running


# --- what comes through a socket, by its type: is it refused, does it make a clip, or is either right ---

REFUSED, MADE, EITHER = "refused", "made", "either"
KINDS: dict[str, dict[str, str]] = {
    "MODEL": dict.fromkeys(("nothing", "model", "module"), REFUSED),
    "CLIP": dict.fromkeys(("nothing", "module"), REFUSED),
    "VAE": dict.fromkeys(("nothing", "module"), REFUSED),
    "LATENT": {
        **dict.fromkeys(("nothing", "word", "latent of noise", "latent without samples", "nested latent"), REFUSED),
        **dict.fromkeys(("NaN video", "NaN audio", "two videos", "sound first", "video alone"), REFUSED),
        **dict.fromkeys(("three parts", "longer video", "longer sound", "more channels"), REFUSED),
        **dict.fromkeys(("more sound channels", "flat video", "clip of words", "NaN mask"), REFUSED),
        **dict.fromkeys(("odd video", "wider video", "mask of zeros", "mask of one"), EITHER),
        **dict.fromkeys(("same", "half precision", "small mask", "mask that overshoots"), MADE),
    },
    "CONDITIONING": {
        **dict.fromkeys(("nothing", "no conditioning", "conditioning of words", "conditioning"), REFUSED),
        **dict.fromkeys(("NaN text", "empty text", "flat text", "wide text", "two texts", "latents beside"), REFUSED),
        **dict.fromkeys(("objects beside", "dicts beside"), REFUSED),
        **dict.fromkeys(("rate of words", "NaN rate", "negative rate"), REFUSED),
        **dict.fromkeys(("same",), MADE),
    },
    "IMAGE": {
        **dict.fromkeys(("word", "image of 7 channels", "image without batch", "no image", "NaN image"), REFUSED),
        **dict.fromkeys(("image up to 255", "NaN frames", "frames up to 255"), REFUSED),
        **dict.fromkeys(("grey image", "image with alpha", "image 3 pixels high", "image of half precision"), MADE),
        **dict.fromkeys(("image that overshoots",), MADE),
        **dict.fromkeys(("frames", "image of bytes"), EITHER),
    },
    "AUDIO": {
        **dict.fromkeys(("word", "no sound", "sound at 0 Hz", "sound at -16000 Hz", "sound at NaN Hz"), REFUSED),
        **dict.fromkeys(("sound at no rate", "sound at a word", "NaN sound", "infinite sound"), REFUSED),
        **dict.fromkeys(("sound of 16 bits as floats", "sound of 3 clips", "sound of samples alone"), REFUSED),
        **dict.fromkeys(("sound in a list",), REFUSED),
        **dict.fromkeys(("short sound", "sound at 48 kHz", "sound of 9 channels", "sound at 16000.0 Hz"), MADE),
        **dict.fromkeys(("sound", "one sample", "sound at 7 Hz"), EITHER),
    },
    "INT": {
        **dict.fromkeys(("nothing", "NaN", "infinity", "half", "word"), REFUSED),
        **dict.fromkeys(("large number", "negative number"), EITHER),
    },
    "FLOAT": {
        **dict.fromkeys(("nothing", "NaN", "infinity", "word", "large number"), REFUSED),
        **dict.fromkeys(("negative number", "half", "number"), EITHER),
    },
    "BOOLEAN": dict.fromkeys(("nothing", "word", "NaN"), REFUSED),
    "STRING": dict.fromkeys(("nothing", "number"), REFUSED) | {"word": MADE},
    "COMBO": dict.fromkeys(("nothing", "word", "number"), REFUSED),
}
OTHERWISE = {  # where a node is another case: node, input and kind
    **{(node, name, kind): EITHER for node in ("JovaConditioning", "JovaImageToVideo", "JovaKeyframe")
       for name in ("positive", "negative") for kind in ("rate of words", "NaN rate", "negative rate")},
    ("JovaEmptyLatent", "audio", "sound of 3 clips"): MADE,
    **{("JovaVoices", "positive", kind): REFUSED for kind in KINDS["CONDITIONING"]},  # jova-tiny reads no voices
    **{("JovaMouthMaskPreview", "images", kind): ""  # without a detector nothing is shown
       for kind, expected in KINDS["IMAGE"].items() if expected != REFUSED},
    **{("JovaGenerate", "reference_audio", kind): REFUSED for kind in KINDS["AUDIO"]},  # nor a recording
    ("JovaGenerate", "reference_transcript", "word"): REFUSED,
    ("JovaMouthMaskPreview", "boxes", "word"): REFUSED,
    **{("KSampler", "latent_image", kind): EITHER
       for kind in ("nested latent", "video alone", "sound first", "clip of words")},
    **{("KSampler", "latent_image", kind): ""  # core packs the parts of unlike batches
       for kind in ("nothing", "word", "latent without samples", "two videos")},
    **{("KSampler", name, "nothing"): "" for name in ("positive", "negative")},
    **{("KSampler", name, "no conditioning"): "" for name in ("positive", "negative")},
    **{("KSampler", name, "conditioning of words"): "" for name in ("positive", "negative")},
}  # fmt: skip
SHOWN_BY = {  # inputs that another one may show to be wrong, as where they are sampled
    "latent": ("latent_image", "image"),
    "frame_rate": ("latent_image", "images", "length", "boxes"),
    "latent_image": ("samples",),
}
NOT_BESIDE = {"own_video": ("image", "last_image")}  # inputs that exclude each other
CORES_OWN = {
    "KSampler": ("model", "seed", "steps", "cfg", "sampler_name", "scheduler", "denoise")
}  # core checks these


def sockets(server: Server, node: str) -> dict[str, tuple[str, bool]]:
    """Type of each input of a node, and whether it may be left out."""
    declared = server.get(f"/object_info/{node}")[node]["input"]
    return {
        name: ("COMBO" if isinstance(entry[0], list) else entry[0], group == "optional")
        for group in ("required", "optional")
        for name, entry in declared.get(group, {}).items()
        if name not in CORES_OWN.get(node, ())
    }


def with_stranger(node: str, name: str, kind: str) -> TalkingGraph:
    """A graph about a node, one of whose inputs comes from another kind of node."""
    graph = TalkingGraph(**SMALL)
    inputs, finish = NODES[node]
    given = inputs(graph)
    given = {other: value for other, value in given.items() if other not in NOT_BESIDE.get(name, ())}
    value = {"value": given[name]} if isinstance(given.get(name), list) else {}
    given[name] = [graph.add("JovaTestStranger", kind=kind, **value), 0]
    finish(graph, graph.add(node, **given))
    return graph


def is_one_sentence(said: str, name: str) -> bool:
    """Whether an error is a sentence about an input as the user sees it."""
    kind, _, sentence = said.partition(": ")
    return (
        kind in ("ValueError", "FloatingPointError")
        and "\n" not in sentence
        and any(f"`{shown}`" in sentence for shown in (name, *SHOWN_BY.get(name, ())))
        and re.search(r" must .*; ", sentence) is not None
    )


def faults(server: Server, node: str, name: str, kinds: dict[str, str]) -> list[str]:
    """What is said about an input that should not be, and what is not said that should."""
    found = []
    for kind, usual in kinds.items():
        expected = OTHERWISE.get((node, name, kind), usual)
        if not expected:  # core's own node, and its own words
            continue
        said = answer(server, with_stranger(node, name, kind))
        print(f"## {node} {name} {kind}: {said or 'RAN'}")
        is_right = {
            REFUSED: is_one_sentence(said, name),
            MADE: said == MAKES_A_CLIP,
            EITHER: said == MAKES_A_CLIP or is_one_sentence(said, name),
        }[expected]
        if not is_right:
            found.append(f"{node} `{name}` {kind}: {said or 'made a clip'}")
    return found


@pytest.mark.parametrize("node", NODES)
def test_every_input_of_a_node_makes_a_clip_or_is_refused_in_one_sentence(server: Server, node: str) -> None:
    found = []
    for name, (kind, is_optional) in sockets(server, node).items():
        expected = KINDS[kind]
        if is_optional:
            expected = {**expected, "nothing": MADE}
        found += faults(server, node, name, expected)
    assert not found, "\n".join([f"{len(found)} faults", *found])
