"""Whatever comes through a socket of a node: it makes a clip, or one sentence names the socket and says what to do.

ComfyUI checks the types of connections, and of numbers those that are typed into a widget; other packs, core's own
nodes and damaged files send the rest. Runs where `test_live_server` does; `strangers/` is the pack that sends it.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io.wavfile
import torch
from diffusers import AutoencoderKLWan
from PIL import Image
from safetensors.torch import save_file

from diffusers_jova.conversion.convert import main as convert
from jova_cli.shipped import model_folder
from tests.comfyui.graphs import Graph, Socket, TalkingGraph
from tests.comfyui.live_server import PromptError, Server, started
from tests.places import ROOT
from tests.tiny_pipeline import (
    NAVA_SHARING,
    WAN_VAES,
    build_tiny_pipeline,
    build_transformer,
    build_wan_transformer,
)


if "COMFYUI_PATH" not in os.environ:
    pytest.skip("COMFYUI_PATH names no checkout of ComfyUI", allow_module_level=True)
pytestmark = pytest.mark.comfyui

SMALL = {"width": 32, "height": 32, "length": 5}
MAKES_A_CLIP = ""  # expected: neither refused nor broken
WORDS = {"video": "a dog", "audio": "a bark", "transcript": "wow"}
OTHERS = ("voices", "narrow", "patched")  # tiny models beside jova-tiny: a mel codec, another VAE


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("comfyui")
    voiced = build_wan_transformer(**NAVA_SHARING)
    models = {
        "voices": build_tiny_pipeline(transformer=voiced, pads_text_with_zeros=True, speaker_token="~"),
        **{name: narrow_pipeline(kind) for name, kind in (("narrow", "plain"), ("patched", "residual"))},
    }
    for name, pipeline in models.items():
        pipeline.save_pretrained(folder / "models" / "diffusers" / name)
    write_inputs(folder / "input")
    write_models(folder / "models")
    write_adapters(folder / "models" / "loras")
    pack = Path(os.environ["COMFYUI_PATH"]) / "custom_nodes" / "jova_strangers"
    if not pack.exists():
        pack.symlink_to(ROOT / "tests" / "comfyui" / "strangers")
    try:
        with started(folder) as running:
            yield running
    finally:
        pack.unlink()


def narrow_pipeline(kind: str) -> Any:
    """A model whose video latents have 4 channels."""
    torch.manual_seed(0)
    statistics = {"latents_mean": [0.0] * 4, "latents_std": [1.0] * 4}
    vae = AutoencoderKLWan(**WAN_VAES[kind], **statistics).eval()
    return build_tiny_pipeline(vae=vae, transformer=build_transformer(in_channels=12, out_channels=4))


def write_inputs(folder: Path) -> None:
    folder.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 96, 3), np.uint8)).save(folder / "portrait.png")
    scipy.io.wavfile.write(folder / "sound.wav", 16000, np.full(4000, 3000, np.int16))
    np.save(folder / "voices.npy", np.ones((1, 5), np.float32))
    np.save(folder / "wide.npy", np.ones((1, 7), np.float32))
    np.save(folder / "many.npy", np.ones((9, 5), np.float32))
    np.save(folder / "nan.npy", np.full((1, 5), np.nan, np.float32))
    np.save(folder / "none.npy", np.zeros((0, 5), np.float32))
    np.save(folder / "words.npy", np.array([["a", "b"]]))
    np.save(folder / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (folder / "text.npy").write_text("no array")
    (folder / "empty.npy").write_bytes(b"")
    (folder / "text.safetensors").write_text("no tensors at all")
    save_file({"a": torch.ones(1, 5), "b": torch.ones(1, 5)}, folder / "two.safetensors")
    save_file({"a": torch.ones(1, 5, dtype=torch.bfloat16)}, folder / "bfloat16.safetensors")


def write_models(folder: Path) -> None:
    files = folder / "diffusion_models"
    files.mkdir()
    convert(["single_file", str(model_folder("jova-tiny") / "transformer"), str(files / "tiny.safetensors")])
    save_file({"a": torch.ones(2)}, files / "bare.safetensors")
    (files / "text.safetensors").write_text("no tensors at all")
    for name in ("weightless", "wordy"):
        shutil.copytree(folder / "diffusers" / "narrow", folder / "diffusers" / name)
    (folder / "diffusers" / "weightless" / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    (folder / "diffusers" / "wordy" / "transformer" / "config.json").write_text("no config")


def write_adapters(folder: Path) -> None:
    folder.mkdir()
    pair = {"diffusion_model.nowhere.to_q.lora_A.weight": torch.ones(1, 4)}
    save_file(
        {**pair, "diffusion_model.nowhere.to_q.lora_B.weight": torch.ones(4, 1)}, folder / "stranger.safetensors"
    )
    name = "transformer.transformer_blocks.0.attn.video.to_q"
    for file, width, value in (("fits", 192, 0.01), ("narrow", 64, 1.0), ("nan", 192, float("nan"))):
        matrices = {
            f"{name}.lora_A.weight": torch.full((4, width), value),
            f"{name}.lora_B.weight": torch.ones(width, 4),
        }
        save_file(matrices, folder / f"{file}.safetensors")
    (folder / "text.safetensors").write_text("this is a text, no adapter at all\n")
    (folder / "empty.safetensors").write_bytes(b"")
    torch.save({"a": torch.ones(2)}, folder / "pickle.pt")


# --- graphs with one node of ours, everything about it right ---


def portrait(graph: Graph, amount: int = 1) -> Socket:
    image = [graph.add("LoadImage", image="portrait.png"), 0]
    return image if amount == 1 else [graph.add("RepeatImageBatch", image=image, amount=amount), 0]


def sound(graph: Graph) -> Socket:
    return [graph.add("LoadAudio", audio="sound.wav"), 0]


def texts(graph: TalkingGraph) -> dict[str, Socket]:
    return {"positive": graph.positive, "negative": graph.negative}


def sampled(**sockets: int) -> Callable[[TalkingGraph, str], None]:
    """Sample and save with outputs of a node in the place of a graph's own."""

    def finish(graph: TalkingGraph, node: str) -> None:
        graph.save(graph.sample(1, **{name: [node, index] for name, index in sockets.items()}), "kept")

    return finish


