"""Time one joint block beside its bare matrix products and attention, in the same run.

    python -m benchmarks.block [--output bench.json] [--repeats N]

The bare work is what no implementation can leave out: every linear layer of the block, and one scaled dot-product
attention over all rows, at the same shapes and in the same number format, forward and backward; it is read off a call
of the block. A ratio of 1 would mean that norms, modulation, rotary embedding, activations and copies are free. Block
and bare work alternate, so that other load on the machine hits both, and medians count.
"""

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.profiler import ProfilerActivity, profile

from benchmarks.random_transformer import Clip, random_inputs, random_transformer


class BlockSize(NamedTuple):
    """Width of a model and the rows that its blocks work on.

    Args:
        heads: Attention heads.
        head_dim: Channels of one head.
        clip: What the rows come from.
        batch_size: Samples.
    """

    heads: int
    head_dim: int
    clip: Clip
    batch_size: int

    def config(self) -> dict[str, Any]:
        """A transformer with one block of each kind."""
        third = self.head_dim // 6 * 2
        return {
            "_class_name": "JoVATransformer3DModel",
            "num_attention_heads": self.heads,
            "attention_head_dim": self.head_dim,
            "rope_axes_dim": (self.head_dim - 2 * third, third, third),
            "num_layers": 1,
            "num_single_layers": 1,
            "text_dim": 64,
            "text_dim_2": None,
        }


# fmt: off
SIZES = {  # parameters of the dual-stream block
    "tiny":  BlockSize(4,  64,  Clip((9, 8, 8), 64, 40, 16.0),   16),   # jova-tiny's,  4.7 M
    "100M":  BlockSize(9,  128, Clip((4, 32, 32), 64, 64, 16.0), 1),    # 96 M
    "1B":    BlockSize(30, 128, Clip((4, 32, 32), 64, 64, 16.0), 1),    # 1.06 B
}
# fmt: on

# parts of the names of operations that do the bare work; everything else is overhead of the block
BARE_OPERATIONS = ("mm", "linear", "attention")
ACTIVATIONS = (F.gelu, F.silu)


class BlockCall(NamedTuple):
    """A block and what its model calls it with.

    Args:
        block: One of the model's repeated blocks.
        arguments: By position; the first are its rows [B, L, D].
        keywords: By name.
    """

    block: nn.Module
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]

    def __call__(self) -> Any:
        """What the block makes of it."""
        return self.block(*self.arguments, **self.keywords)

    def step(self, has_backward: bool) -> None:
        """Forward, and backward on request, of the block."""
        rows = self.arguments[0].detach().requires_grad_(has_backward)
        with torch.set_grad_enabled(has_backward):
            output = self._replace(arguments=(rows, *self.arguments[1:]))()
        if has_backward:
            outputs = output if isinstance(output, tuple) else (output,)  # a tensor for each modality
            torch.autograd.backward(outputs, [torch.ones_like(part) for part in outputs])
            self.block.zero_grad(set_to_none=True)


