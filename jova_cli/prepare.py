"""The words of `jova prepare`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from .clip_arguments import add_clip_arguments, check_clip_arguments, check_data_set, count_files
from .clip_filters import GROUPS, PRESETS, check_networks, check_packages, in_unit, measures, read_filter
from .evaluate import FOLDERS, NETWORKS, option_of
from .given_paths import check_file, check_folder
from .number_options import check_count
from .parser import DTYPES, Parser, dtype_name


UNJUDGED = ("keep", "drop")
OPTIONS = tuple(NETWORKS[group] for group in GROUPS if group in NETWORKS)  # that name networks
NEEDS = {  # what each takes
    "syncnet": "weights of SyncNet, for lse_c, lse_d and the like",
    "clap": "folder of a CLAP of transformers, for clap_score",
    "audiobox": "folder of AudioBox-aesthetics, for the audiobox_ measures",
    "clip_score": "folder of a CLIP of transformers, for clip_score and clip_consistency",
    "synchformer": "weights of Synchformer, for desync_s",
    "raft": "weights of RAFT, for motion_score and motion_score_verse_bench",
}
WORK = "diffusers_jova.training.prepare"
DESCRIPTION = """Prepare a data set: encode video, sound and text of every clip once, into one safetensors record each.

A rerun skips what is done. A broken or unsuitable clip is named and left out. Captions and lists that cannot be read,
and files that they name and that are not there, end the run before anything is done, all of them named. A record is
complete or not there."""
EPILOG = """`--filter` keeps the clips whose measures, those of `jova evaluate`, lie in ranges, the ends included:

  --filter sync_offset_ms=-40..40 speech_share=0.3.. loudness_lufs=-40..-10    one end may be left out
  --filter my.yaml                       the same from a file: lines like `sync_offset_ms: -40..40`, or JSON
  --filter mova silence_share=..0.5      a preset, with one of its ranges replaced

{measures}

`--filter-report` tells how the measures are spread and what the ranges would drop. What was measured is kept in the
output folder: other ranges do not measure again. A clip that a measure cannot judge (no face is seen, say) is kept, or
dropped by `--unjudged drop`; to still images only black_share, sharpness, face_share and face_size apply."""


def parse(argv: Sequence[str] | None = None) -> tuple[Parser, argparse.Namespace]:
    """Read the words, and refuse what cannot work."""
    parser = Parser(kept, prog="jova prepare", description=DESCRIPTION, epilog=EPILOG.format(measures=list_measures()))
    add_clip_arguments(parser)
    parser.add_argument("output", type=Path, help="folder for the records; what is done there is not done again")
    parser.add_argument(
        "--dtype", type=dtype_name, choices=DTYPES, default="bfloat16", help="number format of the records"
    )
    parser.add_argument(
        "--keyframes",
        action="store_true",
        help="store single frames, or for models such as MOVA some among grey ones, as pictures as well, which "
        "training on a last frame or on keyframes needs",
    )
    add_filter_arguments(parser)
    parser.add_argument("--device", help="for the encoders; a GPU of CUDA if there is one, else the CPU")
    parser.add_argument("--num-processes", type=int, default=1, help="processes (or Ray actors) to share the work")
    parser.add_argument("--ray", action="store_true", help="use a Ray cluster, or start a local one")
    return parser, parser.parse_checked(argv, check)


def add_filter_arguments(parser: Parser) -> None:
    """Add what a clip must measure to become a record."""
    add = parser.add_argument
    add("--filter", nargs="+", metavar="RULE", help=f"MEASURE=LOW..HIGH, a YAML or JSON file, or {', '.join(PRESETS)}")
    add("--unjudged", choices=UNJUDGED, default=UNJUDGED[0], help="what becomes of clips that `--filter` cannot judge")
    add("--filter-report", action="store_true", help="measure, tell what `--filter` would drop, and encode nothing")
    for option in OPTIONS:
        add(option_of(option), type=Path, help=f"{NEEDS[option]}, see `jova evaluate --help`")


def given_networks(args: argparse.Namespace) -> dict[str, Path]:
    """The networks that the words name, by their option."""
    return {option: path for option in OPTIONS if (path := getattr(args, option, None)) is not None}


def list_measures() -> str:
    """The measures with what they say, in columns."""
    found = measures()
    width = max(map(len, found))
    lines = []
    for name, measure in found.items():
        option = NETWORKS.get(measure.group)
        needed = "" if option is None else f"; `{option_of(option)}`"
        lines.append(f"  {name:{width}}  {measure.label}, {in_unit(measure)}{needed}")
    return "\n".join(lines)


def kept(args: argparse.Namespace) -> str:
    """What an interrupted run leaves."""
    number = count_files(args.output, "*.safetensors")
    return f"the {number} records in `{args.output}` are complete and are kept, the same command makes the others"


def check(args: argparse.Namespace) -> None:
    """Refuse a folder or a number that cannot work before any work is done."""
    check_count("--num-processes", args.num_processes)
    check_filter(args)
    check_clip_arguments(args)
    if args.output.resolve() == args.source.resolve():
        raise ValueError(f"output must be a folder of its own, got that of the clips, `{args.output}`; choose another")
    check_data_set(args, captions_required=args.whisper is None)


def check_filter(args: argparse.Namespace) -> None:
    """Refuse rules that cannot be, and those whose measures need what is not there."""
    given = given_networks(args)
    rules = read_filter(args.filter or (), given)
    check_networks(rules, given, takes_all=args.filter_report)
    for option, path in given.items():
        if option in FOLDERS:
            check_folder(option_of(option), path, "download a model first")
        else:
            check_file(option_of(option), path)
    check_packages(rules, whisper=args.whisper)
    needs_mouths = [str(rule) for rule in rules if measures()[rule.measure].group in ("sync", "syncnet")]
    if args.no_mouth and needs_mouths:
        raise ValueError(f"`--filter {needs_mouths[0]}` must go without `--no-mouth`, got both; leave one of them out")
    if args.no_mouth and "syncnet" in given:
        raise ValueError("`--syncnet` must go without `--no-mouth`, got both; leave one of them out")
    if args.unjudged != UNJUDGED[0] and not rules:
        raise ValueError(f"`--unjudged {args.unjudged}` must go with `--filter`, got none; give one, or leave it out")
