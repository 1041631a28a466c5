"""The words by which commands that train tell what a training takes, and begin none."""

import argparse

from .clip_limits import Bucket
from .number_options import MEMORY_GB, check_between


DEVICES = ("cuda", "cpu")
FASTEST_TFLOPS = 1e6
OF_THE_ESTIMATE = ("device", "bucket", "rate", "measure_rate")


def add_estimate_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the words."""
    add = parser.add_argument
    add("--estimate", action="store_true", help="tell memory and operations of these settings, load and train nothing")
    add(
        "--memory",
        type=float,
        metavar="GB",
        help="of the device: add what fits first of gradient_checkpointing, blocks_to_swap and quantize, or refuse",
    )
    add("--device", choices=DEVICES, help="kind of device that is meant by --estimate, cuda if not given")
    add(
        "--bucket",
        metavar="FRAMESxHEIGHTxWIDTH",
        help="size of clips that are not prepared yet, whose folder --estimate then need not find",
    )
    add("--rate", type=float, metavar="TFLOPS", help="10^12 operations per second that it does, to tell times")
    add("--measure-rate", action="store_true", help="or measure them, by a product of matrices on the device at hand")


def check_estimate(args: argparse.Namespace) -> None:
    """Refuse words of an estimate without one, and rates that mean nothing; settle the device."""
    given = [f"--{name.replace('_', '-')}" for name in OF_THE_ESTIMATE if getattr(args, name)]
    if given and not args.estimate:
        raise ValueError(f"`{given[0]}` must be given with `--estimate`, got it without; add that, or leave it out")
    if args.bucket is not None:
        Bucket.parse(args.bucket)
    check_between("--memory", args.memory, *MEMORY_GB, "24, say")
    check_between("--rate", args.rate, 1 / FASTEST_TFLOPS, FASTEST_TFLOPS, "400, say")
    if args.rate is not None and args.measure_rate:
        raise ValueError("`--rate` must be given without `--measure-rate`, got both; leave one out")
    args.device = args.device or DEVICES[0]
