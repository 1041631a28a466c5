"""Graphs with one node of ours about which everything is right, for tests that then change one thing about it."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io.wavfile
import torch
from diffusers import AutoencoderKLWan
from PIL import Image
from safetensors.torch import save_file

from diffusers_jova.conversion.convert import main as convert
from jova_cli.shipped import model_folder
from tests.comfyui.graphs import Graph, Socket, TalkingGraph
from tests.comfyui.live_server import PromptError, Server, linked, started
from tests.places import ROOT
from tests.tiny_pipeline import (
    NAVA_SHARING,
    WAN_VAES,
    build_spoken_pipeline,
    build_tiny_pipeline,
    build_transformer,
    build_wan_transformer,
)


SMALL = {"width": 32, "height": 32, "length": 5}
MAKES_A_CLIP = ""  # expected: neither refused nor broken
WORDS = {"video": "a dog", "audio": "a bark", "transcript": "wow"}


@contextmanager
def started_with_strangers(folder: Path) -> Iterator[Server]:
    """A server with the pack `strangers`, and with files and models that are right, damaged, or another model's."""
    voiced = build_wan_transformer(**NAVA_SHARING)
    models = {
        "voices": build_tiny_pipeline(transformer=voiced, pads_text_with_zeros=True, speaker_token="~"),
        "spoken": build_spoken_pipeline(),
        **{name: narrow_pipeline(kind) for name, kind in (("narrow", "plain"), ("patched", "residual"))},
    }
    for name, pipeline in models.items():
        pipeline.save_pretrained(folder / "models" / "diffusers" / name)
    write_inputs(folder / "input")
    write_models(folder / "models")
    write_adapters(folder / "models" / "loras")
    pack = linked(Path(os.environ["COMFYUI_PATH"]), "jova_strangers", ROOT / "tests" / "comfyui" / "strangers")
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


def spoken(graph: TalkingGraph) -> dict[str, Any]:
    """Inputs of JoVA Reference Voice on a model that reads one."""
    graph[graph.model[0]]["inputs"]["model"] = "spoken"
    graph[graph.positive[0]]["inputs"].update(WORDS)
    given = {**texts(graph), "vae": graph.vae, "latent": graph.latent, "image": portrait(graph), "fit": "cover"}
    node = graph.add("JovaImageToVideo", **given)
    codecs = {"clip": graph.clip, "audio_vae": graph.audio_vae}
    return {"positive": [node, 0], "negative": [node, 1], **codecs, "reference_audio": sound(graph)} | {
        "reference_transcript": "Hi."
    }


def stepped(graph: TalkingGraph, node: str) -> None:
    sampler = graph.guide(1)
    graph[sampler[0]]["inputs"]["sigmas"] = [node, 0]
    graph.save(sampler, "kept")


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
    "JovaReferenceVoice": (spoken, sampled(positive=0, negative=1)),
    "JovaScheduler": (lambda g: {"model": g.model, "steps": 1}, stepped),
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
        | {"apg_threshold": 27.0, "audio_apg_threshold": 0.0, "cfg_zero_star": "on", "zero_init_steps": 0},
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