@torch.no_grad()
def block_calls(
    transformer: Any, inputs: dict[str, Any], kind_of: Callable[[nn.Module], str] | None = None
) -> dict[str, BlockCall]:
    """Run a transformer and catch the call of the first block of each kind.

    Args:
        transformer: Of this package, or of diffusers.
        inputs: Of its forward.
        kind_of: Names the kind of one of its repeated blocks; `kind_of_block` by default.
    """
    kind_of = kind_of or kind_of_block
    calls: dict[str, BlockCall] = {}

    def catch(block: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        keywords = dict(keywords)
        arguments = arguments or (keywords.pop("hidden_states"),)
        calls.setdefault(kind_of(block), BlockCall(block, arguments, keywords))

    blocks = [part for part in transformer.modules() if type(part).__name__ in transformer._repeated_blocks]
    handles = [block.register_forward_pre_hook(catch, with_kwargs=True) for block in blocks]
    transformer(**inputs)
    for handle in handles:
        handle.remove()
    return calls


def kind_of_block(block: Any) -> str:
    """Dual-stream, single-stream or twin; the fusion, of a block of two towers."""
    fusion: str | None = getattr(block, "fusion_kind", None)
    return fusion or {4: "dual-stream", 2: "single-stream", 0: "twin"}[len(getattr(block, "streams", ()))]


class BareWork(TorchFunctionMode):
    """The linear layers and attentions that a call consists of, to be run again on random input of the same shapes.

    Entered, it notes them; `step` runs them alone, forward and on request backward.

    Args:
        has_activations: Whether GELU and SiLU belong to it, which no way of writing a model can leave out either.
    """

    def __init__(self, has_activations: bool = False) -> None:
        super().__init__()
        self.has_activations = has_activations
        self.calls: list[tuple[Callable[..., Tensor], tuple[Tensor | None, ...]]] = []
        self.inputs: dict[Any, Tensor] = {}  # one tensor serves all calls of its shape
        self.flops = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note a linear layer or an attention and run whatever it is."""
        kwargs = kwargs or {}
        if func is F.linear:
            x, weight = args[:2]
            self.calls.append((func, (self.like(x), weight, args[2] if len(args) > 2 else kwargs.get("bias"))))
            self.flops += 2 * x.numel() * weight.shape[0]
        elif func is F.scaled_dot_product_attention:
            given = {**dict(zip(("query", "key", "value"), args, strict=False)), **kwargs}
            query, key, value = (given[name] for name in ("query", "key", "value"))
            self.calls.append((func, (self.like(query), self.like(key, "key"), self.like(value, "value"))))
            self.flops += 4 * query.numel() * key.shape[-2]
        elif self.has_activations and func in ACTIVATIONS:
            self.calls.append((partial(func, **kwargs), (self.like(args[0]),)))
        return func(*args, **kwargs)

    def like(self, tensor: Tensor, role: str = "") -> Tensor:
        """Random values of the shape and format of a tensor."""
        key = (role, tensor.shape, tensor.dtype)
        if key not in self.inputs:
            self.inputs[key] = torch.randn(tensor.shape, dtype=tensor.dtype, device=tensor.device).requires_grad_()
        return self.inputs[key]

    def step(self, has_backward: bool) -> None:
        """Run all of it once."""
        for func, tensors in self.calls:
            with torch.set_grad_enabled(has_backward):
                output = func(*tensors)
            if has_backward:
                needed = [tensor for tensor in tensors if tensor is not None and tensor.requires_grad]
                torch.autograd.grad(output, needed, self.like(output, "gradient").detach())


@torch.no_grad()
def bare_work(call: BlockCall, has_activations: bool = False) -> BareWork:
    """What no implementation of a block can leave out."""
    work = BareWork(has_activations)
    with work:
        call()
    return work


def synchronize(device: str) -> None:
    """Wait for the device."""
    if device == "cuda":
        torch.cuda.synchronize()


def milliseconds(step: Callable[[], object], device: str) -> float:
    """Time of one call: between two events of a GPU, or on the wall."""
    if device == "cuda":
        events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        events[0].record()
        step()
        events[1].record()
        events[1].synchronize()
        return events[0].elapsed_time(events[1])
    start = time.perf_counter()
    step()
    return 1000 * (time.perf_counter() - start)


def compare(steps: Mapping[str, Callable[[], object]], repeats: int, device: str) -> dict[str, float]:
    """Times of several ways, taken in turns, beside the last of them.

    Returns:
        `<way>_ms`, the median time of each, and of each but the last `<way>_ratio`, the median of the ratios to the
        last in the same turn, and `<way>_fastest_ratio`, that of the fastest times.
    """
    for step in steps.values():
        step()  # warm-up
    synchronize(device)
    turns = [{name: milliseconds(step, device) for name, step in steps.items()} for _ in range(repeats)]
    last = list(steps)[-1]
    result = {f"{name}_ms": statistics.median(turn[name] for turn in turns) for name in steps}
    for name in list(steps)[:-1]:
        result[f"{name}_ratio"] = statistics.median(turn[name] / turn[last] for turn in turns)
        fastest = (min(turn[way] for turn in turns) for way in (name, last))
        result[f"{name}_fastest_ratio"] = next(fastest) / next(fastest)
    return result


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


def peak_memory_mb(way: str, name: str, kind: str, device: str, dtype: torch.dtype) -> float:
    """Peak memory of a forward and backward beside its input, weights included, in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure_memory, (way, name, kind, device, dtype))


