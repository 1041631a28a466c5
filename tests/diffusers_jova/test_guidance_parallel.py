"""Two processes that share the predictions of guidance make the clip that one process makes."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models._modeling_parallel import ContextParallelConfig
from torch import Tensor, distributed

from diffusers_jova import JoVAPipeline, guidance_parallel
from diffusers_jova.cost_estimate import estimate
from tests.processes import start
from tests.tiny_pipeline import build_tiny_pipeline


ROUND_OFF = {"atol": 2e-5, "rtol": 1e-4}  # a batch of one and one of two add up float32 in other orders
CASES: dict[str, dict[str, Any]] = {  # of one, two and three predictions a step; fewer than processes, and more
    "off": {"guidance_scale": 1.0},
    "text": {"guidance_scale": 3.0},
    "text on one step": {"guidance_scale": 3.0, "guidance_interval": (0.5, 1.0)},
    "text and coupling": {"guidance_scale": 3.0, "coupling_scale": 2.0},
    "one after the other": {"guidance_scale": 3.0, "coupling_scale": 2.0, "sequential_guidance": True},
    "a batch": {"guidance_scale": 3.0, "coupling_scale": 2.0, "num_videos_per_prompt": 2},
    "sound alone": {"guidance_scale": 3.0, "modalities": ["audio"]},
}


def tiny() -> JoVAPipeline:
    pipeline = build_tiny_pipeline()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generate(pipeline: JoVAPipeline, case: dict[str, Any]) -> list[Tensor]:
    output = pipeline(
        "a dogs",
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(0),
        output_type="latent",
        **case,
    )
    return [latents for latents in (output.frames, output.audio) if latents is not None]


def turn_guidance_on(pipeline: JoVAPipeline, *_: Any) -> dict[str, Any]:
    pipeline._guidance_scale = 3.0
    return {}


def share_the_work(rank: int, folder: Path) -> None:
    """Worker: every case, with the number of forwards that it took here; each process saves its own."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder / 'meeting'}", timedelta(minutes=5), 2, rank)
    pipeline = tiny()
    settings = pipeline.defaults.override(guidance_scale=3.0, coupling_scale=2.0)
    alone = estimate(pipeline, settings, ("video", "audio"))
    pipeline.share_guidance()
    shared = estimate(pipeline, settings, ("video", "audio"))
    assert shared.memory_bytes < alone.memory_bytes  # two predictions of three
    said: list[str] = []
    guidance_parallel.logger.addFilter(lambda record: said.append(record.getMessage()) or True)
    rows: list[int] = []
    pipeline.transformer.register_forward_pre_hook(
        lambda _module, _args, given: rows.append(len(given["timestep"])), with_kwargs=True
    )
    results = {}
    for name, case in CASES.items():
        rows.clear()
        results[name] = generate(pipeline, case), sum(rows)
    if rank == 0:  # diffusers lets the others be silent
        assert said == ["1 of 2 processes wait: 1 is the most predictions of a step"]
    with pytest.raises(ValueError, match="must differ from 1 when a call begins"):  # on both, so that none waits
        generate(pipeline, {"guidance_scale": 1.0, "callback_on_step_end": turn_guidance_on})
    pipeline.transformer.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2))
    with pytest.raises(ValueError, match="without context parallelism, got both"):
        generate(pipeline, CASES["text"])
    torch.save(results, folder / f"results-{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes made."""
    folder = tmp_path_factory.mktemp("shared")
    start(share_the_work, (folder,))
    return [torch.load(folder / f"results-{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("case", CASES)
def test_two_processes_make_the_clip_of_one(shared: list[dict[str, Any]], case: str) -> None:
    here, there = (results[case][0] for results in shared)
    assert all(torch.equal(one, other) for one, other in zip(here, there, strict=True))
    torch.testing.assert_close(here, generate(tiny(), CASES[case]), **ROUND_OFF)


def test_each_process_makes_its_share_of_the_predictions(shared: list[dict[str, Any]]) -> None:
    made = {case: tuple(results[case][1] for results in shared) for case in CASES}
    assert made == {
        "off": (2, 0),
        "text": (2, 2),
        "text on one step": (2, 1),
        "text and coupling": (4, 2),
        "one after the other": (4, 2),
        "a batch": (8, 4),
        "sound alone": (2, 2),
    }


def test_one_process_alone_has_nobody_to_share_with() -> None:
    with pytest.raises(ValueError, match=r"`torch.distributed` must be initialized to share guidance"):
        tiny().share_guidance()
