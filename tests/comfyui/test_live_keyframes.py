"""A real ComfyUI on the CPU gives pictures at frames of a clip as the pipeline does.

Runs where `test_live_server` does, with its measure.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from diffusers_jova import JoVAPipeline, JoVAPrompt, media
from tests.comfyui.graphs import SPEAKER, Graph, Socket, TalkingGraph
from tests.comfyui.live_server import PromptError, Server, started
from tests.comfyui.parity import check_parity, kept, noise
from tests.comfyui.test_live_server import as_floats, euler, picture
from tests.comfyui.test_live_settings import WORDS, loaded, tiny_models


STEPS = 2
KINDS = ("mova", "white", "skipping")  # channels with grey frames; clean latents with a white first frame, and without
CHANNELS = "jova-tiny"  # condition channels with a latent per picture
FRAMES: dict[str, tuple[int, ...]] = {"last": (-1,), "first and last": (0, -1), "three, the last first": (-1, 0, 4)}


def other_picture(index: int) -> np.ndarray:
    """A picture of its own for every frame."""
    return np.ascontiguousarray(np.rot90(picture(), index))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("comfyui")
    models = tiny_models()
    for name in KINDS:
        models[name].save_pretrained(folder / "models" / "diffusers" / name)
    (folder / "input").mkdir()
    for index in range(3):
        Image.fromarray(other_picture(index)).save(folder / "input" / f"picture{index}.png")
    with started(folder) as running:
        yield running


@pytest.fixture(scope="module")
def tiny() -> JoVAPipeline:
    pipeline = JoVAPipeline.from_pretrained(CHANNELS, dtype=torch.float32)
    pipeline.scheduler = euler(pipeline)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def with_pictures(graph: TalkingGraph, frames: tuple[int, ...]) -> None:
    """Chain a node per picture, in the given order; frame 0 is JoVA Image to Video."""
    for index, frame in enumerate(frames):
        image = [graph.add("LoadImage", image=f"picture{index}.png"), 0]
        sockets = {"positive": graph.positive, "negative": graph.negative, "vae": graph.vae, "latent": graph.latent}
        kind, place = ("JovaKeyframe", {"frame": frame}) if frame else ("JovaImageToVideo", {})
        node = graph.add(kind, **sockets, image=image, fit="cover", **place)
        graph.positive, graph.negative = [node, 0], [node, 1]


def arguments(frames: tuple[int, ...]) -> dict[str, Any]:
    """The same pictures for the pipeline."""
    pictures = {frame: as_floats(other_picture(index)) for index, frame in enumerate(frames)}
    first = pictures.pop(0, None)
    return {"image": first, "keyframes": pictures} if pictures else {"image": first}


def compare(
    case: str, server: Server, graph: TalkingGraph, samples: Socket, pipeline: JoVAPipeline, **given: Any
) -> None:
    """Ask the pipeline for what a graph made, and hold both together."""
    graph.keep(samples, "parity")
    result = kept(server, server.run(graph), pipeline)
    starts = noise([list(result["video"].shape), list(result["audio"].transpose(1, 2).shape)])
    check_parity(case, result, pipeline, STEPS, **{**starts, **given})


def worded(name: str, **size: Any) -> tuple[TalkingGraph, JoVAPrompt]:
    """A graph of a model in words that it reads."""
    graph = TalkingGraph(name, **size)
    words = SPEAKER if name == CHANNELS else WORDS
    graph[graph.positive[0]]["inputs"].update(words)
    return graph, JoVAPrompt(**words)


@pytest.mark.parametrize("case", FRAMES)
@pytest.mark.parametrize("name", [CHANNELS, *KINDS])
def test_pictures_at_frames_are_those_of_the_pipeline(
    server: Server, tiny: JoVAPipeline, name: str, case: str
) -> None:
    graph, prompt = worded(name)
    with_pictures(graph, FRAMES[case])
    pipeline = tiny if name == CHANNELS else loaded(server, name)
    given = {"prompt": prompt, **arguments(FRAMES[case])}
    compare(f"keyframes, {case}, {name}", server, graph, graph.sample(STEPS), pipeline, **given)


@pytest.mark.parametrize("name", [CHANNELS, "skipping"])
def test_the_guider_leaves_given_pictures_as_they_are(server: Server, tiny: JoVAPipeline, name: str) -> None:
    graph, prompt = worded(name)
    with_pictures(graph, (0, -1))
    pipeline = tiny if name == CHANNELS else loaded(server, name)
    for said, widgets, guidance in (
        ("guider", {"apg": "on", "apg_threshold": 5.0}, {"apg_threshold": 5.0, "audio_apg_threshold": 0.0}),
        ("guider with CFG-Zero*", {"cfg_zero_star": "on"}, {"cfg_zero_star": True}),
    ):
        samples = graph.guide(STEPS, cfg=1.5, rescale=0.5, **widgets)
        given = {"prompt": prompt, **arguments((0, -1)), "guidance_rescale": 0.5, **guidance}
        compare(f"keyframes, {said}, {name}", server, graph, samples, pipeline, **given)


@pytest.mark.parametrize("name", [CHANNELS, "skipping"])
def test_a_picture_stands_behind_given_frames(server: Server, tiny: JoVAPipeline, name: str) -> None:
    graph, prompt = worded(name, length=13)
    image = [graph.add("LoadImage", image="picture2.png"), 0]
    images = [graph.add("RepeatImageBatch", image=image, amount=5), 0]
    graph.latent = [graph.add("JovaSetVideo", latent=graph.latent, vae=graph.vae, images=images, fit="cover"), 0]
    with_pictures(graph, (-1,))
    pipeline = tiny if name == CHANNELS else loaded(server, name)
    frames = as_floats(np.stack([other_picture(2)] * 5))
    given = {"prompt": prompt, **arguments((-1,)), "video": frames, "num_frames": 13}
    compare(f"keyframes, behind a video, {name}", server, graph, graph.sample(STEPS), pipeline, **given)


def test_a_batch_has_a_picture_per_clip(server: Server) -> None:
    graph, prompt = worded("skipping", batch_size=2)
    batch = {f"image{index + 1}": [graph.add("LoadImage", image=f"picture{2 * index}.png"), 0] for index in range(2)}
    both = [graph.add("ImageBatch", **batch), 0]
    sockets = {"positive": graph.positive, "negative": graph.negative, "vae": graph.vae, "latent": graph.latent}
    node = graph.add("JovaKeyframe", **sockets, image=both, frame=-1, fit="cover")
    samples = graph.sample(STEPS, positive=[node, 0], negative=[node, 1])
    pictures = as_floats(np.stack([other_picture(0), other_picture(2)]))
    given = {"prompt": [prompt, prompt], "negative_prompt": ["", ""], "last_image": pictures}
    compare("keyframes, a picture per clip", server, graph, samples, loaded(server, "skipping"), **given)


def among_white(given_size: int, sampled_size: int) -> TalkingGraph:
    """A last frame of latents of one batch size, sampled with another, on a model that adds a white first frame."""
    graph, _ = worded("white", batch_size=given_size)
    with_pictures(graph, (-1,))
    widgets = {**graph[graph.latent[0]]["inputs"], "batch_size": sampled_size}
    graph.keep(graph.sample(1, latent_image=[graph.add("JovaEmptyLatent", **widgets), 0]), "white")
    return graph


def test_a_white_first_frame_stands_beside_one_picture_for_all_clips(server: Server) -> None:
    assert server.run(among_white(1, 2))


def test_a_white_first_frame_does_not_hide_that_pictures_are_of_another_batch(server: Server) -> None:
    with pytest.raises(PromptError) as caught:
        server.run(among_white(2, 1))
    said = caught.value.details["exception_message"]
    assert "`image` must be one for all clips that are sampled or one per clip, got 2 for 1; give JoVA Image" in said


def test_the_one_node_takes_a_last_frame(server: Server) -> None:
    """Its clip is that of the nodes."""
    graph, _ = worded(CHANNELS)
    with_pictures(graph, (0, -1))
    graph.save(graph.guide(STEPS, cfg=1.5, audio_cfg=1.5), "nodes")
    whole = Graph()
    pictures = {
        name: [whole.add("LoadImage", image=f"picture{index}.png"), 0]
        for index, name in enumerate(("image", "last_image"))
    }
    widgets = {"model": CHANNELS, **SPEAKER, "width": 0, "height": 0, "length": 0, "frame_rate": 0.0, "seed": 5}
    widgets |= {"negative": " ", "steps": STEPS, "cfg": 1.5, "audio_cfg": 1.5, "sampler": "euler", "dtype": "fp32"}
    node = whole.add("JovaGenerate", **widgets, fit="cover", **pictures)
    whole.add("SaveVideo", video=[node, 0], filename_prefix="one", format="auto", codec="auto")
    clips = [media.read_video(server.files(server.run(made))[0]) for made in (graph, whole)]
    frames = [clip.frames.astype(int) for clip in clips]
    assert frames[0].shape == frames[1].shape
    assert np.abs(frames[0] - frames[1]).max() <= 1  # the same latents, but for the order of sums