def saved(graph: Graph, node: str) -> None:
    graph.add("SaveVideo", video=[node, 0], filename_prefix="kept", format="auto", codec="auto")


def guided(graph: TalkingGraph, node: str) -> None:
    sampler = graph.guide(1)
    graph[sampler[0]]["inputs"]["guider"] = [node, 0]
    graph.save(sampler, "kept")


def shown(graph: Graph, node: str) -> None:
    graph.add("SaveImage", images=[node, 0], filename_prefix="kept")


def decoded_by_core(graph: TalkingGraph, node: str) -> None:
    shown(graph, graph.add("VAEDecode", samples=[node, 0], vae=graph.vae))


GUIDANCE = dict.fromkeys(
    ("cfg", "audio_cfg", "coupling", "audio_coupling", "voices", "start", "end", "coupling_start"), -1.0
) | dict.fromkeys(("coupling_end", "rescale", "audio_rescale"), -1.0)
EVERYTHING = {"model": "jova-tiny", **WORDS, "negative": "", **SMALL, "frame_rate": 0.0, "seed": 1, "steps": 1}
EVERYTHING |= {"cfg": -1.0, "audio_cfg": -1.0, "sampler": "euler", "dtype": "fp32", "fit": "cover"}

# node: its inputs, and what follows it
Inputs = Callable[[TalkingGraph], dict[str, Any]]
NODES: dict[str, tuple[Inputs, Callable[[TalkingGraph, str], None]]] = {
    "JovaLoader": (lambda _: {"model": "jova-tiny", "dtype": "fp32"}, sampled(model=0)),
    "JovaLoraLoader": (
        lambda g: {"model": g.model, "lora": "fits.safetensors", "strength": 1.0, "audio_strength": 1.0}
        | {"skip_unknown": False},
        sampled(model=0),
    ),
    "JovaDiffusionModelLoader": (
        lambda _: {"file": "tiny.safetensors", "pipeline": "jova-tiny", "dtype": "fp32"},
        sampled(model=0),
    ),
    "JovaVoices": (lambda g: {"positive": g.positive, "speaker_embeds": "voices.npy"}, sampled(positive=0)),
    "JovaMouthMaskPreview": (
        lambda g: {"images": portrait(g, 5), "vae": g.vae, "boxes": "", "frame_rate": 16.0},
        shown,
    ),
    "JovaPrompt": (lambda g: {"clip": g.clip, **WORDS}, sampled(positive=0)),
    "JovaNegativePrompt": (lambda g: {"clip": g.clip, "text": "", "audio": ""}, sampled(negative=0)),
    "JovaConditioning": (lambda g: {**texts(g), "latent": g.latent}, sampled(positive=0, negative=1)),
    "JovaImageToVideo": (
        lambda g: {**texts(g), "vae": g.vae, "latent": g.latent, "image": portrait(g), "fit": "cover"},
        sampled(positive=0, negative=1),
    ),
    "JovaKeyframe": (
        lambda g: {**texts(g), "vae": g.vae, "latent": g.latent, "image": portrait(g), "frame": -1, "fit": "cover"},
        sampled(positive=0, negative=1),
    ),
    "JovaEmptyLatent": (
        lambda g: {"audio_vae": g.audio_vae, **SMALL, "length": 0, "frame_rate": 0.0, "batch_size": 1}
        | {"audio": sound(g), "images": portrait(g, 5)},
        sampled(latent_image=0),
    ),
    "JovaSetAudio": (
        lambda g: {"latent": g.latent, "audio_vae": g.audio_vae, "audio": sound(g)},
        sampled(latent_image=0),
    ),
    "JovaSetVideo": (
        lambda g: {"latent": g.latent, "vae": g.vae, "images": portrait(g, 5), "fit": "cover"},
        sampled(latent_image=0),
    ),
    "JovaSampleShift": (lambda g: {"model": g.model, "shift": 2.0, "audio_shift": 1.0}, sampled(model=0)),
    "JovaGuider": (
        lambda g: {"model": g.model, **texts(g), **GUIDANCE, "uncoupled_text": "model", "apg": "on"}
        | {"apg_threshold": 27.0, "audio_apg_threshold": 0.0},
        guided,
    ),
    "JovaDecode": (
        lambda g: {"samples": g.latent, "vae": g.vae, "audio_vae": g.audio_vae, "index": 0},
        saved,
    ),
    "JovaGenerate": (
        lambda g: {**EVERYTHING, "image": portrait(g), "own_audio": sound(g), "last_image": portrait(g)},
        saved,
    ),
    "KSampler": (
        lambda g: {"model": g.model, **texts(g), "latent_image": g.latent, "seed": 1, "steps": 1, "cfg": 1.5}
        | {"sampler_name": "euler", "scheduler": "simple", "denoise": 1.0},
        decoded_by_core,
    ),
}  # fmt: skip

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


