"""A real ComfyUI on the CPU keeps the settings of a pipeline: how converted models were trained, and must be asked.

Runs where `test_live_server` does, with its measure.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import scipy.io.wavfile
import torch
from PIL import Image
from safetensors.torch import save_file

from diffusers_jova import FlowMatchAudioVideoScheduler, JoVAPipeline, JoVAPrompt
from diffusers_jova.conversion.convert import main as convert
from tests.comfyui.graphs import Socket, TalkingGraph
from tests.comfyui.live_server import PromptError, Server, started
from tests.comfyui.parity import check_parity, kept, noise
from tests.comfyui.test_live_server import as_floats, picture, voice
from tests.tiny_pipeline import build_dual_tower, build_tiny_pipeline, build_wan_transformer


STEPS = 2
WORDS = {"video": "a dog", "audio": "a bark", "transcript": "wow"}  # tokens of tiny models are letters, and few
SECONDS = 9 / 16
FUSION = "blocks.0.fusion.audio.to_out.0"  # what audio reads video by


def tiny_models() -> dict[str, JoVAPipeline]:
    """By what is special about them."""
    twins = {"pads_text_with_zeros": True}
    schedule = FlowMatchAudioVideoScheduler(shift=5.0, audio_shift=5.0)
    trained_with_an_image = {"fills_image_with_grey": True, "starts_white": True}
    mova = build_dual_tower(in_channels=36)
    return {
        "mova": build_tiny_pipeline(transformer=mova, scheduler=schedule, **twins, **trained_with_an_image),
        "white": build_tiny_pipeline(transformer=build_wan_transformer(), **twins, **trained_with_an_image),
        "skipping": build_tiny_pipeline(transformer=build_dual_tower(), negative_skip_layer=1, **twins),
        "one_way": build_tiny_pipeline(transformer=build_dual_tower(), one_way_coupling=True, **twins),
    }


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("comfyui")
    models = tiny_models()
    for name, pipeline in models.items():
        pipeline.save_pretrained(folder / "models" / "diffusers" / name)
    (folder / "models" / "loras").mkdir(parents=True)
    layer = models["one_way"].transformer.get_submodule(FUSION)
    torch.manual_seed(3)
    adapter = {"lora_A.weight": torch.randn(2, layer.in_features), "lora_B.weight": torch.randn(layer.out_features, 2)}
    adapter = {f"transformer.{FUSION}.{name}": tensor for name, tensor in adapter.items()}
    save_file(adapter, folder / "models" / "loras" / "fusion.safetensors")
    (folder / "input").mkdir()
    Image.fromarray(picture()).save(folder / "input" / "portrait.png")
    scipy.io.wavfile.write(folder / "input" / "whole.wav", 16000, voice(SECONDS))
    with started(folder) as running:
        yield running


def loaded(server: Server, name: str) -> JoVAPipeline:
    pipeline = JoVAPipeline.from_pretrained(server.folder / "models" / "diffusers" / name, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def worded(name: str) -> TalkingGraph:
    graph = TalkingGraph(name)
    graph[graph.positive[0]]["inputs"].update(WORDS)
    return graph


def compare(
    case: str, server: Server, graph: TalkingGraph, samples: Socket, adapter: str | None = None, **given: Any
) -> None:
    """Ask the pipeline for what a graph made, and hold both together."""
    pipeline = loaded(server, graph[graph.vae[0]]["inputs"]["model"])
    if adapter is not None:
        pipeline.load_lora_weights(str(server.folder / "models" / "loras" / adapter))
    graph.keep(samples, "parity")
    result = kept(server, server.run(graph), pipeline)
    starts = noise([list(result["video"].shape), list(result["audio"].transpose(1, 2).shape)])
    check_parity(case, result, pipeline, STEPS, **{**starts, "prompt": JoVAPrompt(**WORDS), **given})


def with_portrait(graph: TalkingGraph) -> dict[str, Socket]:
    image = [graph.add("LoadImage", image="portrait.png"), 0]
    sockets = {"positive": graph.positive, "negative": graph.negative, "vae": graph.vae, "latent": graph.latent}
    given = graph.add("JovaImageToVideo", **sockets, image=image, fit="cover")
    return {"positive": [given, 0], "negative": [given, 1]}


def with_portraits(graph: TalkingGraph, num_frames: int) -> None:
    image = [graph.add("LoadImage", image="portrait.png"), 0]
    images = [graph.add("RepeatImageBatch", image=image, amount=num_frames), 0]
    graph.latent = [graph.add("JovaSetVideo", latent=graph.latent, vae=graph.vae, images=images, fit="cover"), 0]


@pytest.mark.parametrize("name", ["mova", "white"])
def test_a_model_that_never_starts_without_a_frame_starts_on_a_white_one(server: Server, name: str) -> None:
    graph = worded(name)
    compare(f"white first frame, {name}", server, graph, graph.sample(STEPS))


@pytest.mark.parametrize("name", ["mova", "white"])
def test_grey_frames_follow_an_image_on_condition_channels(server: Server, name: str) -> None:
    graph = worded(name)
    samples = graph.sample(STEPS, **with_portrait(graph))
    compare(f"image, {name}", server, graph, samples, image=as_floats(picture()))


@pytest.mark.parametrize("name", ["mova", "white"])
def test_given_frames_bring_their_first_one(server: Server, name: str) -> None:
    graph = worded(name)
    first = with_portrait(graph) if name == "mova" else {}  # condition channels need it again, as the log says
    with_portraits(graph, 5)
    frames = as_floats(np.stack([picture()] * 5))
    compare(
        f"a video, continued, {name}",
        server,
        graph,
        graph.sample(STEPS, **first),
        video=frames,
        num_frames=9,
    )


@pytest.mark.parametrize("guider", [False, True])
def test_a_block_is_left_out_of_predictions_without_the_prompt(server: Server, guider: bool) -> None:
    graph = worded("skipping")
    samples = graph.guide(STEPS, cfg=1.5, coupling=2.0) if guider else graph.sample(STEPS)
    coupling = {"coupling_scale": 2.0} if guider else {}
    compare(
        "a skipped block, guider" if guider else "a skipped block",
        server,
        graph,
        samples,
        **coupling,
    )


@pytest.mark.parametrize("guider", [False, True])
@pytest.mark.parametrize("modality", ["video", "audio"])
def test_what_is_given_as_a_whole_reads_nothing(server: Server, modality: str, guider: bool) -> None:
    graph = worded("one_way")
    given: dict[str, Any] = {"video": as_floats(np.stack([picture()] * 9))}
    if modality == "video":
        with_portraits(graph, 9)
    else:
        given = {"audio": voice(SECONDS), "audio_sampling_rate": 16000, "num_frames": 9}
        audio = [graph.add("LoadAudio", audio="whole.wav"), 0]
        sockets = {"latent": graph.latent, "audio_vae": graph.audio_vae, "audio": audio}
        graph.latent = [graph.add("JovaSetAudio", **sockets), 0]
    coupling = {"coupling_scale": 2.0} if guider else {}
    samples = graph.guide(STEPS, cfg=1.5, coupling=2.0) if guider else graph.sample(STEPS)
    compare(
        f"one way, {modality} given, guider {guider}",
        server,
        graph,
        samples,
        **given,
        **coupling,
    )


def test_a_first_frame_of_a_clip_of_another_length_is_refused_where_grey_frames_follow(server: Server) -> None:
    graph = worded("mova")
    sampled, size = graph.latent, graph[graph.latent[0]]["inputs"]
    graph.latent = [graph.add("JovaEmptyLatent", **{**size, "length": 5}), 0]
    told = with_portrait(graph)
    graph.keep(graph.sample(1, latent_image=sampled, **told), "never")
    with pytest.raises(
        PromptError, match="must be that of a clip of 9 frames with 3 latents for this model, got 5 and 2; give"
    ):
        server.run(graph)


def single_file(server: Server, graph: TalkingGraph, name: str) -> None:
    """Put a transformer in one file in the place of the pipeline's own."""
    source = server.folder / "models" / "diffusers" / name / "transformer"
    file = server.folder / "models" / "diffusion_models" / f"{name}.safetensors"
    convert(["single_file", str(source), str(file)])
    loader = {"file": file.name, "pipeline": graph[graph.vae[0]]["inputs"]["model"], "dtype": "fp32"}
    graph.model = [graph.add("JovaDiffusionModelLoader", **loader), 0]


def test_a_transformer_in_one_file_keeps_the_settings_of_its_pipeline(server: Server) -> None:
    graph = worded("mova")
    single_file(server, graph, "mova")
    compare("white first frame, single file", server, graph, graph.sample(STEPS))


def test_a_transformer_in_one_file_without_the_block_to_leave_out_is_refused(server: Server) -> None:
    graph = worded("skipping")
    single_file(server, graph, "white")
    graph.keep(graph.sample(1), "never")
    with pytest.raises(PromptError, match="`negative_skip_layer` must be None for a JoVAWanTransformer3DModel"):
        server.run(graph)


def test_a_layer_that_couples_both_has_the_strength_of_both(server: Server) -> None:
    file, graph = "fusion.safetensors", worded("one_way")
    inputs = {"lora": file, "strength": 1.0, "audio_strength": 0.0, "skip_unknown": False}
    graph.model = [graph.add("JovaLoraLoader", model=graph.model, **inputs), 0]
    compare("adapter of a fusion layer", server, graph, graph.sample(STEPS), file)
