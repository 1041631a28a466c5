"""A real ComfyUI on the CPU samples models of two towers, each fusion of them, and patches them with adapters.

MOVA's is a converted release of tiny sizes, both experts in it. Runs where `test_live_server` does, with its measure.
"""

from collections.abc import Iterator

import pytest
import torch
from safetensors.torch import save_file

from diffusers_jova import JoVAPipeline, JoVAPrompt
from diffusers_jova.adapter_fit import linear_layers
from diffusers_jova.conversion.convert import main as convert
from tests.comfyui.graphs import Socket, TalkingGraph
from tests.comfyui.live_server import PromptError, Server, started
from tests.comfyui.parity import check_parity, kept, noise
from tests.comfyui.test_live_server import KINDS, check_partial_loading, loras
from tests.conversion.test_dual_tower import write_mova
from tests.tiny_pipeline import build_dual_tower, build_tiny_pipeline


STEPS = 2  # of MOVA's schedule: one above its boundary, one below
MODELS = ("mova", "aligned", "text_cross")
SIZE = {"width": 32, "height": 32, "length": 9}
WORDS = {"video": "a dog", "audio": "a bark", "transcript": "wow"}  # tokens of tiny models are letters, and few


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, JoVAPipeline]:
    folder = tmp_path_factory.mktemp("mova")
    release = write_mova(folder / "release")
    convert(["mova", str(release), str(folder / "out"), "--components", str(release)])
    loaded = {"mova": JoVAPipeline.from_pretrained(folder / "out", dtype=torch.float32)}
    for fusion in ("aligned", "text_cross"):
        loaded[fusion] = build_tiny_pipeline(transformer=build_dual_tower(fusion), pads_text_with_zeros=True)
    for pipeline in loaded.values():
        pipeline.set_progress_bar_config(disable=True)
    return loaded


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, pipelines: dict[str, JoVAPipeline]) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("comfyui")
    adapters = folder / "models" / "loras"
    adapters.mkdir(parents=True)
    for name, pipeline in pipelines.items():
        pipeline.save_pretrained(folder / "models" / "diffusers" / name)
        for kind, content in loras(adapted_layers(pipeline)).items():
            save_file(
                {key: tensor.clone() for key, tensor in content.items()}, adapters / f"{name}_{kind}.safetensors"
            )
    with started(folder) as running:
        yield running


def adapted_layers(pipeline: JoVAPipeline) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of layers of both towers, of the second video tower and of the fusion."""
    layers = linear_layers(pipeline.transformer)
    chosen = ["blocks.0.attn1.video.to_q", "blocks.0.attn2.audio.to_v", "blocks.0.ffn.video.net.0.proj"]
    chosen += [next(name for name in layers if name.startswith(f"blocks.0.fusion.{m}")) for m in ("video", "audio")]
    chosen += [name for name in layers if name.endswith("0.attn1.video_low.to_out.0")]
    return {name: (layers[name].in_features, layers[name].out_features) for name in chosen}


def worded(name: str) -> TalkingGraph:
    graph = TalkingGraph(name, **SIZE)
    graph[graph.positive[0]]["inputs"].update(WORDS)
    return graph


def compare(
    case: str, server: Server, graph: TalkingGraph, samples: Socket, pipeline: JoVAPipeline, **given: object
) -> None:
    """Ask the pipeline for what a graph made, and hold both together."""
    graph.keep(samples, "parity")
    result = kept(server, server.run(graph), pipeline)
    starts = noise([list(result["video"].shape), list(result["audio"].transpose(1, 2).shape)])
    size = {"width": SIZE["width"], "height": SIZE["height"], "num_frames": SIZE["length"]}
    check_parity(case, result, pipeline, STEPS, **{**starts, **size, "prompt": JoVAPrompt(**WORDS), **given})


@pytest.mark.parametrize("name", MODELS)
def test_ksampler_gives_the_clip_of_the_pipeline(
    server: Server, pipelines: dict[str, JoVAPipeline], name: str
) -> None:
    graph = worded(name)
    compare(f"two towers, {name}", server, graph, graph.sample(STEPS), pipelines[name])


@pytest.mark.parametrize("name", MODELS)
def test_the_guider_guides_by_the_coupling(server: Server, pipelines: dict[str, JoVAPipeline], name: str) -> None:
    graph = worded(name)
    samples = graph.guide(STEPS, cfg=1.5, audio_cfg=3.0, coupling=2.0)
    given = {"audio_guidance_scale": 3.0, "coupling_scale": 2.0}
    compare(f"two towers, {name}, guider with coupling", server, graph, samples, pipelines[name], **given)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_of_every_layout_does_what_peft_does(
    server: Server, pipelines: dict[str, JoVAPipeline], name: str, kind: str
) -> None:
    graph, pipeline = worded(name), pipelines[name]
    inputs = {"lora": f"{name}_{kind}.safetensors", "strength": 1.0, "audio_strength": 1.0, "skip_unknown": False}
    graph.model = [graph.add("JovaLoraLoader", model=graph.model, **inputs), 0]
    pipeline.load_lora_weights(str(server.folder / "models" / "loras" / inputs["lora"]), adapter_name="tried")
    try:
        compare(f"two towers, {name}, adapter, {kind}", server, graph, graph.sample(STEPS), pipeline)
    finally:
        pipeline.delete_adapters("tried")


@pytest.mark.parametrize("name", MODELS)
def test_the_model_is_as_it_was_once_an_adapter_is_gone(
    server: Server, pipelines: dict[str, JoVAPipeline], name: str
) -> None:
    graph = worded(name)
    compare(f"two towers, {name}, adapter taken out", server, graph, graph.sample(STEPS, seed=5), pipelines[name])


@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_is_loaded_in_part_predicts_the_same(server: Server, name: str) -> None:
    adapter = server.folder / "models" / "loras" / f"{name}_comfy.safetensors"
    check_partial_loading(str(server.folder / "models" / "diffusers" / name), adapter, "audio")


def test_an_adapter_of_one_of_two_video_towers_must_say_which(server: Server) -> None:
    plain = {f"diffusion_model.blocks.0.self_attn.q.lora_{side}.weight": torch.ones(256, 256) for side in "AB"}
    save_file(plain, server.folder / "models" / "loras" / "plain.safetensors")
    graph = worded("mova")
    inputs = {"lora": "plain.safetensors", "strength": 1.0, "audio_strength": 1.0, "skip_unknown": False}
    graph.model = [graph.add("JovaLoraLoader", model=graph.model, **inputs), 0]
    graph.keep(graph.sample(1), "never")
    with pytest.raises(PromptError, match=r"`tower` must be 'video' or 'video_low' .*jova convert lora --tower"):
        server.run(graph)
