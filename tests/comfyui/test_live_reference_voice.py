"""A real ComfyUI on the CPU speaks with the voice of a recording as the pipeline does, and walks UniAVGen's schedule.

Runs where `test_live_server` does, with its measure.
"""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import scipy.io.wavfile
import torch
from PIL import Image

from diffusers_jova import FlowMatchAudioVideoScheduler, JoVAPipeline, JoVAPrompt, media
from diffusers_jova.media_reading import Sound
from tests.comfyui.graphs import Graph, Socket, TalkingGraph
from tests.comfyui.live_server import PromptError, Server, started
from tests.comfyui.parity import check_parity, kept, noise
from tests.comfyui.test_live_server import as_floats, picture, voice
from tests.tiny_pipeline import build_dual_tower, build_spoken_pipeline, build_tiny_pipeline


STEPS = 3
WORDS = {"video": "a dog", "audio": "", "transcript": "wow"}
SAYS = "Hi."  # the recording
VOICE_S, VOICE_HZ = 0.5, 16000
UNIAVGEN = {"scheduler": FlowMatchAudioVideoScheduler(shift=5.0, audio_shift=5.0, last_sigma=0.001)}


def models() -> dict[str, JoVAPipeline]:
    """Whose sound reads transcripts, on an even schedule and on UniAVGen's, and reads the prompt of the picture."""
    aligned = {"transformer": build_dual_tower("aligned"), "max_reference_s": 5.0, "pads_text_with_zeros": True}
    return {
        "spoken": build_spoken_pipeline(),
        "uniavgen": build_spoken_pipeline(**UNIAVGEN),
        "aligned": build_tiny_pipeline(**aligned, one_way_coupling=True),
        "bridge": build_tiny_pipeline(transformer=build_dual_tower(), pads_text_with_zeros=True),
    }


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("comfyui")
    for name, pipeline in models().items():
        pipeline.save_pretrained(folder / "models" / "diffusers" / name)
    (folder / "input").mkdir()
    Image.fromarray(picture()).save(folder / "input" / "portrait.png")
    scipy.io.wavfile.write(folder / "input" / "voice.wav", VOICE_HZ, voice(VOICE_S))
    scipy.io.wavfile.write(folder / "input" / "long.wav", VOICE_HZ, voice(6.0))
    scipy.io.wavfile.write(folder / "input" / "silence.wav", VOICE_HZ, np.zeros(VOICE_HZ, np.int16))
    with started(folder) as running:
        yield running


