"""Time one joint block beside its bare matrix products and attention, in the same run.

    python -m benchmarks.block [--output bench.json] [--repeats N]

The bare work is what no implementation can leave out: every linear layer of the block, and one scaled dot-product
attention over all rows, at the same shapes and in the same number format, forward and backward. A ratio of 1 would
mean that norms, modulation, rotary embedding, activations and copies are free. Block and bare work alternate, and the
fastest repeat of each counts, so that other load on the machine hits both.
"""

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from diffusers_jova.joint_attention import CouplingRun, StreamLengths
from diffusers_jova.temporal_rope import JoVARotaryPosEmbed
from diffusers_jova.transformer_jova import (
    DUAL_STREAMS,
    SINGLE_STREAMS,
    BlockContext,
    JoVATransformerBlock,
    NoiseLevels,
)


class BlockSize(NamedTuple):
    """A block and the rows it works on.

    Args:
        heads: Attention heads.
        head_dim: Channels of one head.
        lengths: Rows of the four streams.
        batch_size: Samples.
    """

    heads: int
    head_dim: int
    lengths: StreamLengths
    batch_size: int


# fmt: off
SIZES = {  # parameters of the dual-stream block
    "tiny":  BlockSize(4,  64,  StreamLengths(144, 40, 64, 40),   16),   # jova-tiny's,  4.7 M
    "100M":  BlockSize(9,  128, StreamLengths(1024, 64, 64, 64),  1),    # 96 M
    "1B":    BlockSize(30, 128, StreamLengths(1024, 64, 64, 64),  1),    # 1.06 B
}
# fmt: on

# parts of the names of operations that do the bare work; everything else is overhead of the block
BARE_OPERATIONS = ("mm", "linear", "attention")


Step = Callable[[bool], None]  # has_backward


def build_block(size: BlockSize, streams: Sequence[str], device: str, dtype: torch.dtype) -> JoVATransformerBlock:
    """A block with random weights, gates included."""
    with torch.device(device):
        block = JoVATransformerBlock(
            streams, size.heads * size.head_dim, size.heads, size.head_dim, fusion="joint", eps=1e-6
        )
    modulation: Any
    for modulation in block.modulation.values():
        nn.init.normal_(modulation.linear.weight, std=0.02)
    return block.to(dtype)


def build_context(size: BlockSize, device: str, dtype: torch.dtype) -> BlockContext:
    """One noise level per sample, coupled, without padding."""
    dim, lengths = size.heads * size.head_dim, size.lengths
    third = size.head_dim // 6 * 2
    rope = JoVARotaryPosEmbed((size.head_dim - 2 * third, third, third), 10000.0)

    def levels(media: int, text: int) -> NoiseLevels:
        temb = torch.randn(size.batch_size, 1, dim, device=device, dtype=dtype)
        indices = (torch.zeros(rows, dtype=torch.long, device=device) for rows in (media, text))
        return NoiseLevels(temb, *indices)

    return BlockContext(
        lengths=lengths,
        levels={
            "video": levels(lengths.video, lengths.video_text),
            "audio": levels(lengths.audio, lengths.audio_text),
        },
        position=torch.randn(sum(lengths), dim, device=device, dtype=dtype),
        rotary_emb=rope(torch.rand(sum(lengths), 3, device=device)),
        coupling=(CouplingRun(True, size.batch_size),),
        attention_mask=None,
    )


def block_step(block: JoVATransformerBlock, size: BlockSize, device: str, dtype: torch.dtype) -> Step:
    """Forward, and backward on request, of the block."""
    context = build_context(size, device, dtype)
    dim = size.heads * size.head_dim
    rows = torch.randn(size.batch_size, sum(size.lengths), dim, device=device, dtype=dtype, requires_grad=True)
    gradient = torch.randn_like(rows)

    def step(has_backward: bool) -> None:
        block.zero_grad(set_to_none=True)
        with torch.set_grad_enabled(has_backward):
            output = block(rows, context)
        if has_backward:
            output.backward(gradient)

    return step


def bare_step(block: JoVATransformerBlock, size: BlockSize, device: str, dtype: torch.dtype) -> Step:
    """Forward, and backward on request, of the block's linear layers and of an attention, each on random input."""
    dim = size.heads * size.head_dim
    products: list[tuple[Any, Tensor]] = []
    for name, rows in size.lengths.rows_of(block.streams).items():
        projections: Any = getattr(block.attn, name)
        feed_forward: Any = block.ff[name].net
        modulation = block.modulation[name].linear
        layers = [projections.to_q, projections.to_k, projections.to_v, projections.to_out[0]]
        for layer in (*layers, feed_forward[0].proj, feed_forward[2]):
            shape = (size.batch_size, rows, layer.in_features)
            products.append((layer, torch.randn(shape, device=device, dtype=dtype, requires_grad=True)))
        temb = torch.randn(size.batch_size, 1, dim, device=device, dtype=dtype, requires_grad=True)
        products.append((modulation, temb))
    shape_of_heads = (size.batch_size, size.heads, sum(size.lengths), size.head_dim)
    query, key, value = (torch.randn(shape_of_heads, device=device, dtype=dtype, requires_grad=True) for _ in range(3))
    gradients = [torch.randn(*x.shape[:-1], layer.out_features, device=device, dtype=dtype) for layer, x in products]
    attention_gradient = torch.randn_like(query)

    def step(has_backward: bool) -> None:
        block.zero_grad(set_to_none=True)
        for (layer, x), gradient in zip(products, gradients, strict=True):
            with torch.set_grad_enabled(has_backward):
                output = layer(x)
            if has_backward:
                output.backward(gradient)
        with torch.set_grad_enabled(has_backward):
            attended = F.scaled_dot_product_attention(query, key, value)
        if has_backward:
            attended.backward(attention_gradient)

    return step


