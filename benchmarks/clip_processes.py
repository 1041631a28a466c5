"""Two processes that work on one clip, a thread each, beside one process with two threads, on the CPU.

    python -m benchmarks.clip_processes

jova-tiny makes its own clip and the longest that it can, in turns: alone, with guidance shared and with rows shared
(its three heads do not divide, so this is `ulysses_anything` in Python). The processes also decode the clip whole,
each for itself, as they would without sharing that.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from diffusers.models._modeling_parallel import ContextParallelConfig
from torch import distributed
from torch.multiprocessing.spawn import start_processes

from benchmarks.sound_cache import table
from diffusers_jova import JoVAPipeline


LENGTHS = (33, 61)  # frames: jova-tiny's own, and the most that it has positions for
NUM_PROCESSES = 2
PROMPT = "A woman speaks in front of a blue background."
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}  # the latter is summed over processes
Times = dict[tuple[str, str], float]  # milliseconds by what was done and by clock


def pipelines(num_processes: int) -> dict[str, JoVAPipeline]:
    """One for each way to make a clip."""
    ways = {name: JoVAPipeline.from_pretrained("jova-tiny") for name in ("alone", "guidance", "rows")}
    for pipeline in ways.values():
        pipeline.set_progress_bar_config(disable=True)
    ways["guidance"].share_guidance()
    config = ContextParallelConfig(ulysses_degree=num_processes, ulysses_anything=True)
    ways["rows"].transformer.enable_parallelism(config=config)
    return ways


@contextmanager
def timed(times: Times, name: str) -> Iterator[None]:
    """Note how long something takes."""
    started = now()
    yield
    times |= {(name, clock): ended - started[clock] for clock, ended in now().items()}


def now() -> dict[str, float]:
    """Milliseconds on each clock."""
    return {name: 1000 * clock() for name, clock in CLOCKS.items()}


def make_clip(pipeline: JoVAPipeline, num_frames: int, num_steps: int | None) -> Times:
    """Make a clip; milliseconds of a step after the first, of decoding the video, and of all."""
    times: Times = {}
    ticks: list[dict[str, float]] = []
    decode = pipeline.decode_latents
    traced: Any = pipeline

    def note_step(*_: Any) -> dict[str, Any]:
        ticks.append(now())
        return {}

    def timed_decode(*args: Any) -> Any:
        with timed(times, "decode"):
            return decode(*args)

    traced.decode_latents = timed_decode
    try:
        with timed(times, "clip"):
            pipeline(
                PROMPT,
                num_frames=num_frames,
                num_inference_steps=num_steps,
                generator=torch.Generator().manual_seed(0),
                callback_on_step_end=note_step,
                output_type="pt",
            )
    finally:
        del traced.decode_latents
    first, last = ticks[0], ticks[-1]
    return times | {("step", clock): (last[clock] - first[clock]) / (len(ticks) - 1) for clock in CLOCKS}


@torch.no_grad()
def decode_whole(pipeline: JoVAPipeline, num_frames: int) -> Times:
    """Decode a clip of the same size without the others."""
    codec, defaults, times = pipeline.video_codec, pipeline.defaults, Times()
    shape = codec.latent_shape(num_frames, defaults.height, defaults.width)
    latents = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    with timed(times, "decode"):
        codec.decode(latents)
    return times


def turn(ways: dict[str, JoVAPipeline], num_frames: int, num_steps: int | None, rank: int) -> dict[str, Times]:
    """Each way once; the first process alone has the threads of all, while the others wait."""
    times = {}
    torch.set_num_threads(NUM_PROCESSES)
    if rank == 0:
        times["alone"] = make_clip(ways["alone"], num_frames, num_steps)
    torch.set_num_threads(1)
    for way in ("guidance", "rows"):
        distributed.barrier()
        times[way] = make_clip(ways[way], num_frames, num_steps)
    distributed.barrier()
    times["each decodes"] = decode_whole(ways["alone"], num_frames)
    everyones: list[dict[str, Times]] = [{} for _ in range(NUM_PROCESSES)]
    distributed.all_gather_object(everyones, times)
    for way in times.keys() - {"alone"}:
        for what in times[way]:
            if what[1] == "processor":
                times[way][what] = sum(one[way][what] for one in everyones)
    return times


def work(rank: int, folder: str, lengths: Sequence[int], repeats: int, num_steps: int | None) -> None:
    """What each process does; the first prints."""
    warnings.simplefilter("ignore")  # torch warns about the collective that diffusers calls
    meeting = f"file://{folder}/meeting"
    distributed.init_process_group("gloo", meeting, timedelta(minutes=30), NUM_PROCESSES, rank)
    ways, rows = pipelines(NUM_PROCESSES), []
    for num_frames in lengths:
        turns = [turn(ways, num_frames, num_steps, rank) for _ in range(repeats + 1)][1:]  # the first warms up
        rows += summary(num_frames, turns) if rank == 0 else []
    if rank == 0:
        text = table(rows)
        Path(folder, "table").write_text(text)
    distributed.destroy_process_group()


def summary(num_frames: int, turns: Sequence[dict[str, Times]]) -> list[dict[str, Any]]:
    """Lines of what is timed: the median alone, and those of the ratios to it in a turn, with that of the fastest."""
    rows = []
    for what in itertools.product(("step", "decode", "clip"), CLOCKS):
        alone = [times["alone"][what] for times in turns]
        row: dict[str, Any] = {"frames": num_frames, "time of a": " by ".join(what)}
        row["alone, ms"] = statistics.median(alone)
        for way in ("guidance", "rows", "each decodes"):
            if what not in turns[0][way]:
                row[way] = ""
                continue
            own = [times[way][what] for times in turns]
            ratio = statistics.median(one / other for one, other in zip(own, alone, strict=True))
            row[way] = f"{ratio:.2f} ({min(own) / min(alone):.2f})"
        rows.append(row)
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a line for each length and what is timed, as times over those of one process with as many threads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--steps", type=int, default=None, help="of a clip; the model's own by default")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, help="frames of the clips")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        arguments = (folder, args.lengths, args.repeats, args.steps)
        start_processes(work, arguments, nprocs=NUM_PROCESSES, start_method="spawn")
        print(Path(folder, "table").read_text())


if __name__ == "__main__":
    main()
