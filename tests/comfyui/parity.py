"""ComfyUI's latents held to those of the pipeline at the same noise, within a bound that no processor decides.

Both are float32, whose round-off a model amplifies, in some clips a hundredfold: the pipeline's own results differ by
as much among each other. Where the two differ by more than `LARGEST_ERROR`, the same run therefore measures how far
the pipeline itself is from a transformer in float64, and that is what they may differ by.
"""

import copy
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from diffusers_jova import JoVAPipeline, JoVAPrompt
from tests.comfyui.graphs import SPEAKER, TalkingGraph
from tests.comfyui.live_server import Server


STEPS = 6  # no divisor of core's thousand levels: our own table must be read
SEED = 5
TINY = [[1, 16, 9, 8, 8], [1, 20, 64]]  # latents of jova-tiny
LARGEST_ERROR = 2e-6  # relative, of the final latents: what a float32 network leaves where it amplifies nothing
LARGEST_RATIO = 2.0  # two results that are each as near to the exact one as the pipeline differ by twice that at most
RESULTS = os.environ.get("COMFYUI_RESULTS")  # a file for the measured errors


# --- latents ---


def noise(shapes: list[list[int]], seed: int = SEED) -> dict[str, Tensor]:
    """The noise that core draws, as arguments of the pipeline: video first, sound as [B, C, L]."""
    generator = torch.manual_seed(seed)
    video, audio = (torch.randn(shape, generator=generator) for shape in shapes)
    return {"latents": video, "audio_latents": audio.transpose(1, 2)}


def kept(server: Server, result: dict[str, Any], pipeline: JoVAPipeline) -> dict[str, Tensor]:
    """Latents that a graph saved, in the form of the pipeline's."""
    found = {
        name: load_file(path)["latent_tensor"]
        for path in server.files(result)
        if path.suffix == ".latent"
        for name in ("video", "audio")
        if f"_{name}_" in path.name
    }
    return {"video": pipeline.video_codec.normalize(found["video"]), "audio": found["audio"].transpose(1, 2)}


def run_graph(server: Server, graph: TalkingGraph, samples: Any, pipeline: JoVAPipeline) -> dict[str, Tensor]:
    """Latents of a sampler."""
    graph.keep(samples, "parity")
    return kept(server, server.run(graph), pipeline)


def ask(pipeline: JoVAPipeline, steps: int = STEPS, **arguments: Any) -> Any:
    """The pipeline's latents of the speaker."""
    given = {"prompt": JoVAPrompt(**SPEAKER), "negative_prompt": "", "guidance_scale": 1.5, **noise(TINY)}
    return pipeline(num_inference_steps=steps, output_type="latent", **{**given, **arguments})


# --- errors ---


def relative_error(result: Tensor, reference: Tensor) -> float:
    return float((result - reference).norm() / reference.norm())


def relative_errors(result: Mapping[str, Tensor], reference: Any) -> dict[str, float]:
    """Of each modality, against what a pipeline returned."""
    found = {"video": reference.frames, "audio": reference.audio}
    return {name: relative_error(latents, found[name]) for name, latents in result.items()}


def report(case: str, errors: dict[str, float]) -> None:
    print(case, *(f"{name} {error:.1e}" for name, error in errors.items()))
    if RESULTS:
        with Path(RESULTS).open("a") as file:
            file.write(json.dumps({"case": case, **errors}) + "\n")


def check_parity(
    case: str, result: dict[str, Tensor], pipeline: JoVAPipeline, steps: int = STEPS, **arguments: Any
) -> None:
    """Hold latents to the pipeline's: within `LARGEST_ERROR`, or else within the pipeline's own round-off."""
    errors = relative_errors(result, ask(pipeline, steps, **arguments))
    if max(errors.values()) <= LARGEST_ERROR:
        report(case, errors)
    else:
        check_round_off(case, result, pipeline, steps, **arguments)


def check_round_off(
    case: str, result: dict[str, Tensor], pipeline: JoVAPipeline, steps: int = STEPS, **arguments: Any
) -> None:
    """Hold latents to the pipeline's and to exact ones, by how far the pipeline's own float32 is from the latter.

    One order of sums may be a lucky one, so the pipeline computes in both that it knows, and from noise that is one
    unit in the last place off as well.

    Args:
        case: What is compared.
        result: Latents of the server.
        pipeline: In float32.
        steps: Of the call.
        arguments: Of all calls.
    """
    starts = {
        **noise(TINY),
        **{name: arguments.pop(name) for name in ("latents", "audio_latents") if name in arguments},
    }
    ways = [
        ask(pipeline, steps, sequential_guidance=is_sequential, **start, **arguments)
        for start in (starts, one_unit_off(starts))
        for is_sequential in (False, True)
    ]
    with in_float64(pipeline):
        exact = ask(pipeline, steps, **starts, **arguments)
    names = {"video": "frames", "audio": "audio"}
    found = [relative_errors({name: getattr(way, names[name]) for name in result}, exact) for way in ways]
    own = {name: max(each[name] for each in found) for name in result}
    errors, exact_errors = relative_errors(result, ways[0]), relative_errors(result, exact)
    report(case, errors)
    report(f"{case}, against float64", exact_errors)
    report(f"{case}, the pipeline against float64", own)
    for name in result:
        allowed = max(LARGEST_ERROR, LARGEST_RATIO * own[name])
        assert max(errors[name], exact_errors[name]) <= allowed, (name, errors, exact_errors, own)


def one_unit_off(starts: Mapping[str, Tensor | None]) -> dict[str, Tensor | None]:
    """Noise with every number rounded the other way."""
    return {
        name: None if start is None else torch.nextafter(start, torch.zeros_like(start))
        for name, start in starts.items()
    }


@contextmanager
def in_float64(pipeline: JoVAPipeline) -> Iterator[None]:
    """Let the transformer, with its adapters, compute in float64."""
    own = pipeline.transformer
    pipeline.transformer = copy.deepcopy(own).to(torch.float64)
    try:
        yield
    finally:
        pipeline.transformer = own