def _measure_memory(way: str, name: str, kind: str, device: str, dtype: torch.dtype) -> float:
    call = build_call(name, kind, device, dtype)
    work = bare_work(call) if way == "bare" else call
    weights_mb = sum(weight.numel() * weight.element_size() for weight in call.block.parameters()) / 2**20
    if device == "cuda":
        before = torch.cuda.memory_allocated() / 2**20
        torch.cuda.reset_peak_memory_stats()
        work.step(True)
        return torch.cuda.max_memory_allocated() / 2**20 - before + weights_mb
    before = _process_memory_mb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the highest memory so far
    work.step(True)
    return _process_memory_mb("VmHWM") - before + weights_mb


def _process_memory_mb(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def build_call(name: str, kind: str, device: str, dtype: torch.dtype) -> BlockCall:
    """A block with random weights of one of `SIZES`, called as its model calls it."""
    size = SIZES[name]
    transformer = random_transformer(size.config(), device, dtype)
    return block_calls(transformer, random_inputs(transformer, size.clip, size.batch_size, device, dtype))[kind]


def measure(name: str, kind: str, device: str, dtype: torch.dtype, repeats: int) -> dict[str, Any]:
    """All numbers of one block of `SIZES`."""
    call = build_call(name, kind, device, dtype)
    result: dict[str, Any] = {
        "block": f"{name} {kind}",
        **describe(call),
        "device": device if device == "cpu" else torch.cuda.get_device_name(),
        "dtype": str(dtype).removeprefix("torch."),
        **measure_times(call, device, repeats),
    }
    del call  # frees its memory before memory is measured
    for way in ("block", "bare"):
        result[f"{way}_peak_memory_mb"] = peak_memory_mb(way, name, kind, device, dtype)
    return result


def describe(call: BlockCall) -> dict[str, Any]:
    """Weights and rows of a call."""
    parameters = sum(parameter.numel() for parameter in call.block.parameters())
    return {"parameters": parameters, "rows": call.arguments[0].shape[0] * call.arguments[0].shape[1]}


def measure_times(call: BlockCall, device: str, repeats: int) -> dict[str, Any]:
    """Times of the block beside the bare work on the same weights, and where the difference goes."""
    bare = bare_work(call)
    result: dict[str, Any] = {}
    for direction, has_backward in (("forward", False), ("forward_backward", True)):
        steps = {"block": partial(call.step, has_backward), "bare": partial(bare.step, has_backward)}
        result[direction] = compare(steps, repeats, device)
    return result | {"overhead_shares": overhead_shares(partial(call.step, True), device)}


def report(result: dict[str, Any]) -> None:
    """Print one measurement."""
    print(f"\n{result['block']}, {result['parameters'] / 1e6:.1f} M parameters, {result['rows']} rows,", end=" ")
    print(f"{result['dtype']} on {result['device']}")
    for direction in ("forward", "forward_backward"):
        times = result[direction]
        print(f"  {direction:17} block {times['block_ms']:9.2f} ms", end="")
        print(f"   bare {times['bare_ms']:9.2f} ms   ratio {times['block_ratio']:.3f}")
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
            for kind in ("dual-stream", "single-stream"):
                results.append(measure(name, kind, device, dtype, args.repeats))
                report(results[-1])
    args.output.write_text(json.dumps(results, indent=2) + "\n")
    print(f"\nwrote {args.output}")


if __name__ == "__main__":
    main()