def answer(server: Server, graph: dict[str, Any]) -> str:
    """The error that a graph ends with, with its kind; empty where it makes something."""
    try:
        server.run(graph)
    except PromptError as error:
        said = error.details
        if "exception_message" not in said:
            return f"refused before it runs: {said}"
        return f"{said['exception_type']}: {said['exception_message'].strip()}"
    return MAKES_A_CLIP


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


# --- what does not belong together, and files that are none ---


def of_other(name: str, graph: Graph) -> list[Socket]:
    """MODEL, CLIP, VAE and audio VAE of another model."""
    loader = graph.add("JovaLoader", model=name, dtype="fp32")
    return [[loader, index] for index in range(4)]


def pixels(graph: Graph) -> Socket:
    """A VAE of core's that makes no latents of video."""
    return [graph.add("VAELoader", vae_name="pixel_space"), 0]


def cores(graph: Graph, kind: str, size: dict[str, Any]) -> Socket:
    """Latents of a node of core's."""
    return [graph.add(kind, **size), 0]


def about(node: str, graph: TalkingGraph, **changed: Any) -> TalkingGraph:
    """Put a node behind a graph, with some inputs changed."""
    inputs, finish = NODES[node]
    given = {**inputs(graph), **changed}
    finish(graph, graph.add(node, **{name: value for name, value in given.items() if value is not None}))
    return graph


