"""The work of `jova generate`: one clip, written to its file; `clip_folder.py` makes those of a list."""

import argparse
from typing import Any

import torch

from jova_cli.long_clips import is_long, words_of_a_window
from jova_cli.parser import Parser, one_line

from .clip_call import (
    BAD_INPUT,
    OUT_OF_MEMORY,
    call_arguments,
    check_cost,
    draw_seed,
    given_media,
    has_picture,
    load_pipeline,
    long_clip,
    number_arguments,
    read_credentials,
    tell,
    tell_strangers,
    tell_strangers_of,
)
from .clip_folder import make_clips
from .devices import choose_device
from .processes import ALONE, Processes, joined_processes
from .window_folder import PREVIEW, folder_of, kept_seed


def execute(parser: Parser, args: argparse.Namespace) -> None:
    """Make the clips and write them; bad input ends with one sentence, and nothing half-written is left behind."""
    try:
        by_guidance = args.guidance_parallel > 1
        with joined_processes(args.device, args.context_parallel > 1 or by_guidance, by_guidance) as processes:
            all_there = make_all(args, processes)
    except torch.OutOfMemoryError:
        parser.exit(1, f"{parser.prog}: {OUT_OF_MEMORY}\n")
    except BAD_INPUT as error:
        parser.error(one_line(error))
    if not all_there:
        parser.exit(1)


def make_all(args: argparse.Namespace, processes: Processes) -> bool:
    """Make one clip, or those of a list; returns whether all of them are there."""
    if args.prompts is not None:
        outcomes = make_clips(args, processes)
        # the main process alone fails, since the first that does ends all
        return all(outcome.status != "refused" for outcome in outcomes)
    if is_long(args):
        generate_long(args)
    else:
        generate(args, processes)
    return True


def generate_long(args: argparse.Namespace) -> None:
    """Make one clip window by window, and write it while it is made."""
    number_arguments(args)  # refuses what cannot be before the model is loaded
    device = choose_device(args.device)
    begun = kept_seed(args.output) if args.seed is None else None
    seed = draw_seed(args) if begun is None else begun
    credentials = read_credentials(args)
    given = given_media(args)
    pipeline = load_pipeline(words_of_a_window(args), device, given, is_window=True)
    clip = long_clip(pipeline, args, seed, given)
    tell_strangers_of([line.prompt for line in clip.lines], pipeline, has_picture(args))
    tell(f"seed {seed}; `{folder_of(args.output) / PREVIEW}` shows what is done")

    def announce(index: int, total: int) -> None:
        pipeline.set_progress_bar_config(disable=None, desc=f"window {index + 1} of {total}")

    clip.announce = announce
    args.output.parent.mkdir(parents=True, exist_ok=True)
    clip.save(args.output, metadata=not args.no_metadata, credentials=credentials)
    print(f"wrote {args.output}")


def generate(args: argparse.Namespace, processes: Processes = ALONE) -> None:
    """Make one clip and write it; everything that can be checked is checked before the model is loaded."""
    arguments = call_arguments(args)
    device = choose_device(processes.place(args.device))
    seed = processes.from_main(lambda: draw_seed(args))
    credentials = read_credentials(args)
    pipeline = load_pipeline(args, device, arguments)
    processes.share_clip(pipeline)
    check_cost(pipeline, args, arguments)
    if processes.is_main:
        tell_strangers(pipeline, args)
        tell(f"seed {seed}")
    else:
        pipeline.set_progress_bar_config(disable=True)
    made: Any = pipeline(**arguments, generator=torch.Generator().manual_seed(seed))
    if processes.is_main:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        made.save(args.output, metadata=not args.no_metadata, credentials=credentials)
        print(f"wrote {args.output}")
