"""The shipped workflows run on a real ComfyUI as they are; where one names files to choose, untrained ones lie there.

`make comfyui-test` runs these, see test_live_server.py.
"""

from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from diffusers_jova import media
from diffusers_jova.provenance import SOURCE_TYPES, read_provenance
from tests.comfyui.example_workflows import CORE, NORMAL, difference, names, read, to_prompt
from tests.comfyui.graphs import TalkingGraph
from tests.comfyui.live_server import Server, started
from tests.tiny_pipeline import NAVA_SHARING, build_tiny_pipeline, build_wan_transformer


LAYER = "diffusion_model.transformer_blocks.0.attn.video.to_q"  # of jova-tiny, 192 x 192
FRAMES = {"continuation": 49, "nava": 9}  # the others: a clip of jova-tiny
RATE = 16


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("workflows")
    voiced = build_wan_transformer(**NAVA_SHARING)
    nava = build_tiny_pipeline(transformer=voiced, pads_text_with_zeros=True, speaker_token="~")
    nava.save_pretrained(folder / "models" / "diffusers" / "nava")
    pair = {f"{LAYER}.lora_A.weight": torch.randn(4, 192) / 8, f"{LAYER}.lora_B.weight": torch.zeros(192, 4)}
    (folder / "models" / "loras").mkdir(parents=True)
    save_file(pair, folder / "models" / "loras" / "avatar.safetensors")
    (folder / "input").mkdir()
    np.save(folder / "input" / "voice.npy", np.ones((1, 5), np.float32))
    with started(folder) as running:
        yield running


def test_core_nodes_are_as_the_default_suite_believes(server: Server) -> None:
    info = server.get("/object_info")
    assert not {name: found for name, expected in CORE.items() if (found := difference(expected, info[name]))}


def test_the_workflows_are_listed_under_templates(server: Server) -> None:
    assert sorted(server.get("/workflow_templates")["jova"]) == names()


@pytest.mark.parametrize("name", names())
def test_a_workflow_runs_as_it_is(server: Server, name: str) -> None:
    result = server.run(to_prompt(read(name)))
    (path,) = [path for path in server.files(result) if path.suffix == ".mp4"]
    clip = media.read_video(path)
    assert len(clip.frames) == FRAMES.get(name, 33)
    assert clip.frame_rate == RATE
    assert clip.audio is not None
    assert np.abs(clip.audio).max() > 0.01
    assert abs(clip.audio.shape[1] / clip.sampling_rate - len(clip.frames) / RATE) < 0.1  # whole frames of AAC


def test_the_voice_of_nava_can_be_switched_on(server: Server) -> None:
    workflow = read("nava")
    (node,) = (node for node in workflow["nodes"] if node["type"] == "JovaVoices")
    node["mode"] = NORMAL
    prompt = to_prompt(workflow)
    assert "JovaVoices" in {node["class_type"] for node in prompt.values()}
    assert server.files(server.run(prompt))


@pytest.mark.parametrize(("container", "codec"), [("mkv", "h264"), ("webm", "av1")])
def test_another_container_and_quality_keep_rate_sound_and_record(server: Server, container: str, codec: str) -> None:
    kind, *options = server.get("/object_info/SaveVideo")["SaveVideo"]["input"]["required"]["format"]
    if kind != "COMFY_DYNAMICCOMBO_V3" or container not in [option["key"] for option in options[0]["options"]]:
        pytest.skip(f"this ComfyUI saves no {container}")
    graph = TalkingGraph(frame_rate=23.976, length=9)
    clock = graph.add("JovaConditioning", positive=graph.positive, negative=graph.negative, latent=graph.latent)
    graph.save(graph.sample(1, positive=[clock, 0], negative=[clock, 1]), container)
    (saver,) = (node["inputs"] for node in graph.values() if node["class_type"] == "SaveVideo")
    del saver["codec"]
    saver |= {"format": container, "format.codec": codec, "format.codec.encoding": "re-encode"}
    saver |= {"format.codec.encoding.crf": 10.0, "format.codec.encoding.color_space": "auto"}
    (file,) = server.files(server.run(graph))
    assert file.suffix == f".{container}"
    with av.open(str(file)) as opened:
        assert opened.streams.video[0].codec.canonical_name == codec
    clip = media.read_video(file)
    assert clip.frame_rate == Fraction(24000, 1001)
    assert len(clip.frames) == 9
    assert clip.audio is not None
    assert abs(clip.audio.shape[1] / clip.sampling_rate - 9 / 23.976) < 0.07  # a frame of AAC at 16 kHz
    assert read_provenance(file)["digital_source_type"] == SOURCE_TYPES["trainedAlgorithmicMedia"]
