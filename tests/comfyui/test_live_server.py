"""A real ComfyUI on the CPU does what the pipeline does, at the same noise.

`make comfyui-test` runs these where `COMFYUI_PATH` names a checkout of ComfyUI; comfyui/README.md tells how to set one
up. Errors are relative, of the final latents; the measured ones stand in that page.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io.wavfile
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffusers_jova import FlowMatchAudioVideoScheduler, JoVAPipeline, JoVAPrompt, media
from diffusers_jova.conversion.convert import main as convert
from diffusers_jova.provenance import SOURCE_TYPES, read_provenance
from jova_cli.shipped import model_folder
from tests.comfyui.graphs import SPEAKER, Graph, TalkingGraph
from tests.comfyui.live_server import PromptError, Server, started
from tests.comfyui.parity import (
    LARGEST_ERROR,
    SEED,
    STEPS,
    TINY,
    ask,
    check_parity,
    check_round_off,
    kept,
    noise,
    relative_error,
    run_graph,
)
from tests.places import ROOT
from tests.tiny_pipeline import NAVA_SHARING, build_tiny_pipeline, build_wan_transformer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("comfyui")
    for name, pipeline in tiny_models().items():
        pipeline.save_pretrained(folder / "models" / "diffusers" / name)
    for name, content in loras().items():
        (folder / "models" / "loras").mkdir(parents=True, exist_ok=True)
        save_file({key: t.clone() for key, t in content.items()}, folder / "models" / "loras" / f"{name}.safetensors")
    write_inputs(folder / "input")
    with started(folder) as running:
        yield running


def euler(pipeline: JoVAPipeline) -> FlowMatchAudioVideoScheduler:
    """Its scheduler with the solver that is the same in core; core's `uni_pc` is another one."""
    return FlowMatchAudioVideoScheduler.from_config(pipeline.scheduler.config, solver="euler")


@pytest.fixture(scope="module")
def pipeline() -> JoVAPipeline:
    loaded = JoVAPipeline.from_pretrained("jova-tiny", dtype=torch.float32)
    loaded.scheduler = euler(loaded)
    loaded.set_progress_bar_config(disable=True)
    return loaded


# --- what goes in ---


def tiny_models() -> dict[str, JoVAPipeline]:
    """Other transformers of the package: two towers, and shared blocks that read voices."""
    voiced = build_wan_transformer(**NAVA_SHARING)
    return {
        "towers": build_tiny_pipeline(transformer=build_wan_transformer(), pads_text_with_zeros=True),
        "voices": build_tiny_pipeline(transformer=voiced, pads_text_with_zeros=True, speaker_token="~"),
    }


MODULES = {  # of jova-tiny: inputs and outputs
    "transformer_blocks.0.attn.video.to_q": (192, 192),
    "transformer_blocks.1.attn.audio_text.to_v": (192, 192),
    "single_transformer_blocks.2.attn.audio.to_out.0": (192, 192),
    "single_transformer_blocks.3.ff.video.net.0.proj": (192, 768),
}