def keyed(graph: TalkingGraph, *frames: int | None, **sockets: Any) -> TalkingGraph:
    """Pictures at frames one behind the other; None is the first frame."""
    for frame in frames:
        given = {**texts(graph), "vae": graph.vae, "latent": graph.latent, "image": portrait(graph), "fit": "cover"}
        kind = "JovaImageToVideo" if frame is None else "JovaKeyframe"
        node = graph.add(kind, **{**given, **sockets}, **({} if frame is None else {"frame": frame}))
        graph.positive, graph.negative = [node, 0], [node, 1]
    graph.save(graph.sample(1), "kept")
    return graph


def behind_frames(graph: TalkingGraph, frame: int, is_told: bool) -> TalkingGraph:
    """A keyframe beside a given beginning, told of it by its latent or not."""
    plain = graph.latent
    given = {"latent": plain, "vae": graph.vae, "images": portrait(graph, 5), "fit": "cover"}
    graph.latent = [graph.add("JovaSetVideo", **given), 0]
    sampled_latent, graph.latent = graph.latent, graph.latent if is_told else plain
    told = {**texts(graph), "vae": graph.vae, "latent": graph.latent, "image": portrait(graph), "fit": "cover"}
    node = graph.add("JovaKeyframe", **told, frame=frame)
    sockets = {"positive": [node, 0], "negative": [node, 1], "latent_image": sampled_latent}
    graph.save(graph.sample(1, **sockets), "kept")
    return graph


def batched(batch_sizes: list[int], num_sampled: int) -> TalkingGraph:
    """Keyframes one behind the other, each with a picture per clip of a latent of its own."""
    graph = small(length=9, batch_size=num_sampled)
    widgets = {**SMALL, "length": 9, "frame_rate": 0.0}
    for index, size in enumerate(batch_sizes):
        latent = [graph.add("JovaEmptyLatent", audio_vae=graph.audio_vae, **widgets, batch_size=size), 0]
        given = {**texts(graph), "vae": graph.vae, "latent": latent, "image": portrait(graph, size), "fit": "cover"}
        node = graph.add("JovaKeyframe", **given, frame=4 * index + 1)
        graph.positive, graph.negative = [node, 0], [node, 1]
    graph.save(graph.sample(1), "kept")
    return graph


def masked(graph: TalkingGraph) -> TalkingGraph:
    """Latents of a mask that core's own nodes blur: it reaches a little beyond 1."""
    mask = [graph.add("SolidMask", value=1.0, width=32, height=32), 0]
    blurred = [graph.add("ImageBlur", image=[graph.add("MaskToImage", mask=mask), 0], blur_radius=12, sigma=1.0), 0]
    mask = [graph.add("ImageToMask", image=blurred, channel="red"), 0]
    graph.latent = [graph.add("SetLatentNoiseMask", samples=graph.latent, mask=mask), 0]
    graph.save(graph.sample(1), "kept")
    return graph


def limited(graph: TalkingGraph, name: str, kind: str, **widgets: Any) -> TalkingGraph:
    """A prompt that a node of core's limits to a part of the clip."""
    node = graph.add(kind, conditioning=texts(graph)[name], strength=1.0, **widgets)
    graph.save(graph.sample(1, **{name: [node, 0]}), "kept")
    return graph