def seconds(step: Callable[[], None], device: str) -> float:
    """Wall time of one call."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def compare(block: Callable[[], None], bare: Callable[[], None], repeats: int, device: str) -> dict[str, float]:
    """Times of block and bare work, taken in turns.

    Returns:
        Fastest time of each in milliseconds, their ratio, and the median of the ratios of neighbouring repeats.
    """
    for step in (block, bare):
        step()  # warm-up
    pairs = [(seconds(block, device), seconds(bare, device)) for _ in range(repeats)]
    fastest = [min(times) for times in zip(*pairs, strict=True)]
    return {
        "block_ms": 1000 * fastest[0],
        "bare_ms": 1000 * fastest[1],
        "ratio": fastest[0] / fastest[1],
        "median_ratio": statistics.median(a / b for a, b in pairs),
    }


def overhead_shares(step: Callable[[], None], device: str) -> dict[str, float]:
    """Share of the block's own time that each operation outside of the bare work takes; the six largest."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    with profile(activities=activities) as profiled:
        step()
    clock = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    # kernels are events too, under names that do not tell matrix products; the operations carry their time
    operations = [event for event in profiled.key_averages() if event.device_type.name == "CPU"]
    times = {event.key: getattr(event, clock) for event in operations}
    total = sum(times.values())
    overhead = {key: value / total for key, value in times.items() if not any(op in key for op in BARE_OPERATIONS)}
    return dict(sorted(overhead.items(), key=lambda item: -item[1])[:6])


def peak_memory_mb(kind: str, name: str, streams: Sequence[str], device: str, dtype: torch.dtype) -> float:
    """Peak memory of a forward and backward, weights included, in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure_memory, (kind, name, tuple(streams), device, dtype))


def _measure_memory(kind: str, name: str, streams: Sequence[str], device: str, dtype: torch.dtype) -> float:
    before = _process_memory_mb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the highest memory so far
    build = block_step if kind == "block" else bare_step
    build(build_block(SIZES[name], streams, device, dtype), SIZES[name], device, dtype)(True)
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return _process_memory_mb("VmHWM") - before


def _process_memory_mb(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def measure(name: str, streams: Sequence[str], device: str, dtype: torch.dtype, repeats: int) -> dict[str, Any]:
    """All numbers of one block."""
    size = SIZES[name]
    result: dict[str, Any] = {
        "block": f"{name} {'dual' if len(streams) == 4 else 'single'}-stream",
        "parameters": sum(parameter.numel() for parameter in build_block(size, streams, "meta", dtype).parameters()),
        "rows": size.batch_size * sum(size.lengths),
        "device": device if device == "cpu" else torch.cuda.get_device_name(),
        "dtype": str(dtype).removeprefix("torch."),
        **measure_times(size, streams, device, dtype, repeats),  # frees its memory before memory is measured
    }
    for kind in ("block", "bare"):
        result[f"{kind}_peak_memory_mb"] = peak_memory_mb(kind, name, streams, device, dtype)
    return result


def measure_times(
    size: BlockSize, streams: Sequence[str], device: str, dtype: torch.dtype, repeats: int
) -> dict[str, Any]:
    """Times of the block beside the bare work on the same weights, and where the difference goes."""
    weights = build_block(size, streams, device, dtype)
    block, bare = (build(weights, size, device, dtype) for build in (block_step, bare_step))
    return {
        "forward": compare(lambda: block(False), lambda: bare(False), repeats, device),
        "forward_backward": compare(lambda: block(True), lambda: bare(True), repeats, device),
        "overhead_shares": overhead_shares(lambda: block(True), device),
    }


def report(result: dict[str, Any]) -> None:
    """Print one measurement."""
    print(f"\n{result['block']}, {result['parameters'] / 1e6:.1f} M parameters, {result['rows']} rows,", end=" ")
    print(f"{result['dtype']} on {result['device']}")
    for direction in ("forward", "forward_backward"):
        times = result[direction]
        print(f"  {direction:17} block {times['block_ms']:9.2f} ms", end="")
        print(f"   bare {times['bare_ms']:9.2f} ms   ratio {times['ratio']:.3f} (median {times['median_ratio']:.3f})")
    block_mb, bare_mb = result["block_peak_memory_mb"], result["bare_peak_memory_mb"]
    print(f"  peak memory       block {block_mb:9.0f} MB   bare {bare_mb:9.0f} MB")
    shares = ", ".join(
        f"{name.removeprefix('aten::')} {share:.1%}" for name, share in result["overhead_shares"].items()
    )
    print(f"  the rest goes to  {shares}")


def main(argv: Sequence[str] | None = None) -> None:
    """Measure every size, on the CPU in float32 and on a GPU, where there is one, in bfloat16."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("bench.json"), help="file to write")
    parser.add_argument("--repeats", type=int, default=5, help="repeats of each measurement")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES), help="blocks to measure")
    args = parser.parse_args(argv)
    targets = [("cpu", torch.float32)] + ([("cuda", torch.bfloat16)] if torch.cuda.is_available() else [])
    results = []
    for device, dtype in targets:
        for name in args.sizes:
            for streams in (DUAL_STREAMS, SINGLE_STREAMS):
                results.append(measure(name, streams, device, dtype, args.repeats))
                report(results[-1])
    args.output.write_text(json.dumps(results, indent=2) + "\n")
    print(f"\nwrote {args.output}")


if __name__ == "__main__":
    main()