def loaded(server: Server, name: str) -> JoVAPipeline:
    pipeline = JoVAPipeline.from_pretrained(server.folder / "models" / "diffusers" / name, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def worded(name: str, **size: Any) -> TalkingGraph:
    """A graph of a model in words that it reads, with a first frame."""
    graph = TalkingGraph(name, **size)
    graph[graph.positive[0]]["inputs"].update(WORDS)
    image = [graph.add("LoadImage", image="portrait.png"), 0]
    sockets = {"positive": graph.positive, "negative": graph.negative, "vae": graph.vae, "latent": graph.latent}
    given = graph.add("JovaImageToVideo", **sockets, image=image, fit="cover")
    graph.positive, graph.negative = [given, 0], [given, 1]
    return graph


def speak(graph: TalkingGraph, file: str = "voice.wav", says: str = SAYS, **sockets: Socket) -> None:
    """Let the speaker have the voice of a recording."""
    given = {"positive": graph.positive, "negative": graph.negative, "clip": graph.clip, "audio_vae": graph.audio_vae}
    given |= {"reference_audio": [graph.add("LoadAudio", audio=file), 0], "reference_transcript": says}
    node = graph.add("JovaReferenceVoice", **{**given, **sockets})
    graph.positive, graph.negative = [node, 0], [node, 1]


def recording(says: str | None = SAYS) -> dict[str, Any]:
    """The same for the pipeline."""
    return {"reference_audio": Sound(voice(VOICE_S)[None], VOICE_HZ), "reference_transcript": says}


def compare(case: str, server: Server, graph: TalkingGraph, samples: Socket, **given: Any) -> None:
    """Ask the pipeline for what a graph made, and hold both together."""
    pipeline = loaded(server, graph[graph.vae[0]]["inputs"]["model"])
    graph.keep(samples, "parity")
    result = kept(server, server.run(graph), pipeline)
    starts = noise([list(result["video"].shape), list(result["audio"].transpose(1, 2).shape)])
    told = {"prompt": JoVAPrompt(**WORDS), "image": as_floats(picture())}
    check_parity(case, result, pipeline, STEPS, **{**starts, **told, **given})


def own_steps(graph: TalkingGraph, samples: Socket) -> Socket:
    """The steps of JoVA Scheduler in a graph with SamplerCustomAdvanced."""
    graph[samples[0]]["inputs"]["sigmas"] = [graph.add("JovaScheduler", model=graph.model, steps=STEPS), 0]
    return samples


def test_a_sound_reads_what_is_said_and_nothing_else(server: Server) -> None:
    graph = worded("spoken")
    compare("transcripts", server, graph, graph.sample(STEPS))


@pytest.mark.parametrize("name", ["spoken", "aligned"])
def test_the_voice_of_a_recording_is_read_in_front_of_the_clip(server: Server, name: str) -> None:
    graph, says = worded(name), SAYS if name == "spoken" else None
    speak(graph, says=says or "")
    compare(f"reference voice, {name}", server, graph, graph.sample(STEPS), **recording(says))


def test_one_voice_is_that_of_all_clips(server: Server) -> None:
    graph = worded("spoken", batch_size=2)
    speak(graph)
    compare("reference voice, two clips", server, graph, graph.sample(STEPS), num_videos_per_prompt=2, **recording())


def test_the_guider_guides_a_voice_by_the_coupling(server: Server) -> None:
    graph = worded("spoken")
    speak(graph)
    samples = graph.guide(STEPS, cfg=1.5, audio_cfg=2.0, coupling=2.0)
    scales = {"audio_guidance_scale": 2.0, "coupling_scale": 2.0}
    compare("reference voice, guider with coupling", server, graph, samples, **recording(), **scales)


def test_a_sound_that_is_given_reads_no_voice(server: Server) -> None:
    graph, seconds = worded("spoken"), 9 / 16
    scipy.io.wavfile.write(server.folder / "input" / "whole.wav", VOICE_HZ, voice(seconds))
    audio = [graph.add("LoadAudio", audio="whole.wav"), 0]
    graph.latent = [graph.add("JovaSetAudio", latent=graph.latent, audio_vae=graph.audio_vae, audio=audio), 0]
    speak(graph)
    given = {"audio": voice(seconds), "audio_sampling_rate": VOICE_HZ, "num_frames": 9}
    compare("a given sound beside a voice", server, graph, graph.sample(STEPS), **given, **recording())


def test_the_own_steps_of_a_model_end_where_it_was_made_to_end(server: Server) -> None:
    graph = worded("uniavgen")
    speak(graph)
    compare("UniAVGen's steps", server, graph, own_steps(graph, graph.guide(STEPS, cfg=1.5)), **recording())


def test_other_steps_are_walked_with_a_line_about_it(server: Server) -> None:
    graph = worded("uniavgen")
    graph.keep(graph.sample(STEPS), "other")
    server.run(graph)
    said = r"the last step begins at a noise level of 0\.7143, where this model's own begins at 0\.004"
    assert re.search(said, server.log.read_text())


def test_the_one_node_speaks_with_a_voice(server: Server) -> None:
    """Its clip is that of the nodes."""
    graph = worded("uniavgen")
    speak(graph)
    nodes = own_steps(graph, graph.guide(STEPS, cfg=1.5, audio_cfg=1.5))
    graph.save(nodes, "nodes")
    whole = Graph()
    widgets = {"model": "uniavgen", **WORDS, "width": 0, "height": 0, "length": 0, "frame_rate": 0.0, "seed": 5}
    widgets |= {"negative": "", "steps": STEPS, "cfg": 1.5, "audio_cfg": 1.5, "sampler": "euler", "dtype": "fp32"}
    sockets = {
        "image": [whole.add("LoadImage", image="portrait.png"), 0],
        "reference_audio": [whole.add("LoadAudio", audio="voice.wav"), 0],
    }
    node = whole.add("JovaGenerate", **widgets, fit="cover", **sockets, reference_transcript=SAYS)
    whole.add("SaveVideo", video=[node, 0], filename_prefix="one", format="auto", codec="auto")
    clips = [media.read_video(server.files(server.run(made))[0]) for made in (graph, whole)]
    frames = [clip.frames.astype(int) for clip in clips]
    assert frames[0].shape == frames[1].shape
    assert np.abs(frames[0] - frames[1]).max() <= 1  # the same latents, but for the order of sums


def refused(name: str, **changed: Any) -> TalkingGraph:
    """A graph with a voice about which something is wrong."""
    graph = worded(name)
    speak(graph, **changed)
    graph.keep(graph.sample(1), "never")
    return graph


def without_first_frame() -> TalkingGraph:
    graph = TalkingGraph("spoken")
    graph[graph.positive[0]]["inputs"].update(WORDS)
    graph.keep(graph.sample(1), "never")
    return graph


def of_positive_alone() -> TalkingGraph:
    graph = worded("spoken")
    negative = graph.negative
    speak(graph)
    graph.keep(graph.sample(1, negative=negative), "never")
    return graph


def of_another_model() -> TalkingGraph:
    """A voice for a model of the same latents that reads none."""
    graph = worded("aligned")
    speak(graph, says="")
    other = graph.add("JovaLoader", model="bridge", dtype="fp32")
    graph.keep(graph.sample(1, model=[other, 0]), "never")
    return graph


def text_of_another_model() -> TalkingGraph:
    graph = worded("spoken")
    other = graph.add("JovaLoader", model="bridge", dtype="fp32")
    text = [graph.add("JovaPrompt", clip=[other, 1], **WORDS), 0]
    speak(graph, positive=text)
    graph.keep(graph.sample(1), "never")
    return graph


def unsayable_negative() -> TalkingGraph:
    graph = worded("spoken")
    negative = [graph.add("JovaNegativePrompt", clip=graph.clip, text="", audio="a + b"), 0]
    graph.keep(graph.sample(1, negative=negative), "never")
    return graph


def beside_given_frames() -> TalkingGraph:
    graph = worded("spoken")
    image = [graph.add("LoadImage", image="portrait.png"), 0]
    images = [graph.add("RepeatImageBatch", image=image, amount=5), 0]
    given = graph.add("JovaSetVideo", latent=graph.latent, vae=graph.vae, images=images, fit="cover")
    graph.keep(graph.sample(1, latent_image=[given, 0]), "never")
    return graph


REFUSED = {
    "no voice that is read": (
        lambda: refused("bridge", says=""),
        "`reference_audio` must be None for a model that reads no reference voice",
    ),
    "too long a voice": (
        lambda: refused("spoken", file="long.wav"),
        r"`reference_audio` must last at most 5 s beside a clip of this model, got 6\.000 s; cut it",
    ),
    "silence": (lambda: refused("spoken", file="silence.wav"), "`reference_audio` must hold a voice, got silence in"),
    "a voice that says nothing": (
        lambda: refused("spoken", says=" "),
        "`reference_transcript` must be what `reference_audio` says, which this model reads with it, got None; write",
    ),
    "words for a model that reads none": (
        lambda: refused("aligned"),
        "`reference_transcript` must be None for a model without `spoken_text_encoder`, got 'Hi\\.'; leave it out",
    ),
    "words that cannot be said": (
        lambda: refused("spoken", says="a + b"),
        r"`reference_transcript` must be of characters that the model can say, got '\+'; write it in other words",
    ),
    "no first frame": (without_first_frame, "`positive` must bring a first frame for this model, .*got none; connect"),
    "a voice in one prompt alone": (
        of_positive_alone,
        "`positive` and `negative` must bring the same reference voice, got unlike ones; connect both to one JoVA",
    ),
    "a voice for another model": (
        of_another_model,
        "`(positive|negative)` must bring a reference voice of this model, or none, got one of another; take JoVA Ref",
    ),
    "negative words that cannot be said": (
        unsayable_negative,
        r"`audio` must be of characters that the model can say, got '\+'; write it in other words",
    ),
    "a text of another model": (
        text_of_another_model,
        "`positive` and `negative` must be encoded by the text encoders of this model, whose sound reads what is said",
    ),
    "a first frame beside given frames": (beside_given_frames, "`image` must be left out beside given frames in Comf"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_refused_in_one_sentence(server: Server, case: str) -> None:
    build, message = REFUSED[case]
    with pytest.raises(PromptError) as caught:
        server.run(build())
    said = caught.value.details["exception_message"].strip()
    print(f"## {case}: {said}")
    assert re.match(message, said) is not None, said
    assert "\n" not in said