def voiced(graph: TalkingGraph, file: str) -> TalkingGraph:
    graph[graph.positive[0]]["inputs"].update(WORDS)
    graph.positive = [graph.add("JovaVoices", positive=graph.positive, speaker_embeds=file), 0]
    graph.save(graph.sample(1), "kept")
    return graph


def previewed(graph: TalkingGraph, boxes: str) -> TalkingGraph:
    given = {"images": portrait(graph, 5), "vae": graph.vae, "boxes": boxes, "frame_rate": 16.0}
    shown(graph, graph.add("JovaMouthMaskPreview", **given))
    return graph


def small(**options: Any) -> TalkingGraph:
    return TalkingGraph(**{**SMALL, **options})


def with_two(change: Callable[[TalkingGraph, list[Socket]], TalkingGraph], name: str = "voices") -> Any:
    """A graph of jova-tiny with parts of another model."""

    def build() -> TalkingGraph:
        graph = small()
        return change(graph, of_other(name, graph))

    return build


def latent_of(graph: TalkingGraph, other: list[Socket]) -> Socket:
    return [graph.add("JovaEmptyLatent", audio_vae=other[3], **SMALL, frame_rate=0.0, batch_size=1), 0]


PARTS: dict[str, Callable[[Graph], dict[str, Any]]] = {
    "ConditioningSetArea": lambda _: {"width": 64, "height": 64, "x": 0, "y": 0},
    "ConditioningSetAreaPercentage": lambda _: {"width": 0.5, "height": 0.5, "x": 0.0, "y": 0.0},
    "ConditioningSetMask": lambda g: (
        {"mask": [g.add("SolidMask", value=1.0, width=32, height=32), 0]} | {"set_cond_area": "default"}
    ),
}
TWO_SECONDS = {"seconds": 2.0, "batch_size": 1}
OF_THE_MODEL = "must be that of the model of"
TOGETHER: dict[str, tuple[Callable[[], TalkingGraph], str]] = {
    **{
        f"{node} with the VAE of {name}": (
            with_two(lambda g, other, node=node: about(node, g, vae=other[2]), name),
            f"`vae` {OF_THE_MODEL} `(latent|samples)`, with 16 channels .* got one with 4",
        )
        for node in ("JovaSetVideo", "JovaImageToVideo", "JovaKeyframe", "JovaDecode")
        for name in ("narrow", "patched")
    },
    **{
        f"{node} with a VAE of core's": (
            lambda node=node: about(node, g := small(), vae=pixels(g)),
            "`vae` must be the video VAE of a JoVA model, got a VAE; connect the VAE of Load JoVA",
        )
        for node in ("JovaSetVideo", "JovaImageToVideo", "JovaKeyframe", "JovaDecode")
    },
    **{
        f"{node} with the audio VAE of another model": (
            with_two(lambda g, other, node=node: about(node, g, audio_vae=other[3])),
            f"`audio_vae` {OF_THE_MODEL} `(latent|samples)`, with 20 channels and 10 latents .* got one with 4 and",
        )
        for node in ("JovaSetAudio", "JovaDecode")
    },
    "both VAEs swapped": (
        lambda: about("JovaDecode", g := small(), vae=g.audio_vae, audio_vae=g.vae),
        "`vae` must be the video VAE of a JoVA model, got a JovaAudioVAE; connect the VAE of Load JoVA",
    ),
    "the video VAE for the sound": (
        lambda: about("JovaSetAudio", g := small(), audio_vae=g.vae),
        "`audio_vae` must be the audio VAE of a JoVA model, got a JovaVideoVAE; connect the audio VAE of Load JoVA",
    ),
    "latents of another model": (
        with_two(lambda g, other: about("KSampler", g, latent_image=latent_of(g, other))),
        "`latent_image` must hold audio latents of 20 channels for this model, got 4; use Empty JoVA Latent",
    ),
    "the text of another model": (
        with_two(lambda g, other: about("KSampler", g, positive=[g.add("JovaPrompt", clip=other[1], **WORDS), 0])),
        r"`positive` must be encoded by the text encoder of this model, features \[B, S, 128\], got \[1, .*, 16\]",
    ),
    "a negative text of another model": (
        with_two(lambda g, other: about("JovaGuider", g, negative=[g.add("JovaPrompt", clip=other[1], **WORDS), 0])),
        r"`negative` must be encoded by the text encoder of this model, features \[B, S, 128\]",
    ),
    **{
        f"latents of core's {kind} in {node}": (
            lambda node=node, name=name, of=(kind, size): about(node, g := small(), **{name: cores(g, *of)}),
            f"`{name}` must hold video and sound of a JoVA clip, got another latent; begin with Empty JoVA Latent",
        )
        for node, name in (("JovaSetAudio", "latent"), ("JovaKeyframe", "latent"), ("JovaDecode", "samples"))
        for kind, size in (
            ("EmptyLatentImage", {"width": 64, "height": 64, "batch_size": 1}),
            ("EmptyLTXVLatentVideo", {"width": 64, "height": 64, "length": 9, "batch_size": 1}),
            ("EmptyLatentAudio", TWO_SECONDS),
        )
    },
    "sound of another model": (
        lambda: about("KSampler", g := small(), latent_image=cores(g, "EmptyLatentAudio", TWO_SECONDS)),
        "`latent_image` must hold audio latents of 20 channels for this model, got 16; use Empty JoVA Latent",
    ),
    "a rate that the model is not told": (
        lambda: about("KSampler", small(frame_rate=24.0)),
        "`latent_image` must hold 10 audio latents for 5 frames at 16 per second, got 7; connect JoVA Conditioning",
    ),
    "a picture of another size": (
        lambda: keyed(g := small(), None, latent=[g.add("JovaEmptyLatent", audio_vae=g.audio_vae, width=64, height=64,
                                                       length=5, frame_rate=0.0, batch_size=1), 0]),
        r"`image` must have the size of the latents that are sampled, \[4, 4\], got \[8, 8\]; give JoVA Image to",
    ),
    "a keyframe of a longer clip": (
        lambda: keyed(g := small(), 2, latent=[g.add("JovaEmptyLatent", audio_vae=g.audio_vae, width=32, height=32,
                                                    length=9, frame_rate=0.0, batch_size=1), 0]),
        "`image` must be that of a clip of 5 frames .*, got 9 and 1; give JoVA Image to Video and JoVA Keyframe the",
    ),
    "frame 0": (
        lambda: keyed(small(), 0),
        "`frame` must be at a frame from 1 to 4 of this .*, got 0; the first frame is JoVA Image to Video$",
    ),
    "a keyframe of a picture": (
        lambda: keyed(small(length=1), -1),
        "`frame` must go with a clip of several frames, got one; raise `length`$",
    ),
    "a frame behind the end": (lambda: keyed(small(), 5), "`frame` must be at a frame from 1 to 4 .*, got 5; "),
    "a frame before the beginning": (lambda: keyed(small(), -6), "`frame` must be at a frame from 1 to 4 .*, got -6"),
    "two pictures at one frame": (
        lambda: keyed(small(), 4, -1),
        "`frame` must be at a frame of its own, got frame 4 from `frame` as well; leave one out",
    ),
    "two pictures of one latent": (
        lambda: keyed(small(), 2, -1),
        "`frame` must be the only picture of its latent, which holds the frames 1 to 4, got the frames 2 and 4",
    ),
    "two first frames": (
        lambda: keyed(small(), None, None),
        "`image` must be the only first frame of a clip, got one beside another; take one JoVA Image to Video out",
    ),
    "a picture and a keyframe": (lambda: keyed(small(), None, -1), MAKES_A_CLIP),
    "three pictures in any order": (lambda: keyed(small(length=13), -1, None, 5), MAKES_A_CLIP),
    "a keyframe behind given frames": (lambda: behind_frames(small(length=13), -1, is_told=True), MAKES_A_CLIP),
    "a last frame within given frames": (
        lambda: about("JovaGenerate", g := small(), image=None, own_video=portrait(g, 5)),
        "`last_image` must be behind the 5 frames of `own_video`, got frame 4; leave it out, or raise `length`",
    ),
    "a keyframe within given frames": (
        lambda: behind_frames(small(length=13), 3, is_told=True),
        "`frame` must be behind the 5 frames of JoVA Given Video, got frame 3; leave it out, or raise `length`",
    ),
    "a keyframe within given frames that it is not told of": (
        lambda: behind_frames(small(length=13), 3, is_told=False),
        "`image` must be behind the given frames of the clip, got a picture within them; move it, or give JoVA Keyf",
    ),
    "keyframes of a batch and of one clip": (
        lambda: batched([1, 2], 1),
        "`latent` must be that of the pictures before this one, .* in a batch of 1, got .* in a batch of 2; give all",
    ),
    "two pictures for one clip that is sampled": (
        lambda: batched([2], 1),
        "`image` must be one for all clips that are sampled or one per clip, got 2 for 1; give JoVA Image to Video",
    ),
    "one picture for a batch that is sampled": (lambda: batched([1], 2), MAKES_A_CLIP),
    **{
        f"{name} of a part, {kind}": (
            lambda name=name, kind=kind, part=part: limited(g := small(), name, kind, **part(g)),
            f"`{name}` must hold for the whole clip, got `(area|mask)`, which limits it to a part; take Conditioning",
        )
        for name in ("positive", "negative")
        for kind, part in PARTS.items()
    },
    "a blurred mask": (lambda: masked(small()), MAKES_A_CLIP),
    "a start of guidance behind its end": (
        lambda: about("JovaGuider", small(), start=0.8, end=0.2),
        "`start` must be at most `end`, 0.2, got 0.8; swap them",
    ),
    "a batch that lasts too long": (
        lambda: about("JovaSetVideo", g := small(), images=portrait(g, 9)),
        MAKES_A_CLIP,
    ),
    "three pictures for one clip": (
        lambda: about("JovaKeyframe", g := small(), image=portrait(g, 3)),
        "`image` must be one for all clips or one per prompt, got 3 for 1 prompt; pass one",
    ),
    "one picture per clip": (
        lambda: about("JovaKeyframe", g := small(batch_size=2), image=portrait(g, 2)),
        MAKES_A_CLIP,
    ),
    "a clip that is not in the batch": (
        lambda: about("JovaDecode", small(), index=5),
        "`index` must be below the number of clips, 1, got 5; use 0",
    ),
    "silence of no length": (
        lambda: about("JovaSetAudio", g := small(), audio=[g.add("EmptyAudio", duration=0.0, sample_rate=44100,
                                                                channels=2), 0]),
        r"`audio` must be sound \[B, channels, S\] with S > 0 and its sample rate, got \[1, 2, 0\]; connect an AUDIO",
    ),
    "half a character": (
        lambda: about("JovaPrompt", small(), video="a \ud83d dog"),
        "`video` must be text of whole characters",
    ),
    "voices": (lambda: voiced(TalkingGraph("voices"), "voices.npy"), MAKES_A_CLIP),
    "voices for a model without": (
        lambda: voiced(small(), "voices.npy"),
        "`positive` must be a prompt of a model that reads voices, .* got one without places for speakers; use NAVA",
    ),
    "voices of another encoder": (
        lambda: voiced(TalkingGraph("voices"), "wide.npy"),
        r"`speaker_embeds` must be a tensor \[P, 5\] or \[B, P, 5\], got \[1, 1, 7\]; use the speaker encoder",
    ),
    "more voices than speakers": (
        lambda: voiced(TalkingGraph("voices"), "many.npy"),
        "`speaker_embeds` must be at most one per `<S>` of a prompt, got 9 for 1; ",
    ),
    **{
        f"voices of {file}": (
            lambda file=file: voiced(TalkingGraph("voices"), file),
            f"`{file}` must {rule}, got .*; save the vectors of the speaker encoder alone",
        )
        for file, rule in (("nan.npy", "be finite"), ("none.npy", "hold vectors .*"), ("words.npy", "hold numbers"))
    },
    **{
        f"voices of {file}": (
            lambda file=file: voiced(TalkingGraph("voices"), file),
            f"`{file}` must be a file of voices, got one that is damaged or of another kind; save",
        )
        for file in ("objects.npy", "text.npy", "empty.npy", "text.safetensors")
    },
    "voices among other tensors": (
        lambda: voiced(TalkingGraph("voices"), "two.safetensors"),
        "`two.safetensors` must hold one tensor, got a, b; save the vectors",
    ),
    "voices in bfloat16": (lambda: voiced(TalkingGraph("voices"), "bfloat16.safetensors"), MAKES_A_CLIP),
    **{
        f"adapter {file}": (lambda file=file: about("JovaLoraLoader", small(), lora=f"{file}.safetensors"), message)
        for file, message in (
            ("stranger", r"adapter must change linear layers of this JoVATransformer3DModel, got `nowhere\.to_q`"),
            ("narrow", r"the change of `.*to_q` must be of shape \[192, 192\], got \[64, 64\]; load the adapter"),
            ("nan", "weights of an adapter must be finite, got NaN or infinity in `.*lora_A.weight`"),
            ("text", "`.*text.safetensors` must be a whole file of an adapter, got one that is damaged"),
            ("empty", "`.*empty.safetensors` must be a whole file of an adapter, got one that is damaged"),
            ("fits", MAKES_A_CLIP),
        )
    },
    "a file of another pipeline": (
        lambda: about("JovaDiffusionModelLoader", small(), pipeline="voices"),
        "`file` must hold a transformer for the latents of `pipeline`, 16 channels of video and 4 of sound, got 16",
    ),
    "a file without a config": (
        lambda: about("JovaDiffusionModelLoader", small(), file="bare.safetensors"),
        "`.*bare.safetensors` must carry its config in the header .*, got none; ",
    ),
    "a file without tensors": (
        lambda: about("JovaDiffusionModelLoader", small(), file="text.safetensors"),
        "`.*text.safetensors` must be a complete safetensors file, got ",
    ),
    "a folder without weights": (
        lambda: about("JovaLoader", TalkingGraph("narrow"), model="weightless"),
        "`.*weightless` must hold whole weights of `transformer`, got none that can be read .*; download or save",
    ),
    "a folder without a config": (
        lambda: about("JovaLoader", TalkingGraph("narrow"), model="wordy"),
        r"`.*transformer.config\.json` must be a JSON object",
    ),
    "no file of boxes": (
        lambda: previewed(small(), "/nowhere/a.boxes.json"),
        "`boxes` must name a file of mouth boxes, got /nowhere/a.boxes.json; give its whole path",
    ),
    "no file and no detector": (
        lambda: previewed(small(), ""),
        "`boxes` must name a file where no mouth detector is installed, got none; name one, or install the package",
    ),
    "mouths on the grid of the audio VAE": (
        lambda: about_mouths(g := small(), g.audio_vae),
        "`vae` must be the video VAE of a JoVA model, got a JovaAudioVAE; connect the VAE of Load JoVA",
    ),
}  # fmt: skip


def about_mouths(graph: TalkingGraph, vae: Socket) -> TalkingGraph:
    given = {"images": portrait(graph, 5), "vae": vae, "boxes": "", "frame_rate": 16.0}
    shown(graph, graph.add("JovaMouthMaskPreview", **given))
    return graph


@pytest.mark.parametrize("case", TOGETHER)
def test_what_does_not_belong_together_is_refused_in_one_sentence(server: Server, case: str) -> None:
    build, message = TOGETHER[case]
    said = answer(server, build())
    print(f"## {case}: {said or 'RAN'}")
    if message == MAKES_A_CLIP:
        assert said == MAKES_A_CLIP
        return
    kind, _, sentence = said.partition(": ")
    assert kind == "ValueError", said
    assert re.match(message, sentence) is not None, said
    assert "\n" not in sentence, said