def loras(modules: dict[str, tuple[int, int]] = MODULES) -> dict[str, dict[str, Tensor]]:
    """One random change of some layers in every layout, and changes of every other kind."""
    torch.manual_seed(7)
    pairs = {name: (torch.randn(4, i) / 8, torch.randn(o, 4) / 8) for name, (i, o) in modules.items()}
    alpha = torch.tensor(2.0)

    def each(write: Callable[[str, Tensor, Tensor], dict[str, Tensor]]) -> dict[str, Tensor]:
        return {key: t.clone() for name, (a, b) in pairs.items() for key, t in write(name, a, b).items()}

    def plain(prefix: str, down: str, up: str) -> dict[str, Tensor]:
        return each(lambda n, a, b: {f"{prefix}{n}.{down}": a, f"{prefix}{n}.{up}": b, f"{prefix}{n}.alpha": alpha})

    kohya = each(
        lambda n, a, b: {
            f"lora_unet_{n.replace('.', '_')}.{part}": tensor
            for part, tensor in (("lora_down.weight", a), ("lora_up.weight", b), ("alpha", alpha))
        }
    )
    comfy = plain("diffusion_model.", "lora_down.weight", "lora_up.weight")
    magnitudes = {f"diffusion_model.{n}.dora_scale": torch.rand(o, 1) + 0.5 for n, (_, o) in modules.items()}
    ranks = {n: (torch.randn(o, 3) / 3, torch.randn(3, i) / 3) for n, (i, o) in modules.items()}
    return {
        "comfy": comfy,
        "diffusers": plain("transformer.", "lora_A.weight", "lora_B.weight"),
        "peft": plain("base_model.model.", "lora_A.weight", "lora_B.weight"),
        "diffsynth": plain("", "lora_A.default.weight", "lora_B.default.weight"),
        "kohya": kohya,
        "dora": {**comfy, **magnitudes},
        "biased": {
            **comfy,
            **{f"diffusion_model.{n}.lora_B.bias": torch.randn(o) / 8 for n, (_, o) in modules.items()},
        },
        "loha": each(
            lambda n, a, b: {
                f"diffusion_model.{n}.hada_w1_a": b,
                f"diffusion_model.{n}.hada_w1_b": a,
                f"diffusion_model.{n}.hada_w2_a": ranks[n][0],
                f"diffusion_model.{n}.hada_w2_b": ranks[n][1],
                f"diffusion_model.{n}.alpha": alpha,
            }
        ),
        "lokr": each(
            lambda n, a, b: {
                f"diffusion_model.{n}.lokr_w1": torch.randn(4, 4, generator=torch.Generator().manual_seed(3)) / 8,
                f"diffusion_model.{n}.lokr_w2": b[: len(b) // 4] @ a[:, : a.shape[1] // 4],
                f"diffusion_model.{n}.alpha": alpha,
            }
        ),
        "differences": each(
            lambda n, a, b: {f"diffusion_model.{n}.diff": b @ a / 4, f"diffusion_model.{n}.diff_b": b[:, 0] / 4}
        ),
        "stranger": {"diffusion_model.nowhere.to_q.lora_A.weight": torch.ones(1, 4)}
        | {"diffusion_model.nowhere.to_q.lora_B.weight": torch.ones(4, 1)},
    }


def picture() -> np.ndarray:
    """A portrait of another shape than the clip's."""
    return np.random.default_rng(0).integers(0, 255, (80, 96, 3), np.uint8)


def as_floats(pictures: np.ndarray) -> np.ndarray:
    """Pictures as an IMAGE socket carries them: pictures of 8 bits are rounded to 8 bits where they are resized."""
    return pictures.astype(np.float32) / 255


def voice(duration_s: float) -> np.ndarray:
    """A sound that sweeps, int16 at 16 kHz."""
    times = np.arange(round(duration_s * 16000)) / 16000
    return (8000 * np.sin(2 * np.pi * (200 + 150 * times) * times)).astype(np.int16)


def write_inputs(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture()).save(folder / "portrait.png")
    scipy.io.wavfile.write(folder / "whole.wav", 16000, voice(33 / 16))
    scipy.io.wavfile.write(folder / "start.wav", 16000, voice(1.0))
    np.save(folder / "voices.npy", np.random.default_rng(1).standard_normal((1, 5)).astype(np.float32))


# --- parity ---


def test_ksampler_gives_the_clip_of_the_pipeline(server: Server, pipeline: JoVAPipeline) -> None:
    graph = TalkingGraph()
    check_parity("text", run_graph(server, graph, graph.sample(STEPS), pipeline), pipeline)


def test_another_number_of_steps_takes_exact_levels_too(server: Server, pipeline: JoVAPipeline) -> None:
    graph = TalkingGraph()
    check_parity("24 steps", run_graph(server, graph, graph.sample(24), pipeline), pipeline, 24)


def test_a_batch_of_two_prompts_of_unequal_length_and_the_largest_seed(server: Server, pipeline: JoVAPipeline) -> None:
    graph, seed = TalkingGraph(batch_size=2, negative="a dog"), 2**64 - 1
    result = run_graph(server, graph, graph.sample(STEPS, seed), pipeline)
    starts = noise([[2, *shape[1:]] for shape in TINY], seed)
    given = {"negative_prompt": "a dog", "num_videos_per_prompt": 2}
    check_parity("batch of two, seed 2**64 - 1", result, pipeline, **given, **starts)


@pytest.mark.parametrize("clock", ["JovaConditioning", "LTXVConditioning"])
def test_another_frame_rate_reaches_the_model(server: Server, pipeline: JoVAPipeline, clock: str) -> None:
    graph = TalkingGraph(frame_rate=24.0)
    source = {"latent": graph.latent} if clock == "JovaConditioning" else {"frame_rate": 24.0}
    told = graph.add(clock, positive=graph.positive, negative=graph.negative, **source)
    result = run_graph(server, graph, graph.sample(2, positive=[told, 0], negative=[told, 1]), pipeline)
    starts = noise([TINY[0], [1, 20, 43]])
    check_parity(f"24 frames per second by {clock}", result, pipeline, 2, frame_rate=24.0, **starts)


def test_a_video_latent_alone_is_sampled_without_sound(server: Server, pipeline: JoVAPipeline) -> None:
    graph = TalkingGraph()
    alone = [graph.add("LTXVSeparateAVLatent", av_latent=graph.latent), 0]
    samples = graph.sample(2, latent_image=alone)
    graph.add("SaveLatent", samples=samples, filename_prefix="alone_video")
    (file,) = server.files(server.run(graph))
    video = pipeline.video_codec.normalize(load_file(file)["latent_tensor"])
    check_parity("video alone", {"video": video}, pipeline, 2, modalities=["video"], audio_latents=None)


def test_an_image_is_the_first_frame(server: Server, pipeline: JoVAPipeline) -> None:
    graph = TalkingGraph()
    image = [graph.add("LoadImage", image="portrait.png"), 0]
    sockets = {"positive": graph.positive, "negative": graph.negative, "vae": graph.vae, "latent": graph.latent}
    given = graph.add("JovaImageToVideo", **sockets, image=image, fit="cover")
    samples = graph.sample(STEPS, positive=[given, 0], negative=[given, 1])
    check_parity("image", run_graph(server, graph, samples, pipeline), pipeline, image=as_floats(picture()))


@pytest.mark.parametrize(
    ("case", "name", "duration_s"), [("own voice", "whole", 33 / 16), ("own voice, continued", "start", 1.0)]
)
def test_an_own_voice_drives_the_picture(
    server: Server, pipeline: JoVAPipeline, case: str, name: str, duration_s: float
) -> None:
    graph = TalkingGraph()
    audio = [graph.add("LoadAudio", audio=f"{name}.wav"), 0]
    given = graph.add("JovaSetAudio", latent=graph.latent, audio_vae=graph.audio_vae, audio=audio)
    result = run_graph(server, graph, graph.sample(STEPS, latent_image=[given, 0]), pipeline)
    sound = {"audio": voice(duration_s), "audio_sampling_rate": 16000, "num_frames": 33}
    check_parity(case, result, pipeline, **sound)


@pytest.mark.parametrize(("case", "length"), [("sound for a video", 1), ("a video, continued", 5)])
def test_given_frames_get_a_sound_and_go_on(server: Server, pipeline: JoVAPipeline, case: str, length: int) -> None:
    num_given = 33 if length == 1 else 17
    graph = TalkingGraph()
    image = [graph.add("LoadImage", image="portrait.png"), 0]
    images = [graph.add("RepeatImageBatch", image=image, amount=num_given), 0]
    given = graph.add("JovaSetVideo", latent=graph.latent, vae=graph.vae, images=images, fit="cover")
    result = run_graph(server, graph, graph.sample(STEPS, latent_image=[given, 0]), pipeline)
    frames = as_floats(np.stack([picture()] * num_given))
    arguments = {"video": frames, "num_frames": 33}
    check_round_off(case, result, pipeline, **arguments)


def test_a_sound_for_a_video_is_guided_by_the_coupling(server: Server, pipeline: JoVAPipeline) -> None:
    """The sound without the picture is asked of the model without it."""
    graph = TalkingGraph()
    image = [graph.add("LoadImage", image="portrait.png"), 0]
    images = [graph.add("RepeatImageBatch", image=image, amount=33), 0]
    graph.latent = [graph.add("JovaSetVideo", latent=graph.latent, vae=graph.vae, images=images, fit="cover"), 0]
    result = run_graph(server, graph, graph.guide(STEPS, cfg=1.5, coupling=2.0), pipeline)
    frames = as_floats(np.stack([picture()] * 33))
    given = {"video": frames, "num_frames": 33, "coupling_scale": 2.0}
    check_round_off("a guided sound for a video", result, pipeline, **given)


GUIDERS = {
    "guider, picture 1.5 and sound 3": ({"cfg": 1.5, "audio_cfg": 3.0}, {"audio_guidance_scale": 3.0}),
    "guider, coupling on half of the steps": (
        {"cfg": 1.5, "coupling": 1.7, "audio_coupling": 2.0, "coupling_end": 0.5},
        {"coupling_scale": 1.7, "audio_coupling_scale": 2.0, "coupling_interval": (0.0, 0.5)},
    ),
    "guider, text kept": (
        {"cfg": 1.5, "coupling": 1.7, "uncoupled_text": "kept", "start": 0.25},
        {"coupling_scale": 1.7, "uncoupled_text": "kept", "guidance_interval": (0.25, 1.0)},
    ),
    "guider, APG and rescaling": (
        {"cfg": 1.5, "apg": "on", "apg_threshold": 5.0, "audio_apg_threshold": 2.0, "rescale": 0.5},
        {"apg_threshold": 5.0, "audio_apg_threshold": 2.0, "guidance_rescale": 0.5},
    ),
    "guider, CFG-Zero*": (
        {"cfg": 1.5, "audio_cfg": 3.0, "cfg_zero_star": "on", "zero_init_steps": 1},
        {"audio_guidance_scale": 3.0, "cfg_zero_star": True, "zero_init_steps": 1},
    ),
    "guider, the model's own values": ({}, {"guidance_scale": None}),
}


@pytest.mark.parametrize("case", GUIDERS)
def test_the_guider_guides_each_modality(server: Server, pipeline: JoVAPipeline, case: str) -> None:
    widgets, arguments = GUIDERS[case]
    graph = TalkingGraph()
    result = run_graph(server, graph, graph.guide(STEPS, **widgets), pipeline)
    check_round_off(case, result, pipeline, **arguments)


def test_the_second_output_of_the_sampler_is_whole(server: Server, pipeline: JoVAPipeline) -> None:
    graph = TalkingGraph()
    node, _ = graph.guide(STEPS, cfg=1.5)
    result = run_graph(server, graph, [node, 1], pipeline)
    check_parity("second output of SamplerCustomAdvanced", result, pipeline)


def test_picture_and_sound_have_schedules_of_their_own(server: Server, pipeline: JoVAPipeline) -> None:
    own = pipeline.scheduler
    graph = TalkingGraph()
    graph.model = [graph.add("JovaSampleShift", model=graph.model, shift=2.0, audio_shift=1.0), 0]
    result = run_graph(server, graph, graph.sample(STEPS), pipeline)
    pipeline.scheduler = FlowMatchAudioVideoScheduler(shift=2.0, audio_shift=1.0)
    try:
        check_parity("audio shift 1 beside shift 2", result, pipeline)
    finally:
        pipeline.scheduler = own


KINDS = [name for name in loras() if name != "stranger"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_of_every_layout_does_what_peft_does(server: Server, pipeline: JoVAPipeline, kind: str) -> None:
    graph = TalkingGraph()
    inputs = {"lora": f"{kind}.safetensors", "strength": 1.0, "audio_strength": 1.0, "skip_unknown": False}
    graph.model = [graph.add("JovaLoraLoader", model=graph.model, **inputs), 0]
    result = run_graph(server, graph, graph.sample(2), pipeline)
    file = server.folder / "models" / "loras" / f"{kind}.safetensors"
    pipeline.load_lora_weights(str(file), adapter_name="tried")
    try:
        check_parity(f"adapter, {kind}", result, pipeline, 2)
    finally:
        pipeline.delete_adapters("tried")


def test_half_an_adapter_is_half_for_each_modality(server: Server, pipeline: JoVAPipeline) -> None:
    graph = TalkingGraph()
    inputs = {"lora": "diffusers.safetensors", "strength": 0.5, "audio_strength": 0.25, "skip_unknown": False}
    graph.model = [graph.add("JovaLoraLoader", model=graph.model, **inputs), 0]
    result = run_graph(server, graph, graph.sample(2), pipeline)
    pipeline.load_lora_weights(str(server.folder / "models/loras/diffusers.safetensors"), adapter_name="tried")
    pipeline.set_adapters("tried", {"transformer": {"video": 0.5, "audio": 0.25}})
    try:
        check_parity("adapter at 0.5 and 0.25", result, pipeline, 2)
    finally:
        pipeline.delete_adapters("tried")


def test_cores_own_node_loads_the_comfy_layout(server: Server, pipeline: JoVAPipeline) -> None:
    graph = TalkingGraph()
    inputs = {"lora_name": "comfy.safetensors", "strength_model": 0.5}
    graph.model = [graph.add("LoraLoaderModelOnly", model=graph.model, **inputs), 0]
    result = run_graph(server, graph, graph.sample(2), pipeline)
    pipeline.load_lora_weights(str(server.folder / "models/loras/comfy.safetensors"), adapter_name="tried")
    pipeline.set_adapters("tried", 0.5)
    try:
        check_parity("adapter by LoraLoaderModelOnly", result, pipeline, 2)
    finally:
        pipeline.delete_adapters("tried")


def test_the_model_is_as_it_was_once_an_adapter_is_gone(server: Server, pipeline: JoVAPipeline) -> None:
    graph = TalkingGraph()
    check_parity("adapter taken out", run_graph(server, graph, graph.sample(2), pipeline), pipeline, 2)


def test_an_adapter_of_another_model_is_an_error(server: Server) -> None:
    graph = TalkingGraph()
    inputs = {"lora": "stranger.safetensors", "strength": 1.0, "audio_strength": 1.0, "skip_unknown": False}
    graph.model = [graph.add("JovaLoraLoader", model=graph.model, **inputs), 0]
    graph.save(graph.sample(1), "never")
    with pytest.raises(PromptError, match=r"nowhere\.to_q"):
        server.run(graph)


@pytest.mark.parametrize("name", ["towers", "voices"])
def test_other_transformers_are_models_too(server: Server, name: str) -> None:
    pipeline = JoVAPipeline.from_pretrained(server.folder / "models" / "diffusers" / name, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    graph = TalkingGraph(name)
    words = {"video": "a dog", "audio": "a bark", "transcript": "wow"}  # their tokens are letters, and few
    graph[graph.positive[0]]["inputs"].update(words)
    given: dict[str, Any] = {"prompt": JoVAPrompt(**words)}
    if name == "voices":
        graph.positive = [graph.add("JovaVoices", positive=graph.positive, speaker_embeds="voices.npy"), 0]
        given["speaker_embeds"] = torch.from_numpy(np.load(server.folder / "input" / "voices.npy"))
        given["audio_speaker_scale"] = 2.0
        samples = graph.guide(2, cfg=1.5, voices=2.0)
    else:
        samples = graph.sample(2)
    graph.keep(samples, "parity")
    result = kept(server, server.run(graph), pipeline)
    shapes = [list(result["video"].shape), list(result["audio"].transpose(1, 2).shape)]
    check_parity(f"tiny model, {name}", result, pipeline, 2, **noise(shapes), **given)


def test_a_transformer_in_one_file_is_the_same_model(server: Server, pipeline: JoVAPipeline) -> None:
    file = server.folder / "models" / "diffusion_models" / "tiny.safetensors"
    convert(["single_file", str(model_folder("jova-tiny") / "transformer"), str(file)])
    graph = TalkingGraph()
    inputs = {"file": "tiny.safetensors", "pipeline": "jova-tiny", "dtype": "fp32"}
    graph.model = [graph.add("JovaDiffusionModelLoader", **inputs), 0]
    check_parity("single file", run_graph(server, graph, graph.sample(2), pipeline), pipeline, 2)


def test_blocks_in_8_bits_are_near(server: Server, pipeline: JoVAPipeline) -> None:
    graph = TalkingGraph(dtype="fp8_e4m3fn")
    result, reference = run_graph(server, graph, graph.sample(STEPS), pipeline), ask(pipeline)
    errors = [relative_error(result["video"], reference.frames), relative_error(result["audio"], reference.audio)]
    print("fp8", errors)
    assert min(errors) > 1e-3
    assert max(errors) < 0.3  # three bits of mantissa; a wrong scale would be beyond 1


# --- whole videos ---


def test_the_mp4_holds_the_pipelines_clip(server: Server, pipeline: JoVAPipeline) -> None:
    graph = TalkingGraph()
    graph.save(graph.sample(STEPS), "clip")
    (file,) = server.files(server.run(graph))
    clip, latents = media.read_video(file), ask(pipeline)
    assert read_provenance(file)["digital_source_type"] == SOURCE_TYPES["trainedAlgorithmicMedia"]
    reference = pipeline(
        JoVAPrompt(**SPEAKER), negative_prompt="", guidance_scale=1.5, num_inference_steps=STEPS, output_type="np",
        **noise(TINY),
    )  # fmt: skip
    assert clip.frame_rate == Fraction(16)
    assert clip.frames.shape == reference.frames[0].shape
    difference = clip.frames.astype(np.float32) - 255 * reference.frames[0]
    assert np.sqrt(np.square(difference).mean()) < 8  # of 255: H.264 with half the colours
    assert latents.audio.shape[1] == TINY[1][2]
    assert clip.audio is not None
    assert clip.audio.shape[0] == 2
    assert abs(clip.audio.shape[1] - reference.audio.shape[2]) <= 1024  # a frame of AAC
    np.testing.assert_allclose(clip.audio[0], clip.audio[1], atol=0.05)  # AAC codes them apart
    loudness = np.sqrt(np.square(clip.audio).mean()) / np.sqrt(np.square(reference.audio).mean())
    assert 0.9 < loudness < 1.1  # mono would be 3 dB quieter: 0.71


def test_cores_own_decoders_and_savers_work_alone(server: Server, pipeline: JoVAPipeline) -> None:
    graph = TalkingGraph()
    text = graph.add("CLIPTextEncode", clip=graph.clip, text="a cartoon dog barks")
    samples = graph.sample(STEPS, positive=[text, 0])
    images = graph.add("VAEDecode", samples=samples, vae=graph.vae)
    sound = graph.add("VAEDecodeAudio", samples=samples, vae=graph.audio_vae)
    video = graph.add("CreateVideo", images=[images, 0], audio=[sound, 0], fps=16.0)
    graph.add("SaveVideo", video=[video, 0], filename_prefix="core", format="auto", codec="auto")
    (file,) = server.files(server.run(graph))
    clip = media.read_video(file)
    reference = pipeline(
        "a cartoon dog barks", negative_prompt="", guidance_scale=1.5, num_inference_steps=STEPS, output_type="np",
        **noise(TINY),
    )  # fmt: skip
    difference = clip.frames.astype(np.float32) - 255 * reference.frames[0]
    assert np.sqrt(np.square(difference).mean()) < 8
    assert clip.sampling_rate == 16000


def test_a_broadcast_rate_stays_exact_and_the_sound_fits_the_frames(server: Server) -> None:
    graph = TalkingGraph(frame_rate=23.976, length=9)
    clock = graph.add("JovaConditioning", positive=graph.positive, negative=graph.negative, latent=graph.latent)
    graph.save(graph.sample(1, positive=[clock, 0], negative=[clock, 1]), "ntsc")
    (file,) = server.files(server.run(graph))
    clip = media.read_video(file)
    assert clip.frame_rate == Fraction(24000, 1001)
    assert len(clip.frames) == 9
    assert clip.audio is not None
    assert abs(clip.audio.shape[1] - 9 / 23.976 * 16000) <= 1024


def test_a_clip_as_long_as_a_voice_returns_it_as_it_was(server: Server) -> None:
    graph = TalkingGraph()
    audio = [graph.add("LoadAudio", audio="start.wav"), 0]
    graph[graph.latent[0]]["inputs"]["audio"] = audio
    given = graph.add("JovaSetAudio", latent=graph.latent, audio_vae=graph.audio_vae, audio=audio)
    graph.save(graph.sample(1, latent_image=[given, 0]), "voice")
    (file,) = server.files(server.run(graph))
    clip = media.read_video(file)
    assert len(clip.frames) == 17  # 4k + 1 frames that hold one second at 16
    assert clip.audio is not None
    sound, written = voice(1.0) / 32768, clip.audio[0, :16000]
    assert np.corrcoef(sound, written)[0, 1] > 0.98  # AAC; through codec and vocoder it is below 0.7
    assert read_provenance(file)["digital_source_type"] == SOURCE_TYPES["compositeWithTrainedAlgorithmicMedia"]


def test_a_clip_with_given_frames_says_that_some_of_it_was_recorded(server: Server) -> None:
    graph = TalkingGraph()
    image = [graph.add("LoadImage", image="portrait.png"), 0]
    given = graph.add("JovaSetVideo", latent=graph.latent, vae=graph.vae, images=image, fit="cover")
    graph.save(graph.sample(1, latent_image=[given, 0]), "frames")
    (file,) = server.files(server.run(graph))
    assert read_provenance(file)["digital_source_type"] == SOURCE_TYPES["compositeWithTrainedAlgorithmicMedia"]


def test_one_node_does_it_all(server: Server, pipeline: JoVAPipeline) -> None:
    graph = Graph()
    widgets = {"width": 0, "height": 0, "length": 0, "frame_rate": 0.0, "seed": SEED, "steps": STEPS, "cfg": 1.5}
    widgets |= {"audio_cfg": -1.0, "sampler": "euler", "dtype": "fp32", "fit": "cover", "negative": ""}
    node = graph.add("JovaGenerate", model="jova-tiny", **SPEAKER, **widgets)
    graph.add("SaveVideo", video=[node, 0], filename_prefix="one", format="auto", codec="auto")
    (file,) = server.files(server.run(graph))
    reference = pipeline(
        JoVAPrompt(**SPEAKER), guidance_scale=1.5, num_inference_steps=STEPS, output_type="np", **noise(TINY)
    )
    difference = media.read_video(file).frames.astype(np.float32) - 255 * reference.frames[0]
    assert np.sqrt(np.square(difference).mean()) < 8


# --- how it behaves ---


def test_an_interrupt_ends_the_run_and_the_next_one_works(server: Server) -> None:
    graph = TalkingGraph()
    graph.save(graph.sample(500), "long")
    asked = threading.Event()

    def interrupt(event: dict[str, Any]) -> None:
        if event["type"] == "progress" and not asked.is_set():
            asked.set()
            server.post("/interrupt", {})

    result = server.run(graph, interrupt)
    ends = [event["type"] for event in result["events"] if event["type"].startswith("execution_")]
    assert ends[-1] == "execution_interrupted"
    steps = [event["data"]["value"] for event in result["events"] if event["type"] == "progress"]
    assert max(steps) < 100
    again = TalkingGraph()
    again.save(again.sample(1), "after")
    assert server.files(server.run(again))


def test_freed_memory_is_taken_again(server: Server, pipeline: JoVAPipeline) -> None:
    first = TalkingGraph()
    first.save(first.sample(1), "before")
    server.run(first)
    server.post("/free", {"unload_models": True, "free_memory": True})
    graph = TalkingGraph()
    check_parity("after /free", run_graph(server, graph, graph.sample(2), pipeline), pipeline, 2)


def test_the_same_graph_again_runs_no_node(server: Server) -> None:
    graph = TalkingGraph()
    graph.save(graph.sample(1, seed=77), "again")
    assert server.run(graph)["executed"]
    assert not server.run(graph)["executed"]


REFUSED = {
    "width": ({"width": 72}, "must be a positive multiple of 16, got 72"),
    "length": ({"length": 32}, "must be 4k"),
    "frame rate": ({"frame_rate": 24.0}, "connect JoVA Conditioning"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_in_one_sentence(server: Server, case: str) -> None:
    size, message = REFUSED[case]
    graph = TalkingGraph(**size)
    graph.save(graph.sample(1), "never")
    with pytest.raises(PromptError) as caught:
        server.run(graph)
    said = caught.value.details["exception_message"]
    assert message in said
    assert said.strip().count("\n") == 0


WINDOWS = {"context_length": 4, "context_overlap": 1, "context_schedule": "standard_static", "context_stride": 1}
WINDOWS |= {"closed_loop": False, "fuse_method": "pyramid", "dim": 2, "freenoise": False, "causal_window_fix": True}
WINDOWS |= {"cond_retain_index_list": "", "latent_retain_index_list": "", "split_conds_to_windows": False}
SCALES = {"scale_x": 2.0, "scale_y": 1.0, "scale_t": 1.0, "shift_x": 0.0, "shift_y": 0.0, "shift_t": 0.0}
PATCHES: dict[str, tuple[str, dict[str, Any]]] = {
    "patches of attention blocks": ("TomePatchModel", {"ratio": 0.3}),
    "scaled positions": ("ScaleROPE", SCALES),
    "windows of a long clip": ("ContextWindowsManual", WINDOWS),
    "another type to compute in": ("ModelComputeDtype", {"dtype": "bf16"}),
}


@pytest.mark.parametrize("name", PATCHES)
def test_patches_that_the_model_would_not_read_are_refused(server: Server, name: str) -> None:
    node, widgets = PATCHES[name]
    graph = TalkingGraph()
    graph.model = [graph.add(node, model=graph.model, **widgets), 0]
    graph.save(graph.sample(1), "never")
    with pytest.raises(PromptError, match=rf"got {name}.*; remove the node"):
        server.run(graph)


def test_a_seed_beyond_64_bits_is_refused(server: Server) -> None:
    graph = TalkingGraph()
    graph.save(graph.sample(1, seed=2**64), "never")
    with pytest.raises(PromptError, match="failed_validation"):
        server.run(graph)


def test_a_model_that_is_loaded_in_part_predicts_the_same(server: Server) -> None:
    check_partial_loading("jova-tiny", server.folder / "models" / "loras" / "comfy.safetensors", "head.audio")


def check_partial_loading(model: str, adapter: Path, head: str) -> None:
    """Hold a model of which core loads a tenth, with an adapter, to the whole one.

    Args:
        model: Folder or shipped name.
        adapter: File.
        head: Module of the transformer with the last layers of the audio.
    """
    script = ROOT / "tests" / "comfyui" / "partial_loading.py"
    python = os.environ.get("COMFYUI_PYTHON", sys.executable)
    words = [python, str(script), os.environ["COMFYUI_PATH"], str(adapter), model, head]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    result, broken = ended.stdout.split("result ")[1].splitlines()[:2]
    error, num_cast, num_inference = result.split()
    print("partial loading", error, num_cast)
    assert float(error) <= LARGEST_ERROR
    assert int(num_cast) > 0, "every layer fitted: nothing was tested"
    assert int(num_inference) == 0  # weights that can be changed in place, though core runs nodes in inference mode
    assert "the latents of audio must be finite, got NaN or infinity in step 1 of 2" in broken
