"""The words of a clip that is made window by window: a script, or more frames than the model makes at a time."""

import argparse
import copy
from collections.abc import Callable, Sequence
from pathlib import Path

from .latent_lengths import num_frames_until
from .model_clips import index_defaults, read_geometry
from .model_info import INDEX, read_index
from .number_options import check_count
from .parser import Parser
from .script import TEXTS, ScriptRow, read_script, with_silence
from .windows import WindowSize, plan_windows


Check = Callable[[argparse.Namespace], None]
LONG_OPTIONS = ("script", "window_frames", "overlap_frames", "tries")


def add_long_arguments(parser: Parser) -> None:
    """Add what is about clips longer than the model's."""
    group = parser.add_argument_group("clips longer than the model's").add_argument
    group("--script", type=Path, metavar="FILE", help="prompts by their time, .jsonl or .csv")
    group("--window-frames", type=int, help="frames to make at a time, 4k + 1; those of the model's own clips")
    group("--overlap-frames", type=int, help="frames that a window shares with the last; a quarter of it")
    group("--tries", type=int, help="make a window that ends amid words anew, at most so often; 1 if not given")


def is_long(args: argparse.Namespace) -> bool:
    """Whether a clip is made window by window: it has a script, or its frames are too many for the model."""
    if any(getattr(args, name, None) is not None for name in LONG_OPTIONS):  # which the page does not have
        return True
    if args.num_frames is None or "video" not in args.modalities:
        return False
    values, longest, _ = geometry_of(args)
    return values is not None and longest is not None and args.num_frames > longest


def geometry_of(args: argparse.Namespace) -> tuple[dict[str, float] | None, int | None, int]:
    """The model's own clip, the frames of its longest one, None without a limit, and its frames per latent.

    Without the configs of the model here, nothing is known of it.
    """
    folder = Path(args.model)
    if not (folder / INDEX).is_file() or (geometry := read_geometry(folder)) is None:
        return None, None, 1
    values = index_defaults(read_index(folder))
    values |= {} if args.frame_rate is None else {"frame_rate": args.frame_rate}
    limits = geometry.limits_of_call(args.modalities, values["frame_rate"])
    return values, None if limits is None else limits.num_frames, geometry.temporal_factor


def check_no_long_options(args: argparse.Namespace) -> None:
    """Refuse options of long clips beside a list."""
    for name in LONG_OPTIONS:
        if getattr(args, name) is not None:
            option = f"--{name.replace('_', '-')}"
            raise ValueError(f"`{option}` must be used without `--prompts`, got both; make long clips one by one")


def check_long(
    args: argparse.Namespace,
    check_clip: Check,
    check_prompt: Check,
    check_keyframes: Callable[[argparse.Namespace, int], None],
) -> None:
    """Refuse a long clip that shows to be wrong before anything is loaded, and read the rows of its script.

    Args:
        args: The words of a single clip; `script_rows` is added.
        check_clip: Refuses what is wrong with a single clip.
        check_prompt: Refuses what is wrong with its prompt.
        check_keyframes: Refuses pictures that a clip of so many frames has no place for.
    """
    if args.tries is not None:
        check_count("--tries", args.tries)
    if args.video is not None and args.audio is not None:
        raise ValueError(
            f"`--audio` must be left out of a clip made by windows beside `--video`, got {args.audio}; give one of "
            "them"
        )
    if args.audio is not None and (args.tries or 1) > 1:
        raise ValueError(
            f"`--tries` must be 1 beside `--audio`, whose pauses no try moves, got {args.tries}; leave it out"
        )
    if "video" not in args.modalities:
        raise ValueError("`--modalities` must hold video in a clip made by windows, got audio alone; leave it out")
    if max(args.context_parallel, args.guidance_parallel) > 1:
        raise ValueError("a clip made by windows must be made in one process, got several; leave `--*-parallel` out")
    if args.script is None:
        check_prompt(args)
        args.script_rows = [ScriptRow(0.0, None, {name: getattr(args, name) for name in TEXTS})]
    else:
        args.script_rows = read_script(args.script, args, check_prompt)
    ends = not has_media(args) and args.script_rows[-1].end_s is not None
    has_length = args.num_frames is not None or ends
    if not has_length and not has_media(args):
        asked = " and ".join(
            f"`--{name.replace('_', '-')}`" for name in LONG_OPTIONS if getattr(args, name) is not None
        )
        raise ValueError(
            "the length of the clip must be given by `--num-frames` or by the `end` of the last line of its script, "
            f"got neither; give one, or an `--audio` or `--video`, or leave {asked} out for a clip of one window"
        )
    values, _, factor = geometry_of(args)
    num_frames = args.num_frames
    if values is not None and (size := size_of_a_window(args)) is not None and has_length:
        num_frames, rows = lay_out(args, values["frame_rate"], factor)
        plan_windows([row.start_s for row in rows], num_frames, values["frame_rate"], size)
    if num_frames is not None:
        check_keyframes(args, num_frames)
    check_clip(words_of_a_window(args))


def has_media(args: argparse.Namespace) -> bool:
    """Whether a clip has given sound or frames, which are as long as it is."""
    return args.audio is not None or args.video is not None


def size_of_a_window(args: argparse.Namespace) -> WindowSize | None:
    """Frames that are made at a time; None where nothing of the model is known."""
    values, longest, factor = geometry_of(args)
    if values is None:
        return None
    return WindowSize.of_model(int(values["num_frames"]), longest, factor, args.window_frames, args.overlap_frames)


def words_of_a_window(args: argparse.Namespace) -> argparse.Namespace:
    """The words of a single clip that is as long as a window, where that is known."""
    window = copy.copy(args)
    for name, text in args.script_rows[0].texts.items():
        setattr(window, name, text)
    window.last_image, window.keyframe = None, []  # of the whole clip
    size = size_of_a_window(args)
    window.num_frames = None if size is None else size.num_frames
    return window


def lay_out(args: argparse.Namespace, frame_rate: float, factor: int) -> tuple[int, Sequence[ScriptRow]]:
    """The frames of a long clip, and its rows with those that are silent between them.

    Args:
        args: The words, checked.
        frame_rate: Frames per second.
        factor: Frames per latent after the first.
    """
    rows = args.script_rows
    num_frames = args.num_frames
    if num_frames is None:
        num_frames = num_frames_until(rows[-1].end_s, frame_rate, factor)
    return num_frames, with_silence(rows, num_frames, frame_rate, factor)
