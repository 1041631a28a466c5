"""What does not belong together, and files that are none: one sentence tells what is wrong and what to do.

Parts of two models, pictures and keyframes that exclude each other, damaged voices, adapters and pipelines. Runs where
`test_live_server` does.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.comfyui.graphs import Graph, Socket, TalkingGraph
from tests.comfyui.live_server import Server
from tests.comfyui.right_graphs import (
    MAKES_A_CLIP,
    NODES,
    SMALL,
    WORDS,
    answer,
    portrait,
    shown,
    started_with_strangers,
    texts,
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with started_with_strangers(tmp_path_factory.mktemp("comfyui")) as running:
        yield running


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
