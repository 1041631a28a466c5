"""The work of `jova estimate`: a table of what a clip takes, from the configs of a model."""

import argparse
import sys
from collections.abc import Sequence

import torch

from jova_cli.estimate import check_call
from jova_cli.model_info import format_bytes
from jova_cli.parser import Parser, one_line

from .call_stages import PlannedCall, Stage
from .clip_call import bytes_of, cache_config, call_settings, defaults_of, tell_unseen
from .cost_estimate import in_words, operations_per_second
from .devices import choose_device
from .memory_fitting import fitting_plan
from .memory_plan import MemoryEstimate, MemoryPlan
from .saved_pipeline import SavedPipeline, config_folder, saved_estimate


TERA = 1e12


def execute(parser: Parser, args: argparse.Namespace) -> None:
    """Print the tables; a clip that fits in no way ends with one sentence."""
    try:
        print(f"counted for {args.device}, {dtype_of(args)}, codecs in float32", file=sys.stderr)
        print(describe(args))
    except (ValueError, OSError) as error:
        parser.error(one_line(error))


def dtype_of(args: argparse.Namespace) -> str:
    """Name of the format of transformer and text encoders."""
    return str(args.dtype or ("float32" if args.device == "cpu" else "bfloat16"))


def describe(args: argparse.Namespace) -> str:
    """The stages of the clip by the way that is taken, and the ways that there are."""
    if (folder := str(config_folder(args.model))) != args.model:  # of the hub: not checked before
        args.model = folder
        check_call(args)
    saved = SavedPipeline(args.model)
    dtype = getattr(torch, dtype_of(args))
    tell_unseen(args.lora)
    settings, _ = call_settings(defaults_of(saved, args.lora), args, {}, 1)  # without media
    adapters = bytes_of(args.lora)
    call = PlannedCall(
        settings=settings,
        modalities=tuple(args.modalities),
        given=frozenset(args.given),
        reference_s=args.reference_s,
        num_clips=args.batch_size,
        cache=None if args.cache is None else cache_config(args.cache),
        device=torch.device(args.device),
    )
    estimate = saved_estimate(saved, call, dtype, adapters)
    plan = MemoryPlan()
    if args.memory is not None:
        plan = fitting_plan(
            lambda other: estimate if other is call else saved_estimate(saved, other, dtype, adapters),
            call,
            args.memory,
            "--memory",
        )
    rate = args.rate and args.rate * TERA
    if args.measure_rate:
        config = estimate.transformer.config
        dim = config.num_attention_heads * config.attention_head_dim
        rate = operations_per_second(choose_device(None), dtype, dim)
    lines = [f"{plan}:", stage_table(estimate.peaks(plan), rate)]
    if args.measure_rate:
        lines += ["", in_measured_words(rate, args.device)]
    if args.memory is None:
        lines += ["", plan_table(estimate)]
    return "\n".join(lines)


def in_measured_words(rate: float, meant: str) -> str:
    """A rate of the device at hand, which need not be the one that is meant.

    Args:
        rate: Operations per second.
        meant: Kind of device that the estimate is for.
    """
    at_hand = choose_device(None).type
    other = "" if at_hand == meant else f" on {at_hand}, the device at hand: times are those of it, not of {meant}"
    return f"measured: {rate / TERA:.3g} TFLOPS{other}"


def stage_table(peaks: Sequence[tuple[Stage, int]], rate: float | None) -> str:
    """Lines of the stages: the memory that each holds, weights included, and what it computes.

    Args:
        peaks: Stages with their memory in bytes.
        rate: Operations per second; None tells no times.
    """
    rows = [["stage", "peak memory", "besides weights", "operations", "time at least"]]
    for stage, peak in peaks:
        rows.append([stage.name, format_bytes(peak), format_bytes(stage.held_bytes), *work(stage.operations, rate)])
    most, total = max(peak for _, peak in peaks), sum(stage.operations for stage, _ in peaks)
    rows.append(["whole call", format_bytes(most), "", *work(total, rate)])
    return table([row if rate else row[:-1] for row in rows])


def work(operations: int, rate: float | None) -> list[str]:
    """Operations in words, and the time that they take."""
    return [f"{operations / TERA:,.4g} T", in_words(operations / rate) if rate else ""]


def plan_table(estimate: MemoryEstimate) -> str:
    """Lines of the ways to use the memory that hold less than all before them."""
    rows, least = [["peak memory", "way to use it"]], float("inf")
    for plan in estimate.plans():
        if (peak := estimate.peak_bytes(plan)) < least:
            rows, least = [*rows, [format_bytes(peak), str(plan)]], peak
    return table(rows)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Cells beside each other."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
